"""Commands on files for runtimes: export, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mixbit.cli._app import app, screen
from mixbit.errors import MixbitError

if TYPE_CHECKING:
    from mixbit.export.verify import Verification


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished training under a policy")],
    to: Annotated[str, typer.Option(metavar="TARGET", help="onnx, or qonnx for QONNX tools")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="the file; default: in the run folder")] = None,
    pack: Annotated[
        Literal["fields", "none"], typer.Option(help="ONNX: weights packed at their bits, or one a byte")
    ] = "fields",
    strict: Annotated[bool, typer.Option("--strict", help="refuse what the file would hold at more bits")] = False,
    images: Annotated[int, typer.Option(min=0, help="test images to verify the file with; 0 for none")] = 1000,
) -> None:
    """Write the integer network of a run as a file that is as small as its policy, and verify it."""
    from mixbit import report, runs

    done = runs.export(run, to, out, pack=pack, strict=strict, images=images)
    if (notes := report.lowering_notes_table(done.graph)) is not None:
        screen.show(notes)
    for table in report.file_tables(done.file):
        screen.show(table)
    screen.files(done.files)
    _verified(done.verification)
    screen.next(report.after_export(next(iter(done.files)), run))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="an ONNX or QONNX file that mixbit export wrote")],
    run: Annotated[Path, typer.Option(help="the run folder that it was exported from")],
    images: Annotated[int, typer.Option(min=1, help="test images")] = 1000,
) -> None:
    """Check an exported file against the reference executor on real inputs, and time it."""
    from mixbit import report, runs

    done = runs.verify(file, run, images=images)
    if done.content is None and done.verification.kind == "onnx":
        screen.say("Note: the file is not what this mixbit would write of the run, so its layers are not listed.")
    for table in () if done.content is None else report.file_tables(done.content):
        screen.show(table)
    _verified(done.verification)


def _verified(found: Verification | None) -> None:
    """Show it; a wrong file ends the command with an error."""
    from mixbit import report

    if found is None:
        return
    screen.show(report.verification_table(found))
    if not found.right:
        raise MixbitError(
            f"{found.path} differs from the reference: same class for {found.top1_agreement:.2%} of {found.images} "
            f"images, up to {found.largest_steps:.3g} output steps apart. Legal: 99.9 % and one step. Export it again "
            "from the run folder, and report it if it stays so."
        )
