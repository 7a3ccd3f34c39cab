"""What a folder of C needs on a device, and whether it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import count, percent, size

if TYPE_CHECKING:
    from mixbit.export.c import CFolder, Footprint, HandedOver
    from mixbit.export.mcu import Counts
    from mixbit.runs.exporting_c import Checked

__all__ = ["c_tables", "c_verification_table", "footprint_summary", "instructions_table"]


def c_tables(folder: CFolder) -> tuple[Table, ...]:
    """Every layer as it was written, bytes of flash and RAM, and which layers CMSIS-NN computes if it was named."""
    library = () if folder.cmsis_nn is None else (_cmsis_nn(folder.cmsis_nn),)
    return _layers(folder), _bytes(folder), *library


def _cmsis_nn(found: HandedOver) -> Table:
    rows = [(name, "CMSIS-NN", "") for name in found.layers]
    rows += [(name, "mixbit", reason) for name, reason in found.kept.items()]
    times = "once" if found.rounding == "single" else "twice"
    notes = (f"CMSIS-NN is compiled from {found.path}, and rounds {times}. Its code is not in the bytes of flash.",)
    return Table(title="Layers and CMSIS-NN", columns=("layer", "computed by", "reason"), rows=tuple(rows), notes=notes)


def _layers(folder: CFolder) -> Table:
    rows = tuple(
        (
            one.name,
            one.kernel,
            count(one.macs) if one.macs else "",
            str(one.weight_bits) if one.weights else "",
            size(one.weight_bytes) if one.weights else "",
            size(one.factor_bytes + one.table_bytes),
            str(one.output_bits),
            size(one.output_bytes),
        )
        for one in folder.layers
    )
    columns = ("layer", "kernel", ">MACs", ">weight bits", ">weights", ">factors, tables", ">output bits", ">output")
    return Table(title="Layers in C", columns=columns, rows=rows)


def _bytes(folder: CFolder) -> Table:
    found = folder.footprint
    rows = (
        ("weights", size(found.weight_bytes)),
        ("biases and multipliers", size(found.factor_bytes)),
        ("tables", size(found.table_bytes)),
        ("settings of layers", size(found.settings_bytes)),
        ("code", size(found.code_bytes)),
        ("flash", size(found.flash_bytes)),
        ("RAM: arena", size(found.ram_bytes)),
    )
    notes = (
        f"The policy's weights take {size(found.policy_bytes)}; in flash they take "
        f"{percent(found.weight_bytes / max(found.policy_bytes, 1))} of that.",
        f"Code by a {found.code_source}. Startup code, stack and the caller's buffers are not in it.",
        f"Most RAM is needed at {folder.plan.peak_layer}.",
    )
    return Table(title="On the device", columns=("what", ">bytes"), rows=rows, notes=notes)


def footprint_summary(found: Footprint) -> str:
    """Flash and RAM of a policy, laid out as C, in one line."""
    return (
        f"as C: {size(found.flash_bytes)} of flash, of which {size(found.weight_bytes)} weights and "
        f"{size(found.code_bytes)} code; {size(found.ram_bytes)} of RAM"
    )


def c_verification_table(found: Checked) -> Table:
    """How much of what was compared is the same, byte for byte."""
    where = getattr(found, "core", None) or getattr(found, "compiler", "")
    rows = [
        ("samples", str(found.samples)),
        ("with the reference's outputs", str(found.identical_outputs)),
        ("layers with the reference's bytes", f"{found.identical_layers} of {found.samples * found.layers}"),
        ("first difference", found.first_difference or "none"),
    ]
    verdict = "The C computes what the reference computes." if found.exact else "THE C IS WRONG."
    return Table(title=f"Verification, {where}", columns=("what", ">found"), rows=tuple(rows), notes=(verdict,))


def instructions_table(found: Counts) -> Table:
    """Instructions of an emulated inference, layer by layer. They are not cycles."""
    rows = [
        (
            one.name,
            one.kernel,
            count(one.macs) if one.macs else "",
            count(one.instructions),
            "" if one.per_mac is None else f"{one.per_mac:.2f}",
        )
        for one in found.layers
    ]
    rows.append(("whole inference", "", "", count(found.instructions), ""))
    note = f"{found.board} under QEMU: instructions, never cycles. Stack {size(found.stack_bytes)}."
    return Table(
        title="Instructions",
        columns=("layer", "kernel", ">MACs", ">instructions", ">per MAC"),
        rows=tuple(rows),
        notes=(note,),
    )
