"""Run by test_limpq.py in processes of its own: searches on a small network and writes the policy of each process."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from mixbit import _distributed
from mixbit.allocation import allocate
from mixbit.cost import Budget
from mixbit.methods import Limpq
from tests.tasks import tiny_task


def main() -> None:
    torch.set_num_threads(1)
    _distributed.start()
    task = tiny_task()
    scores = Limpq(epochs=2, batch_size=32, fraction=1.0).search(task, run=Path(sys.argv[1]), quiet=True)
    policy, _ = allocate(task.network, scores, Budget.parse(["bitops=3x3"]))
    scores.save(Path(sys.argv[1]) / f"scores-{_distributed.rank()}.json")
    policy.save(Path(sys.argv[1]) / f"policy-{_distributed.rank()}.json")


if __name__ == "__main__":
    main()
