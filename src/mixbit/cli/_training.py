"""Commands on trained networks: train, evaluate, stress, certify, attack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mixbit.cli import _words as words
from mixbit.cli._app import (
    BatchSize,
    Data,
    Epochs,
    Fraction,
    Rate,
    Run,
    Seed,
    Setting,
    Weights,
    app,
    note_weights,
    screen,
)
from mixbit.errors import MissingExtra

if TYPE_CHECKING:
    from mixbit import runs


@app.command()
def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="a model (see search), or the folder of a training to go on from")
    ],
    run: Run,
    data: Data = None,
    policy: Annotated[Path | None, typer.Option(help="bits of every layer; without it, training in float32")] = None,
    weights: Weights = None,
    seed: Seed = 0,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    fraction: Fraction = None,
    lr: Rate = None,
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile; pays from about ten epochs on")] = False,
    settings: Setting = None,
) -> None:
    """Train in float32, or fine-tune under a policy. The same command on the same folder continues a killed run."""
    from mixbit import report, runs

    given = {"epochs": epochs, "batch_size": batch_size, "fraction": fraction, "lr": lr, "compile": compiled or None}
    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    done = runs.train(subject, policy, words.settings(given, settings), run)
    if done.quantized:
        note_weights(done.began)
    screen.show(report.outcome_table([done.outcome], done.float32))
    if done.further:
        _say_metrics(done)
    for note in done.notes:
        screen.say(f"Note: {note}")
    screen.files(done.files)
    screen.next(report.after_train(done.trained, run, quantized=done.quantized))


def _say_metrics(done: runs.Trained | runs.Evaluated) -> None:
    facts = ", ".join([f"Loss {done.metrics.loss:.4f}", *done.further])
    screen.say(f"{facts} on {done.metrics.samples} test samples.")


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="folder of a training, or a model as for train")],
    data: Annotated[str | None, typer.Option(help="as for train; a run folder knows its own")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="for a MODEL: its bits; float weights are calibrated only")
    ] = None,
    weights: Weights = None,
    seed: Annotated[int | None, typer.Option(min=0, help="as for train; a run folder knows its own")] = None,
) -> None:
    """The task's metric and costs of a trained run, or of a model with or without a policy."""
    from mixbit import report, runs

    done = runs.evaluate(target, data=data, policy=policy, weights=weights, seed=seed)
    if done.run is None:
        note_weights(weights)
    screen.show(report.outcome_table([done.outcome], done.float32))
    _say_metrics(done)
    screen.next(report.after_evaluate(done.subject, policy=done.policy, run=done.run))


@app.command()
def stress(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of finished trainings, to compare")],
    images: Annotated[int | None, typer.Option(min=1, help="test images behind every figure; default: all")] = None,
    parts: Annotated[
        str, typer.Option(metavar="P,P,...", help="corruption, steps, bits, attacks, certificates")
    ] = "corruption,steps,bits",
    kinds: Annotated[str | None, typer.Option(metavar="K,K,...", help="gaussian_noise,jpeg; default: eight")] = None,
    severities: Annotated[str, typer.Option(metavar="S,S,...", help="of every kind, 1 to 5")] = "1,2,3,4,5",
    ptq: Annotated[
        str | None, typer.Option(help="how a float run is quantized: minmax, mse, lp or lapq; default: lp")
    ] = None,
    weight_bits: Annotated[
        int | None, typer.Option(min=2, max=8, help="of a float run, for the steps; default: 4")
    ] = None,
    data: Annotated[str | None, typer.Option(help="another data set than the run's own")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the noise, attacks and certificates")] = 0,
    on: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="the first and the last two on what ships: executor, onnx, qonnx, c"),
    ] = None,
    attacks: Annotated[
        str | None, typer.Option(metavar="A,A,...", help="of the part attacks, as for mixbit attack; default: pgd")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="of the part certificates: standard deviation of the noise")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the plots; default: stress in the first run")] = None,
) -> None:
    """Show how runs hold up under bad data, other quantizers and other bits. A killed one goes on."""
    from mixbit import report, runs

    chosen = {} if kinds is None else {"kinds": words.word_list(kinds)}
    settings = runs.StressSettings(
        parts=words.word_list(parts),  # type: ignore[arg-type]  # checked there
        images=images,
        severities=words.numbers("--severities", severities),
        ptq=ptq,
        weight_bits=weight_bits,
        seed=seed,
        on=on,
        attacks=None if attacks is None else tuple(words.names(attacks)),
        sigma=sigma,
        **chosen,
    )
    done = [runs.stress(one, settings, data=data) for one in run]
    for table in report.stress_tables(done):
        screen.show(table)
    for profile in done:
        for note in profile.notes:
            screen.say(f"{profile.name}: {note}")
    files = {path: what for profile in done for path, what in profile.files.items()}
    try:
        files |= report.stress_plots(done, run[0] / "stress" if out is None else out)
    except MissingExtra as error:
        screen.say(f"Note: no plot. {error}")
    screen.files(files)
    screen.next(report.after_stress(done))


