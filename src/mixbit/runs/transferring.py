"""Scores or a policy found on one data set, on the same architecture trained on another."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixbit import _distributed, _io, methods
from mixbit._progress import announce
from mixbit.cost import Budget, Costs, LayerBits, costs, float_costs
from mixbit.errors import MixbitError, PolicyError
from mixbit.evaluation import evaluate
from mixbit.ledger import Ledger
from mixbit.network import Network
from mixbit.policy import (
    Policy,
    PolicyDistance,
    Scores,
    Side,
    bits_digest,
    policy_distance,
    rank_correlation,
    resolve_pins,
    transfer_policy,
    transfer_scores,
)
from mixbit.quantization import QuantizeConfig, put_policy_on
from mixbit.runs import _folder
from mixbit.runs._options import QUANTIZE, quantize_config, read_options
from mixbit.runs._sources import read_network, result_of
from mixbit.runs.allocating import allocate
from mixbit.runs.searching import search
from mixbit.runs.subject import Outcome, Subject, metric_facts
from mixbit.runs.training import train
from mixbit.task import Task

__all__ = ["Agreement", "Reached", "Transferred", "transfer"]

TRANSFERRED, OWN, RESULT, MEASURED = "transferred", "own", "transfer.json", "measured.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What one policy reaches on the target's test data; accuracies are values of the task's metric."""

    name: str
    """Whose policy it is: "transferred" or "own"."""
    policy: Policy
    costs: Costs
    calibrated: float
    """Accuracy with float weights and calibrated activations."""
    trained: float | None
    """Accuracy after fine-tuning, if that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far the target's own search agrees with what was transferred."""

    spearman: dict[Side, dict[int, float | None]]
    """Rank correlation of the layers' harms; empty where a policy was transferred, which has none."""
    distance: PolicyDistance
    harm: float | None
    """Harm of the transferred policy, by the target's own scores; None for bits that these do not have."""
    own_harm: float | None
    """Harm of the target's own policy by the same scores; no policy within the budget has less. None where the method
    ends in a policy or a front, and has no scores."""

    @property
    def regret(self) -> float | None:
        """Harm of the transferred policy beyond that of the own one."""
        return None if self.harm is None or self.own_harm is None else self.harm - self.own_harm


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """The transferred policy, the target's own if it was asked for, and how far they agree."""

    method: str
    float32: Outcome
    reached: list[Reached]
    agreement: Agreement | None
    dropped: list[str]
    """Layers whose scores were left out, with the reason."""
    files: dict[Path, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    network: Network
    found: Scores | Policy
    method: str
    settings: dict[str, Any]
    digest: str


def transfer(
    source: Path,
    subject: Subject,
    budget: Sequence[str],
    run: Path,
    *,
    own: bool = True,
    epochs: int = 0,
    settings: Mapping[str, Any] | None = None,
    task: Task | None = None,
    quiet: bool = False,
) -> Transferred:
    """Move scores to the subject, allocate, and compare with what the subject's own search gives.

    The run folder holds `transferred/` and `own/` (scores, policy, network), and `transferred-trained/` and
    `own-trained/`, each a run of its own; a killed transfer goes on, and a finished step is only read. Policies with
    equal bits are evaluated and trained once.

    Args:
        source: run folder of a search; or a scores or policy file with `network.json` beside it.
        subject: the target: model, weights and data.
        budget: limits, resolved on the target.
        run: folder of the transfer.
        own: search the target too, with the source's method and settings.
        epochs: of fine-tuning; 0 stops after calibration.
        settings: of the fine-tuning, as for `mixbit.runs.train`. `quantize` is that of calibration too.
        task: the subject's, if it is at hand already.
        quiet: no progress bar.

    Raises:
        PolicyError: the two networks are not of one architecture.
        BudgetError: a transferred policy exceeds the budget on the target.
        MixbitError: the source's method cannot be run on the target.
    """
    _distributed.start()
    origin = _read(source)
    read_options(settings or {}, subject.seed)  # before the folder is begun: a typo must not claim it
    task = subject.task()[0] if task is None else task
    moved = _move(origin, task.network)
    if own and origin.method not in methods.names():
        raise MixbitError(
            f"{source} was made by {origin.method!r}, which is no method of mixbit, so the target cannot be searched "
            "in the same way. Leave its own search out: own=False, --no-own."
        )
    tuning = {"epochs": epochs, **(settings or {})} if epochs else {}
    facts: dict[str, Any] = {
        "source": origin.digest,
        "method": origin.method,
        "method_settings": origin.settings,
        "own": own,
    }
    if not epochs and QUANTIZE in (settings or {}):  # of the fine-tuning nothing counts but what calibration has too
        facts[QUANTIZE] = (settings or {})[QUANTIZE]
    _folder.begin(
        run,
        {
            "command": "transfer",
            "subject": subject.to_json(),
            "content": subject.content(),
            **facts,
            "budget": list(budget),
            "settings": tuning,
        }
        | metric_facts(task),
    )
    measured = _ledger(run, subject, task, (settings or {}).get(QUANTIZE))
    config = quantize_config(settings or {})
    policies = {TRANSFERRED: _place(moved, task.network, budget, run / TRANSFERRED)}
    if own:
        if not quiet:
            announce("transfer", 0, 2, f"{origin.method} on the target")
        under = budget if methods.info(origin.method).kind == "policy" else ()
        search(subject, origin.method, origin.settings, run / OWN, budget=under, task=task, quiet=quiet)
        policies[OWN] = allocate(run / OWN, budget, run / OWN / _folder.POLICY).policy
    if not quiet:
        announce("transfer", 1, 2, " and ".join(policies) + " on the target")
    done = Transferred(
        method=origin.method,
        float32=Outcome(
            name="float32", accuracy=_float_accuracy(task, measured), costs=float_costs(task.network), metric=task.info
        ),
        reached=_reach_all(policies, subject, task, tuning, config, run, measured, quiet=quiet),
        agreement=_agreement(moved, policies, run, task.network) if own else None,
        dropped=_dropped(moved),
        files=_files(run, list(policies), trained=bool(tuning)),
    )
    if _distributed.rank() == 0:
        _io.write_json(run / RESULT, _summary(done))
    return done


# ------------------------------------------------------------------------------------------------ from the source


def _read(source: Path) -> _Source:
    kind, path = result_of(source)
    folder = path.parent
    if kind == "front":
        raise MixbitError(f"{path} holds a front, of one set of weights. Pick a policy from it, and transfer that.")
    found = Policy.load(path) if kind == "policy" else Scores.load(path)
    method, settings = _how(folder, found)
    return _Source(
        network=read_network(folder),
        found=found,
        method=method,
        settings=settings,
        digest=hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    )


def _how(folder: Path, found: Scores | Policy) -> tuple[str, dict[str, Any]]:
    """Method and settings: as the run folder says, or else the table itself, in which settings stand among findings."""
    if (folder / _folder.CONFIG).exists():
        facts = _folder.read(folder)
        if facts["command"] == "search" and facts["method"] == found.method:
            return found.method, dict(facts["settings"])
    if isinstance(found, Policy) or found.method not in methods.names():
        return found.method, {}
    legal = {field.name for field in fields(methods.make(found.method))} - {"seed"}
    return found.method, {key: value for key, value in found.settings.items() if key in legal}


def _move(origin: _Source, target: Network) -> Scores | Policy:
    if isinstance(origin.found, Policy):
        return transfer_policy(origin.found, origin.network, target)
    return transfer_scores(origin.found, origin.network, target)


def _place(moved: Scores | Policy, network: Network, budget: Sequence[str], folder: Path) -> Policy:
    """Write what was transferred, and the policy for the target."""
    first = _distributed.rank() == 0
    if first:
        _io.write_text(folder / _folder.NETWORK, network.to_json())
    if isinstance(moved, Policy):
        parsed = Budget.parse(budget)
        parsed.check(
            costs(network, moved.layers, macs=moved.macs), parsed.resolve(network, resolve_pins(network), moved.macs)
        )
        if first:
            moved.save(folder / _folder.POLICY)
        return moved
    if first:
        moved.save(folder / _folder.SCORES)
    _distributed.barrier()
    return allocate(folder, budget, folder / _folder.POLICY).policy


def _dropped(moved: Scores | Policy) -> list[str]:
    found = moved.settings["transfer_dropped"] if isinstance(moved, Scores) else []
    return [str(line) for line in found] if isinstance(found, list) else []


# ------------------------------------------------------------------------------------------------ on the target


def _reach_all(
    policies: Mapping[str, Policy],
    subject: Subject,
    task: Task,
    tuning: Mapping[str, Any],
    config: QuantizeConfig,
    run: Path,
    measured: Ledger,
    *,
    quiet: bool,
) -> list[Reached]:
    done: list[Reached] = []
    for name, policy in policies.items():
        twin = next((one for one in done if one.policy.layers == policy.layers), None)
        trained = None
        if tuning and twin is None:
            result = train(subject, policy, tuning, run / f"{name}-trained", task=task, quiet=quiet)
            trained = result.outcome.accuracy
        done.append(
            Reached(
                name=name,
                policy=policy,
                costs=costs(task.network, policy.layers),
                calibrated=_calibrated(policy, subject, task, config, measured) if twin is None else twin.calibrated,
                trained=trained if twin is None else twin.trained,
            )
        )
    return done


def _ledger(run: Path, subject: Subject, task: Task, quantize: object) -> Ledger:
    """Accuracies on the target, known by what they depend on beside the bits."""
    content = subject.content()
    settings = {
        "model": subject.model,
        "seed": subject.seed,
        "weights": content["weights"],
        "data": content["data"] or subject.data,
        QUANTIZE: quantize,
    }
    before = [run / "float.json"]
    return Ledger(run / MEASURED, "accuracies on the target", settings | metric_facts(task), before=before)


def _calibrated(policy: Policy, subject: Subject, task: Task, config: QuantizeConfig, measured: Ledger) -> float:
    """Accuracy with float weights and calibrated activations, known by the bits."""
    key = f"calibrated/{bits_digest(policy.layers)}"
    if key not in measured:
        model = copy.deepcopy(task.model)
        put_policy_on(model, policy, task, seed=subject.seed, config=config)
        measured.put(key, evaluate(model, task.test, loss=task.objective).value)
    return measured.read(key, float)


def _float_accuracy(task: Task, measured: Ledger) -> float:
    if "float32" not in measured:
        measured.put("float32", evaluate(task.model, task.test, loss=task.objective).value)
    return measured.read("float32", float)


def _agreement(moved: Scores | Policy, policies: Mapping[str, Policy], run: Path, network: Network) -> Agreement:
    """Pinned layers are the same in both by design, so they are left out."""
    path, pinned = run / OWN / _folder.SCORES, set(resolve_pins(network))
    own = Scores.load(path) if path.is_file() else None
    free = [
        {name: bits for name, bits in policies[one].layers.items() if name not in pinned} for one in (TRANSFERRED, OWN)
    ]
    return Agreement(
        spearman={} if isinstance(moved, Policy) or own is None else rank_correlation(moved, own),
        distance=policy_distance(free[0], free[1]),
        harm=None if own is None else _total(own, free[0]),
        own_harm=None if own is None else own.total(free[1]),
    )


def _total(scores: Scores, layers: Mapping[str, LayerBits]) -> float | None:
    """Harm of a policy, which may be one by hand with bits that were never scored."""
    try:
        return scores.total(layers)
    except PolicyError:
        return None


# ------------------------------------------------------------------------------------------------ what is left behind


def _files(run: Path, names: Sequence[str], *, trained: bool) -> dict[Path, str]:
    files = {run / RESULT: "accuracies and agreement"}
    for name in names:
        files[run / name / _folder.POLICY] = f"the {name} policy"
        weights = run / f"{name}-trained" / _folder.WEIGHTS
        if trained and weights.exists():
            files[weights] = f"the network fine-tuned under the {name} policy"
    return files


def _summary(done: Transferred) -> dict[str, Any]:
    """For people and scripts: the folders beside it hold the rest."""
    rows = [
        {
            "policy": one.name,
            "calibrated_accuracy": one.calibrated,
            "accuracy": one.trained,
            "bitops": one.costs.bitops,
            "weight_bytes": one.costs.weight_bytes,
        }
        for one in done.reached
    ]
    return {
        "method": done.method,
        "metric": done.float32.metric.to_json(),
        "float_accuracy": done.float32.accuracy,
        "rows": rows,
        "dropped": done.dropped,
        "agreement": None if done.agreement is None else _agreement_values(done.agreement),
    }


def _agreement_values(found: Agreement) -> dict[str, Any]:
    spearman = {side: {str(bits): rho for bits, rho in curve.items()} for side, curve in found.spearman.items()}
    return {
        "spearman": spearman,
        "mean_bits_difference": found.distance.mean_bits,
        "equal_layers": found.distance.equal_share,
        "compared_layers": found.distance.layers,
        "harm": found.harm,
        "own_harm": found.own_harm,
        "regret": found.regret,
    }
