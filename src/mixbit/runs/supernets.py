"""A supernet in a run folder: its training, and what its sub-networks are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mixbit import _distributed, _io
from mixbit import data as data_sets
from mixbit._settings import read
from mixbit.cost import Costs, LayerBits, costs
from mixbit.errors import MixbitError, StaleRun, shown
from mixbit.evaluation import Metrics, try_out
from mixbit.network import Network
from mixbit.policy import Front, Policy, Terms
from mixbit.runs import _folder
from mixbit.runs._options import KURTOSIS
from mixbit.runs.subject import Subject, is_run, metric_facts
from mixbit.supernet import Supernet, SupernetTraining, load_supernet
from mixbit.supernet import train_supernet as fit
from mixbit.supernet.training import SETTINGS, WEIGHTS, weights_in
from mixbit.task import Task
from mixbit.training import KurtosisConfig, regularised

__all__ = [
    "OpenedSupernet",
    "Subnet",
    "TrainedSupernet",
    "evaluate_supernet",
    "home_of",
    "is_supernet",
    "open_supernet",
    "train_supernet",
]

COMMAND = "supernet train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """One sub-network: what it costs, and what it is worth."""

    name: str
    layers: Mapping[str, LayerBits]
    costs: Costs
    held_out: Metrics
    """On training images that trained nothing."""
    test: Metrics | None = None
    """On the test split, where that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSupernet:
    """What a training of a supernet left in its folder."""

    settings: SupernetTraining
    network: Network
    subject: Subject
    subnets: tuple[Subnet, ...]
    """The lowest, a middle and the highest uniform one after the last epoch."""
    files: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSupernet:
    """A trained supernet that judges policies, and what it was trained with."""

    supernet: Supernet
    """Task, settings, `judge` and `check`; its task's float weights are not loaded."""
    subject: Subject
    """Model, float weights, data and seed as the folder names them."""
    run: Path
    """Where its weights are."""

    @property
    def network(self) -> Network:
        """What the capture of its model found: layers, shapes and shared inputs."""
        return self.supernet.task.network


def train_supernet(
    subject: Subject,
    settings: Mapping[str, Any],
    run: Path,
    *,
    task: Task | None = None,
    quiet: bool = False,
    tell: Callable[[str], None] | None = None,
) -> TrainedSupernet:
    """Train the subject's network at all bit-widths; the same call on the same folder continues a killed run.

    Args:
        subject: model, float weights and data.
        settings: of `mixbit.supernet.SupernetTraining`; lists stand for tuples, the seed is the subject's. Beside them
            `kurtosis`, as for `train`.
        run: folder for config.json, supernet.json, network.json, metrics.jsonl, checkpoint and supernet.safetensors.
        task: the subject's, if it is at hand already.
        quiet: no progress bar.
        tell: takes a line after every epoch, of the lowest, a middle and the highest sub-network.

    Raises:
        MixbitError: a setting that is unknown or illegal, or data of which nothing can be held out.
        StaleRun: the folder belongs to another training.
    """
    _distributed.start()
    own = {key: value for key, value in settings.items() if key != KURTOSIS}
    chosen = read(SupernetTraining, {"seed": subject.seed, **own}, room="a supernet")
    term = KurtosisConfig.from_setting(settings.get(KURTOSIS))
    if task is None:  # before the folder is begun: a typo must not claim it
        task = subject.task()[0]
        try_out(task.model, task.test, task.objective, label_smoothing=chosen.label_smoothing)
    task = regularised(task, term)
    chosen.try_out(task)
    facts = {"command": COMMAND, **subject.facts(), "settings": dict(settings)}
    _folder.begin(run, facts | metric_facts(task))
    fit(task, chosen, run=run, quiet=quiet, tell=tell)
    if _distributed.rank() == 0:
        _io.write_text(run / _folder.NETWORK, task.network.to_json())
    _distributed.barrier()
    files = {
        run / WEIGHTS: "the network that all sub-networks share",
        run / SETTINGS: "what it offers, and how it was trained",
        run / _folder.NETWORK: "the captured network",
        run / _folder.METRICS: "one line an epoch",
    }
    subnets = tuple(_uniform_ones(run, task, chosen))
    return TrainedSupernet(settings=chosen, network=task.network, subject=subject, subnets=subnets, files=files)


def _uniform_ones(run: Path, task: Task, settings: SupernetTraining) -> list[Subnet]:
    """What the last line of metrics says of three uniform sub-networks."""
    last = json.loads(_io.read_text(run / _folder.METRICS).splitlines()[-1])
    info = None if task.objective.metrics is None else task.info
    found = []
    for bits in dict.fromkeys((settings.lowest, settings.middle, settings.highest)):
        layers = uniform_layers(task.network, LayerBits(bits, bits), settings)
        metrics = Metrics.from_json(last["subnets"][f"W{bits}A{bits}"], info)
        found.append(_subnet(f"W{bits}A{bits}", task.network, layers, metrics))
    return found


