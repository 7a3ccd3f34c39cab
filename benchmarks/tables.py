"""Tables, numbers and pictures of README.md and docs/, made from benchmarks/results/: print, write, or check them.

    python benchmarks/tables.py [--write | --check]

A page asks for a table by `<!-- table: NAME -->`; everything up to the next `<!-- end of table -->` is made here.
Numbers in prose have their keys behind them, see `prose`.
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

import prose
import tables_attacks
import tables_certification
import tables_cpu
import tables_kure
import tables_latency
import tables_mcu
import tables_ptq
import tables_remake
import tables_search
import tables_steps
import tables_supernet
import tables_supernet_cost
import tables_topology
import tables_transfer
from common import RESULTS, ROOT, markdown, ran_on, result, when_run
from intervals import said
from numbers_arena import TEST_IMAGES

MARK = re.compile(r"(?P<head><!-- table: (?P<name>\w+) -->\n).*?(?P<tail><!-- end of table -->)", re.DOTALL)

POLICIES = {
    "uniform": "uniform",
    "limpq": "LIMPQ",
    "limpq-init": "LIMPQ without training",
    "random": "random, 3 draws",
}


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
    seeds = sorted({row["seed"] for row in found["rows"]})
    note = (
        f"Float accuracy {100 * found['float_accuracy']:.2f} %. {found['settings']['epochs']} epochs, seeds "
        f"{', '.join(map(str, seeds))}; {_missing(groups, seeds)}\n"
        f"{said((row['accuracy'] for row in found['rows']), TEST_IMAGES)}\n"
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
    """Wall time to the proven optimum, beside HiGHS and CBC in the same run; of quadratic problems, ours alone."""
    cases: dict[str, dict[str, str]] = {}
    found = result("allocation")
    rounds = max(row["rounds"] for row in found["rows"])
    for row in found["rows"]:
        solver, _, way = row["solver"].partition(", ")
        cases.setdefault(f"{row['case']}{way and ', '}{way}", {})[solver] = _solved(row, rounds)
    solvers = list(dict.fromkeys(solver for cells in cases.values() for solver in cells))
    rows = [(case, *(cells.get(solver, "-") for solver in solvers)) for case, cells in cases.items()]
    note = f"Median wall time of {rounds} rounds, or of as many as stand beside it; {ran_on(found, found['rows'])}.\n"
    return markdown(("case", *(f">{solver}" for solver in solvers)), rows) + "\n" + note


def _solved(row: dict[str, Any], rounds: int) -> str:
    """What one solver did with one problem; without an excess where the optimum is not known."""
    text = f"{1000 * row['median_s']:.1f} ms"
    text += {1: " (once)", rounds: ""}.get(row["rounds"], f" ({row['rounds']} rounds)")
    text += "" if row["proven"] else ", not proven"
    if "objective" not in row:
        return f"{text}, nothing found"
    return text + (f", {100 * row['excess']:.2g} % too much harm" if (row["excess"] or 0) >= 1e-9 else "")


def capture() -> str:
    """Layers, MACs and seconds of capture."""
    found = result("capture")["networks"]
    rows = [(n, r["layers"], f"{r['macs']:,}", f"{r['seconds_median']:.2f} s") for n, r in found.items()]
    where = ran_on(result("capture"), (f"networks.{name}" for name in found))
    note = f"Capture: median wall time of {result('capture')['runs']} runs; {where}.\n"
    return markdown(("network", ">layers", ">MACs", ">capture"), rows) + "\n" + note


def arena(name: str = "arena") -> str:
    """Every method at every budget: accuracy, costs, and what its search took."""
    if not (RESULTS / f"{name}.json").exists():
        return "Not run yet.\n"
    found = result(name)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault((row["budget"], row["name"]), []).append(row)
    ordered = sorted(
        groups.items(),
        key=lambda group: (group[0][0], -_mean(_percent(group[1], "tuned") or _percent(group[1], "calibrated"))),
    )
    rows = [_arena_row(found["efforts"].get(name, {}), runs) for (_, name), runs in ordered]
    columns = ("budget", "method", ">seeds", ">fine-tuned", ">calibrated", ">BitOps", ">weight kB")
    efforts = (">search CPU", ">images", ">forward", ">backward")
    return markdown((*columns, *efforts), rows) + "\n" + "  \n".join(_arena_notes(found, groups)) + "\n"


def arena_tuned() -> str:
    """The same after fine-tuning, for the methods that were fine-tuned."""
    return arena("arena_tuned")


def _percent(runs: list[dict[str, Any]], key: str) -> list[float]:
    """Accuracies of the seeds that have one."""
    return [100 * run[key] for run in runs if run[key] is not None]


def _shares(runs: list[dict[str, Any]], key: str) -> list[float]:
    return [value / 100 for value in _percent(runs, key)]


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _arena_row(effort: dict[str, Any], runs: list[dict[str, Any]]) -> tuple[object, ...]:
    values, costs = _percent(runs, "tuned"), next((run["costs"] for run in runs if run["costs"]), None)
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    calibrated = _percent(runs, "calibrated")
    passes = (effort.get(key) for key in ("images", "forward_images", "backward_images"))
    # That of other toolkits is measured beside ours in `peers_search`, in one run.
    cpu = None if runs[0]["outside"] else effort.get("cpu_seconds")
    return (
        runs[0]["budget"],
        runs[0]["name"] + (" (other toolkit)" if runs[0]["outside"] else ""),
        len(runs) if costs else "-",
        f"{_mean(values):.2f}{spread} %" if values else "-",
        f"{_mean(calibrated):.2f} %" if calibrated else "-",
        f"{costs['bitops'] / 1e6:.1f} M" if costs else "-",
        f"{costs['weight_bits'] / 8e3:.1f}" if costs else "-",
        "-" if cpu is None else f"{cpu:.2f} s" if cpu < 10 else f"{cpu:.0f} s",
        *("-" if value is None else f"{value:,.0f}" for value in passes),
    )


def _arena_notes(found: dict[str, Any], groups: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterable[str]:
    seeds = sorted({row["seed"] for row in found["rows"]})
    yield (
        f"Float accuracy {100 * found['float_accuracy']:.2f} %. Epochs of fine-tuning: {found['epochs']:g}; "
        f"seeds: {', '.join(map(str, seeds))}, of which each row has the first; accuracies are "
        "means over them, ± is their sample standard deviation."
    )
    yield said(
        (x for runs in groups.values() for key in ("tuned", "calibrated") for x in _shares(runs, key)), TEST_IMAGES
    )
    searches = [path for path in found["made_by"] if path.startswith("efforts.")]
    if searches:
        yield f"Search CPU: {ran_on(found, searches)}."
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
    found = result("peers_search")
    if not found.get("rows"):
        return "Not run yet.\n"
    rows = []
    run = next((row["made"] for row in found["rows"] if row["name"] == "mct"), None)
    for row in sorted(found["rows"], key=lambda one: one.get("cpu_seconds", float("inf"))):
        label = f"MCT {found['versions']['model-compression-toolkit']}" if row["name"] == "mct" else row["name"]
        label += "" if row["made"] == run else " (another run)"
        if "failure" in row:
            reason = row["failure"].partition(": ")[2].partition(";")[0]
            rows.append((f"{label}: {reason}", row["cost"], *"----"))
            continue
        ratios = (f"{row[key]:.3f}" for key in ("ratio", "ratio_to_search_alone"))
        rows.append((label, row["cost"], f"{row['cpu_seconds']:.2f} s", *ratios, f"{row['costs']['weight_bytes']:,}"))
    columns = ("search", "needs", ">CPU time", ">of MCT's call", ">of its search alone", ">weight bytes")
    rounds = "One round" if found["rounds"] == 1 else f"Least of {found['rounds']} rounds"
    limit = f"{rounds}, one thread; at most {found['limit_bytes']:,.0f} weight bytes; "
    return markdown(columns, rows) + "\n" + limit + ran_on(found, found["rows"]) + ".\n"


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


def _export(part: str) -> list[dict[str, Any]]:
    """Rows of one part of the export benchmark; none if it was not run."""
    return list(result("export_onnx").get(part, []))


def export_sizes() -> str:
    """Bytes of the file, packed and plain, against the policy's."""
    pairs: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in _export("sizes"):
        pairs.setdefault((row["network"], row["policy"]), {})[row["pack"]] = row
    rows = [
        (
            network,
            policy,
            f"{packs['fields']['policy_bytes']:,}",
            f"{packs['fields']['weight_bytes'] / packs['fields']['policy_bytes']:.4f}",
            f"{packs['fields']['size_bytes']:,}",
            f"{packs['fields']['size_bytes'] / packs['fields']['policy_bytes']:.3f}",
            f"{packs['none']['size_bytes']:,}" if "none" in packs else "-",
        )
        for (network, policy), packs in pairs.items()
        if "fields" in packs
    ]
    columns = ("network", "policy", ">policy, bytes", ">weights in the file", ">packed file, bytes", ">of the policy")
    return markdown((*columns, ">plain file, bytes"), rows) if rows else "Not run yet.\n"


