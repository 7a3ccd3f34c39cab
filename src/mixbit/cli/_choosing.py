"""Commands that choose bits: search, allocate, latency build, compare, transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mixbit.cli import _words as words
from mixbit.cli._app import (
    BatchSize,
    Data,
    Epochs,
    Fraction,
    Macs,
    Model,
    Rate,
    Repair,
    Run,
    Seed,
    Setting,
    Weights,
    app,
    note_weights,
    screen,
)
from mixbit.errors import MissingExtra

Kernels = Annotated[
    Literal["dsp", "plain"], typer.Option(help="for flash= and ram=: as mixbit export --to c will be called")
]
PackActivations = Annotated[bool, typer.Option(help="for flash= and ram=: the same")]
Rounding = Annotated[Literal["single", "double", "litert"], typer.Option(help="for flash= and ram=: the same")]


@app.command()
def search(
    method: Annotated[str, typer.Argument(help="see mixbit list methods")],
    model: Annotated[
        str,
        typer.Argument(
            help="zoo name (mixbit list models), package.module:factory, or FILE.py:factory; or FILE.py:task; for qfa "
            "also the folder of a mixbit supernet train"
        ),
    ],
    run: Run,
    data: Data = None,
    weights: Weights = None,
    seed: Seed = 0,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    fraction: Fraction = None,
    lr: Rate = None,
    bits: Annotated[str | None, typer.Option(metavar="B,B,...", help="candidate bit-widths: 2,3,4,5,6")] = None,
    faithful: Annotated[
        bool | None, typer.Option("--faithful/--no-faithful", help="as the authors released it, without our options")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(metavar="KIND=VALUE", help="for methods that search under one; as for allocate")
    ] = None,
    pin: Annotated[list[str] | None, typer.Option(metavar="NAME=W8A8", help="with a budget; as for allocate")] = None,
    first_last: Annotated[str, typer.Option(metavar="W8A8|free", help="with a budget; as for allocate")] = "W8A8",
    latency: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="with a budget, or for a front; as for allocate")
    ] = None,
    kernels: Kernels = "dsp",
    pack_activations: PackActivations = False,
    rounding: Rounding = "single",
    settings: Setting = None,
) -> None:
    """Search: for scores or a front, once a network, budgets come later; or for a policy, under a budget."""
    from mixbit import report, runs
    from mixbit.export.c import COptions

    given = {"epochs": epochs, "batch_size": batch_size, "fraction": fraction, "lr": lr, "faithful": faithful}
    chosen = {**given, "bits": None if bits is None else words.bit_list(bits)}
    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    done = runs.search(
        subject,
        method,
        words.settings(chosen, settings),
        run,
        budget=budget or (),
        pins=words.once("--pin", map(words.pin, pin or ())),
        first_last=words.edges(first_last),
        latency=latency,
        c_options=COptions(kernels=kernels, pack_activations=pack_activations),
        rounding=rounding,
    )
    if not runs.is_supernet(model):
        note_weights(weights)
    screen.say(report.search_summary(method, done))
    for note in done.notes:
        screen.say(f"Note: {note}")
    for table in report.search_tables(done):
        screen.show(table)
    if done.footprint is not None:
        screen.say(report.footprint_summary(done.footprint))
    files = dict(done.files)
    if done.episodes:
        try:
            plot = report.episodes_plot(done.episodes, run / "episodes.html", method)
            files[plot] = "rewards of all episodes, for a browser"
        except MissingExtra as error:
            screen.say(f"Note: no plot. {error}")
    screen.files(files)
    screen.next(report.after_search(run, done))


@app.command()
def allocate(
    source: Annotated[Path, typer.Argument(metavar="RUN|SCORES", help="folder of a search, or a scores file in one")],
    budget: Annotated[
        list[str],
        typer.Option(
            metavar="KIND=VALUE",
            help="bitops=3x4, weight-bytes=12.2x, activation-bytes=64kB; flash=256kB, ram=64kB as C; latency=12ms "
            "or instructions=30M with --latency",
        ),
    ],
    out: Annotated[Path, typer.Option(help="the policy, as JSON")] = Path("policy.json"),
    pin: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=W8A8", help="fix a layer's bits; re:PATTERN=W8A8 for all that match"),
    ] = None,
    first_last: Annotated[
        str, typer.Option(metavar="W8A8|free", help="bits of the first and the last layer, or free")
    ] = "W8A8",
    ties: Annotated[bool, typer.Option(help="layers that read one tensor share its activation bits")] = True,
    alpha: Annotated[float | None, typer.Option(help="weight of the weights' harm; default: the method's")] = None,
    macs: Annotated[Macs, typer.Option(help="how MACs are counted; limpq reproduces its released code")] = "exact",
    repair: Annotated[Repair, typer.Option(help="scores that improve with fewer bits")] = "forbid",
    exact: Annotated[
        bool, typer.Option("--exact", help="prove the optimum of scores with joint harms; small networks")
    ] = False,
    latency: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="measured times, of mixbit latency build; for latency=12ms")
    ] = None,
    kernels: Kernels = "dsp",
    pack_activations: PackActivations = False,
    rounding: Rounding = "single",
) -> None:
    """Choose the bits of every layer: least harm within all budgets, by an exact solver; the best of a front."""
    from mixbit import report, runs
    from mixbit.allocation import AllocationSettings
    from mixbit.export.c import COptions

    done = runs.allocate(
        source,
        budget,
        out,
        AllocationSettings(
            pins=words.once("--pin", map(words.pin, pin or ())),
            first_last=words.edges(first_last),
            ties=ties,
            alpha=alpha,
            macs=macs,
            repair=repair,
            exact=exact,
            or_uniform=True,
        ),
        latency=latency,
        c_options=COptions(kernels=kernels, pack_activations=pack_activations),
        rounding=rounding,
    )
    screen.show(report.bits_table(done.policy.layers, pinned=done.pinned))
    for note in done.policy.notes:
        screen.say(f"Note: {note}")
    screen.show(report.budget_table(done.budget, done.costs, done.limits))
    if done.allocation is not None:
        screen.say(report.allocation_summary(done.allocation))
    if done.footprint is not None:
        screen.say(report.footprint_summary(done.footprint))
    screen.files({out: "the policy; edit it by hand if you like"})
    screen.next(report.after_allocate(done.subject, out))


@app.command()
def front(
    source: Annotated[Path, typer.Argument(metavar="RUN|FRONT", help="folder of a search, or a front file in one")],
    budget: Annotated[
        list[str] | None, typer.Option(metavar="KIND=VALUE", help="as for allocate; without one the front is shown")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the picked policy, as JSON")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="what is best: loss, or a metric; default: the metric")
    ] = None,
    first_last: Annotated[
        str, typer.Option(metavar="W8A8|free", help="what bitops=3x4 refers to, as for allocate")
    ] = "W8A8",
    latency: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="measured times, of mixbit latency build; for latency=12ms")
    ] = None,
    kernels: Kernels = "dsp",
    pack_activations: PackActivations = False,
    rounding: Rounding = "single",
    plot: Annotated[Path | None, typer.Option(metavar="HTML", help="the front as a plot, for a browser")] = None,
    take: Annotated[
        Path | None, typer.Option(metavar="RUN", help="the picked network with the front's weights, as a run folder")
    ] = None,
) -> None:
    """Show a front of policies, and pick the best within a budget."""
    from mixbit import report, runs
    from mixbit.export.c import COptions

    done = runs.pick(
        source,
        budget or (),
        out,
        by=by,
        first_last=words.edges(first_last),
        latency=latency,
        c_options=COptions(kernels=kernels, pack_activations=pack_activations),
        rounding=rounding,
    )
    taken = {} if take is None else runs.take(done, take)  # what cannot be taken is told before the whole front is
    screen.show(report.front_table(done.front, done.policy))
    files = done.files | taken
    if done.policy is not None and done.budget is not None and done.costs is not None:
        screen.show(report.bits_table(done.policy.layers, pinned=done.pinned))
        for note in done.policy.notes:
            screen.say(f"Note: {note}")
        screen.show(report.budget_table(done.budget, done.costs, done.limits))
    if done.footprint is not None:
        screen.say(report.footprint_summary(done.footprint))
    if plot is not None:
        files[report.front_plot(done.front, plot, done.policy)] = "the metric against costs, for a browser"
    screen.files(files)
    screen.next(report.after_front(source, done) if take is None else ["mixbit", "export", str(take)])


latency_app = typer.Typer(help="Measured times of a network's layers, for budgets in time.", no_args_is_help=True)
app.add_typer(latency_app, name="latency")


@latency_app.command("build")
def latency_build(
    model: Model,
    target: Annotated[str, typer.Option(help="onnxruntime, on this CPU; or cortex-m4 and others under QEMU")],
    out: Annotated[Path, typer.Option(help="the table, as JSON; the same command continues a killed one")] = Path(
        "latency.json"
    ),
    data: Annotated[str | None, typer.Option(help="takes the input shape and the number of classes from it")] = None,
    shape: Annotated[str | None, typer.Option("--input", metavar="CxHxW", help="shape of one input: 3x224x224")] = None,
    bits: Annotated[
        str, typer.Option(metavar="B,B,...", help="bits of weights and activations; those of pins among them")
    ] = "2,3,4,5,6,8",
    activation_bits: Annotated[
        str | None, typer.Option(metavar="B,B,...", help="bits of activations, if they are others: 8,16")
    ] = None,
    cpu: Annotated[
        Literal["any", "vnni"], typer.Option(help="onnxruntime: measure files of mixbit export with the same --cpu")
    ] = "any",
    repeats: Annotated[int, typer.Option(min=1, help="rounds that each time is the median of")] = 30,
    checks: Annotated[int, typer.Option(min=0, help="random policies to compare the sums with")] = 3,
) -> None:
    """Measure what every layer takes at every pair of bits; allocate then takes latency=12ms as a hard limit."""
    from mixbit import report, runs

    done = runs.build_latency(
        runs.Subject(model=model, data=data),
        target,
        out,
        cpu=cpu,
        bits=words.bit_list(bits),
        activation_bits=None
        if activation_bits is None
        else words.numbers("--activation-bits", activation_bits, like="8,16"),
        repeats=repeats,
        checks=checks,
        input_shape=None if shape is None else words.shape(shape),
        tell=screen.say,
    )
    screen.show(report.latency_table(done.table))
    if done.table.checks:
        screen.show(report.latency_checks_table(done.table))
    screen.files(done.files)
    screen.next(report.after_latency(out, done.table))


@app.command()
def compare(
    model: Model,
    run: Run,
    budget: Annotated[
        list[str], typer.Option(metavar="KIND=VALUE", help="as for allocate; several limits with commas between")
    ],
    methods: Annotated[
        str, typer.Option(metavar="M,M,...", help="limpq,hawq-v2,random?seed=1; uniform and random always take part")
    ],
    data: Data = None,
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="of the searches that set none")] = 0,
    seeds: Annotated[str, typer.Option(metavar="S,S,...", help="of calibration and fine-tuning")] = "0",
    epochs: Annotated[
        int | None,
        typer.Option(min=0, help="of fine-tuning; 0 stops after calibration; default: 1, and with --judge none"),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="rank by a trained supernet in seconds a policy; folder of a supernet train or search qfa",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="a policy from elsewhere that takes part")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="add uniform and random")] = True,
    repair: Annotated[Repair, typer.Option(help="scores that improve with fewer bits, as in allocate")] = "forbid",
    settings: Setting = None,
) -> None:
    """Search methods side by side: same data, budgets, fine-tuning and seeds, and what each search took.

    Start it several times on one folder to share the work among processes; a killed one goes on.
    """
    from mixbit import report, runs

    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    epochs = (1 if judge is None else 0) if epochs is None else epochs
    tuning = words.settings({"epochs": epochs or None}, settings)
    done = runs.compare(
        subject,
        words.names(methods),
        budget,
        run,
        judge=judge,
        settings=tuning,
        fine_tune=epochs > 0,
        seeds=words.seeds(seeds),
        policies=words.once("--policy", map(words.named_file, policy or ())),
        baselines=baselines,
        repair=repair,
        tell=lambda row: screen.say(report.comparison_line(row)),
    )
    note_weights(weights)
    for table in report.comparison_tables(done):
        screen.show(table)
    files = dict(done.files)
    try:
        files[report.pareto_plot(done, run / "compare.html")] = "accuracy against costs, for a browser"
    except MissingExtra as error:
        screen.say(f"Note: no plot. {error}")
    screen.files(files)
    screen.next(report.after_compare(done))


@app.command()
def transfer(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|SCORES|POLICY", help="folder of a search, or its scores or a policy in one")
    ],
    model: Model,
    run: Run,
    budget: Annotated[list[str], typer.Option(metavar="KIND=VALUE", help="as for allocate, on the target")],
    data: Data = None,
    weights: Weights = None,
    seed: Seed = 0,
    own: Annotated[bool, typer.Option(help="search the target in the same way, and compare")] = True,
    epochs: Annotated[int, typer.Option(min=0, help="of fine-tuning; 0 stops after calibration")] = 0,
    settings: Setting = None,
) -> None:
    """Use what was found on one data set for the same architecture trained on another, and see how far both agree."""
    from mixbit import report, runs

    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    done = runs.transfer(source, subject, budget, run, own=own, epochs=epochs, settings=words.settings({}, settings))
    note_weights(weights)
    screen.show(report.transfer_table(done))
    if done.agreement is not None and done.agreement.spearman:
        screen.show(report.agreement_table(done.agreement))
    screen.files(done.files)
    screen.next(report.after_allocate(subject, run / "transferred" / "policy.json"))
