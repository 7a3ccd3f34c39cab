"""The command line: parses, calls, prints. `mixbit.runs` does the work, `mixbit.report` says how it looks."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from mixbit._heap import keep_freed_memory
from mixbit._version import __version__
from mixbit.errors import BudgetError, MissingExtra, MixbitError
from mixbit.report import Screen

if TYPE_CHECKING:
    from mixbit.cost import LayerBits
    from mixbit.export.verify import Verification

__all__ = ["app", "main"]

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

Model = Annotated[str, typer.Argument(help="zoo name (mixbit list models), package.module:factory, or FILE.py:factory")]
Data = Annotated[str, typer.Option(help="digits, cifar10:DIR, fashion-mnist:DIR, imagefolder:DIR or hf:NAME")]
Weights = Annotated[Path | None, typer.Option(help=".safetensors, or .pth (read with weights_only=True)")]
Run = Annotated[Path, typer.Option(help="folder of this run; the same command on it continues a killed run")]
Seed = Annotated[int, typer.Option(min=0, help="of the data split, the order of training, and random draws")]
Setting = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any other setting, in JSON")]
Epochs = Annotated[int | None, typer.Option(help="passes over the training data")]
BatchSize = Annotated[int | None, typer.Option(help="samples of one step, over all processes together")]
Rate = Annotated[float | None, typer.Option(help="peak learning rate")]
Macs = Literal["exact", "limpq"]
Repair = Literal["forbid", "isotonic", "none"]
Fraction = Annotated[float | None, typer.Option(help="part of the training data that is used")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 for an interruption, 2 for a wrong command or any `MixbitError`.

    A `MixbitError` is one message on standard error, without a traceback; other exceptions are bugs and keep theirs.
    """
    keep_freed_memory()
    try:
        app(arguments)
    except MixbitError as error:
        Screen(sys.stderr).error(f"Error: {error}")
        raise SystemExit(2) from None
    raise SystemExit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        screen.say(f"mixbit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    pass


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
    done = runs.inspect(subject, input_shape=None if shape is None else _shape(shape), out=json_out)
    screen.show(report.layers_table(done.network))
    if done.network.joins:
        screen.show(report.joins_table(done.network))
    if done.network.skipped:
        screen.show(report.skipped_table(done.network))
    note = "Uniform bits, but for the first and the last layer: pinned at 8 bits, and counted."
    screen.show(report.costs_table(done.uniform, done.float32, notes=[note]))
    if json_out is not None:
        screen.files({json_out: "the captured network"})
    screen.next(report.after_inspect(subject, done.input_shape))


@app.command()
def search(
    method: Annotated[str, typer.Argument(help="see mixbit list methods")],
    model: Model,
    data: Data,
    run: Run,
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
    settings: Setting = None,
) -> None:
    """Measure the harm of each bit-width to each layer. Once a network; budgets come later."""
    from mixbit import report, runs

    given = {"epochs": epochs, "batch_size": batch_size, "fraction": fraction, "lr": lr, "faithful": faithful}
    chosen = {**given, "bits": None if bits is None else _bit_list(bits)}
    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    done = runs.search(subject, method, _settings(chosen, settings), run)
    _note_weights(weights)
    screen.say(f"{method} scored {len(done.scores.layers)} of {len(done.network.layers)} layers.")
    if (entropies := report.entropy_table(done.scores)) is not None:
        screen.show(entropies)
    screen.files(done.files)
    screen.next(report.after_search(run))


@app.command()
def allocate(
    source: Annotated[Path, typer.Argument(metavar="RUN|SCORES", help="folder of a search, or a scores file in one")],
    budget: Annotated[
        list[str],
        typer.Option(
            metavar="KIND=VALUE",
            help="bitops=3x4, weight-bytes=12.2x, activation-bytes=64kB; latency=12ms with --latency",
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
) -> None:
    """Choose the bits of every layer: least harm within all budgets, by an exact solver."""
    from mixbit import report, runs

    edges = None if first_last == "free" else _bits(first_last)
    done = runs.allocate(
        source,
        budget,
        out,
        pins=dict(map(_pin, pin or ())),
        first_last=edges,
        ties=ties,
        alpha=alpha,
        macs=macs,
        repair=repair,
        exact=exact,
        latency=latency,
    )
    screen.show(report.bits_table(done.policy.layers, pinned=done.pinned))
    for note in done.policy.notes:
        screen.say(f"Note: {note}")
    screen.show(report.budget_table(done.budget, done.costs, done.limits))
    screen.say(report.allocation_summary(done.allocation))
    screen.files({out: "the policy; edit it by hand if you like"})
    screen.next(report.after_allocate(done.subject, out))


@app.command()
def train(
    model: Model,
    data: Data,
    run: Run,
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
    done = runs.train(subject, policy, _settings(given, settings), run)
    if policy is not None:
        _note_weights(weights)
    screen.show(report.comparison_table([done.outcome], done.float32))
    for note in done.notes:
        screen.say(f"Note: {note}")
    screen.files(done.files)
    screen.next(report.after_train(done.trained, run, quantized=policy is not None))


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
    """Accuracy and costs of a trained run, or of a model with or without a policy."""
    from mixbit import report, runs

    done = runs.evaluate(target, data=data, policy=policy, weights=weights, seed=seed)
    screen.show(report.comparison_table([done.outcome], done.float32))
    screen.say(f"Loss {done.metrics.loss:.4f} on {done.metrics.samples} test samples.")
    screen.next(report.after_evaluate(done.subject, policy=done.policy, run=done.run))


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


@app.command()
def compare(
    model: Model,
    data: Data,
    run: Run,
    budget: Annotated[
        list[str], typer.Option(metavar="KIND=VALUE", help="as for allocate; several limits with commas between")
    ],
    methods: Annotated[
        str, typer.Option(metavar="M,M,...", help="limpq,hawq-v2,random?seed=1; uniform and random always take part")
    ],
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="of the searches that set none")] = 0,
    seeds: Annotated[str, typer.Option(metavar="S,S,...", help="of calibration and fine-tuning")] = "0",
    epochs: Annotated[int, typer.Option(min=0, help="of fine-tuning; 0 stops after calibration")] = 1,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="a policy from elsewhere that takes part")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="add uniform and random")] = True,
    settings: Setting = None,
) -> None:
    """Search methods side by side: same data, budgets, fine-tuning and seeds, and what each search took.

    Start it several times on one folder to share the work among processes; a killed one goes on.
    """
    from mixbit import report, runs

    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    tuning = _settings({"epochs": epochs or None}, settings)
    done = runs.compare(
        subject,
        _names(methods),
        budget,
        run,
        settings=tuning,
        fine_tune=epochs > 0,
        seeds=_seeds(seeds),
        policies=dict(map(_named_file, policy or ())),
        baselines=baselines,
        tell=lambda row: screen.say(report.arena_line(row)),
    )
    _note_weights(weights)
    for table in report.arena_tables(done):
        screen.show(table)
    files = dict(done.files)
    try:
        files[report.pareto_plot(done, run / "compare.html")] = "accuracy against costs, for a browser"
    except MissingExtra as error:
        screen.say(f"Note: no plot. {error}")
    screen.files(files)
    screen.next(report.after_compare(done))


