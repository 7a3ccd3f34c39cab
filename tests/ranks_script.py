"""Run by test__distributed.py in two processes, which start apart, disagree on time, and lose each other."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from mixbit import _distributed
from mixbit.errors import MixbitError, ProcessLost
from mixbit.evaluation import evaluate
from mixbit.training import StepContext, TrainConfig, supervised_step, train
from tests.test_training import tiny_split

# 5 samples for two processes: 2 and 3. 96 samples: 19 steps.
CONFIG = TrainConfig(epochs=1, batch_size=5, lr=0.05, bn_samples=0, augment=False, checkpoint_seconds=1e6)


class Net(nn.Module):
    """Three layers, of which the middle one can be left out."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.middle, self.last = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.left_out = False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        return self.last(x if self.left_out else x + self.middle(x))


def numbers(model: nn.Module) -> list[float]:
    """All parameters, one after the other."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def apart(folder: Path | None) -> list[float]:
    """Each rank draws its own weights, and rank 1's clock says at every step that a checkpoint is due."""
    rank, model = _distributed.rank(), Net(_distributed.rank())
    config = TrainConfig(**{**_fields(CONFIG), "checkpoint_seconds": 0.0 if rank else 1e6})
    train(model, tiny_split(), tiny_split(), config, run=folder, quiet=True)
    return numbers(model)


def left_out() -> list[float]:
    """Rank 1 leaves a layer out of every second step, so that it has no gradient there."""
    model = Net(0)

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        model.left_out = bool(_distributed.rank()) and bool(context.number % 2)
        return supervised_step(context, x, y)

    train(model, tiny_split(), None, CONFIG, step=step, quiet=True)
    return numbers(model)


def ignored() -> list[float]:
    """A third of the targets does not count; some parts of a batch have none that does."""
    model = Net(0)
    train(model, tiny_split(), None, CONFIG, loss=nn.CrossEntropyLoss(ignore_index=2), quiet=True)
    return numbers(model)


def refused() -> str:
    """An evaluation of different networks."""
    try:
        evaluate(Net(_distributed.rank()), tiny_split())
    except MixbitError as error:
        return str(error)
    return ""


def stopped() -> str:
    """Rank 1 stops in the middle of a training; how rank 0 ends."""
    _distributed.barrier()
    os.environ[_distributed.TIMEOUT] = "3"
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=3))

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        if context.number == 2 and _distributed.rank():
            os.kill(os.getpid(), signal.SIGSTOP)
        return supervised_step(context, x, y)

    try:
        train(Net(0), tiny_split(), None, CONFIG, step=step, quiet=True)
    except ProcessLost as error:
        return str(error)
    return ""


def _fields(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    _distributed.start()
    rank = _distributed.rank()
    found: dict[str, Any] = {
        "apart": apart(folder / "run"),
        "left out": left_out(),
        "ignored": ignored(),
        "refused": refused(),
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    found["stopped"] = stopped()
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # nobody answers a goodbye


if __name__ == "__main__":
    main()
