"""A monitor sees every epoch, and ends a training once and for all."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import nn

from mixbit.training import TrainConfig, train
from tests.nets import tiny_net, tiny_split

CONFIG = TrainConfig(epochs=3, batch_size=16, lr=0.05, bn_samples=32, augment=False)


def test_a_monitor_ends_a_training_once_and_for_all(tmp_path: Path) -> None:
    """It sees the epochs before, puts its weights in before the last evaluation, and a resumed run stays ended."""

    class End:
        seen: ClassVar[list[tuple[int, int]]] = []

        def after_epoch(self, model: nn.Module, record: dict[str, Any], history: list[dict[str, Any]]) -> bool:
            self.seen.append((record["epoch"], len(history)))
            return record["epoch"] == 2

        def at_end(self, model: nn.Module) -> None:
            self.seen.append((0, 0))
            nn.init.zeros_(model[6].weight)  # type: ignore[index, arg-type]
            nn.init.zeros_(model[6].bias)  # type: ignore[index, arg-type]

    for _ in range(2):
        config = replace(CONFIG, epochs=5, validate_every=0, batch_size=32)
        result = train(tiny_net(), tiny_split(), tiny_split(), config, run=tmp_path, monitor=End(), quiet=True)
        assert End.seen == [(1, 0), (2, 1), (0, 0)] and [one.get("ended") for one in result.history] == [None, True]
        assert result.metrics is not None and result.metrics.loss == pytest.approx(math.log(3), rel=1e-5)
