import pytest
import torch
from torch import nn

from mixbit import LayerBits, Policy, calibrate, capture, quantize
from mixbit.attacks import quantization_shift
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.inference import TorchPredictor

STEP = 1 / 255


def _network() -> TorchPredictor:
    """An input of 8 bits in steps of 1/255, then a linear layer that reads 2 bits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.linspace(0, 1, 256).view(16, 1, 4, 4)
    network = capture(model, x)
    first, last = (layer.name for layer in network.layers)
    layers = {first: LayerBits(8, 8), last: LayerBits(8, 2)}
    quantize(model, Policy(fingerprint=network.fingerprint, layers=layers), network)
    calibrate(model, [x])
    with torch.no_grad():
        model[1].input_quantizer.steps.fill_(STEP)
    return TorchPredictor(model, InputSpace(bounds=(0.0, 1.0)))


def test_less_than_half_a_step_is_erased_and_more_becomes_a_whole_one() -> None:
    predictor = _network()
    x = (torch.randint(50, 200, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0)) * STEP).float()
    for share, ratio, erased in ((0.4, 0.0, 1.0), (0.6, 1 / 0.6, 0.0), (1.0, 1.0, 0.0), (2.6, 3 / 2.6, 0.0)):
        first, second = quantization_shift(predictor, x, x + share * STEP)
        assert (first.layer, second.layer) == ("1", "3")
        assert first.l2 == pytest.approx(ratio, rel=1e-3) and first.linf == pytest.approx(ratio, rel=1e-3)
        assert first.erased == erased and first.images == 6
        # What the first layer erased never reaches the second.
        assert second.images == (0 if erased else 6)


def test_shifts_are_ratios_of_norms_at_each_layer() -> None:
    predictor = _network()
    random = torch.Generator().manual_seed(0)
    x = torch.rand(5, 1, 4, 4, generator=random)
    points = (x + 0.05 * torch.randn(5, 1, 4, 4, generator=random)).clamp(0, 1)
    second = quantization_shift(predictor, x, points)[1]
    model = predictor.model
    with torch.no_grad():
        before = [nn.functional.relu(model[1](one.flatten(1))) for one in (x, points)]
        after = [model[3].input_quantizer(one) for one in before]
    apart, rounded = (one[1] - one[0] for one in (before, after))
    assert second.l2 == pytest.approx(float((rounded.norm(dim=1) / apart.norm(dim=1)).mean()), rel=1e-5)
    wanted = float((rounded.abs().amax(1) / apart.abs().amax(1)).mean())
    assert second.linf == pytest.approx(wanted, rel=1e-5)
    assert second.erased == pytest.approx(float((rounded == 0).all(1).float().mean()))
    assert second.l2 != second.linf


def test_nothing_is_left_hanging_on_the_network() -> None:
    predictor = _network()
    x = torch.rand(2, 1, 4, 4)
    quantization_shift(predictor, x, x)
    assert not any(module._forward_pre_hooks for module in predictor.model.modules())


def test_bad_input_is_named() -> None:
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(MixbitError, match="one shape"):
        quantization_shift(_network(), x, x[:1])
    with pytest.raises(MixbitError, match="quantizes no input"):
        quantization_shift(TorchPredictor(nn.Flatten()), x, x)
