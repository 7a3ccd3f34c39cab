"""How a network is written as C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from mixbit._settings import Range, check
from mixbit.errors import ExportError

__all__ = ["KERNELS", "COptions", "Kernels"]

Kernels: TypeAlias = Literal["plain", "dsp"]
KERNELS: tuple[Kernels, ...] = ("plain", "dsp")


@dataclass(frozen=True, slots=True, kw_only=True)
class COptions:
    """How a network is written as C.

    >>> COptions(row_alignment=3)
    Traceback (most recent call last):
        ...
    mixbit.errors.ExportError: row_alignment=3 is illegal. Legal: 1 or 4.
    """

    kernels: Kernels = "plain"
    """`plain` is C99 for any core. `dsp` adds kernels with two products an instruction, which are used where the core
    has them (Cortex-M4, M7, M33, M55) and give the same integers; they need more scratch memory."""
    row_alignment: Literal[1, 4] = 1
    """Bytes to which a row of packed weights (one output channel) is rounded up; 4 for kernels that read words."""
    pack_activations: bool = False
    """Keep tensors of up to 4 and of up to 2 bits in 4 and 2 bits: less RAM, more instructions."""
    fold_requantize: bool = True
    """Let a layer read a tensor through a table of up to 256 bytes where that saves a requantized copy in RAM."""
    cmsis_nn: str | None = None
    """Checkout of CMSIS-NN: layers of 8 bits call it where it gives the same integers. It is not copied."""
    vectors: Annotated[int, Range(least=1, most=10_000)] = 2
    """Recorded inputs of the self-test."""

    def __post_init__(self) -> None:
        check(self, error=ExportError)
