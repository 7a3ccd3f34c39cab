"""export, verify: every option reaches the file or the check that it is for, and a wrong file ends in an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from mixbit import cli
from mixbit.export.c import COptions, CVerification, read_manifest
from mixbit.export.onnx import OnnxFile, OnnxLayer
from mixbit.export.verify import Verification
from mixbit.integer import IntegerGraph
from mixbit.integer.graph import Note
from mixbit.testing.options import OptionCases, OptionRow, flags_of
from tests.cli import tiny
from tests.cli.typed import exactly, gives, handed, next_of, typed, written
from tests.needs import need

COMMANDS: Any = typer.main.get_command(cli.app)


def to_onnx(key: str) -> Any:
    return lambda words: handed("export", "export", "r", *words)[key]


def to_c(key: str) -> Any:
    return lambda words: handed("export_c", "export", "r", "--to", "c", *words)[key]


class TestExportOptions(OptionCases):
    """Which file, how it is written, and on how many images it is checked."""

    owner = "mixbit export"
    options = flags_of(COMMANDS.commands["export"])
    rows = (
        OptionRow("run", ("r", "s"), lambda v: handed("export", "export", v)["run"], exactly(Path("r"), Path("s"))),
        OptionRow("run", ("r", "s"), lambda v: handed("export_c", "export", v, "--to", "c")["run"],
                  exactly(Path("r"), Path("s")), says="C"),
        OptionRow("--to", ([], ["--to", "qonnx"]), to_onnx("target"), exactly("onnx", "qonnx")),
        OptionRow("--out", ([], ["--out", "f.onnx"]), to_onnx("out"), exactly(None, Path("f.onnx"))),
        OptionRow("--out", ([], ["--out", "f"]), to_c("out"), exactly(None, Path("f")), says="C"),
        OptionRow("--pack", ([], ["--pack", "none"]), to_onnx("pack"), exactly("fields", "none")),
        OptionRow("--cpu", ([], ["--cpu", "vnni"]), to_onnx("cpu"), exactly("any", "vnni")),
        OptionRow("--strict", ([], ["--strict"]), to_onnx("strict"), exactly(False, True)),
        OptionRow("--strict", ([], ["--strict"]), to_c("strict"), exactly(False, True), says="C"),
        OptionRow("--images", ([], ["--images", "7"]), to_onnx("images"), exactly(1000, 7)),
        OptionRow("--images", ([], ["--images", "0"]), to_c("images"), exactly(1000, 0), says="C"),
        OptionRow("--kernels", ([], ["--kernels", "plain"]), to_c("options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="plain"))),
        OptionRow("--pack-activations", ([], ["--pack-activations"]), to_c("options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="dsp", pack_activations=True))),
        OptionRow("--rounding", ([], ["--rounding", "litert"]), to_c("rounding"), exactly("single", "litert")),
        OptionRow("--cmsis-nn", ([], ["--cmsis-nn", "lib"]), to_c("options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="dsp", cmsis_nn=str(Path("lib").resolve())))),
        OptionRow("--flash", ([], ["--flash", "256kB"]), to_c("flash"), exactly(None, "256kB")),
        OptionRow("--ram", ([], ["--ram", "64kB"]), to_c("ram"), exactly(None, "64kB")),
    )  # fmt: skip


def row_of(said: str, name: str) -> str:
    """The row of a table that begins with a name, single spaces between its cells."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.startswith(f"{name} ")]
    (line,) = [line for line in lines if "without a quantizer" not in line]
    return line


def test_a_file_that_is_verified(tmp_path: Path) -> None:
    need("onnx")
    run, file = tiny.quantized_run(), tmp_path / "net.onnx"
    said = typed("export", run, "--out", file, "--images", "8")
    assert written(said) == [file] and row_of(said, "images") == "images 8"
    assert row_of(said, "right") == "right 5 packed 5 bit 10 B 32 B"
    assert "Chosen by lowering" in said and "The file computes what the reference computes." in said
    assert next_of(said) == ["verify", str(file), "--run", str(run), "--images", "360"]
    said = typed("verify", file, "--run", run, "--images", "6")
    assert row_of(said, "images") == "images 6" and row_of(said, "right") == "right 5 packed 5 bit 10 B 32 B"


