"""What a method asks of the allocation beyond a sum of independent harms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mixbit.cost import LayerBits
from mixbit.errors import PolicyError

__all__ = ["Pairs", "Program", "Side"]

Side = Literal["weight", "activation"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Harm that two choices do together, beyond the sum of what each does alone (CLADO's off-diagonal terms).

    Attributes:
        variables: (layer, side, bits) of each row and column; each variable is 1 where that choice is made, else 0.
        matrix: symmetric, one row a variable. The joint harm of a policy is the sum of `matrix[i][j]` over all pairs
            i < j that it chooses. Entries between two bit-widths of one layer and side never count, but a solver may
            use them to keep the form convex. The diagonal is zero: harms of single choices are in the score table.
    """

    variables: tuple[tuple[str, Side, int], ...]
    matrix: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        size = len(self.variables)
        if len(self.matrix) != size or any(len(row) != size for row in self.matrix):
            raise PolicyError(f"pairs: the matrix is not {size} x {size}, as its {size} variables ask.")

    def harm(self, layers: dict[str, LayerBits]) -> float:
        """Joint harm of a policy.

        >>> two = (("a", "weight", 2), ("b", "weight", 2))
        >>> pairs = Pairs(two, ((0.0, 0.5), (0.5, 0.0)))
        >>> pairs.harm({"a": LayerBits(2, 8), "b": LayerBits(2, 8)}), pairs.harm({"a": LayerBits(2, 8)})
        (0.5, 0.0)
        """
        chosen = [
            row
            for row, (layer, side, bits) in enumerate(self.variables)
            if layer in layers and getattr(layers[layer], f"{side}_bits") == bits
        ]
        return sum((self.matrix[i][j] for at, i in enumerate(chosen) for j in chosen[at + 1 :]), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How `mixbit.allocation.allocate` combines the harms; the default is their sum over independent choices.

    Attributes:
        coupled: weight and activation of a layer take the same bits, one decision a layer (pinned layers aside).
        order: layers by falling importance: none may get fewer bits than one after it (isotonic). Empty: no such rule.
        box: solve with bits relaxed to real numbers and round down, as OMPQ does; the harms must be linear in the bits.
        pairs: joint harm of two choices.
    """

    coupled: bool = False
    order: tuple[str, ...] = ()
    box: bool = False
    pairs: Pairs | None = None
