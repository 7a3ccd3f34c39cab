"""C for microcontrollers, from a run folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbit import runs
from mixbit._io import read_json
from mixbit.cli import main
from mixbit.errors import BudgetError, ExportError
from mixbit.export.c import COptions, CVerification, _program
from mixbit.integer import GraphRounding
from mixbit.policy import Policy
from mixbit.runs import exporting_c
from mixbit.runs.exporting_c import _rounding
from tests.cli import tiny
from tests.needs import need, needs
from tests.runs.conftest import DIGITS, SHORT

PLAIN = COptions(kernels="plain")


@pytest.fixture(scope="module")
def mixed_run(float_run: runs.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    policy = Policy.uniform(DIGITS.task()[0].network, 3, 4)
    runs.train(float_run.trained, policy, SHORT, folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def exported(mixed_run: Path) -> runs.ExportedC:
    return runs.export_c(mixed_run, images=20)


def test_the_folder_is_the_reference(exported: runs.ExportedC, mixed_run: Path) -> None:
    if shutil.which("gcc") is None:
        assert exported.checked is None and exported.note == "the compiler 'gcc' is not there"
        need("gcc")
    assert exported.checked is not None and exported.checked.exact and exported.checked.samples == 20
    assert exported.fewer is None
    assert runs.is_c_folder(mixed_run / "c") and not runs.is_c_folder(mixed_run)
    found = exported.folder.footprint
    assert found.policy_bytes <= found.weight_bytes <= 1.01 * found.policy_bytes + 100


def test_the_compiler_that_is_named_checks_the_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only has to be there; what it is given is counted."""
    compiler = tmp_path / "other-cc"
    compiler.touch(mode=0o755)
    given: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "mixbit.runs.exporting_c.verify_c", lambda _graph, x, **how: given.append((len(x), how["compiler"]))
    )
    runs.export_c(tiny.quantized_run(), tmp_path / "c", images=3, compiler=str(compiler))
    assert given == [(3, str(compiler))]


def test_verify_again_on_this_machine(exported: runs.ExportedC, mixed_run: Path) -> None:
    need("gcc")
    found = runs.verify_c_folder(exported.folder.path, mixed_run, images=10)
    assert found.checked.exact and found.counts is None