def test_a_file_as_it_was_asked_for_and_not_verified(tmp_path: Path) -> None:
    need("onnx")
    run, file = tiny.quantized_run(), tmp_path / "net.onnx"
    said = typed("export", run, "--out", file, "--images", "0", "--pack", "none", "--cpu", "vnni")
    assert row_of(said, "left").startswith("left 3 int8 144 B") and "Processors: vnni" in said
    assert "Verification" not in said
    refused = typed("export", run, "--out", tmp_path / "no.onnx", "--images", "0", "--pack", "none", "--strict", code=2)
    assert "widens to 8 bits" in refused and not (tmp_path / "no.onnx").exists()


def test_c_as_it_was_asked_for(tmp_path: Path) -> None:
    run, folder = tiny.quantized_run(), tmp_path / "c"
    words = ["--kernels", "plain", "--pack-activations", "--rounding", "litert", "--ram", "64kB", "--flash", "256kB"]
    said = typed("export", run, "--to", "c", "--out", folder, "--images", "0", *words)
    manifest = read_manifest(folder)
    assert manifest.c_options() == COptions(kernels="plain", pack_activations=True)
    assert set(manifest.roundings.values()) == {"away", "double"} and "Chosen by lowering" in said
    assert "Layers in C" in said and "On the device" in said and written(said) == [folder]
    assert "Note: not compared with the reference: not asked for." in said
    assert next_of(said) == ["verify", str(folder), "--run", str(run), "--target", "cortex-m4"]
    for limit in ("--ram", "--flash"):
        refused = typed("export", run, "--to", "c", "--out", tmp_path / "no", "--images", "0", limit, "10B", code=2)
        assert f"{limit[2:]}=10B allows 10" in refused and not (tmp_path / "no").exists()


def test_c_that_is_compared_here_at_once_and_again(tmp_path: Path) -> None:
    need("gcc")
    run, folder = tiny.quantized_run(), tmp_path / "c"
    said = typed("export", run, "--to", "c", "--out", folder, "--images", "5")
    assert row_of(said, "samples") == "samples 5" and "The C computes what the reference computes." in said
    said = typed("verify", folder, "--run", run, "--images", "3")
    assert row_of(said, "samples") == "samples 3" and "Note:" not in said


@pytest.mark.parametrize(
    ("words", "flag", "target"),
    [
        (["--flash", "1kB"], "--flash", "c"),
        (["--ram", "1kB"], "--ram", "c"),
        (["--to", "qonnx", "--kernels", "plain"], "--kernels", "c"),
        (["--pack-activations"], "--pack-activations", "c"),
        (["--rounding", "litert"], "--rounding", "c"),
        (["--cmsis-nn", "lib"], "--cmsis-nn", "c"),
        (["--to", "c", "--cpu", "vnni"], "--cpu vnni", "onnx"),
        (["--to", "c", "--pack", "none"], "--pack none", "onnx"),
        (["--to", "qonnx", "--pack", "none"], "--pack none", "onnx"),
    ],
)
def test_what_the_target_would_not_heed_is_refused(words: list[str], flag: str, target: str, tmp_path: Path) -> None:
    """A limit that nobody keeps must not look kept."""
    said = typed("export", tmp_path / "nowhere", *words, code=2)
    assert f"{flag} is for the target {target}" in " ".join(said.split())


# --------------------------------------------------------------------------------------------------------- verify


def checked(key: str) -> Any:
    return lambda words: handed("verify", "verify", "f.onnx", "--run", "r", *words)[key]


