"""Tables and the picture of certificates, from benchmarks/results/certification.json; `tables.py` writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common import markdown, ran_on, result, when_run
from curves import chart

FILE = "certification"
BITS = ("float", "W8A8", "W4A4", "W3A3")
MODES = {"irs": "as published", "both": "ours"}
SHOWN = 0.5
"""Sigma of the picture."""


def rows(part: str, **named: Any) -> list[dict[str, Any]]:
    """Of a part, by sigma and bits."""
    found = [row for row in result(FILE).get(part, []) if all(row[name] == value for name, value in named.items())]
    return sorted(found, key=lambda row: (row.get("sigma", 0), BITS.index(row["bits"]) if "bits" in row else 0))


def one(part: str, **named: Any) -> dict[str, Any]:
    """The only row of these names."""
    (found,) = rows(part, **named)
    return found


def right(row: dict[str, Any]) -> dict[int, bool]:
    """Whether an image is right by the smoothed network, by its place."""
    least = _least(row["n"])
    zipped = zip(row["chosen"], row["labels"], row["hits"], strict=True)
    return {at: chosen == label and hits >= least for at, (chosen, label, hits) in enumerate(zipped)}


def _least(n: int, alpha: float = 0.001) -> int:
    """The fewest hits that do not abstain."""
    from mixbit.certification import lower_bound

    hits = np.arange(n + 1)
    return int(np.searchsorted(np.asarray(lower_bound(hits, n, alpha)) > 0.5, True))


def against_float(row: dict[str, Any]) -> tuple[float, float]:
    """Smoothed accuracy less that of float on the same images, in points, and its standard error by pairs."""
    mine, other = right(row), right(one("certified", sigma=row["sigma"], bits="float"))
    gains = np.array([mine[at] - float(other[at]) for at in mine])
    return 100 * float(gains.mean()), 100 * float(gains.std(ddof=1) / len(gains) ** 0.5)


@when_run(FILE, "certified")
def certified() -> str:
    """Certified accuracies and average radii of all networks."""
    lines = []
    for row in rows("certified"):
        (trained,) = rows("trained", sigma=row["sigma"], bits=row["bits"]) or ({"clean": np.nan, "noisy": np.nan},)
        shares = {round(at["radius"] / row["sigma"], 1): at["share"] for at in row["accuracy"]}
        compared = row["bits"] != "float" and rows("certified", sigma=row["sigma"], bits="float")
        away = "{:+.1f} ± {:.1f}".format(*against_float(row)) if compared else ""
        lines.append(
            (
                f"{row['sigma']:g}",
                row["bits"],
                row["images"],
                f"{100 * trained['clean']:.1f}",
                f"{100 * trained['noisy']:.1f}",
                _interval(shares[0.0]),
                away,
                *(f"{100 * shares[at][0]:.1f}" for at in (1.0, 2.0, 3.0)),
                "{:.3f} [{:.3f}, {:.3f}]".format(*row["acr"]),
            )
        )
    columns = (
        "sigma", "network", ">images", ">clean", ">noisy", ">smoothed", ">less float", ">at 1 sigma", ">at 2", ">at 3",
        ">average radius",
    )  # fmt: skip
    found = rows("certified")
    return markdown(columns, lines) + (
        "\nAll accuracies in %. clean and noisy: the network itself, one look at each of the 10,000 test images. "
        f"smoothed: right and certain, by {found[0]['n']:,} samples an image after 100 that choose the class, alpha "
        "0.001; in brackets 95 % over images. less float: on the same images, with the standard error of the pairs. "
        "Integers (with weights for any processor, and the rounding of C) and float in ONNX Runtime.\n"
    )


def _interval(share: Sequence[float]) -> str:
    return f"{100 * share[0]:.1f} [{100 * share[1]:.0f}, {100 * share[2]:.0f}]"


@when_run(FILE, "incremental")
def certified_incremental() -> str:
    """How many fewer passes certificates take that begin with those of float, at the same average radius."""
    kept: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows("incremental"):
        kept.setdefault((row["sigma"], row["bits"], row["mode"]), []).append(row)
    lines = []
    for (sigma, bits, mode), group in kept.items():
        by = {row["samples"]: row for row in group}
        lines.append(
            (
                f"{sigma:g}",
                bits,
                MODES[mode],
                f"{100 * group[0]['differ']:.2f} %",
                *(_once(by.get(few)) for few in (100, 200, 500, 1000)),
                _mean(group),
            )
        )
    columns = ("sigma", "network", "bound", ">differ", ">100 samples", ">200", ">500", ">1000", ">speed-up, mean")
    return markdown(columns, lines) + (
        "\nAverage radius by so many samples of the network, and in brackets how many times as many passes the network "
        "takes that is certified by itself to the same average radius (at an alpha of 0.002, as the sum of both "
        "bounds'). differ: samples on which the network and float name other classes.\n"
    )


def speed_up(row: dict[str, Any]) -> float | None:
    """Passes without an anchor over those with one; None where no number of samples that was taken is enough."""
    return None if row["alone_passes"] is None else row["alone_passes"] / row["passes"]


def mean_speed_up(group: Sequence[dict[str, Any]]) -> float | None:
    """Over the numbers of samples."""
    values = [speed_up(row) for row in group]
    return None if None in values else float(np.mean([value for value in values if value is not None]))


def _once(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    fold = speed_up(row)
    return f"{row['acr']:.3f} ({'not reached' if fold is None else f'{fold:.2f}x'})"


def _mean(group: Sequence[dict[str, Any]]) -> str:
    fold = mean_speed_up(group)
    return "-" if fold is None else f"{fold:.2f}x"


@when_run(FILE, "early")
def certified_early() -> str:
    """Samples until a radius is decided."""
    lines = [
        (
            f"{row['sigma']:g}",
            row["bits"],
            f"{row['radius']:g}",
            f"{100 * row['all_accuracy']:.1f}",
            f"{100 * row['accuracy']:.1f}",
            f"{row['samples'] / row['all_samples']:.3f}",
            f"{row['all_samples'] / row['samples']:.0f}x",
        )
        for row in rows("early")
    ]
    columns = ("sigma", "network", ">radius", ">all samples, %", ">until decided, %", ">share of samples", ">fewer")
    return markdown(columns, lines) + (
        "\nCertified accuracy at the radius by all samples and Clopper and Pearson's bound, and by as many as it "
        "takes, at most as many, and a bound that holds at all times. Samples are of images whose class was right.\n"
    )


@when_run(FILE, "speed")
def certified_speed() -> str:
    """CPU time a pass."""
    found = result(FILE)
    lines = [
        (
            row["bits"],
            "{:.0f} ({:.0f} to {:.0f})".format(*row["forward_us"]),
            "{:.0f} ({:.0f} to {:.0f})".format(*row["certificate_us"]),
            "{:.2f}".format(row["throughput"][0]),
        )
        for row in rows("speed")
    ]
    columns = ("network", ">forward, µs", ">in a certificate, µs", ">share of the throughput")
    note = (
        "CPU time a pass in ONNX Runtime, batches of 64, one thread, in turns: median (least to most); "
        f"{ran_on(found, rows('speed'))}.\n"
    )
    return markdown(columns, lines) + "\n" + note


@when_run(FILE, "integers")
def certified_integers() -> str:
    """The same noise through every runtime."""
    found = {row["on"]: row for row in result(FILE)["integers"]}
    base = found["C"]
    lines = []
    for on, row in found.items():
        away = np.abs(np.subtract(row["hits"], base["hits"]))
        lines.append((on, len(row["hits"]), row["certified"], int(away.sum()), int(away.max())))
    return markdown(("runtime", ">images", ">certified", ">counts unlike C's, sum", ">largest"), lines) + (
        "\nW8A8, sigma 0.5, the same noise: 1,000 samples of each image whose class is right on the first 100, alpha "
        "0.01. For any processor: as `mixbit export` writes it without `--cpu vnni`, some weights on wider steps.\n"
    )


def certified_picture() -> str:
    """Certified accuracy over the radius: a file that pages show."""
    lines = {
        f"{row['bits']}, sigma {row['sigma']:g}{'~' if row['bits'] == 'float' else ''}": [
            (r, 100 * share) for r, share in row["curve"]
        ]
        for row in rows("certified")
        if row["sigma"] == SHOWN
    }
    return chart(lines, x_title="radius in L2, pixels in [0, 1]", y_title="certified accuracy, %")


TABLES: dict[str, Callable[[], str]] = {
    "certified": certified,
    "certified_early": certified_early,
    "certified_incremental": certified_incremental,
    "certified_integers": certified_integers,
    "certified_speed": certified_speed,
}
PICTURES: dict[str, Callable[[], str]] = {"docs/images/certified.svg": certified_picture}
