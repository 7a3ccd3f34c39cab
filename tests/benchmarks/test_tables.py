"""Tables of files that have little in them: what is there is shown, and the rest is said not to be run yet."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import common
import records
import tables

RESULTS = ROOT / "benchmarks" / "results"
NAMES = (
    "allocation", "c_exact", "capture", "export_cpu", "export_cpu_accuracy", "export_exact", "export_items",
    "export_sizes", "export_speed", "front_page", "latency", "latency_bits", "mcu_conv", "mcu_counts", "mcu_layers",
    "mlperf_tiny", "mlperf_tiny_bits", "mlperf_tiny_networks", "peers_qat_step", "peers_search", "qat",
    "evolution", "supernet_cost",
)  # fmt: skip
TIMED = (
    "allocation", "arena", "arena_tuned", "capture", "corruption", "export_cpu", "export_speed", "kure_cost", "latency",
    "latency_ways", "peers_export", "peers_qat_step", "peers_search", "ptq", "qat", "supernet_cost",
    "topology_speed",
)  # fmt: skip


def first(part: str, value: Any) -> Any:
    """The first row of a list, the first piece of a part."""
    if part in records.HEAD:
        return value
    if isinstance(value, list):
        return value[:1] if value and isinstance(value[0], dict) else value
    pieces = isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values())
    return dict([next(iter(value.items()))]) if pieces else value


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_a_part_of_its_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert tables.TABLES[name]().strip() == "Not run yet."
    files = {path.name: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    for file, found in files.items():
        if found.get("form") == records.FORM:
            (tmp_path / file).write_text(json.dumps({part: first(part, value) for part, value in found.items()}))
    few = tables.TABLES[name]()
    monkeypatch.setattr(records, "RESULTS", RESULTS)
    assert few.strip() and len(few.splitlines()) <= len(tables.TABLES[name]().splitlines())


@pytest.mark.parametrize("name", TIMED)
def test_what_was_timed_says_on_what(name: str) -> None:
    """The processor and its load, or that nobody wrote it down."""
    assert re.search(r"(EPYC|Xeon).*, load (not recorded|\d+\.\d)", tables.TABLES[name]())


def test_the_load_of_a_whole_file_is_that_of_its_rows() -> None:
    """Files of an older form have it at their top, as a number or as three."""
    made = {
        "made": [{"machine": {"cpu": "EPYC"}}, {"machine": {"cpu": "Xeon", "load": 0.5}}],
        "made_by": {"a": 0, "b": 1},
    }
    assert common.ran_on(made | {"load_average": 6.1}, ["a", "b"]) == "EPYC, load 6.1; Xeon, load 0.5"
    assert common.ran_on(made | {"load_average": [4.4, 4.6, 4.7]}, ["a"]) == "EPYC, load 4.4"
    assert common.ran_on(made, ["a"]) == "EPYC, load not recorded"


@pytest.mark.parametrize("alone", ["eager", "compiled"])
def test_steps_of_one_kind_alone(alone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without the compiler writes no compiled steps."""
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    found = json.loads((RESULTS / "qat_step.json").read_text())
    other = {"eager": "compiled", "compiled": "eager"}[alone]
    (tmp_path / "qat_step.json").write_text(json.dumps({part: one for part, one in found.items() if part != other}))
    text = tables.TABLES["qat"]()
    assert ("compiled" in text) == (alone == "compiled") and "| float32" in text


def test_an_allocation_without_a_known_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the local search's answers nobody knows how far they are from the best, and a solver may find nothing."""
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    timed = {"rounds": 3, "median_s": 0.5, "proven": False}
    rows = {
        "mixbit": {"objective": 1.0, "excess": 0.0}, "HiGHS": {"excess": None},
    }  # fmt: skip
    own = records.Results("allocation", libraries=(), folder=tmp_path)
    for solver, more in rows.items():
        own.put({"case": "small", "solver": solver}, timed | more, tell=len)
    own.put({"case": "pairs", "solver": "mixbit, local search"}, {**timed, "objective": 2.0, "excess": None}, tell=len)
    lines = tables.TABLES["allocation"]().splitlines()
    assert "| small | 500.0 ms, not proven | 500.0 ms, not proven, nothing found |" in lines
    assert "| pairs, local search | 500.0 ms, not proven | - |" in lines