def checked_c(key: str) -> Any:
    """Of a folder of C, which its manifest tells."""
    folder = tiny.place() / "some-c"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text("{}")
    return lambda words: handed("verify_c_folder", "verify", folder, "--run", "r", *words)[key]


class TestVerifyOptions(OptionCases):
    """What is checked against what."""

    owner = "mixbit verify"
    options = flags_of(COMMANDS.commands["verify"])
    rows = (
        OptionRow("file", ("f.onnx", "g.onnx"), lambda v: handed("verify", "verify", v, "--run", "r")["file"],
                  exactly(Path("f.onnx"), Path("g.onnx"))),
        OptionRow("--run", ("r", "s"), lambda v: handed("verify", "verify", "f.onnx", "--run", v)["run"],
                  exactly(Path("r"), Path("s"))),
        OptionRow("--run", ([], ["--run", "s"]), checked_c("run"), exactly(Path("r"), Path("s")), says="C"),
        OptionRow("--images", ([], ["--images", "7"]), checked("images"), exactly(1000, 7)),
        OptionRow("--images", ([], ["--images", "7"]), checked_c("images"), exactly(1000, 7), says="C"),
        OptionRow("--target", ([], ["--target", "cortex-m7"]), checked_c("target"), exactly("host", "cortex-m7")),
    )  # fmt: skip


def test_a_core_is_for_c(tmp_path: Path) -> None:
    (tmp_path / "f.onnx").write_bytes(b"")
    said = typed("verify", tmp_path / "f.onnx", "--run", "r", "--target", "cortex-m4", code=2)
    assert "--target cortex-m4 is for a folder of C" in said


C = CVerification(
    samples=4, layers=2, identical_outputs=4, identical_layers=8, first_difference=None, compiler="gcc",
    sanitized=False, seconds=0.1,
)  # fmt: skip


