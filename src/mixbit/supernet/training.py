"""Training of a supernet that stands by itself: one run, from which fronts are searched and policies are judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn

from mixbit import _distributed, _io
from mixbit._settings import Count, Epochs, NotNegative, Part, Positive, Range, Seed, Share, check, read
from mixbit.cost import LayerBits
from mixbit.data import Split, hold_out
from mixbit.errors import MixbitError, PolicyError, shown
from mixbit.evaluation import Metrics, lay_out_channels_last
from mixbit.ledger import check_settings
from mixbit.models import load_weights, write_weights
from mixbit.network import Network
from mixbit.quantization import quantized_layers
from mixbit.supernet.judging import SubnetJudge
from mixbit.supernet.sandwich import SandwichStep, SupernetConfig, build_supernet
from mixbit.task import Task
from mixbit.training import TrainConfig, train

__all__ = [
    "SETTINGS",
    "WEIGHTS",
    "Supernet",
    "SupernetTraining",
    "load_supernet",
    "statistics_batch",
    "supernet_settings",
    "train_supernet",
    "weights_in",
]

WEIGHTS = "supernet.safetensors"
"""File of the run folder: the network that all sub-networks share."""
SETTINGS = "supernet.json"
"""File of the run folder: of which network it is, and how it was trained."""

_SIDES = ("weights", "activations")
_FORMAT = {"format": "mixbit-supernet", "version": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetTraining(SupernetConfig):
    """What a supernet offers and how it is trained.

    Attributes:
        bits, first_last, passes, float_share, norms, per_channel, activations, calibration_images: see
            `SupernetConfig`.
        epochs: of the training.
        batch_size: samples of one step.
        lr: peak learning rate; gradients are sums over the passes.
        step_lr: that of step sizes; None takes `lr`.
        weight_decay: of weights.
        label_smoothing: of the loss on labels.
        distill: weight of the divergence from the float network against that loss.
        fraction: part of the training images that is used.
        precision: "float32", or "bf16" autocast.
        held_out: part of the training images that judges sub-networks, and trains nothing.
        held_out_seed: which part. It does not follow `seed`: a float network that was trained on the rest has seen the
            images of another part, and so has a supernet of another seed that is to be compared.
        statistics_images: training images that the norms' statistics of a sub-network are made from, in whole batches
            of `batch_size`, one at least.
        seed: of all other draws.

    >>> SupernetTraining(bits=(8, 4, 2), epochs=1).lowest
    2
    """

    epochs: Epochs = 6
    batch_size: Count = 128
    lr: Positive = 0.01
    step_lr: Positive | None = 0.001
    weight_decay: NotNegative = 3e-5
    label_smoothing: Share = 0.0
    distill: Share = 0.5
    fraction: Part = 1.0
    precision: Literal["float32", "bf16"] = "float32"
    held_out: Part = 0.1
    held_out_seed: Seed = 0
    statistics_images: Count = 1280

    def __post_init__(self) -> None:
        check(self)
        SupernetConfig.__post_init__(self)
        if self.held_out >= 1:
            raise MixbitError(f"held_out={self.held_out} leaves nothing to train on. Legal: above 0 and below 1.")
        self.check_range("batch_size")

    def training(self) -> TrainConfig:
        """The settings in the terms of the one loop."""
        names = ("epochs", "batch_size", "lr", "step_lr", "weight_decay", "label_smoothing", "distill", "fraction")
        given = {name: getattr(self, name) for name in (*names, "precision", "seed")}
        return TrainConfig(**given, bn_samples=0)

    def parts(self, task: Task) -> tuple[Task, Split]:
        """The task with what trains, and the training images that judge.

        Raises:
            DataError: training data of which no part can be held out.
            MixbitError: what trains is less than a batch.
        """
        rest, held = hold_out(task.train, self.held_out, seed=self.held_out_seed)
        if not rest.num_batches(self.batch_size, drop_last=True, fraction=self.fraction):
            of = "" if self.fraction == 1 else f", fraction {self.fraction} of them"
            raise MixbitError(
                f"batch_size={self.batch_size} is larger than what is left to train on ({len(rest)} samples{of}; "
                f"{len(held)} are held out). Legal: at most the number of samples (--batch-size)."
            )
        return replace(task, train=rest), held

    def try_out(self, task: Task) -> None:
        """Raise what the training would raise of these settings and this task, before anything is written or trained.

        Raises:
            DataError: training data of which no part can be held out.
            MixbitError: what trains is less than a batch, no layer has a choice of bits, or a norm has no copies.
        """
        self.parts(task)
        build_supernet(task, self, calibrated=False)

    def judge(self, model: nn.Module, part: Task, held: Split, *, processes: int = 1) -> SubnetJudge:
        """What measures sub-networks, with batches for the statistics as each process of the training had them.

        Args:
            model: of `build_supernet`.
            part: task with what trains.
            held: images that judge.
            processes: of the training, which shared every batch. They may judge together, or others may, or one alone,
                and come to the same numbers.
        """
        return SubnetJudge(
            model, self._statistics(part.train, processes), held, part.objective,
            batch_size=2 * self.batch_size, precision=self.precision,
        )  # fmt: skip

    def _statistics(self, train: Split, processes: int) -> Iterator[Any]:
        """Inputs of the first batches of the training, each as the shares that its processes had of it."""
        rank, world = _distributed.rank(), _distributed.world_size()
        count = max(1, self.statistics_images // self.batch_size)
        for share in range(rank, processes, world) or [rank % processes]:
            batches = train.batches(
                self.batch_size, seed=self.seed, shuffle=True, augment=True, drop_last=True,
                rank=share, world=processes,
            )  # fmt: skip
            yield from (x for (x, _), _ in zip(batches, range(count), strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Supernet:
    """A trained supernet with what measures its sub-networks."""

    task: Task
    """Whose network it is, with all training images."""
    settings: SupernetTraining
    judge: SubnetJudge
    """Quality of a policy or a selection, on images that trained nothing."""
    held_out: Split
    """These images."""
    weights: Path | None = None
    """Its file, where it has one."""

    @property
    def model(self) -> nn.Module:
        """The network with the bits selected that were measured last."""
        return self.judge.model

    @property
    def on(self) -> str:
        """What is measured on, in words."""
        return f"{len(self.held_out)} training images that trained nothing (seed {self.settings.held_out_seed})"

    def check(self, layers: Mapping[str, LayerBits]) -> None:
        """Whether these are bits of a sub-network: every quantized layer named, with bits that it was trained at.

        Raises:
            PolicyError: a layer that is missing or carries no quantizers, a side in float, or other bits.
        """
        own = quantized_layers(self.model)
        for name in own.keys() ^ layers.keys():
            what = "is no layer of the supernet" if name in layers else "is missing: what it has is not known"
            raise PolicyError(f"layer {shown(name)} {what}. Legal: {', '.join(own)}, each once.")
        for name, bits in layers.items():
            banks = (own[name].weight_quantizer, own[name].input_quantizer)
            for side, bank, asked in zip(_SIDES, banks, (bits.weight_bits, bits.activation_bits), strict=True):
                if bank is not None and asked not in bank.bits:
                    raise PolicyError(
                        f"layer {shown(name)} is asked for {side} {'in float' if asked is None else f'of {asked} bits'}"
                        f", which the supernet was not trained at. Legal: {', '.join(map(str, bank.bits))}. Choose "
                        "among these, or train a supernet that has the bits (mixbit supernet train --bits; for the "
                        "first and the last layer --set first_last=true)."
                    )


def train_supernet(
    task: Task,
    settings: SupernetTraining,
    *,
    run: Path | None = None,
    quiet: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Supernet:
    """Train a network at all its bit-widths; with a run folder a killed training goes on to the same numbers.

    Args:
        task: its network, in float, is the teacher and the start.
        settings: see there.
        run: folder for supernet.json, supernet.safetensors, metrics.jsonl and the checkpoint.
        quiet: no progress bar.
        tell: takes a line after every epoch: the lowest, a middle and the highest sub-network, as they are then.

    Raises:
        DataError: training data of which no part can be held out.
        StaleRun: the run folder was begun with other settings or another network.
    """
    _distributed.start()
    part, held = settings.parts(task)
    model = build_supernet(part, settings)
    processes = _distributed.world_size()
    judge = settings.judge(model, part, held, processes=processes)
    if run is not None:
        _begin(run, _facts(task.network, settings), processes)

    def validate(bits: Any) -> Metrics:
        judge.forget()
        return judge(bits)

    train(
        model, part.train, None, settings.training(), run=run, teacher=part.model if settings.distill else None,
        loss=part.objective, step=SandwichStep(model, part.network, settings, validate, tell), penalty=part.penalty,
        quiet=quiet, label="supernet",
    )  # fmt: skip
    judge.forget()
    if run is not None and _distributed.rank() == 0:
        write_weights(run / WEIGHTS, model.state_dict())
    _distributed.barrier()
    weights = None if run is None else run / WEIGHTS
    return Supernet(task=task, settings=settings, judge=judge, held_out=held, weights=weights)


def load_supernet(task: Task, run: Path) -> Supernet:
    """A trained supernet, ready to judge: its weights, the images that it held out, and others for statistics.

    Args:
        task: model and data that it was trained with; the model's own weights do not matter.
        run: the run folder.

    Raises:
        MixbitError: no folder of a finished training.
        PolicyError: a supernet of another network.
        WeightsError: weights that do not fit.
    """
    weights = weights_in(run)
    settings = supernet_settings(run, task.network)
    part, held = settings.parts(task)
    model = load_weights(build_supernet(part, settings, calibrated=False), weights)
    lay_out_channels_last(model)  # as in training: the same numbers to the last digit
    judge = settings.judge(model, part, held, processes=_read(run).processes)
    return Supernet(task=task, settings=settings, judge=judge, held_out=held, weights=weights)


def weights_in(run: Path) -> Path:
    """The file of the shared weights in a run folder.

    Raises:
        MixbitError: no folder of a finished training.
    """
    if not (run / WEIGHTS).is_file():
        raise MixbitError(
            f"{run} holds no trained supernet ({WEIGHTS}). Give the --run folder of a finished mixbit supernet train; "
            "the same command on it finishes a killed one."
        )
    return run / WEIGHTS


def supernet_settings(run: Path, network: Network | None = None) -> SupernetTraining:
    """The settings of the training in a run folder.

    Args:
        run: the folder.
        network: what it must be a supernet of; None for any.

    Raises:
        MixbitError: no such folder, or a file that cannot be read.
        PolicyError: a supernet of another network.
    """
    found = _read(run)
    if network is not None and found.fingerprint != network.fingerprint:
        raise PolicyError(
            f"{run} is a supernet of another model: its fingerprint is {found.fingerprint!r}, and that of the "
            f"model here is {network.fingerprint!r}. Give the model that it was trained from, or train a supernet of "
            "this one (mixbit supernet train)."
        )
    return read(SupernetTraining, found.settings, room=str(run / SETTINGS))


def statistics_batch(run: Path) -> int:
    """Samples of a batch that the statistics of a sub-network are of: those that a process of the training had.

    Raises:
        MixbitError: no such folder, or a file that cannot be read.
    """
    return max(1, supernet_settings(run).batch_size // _read(run).processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What the file of settings holds, beside its format."""

    fingerprint: str
    settings: dict[str, Any]
    processes: Annotated[int, Range(least=1)] = 1
    """Of the training: each had a part of every batch."""

    def __post_init__(self) -> None:
        check(self)


