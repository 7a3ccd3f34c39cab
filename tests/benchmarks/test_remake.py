"""The registry of tables: every table and result file has commands, and these are ones that the scripts take."""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.benchmarks.smoke import WITHOUT_SMOKE
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import records
import registry
import remake
import tables

BENCHMARKS = ROOT / "benchmarks"

OF_NO_FILE = {"remake"}  # the table of tables: from the registry itself
STEPS = list(dict.fromkeys(step for entry in registry.ENTRIES.values() for step in entry.steps))


class Parsed(BaseException):
    """The arguments of a script were read, and it would begin its work."""


def parse(words: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a script reads from its arguments, without its work."""
    original, script, *rest = argparse.ArgumentParser.parse_args, *words.split()
    if "parse_args" not in (BENCHMARKS / script).read_text():
        assert not rest, f"{script} reads no arguments"
        return argparse.Namespace()

    def stop(self: argparse.ArgumentParser, *args: Any, **named: Any) -> None:
        raise Parsed(original(self, *args, **named))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / script), *rest])
    monkeypatch.syspath_prepend(str((BENCHMARKS / script).parent))
    for _ in range(40):
        try:
            runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        except Parsed as parsed:
            return parsed.args[0]  # type: ignore[no-any-return]
        except ImportError as error:  # a toolkit of another environment: its arguments do not depend on it
            assert error.name is not None and script.startswith("peers/"), error
            assert not (BENCHMARKS / "peers" / f"{error.name}.py").exists(), error
            monkeypatch.setitem(sys.modules, error.name, MagicMock())
            continue
        break
    raise AssertionError(f"{script} did its work before it read its arguments")


def files() -> Iterator[str]:
    for folder in (BENCHMARKS / "results", BENCHMARKS / "peers" / "results"):
        yield from (str(path.relative_to(BENCHMARKS)) for path in folder.glob("*.json"))


# ---------------------------------------------------------------------------------------------------- the registry


def test_every_table_has_commands_and_every_result_file_has() -> None:
    made = {file for entry in registry.ENTRIES.values() for file in entry.makes}
    assert set(tables.TABLES) - OF_NO_FILE <= set(registry.ENTRIES)
    assert made == set(files()) | {name for name in pending() if "#" not in name}
    stems = {Path(file).stem for file in made}
    assert set(registry.ENTRIES) - set(tables.TABLES) <= stems, "an entry that is no table is a result file"


def pending() -> set[str]:
    return {name for entry in registry.ENTRIES.values() for name in entry.pending}


def test_what_was_not_run_yet_is_not_there() -> None:
    for name in pending():
        file, _, part = name.partition("#")
        path = BENCHMARKS / file
        assert part or not path.exists(), f"{name} is there: take it from the entry's pending"
        assert not part or part not in records.read(path.stem, folder=path.parent), f"{name}: take it from pending"


def test_entries_are_whole() -> None:
    for name, entry in registry.ENTRIES.items():
        assert entry.steps and entry.cost, name
        assert set(entry.needs) <= set(registry.NEEDS), name
        assert ("peers" in entry.needs) == any(step.python for step in entry.steps), name
        for step in entry.steps:
            assert (BENCHMARKS / step.script).is_file(), step.words
            assert step.smoke.split()[0] == step.script and "--smoke" in step.smoke.split(), step.smoke
    for group, names in registry.GROUPS.items():
        assert set(names) <= set(registry.ENTRIES), group


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.words)
def test_a_script_takes_the_arguments(step: registry.Step, monkeypatch: pytest.MonkeyPatch) -> None:
    given = parse(step.words.replace("$", ""), monkeypatch)
    assert hasattr(given, "smoke") == (step.script not in WITHOUT_SMOKE), "take it from the list, or give it --smoke"
    if step.script not in WITHOUT_SMOKE:
        assert parse(step.smoke, monkeypatch).smoke and hasattr(given, "fresh")


def test_every_group_is_a_target_of_make() -> None:
    text = (ROOT / "Makefile").read_text()
    assert set(registry.GROUPS) == {line.partition(":")[0] for line in text.splitlines() if line.startswith("bench")}


# ------------------------------------------------------- what the commands make is what the committed files have


def given(name: str, monkeypatch: pytest.MonkeyPatch, script: str | None = None) -> list[argparse.Namespace]:
    """The arguments of all commands of an entry, or of one script's."""
    steps = registry.ENTRIES[name].steps
    return [parse(step.words, monkeypatch) for step in steps if script is None or step.words.startswith(script)]


def rows(name: str, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Columns of a committed table, sorted."""
    found = records.read(name)[table]
    return sorted((tuple(row.get(column) for column in columns) for row in found), key=str)


def test_arena_tables_have_the_rows_that_their_commands_make(monkeypatch: pytest.MonkeyPatch) -> None:
    import arena

    for name in ("arena", "arena_tuned"):
        made = set()
        for one in given(name, monkeypatch):
            settings = arena.tuning(one)
            assert arena.file_of(settings) == name
            assert settings == records.read(name)["settings"]
            unused: Any = None
            bench = arena.Arena(
                results=unused, subject=unused, task=unused, settings=settings, policies=arena.peer_policies(one.peers)
            )
            names = bench.names(arena.chosen_methods(one.methods), one.budgets, one.seeds)
            made |= {(of["budget"], of["name"], of["seed"], of.get("policy")) for of in names}
        assert sorted(made, key=str) == rows(name, "rows", "budget", "name", "seed", "policy")


def test_cifar10_has_the_seeds_and_epochs_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = given("cifar10", monkeypatch)
    found = records.read("cifar10_resnet20")
    assert {row["seed"] for row in found["rows"]} == set(one.seeds)
    assert found["settings"]["epochs"] == one.epochs
    assert len(found["rows"]) == len(one.seeds) * 3 * 6, "three budgets of six policies"


def test_ptq_has_the_rows_that_its_commands_make(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        (method, setting, one.bias_correction, one.samples, one.test_images)
        for one in given("ptq", monkeypatch)
        for setting in one.settings
        for method in one.methods
    ]
    made.append(("float", None, None, None, given("ptq", monkeypatch)[0].test_images))
    assert sorted(made, key=str) == rows(
        "ptq", "rows", "method", "setting", "bias_correction", "samples", "test_images"
    )


def test_kure_has_the_images_and_seeds_of_its_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    import kure

    (one,) = given("kure_ptq", monkeypatch, "kure.py evaluate")
    assert one.images == kure.IMAGES["evaluate"], "a number of the command that is not the default"
    made = [(net, run, seed, one.images) for net in one.network for run in kure.RUNS for seed in one.seeds]
    assert sorted(made, key=str) == rows("kure", "runs", "network", "run", "seed", "images")
    (one,) = given("kure_search", monkeypatch, "kure.py search")
    assert one.images == kure.IMAGES["search"]
    made = [tuple(of[key] for key in ("method", "budget", "seed", "images")) for of in kure.searches(one)]
    assert sorted(made, key=str) == rows("kure", "search", "method", "budget", "seed", "images")


def test_transfer_has_the_rows_that_its_commands_make(monkeypatch: pytest.MonkeyPatch) -> None:
    import transfer

    (one,) = given("transfer_cifar", monkeypatch)
    assert tuple(one.methods) == transfer.CIFAR_METHODS and one.epochs == 0
    names = {
        (source, method, budget, 0)
        for source in ("cifar10", "fashion-mnist")
        for method in one.methods
        for budget in transfer.CIFAR_BUDGETS
    }
    assert sorted(names, key=str) == rows("transfer", "cifar", "source", "method", "budget", "seed")
    (one,) = given("transfer_mobilenet", monkeypatch)
    assert tuple(one.methods) == transfer.MOBILENET_METHODS
    found = {(method, budget) for method in one.methods for budget in transfer.MOBILENET_BUDGETS}
    assert {row[:2] for row in rows("transfer", "mobilenet_rows", "method", "budget")} == found
    assert {row["images"] for row in records.read("transfer")["mobilenet_rows"]} == {transfer.PHOTOGRAPHS}


def test_litert_has_the_networks_and_inputs_of_its_command() -> None:
    import litert

    made = [(name, case.inputs) for name, case in litert.CASES.items()]
    assert sorted(made) == rows("litert", "networks", "network", "inputs")


# ------------------------------------------------------------------------------------------------------ the command


def test_an_unknown_table_is_told_with_the_legal_ones() -> None:
    with pytest.raises(SystemExit, match=r"no table 'cifar'\. Legal: against, allocation, arena.*bench-cifar10"):
        remake.entries(["cifar"])


def test_commands_that_two_tables_share_run_once() -> None:
    found = remake.entries(["kure_ptq", "kure_search", "kure_ptq", "kure_qat"])
    scripts = [step.words.split(" --")[0] for step in remake.steps(found)]
    assert scripts == ["kure.py train", "kure.py evaluate", "kure.py search"]


def test_what_is_missing_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = registry.Need(text="the emulator", remedy="make setup-mcu", there=lambda: False)
    monkeypatch.setattr(registry, "NEEDS", registry.NEEDS)
    monkeypatch.setitem(registry.NEEDS, "emulator", gone)
    monkeypatch.setattr(sys, "argv", ["remake.py", "mcu_counts"])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a command ran"))
    with pytest.raises(SystemExit, match=r"mcu_counts needs what is not here: the emulator \(make setup-mcu\)\."):
        remake.main()


def test_commands_run_in_order_and_then_the_pages_are_filled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(line: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append([str(word) for word in line[1:]])
        return subprocess.CompletedProcess(line, 1 if "lapq" in line else 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["remake.py", "shift_theory", "corruption", "--fresh"])
    remake.main()
    assert ran == [
        ["benchmarks/quantizer_shift_theory.py", "--fresh"],
        ["benchmarks/corruption.py", "--fresh"],
        ["benchmarks/tables.py", "--write"],
    ]
    assert "[2/2] python benchmarks/corruption.py --fresh" in capsys.readouterr().out
    ran.clear()
    monkeypatch.setitem(registry.NEEDS, "data", registry.NEEDS["quiet"])
    monkeypatch.setattr(sys, "argv", ["remake.py", "ptq", "--smoke"])
    remake.main()
    assert ran == [["benchmarks/ptq.py", "--smoke"]], "a smoke version leaves the pages"
    monkeypatch.setattr(sys, "argv", ["remake.py", "ptq"])
    with pytest.raises(SystemExit, match=r"lapq.*ended with exit status 1\. What it finished is kept"):
        remake.main()


def test_the_list_has_every_table_with_its_needs_and_cost() -> None:
    text = remake.listing()
    assert all(name in text for name in {*tables.TABLES} - OF_NO_FILE)
    assert "takes 7 minutes of one core; needs the real data" in text
    assert ".venv-peers/bin/python benchmarks/peers/mct.py" in text
    assert text.count("python benchmarks/kure.py evaluate") == 1


def test_smoke_goes_to_the_folder_that_is_named(tmp_path: Path) -> None:
    script = "import sys; sys.path.insert(0, 'benchmarks'); import records; print(records.SMOKE)"
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"MIXBIT_SMOKE": str(tmp_path)}, capture_output=True, text=True
    )
    assert told.stdout.strip() == str(tmp_path)
    assert records.Results("x", libraries=(), smoke=True, folder=tmp_path).folder == records.SMOKE
