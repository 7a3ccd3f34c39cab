"""A trained supernet as the judge of policies: what each is worth in it, in seconds, on held-out training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from mixbit import methods
from mixbit.cost import LayerBits
from mixbit.data import parse_spec
from mixbit.errors import MixbitError, shown
from mixbit.evaluation import Metrics, evaluate
from mixbit.methods.qfa import settings_of
from mixbit.policy import Front, Policy
from mixbit.quantization import quantized_layers
from mixbit.runs import _folder
from mixbit.runs._comparison import Judged
from mixbit.runs.subject import Subject
from mixbit.supernet import SubnetJudge, SupernetTraining, build_supernet
from mixbit.task import Task

__all__ = ["PolicyJudge"]


@dataclass(kw_only=True)
class PolicyJudge:
    """Measures policies of the comparison's network in the supernet of a run folder."""

    task: Task
    """The comparison's: network, training images, loss and metrics."""
    settings: SupernetTraining
    weights: Path
    on: str
    """What is measured on, in words."""
    digest: str
    """Of the weights."""

    @classmethod
    def open(cls, run: Path, subject: Subject, task: Task) -> PolicyJudge:
        """The supernet of a finished run; nothing is built yet.

        Raises:
            MixbitError: a folder without one, or one of another network, other float weights or other data.
        """
        facts = _folder.read(run)
        if facts.get("method") != "qfa" or not (run / _folder.FRONT).is_file():
            raise MixbitError(
                f"judge: {run} holds no trained supernet. Give the --run folder of a finished mixbit search qfa."
            )
        front = Front.load(run / _folder.FRONT)
        if front.fingerprint != task.network.fingerprint:
            raise MixbitError(
                f"judge: {run} is a supernet of another network ({front.fingerprint}) than {shown(subject.model)} "
                f"({task.network.fingerprint}). Train one of this network: mixbit search qfa {subject.model} ..."
            )
        _check_origin(run, facts, subject)
        if front.weights is None:
            raise MixbitError(f"judge: the front of {run} names no weights. Run its search again.")
        path = front.weights.check(run)
        settings = settings_of(front)
        return cls(task=task, settings=settings, weights=path, on=front.measured.on, digest=front.weights.digest)

    @property
    def facts(self) -> dict[str, str]:
        """For `config.json`: what another judge differs in."""
        return {"weights": self.digest, "on": self.on}

    def candidates(self, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a method, with the bits that the supernet was trained at where they name none.

        Of the method's own usual bits those stay that the supernet has, and where they are fewer than two, all that it
        has are taken.
        """
        usual = getattr(methods.make(method, dict(given)), "bits", None)
        if usual is None or "bits" in given:
            return dict(given)
        kept = [bits for bits in usual if bits in self.settings.bits]
        if kept == list(usual):
            return dict(given)
        return {**given, "bits": kept if len(kept) > 1 else sorted(self.settings.bits, reverse=True)}

    @cached_property
    def _parts(self) -> tuple[Task, Any]:
        return self.settings.parts(self.task)

    @cached_property
    def _subnets(self) -> SubnetJudge:
        part, held = self._parts
        model = build_supernet(part, self.settings)
        model.load_state_dict(load_file(self.weights))
        return self.settings.judge(model, part, held)

    def __call__(self, policy: Policy) -> Judged:
        """What the sub-network of a policy is worth.

        Raises:
            MixbitError: bits that the supernet was not trained at.
        """
        self._check(policy.layers)
        return self._judged(self._subnets(policy.layers))

    def float32(self) -> Judged:
        """What the float network is worth on the same images."""
        return self._judged(evaluate(self.task.model, self._parts[1], loss=self.task.objective))

    def _judged(self, found: Metrics) -> Judged:
        return Judged(loss=found.loss, value=found.value)

    def _check(self, layers: Mapping[str, LayerBits]) -> None:
        """All bits are in the banks; a side in float would stay at the bits of the policy before."""
        wrong = []
        for name, own in quantized_layers(self._subnets.model).items():
            asked, banks = layers[name], (own.weight_quantizer, own.input_quantizer)
            for bits, bank in zip((asked.weight_bits, asked.activation_bits), banks, strict=True):
                if bank is not None and bits not in bank.bits:
                    wrong.append(f"{name} {asked} (it has {', '.join(map(str, bank.bits))})")
                    break
        if wrong:
            more = f" and {len(wrong) - 3} more layers" if len(wrong) > 3 else ""
            raise MixbitError(
                f"the supernet was not trained at these bits: {'; '.join(wrong[:3])}{more}. Ask for a policy of its "
                f"bits, e.g. METHOD?bits={sorted(self.settings.bits)}; or train a supernet of these."
            )


def _check_origin(run: Path, facts: Mapping[str, Any], subject: Subject) -> None:
    """The supernet began with these weights and data, as far as files tell."""
    theirs, mine = facts.get(_folder.CONTENT) or {}, subject.content()
    its = Subject.from_json(facts["subject"])
    for part in ("weights", "data"):
        was, now = theirs.get(part), mine.get(part)
        if was != now or (part == "data" and _kind(its.data) != _kind(subject.data)):
            old, new = (shown(str(getattr(one, part))) for one in (its, subject))
            raise MixbitError(
                f"judge: {run} is a supernet of other {part}: {old}, content {was}; this comparison has {new}, content "
                f"{now}. Compare with the {part} that it was trained from, or train a supernet of these."
            )


def _kind(data: str | None) -> object:
    """Data apart from where their files lie."""
    if data is None:
        return None
    name, _, options = parse_spec(data)
    return name, options
