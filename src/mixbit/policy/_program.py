"""What a method asks of the allocation beyond a sum of independent harms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mixbit._bits import check_bits
from mixbit.cost import LayerBits
from mixbit.errors import PolicyError

__all__ = ["Pairs", "Program", "Side"]

Side = Literal["weight", "activation"]

# Largest difference of two entries that mirror each other, relative to the largest entry.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Pairs:
    """Harm that two choices do together, beyond the sum of what each does alone (CLADO's off-diagonal terms).

    Attributes:
        variables: (layer, side, bits) of each row and column; each variable is 1 where that choice is made, else 0.
        matrix: symmetric, one row a variable. The joint harm of a policy is the sum of `matrix[i][j]` over all pairs
            i < j that it chooses. Entries between two bit-widths of one layer and side never count, but a solver may
            use them to keep the form convex. The diagonal is zero: harms of single choices are in the score table.

    Raises:
        PolicyError: a variable is malformed or there twice; or the matrix is not square, not finite, not symmetric to
            within rounding, or has a diagonal.
    """

    variables: tuple[tuple[str, Side, int], ...]
    matrix: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        size = len(self.variables)
        if len(self.matrix) != size or any(len(row) != size for row in self.matrix):
            raise PolicyError(f"pairs: the matrix is not {size} x {size}, as its {size} variables ask.")
        for variable in self.variables:
            _check_variable(variable)
        if len(set(self.variables)) != size:
            twice = next(one for one in self.variables if self.variables.count(one) > 1)
            raise PolicyError(f"pairs: the variable {twice} occurs more than once. Keep one.")
        _check_matrix(np.array(self.matrix, dtype=np.float64).reshape(size, size), self.variables)

    def harm(self, layers: Mapping[str, LayerBits]) -> float:
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
        activation_order: the same for inputs alone, and `order` is then of weights alone; None: one order for both.
        box: solve with bits relaxed to real numbers, as OMPQ does, and round down, which keeps the budget and is ours
            (its code rounds to the nearest, which may exceed the budget, and for ResNet-18 searches floors and
            ceilings); the harms must be linear in the bits.
        pairs: joint harm of two choices. Goes with `coupled` alone.

    Raises:
        PolicyError: a layer is in the order twice, or the parts do not go together.
    """

    coupled: bool = False
    order: tuple[str, ...] = ()
    activation_order: tuple[str, ...] | None = None
    box: bool = False
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        for key, names in (("order", self.order), ("activation_order", self.activation_order or ())):
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise PolicyError(f"{key}: the layer {twice!r} occurs more than once. Keep one.")
        if self.pairs and (self.ordered or self.box):
            rule = "order" if self.ordered else "box"
            raise PolicyError(f"A program has both pairs and {rule}; no solver takes both. Legal: pairs with coupled.")

    @property
    def ordered(self) -> bool:
        """Whether there is an order of any side."""
        return bool(self.order or self.activation_order)

    @property
    def orders(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The orders of weight bits, and of activation bits.

        >>> Program(order=("a", "b")).orders, Program(order=("a", "b"), activation_order=()).orders
        ((('a', 'b'), ('a', 'b')), (('a', 'b'), ()))
        """
        return self.order, self.order if self.activation_order is None else self.activation_order


def _check_variable(variable: tuple[str, Side, int]) -> None:
    layer, side, bits = variable
    if side not in get_args(Side):
        raise PolicyError(f"pairs: {layer!r} has the side {side!r}. Legal: {', '.join(get_args(Side))}.")
    check_bits(bits, side, error=PolicyError, name=f"pairs: {side}_bits of {layer!r},")


def _check_matrix(matrix: npt.NDArray[np.float64], variables: Sequence[tuple[str, Side, int]]) -> None:
    if not np.isfinite(matrix).all():
        at = variables[int((~np.isfinite(matrix)).any(axis=1).argmax())]
        raise PolicyError(f"pairs: the row of {at} holds a number that is not finite.")
    if matrix.diagonal().any():
        at = variables[int(matrix.diagonal().astype(bool).argmax())]
        raise PolicyError(
            f"pairs: the diagonal at {at} is not zero. The harm of a single choice belongs into the score table."
        )
    apart = np.abs(matrix - matrix.T)
    if apart.max(initial=0.0) > _ROUNDING * np.abs(matrix).max(initial=0.0):
        one, other = divmod(int(apart.argmax()), len(variables))
        raise PolicyError(
            f"pairs: the matrix is not symmetric: {variables[one]} with {variables[other]} is {matrix[one, other]:g}, "
            f"and the other way round {matrix[other, one]:g}. Use the mean of the two."
        )
