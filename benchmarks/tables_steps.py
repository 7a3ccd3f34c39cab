"""Tables on the time of training steps, from results/qat_step.json, limpq_step.json and peers_qat_step.json.

All of them are medians: of the CPU time over all rounds, and of the ratio over pairs of neighbouring steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import markdown, ran_on, result
from intervals import of_median

COLUMNS = ("step", ">rounds", ">CPU time", ">ratio", ">95 % interval of the ratio")


def ratios(steps: dict[str, dict[str, Any]], name: str) -> list[float]:
    """Of a step's CPU time to that of the float step next to it, round by round; the float step is the first."""
    base = next(iter(steps.values()))["cpu_ms"]
    return [ours / theirs for ours, theirs in zip(steps[name]["cpu_ms"], base, strict=True)]


def _rows(steps: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for place, (name, one) in enumerate(steps.items()):
        low, high = of_median(ratios(steps, name))
        interval = f"{low:.2f} to {high:.2f}" if place else "-"
        rows.append(
            (name, str(len(one["cpu_ms"])), f"{one['cpu_ms_median']:.0f} ms", f"{one['ratio_in_pairs']:.2f}", interval)
        )
    return rows


def qat() -> str:
    """Steps of ResNet-20: eager, compiled, and LIMPQ's joint one, each beside a float step of its kind."""
    found, beside = result("qat_step"), result("limpq_step")
    joint = beside.get("steps", {})
    names = {"float32": "float32, beside the joint step", "joint, six passes": "LIMPQ's joint step, six passes"}
    both = [*_rows(found.get("eager", {})), *_rows(found.get("compiled", {}).get("steps", {}))]
    rows = [*both, *((names[row[0]], *row[1:]) for row in _rows(joint))]
    where = ran_on(found, (path for path in found["made_by"] if path.startswith("eager")))
    note = f"{where}. Joint step: {ran_on(beside, (path for path in beside['made_by'] if path.startswith('steps')))}.\n"
    return markdown(COLUMNS, rows) + "\n" + note if rows else "Not run yet.\n"


def peers_qat_step() -> str:
    """Steps in other toolkits, beside the float step of the same run."""
    found = result("peers_qat_step")
    if not found.get("steps"):
        return "Not run yet.\n"
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    where = ran_on(found, (path for path in found["made_by"] if path.startswith("steps")))
    note = f"Batch {found['batch']}, one thread; {versions}; {where}.\n"
    return markdown(COLUMNS, _rows(found["steps"])) + "\n" + note


def selection() -> str:
    """Steps with one bit-width in the batch and with two, norms shared and a row a bit-width."""
    found = result("selection")
    if not found.get("mixing"):
        return "Not run yet.\n"
    words = {"shared": "norms shared", "bits": "a norm a bit-width"}
    rows = [
        (f"{row[0]}, {words[norms]}", *row[1:])
        for norms, steps in sorted(found["mixing"].items(), reverse=True)
        for row in _rows(steps)
    ]
    switches = [
        (f"switch of ResNet-50, {words[norms]}, {kind}", "", f"{one['ms']:.2f} ms", "", "")
        for norms, kinds in sorted(found.get("switching", {}).items(), reverse=True)
        for kind, one in kinds.items()
    ]
    where = ran_on(found, (path for path in found["made_by"] if path.startswith(("mixing", "switching"))))
    return markdown(COLUMNS, [*rows, *switches]) + f"\n{where}.\n"


def against() -> str:
    """The same work in this tree and in an older commit."""
    found = result("against")
    if not found.get("rows"):
        return "Not run yet.\n"
    columns = ("work", ">rounds", ">ratio", ">least and most")
    rows = [
        (one["workload"], str(one["rounds"]), f"{one['ratio']:.3f}", f"{one['least']:.3f} to {one['most']:.3f}")
        for one in found["rows"]
    ]
    return markdown(columns, rows) + f"\n{ran_on(found, found['rows'])}.\n"


TABLES: dict[str, Callable[[], str]] = {
    "against": against,
    "peers_qat_step": peers_qat_step,
    "qat": qat,
    "selection": selection,
}
