"""Exporters by name, mixbit's and a user's, from the registry to the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mixbit import report, runs
from mixbit.errors import ExportError
from mixbit.export import exporter_names, find_exporter, register_exporter
from mixbit.export import registry as module
from tests.cli import tiny
from tests.export.throw_away import TextExporter


@pytest.fixture
def entered() -> Iterator[TextExporter]:
    exporter = register_exporter(TextExporter())
    yield exporter  # type: ignore[misc]
    module._EXPORTERS.leave("text")


def test_mixbits_own_are_there_with_their_roundings() -> None:
    assert exporter_names() == ["c", "onnx", "qonnx"]
    assert [find_exporter(name).rounding for name in exporter_names()] == ["single", "float32", "float32"]
    assert [find_exporter(name).file for name in exporter_names()] == ["c", "model.onnx", "model.qonnx.onnx"]


def test_an_unknown_one_brings_the_legal_names() -> None:
    with pytest.raises(ExportError, match=r"target 'onx' is unknown. Did you mean 'onnx'\? Legal: c, onnx, qonnx"):
        find_exporter("onx")


def test_a_rounding_that_lowering_does_not_know_is_refused() -> None:
    class Odd(TextExporter):
        rounding = "up"  # type: ignore[assignment]

    with pytest.raises(ExportError, match="target 'text': rounding='up' is unknown. Legal: "):
        register_exporter(Odd())
    assert "text" not in exporter_names()


def test_a_users_exporter_is_listed_written_verified_and_shown(entered: TextExporter, tmp_path: Path) -> None:
    assert "text" in [row[0] for row in report.listing("targets").rows]
    done = runs.export(tiny.quantized_run(), "text", tmp_path / "model.txt", images=20)
    assert list(done.files) == [tmp_path / "model.txt"] and "Conv stem" in (tmp_path / "model.txt").read_text()
    assert done.graph.ops[1].rounding == "double"  # type: ignore[attr-defined]
    found = done.verification
    assert found is not None and found.images == 20 and found.identical == 1.0 and found.right
    assert found.accuracy == found.reference_accuracy is not None
    assert [row[0] for row in report.file_tables(done.file)[0].rows] == ["model.txt"]
    assert "20" in report.verification_table(found).plain()
    with pytest.raises(ExportError, match="target 'text' is registered already"):
        register_exporter(TextExporter())
