"""Tables on files for any processor and for those with VNNI, from results/export_cpu.json and export_onnx.json.

`tables.py` puts them into the pages. What was measured on an older processor, before there was a choice, is beside it:
its files of 8 bits are what `strict` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from common import markdown, ran_on, result
from intervals import said

KINDS = ("W8A8 vnni", "W8A8 any", "W8A8 strict", "W8A8 doubled", "W4A8 any")


def _measured(*, accuracy: bool) -> list[dict[str, Any]]:
    """Rows of networks, or of accuracy."""
    return [row for row in result("export_cpu").get("rows", []) if (row["part"] == "accuracy") == accuracy]


def _name(cpu: str, flags: list[str]) -> str:
    return f"{cpu} ({', '.join(flags)})"


def _older() -> Iterator[tuple[str, ...]]:
    """Rows of the processors of the other result file."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in result("export_onnx").get("speed", []):
        found.setdefault((row["network"], _name(**row["processor"])), {})[row["policy"]] = row
    for (network, name), rows in found.items():
        times = {"W8A8 strict": rows.get("W8A8"), "W4A8 any": rows.get("W4A8")}
        if any(times.values()):
            cells = (f"{one['speedup']:.2f}" if (one := times.get(kind)) else "-" for kind in KINDS)
            first = next(one for one in times.values() if one)
            yield (network, name, f"{first['float32']['median_ms']:.2f} ms", *cells)


def export_cpu() -> str:
    """Times the speed of float32, one interleaved run a network and processor."""
    rows = list(_older())
    for one in _measured(accuracy=False):
        cells = (f"{one['speedup'][kind]:.2f}" for kind in KINDS)
        float32 = f"{one['times']['float32']['median_ms']:.2f} ms"
        rows.append((one["part"], _name(**one["processor"]), float32, *cells))
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    columns = ("network", "processor", ">float32", *(f">{kind}" for kind in KINDS))
    older, newer = result("export_onnx"), result("export_cpu")
    where = sorted({ran_on(older, older.get("speed", [])), ran_on(newer, _measured(accuracy=False))} - {""})
    return markdown(columns, rows) + f"\n{'; '.join(where)}.\n" if rows else "Not run yet.\n"


def export_cpu_accuracy() -> str:
    """ResNet-20 of 8 bits on real images, by each file."""
    parts = _measured(accuracy=True)
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
    notes = {said(part["accuracy"].values(), part["images"]) for part in parts}
    return markdown(columns, rows) + "\n" + " ".join(sorted(notes)) + "\n" if rows else "Not run yet.\n"


TABLES: dict[str, Callable[[], str]] = {"export_cpu": export_cpu, "export_cpu_accuracy": export_cpu_accuracy}
