"""Cost of a QAT step in other toolkits beside ours: ResNet-20, W4A4, per-channel weights, float step of the same run.

    python benchmarks/peers/qat_step.py [--rounds 20] [--batch 128] [--threads 1] [--fresh | --smoke]

Brevitas: QuantConv2d, QuantLinear and QuantReLU in the place of the float modules. torchao: its export route with the
XNNPACK quantizer, at its own 8 bits and with the ranges of 4 bits. All variants take turns, step by step, in one
process, and are one part of the result file; CPU time is compared.

Brevitas takes percentiles of every activation in its first 300 forward passes of training, and learns its step sizes
after that. The step of a training is the later one: these passes are done before, on few images, and each row says how
many there were.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat
from torch import nn
from torch.nn import functional as F
from torchao.quantization.pt2e import move_exported_model_to_train
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # first: there is another qat_step there

import records
from mixbit import models
from mixbit._heap import keep_freed_memory
from mixbit.quantizers._native import library
from qat_step import add_ratios, make_step, quantized, show, time_steps

PACKAGES = ("brevitas", "torchao", "torch")
FEW = 8
"""Images of the passes in which Brevitas takes statistics."""


class BrevitasBlock(nn.Module):
    """A residual block with every convolution and activation quantized."""

    def __init__(self, of: Any, bits: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = brevitas_conv(of.conv1, bits), of.bn1, brevitas_relu(bits)
        self.conv2, self.bn2, self.relu2 = brevitas_conv(of.conv2, bits), of.bn2, brevitas_relu(bits)
        self.shortcut = of.shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the float block."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


class BrevitasNetwork(nn.Module):
    """ResNet-20 of Brevitas layers, around the batch norms of a float one."""

    def __init__(self, of: Any, bits: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = brevitas_conv(of.conv1, bits, signed_input=True), of.bn1, brevitas_relu(bits)
        stages = (of.layer1, of.layer2, of.layer3)
        self.blocks = nn.Sequential(*(BrevitasBlock(block, bits) for stage in stages for block in stage))
        size = {"in_features": of.linear.in_features, "out_features": of.linear.out_features}
        self.linear = qnn.QuantLinear(
            **size,
            bias=True,
            weight_quant=Int8WeightPerChannelFloat,
            weight_bit_width=bits,
            input_quant=Uint8ActPerTensorFloat,
            input_bit_width=bits,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the float network."""
        out = self.blocks(self.relu(self.bn1(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))  # type: ignore[no-any-return]


def brevitas_conv(of: nn.Conv2d, bits: int, *, signed_input: bool = False) -> nn.Module:
    """QuantConv2d of the same shape; the network's input, which no QuantReLU made, is quantized by the layer."""
    extra = {"input_quant": Int8ActPerTensorFloat, "input_bit_width": bits} if signed_input else {}
    layer: nn.Module = qnn.QuantConv2d(
        of.in_channels,
        of.out_channels,
        of.kernel_size,
        stride=of.stride,
        padding=of.padding,
        bias=False,
        weight_quant=Int8WeightPerChannelFloat,
        weight_bit_width=bits,
        **extra,
    )
    return layer


def brevitas_relu(bits: int) -> nn.Module:
    """QuantReLU with a learned step size, Brevitas's usual activation."""
    relu: nn.Module = qnn.QuantReLU(bit_width=bits)
    return relu


def collected(model: nn.Module, x: torch.Tensor) -> int:
    """Forward passes in training mode until every quantizer of Brevitas has left its statistics behind; how many.

    Its modules count their passes up to `collect_stats_steps`; the pass after that sets the step size to be learned.

    Raises:
        SystemExit: this Brevitas counts in another way.
    """
    counting = [one for one in model.modules() if hasattr(one, "collect_stats_steps") and hasattr(one, "counter")]
    if not counting:
        raise SystemExit("No module of this Brevitas counts the passes of its statistics, so the phase is not known.")
    most = max(one.collect_stats_steps for one in counting)
    model.train()
    with torch.no_grad():
        for _ in range(most + 1):
            model(x[:FEW])
    if not all(one.counter > one.collect_stats_steps for one in counting):
        raise SystemExit(f"Quantizers of Brevitas take statistics after {most + 1} passes.")
    return most + 1


def torchao_model(model: nn.Module, x: torch.Tensor, *, four: bool) -> nn.Module:
    """Exported and prepared for QAT by torchao; `four` narrows its ranges to 4 bits."""
    ranges = {"act_qmin": 0, "act_qmax": 15, "weight_qmin": -8, "weight_qmax": 7} if four else {}
    config = get_symmetric_quantization_config(is_per_channel=True, is_qat=True, **ranges)
    exported = torch.export.export(model.train(), (x,), strict=True).module()
    prepared = prepare_qat_pt2e(exported, XNNPACKQuantizer().set_global(config))
    move_exported_model_to_train(prepared)
    return prepared  # type: ignore[no-any-return]


class Trainable(nn.Module):
    """A wrapper whose `train()` does nothing: an exported module refuses it, and is in training mode already."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of

    def train(self, mode: bool = True) -> Trainable:
        """Nothing to do."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the wrapped module."""
        return self.of(x)  # type: ignore[no-any-return]


def variants(x: torch.Tensor) -> dict[str, nn.Module]:
    """Every network that is timed, from the same float weights."""

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return models.build("resnet20").to(memory_format=torch.channels_last)

    return {
        "float32": fresh(),
        "mixbit W4A4": quantized(fresh(), x),
        "Brevitas W4A4": BrevitasNetwork(fresh(), 4).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        "torchao PT2E W8A8": Trainable(torchao_model(fresh(), x, four=False)),
        "torchao PT2E W4A4 ranges": Trainable(torchao_model(fresh(), x, four=True)),
    }


def table(batch: int, rounds: int) -> dict[str, dict[str, Any]]:
    """All steps in turns, with the passes that came before the first."""
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    networks = variants(x)
    before = {name: collected(one, x) for name, one in networks.items() if isinstance(one, BrevitasNetwork)}
    found = time_steps({name: make_step(one, x, y) for name, one in networks.items()}, rounds)
    add_ratios(found, "float32")
    show(found)
    return {name: {**row, "passes_before": before.get(name, 0)} for name, row in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # for all variants alike
    if given.smoke:
        given.batch, given.rounds = 2, 1
    settings = {"batch": given.batch, "rounds": given.rounds, "threads": given.threads, "statistics": "before"}
    settings |= {"compiled_kernels": library() is not None}
    results = records.Results(
        "peers_qat_step", settings=settings, libraries=PACKAGES, fresh=given.fresh, smoke=given.smoke
    )
    if results.plan(["steps"]):
        facts = {"batch": given.batch, "rounds": given.rounds, "compiled_kernels": library() is not None}
        results.facts(**facts, versions=records.versions(PACKAGES))
    results.part("steps", lambda: table(given.batch, given.rounds))


if __name__ == "__main__":
    main()
