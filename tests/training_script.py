"""Run by test_training.py in processes of its own: trains the tiny network and prints a digest of the result."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from mixbit import _distributed
from mixbit.training import StepContext, TrainConfig, supervised_step, train
from tests.test_training import quantized_net, tiny_split


def main() -> None:
    torch.set_num_threads(1)
    folder, slow, numbers = Path(sys.argv[1]), "--slow" in sys.argv, list[int]()
    _distributed.start()
    model = quantized_net()

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        numbers.append(context.number)
        time.sleep(0.2 if slow else 0)
        return supervised_step(context, x, y)

    config = TrainConfig(epochs=3, batch_size=16, checkpoint_seconds=0.0)
    train(model, tiny_split(), tiny_split(), config, run=folder, step=step, quiet=True)
    content = b"".join(t.contiguous().numpy().tobytes() for t in model.state_dict().values())
    facts = {"digest": hashlib.sha256(content).hexdigest(), "resumed_at": numbers[0]}
    (folder / f"digest-{_distributed.rank()}.json").write_text(json.dumps(facts))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
