"""Tables and charts of KURE, from benchmarks/results/kure.json; `tables.py` puts them into the pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import markdown, ran_on, result, when_run
from curves import chart
from intervals import said
from kure_rows import networks, profiles, searches


def _points(sweep: dict[str, Any]) -> dict[str, float]:
    """Label -> accuracy in percent, the model as it is first."""
    points = [sweep["reference"], *sweep["points"]]
    return {point["label"]: 100 * point["accuracy"] for point in points}


def _side_by_side(parts: dict[str, dict[str, float]], title: str) -> str:
    """One row a label that all have, one column a model."""
    labels = [label for label in next(iter(parts.values())) if all(label in part for part in parts.values())]
    rows = [(label, *(f"{part[label]:.2f} %" for part in parts.values())) for label in labels]
    return markdown((title, *(f">{name}" for name in parts)), rows)


def _images(found: dict[str, dict[str, Any]]) -> str:
    images = found["plain"]["steps"]["reference"]["samples"]
    accuracies = [point["accuracy"] for run in found.values() for point in run["bits"]["points"]]
    return f"Top-1 on {images:,} test images, the same ones everywhere, one seed. {said(accuracies, images)}\n"


@when_run("kure", "runs")
def kure_weights() -> str:
    """What the term did to the weights."""
    rows = []
    for network in networks():
        for run in ("plain", "kure"):
            facts = profiles(network)[run]["weights"]
            errors = (f"{100 * facts[f'relative_mse_{bits}']:.3g} %" for bits in (2, 3, 4, 8))
            rows.append((network, run, f"{facts['mean']:.2f}", f"{facts['peak']:.2f}", *errors))
    columns = ("network", "fine-tuning", ">kurtosis", ">max / std", ">error, 2 bits", ">3 bits", ">4 bits", ">8 bits")
    return markdown(columns, rows)


@when_run("kure", "runs")
def kure_ptq() -> str:
    """Accuracy after post-training quantization."""
    parts = {}
    for network in networks():
        parts |= {f"{network}, {run}": _points(profiles(network)[run]["bits"]) for run in ("plain", "kure")}
    return _side_by_side(parts, "weights") + "\n" + _images(profiles(next(iter(networks()))))


@when_run("kure", "runs")
def kure_steps() -> str:
    """Accuracy with scaled steps after post-training quantization at 4 and 3 bits."""
    parts = {}
    for network in networks():
        for run in ("plain", "kure"):
            found = profiles(network)[run]
            parts[f"{network} W4, {run}"] = _points(found["steps"]) | {"powers of two": _first(found["power_of_two"])}
            parts[f"{network} W3, {run}"] = _points(found["steps_w3"])
    return _side_by_side(parts, "step / best step")


def _first(sweep: dict[str, Any]) -> float:
    return 100 * float(sweep["points"][0]["accuracy"])


@when_run("kure", "runs")
def kure_powers() -> str:
    """Steps that are powers of two, and the few numbers of each run."""
    rows = []
    for network in networks():
        for run, found in profiles(network).items():
            one = found["summary"]
            keys = (
                "as_trained",
                "power_of_two",
                "step_mean",
                "step_worst",
                "smaller_steps",
                "larger_steps",
                "bits_area",
            )
            rows.append((network, run, *(f"{100 * one[key]:.2f} %" for key in keys)))
    columns = (
        ">as quantized",
        ">powers of two",
        ">steps, mean",
        ">within 10 %, worst",
        ">smaller steps",
        ">larger steps",
    )
    return markdown(("network", "run", *columns, ">bits, area"), rows)


@when_run("kure", "runs")
def kure_qat() -> str:
    """Weights of the W4A4 runs at other bits."""
    parts = {}
    for network in networks():
        parts |= {f"{network}, {run}": _points(profiles(network)[f"{run}-W4A4"]["bits"]) for run in ("plain", "kure")}
    return _side_by_side(parts, "weight bits")


@when_run("kure", "runs")
def kure_corruption() -> str:
    """Mean accuracy by kind of corruption."""
    rows = []
    for network in networks():
        for run, found in profiles(network).items():
            cells: dict[str, list[float]] = {}
            for cell in found["corruption"]["cells"]:
                cells.setdefault(cell["kind"], []).append(100 * cell["accuracy"])
            rows.append((network, run, *(f"{sum(values) / len(values):.2f} %" for values in cells.values())))
            kinds = list(cells)
    return markdown(("network", "run", *(f">{kind}" for kind in kinds)), rows)


@when_run("kure", "search")
def kure_search() -> str:
    """What the term does to scores and policies."""
    rows = []
    for one in searches():
        values = [x for side in one["spearman"].values() for x in side.values() if x is not None]
        accuracy = (
            f"{100 * one[f'{s} policy on {t} weights']:.2f} %" for t in ("plain", "kure") for s in ("plain", "kure")
        )
        spearman = f"{sum(values) / len(values):.2f}" if values else "-"
        rows.append(
            (one["method"], one["budget"], spearman, f"{100 * one['distance']['equal_share']:.0f} %", *accuracy)
        )
    columns = (
        ">rank correlation",
        ">equal bits",
        ">plain weights, their policy",
        ">the other's",
        ">KURE weights, plain's policy",
    )
    return markdown(("method", "budget", *columns, ">their own"), rows)


@when_run("kure", "cost")
def kure_cost() -> str:
    """CPU time of the term."""
    found = result("kure")["cost"]
    median = (f"{sorted(found[key])[len(found[key]) // 2]:.3g} s" for key in ("step_cpu_s", "term_cpu_s"))
    row = (
        f"ResNet-18 at 224, batch {found['batch']}",
        found["layers"],
        *median,
        f"{100 * found['share_median']:.2f} %",
    )
    rounds = len(found["step_cpu_s"])
    note = f"Median CPU time of {rounds} rounds, in turns, one thread; {ran_on(result('kure'), ['cost'])}.\n"
    return markdown(("step", ">layers", ">float step", ">the term", ">share"), [row]) + "\n" + note


@when_run("kure", "runs")
def kure_curve() -> str:
    """Accuracy over the step of the weights, as a chart."""
    lines = {}
    for bits, key in (("W4", "steps"), ("W3", "steps_w3")):
        for run, mark in (("kure", ""), ("plain", "~")):
            points = [(p["value"], 100 * p["accuracy"]) for p in profiles("resnet20")[run][key]["points"]]
            lines[f"{bits}, {run}{mark}"] = sorted(points)
    return chart(lines, x_title="step / best step", y_title="top-1, %", log=True)


@when_run("kure", "runs")
def kure_bits_curve() -> str:
    """Accuracy of the W4A4 runs over weight bits, as a chart."""
    lines = {}
    for network in networks():
        for run, mark in (("kure", ""), ("plain", "~")):
            points = profiles(network)[f"{run}-W4A4"]["bits"]["points"]
            lines[f"{network}, {run}{mark}"] = sorted((p["value"], 100 * p["accuracy"]) for p in points if p["value"])
    return chart(lines, x_title="weight bits, trained at 4", y_title="top-1, %")


TABLES: dict[str, Callable[[], str]] = {
    "kure_bits_curve": kure_bits_curve,
    "kure_corruption": kure_corruption,
    "kure_cost": kure_cost,
    "kure_curve": kure_curve,
    "kure_powers": kure_powers,
    "kure_ptq": kure_ptq,
    "kure_qat": kure_qat,
    "kure_search": kure_search,
    "kure_steps": kure_steps,
    "kure_weights": kure_weights,
}
