"""Time to a proven optimum of allocation problems: mixbit, plain HiGHS and PuLP/CBC, interleaved in one run.

    python benchmarks/allocation.py [--rounds 9] [--limit 20] [--cases "ResNet-18" quadratic] [--fresh | --smoke]

Problems: ResNet-18's layers (real MACs, drawn scores), LIMPQ's released ResNet-50 tables with both limits, networks of
54 to 2000 layers, and sensitivities of order 1e-7. Drawn scores are monotone and fall with the bits as LIMPQ's released
indicators do; MACs and weights of the networks are log-uniform. Every drawn layer has 5 x 5 options. Then quadratic
problems, with joint harms of two layers (random positive semi-definite forms): mixbit's local search, and its proof
where the problem is small enough. The rows of a problem are one measurement, made together; those that the result file
has are reused.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import records
from common import shared_data
from mixbit.allocation import repair_monotone, solve, solve_pairs

NAME = "allocation"
BITS = (6, 5, 4, 3, 2)
FIXTURES = ("resnet50_layers.json", "limpq_resnet50_indicators.csv", "tiny_scores_resnet20.json")
QUADRATIC = ((19, (8, 4, 2)), (36, (8, 4, 2)), (52, (8, 4, 2)), (52, (8, 6, 4, 3, 2)))
RESNET18_MACS = [115605504] * 4 + [57802752, 115605504, 6422528, 115605504, 115605504] * 3


@dataclass(frozen=True)
class Case:
    """One allocation problem, in the form of `mixbit.allocation.solve`."""

    name: str
    scores: list[npt.NDArray[np.float64]]
    costs: dict[str, list[npt.NDArray[np.int64]]]
    limits: dict[str, int]
    target_s: float | None = None


@dataclass(frozen=True)
class Run:
    """What one solver did with one problem."""

    objective: float
    """nan where it found nothing within the limits."""
    proven: bool
    """Its own word for it."""


# ----------------------------------------------------------------------------------------------------- problems


def drawn_scores(random: np.random.Generator, layers: int) -> list[npt.NDArray[np.float64]]:
    """Harm of weight bits (twice) plus activation bits, with level and ratios of LIMPQ's ResNet-50 indicators."""
    rows = []
    for _ in range(layers):
        weight = random.lognormal(math.log(0.04), 0.5) / np.cumprod([1, *random.normal((1.97, 1.77, 1.72, 1.29), 0.1)])
        activation = random.lognormal(math.log(0.11), 0.5) / np.cumprod(
            [1, *random.normal((1.56, 1.5, 1.48, 1.46), 0.05)]
        )
        rows.append(np.add.outer(2 * weight[::-1], activation[::-1]).ravel())
    return rows


def drawn(layers: int, limits: int, seed: int, target_s: float | None = None) -> Case:
    """BitOps as of W3A4, and weight bits as of 2.9 bits a weight where there are two limits."""
    random = np.random.default_rng(seed)
    macs = random.uniform(math.log(1e6), math.log(2e8), layers)
    weights = random.uniform(math.log(4e3), math.log(2.4e6), layers)
    macs, weights = (np.exp(counts).astype(np.int64) for counts in (macs, weights))
    costs = {"bitops": [count * np.outer(BITS, BITS).ravel() for count in macs]}
    bounds = {"bitops": 12 * int(macs.sum())}
    if limits > 1:
        costs["weight-bits"] = [count * np.repeat(BITS, len(BITS)) for count in weights]
        bounds["weight-bits"] = 29 * int(weights.sum()) // 10
    return Case(f"drawn, {layers} layers, {limits} limit(s)", drawn_scores(random, layers), costs, bounds, target_s)


def resnet18(seed: int) -> Case:
    """The 19 searchable layers under W3A3's BitOps."""
    costs = [count * np.outer(BITS, BITS).ravel() for count in RESNET18_MACS]
    scores = drawn_scores(np.random.default_rng(seed), len(RESNET18_MACS))
    return Case("ResNet-18, 1 limit", scores, {"bitops": costs}, {"bitops": 9 * sum(RESNET18_MACS)}, 0.010)


def fixture(name: str) -> Path:
    """A golden table beside the data."""
    return shared_data().parent / "fixtures" / name


