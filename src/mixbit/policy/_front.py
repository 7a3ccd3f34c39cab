"""Front: policies with their costs and their measured quality, from one set of weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mixbit import _io
from mixbit._pareto import non_dominated
from mixbit.cost import Budget, Costs, LatencyTable, LayerBits, Limit, check_layer_names, float_costs, show_amount
from mixbit.errors import InfeasibleBudget, PolicyError, did_you_mean
from mixbit.policy._files import JSON, check_header, read_document
from mixbit.policy._policy import Policy, check_bits, check_fingerprint
from mixbit.policy._terms import Terms

if TYPE_CHECKING:
    from mixbit.metric import MetricInfo
    from mixbit.network import Network

__all__ = ["Front", "FrontPoint", "Measured", "WeightsFile"]

_LOSS = "loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One policy of a front."""

    layers: dict[str, LayerBits]
    """Layer name -> bits, all layers, in execution order."""
    quality: dict[str, float]
    """Metric name -> what was measured; the metric that is compared, further ones, and the loss."""
    name: str = ""
    """For tables and plots; may be empty."""
    costs: dict[str, int | float] = field(default_factory=dict)
    """What the policy uses, as `Policy.costs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the quality of all points is, and what it was measured on."""

    metrics: tuple[MetricInfo, ...]
    """The first is what is compared; a front of the loss alone has that one."""
    on: str
    """In words: "512 training images that calibration did not see"."""
    data: str = ""
    """Digest of those samples: two fronts are comparable if it is the same."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise PolicyError("A front has no metric. Give at least one, the one that is compared first.")

    @property
    def info(self) -> MetricInfo:
        """The metric that is compared."""
        return self.metrics[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """The weights that all points were measured with."""

    path: str
    """From the folder of the front's file, with `/` between."""
    digest: str
    """Digest of the file's content."""

    def __post_init__(self) -> None:
        if not self.path or PurePath(self.path).is_absolute() or PureWindowsPath(self.path).is_absolute():
            raise PolicyError(f"weights: {self.path!r} is no relative path. Legal: a path from the front's folder.")

    @classmethod
    def of(cls, path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> WeightsFile:
        """A file of weights as a front in that folder refers to it.

        Raises:
            FileError: there is no such file.
        """
        return cls(path=PurePath(os.path.relpath(path, folder)).as_posix(), digest=_io.digest(path))

    def check(self, folder: str | os.PathLike[str]) -> Path:
        """Where the file is, if it still is what the points were measured with.

        Raises:
            PolicyError: it is gone, or has other content.
        """
        path = Path(os.path.normpath(Path(folder) / self.path))
        if not path.is_file():
            raise PolicyError(
                f"The front was measured with the weights {self.path!r}, and there is no {path}. Put the file back "
                "there, or measure the front anew."
            )
        found = _io.digest(path)
        if found != self.digest:
            raise PolicyError(
                f"The front was measured with other weights: {path} now has the content {found}, and had "
                f"{self.digest}. Put the old file back, or measure the front anew."
            )
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A policy of a front, and the numbers of its budget, each worked out once."""

    policy: Policy
    limits: Mapping[str, int]
    """The budget in whole numbers, see `mixbit.cost.Budget.resolve`."""
    costs: Costs
    """What the policy uses, in exact integers."""
    used: tuple[Costs, ...]
    """What every policy of the front uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Policies of one network with what they cost and what they are worth, from one set of weights.

    The file is JSON that a person can read. Its costs are for the reader: `pick` counts them anew.

    Two uniform policies of a layer of 640 MACs; a budget of 3 kBitOps leaves the second:

    >>> import torch
    >>> from mixbit.metric import ACCURACY
    >>> from mixbit.network import capture
    >>> net = capture(torch.nn.Sequential(torch.nn.Linear(64, 10)), torch.zeros(1, 64))
    >>> four, two = ({"0": LayerBits(bits, bits)} for bits in (4, 2))
    >>> points = FrontPoint(layers=four, quality={"accuracy": 0.9}), FrontPoint(layers=two, quality={"accuracy": 0.7})
    >>> front = Front(fingerprint=net.fingerprint, method="by hand", points=points,
    ...     measured=Measured(metrics=(ACCURACY.info,), on="100 images"))
    >>> policy = front.pick(Budget.parse(["bitops=3k"]), net, terms=Terms(pins={}))
    >>> str(policy.layers["0"]), policy.costs["bitops"]                                     # 640 * 2 * 2
    ('W2A2', 2560)
    """

    FORMAT: ClassVar[str] = "mixbit-front"
    VERSION: ClassVar[int] = 1

    fingerprint: str
    """`Network.fingerprint` of the network that it is of."""
    points: tuple[FrontPoint, ...]
    measured: Measured
    method: str = "by hand"
    seed: int | None = None
    settings: dict[str, JSON] = field(default_factory=dict)
    """How the method was run."""
    weights: WeightsFile | None = None
    """What all points were measured with; None for weights that no file holds."""
    notes: list[str] = field(default_factory=list)
    format: str = FORMAT
    version: int = VERSION

    def __post_init__(self) -> None:
        if not self.points:
            raise PolicyError("A front without a policy. Give at least one point.")
        names = set(self.points[0].quality)
        for metric in self.measured.metrics:
            if metric.name not in names:
                raise PolicyError(f"The metric {metric.name!r} is not measured. Measured: {', '.join(sorted(names))}.")
        for number, point in enumerate(self.points):
            if set(point.quality) != names:
                raise PolicyError(
                    f"Policy {number} of the front has the qualities {sorted(point.quality)}, the first one has "
                    f"{sorted(names)}. Measure all in the same way."
                )
            for name, value in point.quality.items():
                if not math.isfinite(value):
                    raise PolicyError(f"Policy {number} of the front has {name}={value!r}. Legal: a finite number.")

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the front as JSON, atomically; the points last."""
        content = asdict(self)
        points = content.pop("points")
        content["measured"]["metrics"] = [metric.to_json() for metric in self.measured.metrics]
        head = {key: content.pop(key) for key in ("format", "version", "fingerprint", "method", "seed")}
        _io.write_json(path, {**head, **content, "points": [_point_to_file(point) for point in points]})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Front:
        """Read a front. Its costs are taken as they stand in the file; `check` counts them anew.

        Raises:
            PolicyError: the file is missing, malformed, of another format, newer than this mixbit, or holds illegal
                bits or numbers that are not finite.
        """
        from mixbit.policy._front_schema import FrontFile

        found = read_document(path, FrontFile, format=cls.FORMAT, version=cls.VERSION)
        content = {key: getattr(found, key) for key in ("fingerprint", "method", "seed", "settings", "notes")}
        try:
            return cls(
                **content,
                points=tuple(FrontPoint(**_layers_read(point.model_dump())) for point in found.points),
                measured=_measured_read(found.measured.model_dump()),
                weights=None if found.weights is None else WeightsFile(**found.weights.model_dump()),
            )
        except PolicyError as cause:
            raise PolicyError(f"{str(path)!r} is not a valid file: {cause}") from cause

    # -- of one network

    def check(
        self, network: Network, latency: LatencyTable | None = None, used: Sequence[Costs] | None = None
    ) -> Front:
        """Make sure that this front is one of `network`, and bring the costs of its points up to date.

        Args:
            network: the captured network.
            latency: measured times.
            used: what the points cost on this network, if that was counted already (`Choice.used`).

        Raises:
            PolicyError: another model, an unknown or missing layer, illegal bits, another format or a newer version.
        """
        self._check_names(network)
        found = [None] * len(self.points) if used is None else used
        fresh = [self._fresh(*one, network, latency) for one in zip(self.points, found, strict=True)]
        return replace(self, points=tuple(fresh))

    def _check_names(self, network: Network) -> None:
        check_header(self.format, self.version, format=self.FORMAT, version=self.VERSION, where="front")
        check_fingerprint(network, self.fingerprint, self.points[0].layers, "front")
        for number, point in enumerate(self.points):
            check_layer_names(network, point.layers, f"Policy {number} of the front")
            check_bits(point.layers, f"Policy {number} of the front")

    def _fresh(
        self, point: FrontPoint, used: Costs | None, network: Network, latency: LatencyTable | None
    ) -> FrontPoint:
        policy = Policy(fingerprint=self.fingerprint, layers=point.layers, costs=point.costs)
        return replace(point, costs=policy.check(network, latency, used).costs)

    # -- choosing

    def pareto(self, objectives: Sequence[str] | None = None) -> Front:
        """The points that no other point beats: at least as good in all objectives, and better in one.

        Args:
            objectives: names of costs (`bitops`, `weight_bytes`), of which less is better, and of what was measured;
                None takes BitOps and the metric. Costs are those that the points carry; see `check`.

        Returns:
            A front of these points, by rising value of the first objective. Of equal points the first one stays.

        Raises:
            PolicyError: an objective that a point does not have, or a metric whose direction is not known.
        """
        names = ["bitops", self.measured.info.name] if objectives is None else list(objectives)
        values = np.array([[self._to_lower(name, point) for name in names] for point in self.points])
        kept = sorted(non_dominated(values).tolist(), key=lambda at: tuple(values[at]))
        return replace(self, points=tuple(self.points[at] for at in kept))

    def _to_lower(self, name: str, point: FrontPoint) -> float:
        """A value of which less is better."""
        if name in point.costs:
            return float(point.costs[name])
        if name in point.quality:
            return -point.quality[name] if self._larger_is_better(name) else point.quality[name]
        legal = [*point.costs, *point.quality]
        raise PolicyError(f"The objective {name!r} is unknown.{did_you_mean(name, legal)} Legal: {', '.join(legal)}.")

    def _larger_is_better(self, name: str) -> bool:
        for metric in self.measured.metrics:
            if metric.name == name and metric.larger_is_better is None:
                raise PolicyError(
                    f"Whether larger values of {name!r} are better is not known. Rank by another one: "
                    f"{', '.join(other for other in self.points[0].quality if other != name) or 'there is none'}."
                )
            if metric.name == name:
                return bool(metric.larger_is_better)
        return False  # the loss, which every task has

    def pick(
        self,
        budget: Budget,
        network: Network,
        *,
        by: str | None = None,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
    ) -> Policy:
        """The best measured policy that meets the budget; its costs are counted here, whatever the file says.

        Args:
            budget: hard limits.
            network: the captured network.
            by: what is best, a name of what was measured; None for the metric. Of equal ones the least loss is taken,
                then the cheapest.
            terms: how limits and costs are counted. Pins are what `bitops=3x4` refers to; they choose nothing here.

        Raises:
            InfeasibleBudget: no point meets it; with the nearest point, and the limits that block.
            PolicyError: the front is of another model, or `by` was not measured.
        """
        return self.choose(budget, network, by=by, terms=terms).policy

    def choose(
        self,
        budget: Budget,
        network: Network,
        *,
        by: str | None = None,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
    ) -> Choice:
        """What `pick` does, with the numbers that it found on the way.

        Args:
            budget: as in `pick`.
            network: as in `pick`.
            by: as in `pick`.
            terms: as in `pick`.

        Raises:
            MixbitError: as `pick`.
        """
        self._check_names(network)
        name = self.measured.info.name if by is None else by
        if name not in self.points[0].quality:
            legal = list(self.points[0].quality)
            raise PolicyError(f"by={name!r} was not measured.{did_you_mean(name, legal)} Legal: {', '.join(legal)}.")
        limits = terms.limits(network, budget)
        used = [terms.costs(network, point.layers) for point in self.points]
        within = _Within(budget, limits, used)
        fitting = within.fitting()
        if not fitting:
            raise within.error(network, self)
        names = [name, *([_LOSS] if _LOSS in self.points[0].quality else [])]  # a count of hits has many ties
        best = min(
            fitting, key=lambda at: (*(self._to_lower(one, self.points[at]) for one in names), within.use(at), at)
        )
        point = self.points[best]
        policy = Policy(
            fingerprint=self.fingerprint,
            layers=point.layers,
            method=self.method,
            seed=self.seed,
            macs=terms.macs,
            budget=budget.texts,
            costs=terms.cost_table(network, point.layers, used[best]),
            allocation=dict(terms.facts),
            notes=[self._picked(point, name, len(fitting))],
        )
        return Choice(policy=policy, limits=limits, costs=used[best], used=tuple(used))

    def _picked(self, point: FrontPoint, by: str, fitting: int) -> str:
        named = f"{point.name}, " if point.name else ""
        return (
            f"picked from a front of {len(self.points)}: {named}{by} {self.text(by, point.quality[by])} on "
            f"{self.measured.on}, the best of {fitting} within the budget"
        )

    def text(self, name: str, value: float) -> str:
        """A measured value with its unit."""
        known = {metric.name: metric for metric in self.measured.metrics}
        return known[name].text(value) if name in known else f"{value:.4g}"

    # -- merging

    def merged(self, other: Front) -> Front:
        """The points of both; of a policy that both have, the first one's.

        Raises:
            PolicyError: the two were not measured alike: another network, metric, data or weights.
        """
        for what, mine, its in (
            ("networks", self.fingerprint, other.fingerprint),
            ("metrics", _names(self), _names(other)),
            ("samples", self.measured.data or self.measured.on, other.measured.data or other.measured.on),
            ("weights", self.weights and self.weights.digest, other.weights and other.weights.digest),
        ):
            if mine != its:
                raise PolicyError(
                    f"The two fronts are of other {what}: {mine} and {its}. Merge fronts that were measured alike, or "
                    "measure the policies of one as the other was."
                )
        known = [point.layers for point in self.points]
        new = tuple(point for point in other.points if point.layers not in known)
        same = len(other.points) - len(new)
        note = [f"{same} policies of {other.method} were there already: the first measurement stays"] if same else []
        return replace(
            self,
            points=self.points + new,
            method=self.method if self.method == other.method else f"{self.method} and {other.method}",
            settings=self.settings if self.settings == other.settings else {},
            seed=self.seed if self.seed == other.seed else None,
            notes=[*self.notes, *(one for one in other.notes if one not in self.notes), *note],
        )


def _names(front: Front) -> list[str]:
    return [metric.name for metric in front.measured.metrics]


# -------------------------------------------------------------------------------------------------- within a budget


class _Within:
    """The points of a front beside a budget."""

    def __init__(self, budget: Budget, limits: Mapping[str, int], used: Sequence[Costs]) -> None:
        self.budget, self.limits, self.used = budget, limits, used

    def fitting(self) -> list[int]:
        """Numbers of the points that meet all limits."""
        return [at for at in range(len(self.used)) if not self._over(at)]

    def _over(self, at: int) -> list[Limit]:
        return [one for one in self.budget.limits if one.used(self.used[at]) > self.limits[one.key]]

    def use(self, at: int) -> float:
        """The sum over the limits of the part that is used."""
        return math.fsum(one.used(self.used[at]) / max(1, self.limits[one.key]) for one in self.budget.limits)

    def error(self, network: Network, front: Front) -> InfeasibleBudget:
        """Why nothing fits: how far the nearest point is, and what each limit would have to be."""
        full = float_costs(network)
        nearest = min(range(len(self.used)), key=lambda at: (self._excess(at), at))
        blocking = [one.kind for one in self._over(nearest)]
        over = ", ".join(self._broken(one, nearest, getattr(full, one.key) or 0) for one in self._over(nearest))
        name = front.points[nearest].name or f"number {nearest}"
        remedy = "Raise the limit, or make a front with fewer bits."
        counts = ", ".join(f"{kind} {count}" for kind, count in self._blocked())
        return InfeasibleBudget(
            f"None of the front's {len(self.used)} policies meets the budget. The nearest, {name}, needs {over}. "
            f"Policies over each limit: {counts}. {remedy}",
            nearest={one.kind: self._least(one) for one in self.budget.limits},
            blocking=blocking,
        )

    def _blocked(self) -> Iterator[tuple[str, int]]:
        for one in self.budget.limits:
            yield f"{one.kind}={one.text}", sum(one.used(used) > self.limits[one.key] for used in self.used)

    def _excess(self, at: int) -> float:
        """The largest ratio of use to limit."""
        return max(one.used(self.used[at]) / max(1, self.limits[one.key]) for one in self.budget.limits)

    def _least(self, limit: Limit) -> float:
        """The least of a limit where all others are met, or if they never are, at all; weights in bytes."""
        every = range(len(self.used))
        meets = [at for at in every if set(self._over(at)) <= {limit}] or every
        least = min(limit.used(self.used[at]) for at in meets)
        return least / 8 if limit.key == "weight_bits" else least

    def _broken(self, limit: Limit, at: int, full: int) -> str:
        used = limit.used(self.used[at])
        shown, plain = limit.show(used, full), show_amount(limit.kind, used)
        return f"{limit.kind}={shown}" + ("" if plain == shown else f" ({plain})")


# ------------------------------------------------------------------------------------------------------- the file


def _point_to_file(point: dict[str, Any]) -> dict[str, Any]:
    return {key: point[key] for key in ("name", "quality", "costs", "layers")}


def _layers_read(point: dict[str, Any]) -> dict[str, Any]:
    layers = {name: LayerBits(one["weight_bits"], one["activation_bits"]) for name, one in point["layers"].items()}
    return {**point, "layers": layers}


def _measured_read(content: dict[str, Any]) -> Measured:
    from mixbit.metric import MetricInfo

    return Measured(**{**content, "metrics": tuple(map(MetricInfo.from_json, content["metrics"]))})
