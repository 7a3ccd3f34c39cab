"""The tables in README.md and docs/ that are made from benchmarks/results/: print them, write them, or check them.

    python benchmarks/tables.py [--write | --check]

A page asks for a table by `<!-- table: NAME -->`; everything up to the next `<!-- end of table -->` is made here.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"(?P<head><!-- table: (?P<name>\w+) -->\n).*?(?P<tail><!-- end of table -->)", re.DOTALL)

POLICIES = {
    "uniform": "uniform",
    "limpq": "LIMPQ",
    "limpq-init": "LIMPQ without training",
    "random": "random, 3 draws",
}


def result(name: str) -> dict[str, Any]:
    """A result file."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def markdown(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; columns whose title begins with `>` are aligned right."""
    titles = list(columns)
    lines = ["| " + " | ".join(t.removeprefix(">") for t in titles) + " |"]
    lines.append("| " + " | ".join("---:" if t.startswith(">") else "---" for t in titles) + " |")
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cifar10() -> str:
    """Accuracy of every policy at every budget: mean over the runs, and each run."""
    found = result("cifar10_resnet20")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        kind = "random" if row["policy"].startswith("random") else row["policy"]
        groups.setdefault((row["budget"], kind), []).append(row)
    rows = []
    for budget in sorted({row["budget"] for row in found["rows"]}):
        for kind, label in POLICIES.items():
            runs = groups.get((budget, kind), [])
            rows.append((f"W{budget[0]}A{budget[-1]}", label, *_accuracies(runs)))
    note = (
        f"Float accuracy {100 * found['float_accuracy']:.2f} %. {found['settings']['epochs']} epochs, seeds "
        f"{', '.join(map(str, found['seed']))}; {_missing(groups, found['seed'])}\n"
    )
    columns = ("BitOps of", "policy", ">mean accuracy", "runs", ">BitOps", ">weight kB")
    return markdown(columns, rows) + "\n" + note