def resnet50() -> Case:
    """LIMPQ's released indicators, alpha 2, W3A4's BitOps and 12.2x compression, in LIMPQ's counting of MACs."""
    layers = json.loads(fixture("resnet50_layers.json").read_text())
    scores, bitops, weight_bits = [], [], []
    with fixture("limpq_resnet50_indicators.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            weight, activation = (repair_monotone(BITS, [float(row[f"{side}{b}"]) for b in BITS]) for side in "wa")
            scores.append(np.add.outer(2 * weight, activation).ravel())
            bitops.append(layers[row["layer"]]["macs_limpq"] * np.outer(BITS, BITS).ravel())
            weight_bits.append(layers[row["layer"]]["params"] * np.repeat(BITS, len(BITS)))
    pinned = 9_408 + 2_048_000
    total = pinned + sum(layer["params"] for layer in layers.values())
    limits = {
        "bitops": 12 * sum(layer["macs_limpq"] for layer in layers.values()),
        "weight-bits": 320 * total // 122 - 8 * pinned,
    }
    return Case(
        "ResNet-50, LIMPQ's tables, 2 limits", scores, {"bitops": bitops, "weight-bits": weight_bits}, limits, 0.3
    )


def tiny(bits: int, scale: float) -> Case:
    """A ResNet-20's sensitivities of order 1e-7 at `bits` effective bits."""
    table = json.loads(fixture("tiny_scores_resnet20.json").read_text())["cands"].values()
    scores = [np.array(one["scores"]) * scale for one in table]
    costs = [np.array(one["costs"]).astype(np.int64) for one in table]
    limit = bits * sum(int(row.max()) for row in costs) // 16
    return Case(f"tiny scores x{scale:g}, {bits} bits", scores, {"bytes": costs}, {"bytes": limit})


def cases(seed: int) -> Iterator[Case]:
    """All problems, the small ones first."""
    yield resnet18(seed)
    yield resnet50()
    for layers in (54, 200, 500):
        yield drawn(layers, 1, seed + layers)
        yield drawn(layers, 2, seed + layers)
    yield drawn(2000, 1, seed + 2000, target_s=1.0)
    yield drawn(2000, 2, seed + 2000)
    for bits in (5, 6, 8):
        for scale in (1.0, 1e-6, 1e6):
            yield tiny(bits, scale)


def quadratic(layers: int, bits: tuple[int, ...], seed: int) -> tuple[Case, npt.NDArray[np.float64]]:
    """Harms and joint harms from a random form whose diagonal grows with fewer bits; 40 % of the way in weight bits."""
    random = np.random.default_rng(seed)
    size = np.tile(np.geomspace(0.1, 1.5, len(bits)), layers) * np.repeat(random.lognormal(0, 0.7, layers), len(bits))
    directions = random.normal(size=(len(size), len(size))) * size[:, None]
    form = directions @ directions.T / len(size)
    weights = random.integers(1_000, 50_000, layers)
    limit = int(weights.sum() * (min(bits) + 0.4 * (max(bits) - min(bits))))
    costs = {"weight-bits": [weight * np.array(bits) for weight in weights]}
    name = f"quadratic, {layers} layers x {len(bits)}"
    return Case(name, np.split(form.diagonal().copy(), layers), costs, {"weight-bits": limit}), 2 * form


# ------------------------------------------------------------------------------------------------------ solvers


def mixbit_run(case: Case, limit_s: float) -> Run:
    """mixbit's default."""
    answer = solve(case.scores, case.costs, case.limits, time_limit_s=limit_s)
    return Run(answer.objective, answer.proven)


def highs_run(case: Case, limit_s: float) -> Run:
    """`scipy.optimize.milp` as one would call it: rows scaled, forbidden options closed, gap 0, scores as they are."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sizes = [len(row) for row in case.scores]
    group, flat = np.repeat(np.arange(len(sizes)), sizes), np.concatenate(case.scores)
    legal = np.isfinite(flat)
    rows = np.array([np.concatenate(case.costs[name]) / limit for name, limit in case.limits.items()])
    one_each = csr_array((np.ones(len(flat)), (group, np.arange(len(flat)))))
    result = milp(
        np.where(legal, flat, 0.0),
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, legal.astype(float)),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(rows, -np.inf, 1.0)],
        options={"mip_rel_gap": 0.0, "time_limit": limit_s},
    )
    if result.x is None:
        return Run(math.nan, False)
    return _checked(
        case, [np.flatnonzero(part > 0.5) for part in np.split(result.x, np.cumsum(sizes)[:-1])], result.status == 0
    )


def cbc_run(case: Case, limit_s: float) -> Run:
    """PuLP with its bundled CBC, which LIMPQ's released code uses: rows scaled, gap 0, scores as they are.

    Rows of raw BitOps would be unfair to it: on the ResNet-18 case CBC then calls a choice optimal that is 3e-4 worse.
    """
    import pulp

    problem = pulp.LpProblem("allocation", pulp.LpMinimize)
    x = [
        [pulp.LpVariable(f"x_{g}_{j}", cat="Binary") if math.isfinite(s) else None for j, s in enumerate(row)]
        for g, row in enumerate(case.scores)
    ]
    free = [(g, j) for g, row in enumerate(x) for j, variable in enumerate(row) if variable is not None]
    problem += pulp.LpAffineExpression([(x[g][j], float(case.scores[g][j])) for g, j in free])
    for row in x:
        problem += pulp.lpSum(variable for variable in row if variable is not None) == 1
    for name, limit in case.limits.items():
        problem += pulp.LpAffineExpression([(x[g][j], int(case.costs[name][g][j]) / limit) for g, j in free]) <= 1.0
    problem.solve(pulp.PULP_CBC_CMD(msg=False, gapRel=0, timeLimit=limit_s))
    taken = [np.array([j for j, v in enumerate(row) if v is not None and (v.value() or 0) > 0.5]) for row in x]
    return _checked(case, taken, problem.sol_status == pulp.LpSolutionOptimal)


def _checked(case: Case, taken: list[npt.NDArray[np.int64]], proven: bool) -> Run:
    """The true objective of a solver's choice, nan if it is none or is beyond a limit by more than 1e-6 of it."""
    if any(len(options) != 1 for options in taken):
        return Run(math.nan, False)
    choice = [int(options[0]) for options in taken]
    for name, limit in case.limits.items():
        if sum(int(row[option]) for row, option in zip(case.costs[name], choice, strict=True)) > limit * (1 + 1e-6):
            return Run(math.nan, False)
    return Run(math.fsum(float(row[option]) for row, option in zip(case.scores, choice, strict=True)), proven)


SOLVERS: dict[str, Callable[[Case, float], Run]] = {"mixbit": mixbit_run, "HiGHS": highs_run, "PuLP/CBC": cbc_run}


# ------------------------------------------------------------------------------------------------------ measure


def cpu_s() -> float:
    """CPU seconds of this process and of the solver processes that it has started."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def measured(case: Case, rounds: int, limit_s: float) -> list[dict[str, Any]]:
    """Each solver in turn, `rounds` times; one that took over two seconds is not run again."""
    walls: dict[str, list[float]] = {name: [] for name in SOLVERS}
    cpus: dict[str, list[float]] = {name: [] for name in SOLVERS}
    last: dict[str, Run] = {}
    for _ in range(rounds):
        for name, run in SOLVERS.items():
            if walls[name] and max(walls[name]) > 2:
                continue
            wall, cpu = time.perf_counter(), cpu_s()
            last[name] = run(case, limit_s)
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(cpu_s() - cpu)
    best = min(run.objective for run in last.values() if math.isfinite(run.objective))
    return [
        {
            "groups": len(case.scores),
            "limits": len(case.limits),
            "rounds": len(walls[name]),
            "median_s": statistics.median(walls[name]),
            "fastest_s": min(walls[name]),
            "slowest_s": max(walls[name]),
            "median_cpu_s": statistics.median(cpus[name]),
            **{key: value for key, value in asdict(last[name]).items() if value == value},
            "excess": (last[name].objective - best) / abs(best) if math.isfinite(last[name].objective) else None,
            "target_s": case.target_s if name == "mixbit" else None,
        }
        for name in SOLVERS
    ]


def ways(layers: int) -> dict[str, bool]:
    """Ways to solve a quadratic problem -> whether that is a proof, which only small ones get."""
    return {**({"mixbit, proof": True} if layers < 20 else {}), "mixbit, local search": False}


def measured_quadratic(
    layers: int, bits: tuple[int, ...], seed: int, rounds: int, limit_s: float
) -> Iterator[dict[str, Any]]:
    """The local search, and the proof of problems that are small enough for one."""
    case, form = quadratic(layers, bits, seed)
    best = None
    for exact in ways(layers).values():
        walls, cpus = [], []
        for _ in range(1 if exact else rounds):
            wall, cpu = time.perf_counter(), cpu_s()
            found = solve_pairs(
                case.scores, form, case.costs, case.limits, exact=exact, time_limit_s=max(60.0, limit_s)
            )
            walls.append(time.perf_counter() - wall)
            cpus.append(cpu_s() - cpu)
        best = found.objective if found.proven else best
        yield {
            "groups": layers,
            "limits": 1,
            "by": found.solver,
            "rounds": len(walls),
            "median_s": statistics.median(walls),
            "fastest_s": min(walls),
            "slowest_s": max(walls),
            "median_cpu_s": statistics.median(cpus),
            "objective": found.objective,
            "proven": found.proven,
            "gap": found.gap,
            "excess": None if best is None else (found.objective - best) / abs(best),
            "target_s": None,
        }


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    word = "proven" if row["proven"] else "not proven"
    none = "unknown" if row["case"].startswith("quadratic") else "none found"
    excess = none if row["excess"] is None else f"+{row['excess']:.1e}"
    target = "" if row["target_s"] is None else f"  target {row['target_s']} s"
    print(
        f"{row['case']:38} {row['solver']:9} {row['median_s']:9.4f} s  cpu {row['median_cpu_s']:8.4f} s  "
        f"{word:10} {excess:>10}{target}",
        flush=True,
    )


@dataclass(frozen=True)
class Wanted:
    """The rows of one problem, which are measured together."""

    case: str
    solvers: tuple[str, ...]
    make: Callable[[], Sequence[Mapping[str, Any]]]

    @property
    def names(self) -> list[dict[str, Any]]:
        """Of the rows."""
        return [{"case": self.case, "solver": solver} for solver in self.solvers]


def wanted(args: argparse.Namespace) -> Iterator[Wanted]:
    """Every problem, the quadratic ones last."""
    for case in cases(args.seed):
        yield Wanted(case.name, tuple(SOLVERS), lambda case=case: measured(case, args.rounds, args.limit))  # type: ignore[misc]
    for layers, bits in QUADRATIC:

        def make(layers: int = layers, bits: tuple[int, ...] = bits) -> list[dict[str, Any]]:
            return list(measured_quadratic(layers, bits, args.seed, args.rounds, args.limit))

        yield Wanted(f"quadratic, {layers} layers x {len(bits)}", tuple(ways(layers)), make)


def cbc_version() -> str:
    """Of the solver that PuLP brings.

    >>> cbc_version().count(".") >= 1
    True
    """
    import pulp

    told = subprocess.run([pulp.PULP_CBC_CMD().path, "quit"], capture_output=True, text=True, check=False).stdout
    return next((line.split()[1] for line in told.splitlines() if line.startswith("Version:")), "unknown")


def highs_version() -> str:
    """Of the solver that scipy brings.

    >>> highs_version().count(".")
    2
    """
    from scipy.optimize._highspy import _core

    return ".".join(str(getattr(_core, f"HIGHS_VERSION_{part}")) for part in ("MAJOR", "MINOR", "PATCH"))


def opened(args: argparse.Namespace) -> records.Results:
    """The result file."""
    solvers = {"HiGHS": f"{highs_version()}, of scipy {metadata.version('scipy')}"}
    solvers |= {"CBC": f"{cbc_version()}, of PuLP {metadata.version('pulp')}"}
    return records.Results(
        NAME,
        settings={"rounds": args.rounds, "limit_s": args.limit, "seed": args.seed, "solvers": solvers},
        inputs={name: fixture(name) for name in FIXTURES},
        libraries=("numpy", "scipy", "pulp"),
        fresh=args.fresh,
        smoke=args.smoke,
    )


def main() -> None:
    """Measure what is missing, and write benchmarks/results/allocation.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one run of one solver")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", metavar="BEGINNING", help="of names of problems; all, if not given")
    records.arguments(parser)
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.limit, args.cases = 1, 1.0, ["ResNet-18", "tiny scores x1, 5", "quadratic, 19"]
    results = opened(args)
    chosen = [one for one in wanted(args) if one.case.startswith(tuple(args.cases or [""]))]
    if not chosen:
        sys.exit(f"--cases {args.cases}: no problem begins so. Legal: {', '.join(one.case for one in wanted(args))}.")
    if results.plan([name for one in chosen for name in one.names]):
        for run in SOLVERS.values():  # imports and caches
            run(resnet18(args.seed), args.limit)
    rows = [row for one in chosen for row in results.group(one.names, one.make)]
    for row in rows:
        show(row)
    # On a busy machine the median measures the neighbours: a target is held against the fastest round, and the load is
    # in the file.
    missed = [row["case"] for row in rows if row["target_s"] is not None and row["fastest_s"] > row["target_s"]]
    results.facts(missed_targets=missed)
    sys.exit(f"too slow: {missed}" if missed and not args.smoke else 0)


if __name__ == "__main__":
    main()
