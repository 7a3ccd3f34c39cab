"""Run in two processes (the fixture `two_processes`), which start apart, disagree on time, and lose each other.

What each function gives is compared, between the two and with what one process or a formula gives, by the tests of the
modules that it is of: test__distributed, test_training, test_evaluation, methods/test_limpq,
supernet/test_training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from mixbit import _distributed
from mixbit.errors import MixbitError, ProcessLost
from mixbit.evaluation import evaluate, reestimate_batch_norm
from mixbit.ledger import Ledger
from mixbit.methods import Limpq
from mixbit.policy import Scores
from mixbit.quantizers import BatchQuant
from mixbit.supernet import SupernetTraining, Uniform, train_supernet
from mixbit.task import Task
from mixbit.training import StepContext, TrainConfig, supervised_step, train
from tests.nets import colours, numbered, quantized_net, small_net, tiny_split
from tests.tasks import tiny_task
from tests.toy_step import ToyStep, held

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


def weighed() -> list[float]:
    """A loss that says of itself neither what it ignores nor how much it is a mean of: two samples and three."""
    model = Net(0)
    train(model, tiny_split(), None, CONFIG, loss=own_loss, quiet=True)
    return numbers(model)


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over samples."""
    return nn.functional.cross_entropy(outputs, targets)


# 8 samples: 4 and 4, which batch norm sees apart.
NORMED = TrainConfig(epochs=2, batch_size=8, lr=0.05, bn_samples=0, ema=0.6, final_lr=0.1)
QUANTIZED = TrainConfig(epochs=1, batch_size=16, lr=0.003, bn_samples=0, weight_decay=0.0, augment=False)


def state(model: nn.Module) -> dict[str, Any]:
    """Parameters and running statistics."""
    return {name: tensor.tolist() for name, tensor in model.state_dict().items() if "tracked" not in name}


def normed() -> dict[str, Any]:
    """With a batch norm and an average of the weights."""
    model = small_net()
    train(model, colours(), None, NORMED, quiet=True)
    return state(model)


def quantized() -> dict[str, Any]:
    """Step sizes as well."""
    model = quantized_net()
    train(model, tiny_split(), None, QUANTIZED, quiet=True)
    return state(model)


def toy(shared: bool = True) -> dict[str, Any]:
    """A step with an agent, which each rank draws, and a multiplier, which is the rank's number at first."""
    model, step = Net(_distributed.rank()), ToyStep(_distributed.rank(), shared=shared, average=True)
    train(model, tiny_split(), None, TrainConfig(**{**_fields(CONFIG), "ema": 0.6}), step=step, quiet=True)
    return held(step) | {"model": numbers(model)}


def images_read() -> list[list[int]]:
    """The numbers of the images that this rank's steps got."""
    found: list[list[int]] = []

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        found.append(x[:, 0, 0, 0].round().int().tolist())
        return supervised_step(context, x, y)

    train(small_net(), numbered(), None, CONFIG, step=step, quiet=True)
    return found


def exchanged() -> dict[str, Any]:
    """Each kind of exchange, on numbers that tell the ranks apart."""
    rank = _distributed.rank()
    numbers, wide, whole = (
        torch.tensor([1.0, 5.0]) * (rank + 1),
        torch.tensor([rank], dtype=torch.float64),
        torch.tensor(rank),
    )
    _distributed.mean_([numbers, whole, wide])
    summed = [torch.tensor([[rank + 1, 10 * rank]]), torch.tensor(0.5 + rank)]
    _distributed.sum_(summed)
    both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad, one.grad = torch.full((2,), 1.0 + rank), torch.full((2,), 6.0) if rank else None
    riders = torch.tensor([4.0 * rank, 1.0])
    _distributed.mean_gradients_([none, both, one], riders)
    assert none.grad is None and both.grad is not None and one.grad is not None
    taken = [torch.full((2,), 7.0 + rank), torch.tensor([not rank, bool(rank)]), torch.tensor(3 - rank)]
    _distributed.take_from_first_(taken, "numbers")
    return {
        "mean": [numbers.tolist(), wide.tolist(), whole.item() == rank],
        "sum": [one.tolist() for one in summed],
        "gradients": [both.grad.tolist(), one.grad.tolist(), riders.tolist()],
        "taken": [one.tolist() for one in taken],
        "unlike": _distributed.unlike([torch.ones(2), torch.zeros(2 + rank), torch.tensor(rank), torch.tensor(True)]),
        "first decides": [_distributed.first_decides(not rank), _distributed.first_decides(bool(rank))],
        "all say": [_distributed.all_say(True), _distributed.all_say(bool(rank)), _distributed.all_say(not rank)],
        "unlike shapes": _refusal(lambda: _distributed.take_from_first_([torch.zeros(2 + rank)], "weights")),
        "unlike numbers": _refusal(lambda: _distributed.check_equal([torch.zeros(3 + rank)], "numbers")),
        "permuted": _refusal(lambda: _distributed.check_equal([torch.tensor([1.0, 2.0]).roll(rank)], "numbers")),
        "alike": _refusal(lambda: _distributed.check_equal([torch.arange(2)], "numbers")),
    }


