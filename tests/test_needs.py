"""What is not run is told once for each reason, and every need has one name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import needs
from tests.support import ROOT, shared

CASES = """
import pytest
from tests.needs import NEEDS, need, needs
NEEDS["anvil"], NEEDS["air"] = ("an anvil", lambda: False), ("air", lambda: True)

@needs("air", "anvil")
@pytest.mark.parametrize("x", [1, 2])
def test_marked(x): raise AssertionError

def test_inside():
    need("air")
    need("anvil")
    raise AssertionError

@needs("air")
def test_runs(): pass

@pytest.mark.skip(reason="tired")
def test_other(): raise AssertionError
"""


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one", "two"])
def test_the_end_of_a_run_counts_by_reason(processes: tuple[str, ...], tmp_path: Path) -> None:
    """Whichever process a case was left out in."""
    (tmp_path / "test_it.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.needs", "-p", "no:cacheprovider", "--rootdir=."]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(
        [*command, *processes, "test_it.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    told = done.stdout[done.stdout.index("not run, and why") :].splitlines()
    assert told[1:3] == ["    3  needs an anvil", "    1  tired"], done.stdout
    assert "1 passed, 4 skipped" in told[3]


def test_reasons_are_sorted_by_their_count() -> None:
    reports = [SimpleNamespace(longrepr=("a.py", 3, f"Skipped: {why}")) for why in ("b", "c", "a", "c")]
    assert needs.not_run(reports) == ["    2  c", "    1  a", "    1  b"]
    assert needs.not_run([]) == []


def test_nothing_is_said_where_nothing_is_left_out() -> None:
    needs.pytest_terminal_summary(SimpleNamespace(stats={"passed": [1]}))


def test_the_first_missing_need_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, there in {"air": True, "anvil": False, "water": False}.items():
        monkeypatch.setitem(needs.NEEDS, name, (f"some {name}", lambda there=there: there))
    assert needs.reason("air") is None and not needs.needs("air").args[0]
    assert needs.reason("air", "water", "anvil") == "needs some water"
    assert needs.needs("anvil").args[0] and needs.needs("anvil").kwargs["reason"] == "needs some anvil"


def test_every_need_can_be_asked_and_has_a_reason_of_its_own() -> None:
    assert all(isinstance(bool(there()), bool) for _, there in needs.NEEDS.values())
    assert len({text for text, _ in needs.NEEDS.values()}) == len(needs.NEEDS)


def test_shared_material_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "a.json").write_text("{}")
    monkeypatch.setenv("MIXBIT_DATA", str(tmp_path / "data"))
    assert needs.NEEDS["shared"][1]() and shared("fixtures", "a.json").read_text() == "{}"
    with pytest.raises(pytest.skip.Exception, match="needs the shared reference material: MIXBIT_DATA"):
        shared("fixtures", "b.json")
    monkeypatch.setenv("MIXBIT_DATA", str(tmp_path / "elsewhere" / "data"))
    assert not needs.NEEDS["shared"][1]()
    monkeypatch.delenv("MIXBIT_DATA")
    assert needs.shared_folder() == ROOT.parent / "shared"
