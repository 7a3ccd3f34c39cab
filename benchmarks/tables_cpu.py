"""Tables on files for any processor and for those with VNNI, from results/export_cpu.json and export_onnx.json.

`tables.py` puts them into the pages. What was measured on an older processor, before there was a choice, is beside it:
its files of 8 bits are what `strict` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from common import RESULTS, markdown, result

KINDS = ("W8A8 vnni", "W8A8 any", "W8A8 strict", "W8A8 doubled", "W4A8 any")


def _processors() -> list[dict[str, Any]]:
    return result("export_cpu")["processors"] if (RESULTS / "export_cpu.json").exists() else []


def _name(cpu: str, flags: list[str]) -> str:
    return f"{cpu} ({', '.join(flags)})"


def _older() -> Iterator[tuple[str, ...]]:
    """Rows of the processors of the other result file."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in result("export_onnx")["speed"]:
        found.setdefault((row["network"], _name(**row["processor"])), {})[row["policy"]] = row
    for (network, name), rows in found.items():
        times = {"W8A8 strict": rows["W8A8"], "W4A8 any": rows["W4A8"]}
        cells = (f"{times[kind]['speedup']:.2f}" if kind in times else "-" for kind in KINDS)
        yield (network, name, f"{rows['W8A8']['float32']['median_ms']:.2f} ms", *cells)


def export_cpu() -> str:
    """Times the speed of float32, one interleaved run a network and processor."""
    rows = list(_older())
    for one in _processors():
        for network, part in one["parts"].items():
            if network != "accuracy":
                cells = (f"{part['speedup'][kind]:.2f}" for kind in KINDS)
                rows.append(
                    (
                        network,
                        _name(one["cpu"], one["flags"]),
                        f"{part['times']['float32']['median_ms']:.2f} ms",
                        *cells,
                    )
                )
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    columns = ("network", "processor", ">float32", *(f">{kind}" for kind in KINDS))
    return markdown(columns, rows)


def export_cpu_accuracy() -> str:
    """ResNet-20 of 8 bits on real images, by each file."""
    parts = [one["parts"]["accuracy"] for one in _processors() if "accuracy" in one["parts"]]
    rows = [
        (
            f"`{label}`",
            f"{part['images']:,}",
            f"{100 * part['accuracy'][kind]:.2f} %",
            f"{100 * part['same_class_as_strict'][kind]:.2f} %",
            "yes" if part["equals_reference"][kind] else "no",
            len(part["narrowed"]) if kind == "any" else 0,
        )
        for part in parts
        for kind, label in (("any", "any"), ("vnni", "vnni"), ("strict", "any --strict"))
    ]
    exact = f"equals the reference, {parts[0]['equals_reference']['images'] if parts else 0} images"
    columns = ("`--cpu`", ">images", ">accuracy", ">same class as with all 8 bits", exact, ">layers on wider steps")
    return markdown(columns, rows) if rows else "Not run yet.\n"


TABLES: dict[str, Callable[[], str]] = {"export_cpu": export_cpu, "export_cpu_accuracy": export_cpu_accuracy}