def _subnet(
    name: str, network: Network, layers: Mapping[str, LayerBits], held_out: Metrics, test: Metrics | None = None
) -> Subnet:
    return Subnet(name=name, layers=layers, costs=costs(network, layers), held_out=held_out, test=test)


def uniform_layers(network: Network, bits: LayerBits, settings: SupernetTraining) -> dict[str, LayerBits]:
    """The same bits for every layer that has a choice in the supernet."""
    pins = {} if settings.first_last else Terms().pinned(network)
    return {layer.name: pins.get(layer.name, bits) for layer in network.layers}


def is_supernet(place: str | Path) -> bool:
    """Whether that is the run folder of a trained supernet, or of a search in one, also of what was killed."""
    if not is_run(str(place)):
        return False
    facts = _folder.read(Path(place))
    return facts["command"] == COMMAND or facts.get("method") == "qfa"


def home_of(run: Path) -> Path:
    """The folder that holds the weights of a supernet: the run's own, or where a search in a trained one found them.

    Raises:
        MixbitError: no folder of a finished training.
        PolicyError: weights that are gone, or are not those that the front of a search was measured with.
    """
    _folder.read(run)
    if (run / _folder.FRONT).is_file():
        front = Front.load(run / _folder.FRONT)
        if front.method == "qfa" and front.weights is not None:
            return front.weights.check(run).parent
    return weights_in(run).parent


def open_supernet(run: Path, *, data: str | None = None) -> OpenedSupernet:
    """A trained supernet from a run folder: of `mixbit supernet train`, or of a finished `mixbit search qfa`.

    Args:
        run: the folder.
        data: where its data lie now, if they have moved; their content must be the same, since what the supernet held
            out is drawn from them.

    Raises:
        MixbitError: no folder of a finished training.
        StaleRun: data of other content.
        PolicyError: the model's code now makes another network.
        WeightsError: weights that do not fit.

    >>> open_supernet(Path("nowhere"))
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: nowhere is no run folder: it has no config.json. Give the --run folder of an earlier ...
    """
    _distributed.start()
    run = home_of(run)
    facts = _folder.read(run)
    own = Subject.from_json(facts["subject"])
    subject = own if data is None else replace(own, data=data)
    _check_data(run, facts, own.data, subject.data)
    # The supernet's weights replace those that it started from, so the file named then need not exist any more.
    task = replace(subject, weights=None).task()[0]
    supernet = load_supernet(task, run)
    return OpenedSupernet(supernet=supernet, subject=subject, run=run)


def _check_data(run: Path, facts: Mapping[str, Any], old: str | None, new: str | None) -> None:
    """Whether the data are those of the training: options and content, wherever they lie."""
    was = (facts.get(_folder.CONTENT) or {}).get("data")
    now = None if new is None else data_sets.digest(new)
    if (was is not None and now != was) or _folder.same_files(str(old), str(new)) != str(old):
        raise StaleRun(
            f"{run} was trained on other data: {shown(old)}, content {was}; here are {shown(new)}, content {now}. What "
            "it held out is drawn from its own. Give the data that it was trained on."
        )


def evaluate_supernet(
    run: Path,
    policies: Sequence[Path] = (),
    bits: Sequence[LayerBits] = (),
    *,
    data: str | None = None,
    test: bool = True,
) -> list[Subnet]:
    """What policies are worth in a trained supernet, in seconds each and without training them.

    Args:
        run: folder of the supernet.
        policies: policy files.
        bits: of uniform sub-networks; the ends have 8 bits where the supernet gives them no choice.
        data: see `open_supernet`.
        test: measure on the test split as well, to report and not to choose.

    Raises:
        MixbitError: neither policies nor bits.
        PolicyError: a policy of another model, or bits that the supernet was not trained at.
    """
    if not policies and not bits:
        raise MixbitError("nothing to evaluate. Give --policy FILE, or --bits 4x4 for the uniform sub-network.")
    opened = open_supernet(run, data=data)
    supernet, network = opened.supernet, opened.network
    asked = [(path.name, dict(Policy.load(path).check(network).layers)) for path in policies]
    asked += [(str(one), uniform_layers(network, one, supernet.settings)) for one in bits]
    for _, layers in asked:
        supernet.check(layers)
    found = []
    for name, layers in asked:
        held_out = supernet.judge(layers)
        second = supernet.judge(layers, supernet.task.test) if test else None
        found.append(_subnet(name, network, layers, held_out, second))
    return found
