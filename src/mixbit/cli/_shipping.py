"""Commands on files for runtimes: export, verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mixbit.cli._app import app, screen
from mixbit.errors import MixbitError

if TYPE_CHECKING:
    from mixbit.export.verify import Agreement
    from mixbit.runs.exporting_c import Checked


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished training under a policy")],
    to: Annotated[
        str,
        typer.Option(
            metavar="TARGET", help="onnx, qonnx for QONNX tools, c for microcontrollers, or your own exporter"
        ),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="the file, or the folder of C; default: in the run folder")] = None,
    pack: Annotated[
        Literal["fields", "none"], typer.Option(help="ONNX: weights packed at their bits, or one a byte")
    ] = "fields",
    cpu: Annotated[
        Literal["any", "vnni"],
        typer.Option(
            help="ONNX: any: the same integers on every x86 processor, for which layers of 8 bits may get wider steps; "
            "vnni: the weights as they are, fastest with VNNI, and wrong without where sums saturate"
        ),
    ] = "any",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="refuse what the file would hold at more bits; widen no steps for --cpu any"),
    ] = False,
    images: Annotated[int, typer.Option(min=0, help="test images to verify the file with; 0 for none")] = 1000,
    kernels: Annotated[
        Literal["dsp", "plain"], typer.Option(help="C: also with two products an instruction, or C99 alone")
    ] = "dsp",
    pack_activations: Annotated[bool, typer.Option(help="C: tensors of 4 and 2 bits packed; less RAM")] = False,
    rounding: Annotated[
        Literal["single", "double", "litert"], typer.Option(help="C: of results; litert as LiteRT's reference kernels")
    ] = "single",
    cmsis_nn: Annotated[
        Path | None, typer.Option(metavar="DIR", help="C: your checkout of CMSIS-NN, which layers of 8 bits call")
    ] = None,
    flash: Annotated[str | None, typer.Option(metavar="SIZE", help="C: limit on constants and code: 256kB")] = None,
    ram: Annotated[str | None, typer.Option(metavar="SIZE", help="C: limit on the arena: 64kB")] = None,
) -> None:
    """Write the integer network of a run as a file that is as small as its policy, and verify it."""
    from mixbit import report, runs

    _check_heeded(
        to,
        onnx={f"--cpu {cpu}": cpu != "any", f"--pack {pack}": pack != "fields"},
        c={
            "--kernels": kernels != "dsp",
            "--pack-activations": pack_activations,
            "--rounding": rounding != "single",
            "--cmsis-nn": cmsis_nn is not None,
            "--flash": flash is not None,
            "--ram": ram is not None,
        },
    )
    if to == "c":
        library = None if cmsis_nn is None else str(cmsis_nn.resolve())
        options = {"kernels": kernels, "pack_activations": pack_activations, "cmsis_nn": library}
        _export_c(run, out, options, rounding=rounding, flash=flash, ram=ram, strict=strict, images=images)
        return
    done = runs.export(run, to, out, pack=pack, cpu=cpu, strict=strict, images=images)
    if (notes := report.lowering_notes_table(done.graph)) is not None:
        screen.show(notes)
    for table in report.file_tables(done.file):
        screen.show(table)
    screen.files(done.files)
    if done.note is not None:
        screen.say(f"Note: {done.note}.")
    path = next(iter(done.files))
    _verified(done.verification, path)
    if to in ("onnx", "qonnx"):
        screen.next(report.after_export(path, run, done.most_images))


def _check_heeded(to: str, **only: Mapping[str, bool]) -> None:
    """Refuse what was asked of another target: a limit that nobody keeps must not look kept."""
    from mixbit import runs

    for target, given in only.items():
        flag = next((flag for flag, is_given in given.items() if is_given), None)
        if to != target and to in runs.export_targets() and flag is not None:
            raise MixbitError(f"{flag} is for the target {target}, and this is {to}. Leave it away.")


def _export_c(run: Path, out: Path | None, options: dict[str, Any], **how: Any) -> None:
    from mixbit import report, runs
    from mixbit.export.c import COptions

    done = runs.export_c(run, out, options=COptions(**options), **how)
    if (notes := report.lowering_notes_table(done.graph)) is not None:
        screen.show(notes)
    for table in report.c_tables(done.folder):
        screen.show(table)
    screen.files(done.files)
    if done.checked is None:
        screen.say(f"Note: not compared with the reference: {done.note}.")
    else:
        _compared(done.checked, done.fewer)
    screen.next(["mixbit", "verify", str(done.folder.path), "--run", str(run), "--target", "cortex-m4"])


def _compared(found: Checked, fewer: str | None) -> None:
    """Show it; C that differs from the reference ends the command with an error."""
    from mixbit import report

    if fewer is not None:
        screen.say(f"Note: {fewer}")
    screen.show(report.c_verification_table(found))
    if not found.exact:
        raise MixbitError(
            f"the C differs from the reference executor, first at {found.first_difference}. It should not: report it."
        )


@app.command()
def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="what mixbit export wrote: ONNX, QONNX, or a folder of C")
    ],
    run: Annotated[Path, typer.Option(help="the run folder that it was exported from")],
    images: Annotated[int, typer.Option(min=1, help="test images; few on an emulated core")] = 1000,
    target: Annotated[
        str, typer.Option(help="of C: host, or cortex-m3, cortex-m4, cortex-m7, cortex-m55 under QEMU")
    ] = "host",
) -> None:
    """Check an exported file against the reference executor on real inputs, and time it."""
    from mixbit import report, runs

    if runs.is_c_folder(file):
        checked = runs.verify_c_folder(file, run, target=target, images=images)
        if checked.counts is not None:
            screen.show(report.instructions_table(checked.counts))
        _compared(checked.checked, checked.fewer)
        return
    if target != "host":
        raise MixbitError(f"--target {target} is for a folder of C, and {file} is none. Leave it away for a file.")
    done = runs.verify(file, run, images=images)
    if done.content is None and done.verification.kind == "onnx":
        screen.say("Note: the file is not what this mixbit would write of the run, so its layers are not listed.")
    for table in () if done.content is None else report.file_tables(done.content):
        screen.show(table)
    _verified(done.verification, file)


def _verified(found: Agreement | None, path: Path) -> None:
    """Show it; a wrong file ends the command with an error."""
    from mixbit import report

    if found is None:
        return
    screen.show(report.verification_table(found))
    if (warning := report.saturation_warning(found)) is not None:
        screen.say(warning)
    if found.parting is not None:
        raise MixbitError(f"{path} differs from the reference, first in {found.parting}. {_remedy(found)}")
    if not found.right:
        what = "positions" if found.positions > found.images else "images"
        same = "" if found.top1_agreement is None else f"same class for {found.top1_agreement:.2%} of {what}, "
        legal = "one step" if found.top1_agreement is None else "99.9 % and one step"
        raise MixbitError(
            f"{path} differs from the reference: {same}up to {found.largest_steps:.3g} output steps apart on "
            f"{found.images} images. Legal: {legal}. {_remedy(found)}"
        )


def _remedy(found: Agreement) -> str:
    if found.stranger is not None:
        return f"Most likely it was exported from another run: {found.stranger}. {_STRANGER}"
    return _SATURATED if found.at_risk else _REPORT


_STRANGER = "Give the folder of its own run as --run. If this is its run, export it again."
_SATURATED = "Sums of products saturate on this machine: export it with --cpu any, or run it on a processor with VNNI."
_REPORT = "Export it again from the run folder, and report it if it stays so."