def export_items() -> str:
    """Where the bytes of one file are."""
    chosen = [r for r in _export("sizes") if (r["network"], r["policy"], r["pack"]) == ("resnet20", "W4A4", "fields")]
    rows = [(name, f"{count:,}") for row in chosen for name, count in row["items"].items() if count]
    return markdown(("part of the 4-bit ResNet-20 file", ">bytes"), rows) if rows else "Not run yet.\n"


def export_speed() -> str:
    """CPU time of one inference, float32 beside the two files."""
    rows = [
        (
            row["network"],
            row["policy"],
            f"{row['processor']['cpu']} ({', '.join(row['processor']['flags'])})",
            *(f"{row[kind]['median_ms']:.3f} ms" for kind in ("float32", "none", "fields")),
            f"{row['speedup']:.2f}",
            f"{row['against_plain']:.3f}",
            *(f"{row['session_ms'][kind]:.0f} ms" for kind in ("none", "fields")),
        )
        for row in _export("speed")
    ]
    columns = (
        "network",
        "policy",
        "processor",
        ">float32",
        ">plain",
        ">packed",
        ">packed, times float32's speed",
        ">packed / plain",
    )
    note = f"Medians; {ran_on(result('export_onnx'), _export('speed'))}.\n"
    found = markdown((*columns, ">session, plain", ">session, packed"), rows) + "\n" + note
    return found if rows else "Not run yet.\n"