@app.command()
def stress(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of finished trainings, to compare")],
    images: Annotated[int | None, typer.Option(min=1, help="test images behind every figure; default: all")] = None,
    parts: Annotated[str, typer.Option(metavar="P,P,...", help="corruption, steps, bits")] = "corruption,steps,bits",
    kinds: Annotated[str | None, typer.Option(metavar="K,K,...", help="gaussian_noise,jpeg; default: eight")] = None,
    severities: Annotated[str, typer.Option(metavar="S,S,...", help="of every kind, 1 to 5")] = "1,2,3,4,5",
    ptq: Annotated[str, typer.Option(help="how a float run is quantized: minmax, mse, lp or lapq")] = "lp",
    weight_bits: Annotated[int, typer.Option(min=2, max=8, help="of a float run, for the steps")] = 4,
    data: Annotated[str | None, typer.Option(help="another data set than the run's own")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the noise")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the plots; default: stress in the first run")] = None,
) -> None:
    """Show how runs hold up under bad data, other quantizers and other bits. A killed one goes on."""
    from mixbit import report, runs

    chosen = {} if kinds is None else {"kinds": _words(kinds)}
    settings = runs.StressSettings(
        parts=_words(parts),  # type: ignore[arg-type]  # checked there
        images=images,
        severities=_numbers("--severities", severities),
        ptq=ptq,
        weight_bits=weight_bits,
        seed=seed,
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


latency_app = typer.Typer(help="Measured times of a network's layers, for budgets in time.", no_args_is_help=True)
app.add_typer(latency_app, name="latency")


@latency_app.command("build")
def latency_build(
    model: Model,
    target: Annotated[str, typer.Option(help="what to measure on: onnxruntime, on this CPU")],
    out: Annotated[Path, typer.Option(help="the table, as JSON; the same command continues a killed one")] = Path(
        "latency.json"
    ),
    data: Annotated[str | None, typer.Option(help="takes the input shape and the number of classes from it")] = None,
    shape: Annotated[str | None, typer.Option("--input", metavar="CxHxW", help="shape of one input: 3x224x224")] = None,
    bits: Annotated[
        str, typer.Option(metavar="B,B,...", help="bits of weights and activations; those of pins among them")
    ] = "2,3,4,5,6,8",
    repeats: Annotated[int, typer.Option(min=1, help="rounds that each time is the median of")] = 30,
    checks: Annotated[int, typer.Option(min=0, help="random policies to compare the sums with")] = 3,
) -> None:
    """Measure what every layer takes at every pair of bits; allocate then takes latency=12ms as a hard limit."""
    from mixbit import report, runs

    done = runs.build_latency(
        runs.Subject(model=model, data=data),
        target,
        out,
        bits=_bit_list(bits),
        repeats=repeats,
        checks=checks,
        input_shape=None if shape is None else _shape(shape),
        tell=screen.say,
    )
    screen.show(report.latency_table(done.table))
    if done.table.checks:
        screen.show(report.latency_checks_table(done.table))
    screen.files(done.files)
    screen.next(report.after_latency(out, done.table))


@app.command()
def transfer(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|SCORES|POLICY", help="folder of a search, or its scores or a policy in one")
    ],
    model: Model,
    data: Data,
    run: Run,
    budget: Annotated[list[str], typer.Option(metavar="KIND=VALUE", help="as for allocate, on the target")],
    weights: Weights = None,
    seed: Seed = 0,
    own: Annotated[bool, typer.Option(help="search the target in the same way, and compare")] = True,
    epochs: Annotated[int, typer.Option(min=0, help="of fine-tuning; 0 stops after calibration")] = 0,
    settings: Setting = None,
) -> None:
    """Use what was found on one data set for the same architecture trained on another, and see how far both agree."""
    from mixbit import report, runs

    subject = runs.Subject(model=model, data=data, weights=weights, seed=seed)
    done = runs.transfer(source, subject, budget, run, own=own, epochs=epochs, settings=_settings({}, settings))
    _note_weights(weights)
    screen.show(report.transfer_table(done))
    if done.agreement is not None and done.agreement.spearman:
        screen.show(report.agreement_table(done.agreement))
    screen.files(done.files)
    screen.next(report.after_allocate(subject, run / "transferred" / "policy.json"))


