"""Commands that look: inspect, list; and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mixbit.cli import _words as words
from mixbit.cli._app import Model, Run, Weights, app, screen


@app.command()
def inspect(
    model: Model,
    data: Annotated[str | None, typer.Option(help="takes the input shape and the number of classes from it")] = None,
    shape: Annotated[str | None, typer.Option("--input", metavar="CxHxW", help="shape of one input: 3x224x224")] = None,
    weights: Weights = None,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write the network as JSON")] = None,
) -> None:
    """Show the layers of a model: shapes, MACs, shared inputs, and what stays in float32 with the reason."""
    from mixbit import report, runs

    subject = runs.Subject(model=model, data=data, weights=weights)
    done = runs.inspect(subject, input_shape=None if shape is None else words.shape(shape), out=json_out)
    screen.show(report.layers_table(done.network))
    if done.network.joins:
        screen.show(report.joins_table(done.network))
    if done.network.skipped:
        screen.show(report.skipped_table(done.network))
    if done.network.float_parameters:
        screen.show(report.floats_table(done.network))
    note = "Uniform bits, but for the first and the last layer: pinned at 8 bits, and counted."
    screen.show(report.costs_table(done.uniform, done.float32, notes=[note]))
    if done.unexportable is not None:
        screen.say(f"Note: it cannot be exported as it is: {done.unexportable}.")
    if json_out is not None:
        screen.files({json_out: "the captured network"})
    screen.next(report.after_inspect(subject, done.input_shape, own_data=done.own_data))


@app.command()
def demo(run: Run = Path("runs/demo")) -> None:
    """Train, search, allocate and fine-tune on embedded digits, beside uniform and random policies."""
    from mixbit import report, runs

    done = runs.demo(run)
    screen.show(report.outcome_table(done.outcomes, done.float32, title="Digits", notes=done.notes))
    screen.files(done.files)
    screen.next(report.after_demo(run))


@app.command("list")
def list_(
    what: Annotated[
        Literal["methods", "models", "data", "targets", "attacks"],
        typer.Argument(help="methods, models, data, targets, or attacks"),
    ],
    pattern: Annotated[str, typer.Argument(help="shell pattern: 'resnet*'")] = "*",
) -> None:
    """List what there is, one line each."""
    from mixbit import report

    screen.show(report.listing(what, pattern))
