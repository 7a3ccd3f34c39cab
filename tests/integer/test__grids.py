"""Grids of tensors: trained where they suffice, calibrated over all batches where not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit.errors import ExportError
from mixbit.integer._grids import _coarsest, spread
from mixbit.integer._steps import FakeQuantize, Wire
from mixbit.integer.arithmetic import Grid
from mixbit.integer.graph import IntegerGraph
from mixbit.integer.lowering import lower
from mixbit.quantization._layers import put_on
from mixbit.quantizers import Quantizer
from tests.export.following import hold
from tests.export.modules import NETWORK

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


@pytest.mark.parametrize("seed", range(30))
def test_a_calibrated_grid_holds_the_range_and_zero(seed: int) -> None:
    """Within half a step at the ends, in 255 steps over the range with zero; unsigned where nothing is negative."""
    pick = random.Random(seed)
    low = pick.choice([0.0, 0.3, -pick.uniform(0.01, 50), -3.0])
    high = pick.choice([-0.2, 0.0, pick.uniform(0.02, 70)]) if low < 0 else pick.uniform(0.4, 9)
    grid = spread(low, high)
    width = max(high, 0.0) - min(low, 0.0)
    assert grid.scale == pytest.approx(width / 255, rel=1e-6)
    assert (grid.qmin, grid.qmax) == ((0, 255) if low >= 0 else (-128, 127))
    assert grid.qmin <= grid.zero_point <= grid.qmax and (low < 0 or grid.zero_point == 0)
    first, last = (grid.scale * (end - grid.zero_point) for end in (grid.qmin, grid.qmax))
    assert abs(first - min(low, 0.0)) <= 0.501 * grid.scale and abs(last - max(high, 0.0)) <= 0.501 * grid.scale


@pytest.mark.parametrize("seed", range(30))
def test_a_calibrated_step_is_the_largest_odd_part_that_covers(seed: int) -> None:
    pick = random.Random(seed)
    low, high = pick.choice([0.0, -pick.uniform(0.1, 3)]), pick.uniform(0.1, 3)
    own = (high - low) / 255
    coarsest = own * pick.choice([1.0, 2.0, 3.0, pick.uniform(1, 40)])
    parts = coarsest / spread(low, high, coarsest=coarsest).scale
    assert parts == pytest.approx(round(parts), rel=1e-5) and round(parts) % 2 == 1
    assert coarsest / round(parts) >= own * (1 - 1e-5) and coarsest / (round(parts) + 2) < own
    assert spread(low, high, coarsest=0.4 * own) == spread(low, high), "a finer reader changes nothing"


@pytest.mark.parametrize("parts", range(1, 40, 2))
def test_a_part_is_not_lost_to_the_rounding_of_a_trained_step(parts: int) -> None:
    """Trained steps are float32: what should be so many own steps may be a little less."""
    pick = random.Random(parts)
    for _ in range(20):
        high = pick.uniform(0.1, 3)
        coarsest = float(np.float32(parts * high / 255))
        assert round(coarsest / spread(0.0, high, coarsest=coarsest).scale) == parts


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("low", [0.0, -0.7])
def test_a_step_is_a_number_that_runtimes_hold(low: float, bits: int) -> None:
    for coarsest in (None, 0.3):
        grid = spread(low, 1.1, bits, coarsest)
        assert grid.scale == float(np.float32(grid.scale)) and grid.bits == bits


def test_a_reader_that_lets_nothing_through_does_not_choose_the_step() -> None:
    node: Any = None
    source = Wire(name="x", shape=(3,), node=node, step=None)
    for scale, dead in ((0.25, False), (1.0, True), (0.5, False)):
        grid = Grid(scale=scale, zero_point=0, qmin=0, qmax=15)
        source.readers.append(FakeQuantize(name="q", inputs=[source], grid=grid, dead=dead))
    assert _coarsest([source]) == 0.5


def test_no_range_has_a_step_of_one() -> None:
    assert spread(0.0, 0.0).scale == 1.0


class Readers(nn.Module):
    """A layer with two readers, their outputs added: everything that may stand between is `change`."""

    def __init__(self, steps: tuple[float, float], *, signed: tuple[bool, bool] = (True, True)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.fc = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 3)
        for layer, step, sign in (
            (self.a, 0.03, True),
            (self.b, steps[0], signed[0]),
            (self.c, steps[1], signed[1]),
            (self.fc, 0.02, True),
        ):
            weight, inputs = Quantizer([8], signed=True), Quantizer([4], signed=sign, batched=True)
            with torch.no_grad():
                weight.steps.fill_(0.005)
                inputs.steps.fill_(step)
            put_on(layer, weight, inputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.change(self.a(x))
        return self.fc(self.b(y) + self.c(y))

    def change(self, y: Tensor) -> Tensor:
        return y


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


def lowered(model: nn.Module, batches: list[Tensor] | None = None) -> IntegerGraph:
    return lower(model.eval(), NETWORK, batches or [X])


def reasons(graph: IntegerGraph) -> dict[str, str]:
    return {note.name: note.reason for note in graph.notes if note.kind == "calibrated"}


def test_one_grid_of_all_readers_is_taken() -> None:
    graph = lowered(Readers((0.25, 0.25)))
    assert graph.grid("a").scale == 0.25 and graph.grid("a").bits == 4 and graph.tensors["a"].source == "trained"
    assert "a" not in reasons(graph)


@pytest.mark.parametrize(
    "model", [Readers((0.25, 0.15)), Readers((0.15, 0.25)), Readers((0.25, 0.25), signed=(True, False))]
)
def test_readers_of_two_grids_get_eight_bits_at_an_odd_part_of_the_coarser(model: nn.Module) -> None:
    graph = lowered(model)
    assert reasons(graph)["a"].startswith("read by 2 quantizers with different step sizes: 8 bits from ")
    assert graph.tensors["a"].source == "calibrated" and graph.grid("a").bits == 8
    parts = 0.25 / graph.grid("a").scale
    assert parts == pytest.approx(round(parts), rel=1e-5) and round(parts) % 2 == 1


class Moved(Readers):
    """Elements go through other shapes before they are read."""

    def change(self, y: Tensor) -> Tensor:
        return y[:, :, None].flatten(1)


@pytest.mark.parametrize(("steps", "source"), [((0.25, 0.25), "trained"), ((0.25, 0.15), "calibrated")])
def test_who_chose_a_grid_is_told_of_all_that_have_it(steps: tuple[float, float], source: str) -> None:
    graph = lowered(Moved(steps))
    moved = [op.output for op in graph.ops if op.kind == "Reshape"]
    assert len(moved) == 2 and {graph.grid(name) for name in moved} == {graph.grid("a")}
    assert {graph.tensors[name].source for name in ("a", *moved)} == {source}


def test_a_reader_without_a_quantizer_is_named() -> None:
    graph = lowered(Readers((0.25, 0.25)))
    (adder,) = [note for note in graph.notes if note.reason.startswith("read by add without a quantizer")][:1]
    assert adder.name == "b"


def test_the_range_is_that_of_all_batches() -> None:
    """Printed and in the grid: the smallest and the largest number of the batches, whatever their order."""
    model = Readers((0.25, 0.15)).eval()
    batches = [0.3 * X, X, 0.5 * X]
    with torch.no_grad():
        values = torch.cat([model.a(batch) for batch in batches])
    low, high = float(values.min()), float(values.max())
    for order in (batches, batches[::-1]):
        assert reasons(lowered(model, order))["a"].endswith(f"8 bits from {low:.4g} to {high:.4g}")


def test_quantized_tensors_that_meet_in_a_concat_are_refused() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = Quantizer([8], signed=True, batched=True)
            self.r = Quantizer([8], signed=True, batched=True)
            with torch.no_grad():
                self.q.steps.fill_(0.02)
                self.r.steps.fill_(0.03)
            self.fc = Readers((0.1, 0.1)).fc
            self.fc.weight = nn.Parameter(torch.randn(3, 12))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.cat([self.q(x), self.r(x)], 1))

    with pytest.raises(ExportError, match=r"quantized tensors meet in a concat. Quantize what reads it instead"):
        lowered(Early())


@pytest.mark.parametrize("batches", [[X, np.nan * X], [np.nan * X, X]])
def test_nan_in_any_batch_of_calibration_names_the_tensors(batches: list[Tensor]) -> None:
    with pytest.raises(ExportError, match="calibration met NaN or infinity in a"):
        lowered(Readers((0.25, 0.15)), batches)


@pytest.mark.parametrize("seed", range(50, 80))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