@app.command()
def demo(run: Run = Path("runs/demo")) -> None:
    """Train, search, allocate and fine-tune on embedded digits, beside uniform and random policies."""
    from mixbit import report, runs

    done = runs.demo(run)
    screen.show(report.comparison_table(done.outcomes, done.float32, title="Digits", notes=done.notes))
    screen.files(done.files)
    screen.next(report.after_demo(run))


@app.command("list")
def list_(
    what: Annotated[Literal["methods", "models", "data"], typer.Argument(help="methods, models or data")],
    pattern: Annotated[str, typer.Argument(help="shell pattern: 'resnet*'")] = "*",
) -> None:
    """List what there is, one line each."""
    from mixbit import report

    screen.show(report.listing(what, pattern))


def _note_weights(weights: Path | None) -> None:
    if weights is None:
        screen.say("Note: no --weights, so the model is as its factory makes it; networks of the zoo start at random.")


# ---------------------------------------------------------------------------------------- from text to arguments


def _shape(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text) is None:
        raise MixbitError(f"--input {text!r} is no shape. Write sizes with x between, without the batch: 3x32x32.")
    return tuple(int(part) for part in text.split("x"))


def _bit_list(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"\d+(,\d+)*", text) is None:
        raise MixbitError(f"--bits {text!r} is no list of bit-widths. Write whole numbers with commas: 2,3,4,5,6.")
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> list[str]:
    """Methods between commas, but for the commas within a list: `limpq?bits=[4,2],fit`."""
    return [one for one in re.split(r",(?![^\[]*\])", text) if one]


def _seeds(text: str) -> tuple[int, ...]:
    return _numbers("--seeds", text)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Each once, in the order given."""
    if re.fullmatch(r"\d+(,\d+)*", text) is None:
        raise MixbitError(f"{option} {text!r} is no list of numbers. Write whole numbers with commas: 0,1,2.")
    return tuple(dict.fromkeys(int(part) for part in text.split(",")))


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise MixbitError(f"--policy {text!r} is no named policy. Write NAME=FILE: mct=policies/mct.json.")
    return name, Path(path)


def _pin(text: str) -> tuple[str, LayerBits]:
    """`NAME=W8A8`; a regular expression may hold `=` itself, so the last one counts."""
    name, equals, bits = text.rpartition("=")
    if not equals or not name:
        raise BudgetError(f"--pin {text!r} is no pin. Write NAME=W8A8, or re:PATTERN=W8A8 for all layers that match.")
    return name, _bits(bits)


def _bits(text: str) -> LayerBits:
    from mixbit.cost import FLOAT_BITS, LayerBits

    found = re.fullmatch(r"W(\d+)A(\d+)", text)
    if found is None:
        raise BudgetError(f"{text!r} are no bits. Write W8A8: weight bits, then activation bits; 32 is float32.")
    weight, activation = (None if int(part) == FLOAT_BITS else int(part) for part in found.groups())
    return LayerBits(weight, activation)


def _settings(given: Mapping[str, Any], extra: Sequence[str] | None) -> dict[str, Any]:
    """Options that were given, and `--set` pairs; a value is JSON, or else text."""
    settings = {key: value for key, value in given.items() if value is not None}
    for text in extra or ():
        key, equals, value = text.partition("=")
        if not equals or key in settings:
            raise MixbitError(f"--set {text!r}: write each setting once, as key=value.")
        settings[key] = _json(value)
    return settings


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