def test_c_that_is_right_is_shown_with_its_instructions(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    done = SimpleNamespace(checked=C, counts=None, fewer="4 images instead of 9: an emulated core is slow.")
    said = gives("verify_c_folder", done, "verify", tmp_path, "--run", "r")
    assert "Note: 4 images instead of 9: an emulated core is slow.\n" in said and "Instructions" not in said
    counts = SimpleNamespace(layers=(), instructions=5000, board="mps2", stack_bytes=64)
    said = gives(
        "verify_c_folder", SimpleNamespace(checked=C, counts=counts, fewer=None), "verify", tmp_path, "--run", "r"
    )
    assert row_of(said, "whole inference") == "whole inference 5.000 k" and "Note" not in said


@pytest.mark.parametrize("wrong", [{"first_difference": "sample 1, layer 1 (fc)"}, {"identical_outputs": 3}])
def test_c_that_differs_ends_in_an_error(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    done = SimpleNamespace(checked=replace(C, **wrong), counts=None, fewer=None)
    said = gives("verify_c_folder", done, "verify", tmp_path, "--run", "r", code=2)
    assert f"Error: the C differs from the reference executor, first at {wrong.get('first_difference')}." in said
    assert "THE C IS WRONG." in said


GOOD = Verification(
    path=Path("net.onnx"), size_bytes=480, images=1000, top1_agreement=1.0, identical=0.998, largest_difference=0.01,
    largest_steps=0.4, reference_accuracy=0.9, accuracy=0.901, session_ms=12.0, positions=1000,
)  # fmt: skip


def verified(found: Verification, *, content: OnnxFile | None = None, code: int = 0) -> str:
    done = SimpleNamespace(content=content, verification=found)
    return " ".join(gives("verify", done, "verify", "net.onnx", "--run", "r", code=code).split())


def test_a_file_that_this_version_would_not_write_is_told() -> None:
    said = verified(GOOD)
    assert "Note: the file is not what this mixbit would write of the run, so its layers are not listed." in said
    assert "Note: the file" not in verified(replace(GOOD, kind="qonnx", largest_steps=0.0, operations=4))
    one = OnnxLayer(
        name="fc", weights=64, weight_bits=3, container="packed 3 bit", weight_bytes=24, scale_bytes=4, bias_bytes=4,
        widened=None, unsigned=None,
    )  # fmt: skip
    file = OnnxFile(path=Path("n"), size_bytes=48, layers=(one,), items={"weights": 24}, opset=21, ir_version=10)
    said = verified(GOOD, content=file)
    assert "Layers in the file" in said and "fc 3 packed 3 bit 24 B 8 B" in said and "not listed" not in said


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"top1_agreement": 0.5},
            "same class for 50.00% of images, up to 0.4 output steps apart on 1000 images. Legal: 99.9 % and one step. "
            "Export it again from the run folder, and report it if it stays so.",
        ),
        ({"top1_agreement": 0.5, "positions": 4000}, "same class for 50.00% of positions, up to 0.4"),
        ({"top1_agreement": None, "largest_steps": 2.5}, "reference: up to 2.5 output steps apart on 1000 images. "
            "Legal: one step. "),
        (
            {"top1_agreement": 0.5, "stranger": "it has other bits"},
            "Most likely it was exported from another run: it has other bits. Give the folder of its own run as --run.",
        ),
        (
            {"top1_agreement": 0.5, "cpu": "vnni", "needs_vnni": ("fc",), "runtime_saturates": True},
            "Sums of products saturate on this machine: export it with --cpu any, or run it on a processor with VNNI.",
        ),
        (
            {"kind": "qonnx", "operations": 3, "parting": "Add by 0.5"},
            "net.onnx differs from the reference, first in Add by 0.5. Export it again from the run folder",
        ),
    ],
)  # fmt: skip
def test_a_file_that_differs_ends_in_an_error_that_says_how(found: dict[str, Any], said: str) -> None:
    text = verified(replace(GOOD, **found), code=2)
    assert said in text and "Error: net.onnx differs" in text and "Verification" in text
    if found.get("runtime_saturates"):
        assert "These layers can be wrong: fc." in text
    else:
        assert "can be wrong" not in text


def test_what_export_says_of_its_file() -> None:
    file = OnnxFile(path=Path("n"), size_bytes=48, layers=(), items={"weights": 24}, opset=21, ir_version=10)
    graph = IntegerGraph(input="x", output="y", tensors={}, ops=(), fingerprint="")
    done = SimpleNamespace(
        graph=graph, file=file, files={Path("r/n.onnx"): "it"}, note=None, verification=None, most_images=70
    )
    said = gives("export", done, "export", "r")
    assert "Chosen by lowering" not in said and "Note" not in said and "Verification" not in said
    assert next_of(said) == ["verify", "r/n.onnx", "--run", "r", "--images", "70"]
    done.graph = replace(graph, notes=(Note(name="add", kind="calibrated", reason="read by a pool"),))
    done.note, done.verification = "the times are of others", replace(GOOD, top1_agreement=0.5)
    said = gives("export", done, "export", "r", code=2)
    assert "Chosen by lowering" in said and "Note: the times are of others.\n" in said and "differs" in said


def test_export_of_c_compares_and_fails_where_it_differs() -> None:
    """The folder is real, the difference is not."""
    found = tiny.written_c()
    done = SimpleNamespace(
        graph=found.graph, folder=found.folder, files={Path("c"): "C"}, checked=replace(C, identical_outputs=3),
        fewer="4 images instead of 9: the test set has no more.", note=None,
    )  # fmt: skip
    said = gives("export_c", done, "export", "r", "--to", "c", code=2)
    assert "the C differs from the reference executor" in said and "Note: 4 images instead of 9" in said
    done.checked, done.note = None, "the compiler 'gcc' is not there"
    assert "not compared with the reference: the compiler 'gcc' is not there." in gives(
        "export_c", done, "export", "r", "--to", "c"
    )