def _read(run: Path) -> _File:
    path = run / SETTINGS
    found = _io.read_json(path) if path.is_file() else None
    if not isinstance(found, dict) or {key: found.get(key) for key in _FORMAT} != _FORMAT:
        raise MixbitError(
            f"{run} is no folder of a supernet that this mixbit reads: it has no {SETTINGS} of version "
            f"{_FORMAT['version']}. Give the --run folder of mixbit supernet train."
        )
    return _io.as_record(found, _File, where=shown(str(path)), remedy="Give the --run folder of mixbit supernet train.")


def _facts(network: Network, settings: SupernetTraining) -> dict[str, Any]:
    own: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return {**_FORMAT, "fingerprint": network.fingerprint, "settings": own}


def _begin(run: Path, facts: dict[str, Any], processes: int) -> None:
    """Write the file of settings, or compare with the one that is there.

    How many processes train may change with every call that goes on; what the last ones had is what statistics are of.
    """
    if _distributed.first_decides((run / SETTINGS).exists()):
        old = {key: value for key, value in _io.read_json(run / SETTINGS).items() if key != "processes"}
        check_settings(str(run), old, facts, "another run folder to begin anew")
    if _distributed.rank() == 0 and not (run / WEIGHTS).exists():
        _io.write_json(run / SETTINGS, {**facts, "processes": processes})
    _distributed.barrier()
