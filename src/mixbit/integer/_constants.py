"""What an exported program holds that does not depend on its input: weights, steps, statistics, and whose they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from mixbit.errors import ExportError
from mixbit.integer.arithmetic import Array
from mixbit.network.program import Program, argument, execute, op_name

FLOAT_WEIGHT_BITS = 8
"""Bits that a weight gets which training left in float."""
_WITH_WEIGHTS = ("conv1d", "conv2d", "linear")


def layer_names(program: Program) -> set[str]:
    """Names of the layers: no other operator gets one of them, so that a layer has the name that policies have."""
    weights = (argument(node, 1, "weight") for node in program.calls if op_name(node) in _WITH_WEIGHTS)
    sources = (latent(w) for w in weights if isinstance(w, fx.Node))
    known = program.parameters
    return {layer_of(known[source]) for source in sources if isinstance(source, fx.Node) and source in known}


def quantizer_of(weight: fx.Node) -> fx.Node | None:
    """The operator that makes a weight's values, or None where the weight is in float.

    Behind that of a bank of one signed bit, half a step is added to its result, which takes its type again.
    """
    while op_name(weight) in ("to", "_to_copy"):
        weight = weight.all_input_nodes[0]
    if op_name(weight) == "add":
        parts = [node for node in weight.all_input_nodes if op_name(node) == "fake_quantize"]
        return parts[0] if len(parts) == 1 and op_name(parts[0].all_input_nodes[0]) == "sub" else None
    return weight if op_name(weight) == "fake_quantize" else None


def latent(weight: fx.Node) -> fx.Node | None:
    """The parameter behind a weight: what its quantizer reads, without the half step that is taken from it."""
    quantizer = quantizer_of(weight)
    if quantizer is None:
        return weight
    source: Any = quantizer.args[0]
    if quantizer is not weight and op_name(source) == "sub":
        source = source.args[0]
    return source if isinstance(source, fx.Node) else None


def layer_of(parameter: str) -> str:
    """The layer of a weight."""
    return parameter.removesuffix(".weight")


def constant_values(program: Program) -> dict[fx.Node, Any]:
    """Values of all nodes that do not depend on the input."""
    found: dict[fx.Node, Any] = {n: program.model.get_parameter(name) for n, name in program.parameters.items()}
    found.update(program.constants)
    for node in program.calls:
        if node not in program.live and all(n in found for n in node.all_input_nodes):
            with torch.no_grad():
                found[node] = execute(node, found.__getitem__)
    return found


def by_range(weight: Array) -> tuple[Array, int, Array]:
    """8-bit integers by the largest magnitude of each output channel."""
    top = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scale = np.where(top > 0, top, 1.0) / (2 ** (FLOAT_WEIGHT_BITS - 1) - 1)
    integers = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return integers.astype(np.int8), FLOAT_WEIGHT_BITS, scale


def not_finite(path: str, what: str, found: Array) -> ExportError:
    """The error for numbers of a layer that are not finite.

    Args:
        path: of the module.
        what: the numbers are, such as "its bias".
        found: the numbers.
    """
    wrong = ~np.isfinite(found)
    return ExportError(
        f"{path}: {what} is not finite ({found[wrong][0]} in {int(wrong.sum())} of {found.size}). Legal: finite "
        "numbers. Look for a diverged training or a damaged checkpoint."
    )