def _accuracies(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    if not runs:
        return "-", "not run yet", "-", "-"
    values = [100 * run["accuracy"] for run in runs]
    bitops, size = ({run[key] for run in runs} for key in ("bitops", "weight_bytes"))
    return (
        f"{sum(values) / len(values):.2f} %",
        ", ".join(f"{value:.2f}" for value in values),
        _span([b / 1e6 for b in bitops], "{:.1f} M"),
        _span([b / 1e3 for b in size], "{:.1f}"),
    )


def _span(values: list[float], form: str) -> str:
    texts = sorted({form.format(value) for value in values}, key=lambda t: float(t.split()[0]))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _missing(groups: dict[tuple[str, str], list[dict[str, Any]]], seeds: list[int]) -> str:
    wanted = {"random": 3 * len(seeds)}
    budgets = {budget for budget, _ in groups} | {"2x2", "3x3", "4x4"}
    gone = sum(
        wanted.get(kind, len(seeds)) - len(groups.get((budget, kind), [])) for budget in budgets for kind in POLICIES
    )
    return "no run left out." if gone == 0 else f"{gone} runs are still to be made."


def allocation() -> str:
    """Wall time to the proven optimum, beside HiGHS and CBC in the same run."""
    cases: dict[str, dict[str, str]] = {}
    for row in result("allocation")["rows"]:
        text = f"{1000 * row['median_s']:.1f} ms" + ("" if row["proven"] else ", not proven")
        text += "" if row["excess"] < 1e-9 else f", {100 * row['excess']:.2g} % too much harm"
        cases.setdefault(row["case"], {})[row["solver"]] = text
    solvers = list(next(iter(cases.values())))
    rows = [(case, *(found.get(solver, "-") for solver in solvers)) for case, found in cases.items()]
    return markdown(("case", *(f">{solver}" for solver in solvers)), rows)


def qat() -> str:
    """Least CPU time of a training step, and the median of its ratios to the float step of the same round."""
    found = result("qat_step")
    steps = [*found["eager"].items(), *found["compiled"]["steps"].items()]
    rows = [(name, f"{row['cpu_ms_min']:.0f} ms", f"{row['ratio_in_pairs']:.3f}") for name, row in steps]
    joint = result("limpq_step")["steps"]["joint, six passes"]
    rows.append(("LIMPQ's joint step, six passes", f"{joint['cpu_ms_min']:.0f} ms", f"{joint['ratio_in_pairs']:.3f}"))
    return markdown(("step", ">CPU time", ">ratio"), rows)


def capture() -> str:
    """Layers, MACs and seconds of capture."""
    found = result("capture")["networks"]
    rows = [(n, r["layers"], f"{r['macs']:,}", f"{r['seconds_median']:.2f} s") for n, r in found.items()]
    return markdown(("network", ">layers", ">MACs", ">capture"), rows)


def arena() -> str:
    """Every method at every budget: accuracy, costs, and what its search took."""
    if not (RESULTS / "arena.json").exists():
        return "Not run yet.\n"
    found = result("arena")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault((row["budget"], row["name"]), []).append(row)
    ordered = sorted(
        groups.items(),
        key=lambda group: (group[0][0], -_mean(_percent(group[1], "tuned") or _percent(group[1], "calibrated"))),
    )
    rows = [_arena_row(found["efforts"].get(name, {}), runs) for (_, name), runs in ordered]
    columns = ("budget", "method", ">fine-tuned", ">calibrated", ">BitOps", ">weight kB")
    efforts = (">search CPU", ">images", ">forward", ">backward")
    return markdown((*columns, *efforts), rows) + "\n" + "  \n".join(_arena_notes(found, groups)) + "\n"


def _percent(runs: list[dict[str, Any]], key: str) -> list[float]:
    """Accuracies of the seeds that have one."""
    return [100 * run[key] for run in runs if run[key] is not None]


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _arena_row(effort: dict[str, Any], runs: list[dict[str, Any]]) -> tuple[str, ...]:
    values, costs = _percent(runs, "tuned"), next((run["costs"] for run in runs if run["costs"]), None)
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    calibrated = _percent(runs, "calibrated")
    passes = (effort.get(key) for key in ("images", "forward_images", "backward_images"))
    cpu = effort.get("cpu_seconds")
    return (
        runs[0]["budget"],
        runs[0]["name"] + (" (other toolkit)" if runs[0]["outside"] else ""),
        f"{_mean(values):.2f}{spread} %" if values else "-",
        f"{_mean(calibrated):.2f} %" if calibrated else "-",
        f"{costs['bitops'] / 1e6:.1f} M" if costs else "-",
        f"{costs['weight_bits'] / 8e3:.1f}" if costs else "-",
        "-" if cpu is None else f"{cpu:.2f} s" if cpu < 10 else f"{cpu:.0f} s",
        *("-" if value is None else f"{value:,.0f}" for value in passes),
    )


def _arena_notes(found: dict[str, Any], groups: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterable[str]:
    seeds = ", ".join(map(str, found["seed"]))
    yield (
        f"Float accuracy {100 * found['float_accuracy']:.2f} %. Epochs of fine-tuning: {found['epochs']}; "
        f"seeds: {seeds}; ± is the sample standard deviation over them."
    )
    fewer = sum(1 for runs in groups.values() if len(runs) < len(found["seed"]))
    if fewer:
        yield f"{fewer} of {len(groups)} rows have fewer seeds so far."
    if found["interrupted"]:
        yield f"Searches that were killed and continued, so their effort is too low: {', '.join(found['interrupted'])}."
    yield from _same_bits(groups)
    for (_, name), runs in sorted(groups.items()):
        if runs[0]["reason"]:
            yield f"{name}: {runs[0]['reason'].partition(';')[0]}."


def _same_bits(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterable[str]:
    names: dict[tuple[str, str], list[str]] = {}
    for (budget, name), runs in sorted(groups.items()):
        if runs[0]["bits"]:
            names.setdefault((budget, json.dumps(runs[0]["bits"])), []).append(name)
    for (budget, _), same in names.items():
        if len(same) > 1:
            yield f"Same bits within {budget}, and so one result: {', '.join(same)}."


def peers_search() -> str:
    """CPU time of our searches beside another toolkit's, taken in turns in one run."""
    if not (RESULTS / "peers_search.json").exists():
        return "Not run yet.\n"
    found = result("peers_search")
    rows = []
    for row in found["rows"]:
        label = f"MCT {found['versions']['model-compression-toolkit']}" if row["name"] == "mct" else row["name"]
        if "failure" in row:
            rows.append((label, row["cost"], row["failure"], "-", "-", "-"))
            continue
        ratios = (f"{row[key]:.3f}" for key in ("ratio", "ratio_to_search_alone"))
        rows.append((label, row["cost"], f"{row['cpu_seconds']:.2f} s", *ratios, f"{row['costs']['weight_bytes']:,}"))
    columns = ("search", "needs", ">CPU time", ">of MCT's call", ">of its search alone", ">weight bytes")
    limit = f"Least of {found['rounds']} rounds, one thread; at most {found['limit_bytes']:,.0f} weight bytes.\n"
    return markdown(columns, rows) + "\n" + limit


def peers_qat_step() -> str:
    """CPU time of a QAT step in other toolkits over that of the float step in the same run."""
    if not (RESULTS / "peers_qat_step.json").exists():
        return "Not run yet.\n"
    found = result("peers_qat_step")
    rows = [(name, f"{row['cpu_ms_min']:.0f} ms", f"{row['ratio']:.2f}") for name, row in found["steps"].items()]
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    note = f"Batch {found['batch']}, {found['rounds']} rounds, one thread; {versions}.\n"
    return markdown(("step", ">CPU time", ">ratio"), rows) + "\n" + note


def peers_solver() -> str:
    """ModelOpt's score tables, solved by its own solver and by ours."""
    path = ROOT / "benchmarks" / "peers" / "results" / "modelopt.json"
    if not path.exists():
        return "Not run yet.\n"
    rows = []
    for table in json.loads(path.read_text())["tables"]:
        for row in table["budgets"]:
            theirs, ours = row["modelopt"], row["mixbit"]
            excess = f"{100 * (theirs['objective'] / ours['objective'] - 1):.2g} %" if theirs else "-"
            solved = f"{theirs['bits']:.3f}" if theirs else "none found"
            rows.append((table["batch"], f"{row['asked']:.1f}", solved, f"{ours['bits']:.3f}", excess))
    columns = (">images a batch", ">bits asked for", ">ModelOpt's solver", ">mixbit's", ">too much harm")
    return markdown(columns, rows)


TABLES: dict[str, Callable[[], str]] = {
    "cifar10": cifar10,
    "arena": arena,
    "allocation": allocation,
    "qat": qat,
    "capture": capture,
    "peers_search": peers_search,
    "peers_qat_step": peers_qat_step,
    "peers_solver": peers_solver,
}


def filled(text: str) -> str:
    """A page with all its tables made anew."""
    return MARK.sub(lambda m: f"{m['head']}{TABLES[m['name']]()}{m['tail']}", text)


def pages() -> list[Path]:
    """All pages that ask for a table."""
    candidates = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in candidates if MARK.search(path.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", action="store_true", help="into the pages")
    group.add_argument("--check", action="store_true", help="fail if a page differs")
    arguments = parser.parse_args()
    stale = [path for path in pages() if filled(path.read_text()) != path.read_text()]
    if arguments.write:
        for path in stale:
            path.write_text(filled(path.read_text()))
    elif arguments.check and stale:
        sys.exit(f"stale: {', '.join(map(str, stale))}. Run python benchmarks/tables.py --write.")
    elif not arguments.check:
        for name, make in TABLES.items():
            print(f"## {name}\n\n{make()}")


if __name__ == "__main__":
    main()
