"""Work that no module hook can see: whoever passes images through a network in another way says so here.

A search is metered from outside, by hooks on the modules of the model's layers (`mixbit.runs`). Code that interprets an
exported graph calls no module, so it counts its own passes. Where nobody listens, counting does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Passes reported so far, in images through the whole network; parts of the network count as parts."""

    forward_images: float = 0.0
    backward_images: float = 0.0


_LISTENER: ContextVar[Counts | None] = ContextVar("mixbit_effort", default=None)


def count_forward(images: float) -> None:
    """Report a forward pass of `images` images; one through a third of the network's MACs is a third of an image."""
    counts = _LISTENER.get()
    if counts is not None:
        counts.forward_images += images


def count_backward(images: float) -> None:
    """Report a backward pass, counted as `count_forward` does."""
    counts = _LISTENER.get()
    if counts is not None:
        counts.backward_images += images


@contextmanager
def listen() -> Iterator[Counts]:
    """Collect what is reported within the block; an inner listener takes the reports of its block for itself.

    >>> with listen() as counts:
    ...     count_forward(64)
    ...     count_forward(64 / 4)       # the last quarter of the network again, from a cached prefix
    >>> counts.forward_images
    80.0
    """
    counts = Counts()
    token = _LISTENER.set(counts)
    try:
        yield counts
    finally:
        _LISTENER.reset(token)
