"""The numbers in prose on latency, microcontrollers, C, post-training quantization and single methods."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

from common import ROOT, result, row
from intervals import of_difference
from latency_ways import BEFORE, SAME, WAYS
from numbers_arena import BITOPS, BYTES, calibrated, error, gain, joined
from tables_latency import means

CONVOLUTION, DEPTHWISE, LINEAR = "3x3, 32 to 32, 16x16", "3x3 depthwise, 64, 16x16", "linear, 640 to 128"


def kernel(layer: str, bits: int) -> float:
    """Instructions of a product on the Cortex-M4, with dsp kernels."""
    found = row(result("mcu_kernels")["rows"], core="cortex-m4", kernels="dsp", layer=layer, bits=bits)
    return float(found["per_mac"])


def image(network: str, part: float, how: str, kernels: str = "dsp") -> dict[str, Any]:
    """A network of MLPerf Tiny at a part of the flash."""
    return row(result("mlperf_tiny")["rows"], network=network, part=part, how=how, kernels=kernels)


def accuracy(*which: Any) -> float:
    """Between 0 and 1."""
    return float(image(*which)["quality"]["accuracy"])


def beside_weights(weights: float) -> float:
    """What of DS-CNN's image of 8 bits stays with weights of that part of their bytes, in percent."""
    found = image("ds-cnn", 1.0, "ptq")["predicted"]
    return float(100 * (1 - (1 - weights) * found["weight_bytes"] / found["flash"]))


def lost(how: str) -> float:
    """Points that two thirds of the flash cost DS-CNN."""
    return 100 * (accuracy("ds-cnn", 1.0, how) - accuracy("ds-cnn", 2 / 3, how))


def sized(packed: bool) -> dict[str, Any]:
    """Bytes of ResNet-20 at W4A4 on a Cortex-M4."""
    return row(result("export_c")["sizes"], network="W4A4-single", packed_activations=packed)


def code_table() -> dict[str, Any]:
    """Measured bytes of code."""
    found: dict[str, Any] = json.loads((ROOT / "src" / "mixbit" / "export" / "c" / "code_bytes.json").read_text())
    return found


def width_code() -> list[int]:
    """Bytes of code of each width of weights, with dsp kernels."""
    return [int(size) for size in code_table()["dsp"]["weights"].values()]


def lapq(stage: str) -> int:
    """Evaluations of the loss by one stage, on the calibration images."""
    found = row(result("ptq")["rows"], method="lapq", setting="W3", bias_correction=False)
    return int(row(found["stages"], name=stage)["evaluations"])


def unknowns() -> int:
    """Of that run."""
    return int(row(result("ptq")["rows"], method="lapq", setting="W3", bias_correction=False)["unknowns"])


def behind(budget: str) -> float:
    """Points of MPQ-CO behind the uniform network, calibrated alone."""
    return gain(calibrated, "uniform", "mpq-co", budget)


LITERT = ("resnet8", "ds-cnn", "mobilenetv1-0.25", "ad-autoencoder", "mobilenetv2")

NUMBERS: dict[str, Callable[[], str]] = {
    "latency.alone_worst": lambda: f"{result('latency')['resnet20_from_layers_alone']['largest_error_percent']:.1f}",
    "latency.table_worst": lambda: f"{result('latency')['networks']['resnet20']['largest_error_percent']:.1f}",
    "ways.same": lambda: joined(*(f"{statistics.median(means(way, SAME)):.1f}" for way in WAYS)),
    "ways.before": lambda: joined(*(f"{statistics.median(means(way, BEFORE)):.1f}" for way in WAYS)),
    "ways.repetitions": lambda: f"{len(means(WAYS[0], SAME))}",
    "latency.pace": lambda: (
        f"{100 * (result('latency')['other_networks_from_resnet20']['resnet56']['pace_of_resnet20'] - 1):.0f}"
    ),
    "mcu.odd_bits": lambda: f"{kernel(CONVOLUTION, 3) - kernel(CONVOLUTION, 8):.2f}",
    "mcu.linear": lambda: joined(*(f"{kernel(LINEAR, bits):.2f}" for bits in (2, 8))),
    "mcu.depthwise": lambda: f"{kernel(DEPTHWISE, 8):.1f}",
    "mcu.autoencoder": lambda: joined(
        *(f"{image('ad-autoencoder', part, 'ptq')['instructions'] / 1e6:.3f}" for part in (1.0, 0.5))
    ),
    "tiny.resnet8": lambda: joined(*(f"{100 * accuracy('resnet8', part, 'tuned'):.2f}" for part in (1.0, 0.5))),
    "tiny.resnet8_error": lambda: (
        f"{of_difference(accuracy('resnet8', 1.0, 'tuned'), accuracy('resnet8', 0.5, 'tuned'), 10_000):.2f}"
    ),
    "tiny.fixed": lambda: f"{beside_weights(0):.0f}",
    "tiny.two_bits": lambda: f"{beside_weights(0.25):.0f}",
    "tiny.plain": lambda: (
        f"{image('ds-cnn', 1.0, 'ptq', 'plain')['instructions'] / image('ds-cnn', 1.0, 'ptq')['instructions']:.1f}"
    ),
    "tiny.two_thirds": lambda: joined(*(f"{lost(how):.1f}" for how in ("ptq", "tuned"))),
    "tiny.keywords": lambda: f"{result('mlperf_tiny')['networks']['ds-cnn']['float']['samples']}",
    "tiny.keywords_error": lambda: (
        f"{of_difference(accuracy('ds-cnn', 1.0, 'tuned'), accuracy('ds-cnn', 2 / 3, 'tuned'), 400):.1f}"
    ),
    "tiny.half": lambda: f"{100 * accuracy('ds-cnn', 0.5, 'tuned', 'plain'):.1f}",
    "c.graphs": lambda: f"{result('export_c')['random']['plain']['graphs']}",
    "c.layers": lambda: f"{result('export_c')['random']['plain']['layers']:,}",
    "c.sanitized": lambda: f"{result('export_c')['random']['sanitized']['graphs']}",
    "c.flash": lambda: f"{sized(False)['flash_bytes']:,}",
    "c.flash_predicted": lambda: f"{sized(False)['predicted_flash_bytes']:,}",
    "c.ram": lambda: f"{sized(False)['ram_bytes']:,}",
    "c.packed_ram": lambda: f"{sized(True)['ram_bytes']:,}",
    "c.packed_flash": lambda: f"{sized(True)['flash_bytes']:,}",
    "c.budget": lambda: f"{sized(False)['budget_activation_bytes']:,}",
    "c.unpack": lambda: f"{code_table()['unpack_1']}",
    "c.width_code": lambda: f"{min(width_code()) / 1e3:.1f} to {max(width_code()) / 1e3:.1f}",
    "litert.c_inputs": lambda: joined(
        *(f"{row(result('litert')['networks'], network=one)['c']['samples']}" for one in LITERT)
    ),
    "ptq.unknowns": lambda: f"{unknowns()}",
    "ptq.powell": lambda: f"{lapq('powell')}",
    "ptq.coordinate": lambda: f"{lapq('coordinate')}",
    "ptq.each": lambda: joined(*(f"{lapq(one) / unknowns():.0f}" for one in ("powell", "coordinate"))),
    "mpq.behind": lambda: joined(*(f"{behind(budget):.1f}" for budget in (BITOPS, BYTES))),
    "mpq.error": lambda: joined(*(f"{error(calibrated, 'mpq-co', 'uniform', one):.1f}" for one in (BITOPS, BYTES))),
}
