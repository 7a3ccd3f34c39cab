"""What a command is about: a model, its weights and data."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mixbit import _io, models
from mixbit import data as data_sets
from mixbit._settings import Seed, check
from mixbit.errors import CaptureError, MixbitError
from mixbit.metric import ACCURACY, MetricInfo
from mixbit.task import Task

if TYPE_CHECKING:
    from torch import nn

    from mixbit.data import DataSet
    from mixbit.evaluation import Metrics
    from mixbit.network import Network

__all__ = ["CONFIG", "FORMAT", "Outcome", "Subject", "is_run", "with_layers"]

CONFIG, FORMAT = "config.json", "mixbit-run"
"""File that says what a run folder is of, and the format that it names itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model, its weights and its data, as the user named them.

    Attributes:
        model: zoo name, `package.module:factory`, or a Python file; it may name a `mixbit.Task`, or a function that
            gives one, instead of a model.
        data: data set, see `mixbit.data.load`; None where a command needs none, and for a task, which has its own.
        weights: `.safetensors`, or `.pth` read with `weights_only=True`.
        seed: of training order and draws. It never moves the split into training and test data: where data come without
            one, `digits?seed=3` chooses it.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    model: str
    data: str | None = None
    weights: Path | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `config.json`."""
        return {**asdict(self), "weights": None if self.weights is None else str(self.weights)}

    @classmethod
    def from_json(cls, values: object) -> Subject:
        """Read what `to_json` gave.

        Raises:
            MixbitError: a missing or unknown key, or a value of another type.
        """
        return _io.as_record(values, cls, where="The subject of a run", remedy="Give what to_json() gave.")

    def facts(self) -> dict[str, Any]:
        """What `config.json` says of the subject: names as they were given, and digests of what lies behind them."""
        return {"subject": self.to_json(), "content": self.content()}

    def content(self) -> dict[str, str | None]:
        """Digests of the files behind the weights, the data and the code, for `config.json`; None where there are none.

        A run that goes on must have the weights and data that it began with, wherever they lie now. A user's file with
        other code is told of and goes on: it may have been mended to do so.
        """
        code = models.source_file(self.model)
        return {
            "code": None if code is None else _io.digest(code),
            "weights": None if self.weights is None else _io.digest(self.weights),
            "data": None if self.data is None else data_sets.digest(self.data),
        }

    def load_data(self) -> DataSet:
        """The data set; an error if none was named."""
        if self.data is None:
            raise MixbitError(
                "This needs data. Give --data digits, cifar10:DIR, imagefolder:DIR or hf:NAME; or a FILE.py:task with "
                "a mixbit.Task, which brings its own."
            )
        if self.model not in models.names():
            return data_sets.load(self.data)
        zoo = models.info(self.model)  # pretrained networks are at home on inputs that were normalised as theirs were
        found = data_sets.load(self.data)
        if len(zoo.mean) == found.input_shape[0] and (zoo.mean, zoo.std) != (found.mean, found.std):
            found = data_sets.load(self.data, mean=zoo.mean, std=zoo.std)
        return found

    def build(self, found: DataSet | None = None) -> nn.Module:
        """The network with its weights, on the first GPU where there is one; without weights, initialised by the seed.

        It is made for the classes and the image channels of `found`, as far as its factory takes them.
        """
        torch.manual_seed(self.seed)
        channels = found.input_shape[0] if found is not None and len(found.input_shape) == 3 else None
        model = models.load_model(self.model, None if found is None else found.num_classes, channels)
        return self._placed(model)

    def _placed(self, model: nn.Module) -> nn.Module:
        """The model with the subject's weights, on the first GPU where there is one."""
        if self.weights is not None:
            models.load_weights(model, self.weights)
        return model.to("cuda" if torch.cuda.is_available() else "cpu")

    def _check_no_run(self) -> None:
        """A folder of a run where a model is asked for; the commands that take one as well have looked before.

        Raises:
            MixbitError: it is one.
        """
        if is_run(self.model):
            raise MixbitError(
                f"{self.model} is the folder of a run, and a model is asked for. Give the model that it is of, with "
                f"--weights {Path(self.model) / 'model.safetensors'} for a float network that was trained."
            )

    def named(self) -> Task | nn.Module:
        """What `model` names without data: the user's own task, or a network."""
        self._check_no_run()
        if self.model in models.names():
            return self.build()
        torch.manual_seed(self.seed)
        found = models.load_object(self.model)
        if isinstance(found, Task):
            # A copy: the user's module may be imported once, and a network is quantized in place.
            return replace(found, model=self._placed(copy.deepcopy(found.model)))
        if not isinstance(found, torch.nn.Module):
            raise MixbitError(
                f"Model {self.model!r} gives a {type(found).__name__}; it must give a torch.nn.Module or a mixbit.Task."
            )
        return self._placed(found)

    def task(self) -> tuple[Task, DataSet | None]:
        """Model, data and captured network together, and the data set that was named.

        Raises:
            MixbitError: no data were named, and the model is no task that brings its own.
        """
        self._check_no_run()
        if self.data is None and self.model not in models.names():
            own = self.named()
            if isinstance(own, Task):
                with_layers(own.network, self.model)
                return own, None
        found = self.load_data()
        task = Task(model=self.build(found), train=found.train, test=found.test, space=found.space)
        with_layers(task.network, self.model)
        return task, found


def is_run(model: str) -> bool:
    """Whether a model is named by the folder of a run. A name of the zoo is one, whatever folder lies there.

    >>> is_run("resnet20")
    False
    """
    if model in models.names():
        return False
    path = Path(model) / CONFIG
    try:
        found = _io.read_json(path) if path.is_file() else None
    except MixbitError:
        return False  # of another library, which may keep anything there
    return isinstance(found, dict) and found.get("format") == FORMAT


def with_layers(network: Network, model: str) -> Network:
    """The network, if there is anything in it to choose bits for.

    Raises:
        CaptureError: it has no layer; the message says what was skipped.
    """
    if not network.layers:
        left = "; ".join(f"{one.name} ({one.reason})" for one in network.skipped[:3])
        raise CaptureError(
            f"model {model!r} has no layer that can be quantized{f': {left}' if left else ''}. Legal: at least one "
            "convolution or linear layer whose result reaches the output."
        )
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One row of a comparison."""

    name: str
    accuracy: float
    """Value of the metric, by default top-1 accuracy, 0 to 1."""
    costs: Costs
    """Costs of one sample."""
    metric: MetricInfo = ACCURACY.info


def further(task: Task, metrics: Metrics) -> tuple[str, ...]:
    """The metrics beside the one that is compared, each by name and with its unit."""
    return tuple(f"{one.name} {one.text(metrics.values[one.name])}" for one in (task.objective.metrics or ())[1:])


def metric_facts(task: Task) -> dict[str, Any]:
    """What a run folder remembers of the metric: another one makes other numbers. Accuracy needs no word."""
    return {} if task.info == ACCURACY.info else {"metric": task.info.to_json()}


if TYPE_CHECKING:
    from mixbit.cost import Costs
