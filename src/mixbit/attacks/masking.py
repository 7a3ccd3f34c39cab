"""Signs of masked gradients: a network that looks robust because the attack was led astray.

After Athalye, Carlini and Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018), section 3.1; which
numbers are compared here, and that a sign is a proof wherever one can be had, is our completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixbit.attacks._norms import norm_of, project
from mixbit.attacks.attack import Attack, Found
from mixbit.inference import Predictor

__all__ = ["MaskingSign", "Trial", "masking_signs", "missed_points"]

Kind = Literal["missed", "black box"]

_TOLERANCE = 1e-4
"""Relative: a point may lie so far outside a ball for float32's sake."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One attack of one network on images that others attacked too."""

    attack: Attack
    found: Found


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingSign:
    """One sign that an attack was led astray.

    Attributes:
        kind: "missed": points within the ball are known that the attack did not find; "black box": an attack that sees
            less found more in the same ball.
        attack: whose result it speaks against.
        share: of the images that the network has right.
        text: what was seen, for people.
    """

    kind: Kind
    attack: str
    share: float
    text: str


def missed_points(predictor: Predictor, x: Tensor, y: Tensor, ball: Trial, others: Sequence[Trial]) -> Tensor:
    """Images that an attack within a ball calls robust although a point within this very ball is wrong.

    The candidates are the points of the other attacks, where they lie within the ball, and where they do not: the
    perturbation brought back into it, and its sign at the full radius, where the network is asked once each. So a
    network whose boundary is near but whose gradients lead nowhere is found out by DeepFool or Boundary.

    Args:
        predictor: the network.
        x: the images `(N, ...)`.
        y: their labels.
        ball: an attack with a radius, on these images.
        others: further attacks, on these images and on this network.

    Returns:
        A mask `(N,)`.
    """
    radius, norm = ball.attack.radius, ball.attack.norm
    known = torch.zeros(len(x), dtype=torch.bool)
    if radius is None:
        return known
    left = ball.found.right & ~ball.found.success
    for other in others:
        delta = other.found.points - x
        for moved in (delta, project(delta, norm, radius), project(delta.sign() * radius, norm, radius)):
            ask = left & ~known & (norm_of(moved, norm) <= radius * (1 + _TOLERANCE)) & (norm_of(moved, norm) > 0)
            if bool(ask.any()):
                with torch.no_grad():
                    logits = predictor.logits(predictor.space.clip((x + moved)[ask]))
                known[ask] = logits.argmax(1) != y[ask]
    return known


def masking_signs(predictor: Predictor, x: Tensor, y: Tensor, trials: Mapping[str, Trial]) -> list[MaskingSign]:
    """All signs that the attacks of one network give about each other; none is no proof of their absence.

    Args:
        predictor: the network.
        x: the images `(N, ...)`.
        y: their labels.
        trials: name to attack and result, on the same images.

    Returns:
        A sign for each attack within a ball that missed points, or that one with less access was better than.
    """
    found: list[MaskingSign] = []
    for name, trial in trials.items():
        others = {key: other for key, other in trials.items() if key != name}
        right = max(int(trial.found.right.sum()), 1)
        missed = missed_points(predictor, x, y, trial, list(others.values()))
        if bool(missed.any()):
            count = int(missed.sum())
            share = count / right
            text = (
                f"{name} calls {count} image{'' if count == 1 else 's'} robust for which other attacks lead to a wrong "
                f"point within {trial.attack.radius:g} in {trial.attack.norm}"
            )
            found.append(MaskingSign(kind="missed", attack=name, share=share, text=text))
        found += _outdone(name, trial, others, right)
    return found


_SEES = {"gradients": 2, "scores": 1, "labels": 0}


def _outdone(name: str, trial: Trial, others: Mapping[str, Trial], right: int) -> Iterator[MaskingSign]:
    """By attacks with less access, in the same ball."""
    if trial.attack.radius is None:
        return
    for key, other in others.items():
        same = (other.attack.norm, other.attack.radius) == (trial.attack.norm, trial.attack.radius)
        more = int(other.found.success.sum()) - int(trial.found.success.sum())
        if same and _SEES[other.attack.access] < _SEES[trial.attack.access] and more > 0:
            text = f"{key}, with {other.attack.access} alone, finds {more} points more than {name} in the same ball"
            yield MaskingSign(kind="black box", attack=name, share=more / right, text=text)
