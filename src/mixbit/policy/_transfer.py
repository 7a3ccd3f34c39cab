"""Scores and policies of one network on another of the same architecture, trained on other data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mixbit.cost import cost_table
from mixbit.errors import PolicyError
from mixbit.policy._policy import Policy, uncounted_notes
from mixbit.policy._program import Pairs, Program
from mixbit.policy._scores import Scores

if TYPE_CHECKING:
    from mixbit.network import Layer, Network

__all__ = ["transfer_policy", "transfer_scores"]


def transfer_scores(scores: Scores, source: Network, target: Network) -> Scores:
    """The scores of `source` as scores of `target`: the same layers, trained on other data.

    The first and the last layer may differ in weight shape (other input channels, other classes). Their scores are then
    left out, for they are of other tensors, and listed in the settings; pin these layers, as is the default.

    Returns:
        A table with the target's fingerprint. Its settings say under `transferred_from` which fingerprint it had, and
        under `transfer_dropped` what was left out and why.

    Raises:
        PolicyError: the scores are not of `source`, or the networks differ in anything else; the message names the
            first layer that differs.
    """
    scores.check(source)
    changed = changed_ends(source, target)
    dropped = {name: why for name, why in changed.items() if name in scores.layers}
    return replace(
        scores,
        fingerprint=target.fingerprint,
        layers={name: found for name, found in scores.layers.items() if name not in dropped},
        program=_without(scores.program, dropped),
        settings={
            **scores.settings,
            "transferred_from": source.fingerprint,
            "transfer_dropped": [f"{name}: {why}" for name, why in dropped.items()],
        },
    )


def transfer_policy(policy: Policy, source: Network, target: Network) -> Policy:
    """The bits that `policy` gives to `source`, for `target`: the same layers, trained on other data.

    The first and the last layer may differ in weight shape; they keep their bits, and a note names them.

    Returns:
        A policy with the target's fingerprint and fresh costs. The budget and the solver's results were the source's,
        so they are left out; a note says what the budget was.

    Raises:
        PolicyError: as `transfer_scores`.
    """
    policy = policy.check(source)
    changed = changed_ends(source, target)
    layers = {layer.name: policy.layers[layer.name] for layer in target.layers}
    notes = [f"transferred from the network {source.fingerprint}"]
    if policy.budget:
        notes.append(f"there its budget was {', '.join(f'{kind}={text}' for kind, text in policy.budget.items())}")
    notes += [f"{name} keeps {layers[name]} with another weight shape: {why}" for name, why in changed.items()]
    notes += [note for note in policy.notes if note not in uncounted_notes(source)]
    return replace(
        policy,
        fingerprint=target.fingerprint,
        layers=layers,
        budget={},
        costs=cost_table(target, layers, macs=policy.macs),
        allocation={},
        notes=[*notes, *uncounted_notes(target)],
    )


def changed_ends(source: Network, target: Network) -> dict[str, str]:
    """The first and the last layer, if their weight shapes differ -> how; all else must be equal.

    Raises:
        PolicyError: other numbers of layers, names, kinds or groups, or another weight shape in between.
    """
    for one, other in zip(source.layers, target.layers, strict=False):
        if one.name != other.name:
            raise _differ(one.name, f"it is called {one.name!r} in the source and {other.name!r} in the target")
        for what in ("kind", "groups"):
            if getattr(one, what) != getattr(other, what):
                raise _differ(one.name, f"its {what}, {getattr(one, what)!r} against {getattr(other, what)!r}")
    if len(source.layers) != len(target.layers):
        raise _differ_in_number(source, target)
    ends = {layer.name for layer in (source.layers[:1] + source.layers[-1:])}
    changed = {}
    for one, other in zip(source.layers, target.layers, strict=True):
        if one.weight_shape != other.weight_shape:
            how = f"{_shape(one)} in the source, {_shape(other)} in the target"
            if one.name not in ends:
                raise _differ(one.name, f"its weight is {how}")
            changed[one.name] = how
    return changed


def _differ(name: str, how: str) -> PolicyError:
    return PolicyError(
        f"The two networks differ at the layer {name!r}: {how}. A transfer needs one architecture; only the first and "
        "the last layer may have other weight shapes. Search the target itself."
    )


def _differ_in_number(source: Network, target: Network) -> PolicyError:
    longer, shorter = sorted((source, target), key=lambda network: -len(network.layers))
    first = longer.layers[len(shorter.layers)].name
    return _differ(first, f"the source has {len(source.layers)} layers and the target {len(target.layers)}")


def _without(program: Program, dropped: Mapping[str, str]) -> Program:
    def left(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in dropped)

    return replace(
        program,
        order=left(program.order),
        activation_order=None if program.activation_order is None else left(program.activation_order),
        pairs=None if program.pairs is None else _fewer(program.pairs, dropped),
    )


def _fewer(pairs: Pairs, dropped: Mapping[str, str]) -> Pairs:
    kept = [row for row, (layer, _, _) in enumerate(pairs.variables) if layer not in dropped]
    return Pairs(
        tuple(pairs.variables[row] for row in kept),
        tuple(tuple(pairs.matrix[row][column] for column in kept) for row in kept),
    )


def _shape(layer: Layer) -> str:
    return "x".join(map(str, layer.weight_shape))
