"""The contract of exporters notices a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mixbit.data import InputSpace
from mixbit.export import ExecutorPredictor, Exporter
from mixbit.integer import IntegerGraph
from mixbit.testing.exporters import ExporterCases
from tests.export.throw_away import TextExporter
from tests.inference import seen


class Off(ExecutorPredictor):
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return super().logits(x) * 1.01


class Wrong(TextExporter):
    """In one way at a time."""

    def __init__(self, way: str) -> None:
        self.way, self.calls = way, 0

    def write(self, graph: IntegerGraph, path: Path, **options: Any) -> Any:
        self.calls += 1
        if self.way == "another file":
            return super().write(graph, path.with_name("other"), **options)
        if self.way == "not the same twice":
            return super().write(graph, path, note=str(self.calls), **options)
        if self.way == "swallows":
            try:
                return super().write(graph, path, **options)
            except Exception:
                return None
        return super().write(graph, path, **options)

    def predictor(self, graph: IntegerGraph, space: InputSpace | None = None) -> ExecutorPredictor:
        return Off(graph, space) if self.way == "other numbers" else ExecutorPredictor(graph, space)


def cases_of(way: str) -> ExporterCases:
    class Cases(ExporterCases):
        def exporter(self) -> Exporter:
            return Wrong(way)

        def graph(self, rounding: Any) -> IntegerGraph:
            return seen.graph(InputSpace(), rounding)

    return Cases()


@pytest.mark.parametrize("way", ["another file", "not the same twice", "swallows", "other numbers"])
def test_a_wrong_exporter_is_noticed(way: str, tmp_path: Path) -> None:
    noticed = []
    for name in (name for name in dir(ExporterCases) if name.startswith("test_")):
        (tmp_path / name).mkdir()
        try:
            case = getattr(cases_of(way), name)
            case(tmp_path / name) if "reference" not in name else case()
        except AssertionError:
            noticed.append(name)
    assert noticed, way


def test_a_right_one_passes(tmp_path: Path) -> None:
    for name in (name for name in dir(ExporterCases) if name.startswith("test_")):
        (tmp_path / name).mkdir()
        case = getattr(cases_of(""), name)
        case(tmp_path / name) if "reference" not in name else case()
