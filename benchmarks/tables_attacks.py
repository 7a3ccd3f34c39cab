"""Tables on attacks, from results/attack_findings.json, attack_policies.json and attack_oracles.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from common import markdown, result, when_run

VARIANTS = ("float", "int16", "int8")


def percent(found: Sequence[float]) -> str:
    """A share with its interval, in percent.

    >>> percent([0.5, 0.45, 0.55])
    '50.0 (45.0 to 55.0)'
    """
    value, low, high = (100 * one for one in found)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def number(found: Sequence[float], digits: int = 3) -> str:
    """A mean with its interval.

    >>> number([0.1, 0.05, 0.2])
    '0.100 (0.050 to 0.200)'
    """
    value, low, high = (f"{one:.{digits}f}" for one in found)
    return f"{value} ({low} to {high})"


def _networks(found: dict[str, Any], part: str) -> Iterator[tuple[str, Any]]:
    yield from found.get(part, {}).items()


def _subjects(found: dict[str, Any]) -> str:
    texts = []
    for name, one in found["subject"].items():
        clean = ", ".join(f"{variant} {100 * one['accuracy'][variant]:.1f}" for variant in VARIANTS)
        texts.append(
            f"{name}: {one['images']} images that all three have right; accuracy on {one['tried']:,} in %: {clean}; "
            f"a step of the int8 input is {max(one['lsb']):.5f}"
        )
    return "; ".join(texts) + ". Intervals of 95 % by bootstrap over images.\n"


@when_run("attack_findings", "threshold")
def attack_threshold() -> str:
    """Errors on the float network's PGD points, radius by radius."""
    found = result("attack_findings")
    rows = [
        (
            network,
            f"{row['radius']:g}",
            f"{row['l2']:.3f}",
            f"{row['l2_snapped']:.3f}",
            *(percent(row["errors"][variant]) for variant in VARIANTS),
        )
        for network, part in _networks(found, "threshold")
        for row in part["rows"]
    ]
    columns = ("network", ">radius", ">L2", ">L2 behind the int8 input", *(f">{one}, errors in %" for one in VARIANTS))
    return markdown(columns, rows) + "\n" + _subjects(found)


@when_run("attack_findings", "ray")
def attack_ray() -> str:
    """How far along the float network's DeepFool ray each variant changes its class."""
    found = result("attack_findings")
    rows = [
        (
            network,
            variant,
            number(part["distance"][variant]),
            number(part["stretch"][variant]),
            percent(part["flipped"][variant]),
        )
        for network, part in _networks(found, "ray")
        for variant in VARIANTS
    ]
    columns = ("network", "variant", ">L2 to the change", ">times float", ">changed by 2.5 times, %")
    return markdown(columns, rows)


@when_run("attack_findings", "near")
def attack_near() -> str:
    """DeepFool on each variant itself."""
    found = result("attack_findings")
    rows = [
        (
            network,
            one["variant"],
            number(one["l2"]),
            percent(one["success"]),
            *(percent(one["on_integers"][variant]) for variant in ("int16", "int8")),
        )
        for network, part in _networks(found, "near")
        for one in part["rows"]
    ]
    columns = ("network", "DeepFool on", ">L2", ">success, %", ">fools int16, %", ">fools int8, %")
    return markdown(columns, rows)


@when_run("attack_findings", "gradients")
def attack_gradients() -> str:
    """Central differences of whole input steps."""
    found = result("attack_findings")
    rows = [
        (
            network,
            row["value"],
            row["k"],
            row["variant"],
            f"{100 * row['zeros']:.1f}",
            f"{100 * row['all_zero']:.1f}",
            f"{row['mean'] / row['exact_mean']:.2f}",
            number(row["cosine"], 2),
            f"{100 * row['sign']:.0f}",
        )
        for network, part in _networks(found, "gradients")
        for row in part["rows"]
    ]
    columns = (
        "network", "gradient of the label's", ">steps", "variant", ">zeros, %", ">images all zero, %",
        ">mean size, times exact float", ">cosine with exact float", ">same sign, %",
    )  # fmt: skip
    return markdown(columns, rows)


@when_run("attack_findings", "layers")
def attack_layers() -> str:
    """Quantization shift: first layer, and the range of the others."""
    found = result("attack_findings")
    rows = []
    for network, part in _networks(found, "layers"):
        for radius in dict.fromkeys(row["radius"] for row in part["rows"]):
            first, *others = [row for row in part["rows"] if row["radius"] == radius]
            reached = [row for row in others if row["images"]]
            ends = [f"{end(row['l2'] for row in reached):.2f}" for end in (min, max)] if reached else ["-"]
            cells = (f"{first['l2']:.2f}", f"{first['linf']:.2f}", f"{100 * first['erased']:.1f}", " to ".join(ends))
            rows.append((network, f"{radius:g}", *cells))
    columns = ("network", ">radius", ">input, L2 ratio", ">input, Linf ratio", ">erased, %", ">other layers, L2 ratio")
    return markdown(columns, rows)


@when_run("attack_policies", "rows")
def attack_policies() -> str:
    """Robustness of policies of equal weight bytes, seed by seed."""
    found = result("attack_policies")
    rows = found["rows"]
    radii = [key for key in rows[0] if key.startswith(("pgd", "square"))]
    cells = [
        (
            row["name"],
            row["seed"],
            f"{100 * row['accuracy']:.2f}",
            *(percent(row[key]) for key in radii),
            number(row["deepfool"]["l2"]),
        )
        for row in sorted(rows, key=lambda row: (row["name"], row["seed"]))
    ]
    names = [f">{key.replace('pgd', 'PGD').replace('square', 'Square')}, %" for key in radii]
    note = "\nRobust accuracy on images that float has right, with intervals of 95 % by bootstrap over images.\n"
    return markdown(("policy", ">seed", ">accuracy, %", *names, ">DeepFool L2"), cells) + note


@when_run("attack_oracles", "rows")
def attack_oracles() -> str:
    """Each attack beside a library's, in turns on the same images."""
    found = result("attack_oracles")
    rows = [
        (
            row["network"],
            row["attack"],
            row["package"],
            row["what"],
            f"{row['ours']:.4g}",
            f"{row['theirs']:.4g}",
            f"{row['cpu_ours']:.3g}",
            f"{row['cpu_theirs']:.3g}",
            f"{row['cpu_theirs'] / row['cpu_ours']:.1f}",
            f"{row['cpu_theirs'] / row['cpu_equal']:.1f}" if row.get("cpu_equal") else "-",
        )
        for row in found["rows"]
    ]
    columns = (
        "network", "attack", "library", "what", ">ours", ">library's", ">CPU s an image", ">library's", ">times",
        ">times, to the library's distance",
    )  # fmt: skip
    return markdown(columns, rows)


TABLES: dict[str, Callable[[], str]] = {
    "attack_threshold": attack_threshold,
    "attack_ray": attack_ray,
    "attack_near": attack_near,
    "attack_gradients": attack_gradients,
    "attack_layers": attack_layers,
    "attack_policies": attack_policies,
    "attack_oracles": attack_oracles,
}
