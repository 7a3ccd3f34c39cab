"""The MLPerf Tiny networks against their published weights."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from mixbit import models
from mixbit.models._same import same_pad
from tests.needs import need
from tests.support import shared, summation_error


@pytest.mark.parametrize("size", [1, 2, 5, 8, 10, 49])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_gives_every_stride_one_output(size: int, kernel: int, stride: int) -> None:
    padded = same_pad(torch.ones(1, 1, size, size), (kernel, kernel), stride)
    out = nn.functional.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=stride)
    assert out.shape[2:] == (-(-size // stride),) * 2
    assert padded.sum() == size * size


def test_same_padding_puts_the_odd_zero_last() -> None:
    assert same_pad(torch.ones(1, 1, 1, 4), (1, 3), (1, 2))[0, 0, 0].tolist() == [1, 1, 1, 1, 0]


def test_convolutions_are_ordinary_ones() -> None:
    for name in ("ds-cnn", "mobilenetv1-0.25", "resnet8"):
        assert {type(m) for m in models.build(name).modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}


@pytest.mark.data
def test_keywords_are_spotted_as_published() -> None:
    """453 of 500 (90.6 %); the benchmark's own float model has 90.1 % on 1000 that hold these."""
    data = np.load(shared("data", "kws", "speech_commands_mfcc_int8.npz"))
    features = (torch.from_numpy(data["x"]).float() - float(data["zero_point"])) * float(data["scale"])
    file = shared("data", "weights", "mlperf_kws_dscnn_folded.safetensors")
    net = models.load_weights(models.build("ds-cnn"), file).eval()
    with torch.inference_mode():
        found = net(features[:, None]).argmax(1)
    assert int((found == torch.from_numpy(data["y"]).long()).sum()) == 453


@pytest.mark.data
def test_person_detection_equals_the_published_float_model() -> None:
    """0.9979017 is what vww_96_float.tflite says of this ramp."""
    file = shared("data", "weights", "mlperf_vww_mobilenetv1_025_96.safetensors")
    net = models.load_weights(models.build("mobilenetv1-0.25"), file).eval()
    with torch.inference_mode():
        found = net(torch.linspace(0, 1, 3 * 96 * 96).view(1, 3, 96, 96)).softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.9979017, 0.00209829]]), rtol=0, atol=1e-6)


def anomaly_detector() -> nn.Module:
    """With the published weights, less the biases that the benchmark's tflite files lack: those before a BatchNorm."""
    file = shared("data", "weights", "mlperf_ad_autoencoder.safetensors")
    net = models.load_weights(models.build("ad-autoencoder"), file).eval()
    for layer in list(net)[:-1]:
        nn.init.zeros_(layer.bias)
    return net


@pytest.mark.data
def test_anomaly_detection_equals_the_published_float_model() -> None:
    """The numbers are what ad01_fp32.tflite says of this ramp of decibels."""
    net, x = anomaly_detector(), torch.linspace(-80, 10, 640)[None]
    with torch.inference_mode():
        found = net(x)
    wanted = torch.tensor([-72.785828, -42.870750, -67.344574])
    torch.testing.assert_close(found[0, [0, 320, 639]], wanted, rtol=0, atol=order_of_summation(net, x))


def order_of_summation(net: nn.Module, x: torch.Tensor) -> float:
    """Ten sums, one upon the other: each is off by the order of its own, and hands on what came before."""
    *body, last = net
    read: list[torch.Tensor] = []
    handle = last.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    with torch.inference_mode():
        net(x)
        terms = nn.functional.linear(read[0].abs(), last.weight.abs(), last.bias.abs())
    handle.remove()
    return (len(body) + 1) * summation_error(terms.max().item(), last.in_features + 1)


@pytest.mark.data
def test_anomaly_detection_equals_the_published_file_in_its_runtime() -> None:
    need("ai_edge_litert")
    interpreters = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = interpreters.Interpreter(str(shared("data", "tflite", "ad01_fp32.tflite")))
    interpreter.allocate_tensors()
    (read,), (written,) = interpreter.get_input_details(), interpreter.get_output_details()
    net = anomaly_detector()
    torch.manual_seed(0)
    for x in (torch.rand(5, 1, 640) * 100 - 85).split(1):
        interpreter.set_tensor(read["index"], x[0].numpy())
        interpreter.invoke()
        with torch.inference_mode():
            wanted, atol = interpreter.get_tensor(written["index"]), order_of_summation(net, x[0])
            np.testing.assert_allclose(net(x[0]).numpy(), wanted, rtol=0, atol=atol)


def test_the_autoencoder_reads_what_its_layers_kept() -> None:
    """Each BatchNorm acts between its layer and the ReLU: one that lets nothing through hides the input."""
    torch.manual_seed(0)
    net = models.build("ad-autoencoder").eval()
    x = torch.randn(3, 640)
    before = net(x)
    assert before.shape == x.shape
    nn.init.constant_(net[4].bn.bias, -1e9)
    after = net(x)
    assert not torch.equal(before, after)
    assert torch.equal(after[0], after[1])


@pytest.mark.parametrize(
    ("name", "layers"), [("ds-cnn", 10), ("mobilenetv1-0.25", 28), ("resnet8", 10), ("ad-autoencoder", 10)]
)
def test_layers_with_weights(name: str, layers: int) -> None:
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in models.build(name).modules()) == layers