def _refusal(act: Callable[[], object]) -> str:
    try:
        act()
    except MixbitError as error:
        return str(error)
    return ""


def evaluated() -> dict[str, Any]:
    """In batches of 7 of 96, which neither two nor the samples divide."""
    return evaluate(Net(0), tiny_split(), batch_size=7).to_json()


def unnormed_task() -> Task:
    """Without batch norm, which would see a part of the batch."""
    task = tiny_task()
    model: Any = task.model
    model.bn0 = model.bn1 = model.bn2 = nn.Identity()
    return Task(model=model, train=task.train, test=task.test)


def searched(run: Path | None) -> Scores:
    """Indicators of a joint training."""
    return Limpq(bits=(4, 2), epochs=1, batch_size=16, fraction=1.0, lr=0.1).search(
        unnormed_task(), run=run, quiet=True
    )


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


def ranges() -> list[float]:
    """The frozen range of a quantizer, of which each rank sees batches of its own, more on one than on the other."""
    rank, bank = _distributed.rank(), BatchQuant([4], signed=True, batched=True)
    batch = (1.0 + rank) * torch.tensor([[-1.0], [1.0]]).repeat(2 + 4 * rank, 1)
    with torch.no_grad():
        reestimate_batch_norm(bank, [batch])
    return [bank.lows.item(), bank.highs.item()]


def supernet(folder: Path) -> dict[str, Any]:
    """A supernet of BatchQuant in one folder, the norms and ranges of which see the parts of batches."""
    settings = SupernetTraining(bits=(8, 2), passes=3, epochs=1, batch_size=16, activations="batchquant",
                                calibration_images=16, statistics_images=32, held_out=0.25)  # fmt: skip
    found = train_supernet(tiny_task(), settings, run=folder, quiet=True)
    return {"losses": [found.judge(Uniform(bits)).loss for bits in (2, 8)], "weights": numbers(found.model)}


def kept(folder: Path) -> dict[str, Any]:
    """A ledger that only rank 0's disk has; each rank puts in what it measured."""
    path = folder / str(_distributed.rank()) / "kept.jsonl"
    ledger = Ledger(path, "pieces", {"images": 8})
    before = dict(ledger)
    ledger.put("a", [_distributed.rank(), 0.1])
    return {
        "before": before,
        "after": dict(Ledger(path, "pieces", {"images": 8})),
        "refused": _refusal(lambda: Ledger(path, "pieces", {"images": 9})),
    }


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
        "weighed": weighed(),
        "refused": refused(),
        "normed": normed(),
        "quantized": quantized(),
        "images read": images_read(),
        "toy": toy(),
        "drifting": _refusal(lambda: toy(shared=False)),
        "exchanged": exchanged(),
        "evaluated": evaluated(),
        "kept": kept(folder),
        "supernet": supernet(folder / "supernet"),
        "ranges": ranges(),
    }
    searched(folder / "search").save(folder / f"scores-{rank}.json")
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    found["stopped"] = stopped()
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # nobody answers a goodbye


if __name__ == "__main__":
    main()