def export_exact() -> str:
    """Fake-quantized model, reference executor and file on all test images."""
    rows = [
        (
            row["policy"],
            f"{row['images']:,}",
            *(f"{100 * row[key]:.2f} %" for key in ("fake_quantized_accuracy", "reference_accuracy", "file_accuracy")),
            f"{100 * row['top1_agreement']:.2f} %",
            f"{100 * row['identical']:.2f} %",
            f"{row['largest_steps']:.2g}",
            f"{100 * row['fixed_point']['single_agreement']:.1f} %",
            f"{row['size_bytes']:,}",
        )
        for row in _export("exact")
    ]
    columns = ("policy", ">images", ">fake-quantized", ">reference", ">file", ">same class", ">same output")
    ends = (">largest difference, steps", ">same class with fixed-point rounding", ">file, bytes")
    return markdown((*columns, *ends), rows) if rows else "Not run yet.\n"


def peers_export() -> str:
    """ONNX files of other toolkits beside ours: bytes, weights, whether they load, and CPU time over float32."""
    path = ROOT / "benchmarks" / "peers" / "results" / "export.json"
    if not path.exists():
        return "Not run yet.\n"
    found = json.loads(path.read_text())
    failures: list[str] = []
    rows = [_peers_export_row(row, failures) for row in found["rows"]]
    columns = ("network", "bits", "toolkit and call", ">bytes reported", ">bytes written", "weights", "loads")
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    notes = [f"Median of {found['rounds']} rounds, one image, one thread; {versions}; {ran_on(found, found['rows'])}."]
    notes += ["Off by: largest difference to the toolkit's own model in PyTorch, of the largest output."]
    notes += [f"[{number}] {reason}." for number, reason in enumerate(failures, 1)]
    return markdown((*columns, ">off by", ">CPU time", ">speed-up"), rows) + "\n" + "  \n".join(notes) + "\n"


