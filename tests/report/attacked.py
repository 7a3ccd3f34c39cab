"""What attacks came to, by hand: two networks, one attack at two radii and one that seeks the nearest point."""

from __future__ import annotations

from pathlib import Path

import torch

from mixbit.attacks import Interval, MaskingSign, Measures, Spread, TransferMatrix
from mixbit.runs import Attacked, AttackResult, Picture

FLOAT, INT8 = "float", "W8A8 executor"


def share(value: float) -> Interval:
    """With ends 0.1 below and above."""
    return Interval(value=value, low=value - 0.1, high=value + 0.1)


def measures(robust: float, *, right: int = 8, fooled: int = 4, length: float = 0.5, own: bool = True) -> Measures:
    """Of ten images."""
    spread = Spread(mean=length, median=length / 2, largest=2 * length)
    return Measures(
        images=10,
        right=right,
        fooled=fooled,
        clean_accuracy=share(right / 10),
        robust_accuracy=share(robust),
        success=share(fooled / right) if right else None,
        distances={"L0": spread, "L1": spread, "L2": spread, "Linf": spread} if fooled else {},
        snapped={"L0": spread, "L1": spread, "L2": spread, "Linf": spread} if fooled and not own else {},
        boundary=None,
        queries=Spread(mean=21.5, median=20, largest=40) if own and right else None,
    )


def result(attack: str, radius: float | None, target: str, found: Measures) -> AttackResult:
    """White box: points of the float network."""
    return AttackResult(
        attack=attack,
        family=attack.partition(" at ")[0],
        norm="L2" if radius is None else "Linf",
        radius=radius,
        target=target,
        source=FLOAT,
        measures=found,
    )


def matrix(across: float | None) -> TransferMatrix:
    """Of the float network's points."""
    shares = (share(0.5), None if across is None else share(across))
    return TransferMatrix(sources=(FLOAT,), targets=(FLOAT, INT8), shares=(shares,), images=((8, 7),))


WEAK, STRONG, NEAREST = "pgd at 0.01", "pgd at 0.1", "deepfool"
PICTURE = Picture(
    attack=STRONG,
    target=FLOAT,
    image=torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]),
    point=torch.tensor([[[0.1, 1.0], [0.5, 0.3]]]),
    label=3,
    called=8,
)
FOUND = Attacked(
    runs=(Path("runs/one"),),
    networks=(FLOAT, INT8),
    images=10,
    clean={FLOAT: share(0.8), INT8: share(0.7)},
    results=(
        result(STRONG, 0.1, FLOAT, measures(0.4)),
        result(STRONG, 0.1, INT8, measures(0.3, right=7, own=False)),
        result(WEAK, 0.01, FLOAT, measures(0.6, fooled=2)),
        result(WEAK, 0.01, INT8, measures(0.5, right=7, fooled=0, own=False)),
        result(NEAREST, None, FLOAT, measures(0.1, fooled=7)),
        result(NEAREST, None, INT8, measures(0.0, right=0, fooled=0, own=False)),
    ),
    transfers={STRONG: matrix(0.25), WEAK: matrix(0.125), NEAREST: matrix(None)},
    signs={FLOAT: (MaskingSign(kind="missed", attack=WEAK, share=0.5, text="pgd missed some"),)},
    pictures=(PICTURE,),
    notes=("a note",),
)
