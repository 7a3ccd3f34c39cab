"""The emulated board as a Predictor: the contract, and bit for bit the executor."""

from __future__ import annotations

from functools import cache

import torch

from mixbit.data import InputSpace
from mixbit.export import ExecutorPredictor
from mixbit.export.mcu import BoardPredictor
from mixbit.inference import Predictor
from mixbit.testing.predictors import PredictorCases
from tests.export.graphs import Builder, rounded
from tests.inference import seen
from tests.needs import needs

pytestmark = needs("board")
SPACE = PredictorCases.space(type("", (), {"shape": seen.SHAPE})())  # type: ignore[arg-type]


@cache
def made(space: InputSpace) -> BoardPredictor:
    return BoardPredictor(seen.graph(SPACE), space, batch=4)


class TestBoard(PredictorCases):
    shape = seen.SHAPE

    def make(self, space: InputSpace) -> Predictor:
        return made(space)

    def test_it_is_the_executor_bit_for_bit(self) -> None:
        x = self.inputs(9)
        assert torch.equal(self.make(SPACE).logits(x), ExecutorPredictor(seen.graph(SPACE), SPACE).logits(x))
        assert made(SPACE).name == "C on mps2-an386"


def test_outputs_of_several_dimensions_have_the_scale_of_their_channel() -> None:
    b = Builder((3, 7))
    graph, x = rounded(b.finish(b.linear(b.first, 4, bits=None)), "single"), torch.from_numpy(b.samples)
    assert torch.equal(BoardPredictor(graph).logits(x), ExecutorPredictor(graph).logits(x))