@app.command()
def certify(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="folders of finished trainings, of the same data")
    ],
    sigma: Annotated[float, typer.Option(help="standard deviation of the noise, in the unit of the inputs")],
    radius: Annotated[
        str | None,
        typer.Option(metavar="R,R,...", help="of the table, in the unit of the inputs; default: 0.5 to 3 sigma"),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="test images, the same ones every time")] = 100,
    n: Annotated[int, typer.Option(min=1, help="samples that estimate a chance; 100000 in the literature")] = 1000,
    n0: Annotated[int, typer.Option(min=1, help="samples that choose a class")] = 100,
    alpha: Annotated[float, typer.Option(help="chance that a certificate is wrong")] = 0.001,
    early: Annotated[bool, typer.Option("--early", help="stop an image when all radii are decided")] = False,
    shown: Annotated[
        int | None,
        typer.Option(min=1, help="samples of all networks but the float one, whose certificates are passed on"),
    ] = None,
    mode: Annotated[Literal["both", "irs"], typer.Option(help="how they are passed on: irs is as published")] = "both",
    seed: Annotated[int, typer.Option(min=0, help="of the noise")] = 0,
    on: Annotated[
        str, typer.Option(metavar="T,T,...", help="float, fake-quantized, executor, onnx, c, ...")
    ] = "float,fake-quantized,executor",
    variants: Annotated[
        str,
        typer.Option(metavar="W8A8,...", help="bits of a float run, quantized without training: weights, activations"),
    ] = "W8A8",
    batch: Annotated[int, typer.Option(min=1, help="samples that go through a network together")] = 256,
    data: Annotated[str | None, typer.Option(help="another data set than the runs' own")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for results and plot; default: certify in the first run")] = (
        None
    ),
) -> None:
    """Certify runs in float, fake-quantized and on the integers that ship. A killed one goes on."""
    from mixbit import report, runs

    settings = runs.CertifySettings(
        sigma=sigma,
        radii=None if radius is None else words.fractions("--radius", radius),
        images=images,
        n0=n0,
        n=n,
        alpha=alpha,
        seed=seed,
        batch=batch,
        early=early,
        shown=shown,
        mode=mode,
        on=words.word_list(on),
        variants=words.word_list(variants),
    )
    done = runs.certify(run, settings, data=data, out=out)
    screen.show(report.certificate_table(done))
    for note in done.notes:
        screen.say(f"Note: {note}")
    files = dict(done.files)
    try:
        path = (run[0] / "certify" if out is None else out) / "certify.html"
        files[report.certificate_plot(done, path)] = "certified accuracy over the radius, for a browser"
    except MissingExtra as error:
        screen.say(f"Note: no plot. {error}")
    screen.files(files)
    screen.next(report.after_certify(done))


@app.command()
def attack(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="folders of finished trainings, of the same data")
    ],
    attacks: Annotated[
        str, typer.Option(metavar="A,A,...", help="see mixbit list attacks; with settings: pgd?steps=40,deepfool")
    ] = "pgd",
    eps: Annotated[
        str | None,
        typer.Option(metavar="E,E,...", help="radii of attacks within a ball, in the unit of the inputs: 1/255,0.03"),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="test images, the same ones every time")] = 100,
    queries: Annotated[int | None, typer.Option(min=1, help="points that each image may ask for; default: any")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all that is random in attacks")] = 0,
    on: Annotated[
        str, typer.Option(metavar="T,T,...", help="float, fake-quantized, executor, onnx, c, cortex-m4, ...")
    ] = "float,fake-quantized,executor",
    variants: Annotated[
        str,
        typer.Option(metavar="W8A8,...", help="bits of a float run, quantized without training: weights, activations"),
    ] = "W8A16,W8A8",
    twins: Annotated[
        bool,
        typer.Option("--twins", help="white-box attacks on integers, by the fake-quantized network's gradients"),
    ] = False,
    data: Annotated[str | None, typer.Option(help="another data set than the runs' own")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for results and plots; default: attack in the first run")] = (
        None
    ),
) -> None:
    """Attack runs in float, fake-quantized and on the integers that ship. A killed one goes on."""
    from mixbit import report, runs

    settings = runs.AttackSettings(
        attacks=tuple(words.names(attacks)),
        eps=None if eps is None else words.fractions("--eps", eps),
        images=images,
        queries=queries,
        seed=seed,
        on=words.word_list(on),
        variants=words.word_list(variants),
        twins=twins,
    )
    done = runs.attack(run, settings, data=data, out=out)
    for table in report.attack_tables(done):
        screen.show(table)
    for note in done.notes:
        screen.say(f"Note: {note}")
    files = dict(done.files)
    try:
        path = (run[0] / "attack" if out is None else out) / "attack.html"
        files[report.attack_plot(done, path)] = "accuracy against radius, transfer and images, for a browser"
    except MissingExtra as error:
        screen.say(f"Note: no plot. {error}")
    screen.files(files)
    screen.next(report.after_attack(done))
