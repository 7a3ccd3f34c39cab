from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixbit.attacks import InputGrid
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.export import ExecutorPredictor
from mixbit.integer import executor
from tests.inference import seen


def test_the_network_reads_what_the_grid_says() -> None:
    """Images on the grid, and the images themselves, give the integers the same numbers; half a step further do not."""
    space = _cases().space()
    graph = seen.graph(space)
    grid, x = InputGrid.of(graph, space), _cases().inputs(4)
    assert torch.equal(ExecutorPredictor(graph, space).logits(grid.snap(x)), ExecutorPredictor(graph, space).logits(x))
    read = executor.trace(graph, space.enter(x).numpy())
    assert any(np.array_equal(found, grid.integers(x).numpy()) for found in read.values() if found.shape == x.shape)
    step = torch.tensor(grid.step).view(1, -1, 1, 1)
    inside = (grid.integers(x) > grid.grid.qmin) & (grid.integers(x) < grid.grid.qmax)
    for share, moves in ((0.49, 0), (0.51, 1)):
        moved = (grid.integers(grid.snap(x) + share * step) - grid.integers(x))[inside]
        assert set(moved.tolist()) == {moves}


def test_a_graph_without_a_quantized_input_has_none() -> None:
    with pytest.raises(MixbitError, match="does not quantize its input"):
        InputGrid.of(SimpleNamespace(ops=(), tensors={}), InputSpace())


def _cases() -> seen.PredictorCases:
    cases = seen.PredictorCases()
    cases.shape = seen.SHAPE
    return cases
