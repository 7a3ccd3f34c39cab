"""DoReFa's weights and activations against its formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.quantizers import DoReFaActivations, DoReFaWeights, find_rule
from mixbit.testing.quantizers import QuantizerCases


class TestContract(QuantizerCases):
    def make(self, bits: int, signed: bool) -> nn.Module:
        return DoReFaActivations([bits], signed=False)

    def cases(self) -> list[tuple[int, bool]]:
        return [(bits, False) for bits in self.widths]


def weights(seed: int = 0) -> Tensor:
    return torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(seed))


def formula(w: Tensor, bits: int) -> Tensor:
    """With the gradient passed straight through the rounding, and through the maximum."""
    n = 2**bits - 1
    t = n * (w.tanh() / (2 * w.tanh().abs().max()) + 0.5)
    return 2 * (t + (t.round() - t).detach()) / n - 1


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_are_the_formula_and_so_are_gradients(bits: int) -> None:
    w, x, up = weights().requires_grad_(), weights().requires_grad_(), weights(1)
    wanted, found = formula(w, bits), DoReFaWeights([bits], signed=True)(x)
    torch.testing.assert_close(found, wanted)
    (wanted * up).sum().backward()
    (found * up).sum().backward()
    torch.testing.assert_close(x.grad, w.grad)


def test_gradients_of_a_channel_are_those_of_its_own_formula() -> None:
    """The largest weight's, on which the maximum depends, included."""
    w, x, up = weights().requires_grad_(), weights().requires_grad_(), weights(1)
    (torch.stack([formula(channel, 3) for channel in w]) * up).sum().backward()
    (DoReFaWeights([3], signed=True, channels=6)(x) * up).sum().backward()
    assert w.grad is not None and x.grad is not None
    torch.testing.assert_close(x.grad, w.grad)


def test_activations_pass_gradients_inside_and_stop_them_at_the_ends() -> None:
    quantizer = DoReFaActivations([2], signed=False)
    x = torch.tensor([-1.0, 0.0, 0.1, 0.5, 0.9, 1.0, 7.0], requires_grad=True)
    y = quantizer(x)
    y.backward(torch.arange(1.0, 8.0))
    torch.testing.assert_close(y.detach() * 3, torch.tensor([0.0, 0.0, 0.0, 2.0, 3.0, 3.0, 3.0]))  # 1.5 goes to 2
    assert x.grad is not None and x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]
    assert quantizer.steps.grad is None and not quantizer.steps.requires_grad


def test_fixed_quantizers_are_ready_from_the_start() -> None:
    for quantizer in (DoReFaWeights([4, 2], signed=True), DoReFaActivations([4, 2], signed=False)):
        assert quantizer.ready.all() and quantizer.fault() is None and not quantizer.never_set


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_zero_is_a_tie_that_goes_up(bits: int) -> None:
    found = DoReFaWeights([bits], signed=True)(torch.tensor([-1.0, 0.0, 1.0]))
    n = 2**bits - 1
    torch.testing.assert_close(found, torch.tensor([-1.0, 1 / n, 1.0]))


def test_steps_are_fixed() -> None:
    bank = DoReFaWeights([4, 2], signed=True)
    bank.initialise(weights(), find_rule("minmax"))
    bank(weights().requires_grad_()).sum().backward()
    assert torch.equal(bank.steps, torch.ones(2, 1)) and bank.steps.grad is None
    inputs = DoReFaActivations([4, 2], signed=False)
    inputs.rule = find_rule("minmax")
    inputs(weights())
    torch.testing.assert_close(inputs.steps, torch.tensor([[1 / 15], [1 / 3]]))


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.1, 1.3])
def test_another_step_is_another_number_of_levels_with_nothing_clipped(factor: float) -> None:
    """What the study of wrong steps does: `2 round(n' t) / n' - 1` with `n' = n / factor`."""
    quantizer, n = DoReFaWeights([4], signed=True), 15 / factor
    with torch.no_grad():
        quantizer.steps.fill_(factor)
    t = weights().tanh() / (2 * weights().tanh().abs().max()) + 0.5
    torch.testing.assert_close(quantizer(weights()), 2 * torch.round(n * t) / n - 1)


def test_maximum_a_channel() -> None:
    found = DoReFaWeights([3], signed=True, channels=6)(weights())
    for channel in range(6):
        torch.testing.assert_close(found[channel], formula(weights()[channel], 3))


def test_more_bits_come_closer_to_the_unrounded() -> None:
    bank = DoReFaWeights([8, 4, 2], signed=True)
    errors = []
    for bits in bank.bits:
        bank.select(bits)
        errors.append(float((bank(weights()) - bank.unrounded(weights())).abs().max()))
    assert errors[0] < errors[1] < errors[2] and errors[0] < 1 / 255 + 1e-6


def test_a_tensor_of_zeros_has_a_value() -> None:
    assert torch.isfinite(DoReFaWeights([2], signed=True)(torch.zeros(5))).all()


def test_export_sees_one_rounding() -> None:
    quantizer = DoReFaWeights([4, 2], signed=True).eval()
    program = torch.export.export(quantizer, (weights(),))
    assert torch.equal(program.module()(weights()), quantizer(weights()))
    kinds = [str(node.target) for node in program.graph.nodes]
    assert sum("fake_quantize" in kind for kind in kinds) == 1 and not any("round" in kind for kind in kinds)
