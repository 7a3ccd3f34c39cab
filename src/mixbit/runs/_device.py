"""Limits of a device: the model that a folder names, written as C, which the policy that is chosen has to fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mixbit.cost import ON_DEVICE, Budget, LayerBits
from mixbit.errors import BudgetError
from mixbit.export.c import COptions, Layouts
from mixbit.integer import GraphRounding, IntegerGraph, lower_at
from mixbit.network import Network
from mixbit.policy import Terms
from mixbit.runs._sources import subject_of
from mixbit.runs.inspecting import open_model

C_OPTIONS = COptions(kernels="dsp")
"""How C is written where nothing else is said, as by `mixbit export`."""


def is_on_device(budget: Budget) -> bool:
    """Whether a limit is of the network written as C."""
    return not budget.texts.keys().isdisjoint(ON_DEVICE)


def check_c(budget: Budget | None, c_options: COptions | None, rounding: GraphRounding) -> None:
    """How C is written says nothing where no limit is of it.

    Raises:
        BudgetError: other options than by default, and no limit of a device.
    """
    given = C_OPTIONS if c_options is None else c_options
    if (budget is None or not is_on_device(budget)) and (given, rounding) != (C_OPTIONS, "single"):
        raise BudgetError(
            "options of C have no effect: no limit is of the network as C. Leave kernels, pack_activations and "
            f"rounding out, or give a limit on {' or '.join(ON_DEVICE)}."
        )


def lower_of(
    folder: Path, network: Network, rounding: GraphRounding
) -> Callable[[Mapping[str, LayerBits]], IntegerGraph]:
    """Bits of every layer -> the model of a folder in integers, as after training; its weights do not matter.

    Raises:
        BudgetError: the folder does not say which model, or it is not that of the network any more.
    """
    subject = subject_of(folder)
    if subject is None:
        raise BudgetError(
            f"{' and '.join(ON_DEVICE)} need the model, and {folder} does not say which it is. Give the --run folder "
            "of a search; in Python, mixbit.allocation.allocate takes memory=."
        )
    opened = open_model(subject)
    if opened.network.fingerprint != network.fingerprint:
        raise BudgetError(f"The model that {folder} names is another one now. Search again, then allocate.")
    return lower_at(opened.model, opened.network, opened.example, rounding=rounding, apart=True)


def layouts_of(
    folder: Path, network: Network, budget: Budget, terms: Terms, c_options: COptions | None, rounding: GraphRounding
) -> Layouts | None:
    """Layouts of the model that a folder names, as C; None where no limit is of what that takes.

    Raises:
        BudgetError: as `lower_of`, or a pin that matches no layer.
        ExportError: an operation that has no C.
    """
    if not is_on_device(budget):
        return None
    options = C_OPTIONS if c_options is None else c_options
    return Layouts(network, budget, lower_of(folder, network, rounding), terms, options=options)
