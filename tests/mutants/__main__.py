"""`make mutants`: put small mistakes into the sources, one at a time, and see whether the tests of the mirror notice.

By default on lines that differ from BASE; ALL=1 takes a seeded sample of every file that matters, FILES="..." of some.
The exit code is 0 when every survivor is judged in survivors.toml, 1 when some are not, 2 when the tests fail already.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mirror import ROOT
from tests.mutants.choice import area_of, changed_lines, drawn, named_files, shares
from tests.mutants.ledger import as_toml, judged, listed
from tests.mutants.mutant import Mutant
from tests.mutants.sites import sites
from tests.mutants.survey import RedBaseline, Survey, Trial


def chosen(arguments: argparse.Namespace) -> list[Mutant]:
    """The mutants that are asked for, files taking turns, so that a survey cut short has seen all of them."""
    lines = None if arguments.all or arguments.files else changed_lines(arguments.base)
    named = named_files() if lines is None else sorted(name for name in lines if (ROOT / name).is_file())
    files = [_from_root(name) for name in arguments.files] or named
    sources = {file: (ROOT / file).read_text() for file in files if file.endswith(".py")}
    weights = {
        file: len({site.line for site in sites(text) if lines is None or site.line in lines[file]})
        for file, text in sources.items()
    }
    counts = dict.fromkeys(sources, arguments.per_file) if arguments.per_file else shares(weights, arguments.count)
    queues = [
        drawn(file, text, counts[file], arguments.seed, None if lines is None else lines[file])
        for file, text in sources.items()
    ]
    queues.append([mutant for mutant in listed() if mutant.file in files])
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]


def _from_root(name: str) -> str:
    path = Path(name).resolve()
    if not path.is_relative_to(ROOT / "src" / "mixbit") or path.suffix not in (".py", ".c") or not path.is_file():
        raise SystemExit(f"FILES: {name} is no source. Legal: .py and .c files under src/mixbit.")
    return str(path.relative_to(ROOT))


def report(trials: Sequence[Trial], harmless: dict[str, str]) -> tuple[str, list[Trial]]:
    """(the report, survivors that nobody judged)."""
    survived = [trial for trial in trials if trial.outcome.verdict != "noticed"]
    open_ones = [trial for trial in survived if trial.mutant.key not in harmless]
    total, lost = (Counter(trial.mutant.file for trial in some) for some in (trials, survived))
    rows = [
        f"{total[file] - lost[file]:4d} of {total[file]:3d}  {file}"
        for file in sorted(total, key=lambda f: (area_of(f), f))
    ]
    ways = Counter(trial.outcome.how for trial in trials if trial.outcome.verdict == "noticed")
    noticed = len(trials) - len(survived)
    share = f"{100 * noticed / len(trials):.1f} %" if trials else "nothing to try"
    told = ", ".join(f"{count} by {way}" for way, count in ways.most_common())
    rows += ["", f"{noticed} of {len(trials)} noticed ({share}): {told or 'none'}."]
    rows += [f"{len(survived) - len(open_ones)} survivors are judged harmless, {len(open_ones)} are not judged."]
    rows += [f"  {trial.mutant.key}" for trial in open_ones]
    return "\n".join(rows), open_ones


def main(words: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--base", default="main", help="lines that differ from the common ancestor with this commit")
    parser.add_argument("--all", action="store_true", help="a sample of every file that matters")
    parser.add_argument("--count", type=int, default=500, help="size of the sample")
    parser.add_argument("--per-file", type=int, default=0, help="as many of each file, instead of --count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutants", help="copies, results, report")
    parser.add_argument("--list", action="store_true", help="name the mutants and try none")
    parser.add_argument("files", nargs="*", help="these sources and no others")
    arguments = parser.parse_args(words)
    try:
        harmless = judged()
        mutants = chosen(arguments)
        if arguments.list:
            print("\n".join(mutant.key for mutant in mutants))
            return 0
        if not mutants:
            print(
                "Nothing to try: no line that could be mistaken differs from BASE. ALL=1 takes a sample of all files."
            )
            return 0
        arguments.folder.mkdir(parents=True, exist_ok=True)
        trials = Survey(arguments.folder.resolve(), workers=arguments.workers).run(mutants)
    except (RedBaseline, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    text, open_ones = report(trials, harmless)
    (arguments.folder / "report.txt").write_text(text + "\n")
    (arguments.folder / "open.toml").write_text("\n".join(as_toml(trial.mutant) for trial in open_ones))
    print(text)
    if open_ones:
        print("Write a test that notices, or say in tests/mutants/survivors.toml why none can:")
        print(f"{arguments.folder}/open.toml has the rows.")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
