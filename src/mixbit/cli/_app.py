"""The application, and the options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from mixbit._version import __version__
from mixbit.errors import MixbitError
from mixbit.report import Screen

IMPORT = "--import"

app = typer.Typer(
    help="Search, allocate, train and evaluate mixed-precision networks under hard budgets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
# Under torchrun every process runs the same command; the first one speaks.
screen = Screen(silent=os.environ.get("RANK", "0") != "0")

Model = Annotated[
    str,
    typer.Argument(help="zoo name (mixbit list models), package.module:factory, or FILE.py:factory; or FILE.py:task"),
]
Data = Annotated[
    str | None,
    typer.Option(help="digits, cifar10:DIR, fashion-mnist:DIR, imagefolder:DIR or hf:NAME; a task brings its own"),
]
Weights = Annotated[Path | None, typer.Option(help=".safetensors, or .pth (read with weights_only=True)")]
Run = Annotated[Path, typer.Option(help="folder of this run; the same command on it continues a killed run")]
Seed = Annotated[
    int,
    typer.Option(min=0, help="of the order of training and random draws; the split of data has its own: digits?seed=3"),
]
Setting = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any other setting, in JSON")]
Epochs = Annotated[int | None, typer.Option(help="passes over the training data")]
BatchSize = Annotated[int | None, typer.Option(help="samples of one step, over all processes together")]
Rate = Annotated[float | None, typer.Option(help="peak learning rate")]
Macs = Literal["exact", "limpq"]
Repair = Literal["forbid", "isotonic", "none"]
Fraction = Annotated[float | None, typer.Option(help="part of the training data that is used")]


def note_weights(weights: Path | None) -> None:
    """Say that nothing was loaded: networks of the zoo start at random."""
    if weights is None:
        screen.say("Note: no --weights, so the model is as its factory makes it; networks of the zoo start at random.")


def _print_version(wanted: bool) -> None:
    if wanted:
        screen.say(f"mixbit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            IMPORT, metavar="FILE.py|MODULE", help="your code, run first: methods, models and more that it registers"
        ),
    ] = None,
) -> None:
    screen.also = [word for one in imports or () for word in (IMPORT, one)]
    if imports:
        from mixbit.models.loading import import_code

        for one in imports:
            import_code(one)


def imports_first(words: Sequence[str]) -> list[str]:
    """`--import` before the command, where the application looks for it, wherever it was typed.

    >>> imports_first(["list", "methods", "--import", "mine.py"])
    ['--import', 'mine.py', 'list', 'methods']
    """
    first, rest, left = list[str](), list[str](), iter(words)
    for word in left:
        if word == "--":
            rest += [word, *left]
        elif word == IMPORT:
            value = next(left, None)
            if value is None:
                raise MixbitError(f"{IMPORT} names nothing. Write {IMPORT} FILE.py, or {IMPORT} package.module.")
            first += [word, value]
        else:
            (first if word.startswith(f"{IMPORT}=") else rest).append(word)
    return first + rest
