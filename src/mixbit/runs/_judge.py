"""A trained supernet as the judge of policies: what each is worth in it, in seconds, on held-out training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbit import _io, methods
from mixbit.data import parse_spec
from mixbit.errors import MixbitError, PolicyError, shown
from mixbit.evaluation import Metrics, evaluate
from mixbit.policy import Policy
from mixbit.runs import _folder
from mixbit.runs._comparison import Judged
from mixbit.runs.subject import Subject
from mixbit.runs.supernets import home_of
from mixbit.supernet import Supernet, load_supernet, supernet_settings
from mixbit.supernet.training import WEIGHTS
from mixbit.task import Task

__all__ = ["PolicyJudge"]


@dataclass(frozen=True, kw_only=True)
class PolicyJudge:
    """Measures policies of the comparison's network in the supernet of a run folder."""

    supernet: Supernet
    """Of the comparison's task: network, training images, loss and metrics."""
    digest: str
    """Of the weights."""

    @classmethod
    def open(cls, run: Path, subject: Subject, task: Task) -> PolicyJudge:
        """The supernet of a finished run.

        Raises:
            MixbitError: a folder without one, or one of another network, other float weights or other data.
        """
        home = home_of(run)
        supernet_settings(home, task.network)
        _check_origin(home, _folder.read(home), subject)
        return cls(supernet=load_supernet(task, home), digest=_io.digest(home / WEIGHTS))

    @property
    def facts(self) -> dict[str, str]:
        """For `config.json`: what another judge differs in."""
        return {"weights": self.digest, "on": self.supernet.on}

    def candidates(self, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a method, with the bits that the supernet was trained at where they name none.

        Of the method's own usual bits those stay that the supernet has, and where they are fewer than two, all that it
        has are taken.
        """
        usual = getattr(methods.make(method, dict(given)), "bits", None)
        if usual is None or "bits" in given:
            return dict(given)
        kept = [bits for bits in usual if bits in self._bits]
        if kept == list(usual):
            return dict(given)
        return {**given, "bits": kept if len(kept) > 1 else sorted(self._bits, reverse=True)}

    def __call__(self, policy: Policy) -> Judged:
        """What the sub-network of a policy is worth.

        Raises:
            PolicyError: bits that the supernet was not trained at.
        """
        try:
            self.supernet.check(policy.layers)
        except PolicyError as error:
            raise PolicyError(f"{error} A method is told its bits: METHOD?bits={sorted(self._bits)}.") from None
        return _judged(self.supernet.judge(policy.layers))

    def float32(self) -> Judged:
        """What the float network is worth on the same images."""
        task = self.supernet.task
        return _judged(evaluate(task.model, self.supernet.held_out, loss=task.objective))

    @property
    def _bits(self) -> tuple[int, ...]:
        return self.supernet.settings.bits


def _judged(found: Metrics) -> Judged:
    return Judged(loss=found.loss, value=found.value)


def _check_origin(run: Path, facts: Mapping[str, Any], subject: Subject) -> None:
    """The supernet began with these weights and data, as far as files tell."""
    theirs, mine = facts.get(_folder.CONTENT) or {}, subject.content()
    its = Subject.from_json(facts["subject"])
    for part in ("weights", "data"):
        was, now = theirs.get(part), mine.get(part)
        if was != now or (part == "data" and _kind(its.data) != _kind(subject.data)):
            old, new = (shown(str(getattr(one, part))) for one in (its, subject))
            raise MixbitError(
                f"{run} is a supernet of other {part}: {old}, content {was}; this comparison has {new}, content "
                f"{now}. Compare with the {part} that it was trained from, or train a supernet of these."
            )


def _kind(data: str | None) -> object:
    """Data apart from where their files lie."""
    if data is None:
        return None
    name, _, options = parse_spec(data)
    return name, options
