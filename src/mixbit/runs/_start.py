"""A finished training as the start of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from mixbit import _io
from mixbit.errors import MixbitError, shown
from mixbit.policy import Policy
from mixbit.runs import _folder
from mixbit.runs._options import QUANTIZE
from mixbit.runs._trained import open_run
from mixbit.runs.subject import Subject

__all__ = ["Start", "start_at"]

_KEPT = (QUANTIZE, "batch_size", "bn_samples")
"""Settings that a quantized network keeps: how its layers are quantized, and the batches that its statistics are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a training begins from, in the terms of one that begins from float weights."""

    subject: Subject
    """Model, data and float weights."""
    policy: Policy | None
    settings: dict[str, Any]
    model: nn.Module | None = None
    """The network with weights and quantizers as they were trained; None where the float weights are all there is."""
    digest: str | None = None
    """Of these weights."""


def start_at(subject: Subject, policy: Policy | None, settings: Mapping[str, Any]) -> Start:
    """Read the run folder that the subject names as its model.

    Args:
        subject: its data, where they are named, and its seed are those of the new training.
        policy: bits, for a network that was trained in float32.
        settings: of the new training; where they say nothing of it, quantizers and batches stay as they were.

    Raises:
        MixbitError: no finished training, or weights, bits or quantizers beside a network that has its own.
    """
    run = Path(subject.model)
    if subject.weights is not None:
        raise MixbitError(f"{run} is the folder of a training and brings its own weights: leave --weights out.")
    opened = open_run(run, data=subject.data, seed=subject.seed)
    if opened.policy is None:
        return Start(subject=opened.subject, policy=policy, settings=dict(settings))
    if policy is not None and policy.layers != opened.policy.layers:
        raise MixbitError(
            f"{run} holds a network of bits of its own, which its steps are for: leave --policy out. For other bits "
            "begin from its float weights: mixbit train MODEL --weights FILE --policy FILE."
        )
    kept = {key: opened.settings[key] for key in _KEPT if key in opened.settings}
    if settings.get(QUANTIZE, kept.get(QUANTIZE)) != kept.get(QUANTIZE):
        raise MixbitError(
            f"quantize={shown(settings[QUANTIZE])}: the layers in {run} are quantized as it was trained, by "
            f"{kept.get(QUANTIZE, {})}. Leave it out."
        )
    return Start(
        subject=replace(opened.subject, seed=subject.seed),
        policy=opened.policy,
        settings={**kept, **settings},
        model=opened.task.model,
        digest=_io.digest(run / _folder.WEIGHTS),
    )