def _peers_export_row(row: dict[str, Any], failures: list[str]) -> tuple[str, ...]:
    """Cells of one file; a new reason for a failure goes to `failures`."""
    loads = "yes" if row["loads"] else "no"
    if "failure" in row:
        reason = row["failure"].removesuffix(".").partition("Load model from ")
        text = reason[0] + reason[2].partition(":")[2] if reason[1] else reason[0]
        if text not in failures:
            failures.append(text)
        loads = f"no [{failures.index(text) + 1}]"
    sizes = (f"{row[key]:,.0f}" if row.get(key) is not None else "-" for key in ("reported_bytes", "file_bytes"))
    timed = (f"{row['median_ms']:.2f} ms", f"{row['speedup']:.2f}") if "median_ms" in row else ("-", "-")
    label = f"{row['toolkit']}, {row['call']}" if row["toolkit"] != row["policy"] else row["toolkit"]
    apart = "-" if row.get("difference") is None else f"{100 * row['difference']:.1f} %"
    return (row["network"], row["policy"], label, *sizes, row.get("weights", "-"), loads, apart, *timed)


def latency() -> str:
    """Predicted against measured time of whole networks that a table was not made of."""
    found = result("latency")
    rows = [
        (f"{name}, its own table", *_errors(one["held_out_policies"]), "-") for name, one in found["networks"].items()
    ]
    if "resnet20_from_layers_alone" in found:
        alone = found["resnet20_from_layers_alone"]["held_out_policies"]
        rows.insert(1, ("resnet20, layers measured alone", *_errors(alone), "-"))
    rows += [
        (
            f"{name}, from resnet20's kernels",
            *_errors(one["policies"]),
            f"{one['largest_error_at_that_pace_percent']:.1f} %",
        )
        for name, one in found.get("other_networks_from_resnet20", {}).items()
    ]
    columns = ("network", ">policies", ">errors", ">largest", ">largest, machine's pace taken out")
    where = ran_on(found, (f"networks.{name}" for name in found["networks"]))
    return markdown(columns, rows) + f"\n{found['runtime']}, one thread; {where}.\n"


def _errors(rows: list[dict[str, Any]]) -> tuple[str, str, str]:
    errors = [row["error_percent"] for row in rows]
    return str(len(rows)), ", ".join(f"{error:+.1f} %" for error in errors), f"{max(map(abs, errors)):.1f} %"


def latency_bits() -> str:
    """What uniform networks take by the table."""
    rows = []
    for name, one in result("latency")["networks"].items():
        shown = {option: one["uniform_us"].get(option) for option in ("W2A2", "W4A4", "W8A4", "W4A8", "W8A8")}
        cells = [f"{time / 1e3:.3f} ms" if time else "-" for time in (*shown.values(), one["float32_us"])]
        rows.append((name, *cells))
    return markdown(("network", ">W2A2", ">W4A4", ">W8A4", ">W4A8", ">W8A8", ">float32"), rows)


def shift_theory() -> str:
    """Squared error of wrong steps on known densities at 4 bits."""
    found = result("quantizer_shift_theory")
    curves = {one["density"]: one["mse"] for one in found["curves"] if one["bits"] == 4}
    shown = [i for i, ratio in enumerate(found["ratios"]) if ratio in (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)]
    rows = [(f"{found['ratios'][i]:g}", *(f"{curve[i]:.5f}" for curve in curves.values())) for i in shown]
    crossings = (
        f"{bits} bits: {', '.join(f'{ratio:.3f}' for ratio in ratios) or 'nowhere'}"
        for bits, ratios in found["crossings_of_uniform_and_normal"].items()
    )
    note = f"Uniform and normal are equal at: {'; '.join(crossings)}.\n"
    titles = (f">{'Laplace' if density == 'laplace' else density}" for density in curves)
    return markdown(("step / best step", *titles), rows) + "\n" + note


def shift_curvature() -> str:
    """Second derivative of the error at the best step, on the grid of the paper's Lemma 2."""
    found = [one for one in result("quantizer_shift_theory")["curvature"] if one["grid"] == "mid-tread"]
    rows = [
        (bits, *(f"{one['by_step']:.3f}" for one in found if one["bits"] == bits))
        for bits in sorted({one["bits"] for one in found})
    ]
    return markdown((">bits", ">uniform", ">normal", ">Laplace"), rows)


