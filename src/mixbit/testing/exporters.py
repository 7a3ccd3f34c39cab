"""Contract tests of exporters: what is written is whole, the same every time, and computes what the reference does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixbit.export import ExecutorPredictor, Exporter
from mixbit.integer import IntegerGraph

__all__ = ["ExporterCases"]


class ExporterCases(ABC):
    """Inherit it, and say what is tested.

    Attributes:
        steps: how far an output may lie from the reference executor's, in its own unit; 0 for runtimes that round as
            `rounding` says.
        images: inputs that are compared.
    """

    steps: float = 0.0
    images: int = 6

    @abstractmethod
    def exporter(self) -> Exporter:
        """A new exporter to test."""

    @abstractmethod
    def graph(self, rounding: Any) -> IntegerGraph:
        """A network of a few layers of unequal bits, lowered with that rounding."""

    def reference(self, graph: IntegerGraph) -> IntegerGraph:
        """The network whose numbers the target gives: another one where the printer gives layers wider steps."""
        return graph

    def inputs(self, graph: IntegerGraph) -> torch.Tensor:
        """Inputs as the network reads them."""
        generator = torch.Generator().manual_seed(7)
        return torch.randn(self.images, *graph.tensors[graph.input].shape, generator=generator)

    def test_what_is_written_is_at_its_path_and_the_same_every_time(self, tmp_path: Path) -> None:
        exporter = self.exporter()
        graph = self.graph(exporter.rounding)
        samples = self.inputs(graph).numpy()
        written = [exporter.write(graph, tmp_path / name / exporter.file, samples=samples).path for name in "ab"]
        assert written[0] == tmp_path / "a" / exporter.file
        first, second = (_content(path) for path in written)
        assert first and first == second

    def test_a_path_that_cannot_be_written_leaves_nothing(self, tmp_path: Path) -> None:
        exporter = self.exporter()
        (tmp_path / "file").write_text("in the way")
        graph = self.graph(exporter.rounding)
        try:
            exporter.write(graph, tmp_path / "file" / exporter.file, samples=self.inputs(graph).numpy())
        except Exception as error:
            assert str(error), "an error says what is wrong"
        else:
            raise AssertionError("it was written into a file as if that were a folder")
        assert [one.name for one in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_text() == "in the way"

    def test_what_it_computes_is_what_the_reference_computes(self) -> None:
        exporter = self.exporter()
        graph = self.graph(exporter.rounding)
        x = self.inputs(graph)
        found, wanted = exporter.predictor(graph).logits(x), ExecutorPredictor(self.reference(graph)).logits(x)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5, atol=self.steps + 1e-5)


def _content(path: Path) -> dict[str, bytes]:
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return {str(one.relative_to(path)): one.read_bytes() for one in files}
