"""A step with an agent and a multiplier, small enough to be written out by hand: tested in one process and in two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.training import ParameterGroup, StatefulStep, StepContext

LIMIT, RATE = 0.8, 0.5


class Agent(nn.Module):
    """The share of each sample's loss that counts, from its mean pixel; a buffer counts the calls."""

    calls: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(1, 1)
        self.register_buffer("calls", torch.tensor(seed))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.sigmoid(self.layer(x.flatten(1).mean(1, keepdim=True))).squeeze(1)


class ToyStep(StatefulStep):
    """Samples whose loss the agent scales down; the mean share is to be LIMIT at least, by dual ascent:

    min over model and agent, max over multiplier m >= 0, of mean(share * loss) + m * (LIMIT - mean(share)).
    """

    def __init__(self, seed: int = 0, *, kept: bool = True, shared: bool = True, **settings: Any) -> None:
        self.agent, self.multiplier = Agent(seed), torch.tensor(float(seed))
        self.trace: list[float] = [0.1 * seed]
        self.epochs: list[list[int]] = []
        self.kept, self.shared = kept, shared
        self.settings = {"lr": 0.05, **settings}

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        return [ParameterGroup(name="agent", parameters=self.agent, **self.settings)]

    def state_dict(self) -> dict[str, Any]:
        return {"multiplier": self.multiplier, "trace": self.trace, "epochs": self.epochs} if self.kept else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.kept:
            self.multiplier, self.trace, self.epochs = state["multiplier"], state["trace"], state["epochs"]

    def __call__(self, context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        share = self.agent(x)
        losses = F.cross_entropy(context.forward(x), y, reduction="none")
        loss = (share * losses).mean() + self.multiplier * (LIMIT - share.mean())
        loss.backward()  # type: ignore[no-untyped-call]
        mean = context.mean(share.mean()) if self.shared else share.mean().detach()
        self.multiplier = (self.multiplier + RATE * (LIMIT - mean)).clamp_min(0)
        self.trace = [self.trace[0], *self.trace[1:][-3:], float(mean)]
        return loss.detach()

    def begin_epoch(self, context: StepContext) -> None:
        self.epochs.append([context.epoch, context.number])

    def end_epoch(self, context: StepContext, record: dict[str, Any]) -> None:
        self.epochs[-1].append(context.number)
        record["share"] = self.trace[-1]


def held(step: ToyStep) -> dict[str, Any]:
    """All that the step has, as plain values."""
    return {name: one.tolist() for name, one in step.agent.state_dict().items()} | {
        "multiplier": float(step.multiplier), "trace": step.trace, "epochs": step.epochs,
    }  # fmt: skip
