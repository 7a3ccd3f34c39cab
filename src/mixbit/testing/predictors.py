"""What every Predictor must do.

Inherit `PredictorCases` in a test module, say how your Predictor is made, and pytest runs the cases on it:

    class TestMine(PredictorCases):
        shape = (3, 8, 8)

        def make(self, space):
            return MyPredictor("network.file", space)
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.evaluation import evaluate
from mixbit.inference import Predictor

__all__ = ["PredictorCases"]


class PredictorCases:
    """Cases that hold for every Predictor of class logits `(N, C)`.

    Attributes:
        shape: of one input.
        exact: whether one input gives the same bits in any batch; sums of floats may be added in another order.
    """

    shape: tuple[int, ...]
    exact = True

    def make(self, space: InputSpace) -> Predictor:
        """The Predictor of one network with inputs of that space."""
        raise NotImplementedError

    def inputs(self, count: int = 5) -> Tensor:
        """Whole pixels in [0, 1], as the network was calibrated for: noise around another colour in each."""
        random = torch.Generator().manual_seed(0)
        colours = torch.randint(0, 192, (count, self.shape[0], *[1] * (len(self.shape) - 1)), generator=random)
        return (colours + torch.randint(0, 64, (count, *self.shape), generator=random)) / 255

    def space(self) -> InputSpace:
        """A space that moves and stretches each channel by another number."""
        channels = range(self.shape[0])
        return InputSpace.of_images(
            mean=tuple(0.3 + 0.1 * channel for channel in channels), std=tuple(0.5 + 0.25 * one for one in channels)
        )

    def same(self, found: Tensor, wanted: Tensor) -> None:
        """Hold two logits of the same inputs against each other."""
        if self.exact:
            assert torch.equal(found, wanted)
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))

    def test_is_a_predictor_with_a_name(self) -> None:
        found = self.make(self.space())
        assert isinstance(found, Predictor) and found.name and found.space == self.space()

    def test_an_input_does_not_depend_on_its_batch(self) -> None:
        predictor, x = self.make(self.space()), self.inputs()
        kept = x.clone()
        whole = predictor.logits(x).detach()
        assert whole.dtype == torch.float32 and whole.dim() == 2 and len(whole) == len(x)
        assert len(torch.unique(whole, dim=0)) == len(x), "inputs that differ should give logits that differ"
        for at in range(len(x)):
            self.same(predictor.logits(x[at : at + 1]).detach()[0], whole[at])
        assert torch.equal(x, kept)

    def test_inputs_enter_through_their_space(self) -> None:
        x, space = self.inputs(), self.space()
        self.same(self.make(space).logits(x).detach(), self.make(InputSpace()).logits(space.enter(x)).detach())

    def test_gradients_are_given_or_refused(self) -> None:
        predictor, x = self.make(self.space()), self.inputs(2).requires_grad_()
        if not predictor.differentiable:
            with pytest.raises(MixbitError, match="gradients"):
                predictor.logits(x)
            with torch.no_grad():
                assert not predictor.logits(x).requires_grad
            return
        gradient = torch.autograd.grad(predictor.logits(x).square().sum(), x)[0]
        assert bool(torch.isfinite(gradient).all()) and bool(gradient.any())

    def test_bad_inputs_are_named(self) -> None:
        predictor, x = self.make(self.space()), self.inputs(2)
        broken = x.clone()
        broken.view(-1)[0] = float("nan")
        for wrong, said in ((broken, "NaN"), (x[:0], "1 or more"), ((255 * x).to(torch.uint8), "uint8")):
            with pytest.raises(MixbitError, match=said):
                predictor.logits(wrong)

    def test_it_can_be_evaluated(self) -> None:
        predictor, x = self.make(self.space()), self.inputs()
        with torch.no_grad():
            logits = predictor.logits(x)
        labels = logits.argmax(1)
        labels[0] = (labels[0] + 1) % logits.shape[1]
        found = evaluate(predictor, [(self.space().enter(x), labels)])
        assert found.accuracy == (len(x) - 1) / len(x)
        assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-3)
