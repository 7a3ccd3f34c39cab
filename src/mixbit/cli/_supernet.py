"""Commands on supernets: supernet train, supernet evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixbit.cli import _words as words
from mixbit.cli._app import (
    BatchSize,
    Data,
    Epochs,
    Fraction,
    Model,
    Rate,
    Run,
    Seed,
    Setting,
    Weights,
    app,
    note_weights,
    screen,
)

supernet_app = typer.Typer(help="One network trained at many bit-widths at once.", no_args_is_help=True)
app.add_typer(supernet_app, name="supernet")


@supernet_app.command("train")
def supernet_train(
    model: Model,
    run: Run,
    data: Data = None,
    weights: Weights = None,
    seed: Seed = 0,
    bits: Annotated[
        str | None, typer.Option(metavar="B,B,...", help="what layers may have; default: 2,3,4,5,6,8")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(help="quantizer of activations: lsq, batchquant, pact or dorefa")
    ] = None,
    norms: Annotated[
        str | None, typer.Option(help="batch norms: shared, a row a bit-width (bits), or a row a pair (pair)")
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    fraction: Fraction = None,
    lr: Rate = None,
    settings: Setting = None,
) -> None:
    """Train a network at all bit-widths together. The same command on the same folder continues a killed run."""
    from mixbit import report, runs

    given = {"activations": activations, "norms": norms, "epochs": epochs, "batch_size": batch_size}
    chosen = {**given, "fraction": fraction, "lr": lr, "bits": None if bits is None else list(words.bit_list(bits))}
    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    done = runs.train_supernet(subject, words.settings(chosen, settings), run, tell=screen.say)
    note_weights(weights)
    screen.show(report.subnets_table(done.subnets))
    screen.files(done.files)
    screen.next(report.after_supernet(run))


@supernet_app.command("evaluate")
def supernet_evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a supernet train, or of a search qfa")],
    policy: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="bits of every layer; several times for several")
    ] = None,
    bits: Annotated[
        list[str] | None, typer.Option(metavar="4x4", help="a uniform sub-network: weight bits x activation bits")
    ] = None,
    data: Annotated[str | None, typer.Option(help="where the data lie now, if they have moved")] = None,
    test: Annotated[bool, typer.Option(help="measure on the test split as well, to report and not to choose")] = True,
) -> None:
    """What policies are worth as sub-networks of a trained supernet: seconds each, and no training."""
    from mixbit import report, runs

    found = runs.evaluate_supernet(run, policy or (), [words.pair(one) for one in bits or ()], data=data, test=test)
    screen.show(report.subnets_table(found))