def corruption() -> str:
    """Speed and signal-to-noise ratio of every corruption."""
    found = result("corruption")
    rows = []
    for kind, row in found["kinds"].items():
        speeds = [f"{row['images_per_cpu_second'][size]:,.0f}" for size in ("32x32", "224x224")]
        ratios = ["  ".join(f"{value:.1f}" for value in row[scale]["psnr_db"]) for scale in ("cifar", "imagenet")]
        rows.append((f"`{kind}`", row["group"], *speeds, *ratios))
    columns = ("kind", "group", ">32 x 32", ">224 x 224", "CIFAR-10-C, dB", "ImageNet-C, dB")
    worst, passes = found["gaussian_noise_psnr"]["worst_difference_db"], found["training_pass_images_per_cpu_second"]
    note = (
        f"Gaussian noise is at most {worst:.2f} dB from what it should be. A training pass over images of 32 x 32\n"
        f"with crop and flip gives {passes['clean']:,.0f} images a second, {passes['mixed']:,.0f} of mixed quality.\n"
        f"{ran_on(found, (f'kinds.{kind}' for kind in found['kinds']))}.\n"
    )
    return markdown(columns, rows) + "\n" + note


TABLES: dict[str, Callable[[], str]] = {
    "cifar10": cifar10,
    "arena": arena,
    "arena_tuned": arena_tuned,
    "export_exact": export_exact,
    "export_items": export_items,
    "export_sizes": export_sizes,
    "export_speed": export_speed,
    "allocation": when_run("allocation", "rows")(allocation),
    "capture": when_run("capture", "networks")(capture),
    "corruption": corruption,
    "latency": when_run("latency", "networks")(latency),
    "latency_bits": when_run("latency", "networks")(latency_bits),
    "peers_search": peers_search,
    "peers_solver": peers_solver,
    "peers_export": peers_export,
    "shift_curvature": shift_curvature,
    "shift_theory": shift_theory,
    **tables_certification.TABLES,
    **tables_cpu.TABLES,
    **tables_kure.TABLES,
    **tables_latency.TABLES,
    **tables_mcu.TABLES,
    **tables_ptq.TABLES,
    **tables_remake.TABLES,
    **tables_search.TABLES,
    **tables_steps.TABLES,
    **tables_attacks.TABLES,
    **tables_supernet.TABLES,
    **tables_supernet_cost.TABLES,
    **tables_topology.TABLES,
    **tables_transfer.TABLES,
}


PICTURES: dict[str, Callable[[], str]] = {**tables_certification.PICTURES}
"""Path of a file that pages show -> what makes it."""


def filled(text: str, *, tell: Callable[[str], None] | None = None) -> str:
    """A page with all its tables and numbers made anew; `tell` takes what is said of numbers that cannot be."""
    return prose.filled(MARK.sub(lambda m: f"{m['head']}{TABLES[m['name']]()}{m['tail']}", text), tell=tell)


def pages() -> list[Path]:
    """All pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def strays(paths: Iterable[Path]) -> list[str]:
    """Numbers in prose without a key or a kind, and keys that no page asks for."""
    texts = {path: path.read_text() for path in paths}
    unused = set(prose.NUMBERS).difference(*(prose.keys(text) for text in texts.values()))
    found = [f"{_shown(path)}, {stray}" for path, text in texts.items() for stray in prose.undeclared(text)]
    return found + [f"benchmarks/prose.py: no page asks for {key}." for key in sorted(unused)]


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", action="store_true", help="into the pages")
    group.add_argument("--check", action="store_true", help="fail if a page differs, or has a number without a key")
    arguments = parser.parse_args()
    troubles, new = list[str](), dict[Path, str]()
    for path in pages():
        told: list[str] = []
        new[path] = filled(path.read_text(), tell=told.append)
        troubles += [f"{_shown(path)}, {one}" for one in told]
    new |= {ROOT / path: make() for path, make in PICTURES.items()}
    stale = [path for path, text in new.items() if not path.exists() or text != path.read_text()]
    if arguments.write:
        for path in stale:
            path.write_text(new[path])
        sys.exit("\n".join(troubles) or None)
    elif arguments.check and stale:
        sys.exit(f"stale: {', '.join(map(str, stale))}. Run python benchmarks/tables.py --write.")
    elif arguments.check:
        sys.exit("\n".join(troubles or strays(pages())) or None)
    else:
        for name, make in TABLES.items():
            print(f"## {name}\n\n{make()}")


if __name__ == "__main__":
    main()
