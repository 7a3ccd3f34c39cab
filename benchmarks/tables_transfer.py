"""Tables of the transfer benchmark, from benchmarks/results/transfer.json; `tables.py` puts them into the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common import markdown, result, when_run
from intervals import said


@when_run("transfer", "cifar")
def transfer_cifar() -> str:
    """ResNet-20, both ways: accuracy of the transferred and the own policy, and how far they agree."""
    rows = [_cifar_row(row) for row in result("transfer")["cifar"] if "left_out" not in row]
    columns = ("from", "to", "method", "budget", ">transferred", ">own", ">rank correlation", ">equal bits", ">regret")
    return markdown(columns, rows) + "\n" + _notes(result("transfer"))


def _cifar_row(row: dict[str, Any]) -> tuple[str, ...]:
    accuracy = {one["policy"]: _best(one) for one in row["rows"]}
    found = row.get("agreement")
    agreement = ("-", "-", "-") if not found or not found["spearman"] else _agreement(found)
    pair = (accuracy["transferred"], accuracy.get("own", accuracy["transferred"]))
    return (row["source"], row["target"], row["method"], row["budget"].removeprefix("bitops="), *pair, *agreement)


def _best(one: dict[str, Any]) -> str:
    accuracy = one["accuracy"] if one["accuracy"] is not None else one["calibrated_accuracy"]
    return f"{100 * accuracy:.2f} %"


def _agreement(found: dict[str, Any]) -> tuple[str, str, str]:
    share = found["regret"] / abs(found["own_harm"]) if found.get("own_harm") else None
    regret = "-" if share is None else f"{100 * share:.1f} %"
    return _mean(_values(found["spearman"])), f"{100 * found['equal_layers']:.0f} %", regret


def _values(spearman: dict[str, Any]) -> Iterator[float]:
    for side in ("weight", "activation"):
        yield from (value for value in (spearman.get(side) or {}).values() if value is not None)


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    return f"{sum(found) / len(found):.2f}" if found else "-"


def _notes(found: dict[str, Any]) -> str:
    epochs, tuned = found["settings"]["float"]["epochs"], found["settings"]["fine_tune"]["epochs"]
    how = f"after {tuned} epochs of fine-tuning" if tuned else "calibrated only"
    return (
        f"Accuracy on the target's test images, {how}. The Fashion-MNIST network was trained for {epochs} epochs.\n"
        "Rank correlation: Spearman's, mean over sides and bits. Regret: harm of the transferred policy above that\n"
        "of the own one, by the target's own scores, in relation to the latter.\n"
    )


@when_run("transfer", "mobilenet")
def transfer_mobilenet() -> str:
    """MobileNetV2: scores from enlarged CIFAR-10 images against scores from photographs."""
    found, agreements = result("transfer")["mobilenet"], result("transfer")["mobilenet_agreement"]
    measured = result("transfer")["mobilenet_rows"]
    uniform = {row["budget"]: row for row in measured if row["method"] == "uniform"}
    rows = []
    for budget, row in uniform.items():
        rows.append(("uniform", _limit(budget), *[f"{100 * row['accuracy']:.2f} %"] * 2, "-", "-"))
    for method, agreement in agreements.items():
        if "left_out" in agreement:
            continue
        for budget in uniform:
            both = {r["scores_of"]: r for r in measured if r["method"] == method and r["budget"] == budget}
            accuracy = (f"{100 * both[name]['accuracy']:.2f} %" for name in ("cifar10", "photographs"))
            equal = f"{100 * agreement[budget]['equal_share']:.0f} %"
            rows.append((method, _limit(budget), *accuracy, _mean(_values(agreement)), equal))
    errors = said((row["accuracy"] for row in measured), found["images"])
    note = (
        f"Accuracy on {found['images']} photographs, calibrated only; {100 * found['float_accuracy']:.2f} % in float.\n"
        f"{errors}\n"
    )
    left = "".join(f"`{m}` is left out: {a['left_out']}\n" for m, a in agreements.items() if "left_out" in a)
    columns = ("method", "budget", ">scores of CIFAR-10", ">scores of photographs", ">rank correlation", ">equal bits")
    return markdown(columns, rows) + "\n" + note + left


def _limit(budget: str) -> str:
    return budget.removeprefix("bitops=")


TABLES: dict[str, Callable[[], str]] = {
    "transfer_cifar": transfer_cifar,
    "transfer_mobilenet": transfer_mobilenet,
}
