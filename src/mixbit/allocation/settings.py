"""What an allocation is asked for beside its budget: one class, which the library takes and the command line fills."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mixbit._settings import NotNegative, check
from mixbit.allocation.repair import RepairHow
from mixbit.allocation.solver import SolverName
from mixbit.errors import BudgetError
from mixbit.policy import Terms

__all__ = ["AllocationSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationSettings(Terms):
    """Pins, ties and tables, as `mixbit.policy.Terms` say them, and how the choice is made.

    Attributes:
        alpha: weight of the weight terms; None takes that of the scores.
        repair: what happens to options that look better than one with more bits, for each layer's weights and
            activations by itself: "forbid" takes them away (as LIMPQ), "isotonic" smooths the curve, "none" keeps them.
            Coupled, it looks at the sum of both; a program with pairs skips it, since a single harm is not the whole.
        solver: see `mixbit.allocation.solve`; a program with an order, a box or pairs has its own.
        exact: prove the optimum of a program with pairs (small networks), where a local search is the default.
        or_uniform: where the repair took away so many bits that nothing is left within the budget, take the best
            uniform network that is within it by the scores as they are, with a note, as `mixbit allocate` does.

    Raises:
        BudgetError: a value that is not legal.

    >>> AllocationSettings(repair="forbit")
    Traceback (most recent call last):
        ...
    mixbit.errors.BudgetError: allocate: repair='forbit' is illegal. Did you mean 'forbid'? Legal: 'forbid', ...
    """

    alpha: NotNegative | None = None
    repair: RepairHow = "forbid"
    solver: SolverName = "auto"
    exact: bool = False
    or_uniform: bool = False

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check(self, room="allocate", error=BudgetError)

    @classmethod
    def under(cls, terms: Terms, **chosen: Any) -> AllocationSettings:
        """Settings with pins, ties and tables of `terms`; all else by name, or as it is by default.

        >>> AllocationSettings.under(Terms(ties=False), exact=True).ties
        False
        """
        return cls(**{one.name: getattr(terms, one.name) for one in fields(Terms)}, **chosen)