def test_fewer_images_than_were_asked_for_are_told(
    mixed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On an emulated core, which is left out here: what it is given is counted."""
    given: list[int] = []
    done = CVerification(
        samples=5,
        layers=1,
        identical_outputs=5,
        identical_layers=5,
        first_difference=None,
        compiler="",
        sanitized=False,
        seconds=1.0,
    )

    def board(_graph: object, x: np.ndarray, **_how: object) -> CVerification:
        given.append(len(x))
        return done

    monkeypatch.setattr("mixbit.runs.exporting_c.verify_board", board)
    monkeypatch.setattr("mixbit.runs.exporting_c.count", lambda *_args, **_how: None)
    runs.export_c(mixed_run, tmp_path / "c", images=0)
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path / "c"), "--run", str(mixed_run), "--target", "cortex-m4", "--images", "9"])
    assert given == [5] and "Note: 5 images instead of 9: an emulated core is slow." in capsys.readouterr().out
    assert runs.verify_c_folder(tmp_path / "c", mixed_run, target="cortex-m4", images=5).fewer is None


@needs("board")
def test_verify_on_an_emulated_core(exported: runs.ExportedC, mixed_run: Path) -> None:
    found = runs.verify_c_folder(exported.folder.path, mixed_run, target="cortex-m4", images=2)
    assert found.checked.exact and found.checked.samples == 2
    assert found.counts is not None and found.counts.instructions > sum(one.macs for one in found.counts.layers) / 4


def test_limits_are_kept_before_anything_is_written(mixed_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"bytes of RAM, ram=1kB allows 1000. Most is needed at '.*packed activations"
    ):
        runs.export_c(mixed_run, tmp_path / "c", ram="1kB")
    with pytest.raises(ExportError, match=r"of flash .*flash=2kB allows 2000. Its largest layer is 'layer3"):
        runs.export_c(mixed_run, tmp_path / "c", flash="2kB")
    with pytest.raises(BudgetError, match="'50%' is no size"):
        runs.export_c(mixed_run, tmp_path / "c", ram="50%")
    assert not (tmp_path / "c").exists()
    done = runs.export_c(mixed_run, tmp_path / "c", ram="64kB", flash="1MB", options=PLAIN, images=0)
    assert done.checked is None and done.note == "not asked for"


def test_the_program_is_built_once_a_command(mixed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For limits, the folder and the comparison of an export; and for a folder that is verified."""
    built: list[COptions] = []
    printed = _program._printed
    monkeypatch.setattr(_program, "_printed", lambda one, ops: (built.append(one.options), printed(one, ops))[1])
    images = 2 if shutil.which("gcc") else 0
    runs.export_c(mixed_run, tmp_path / "c", ram="64kB", flash="1MB", options=PLAIN, images=images)
    assert built == [PLAIN]
    if images:
        runs.verify_c_folder(tmp_path / "c", mixed_run, images=2)
        assert built == [PLAIN, PLAIN]


@pytest.mark.parametrize("rounding", ["double", "litert"])
def test_a_folder_says_how_it_rounds(rounding: GraphRounding, mixed_run: Path, tmp_path: Path) -> None:
    images = 10 if shutil.which("gcc") else 0
    done = runs.export_c(mixed_run, tmp_path / "c", options=PLAIN, rounding=rounding, images=images)
    kinds = {op.kind: op.rounding for op in done.graph.ops if hasattr(op, "rounding")}
    assert kinds.items() >= {"Conv": "double", "Linear": "away" if rounding == "litert" else "double"}.items()
    assert read_json(tmp_path / "c" / "manifest.json")["roundings"] == kinds
    if images:
        assert runs.verify_c_folder(tmp_path / "c", mixed_run, images=5).checked.exact


def test_an_edited_folder_is_refused(mixed_run: Path, tmp_path: Path) -> None:
    runs.export_c(mixed_run, tmp_path / "c", options=PLAIN, images=0)
    with (tmp_path / "c" / "model.c").open("a") as file:
        file.write("/* edited */\n")
    with pytest.raises(ExportError, match=r"model.c differs from what this mixbit writes"):
        runs.verify_c_folder(tmp_path / "c", mixed_run)


def test_a_wrong_folder_of_cmsis_nn_is_refused_before_anything_is_written(mixed_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not a checkout of CMSIS-NN"):
        runs.export_c(mixed_run, tmp_path / "c", options=COptions(cmsis_nn=str(tmp_path)), images=0)
    assert not (tmp_path / "c").exists()


@needs("cmsis-nn")
def test_a_run_is_exported_with_cmsis_nn_and_verified_again(mixed_run: Path, tmp_path: Path) -> None:
    done = runs.export_c(mixed_run, tmp_path / "c", options=COptions(cmsis_nn=os.environ["MIXBIT_CMSIS_NN"]), images=20)
    assert done.folder.cmsis_nn is not None and done.folder.cmsis_nn.layers
    assert done.checked is not None and done.checked.exact
    assert runs.verify_c_folder(tmp_path / "c", mixed_run, images=5).checked.exact


def test_wrong_targets_and_runs(exported: runs.ExportedC, float_run: runs.Trained, mixed_run: Path) -> None:
    with pytest.raises(ExportError, match="target 'cortex-m5' is unknown. Did you mean 'cortex-m"):
        runs.verify_c_folder(exported.folder.path, mixed_run, target="cortex-m5")
    assert float_run.trained.weights is not None
    with pytest.raises(ExportError, match="was trained in float32"):
        runs.export_c(float_run.trained.weights.parent)
    with pytest.raises(ExportError, match="C is a folder"):
        runs.export(mixed_run, "c")


def test_the_rounding_of_a_folder_is_that_of_its_operations() -> None:
    assert _rounding({"Conv": "single", "Add": "single"}) == "single" and _rounding({"Conv": "double"}) == "double"
    assert _rounding({"Conv": "double", "Linear": "away"}) == "litert"


def test_a_limit_holds_to_the_byte(tmp_path: Path) -> None:
    found = tiny.written_c().folder.footprint
    for limit, used in (("ram", found.ram_bytes), ("flash", found.flash_bytes)):
        done = runs.export_c(tiny.quantized_run(), tmp_path / limit, images=0, **{limit: f"{used}B"})
        assert done.folder.footprint == found
        with pytest.raises(ExportError, match=f"takes {used} bytes of .*allows {used - 1}"):
            runs.export_c(tiny.quantized_run(), tmp_path / "no", images=0, **{limit: f"{used - 1}B"})
    assert not (tmp_path / "no").exists()


def test_the_c_that_is_checked_is_the_c_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options, images, strictness and the core reach all that is made of them."""
    options, seen = COptions(kernels="plain", vectors=3), dict[str, Any]()
    write, lowered = exporting_c.write_c, exporting_c.lowered

    def written(program: Any, *given: Any, **named: Any) -> Any:
        seen["write"] = {"options": program.options, **named}
        return write(program, *given, **named)

    def lower(*given: Any, **named: Any) -> Any:
        seen["lower"] = named
        return lowered(*given, **named)

    def noted(what: str) -> Any:
        return lambda program, x=None, **named: seen.update({what: {"x": x, "options": program.options, **named}})

    monkeypatch.setattr(exporting_c, "write_c", written)
    monkeypatch.setattr(exporting_c, "lowered", lower)
    monkeypatch.setattr(exporting_c.shutil, "which", lambda _name: "/bin/cc")
    for what in ("verify_c", "verify_board", "count"):
        monkeypatch.setattr(exporting_c, what, noted(what))
    images = next(tiny.task().test.batches(4))[0].numpy()
    runs.export_c(tiny.quantized_run(), tmp_path / "c", options=options, strict=True, images=4)
    assert seen["lower"] == {"strict": True, "rounding": "single"}
    assert seen["write"]["options"] == options and np.array_equal(seen["write"]["samples"], images[:3])
    assert seen["verify_c"]["options"] == options and np.array_equal(seen["verify_c"]["x"], images)
    seen.clear()
    runs.verify_c_folder(tmp_path / "c", tiny.quantized_run(), images=2)
    assert seen["verify_c"]["options"] == options and np.array_equal(seen["verify_c"]["x"], images[:2])
    runs.verify_c_folder(tmp_path / "c", tiny.quantized_run(), target="cortex-m7", images=2)
    for what, count in (("verify_board", "x"), ("count", "samples")):
        assert (seen[what]["board"], seen[what]["options"]) == ("cortex-m7", options)
        assert np.array_equal(seen[what][count], images[: 1 if what == "count" else 2])
    runs.export_c(tiny.quantized_run(), tmp_path / "default", images=0)
    assert seen["write"]["options"] == COptions(kernels="dsp")
