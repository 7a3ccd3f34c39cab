"""What a sub-network of a supernet is worth, with the supernet's weights and statistics of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics, evaluate, reestimate_batch_norm, statistics_of
from mixbit.supernet.selection import PerLayer, Selection, select
from mixbit.task import Objective

__all__ = ["SubnetJudge"]

_KEPT = 64
"""Sub-networks whose statistics are remembered; those of a network are a few kB."""


class SubnetJudge:
    """Selects a sub-network, makes the statistics of norms and quantizers anew from training batches, and measures it.

    Statistics of a training at many bit-widths are a mean of all of them and fit none, so they are never used. Those of
    a sub-network are remembered by its bits.

    Args:
        model: of `mixbit.supernet.build_supernet`, trained.
        batches: training inputs for the statistics, in batches of the training's own size; see `mixbit.data.Batch`.
        held_out: what is measured on: a split, or batches of inputs and targets; never the test images of a search.
        objective: of the task.
        batch_size: samples at once, while it is measured.
        precision: "float32", or "bf16" autocast, which is faster where the processor has it.

    Raises:
        MixbitError: there are no batches.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        held_out: object,
        objective: Objective,
        *,
        batch_size: int = 256,
        precision: Literal["float32", "bf16"] = "float32",
    ) -> None:
        self.model, self.held_out, self.objective = model, held_out, objective
        self.batch_size, self.precision = batch_size, precision
        self.batches: Sequence[Any] = list(batches)
        if not self.batches:
            raise MixbitError("there are no batches to make the norms' statistics from. Give at least one.")
        self._known: dict[str, dict[str, Tensor]] = {}

    def __call__(self, selection: Selection | Mapping[str, LayerBits], on: object | None = None) -> Metrics:
        """Loss and metrics of a sub-network, which stays selected.

        Args:
            selection: a selection of one bit-width a layer, or a policy's layers.
            on: another split than the held-out one, to report on once.
        """
        self.recalibrate(selection)
        split = self.held_out if on is None else on
        with self._autocast():
            return evaluate(self.model, split, batch_size=self.batch_size, loss=self.objective, channels_last=True)

    def recalibrate(self, selection: Selection | Mapping[str, LayerBits]) -> None:
        """Select a sub-network and give its norms and quantizers statistics of their own."""
        select(self.model, PerLayer(selection) if isinstance(selection, Mapping) else selection)
        key = self._bits()
        if key in self._known:
            self._put(self._known[key])
            return
        with self._autocast():
            reestimate_batch_norm(self.model, (self._moved(x) for x in self.batches))
        if len(self._known) >= _KEPT:
            self._known.pop(next(iter(self._known)))
        self._known[key] = {name: tensor.clone() for name, tensor in statistics_of(self.model).items()}

    def forget(self) -> None:
        """After the weights have changed: statistics that are remembered are not theirs."""
        self._known.clear()

    def _moved(self, x: Any) -> Any:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        return _batch.move(x, device, channels_last=True)  # as training has them: convolutions are faster so

    def _bits(self) -> str:
        from mixbit.quantization import quantizers

        return " ".join(str(bank.selected) for bank in quantizers(self.model).values())

    @torch.no_grad()
    def _put(self, known: Mapping[str, Tensor]) -> None:
        for name, tensor in statistics_of(self.model).items():
            tensor.copy_(known[name])

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        device = next((p.device.type for p in self.model.parameters()), "cpu")
        return torch.autocast(device, torch.bfloat16)
