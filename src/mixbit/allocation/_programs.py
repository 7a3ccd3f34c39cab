"""From a program, which names layers, sides and bits, to what the solvers take: numbers for each option of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mixbit.allocation._groups import Group, LayerOptions
from mixbit.allocation._ordered import Chain
from mixbit.allocation.solver import Allocation
from mixbit.cost import FLOAT_BITS
from mixbit.policy import JSON, Pairs, Program, Scores, Side

__all__ = ["chains", "joint_harms", "program_facts", "program_notes"]

Floats = npt.NDArray[np.float64]
_SIDES: tuple[Side, Side] = ("weight", "activation")


def chains(groups: Sequence[Group], options: Mapping[str, LayerOptions], program: Program) -> list[Chain]:
    """Weight bits, and activation bits, of the free layers in their orders; a user's pin is above it."""
    place = {name: (index, at) for index, group in enumerate(groups) for at, name in enumerate(group.layers)}
    found = []
    for side, order in enumerate(program.orders):
        links = [place[name] for name in order if not options[name].pinned]
        bits = tuple(groups[index].bits[:, at, side] for index, at in links)
        found += [Chain(tuple(index for index, _ in links), bits)] if links else []
    return found


def joint_harms(groups: Sequence[Group], pairs: Pairs) -> tuple[list[Floats], Floats]:
    """Harm of each option by itself, and the joint harms of two options of different groups.

    The joint harm of two options is the sum over their variables, of weights and of activations. What the layers of one
    option do together is harm of that option by itself.

    Returns:
        One array of harms a group, and a symmetric matrix over all options of all groups, in their order.
    """
    variables = {variable: row for row, variable in enumerate(pairs.variables)}
    chosen = np.concatenate([_variables_of(group, variables) for group in groups])
    joint: Floats = chosen @ np.array(pairs.matrix, dtype=np.float64).reshape(2 * [len(variables)]) @ chosen.T
    ends = np.cumsum([len(group.score) for group in groups])
    # Variables of one option: each pair is in the product twice, and the diagonal is zero.
    inside = np.split(joint.diagonal() / 2, ends[:-1])
    return [group.score + own for group, own in zip(groups, inside, strict=True)], joint


def _variables_of(group: Group, variables: Mapping[tuple[str, Side, int], int]) -> Floats:
    """(options, variables) 1 where an option makes a variable's choice."""
    chosen = np.zeros((len(group.score), len(variables)))
    for at, name in enumerate(group.layers):
        for number, side in enumerate(_SIDES):
            for option, bits in enumerate(group.bits[:, at, number].tolist()):
                row = None if bits == FLOAT_BITS else variables.get((name, side, bits))
                if row is not None:
                    chosen[option, row] = 1.0
    return chosen


def program_facts(program: Program) -> dict[str, JSON]:
    """What a policy's file says of the program; nothing of the default one."""
    if program == Program():
        return {}
    size = len(program.pairs.variables) if program.pairs else 0
    facts: dict[str, JSON] = {
        "coupled": program.coupled,
        "order": list(program.order),
        "box": program.box,
        "pairs": size,
    }
    if program.activation_order is not None:
        facts["activation_order"] = list(program.activation_order)
    return {"coupled": program.coupled, "program": facts}


def program_notes(scores: Scores, options: Mapping[str, LayerOptions], allocation: Allocation) -> list[str]:
    """The program in words, and which layers it does not reach."""
    program, notes = scores.program, []
    if program.coupled:
        notes.append("coupled: weights and activation of a layer have the same bits (pinned layers aside)")
    sides = ("order",) if program.activation_order is None else ("order of weights", "order of inputs")
    for what, names in zip(sides, program.orders, strict=False):
        if names:
            aside = [name for name in names if options[name].pinned]
            notes.append(
                f"{what}: of {len(names) - len(aside)} layers none has fewer bits than one after it"
                + (f"; pinned, so not part of it: {', '.join(aside)}" if aside else "")
            )
    if program.box:
        notes.append(
            "box: solved in real bits (OMPQ) and rounded down (ours), which is not the best choice of whole bits"
        )
    if program.pairs:
        how = "proven best" if allocation.proven else "the best that was found"
        notes.append(f"pairs: joint harms of {len(program.pairs.variables)} single choices counted; {how}")
        notes.append("repair skipped: with joint harms the harm of a single choice may fall with fewer bits")
    return notes
