"""The numbers in prose on training steps, other toolkits and exported files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from common import ROOT, result, row
from numbers_arena import joined


def peers(name: str) -> dict[str, Any]:
    """A result file of another toolkit."""
    return dict(json.loads((ROOT / "benchmarks" / "peers" / "results" / f"{name}.json").read_text()))


def search(name: str) -> dict[str, Any]:
    """Row of a search in the run beside MCT."""
    return row(result("peers_search")["rows"], name=name)


def within(values: Iterable[float], form: str) -> str:
    """From the least to the largest.

    >>> within([0.2, 0.1, 0.3], ".1f")
    '0.1 to 0.3'
    """
    ordered = sorted(values)
    return f"{ordered[0]:{form}} to {ordered[-1]:{form}}"


def sized(policy: str, network: str) -> dict[str, Any]:
    """Bytes of a packed file."""
    return row(result("export_onnx")["sizes"], network=network, policy=policy, pack="fields")


def file_of(toolkit: str, network: str, policy: str, call: str | None = None) -> dict[str, Any]:
    """Row of another toolkit's file."""
    named = {"network": network, "toolkit": toolkit, "policy": policy}
    return row(peers("export")["rows"], **named, **({"call": call} if call else {}))


INT8 = "dynamo=False, keep_initializers_as_inputs=False"
MEASURING = ("topological-entropy", "weight-entropy", "limpq-init")
NETWORKS = ("resnet20", "resnet18", "mobilenetv2")


def speedups(wide: bool) -> list[float]:
    """Packed files of 8 bits everywhere, or of fewer, over float32 without VNNI."""
    return [one["speedup"] for one in result("export_onnx")["speed"] if (one["policy"] == "W8A8") == wide]


def slower() -> list[float]:
    """By how many percent packed files are slower than plain ones, where that is more than the goal of 3."""
    found = (100 * (one["against_plain"] - 1) for one in result("export_onnx")["speed"])
    return sorted((percent for percent in found if percent > 3), reverse=True)


def apart() -> list[float]:
    """Percent between packed and plain files, either way."""
    return [100 * abs(one["against_plain"] - 1) for one in result("export_onnx")["speed"]]


def spreads(rows: Iterable[dict[str, Any]]) -> list[float]:
    """How wide the middle half of the rounds is, in percent of the median."""
    return [100 * one["spread_ms"] / one["median_ms"] for one in rows if "spread_ms" in one]


def vnni(kind: str) -> list[float]:
    """Speed over float32 of all networks on the processors with VNNI."""
    rows = [one for one in result("export_cpu")["rows"] if "avx512_vnni" in one["processor"]["flags"]]
    return [one["speedup"][kind] for network in NETWORKS for one in rows if one["part"] == network]


def exact(policy: str) -> dict[str, Any]:
    """Row of a run that was exported and compared."""
    return row(result("export_onnx")["exact"], policy=policy)


def lost(policy: str) -> float:
    """Points between the fake-quantized model and the file."""
    return 100 * (exact(policy)["fake_quantized_accuracy"] - exact(policy)["file_accuracy"])


def other_class(policy: str) -> str:
    """Images with another class by fixed-point rounding, of all that were tried."""
    found = exact(policy)["fixed_point"]
    return f"{round((1 - found['single_agreement']) * found['images'])}"


def compiled(what: str) -> dict[str, Any]:
    """A compiled step."""
    return dict(result("qat_step")["compiled"]["steps"][what])


def solver() -> dict[str, Any]:
    """ModelOpt's answer of most excess."""
    batches = {one["batch"]: one["budgets"] for one in peers("modelopt")["tables"]}
    return row(batches[256], asked=6)


