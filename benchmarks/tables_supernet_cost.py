"""Tables on what supernets cost, from results/supernet_cost.json, and on evolution, from results/evolution.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common import markdown, ran_on, result
from intervals import of_median

KINDS = {"lsq": "LSQ", "batchquant": "BatchQuant"}
NORMS = {"shared": "norms shared", "bits": "a norm a bit-width"}
GOALS = {"steps": "1.10", "switching": "1 ms", "bf16": "2.5 s", "float32": "5 s"}
Cells = tuple[str, ...]


def supernet_cost() -> str:
    """Steps, bytes, switches and judgments, each beside its goal."""
    found = result("supernet_cost")
    parts: dict[str, Callable[[str, dict[str, Any]], Iterable[Cells]]] = {
        "steps": _steps,
        "memory": _memory,
        "switching": _switching,
        "judging": _judging,
    }
    rows = [row for part, of in parts.items() for name, one in found.get(part, {}).items() for row in of(name, one)]
    if not rows:
        return "Not run yet.\n"
    where = _where(ran_on(found, (path for path in found["made_by"] if path.partition(".")[0] in parts)))
    columns = ("what", ">measured", ">ratio", ">95 % interval of the ratio", ">goal")
    return markdown(columns, rows) + f"\nOne thread, CPU time, medians; {where}.\n"


def _where(texts: str) -> str:
    """One processor with its least and its greatest load.

    >>> _where("Xeon, load 4.0; Xeon, load 3.6; EPYC, load 1.0; Xeon, load 5.1")
    'EPYC, load 1.0; Xeon, load 3.6 to 5.1'
    """
    loads: dict[str, set[str]] = {}
    for text in texts.split("; "):
        cpu, _, load = text.rpartition(", load ")
        loads.setdefault(cpu, set()).add(load)
    ends = {cpu: dict.fromkeys((min(of, key=_number), max(of, key=_number))) for cpu, of in sorted(loads.items())}
    return "; ".join(f"{cpu}, load {' to '.join(of)}" for cpu, of in ends.items())


def _number(load: str) -> float:
    return float(load) if load[:1].isdigit() else 0.0


def _named(name: str) -> str:
    """`resnet20, lsq` in words."""
    network, *rest = name.split(", ")
    return ", ".join([network, *(KINDS.get(one, one) for one in rest)])


def _steps(name: str, one: dict[str, Any]) -> Iterator[Cells]:
    for passes in (2, 4):
        times, ratios = one[f"sandwich of {passes}, cpu_ms"], one[f"ratio of {passes}"]
        interval = "{:.2f} to {:.2f}".format(*of_median(ratios))
        what = f"{_named(name)}: a step of {passes} passes, beside {passes} steps of one"
        yield what, f"{statistics.median(times):.0f} ms", f"{statistics.median(ratios):.2f}", interval, GOALS["steps"]


def _memory(name: str, one: dict[str, Any]) -> Iterator[Cells]:
    for norms, words in NORMS.items():
        what = f"{name}: parameters and buffers, {words}, beside the float network's"
        yield what, f"{one[norms] / 1e3:,.1f} kB", f"{one['ratio'][norms]:.3f}", "-", "-"


def _switching(name: str, one: dict[str, Any]) -> Iterator[Cells]:
    for norms, words in NORMS.items():
        what = f"{name}: a switch of {one[norms]['layers']} layers, {words}"
        yield what, f"{one[norms]['ms']:.2f} ms", "-", "-", GOALS["switching"]


def _judging(name: str, one: dict[str, Any]) -> Iterator[Cells]:
    made, measured = one["images"]
    what = f"{_named(name)}: switch, statistics of {made:,} images, evaluation on {measured:,}"
    yield what, f"{one['all']['cpu_s']:.2f} s", "-", "-", GOALS[name.rpartition(", ")[2]]


def evolution() -> str:
    """Hypervolumes of both sides at equal evaluations."""
    found = result("evolution")
    if not found.get("problems"):
        return "Not run yet.\n"
    rows = []
    for name, one in found["problems"].items():
        pairs = [a / b for a, b in zip(one["ours"], one["pymoo"], strict=True)]
        means = [f"{statistics.fmean(one[side]):.4f}" for side in ("ours", "pymoo")]
        interval = "{:.3f} to {:.3f}".format(*of_median(pairs)) if len(pairs) > 1 else "-"
        least = f"{min(pairs):.3f}"
        rows.append((name, one["genes"], one["choices"], len(pairs), *means, f"{one['ratio']:.3f}", interval, least))
    columns = ("problem", ">genes", ">choices", ">seeds", ">ours", ">pymoo's", ">ratio of the means")
    ends = (">95 % interval of the median ratio", ">least ratio")
    return markdown((*columns, *ends), rows)


TABLES: dict[str, Callable[[], str]] = {"evolution": evolution, "supernet_cost": supernet_cost}
