"""Who looks at a training between its epochs."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

__all__ = ["Monitor"]


class Monitor(Protocol):
    """Looks at the model between epochs, and may end a training early.

    Everything that it decides must follow from the model and the history, which a resumed run has; so the same run,
    killed or not, ends at the same epoch.
    """

    def after_epoch(self, model: nn.Module, record: dict[str, Any], history: list[dict[str, Any]]) -> bool:
        """Add facts to the epoch's `record`, which `history` does not hold yet; True ends the training."""
        ...

    def at_end(self, model: nn.Module) -> None:
        """Before the last evaluation: the model may be given other weights, such as the best ones seen."""
        ...
