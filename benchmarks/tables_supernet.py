"""Tables of the supernet study, from benchmarks/results/supernet.json; `tables.py` puts them into the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import markdown, result, when_run
from intervals import said

TEST_IMAGES = 10_000
DRAWS = 2_000
"""Of the bootstrap over policies."""


@when_run("supernet", "supernets")
def supernet_uniform() -> str:
    """Uniform members of each supernet, and networks trained alone for as many epochs."""
    found = result("supernet")
    alone = _groups(found.get("dedicated", []), "network", "bits")
    kinds = _groups(found["supernets"], "network", "activations")
    rows = []
    for network in dict.fromkeys(row["network"] for row in found["supernets"]):
        for bits in (2, 3, 4, 5, 6, 8):
            members = [_members(kinds.get((network, kind), []), bits) for kind in ("batchquant", "lsq")]
            own = [100 * row["test"]["accuracy"] for row in alone.get((network, bits), [])]
            rows.append((network, f"W{bits}A{bits}", *map(_spread, (*members, own))))
    columns = ("network", "bits", ">BatchQuant supernet", ">LSQ supernet", ">trained alone")
    return markdown(columns, rows) + "\n" + _notes(found)


def _members(rows: Iterable[dict[str, Any]], bits: int) -> list[float]:
    return [100 * row["uniform"][str(bits)]["test"]["accuracy"] for row in rows if not row["diverged"]]


def _notes(found: dict[str, Any]) -> str:
    seeds = sorted({row["seed"] for row in found["supernets"]})
    diverged = sum(bool(row["diverged"]) for row in found["supernets"])
    errors = said(
        (one["test"]["accuracy"] for row in found["supernets"] for one in row["uniform"].values()), TEST_IMAGES
    )
    return (
        f"Test accuracy in %, mean over seeds {', '.join(map(str, seeds))} and their range where there are several. "
        f"{diverged} of {len(found['supernets'])} supernets diverged.\n{errors}\n"
    )


@when_run("supernet", "ranked")
def supernet_judge() -> str:
    """How far each judge has the order that training alone has: Kendall's tau over policies of one budget."""
    rows = []
    for (network, seed), ranked in _groups(result("supernet")["ranked"], "network", "seed").items():
        truth = [row["test"]["loss"] for row in ranked], [-row["test"]["accuracy"] for row in ranked]
        for name, values in _judges(ranked):
            rows.append((network, seed, len(ranked), name, *(_tau(values, one) for one in truth)))
    columns = ("network", "seed", ">policies", "judge", ">tau with test loss", ">tau with test accuracy")
    return markdown(columns, rows) + (
        "\nKendall's tau-b, with an interval of 95 % by a bootstrap over the policies. 1 is the same order.\n"
    )


def _judges(ranked: Sequence[dict[str, Any]]) -> Iterable[tuple[str, list[float]]]:
    """Name -> a value a policy, of which less is better."""
    for kind in ranked[0]["judged"]:
        yield f"supernet ({kind}), loss", [row["judged"][kind]["loss"] for row in ranked]
        yield f"supernet ({kind}), accuracy", [-row["judged"][kind]["accuracy"] for row in ranked]
    for name in ranked[0]["scores"]:
        yield name, [row["scores"][name] for row in ranked]


def _tau(values: Sequence[float], truth: Sequence[float]) -> str:
    """With its interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.nanpercentile(kendall(values, truth, drawn), [2.5, 97.5])
    return f"{kendall(values, truth, np.arange(len(values))[None])[0]:.2f} ({low:.2f} to {high:.2f})"


def kendall(values: Sequence[float], truth: Sequence[float], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Kendall's tau-b of each draw of rows, NaN where all of one side are equal.

    Args:
        values: `(n,)`.
        truth: `(n,)`.
        drawn: `(draws, n)`, rows of each draw.

    >>> kendall([1, 2, 3, 4], [1, 3, 2, 4], np.array([[0, 1, 2, 3], [0, 0, 3, 3]])).round(3).tolist()
    [0.667, 1.0]
    """
    signs = [np.sign(np.subtract.outer(np.array(one), np.array(one))) for one in (values, truth)]
    one, other = (sign[drawn[:, :, None], drawn[:, None, :]] for sign in signs)
    with np.errstate(invalid="ignore"):
        return np.asarray((one * other).sum((1, 2)) / np.sqrt((one**2).sum((1, 2)) * (other**2).sum((1, 2))))


@when_run("supernet", "equal")
def supernet_equal() -> str:
    """Policies of two budgets after as many epochs in all."""
    found = result("supernet")["equal"]
    rows = []
    for (network, budget, name, start), runs in _groups(found, "network", "budget", "name", "start").items():
        test, loss, held = ([row[of][what] for row in runs] for of, what in _MEASURED)
        rows.append(
            (network, budget, name, start, len(runs), _spread(_percent(test)), _mean(loss), _spread(_percent(held)))
        )
    order = sorted(rows, key=lambda row: (row[0], row[1], -float(str(row[5]).split()[0])))
    columns = ("network", "budget", "policy", "weights of", ">seeds", ">test accuracy", ">test loss", ">held out")
    errors = said((row["test"]["accuracy"] for row in found), TEST_IMAGES)
    return markdown(columns, order) + f"\n{errors} {_paid(result('supernet'))}\n"


def _paid(found: dict[str, Any]) -> str:
    """CPU time of each way to a policy and its weights; of a training that was stopped, what came after.

    >>> row = {"network": "n", "cpu_seconds": 60.0}
    >>> nets, scored = [{**row, "activations": "batchquant"}], [{**row, "name": "fit"}]
    >>> _paid({"supernets": nets, "searches": scored, "equal": [{**row, "cpu_seconds": 90.0}]})
    'CPU minutes of n: the supernet 1, its searches not run yet, scores by fit 1, and a policy of the table 2.'
    """
    told = []
    for (network,), nets in _groups(found["supernets"], "network").items():
        own = [row for row in found.get("searches", []) if row["network"] == network]
        scored = _groups((row for row in own if row["name"] != "evolved"), "name")
        parts = {"the supernet": [row for row in nets if row["activations"] == "batchquant"]}
        parts |= {"its searches": [row for row in own if row["name"] == "evolved"]}
        parts |= {f"scores by {name}": rows for (name,), rows in scored.items()}
        parts |= {"and a policy of the table": [row for row in found["equal"] if row["network"] == network]}
        told.append(f"CPU minutes of {network}: {', '.join(f'{part} {_minutes(of)}' for part, of in parts.items())}.")
    return " ".join(told)


def _minutes(rows: Iterable[dict[str, Any]]) -> str:
    """Of the middle row."""
    took = sorted(row["cpu_seconds"] for row in rows)
    return f"{took[len(took) // 2] / 60:.0f}" if took else "not run yet"


_MEASURED = (("test", "accuracy"), ("test", "loss"), ("held_out", "accuracy"))


def _groups(rows: Iterable[dict[str, Any]], *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by the values of these names, in the order of the file."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def _percent(values: Iterable[float]) -> list[float]:
    return [100 * value for value in values]


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f}"


def _spread(values: Sequence[float]) -> str:
    """The mean, and from which to which.

    >>> _spread([80.0, 81.0]), _spread([80.123]), _spread([])
    ('80.50 (80.00 to 81.00)', '80.12', 'not run yet')
    """
    if not values:
        return "not run yet"
    mean = f"{sum(values) / len(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


TABLES: dict[str, Callable[[], str]] = {
    "supernet_uniform": supernet_uniform,
    "supernet_judge": supernet_judge,
    "supernet_equal": supernet_equal,
}
