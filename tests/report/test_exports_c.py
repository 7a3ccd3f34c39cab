"""Tables of C folders and of emulated inferences."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mixbit.export.c import COptions, CVerification, Footprint, write_c
from mixbit.export.c._cmsis_nn import HandedOver
from mixbit.export.mcu import BoardVerification, Counts, LayerCount, Sizes
from mixbit.report import c_tables, c_verification_table, footprint_summary, instructions_table, size
from tests.export.graphs import random_graph, rounded

SIZES = Sizes(text=1, rodata=1, data=0, bss=1)


def test_layers_and_bytes(tmp_path: Path) -> None:
    folder = write_c(rounded(random_graph(0), "single"), tmp_path / "c", options=COptions())
    layers, sizes = c_tables(folder)
    assert [row[0] for row in layers.rows] == [one.name for one in folder.layers]
    names = [row[0] for row in sizes.rows]
    assert names[:2] == ["weights", "biases and multipliers"] and names[-2:] == ["flash", "RAM: arena"]
    assert folder.plan.peak_layer in sizes.notes[-1]


def test_what_cmsis_nn_computes_is_listed_with_reasons(tmp_path: Path) -> None:
    folder = write_c(rounded(random_graph(0), "single"), tmp_path / "c", options=COptions())
    found = HandedOver(path="/cmsis", rounding="double", layers=("a",), kept={"b": "weights of 4 bits"}, sources=())
    table = c_tables(dataclasses.replace(folder, cmsis_nn=found))[-1]
    assert table.rows == (("a", "CMSIS-NN", ""), ("b", "mixbit", "weights of 4 bits"))
    assert "/cmsis" in table.notes[0] and "twice" in table.notes[0]


def test_verification() -> None:
    good = CVerification(
        samples=20, layers=9, identical_outputs=20, identical_layers=180, first_difference=None, compiler="gcc",
        sanitized=False, seconds=1.0,
    )  # fmt: skip
    table = c_verification_table(good)
    assert "gcc" in table.title and table.notes == ("The C computes what the reference computes.",)
    assert ("layers with the reference's bytes", "180 of 180") in table.rows
    bad = BoardVerification(
        board="mps2-an386", core="cortex-m4", samples=2, layers=9, identical_outputs=1, identical_layers=17,
        first_difference="sample 1, layer 4 (fc)", sizes=SIZES,
    )  # fmt: skip
    table = c_verification_table(bad)
    assert "cortex-m4" in table.title and table.notes == ("THE C IS WRONG.",)
    assert table.rows == (
        ("samples", "2"),
        ("with the reference's outputs", "1"),
        ("layers with the reference's bytes", "17 of 18"),
        ("first difference", "sample 1, layer 4 (fc)"),
    )


def test_instructions() -> None:
    layers = (
        LayerCount(index=0, name="conv1", kernel="mixbit_conv", macs=1000, instructions=2500),
        LayerCount(index=1, name="pool", kernel="mixbit_max_pool", macs=0, instructions=400),
    )
    found = Counts(board="mps2-an386", layers=layers, instructions=3000, stack_bytes=512, sizes=SIZES)
    table = instructions_table(found)
    assert table.rows == (
        ("conv1", "mixbit_conv", "1.000 k", "2.500 k", "2.50"),
        ("pool", "mixbit_max_pool", "", "400", ""),
        ("whole inference", "", "", "3.000 k", ""),
    )
    assert table.notes == ("mps2-an386 under QEMU: instructions, never cycles. Stack 512 B.",)


FOOTPRINT = Footprint(
    weight_bytes=2048, factor_bytes=100, table_bytes=20, settings_bytes=3000, code_bytes=5120, arena_bytes=1536,
    policy_bytes=1600, code_source="table", activation_bytes=1000,
)  # fmt: skip


def test_a_footprint_in_one_line() -> None:
    assert footprint_summary(FOOTPRINT) == (
        f"as C: {size(2048 + 100 + 20 + 3000 + 5120)} of flash, of which 2.000 KiB weights and 5.000 KiB code; "
        "1.500 KiB of RAM"
    )


def test_bytes_on_the_device_line_by_line(tmp_path: Path) -> None:
    folder = write_c(rounded(random_graph(0), "single"), tmp_path / "c", options=COptions())
    written = [dataclasses.replace(one, table_bytes=256 + at) for at, one in enumerate(folder.layers)]
    folder = dataclasses.replace(folder, layers=tuple(written), footprint=FOOTPRINT)
    layers, sizes = c_tables(folder)
    assert sizes.rows == (
        ("weights", "2.000 KiB"),
        ("biases and multipliers", "100 B"),
        ("tables", "20 B"),
        ("settings of layers", "2.930 KiB"),
        ("code", "5.000 KiB"),
        ("flash", size(10288)),
        ("RAM: arena", "1.500 KiB"),
    )
    assert "take 1.562 KiB; in flash they take 128.00 % of that" in sizes.notes[0]
    assert sizes.notes[1].startswith("Code by a table.")
    for one, row in zip(folder.layers, layers.rows, strict=True):
        assert row[1] == one.kernel and row[5:] == (
            size(one.factor_bytes + one.table_bytes), str(one.output_bits), size(one.output_bytes)
        )  # fmt: skip
        assert (row[3], row[4]) == ((str(one.weight_bits), size(one.weight_bytes)) if one.weights else ("", ""))