NUMBERS: dict[str, Callable[[], str]] = {
    "qat.float_span": lambda: within(result("qat_step")["eager"]["float32"]["cpu_ms"], ".0f"),
    "qat.compiled_least": lambda: f"{compiled('W4A4, compiled')['ratio']:.3f}",
    "qat.joint_least": lambda: f"{result('limpq_step')['steps']['joint, six passes']['ratio']:.2f}",
    "qat.saved": lambda: f"{result('qat_step')['saved_mib']['W4A4']:.0f}",
    "qat.saved_float": lambda: f"{result('qat_step')['saved_mib']['float32']:.0f}",
    "peers.uniform": lambda: f"{search('uniform')['ratio']:.2f}",
    "peers.search_alone": lambda: joined(
        *(f"{search(one)['ratio_to_search_alone']:.3f}" for one in ("uniform", "map-size"))
    ),
    "peers.measuring": lambda: joined(*(f"{search(one)['ratio']:.2f}" for one in MEASURING)),
    "peers.capture": lambda: within(
        (100 * search(one)["parts_cpu_seconds"]["capture"] / search(one)["cpu_seconds"] for one in MEASURING), ".0f"
    ),
    "peers.modelopt_bits": lambda: f"{solver()['modelopt']['bits']:.2f}",
    "peers.modelopt_harm": lambda: (
        f"{100 * (solver()['modelopt']['objective'] / solver()['mixbit']['objective'] - 1):.0f}"
    ),
    "peers.brevitas_bytes": lambda: within(
        (
            abs(
                file_of("Brevitas", one, "W4A8", INT8)["file_bytes"]
                - file_of("Brevitas", one, "W8A8", INT8)["file_bytes"]
            )
            for one in NETWORKS
        ),
        "d",
    ),
    "peers.brevitas_off": lambda: f"{100 * file_of('Brevitas', 'resnet18', 'W8A8', INT8)['difference']:.1f}",
    "peers.resnet18": lambda: f"{file_of('mixbit', 'resnet18', 'W8A8')['speedup']:.2f}",
    "peers.mobilenetv2": lambda: f"{file_of('mixbit', 'mobilenetv2', 'W4A8')['speedup']:.2f}",
    "peers.spread": lambda: within(spreads(peers("export")["rows"]), ".0f"),
    "export.spread": lambda: within(
        spreads(one[kind] for one in result("export_onnx")["speed"] for kind in ("float32", "none", "fields")), ".0f"
    ),
    "export.resnet18": lambda: (
        f"{row(result('export_onnx')['speed'], network='resnet18', policy='W8A8')['speedup']:.2f}"
    ),
    "export.mobilenetv2": lambda: (
        f"{row(result('export_onnx')['speed'], network='mobilenetv2', policy='W4A8')['speedup']:.2f}"
    ),
    "export.resnet20_bytes": lambda: f"{sized('W4A4', 'resnet20')['size_bytes'] / 1e3:.0f}",
    "export.resnet20_weights": lambda: f"{sized('W4A4', 'resnet20')['weight_bytes'] / 1e3:.1f}",
    "export.resnet18_bytes": lambda: f"{sized('W2A8', 'resnet18')['size_bytes'] / 1e6:.1f}",
    "export.resnet18_float": lambda: f"{file_of('float32', 'resnet18', 'float32')['file_bytes'] / 1e6:.1f}",
    "export.images": lambda: f"{exact('fit')['images']:,}",
    "export.low_bits": lambda: within(speedups(wide=False), ".2f"),
    "export.eight_bits": lambda: within(speedups(wide=True), ".2f"),
    "export.eight_over_four": lambda: within(
        (eight / four for eight, four in zip(vnni("W8A8 vnni"), vnni("W4A8 any"), strict=True)), ".2f"
    ),
    "export.slower": lambda: joined(*(f"{percent:.1f}" for percent in slower())),
    "export.slower_files": lambda: f"{len(slower())}",
    "export.files": lambda: f"{len(apart())}",
    "export.apart_most": lambda: f"{max(apart()):.1f}",
    "export.apart": lambda: (
        f"{100 * statistics.median(one['against_plain'] - 1 for one in result('export_onnx')['speed']):.1f}"
    ),
    "export.lost": lambda: joined(*(f"{lost(one):.2f}" for one in ("fit", "map-size"))),
    "export.other_class": lambda: other_class("map-size"),
    "export.fixed_images": lambda: f"{exact('map-size')['fixed_point']['images']:,}",
    "export.calibrated": lambda: f"{len(exact('map-size')['calibrated'])}",
}
