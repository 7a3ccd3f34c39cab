"""What every quantizer must do.

Inherit `QuantizerCases` in a test module, say how your quantizer is made, and pytest runs the cases on it:

    class TestMine(QuantizerCases):
        def make(self, bits, signed):
            return MyQuantizer(bits, signed=signed)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["QuantizerCases"]


class QuantizerCases:
    """Cases that hold for every uniform quantizer, as an `nn.Module` that fake-quantizes its input."""

    widths = (2, 4, 8)

    def make(self, bits: int, signed: bool) -> nn.Module:
        """A quantizer of that width, ready for inputs of unit scale (signed) or from 0 to 1 (unsigned)."""
        raise NotImplementedError

    def inputs(self, signed: bool, seed: int = 0) -> Tensor:
        """Values `(8, 3, 5, 5)` that use the range and go beyond it."""
        x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        return x if signed else x.abs()

    def cases(self) -> list[tuple[int, bool]]:
        """All widths, signed and unsigned."""
        return [(bits, signed) for bits in self.widths for signed in (True, False)]

    def test_at_most_two_to_the_bits_values(self) -> None:
        for bits, signed in self.cases():
            assert self.make(bits, signed)(self.inputs(signed)).unique().numel() <= 2**bits

    def test_quantizing_twice_changes_nothing(self) -> None:
        for bits, signed in self.cases():
            quantizer = self.make(bits, signed)
            once = quantizer(self.inputs(signed)).detach()
            torch.testing.assert_close(quantizer(once).detach(), once)

    def test_order_is_kept(self) -> None:
        for bits, signed in self.cases():
            x = self.inputs(signed).flatten().sort().values
            assert (self.make(bits, signed)(x).detach().diff() >= 0).all()

    def test_zero_stays_zero(self) -> None:
        for bits, signed in self.cases():
            assert not self.make(bits, signed)(torch.zeros(4)).any()

    def test_unsigned_is_never_negative(self) -> None:
        for bits in self.widths:
            assert (self.make(bits, signed=False)(self.inputs(signed=True)) >= 0).all()

    def test_gradient_passes_inside_and_stops_outside(self) -> None:
        for bits, signed in self.cases():
            x = torch.cat([torch.full((4,), 1e-3), torch.full((4,), 1e4)]).requires_grad_()
            self.make(bits, signed)(x).sum().backward()
            assert x.grad is not None
            assert x.grad.tolist() == [1.0] * 4 + [0.0] * 4

    def test_inference_changes_no_state(self) -> None:
        for bits, signed in self.cases():
            quantizer = self.make(bits, signed).eval()
            before = copy.deepcopy(quantizer.state_dict())
            quantizer(self.inputs(signed))
            assert all(torch.equal(before[key], value) for key, value in quantizer.state_dict().items())

    def test_memory_layout_does_not_matter(self) -> None:
        for bits, signed in self.cases():
            quantizer, x = self.make(bits, signed), self.inputs(signed)
            other = quantizer(x.contiguous(memory_format=torch.channels_last))
            assert torch.equal(quantizer(x), other)
