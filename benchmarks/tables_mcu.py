"""Tables of microcontroller kernels, from benchmarks/results/mcu_kernels.json; `tables.py` puts them into the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import markdown, result

WIDTHS = (8, 7, 6, 5, 4, 3, 2)


def _rows() -> dict[tuple[str, str, str], dict[int, float]]:
    """(layer, core, kernels) -> bits -> instructions of one product."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in result("mcu_kernels")["rows"]:
        found.setdefault((row["layer"], row["core"], row["kernels"]), {})[row["bits"]] = row["per_mac"]
    return found


def _cells(values: dict[int, float], widths: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{values[bits]:.2f}" if bits in values else "-" for bits in widths)


def mcu_conv() -> str:
    """The convolution of the goals on one core, by bits, beside others."""
    found: dict[str, Any] = result("mcu_kernels")
    measured = _rows()
    layer = found["rows"][0]["layer"]
    rows = [
        (f"mixbit, {kernels}", *_cells(measured[layer, "cortex-m4", kernels], WIDTHS)) for kernels in ("dsp", "plain")
    ]
    others = {"goal": found["goals"], **found["peers"]}
    rows += [(name, *_cells({int(bits): one for bits, one in of.items()}, WIDTHS)) for name, of in others.items()]
    tools, exact = found["tools"], sum(row["exact"] for row in found["rows"])
    note = (
        f"{layer}, Cortex-M4. GCC {tools['gcc']}, QEMU {tools['qemu']}, {tools['flags']}. {exact} of "
        f"{len(found['rows'])} measured rows gave every byte of the reference executor.\n"
    )
    return markdown(("instructions of a product", *(f">{bits} bits" for bits in WIDTHS)), rows) + "\n" + note


def mcu_layers() -> str:
    """Other layers and cores."""
    rows = [(layer, core, kernels, *_cells(values, (8, 4, 2))) for (layer, core, kernels), values in _rows().items()]
    return markdown(("layer", "core", "kernels", ">8 bits", ">4 bits", ">2 bits"), rows) + "\n"


TABLES: dict[str, Callable[[], str]] = {"mcu_conv": mcu_conv, "mcu_layers": mcu_layers}
