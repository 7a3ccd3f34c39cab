"""The bank of quantizers: switching, initialisation, gradient scale."""

from __future__ import annotations

import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.quantizers import Quantizer, find_rule


def bank(**kwargs: object) -> Quantizer:
    return Quantizer([6, 5, 4, 3, 2], **{"signed": True, **kwargs})  # type: ignore[arg-type]


def test_weight_initialisation_doubles_from_bit_to_bit() -> None:
    quantizer = bank()
    quantizer.initialise(torch.randn(16, 8, 3, 3), find_rule("lsq+"))
    ratios = quantizer.steps[1:, 0] / quantizer.steps[:-1, 0]
    torch.testing.assert_close(ratios, torch.full((4,), 2.0))


def test_activation_initialisation_ratios_of_the_dossier() -> None:
    quantizer = bank(signed=False, batched=True)
    quantizer.initialise(torch.rand(8, 3, 5, 5), find_rule("lsq"))
    s6, s5, s4, s3, s2 = quantizer.steps[:, 0].tolist()
    assert [round(r, 4) for r in (s2 / s3, s3 / s4, s4 / s5, s5 / s6)] == [1.5275, 1.4639, 1.4376, 1.4256]


def test_select_changes_only_the_row_in_use() -> None:
    quantizer = bank()
    quantizer.initialise(torch.randn(64), find_rule("minmax"))
    x = torch.randn(64)
    for bits in quantizer.bits:
        quantizer.select(bits)
        assert quantizer.selected == bits
        assert quantizer(x).unique().numel() <= 2**bits
    quantizer.select(4)
    quantizer(x).sum().backward()
    assert quantizer.steps.grad is not None
    assert (quantizer.steps.grad != 0).squeeze(1).tolist() == [False, False, True, False, False]


def test_selection_survives_the_state_dict() -> None:
    one, other = bank(), bank()
    one.initialise(torch.randn(64), find_rule("minmax"))
    one.select(3)
    other.load_state_dict(one.state_dict())
    x = torch.randn(64)
    assert other.selected == 3 and torch.equal(one(x), other(x))


@pytest.mark.parametrize(
    ("scale", "factor"), [("none", 1.0), ("features", (6 * 15) ** -0.5), ("numel", (24 * 15) ** -0.5)]
)
def test_gradient_scale(scale: str, factor: float) -> None:
    x = torch.rand(4, 6)
    grads = []
    for mode in ("none", scale):
        quantizer = Quantizer([4], signed=False, batched=True, gradient_scale=mode)  # type: ignore[arg-type]
        quantizer.initialise(x, find_rule("lsq"))
        quantizer(x).sum().backward()
        grads.append(quantizer.steps.grad)
    torch.testing.assert_close(grads[1], grads[0] * factor)


def test_step_range_clamps_before_use_and_stops_the_gradient() -> None:
    quantizer = Quantizer([4], signed=True, step_range=(1e-5, 1.0))
    with torch.no_grad():
        quantizer.steps.fill_(3.0)
    y = quantizer(torch.tensor([2.2]))
    y.sum().backward()
    assert y.item() == 2.0
    assert quantizer.steps.grad is not None and quantizer.steps.grad.item() == 0
    assert quantizer.steps.item() == 3.0  # the indicator that LIMPQ reads is the raw value


def test_per_channel_steps() -> None:
    quantizer = Quantizer([4], signed=True, channels=3)
    quantizer.initialise(torch.randn(3, 5, 2), find_rule("minmax"))
    assert quantizer.steps.shape == (1, 3) and quantizer(torch.randn(3, 5, 2)).shape == (3, 5, 2)


@pytest.mark.parametrize("bits", [[], [4, 4], [1], [17], ["4"]])
def test_illegal_bits(bits: list[int]) -> None:
    with pytest.raises(MixbitError, match="bits="):
        Quantizer(bits, signed=True)


def test_select_of_other_bits_names_the_legal_ones() -> None:
    with pytest.raises(MixbitError, match=r"bits=7 is not in this bank. Legal: \[6, 5, 4, 3, 2\]"):
        bank().select(7)
