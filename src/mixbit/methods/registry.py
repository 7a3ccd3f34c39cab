"""The search methods by name, of all three kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args, overload

from mixbit import _settings
from mixbit._registry import Registry
from mixbit.cost import Budget
from mixbit.errors import MixbitError
from mixbit.policy import Front, Policy, Scores, Terms
from mixbit.task import Task

__all__ = [
    "AnyMethod",
    "CostClass",
    "FrontMethod",
    "Info",
    "Kind",
    "Method",
    "PolicyMethod",
    "ScoreMethod",
    "info",
    "make",
    "names",
    "register",
]

CostClass = Literal["none", "weights", "forward", "gradient", "curvature", "training"]
"""What a search needs: nothing, the weights alone, forward passes, first or second derivatives, or training."""

Kind = Literal["score", "policy", "front"]
"""What a search ends in: a table of harm, a policy under one budget, or a front of policies."""


class ScoreMethod(Protocol):
    """A way from a task to scores, which serve every budget; a frozen dataclass whose fields are its settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Scores of every searched layer; with a run folder a killed search goes on where it was."""
        ...


class PolicyMethod(Protocol):
    """A way from a task and a budget to a policy; the budget is a hard limit of the search."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def search(
        self,
        task: Task,
        budget: Budget,
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        run: Path | None = None,
        quiet: bool = False,
    ) -> Policy:
        """The best policy found within the budget, counted under `terms`; another budget is another search.

        Raises:
            InfeasibleBudget: no policy meets the budget; with the nearest feasible limits and what blocks them.
        """
        ...


class FrontMethod(Protocol):
    """A way from a task to many policies with their costs and measured quality, from one set of weights."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def search(
        self,
        task: Task,
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        run: Path | None = None,
        quiet: bool = False,
    ) -> Front:
        """The front; `Front.pick` takes a policy from it for every budget.

        Of `terms` it takes the tables of measured times and of memory: points tell what they cost by these. Pins and
        ties are the method's own.
        """
        ...


class AnyMethod(Protocol):
    """A method of any kind: what its `search` takes and gives follows from `info(name).kind`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def search(self) -> Callable[..., Any]:
        """See the three kinds."""
        ...


Method = ScoreMethod
"""What all methods were before there were three kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What a list of methods shows of one."""

    name: str
    summary: str
    """What it does, in one line."""
    source: str
    """The publication, or "ours"."""
    cost: CostClass
    """What its search needs."""
    kind: Kind = "score"
    """What its search ends in."""


_ENDS: dict[str, str] = {
    "score": "in scores, of search(task): allocation takes a policy from them for every budget",
    "policy": "in a policy, of search(task, budget): every budget is a search",
    "front": "in a front, of search(task): Front.pick takes a policy from it for every budget",
}
_METHODS = Registry[tuple[type[AnyMethod], Info]]("method")
_M = TypeVar("_M", bound=type)


def register(name: str, summary: str, *, source: str, cost: CostClass, kind: Kind = "score") -> Callable[[_M], _M]:
    """Class decorator that enters a method under `name`; a name that is taken is an error."""
    for what, value, legal in (("cost class", cost, get_args(CostClass)), ("kind", kind, get_args(Kind))):
        if value not in legal:
            raise MixbitError(f"method {name!r}: {what} {value!r} is not legal. Legal: {', '.join(legal)}.")

    def enter(cls: _M) -> _M:
        _METHODS.enter(name, (cls, Info(name=name, summary=summary, source=source, cost=cost, kind=kind)))
        return cls

    return enter


def names(pattern: str = "*", *, kind: Kind | None = None) -> list[str]:
    """Registered methods that match a glob; of one kind, or of all.

    >>> names("limpq*"), names("limpq*", kind="front")
    (['limpq', 'limpq-init'], [])
    """
    return [name for name in _METHODS.names(pattern) if kind in (None, info(name).kind)]


def info(name: str) -> Info:
    """What a list shows of the method.

    >>> info("limpq-init").cost, info("limpq-init").kind
    ('forward', 'score')
    """
    return _METHODS.find(name)[1]


@overload
def make(name: str, settings: Mapping[str, Any] | None = None, *, kind: Literal["score"]) -> ScoreMethod: ...
@overload
def make(name: str, settings: Mapping[str, Any] | None = None, *, kind: Literal["policy"]) -> PolicyMethod: ...
@overload
def make(name: str, settings: Mapping[str, Any] | None = None, *, kind: Literal["front"]) -> FrontMethod: ...
@overload
def make(name: str, settings: Mapping[str, Any] | None = None, *, kind: None = None) -> AnyMethod: ...
def make(name: str, settings: Mapping[str, Any] | None = None, *, kind: Kind | None = None) -> Any:
    """The method of that name with these settings; lists stand for tuples.

    Args:
        name: see `names`.
        settings: of the method.
        kind: what it has to end in, for callers that serve one kind alone; None for any.

    Raises:
        MixbitError: an unknown name or setting, with the nearest legal one, a value that the setting does not take, or
            a method of another kind.
    """
    cls, found = _METHODS.find(name)
    if kind not in (None, found.kind):
        raise MixbitError(
            f"method {name!r} ends {_ENDS[found.kind]}. Here one is wanted that ends {_ENDS[str(kind)]}: "
            f"{', '.join(names(kind=kind)) or 'there is none'}."
        )
    return _settings.read(cls, settings or {}, room=f"method {name!r}")
