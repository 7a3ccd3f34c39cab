"""When a training with KURE has done enough, and which of its epochs to keep (our completion)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mixbit import _distributed
from mixbit.data import Split, hold_out
from mixbit.evaluation import Metrics, evaluate
from mixbit.metric import MetricInfo
from mixbit.models import read_weights, write_weights
from mixbit.policy import Policy
from mixbit.task import Objective, Task, objective_of
from mixbit.training.kure import KurtosisConfig, KurtosisPenalty

__all__ = ["KurtosisMonitor", "monitored", "regularised"]

BEST = "best.safetensors"


class KurtosisMonitor:
    """Writes the kurtosis of every epoch into the metrics; with `stop`, ends the training and keeps the best epoch.

    The paper says in words: until the kurtosis has reached its target and accuracy has not dropped noticeably. The
    rule: mean `|Kurt - target|` below `gap` for `gap_epochs` epochs, and no lower loss on held-out training images for
    `patience` epochs. Kept is the epoch whose kurtosis is nearest to the target among those whose accuracy on the
    held-out images (or whatever the task's metric is) is at most `max_drop` worse than that of the start; if there is
    none, the last one, and `kept` says so.

    Args:
        penalty: the term of the loss.
        held_out: images to judge by; None where nothing is to be stopped.
        start: the task's metric on them before the training.
        folder: for the best weights; None keeps them in memory.
        objective: of the task: its metric is what must not drop. None for accuracy.

    Attributes:
        kept: which epoch was kept and why, after the end.
    """

    def __init__(
        self,
        penalty: KurtosisPenalty,
        held_out: Split | None,
        start: float,
        folder: Path | None,
        objective: Objective | None = None,
    ) -> None:
        self.objective = objective_of() if objective is None else objective
        self.penalty, self.config, self.held_out, self.start = penalty, penalty.config, held_out, start
        self.path = None if folder is None else folder / BEST
        self._best: dict[str, Tensor] = {}
        self._history: list[dict[str, Any]] = []
        self.kept = ""

    def after_epoch(self, model: nn.Module, record: dict[str, Any], history: list[dict[str, Any]]) -> bool:
        """Record, and say whether to stop; see `mixbit.training.Monitor`."""
        self.penalty.check_growth(model)
        record["kurtosis"] = self.penalty.record(model)
        if self.held_out is None:
            return False
        metrics = evaluate(model, self.held_out, loss=self.objective)
        record["held_out"] = metrics.to_json()
        self._history = [*history, record]
        if self._best_epoch() == record["epoch"]:
            self._keep(model)
        return self._reached() and self._settled()

    def at_end(self, model: nn.Module) -> None:
        """Put the best epoch's weights into the model."""
        if self.held_out is None:
            return
        best = self._best_epoch()
        if best is None:
            drop = self.config.max_drop
            info = self.objective.info
            self.kept = f"the last epoch: in every one the {info.name} was more than {_amount(info, drop)} the start"
            return
        _distributed.barrier()
        model.load_state_dict(read_weights(self.path) if self.path is not None else self._best)
        self.kept = f"epoch {best}, nearest to the target"

    def _best_epoch(self) -> int | None:
        gain, drop = self.objective.info.gain, self.config.max_drop
        fit = [one for one in self._history if gain(Metrics.from_json(one["held_out"]).value, self.start) >= -drop]
        return min(fit, key=lambda record: record["kurtosis"]["gap"])["epoch"] if fit else None

    def _reached(self) -> bool:
        last = self._history[-self.config.gap_epochs :]
        return len(last) == self.config.gap_epochs and all(r["kurtosis"]["gap"] < self.config.gap for r in last)

    def _settled(self) -> bool:
        losses = [record["held_out"]["loss"] for record in self._history]
        patience = self.config.patience
        return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    def _keep(self, model: nn.Module) -> None:
        state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        if self.path is None:
            self._best = state
        elif _distributed.rank() == 0:
            write_weights(self.path, state)


def regularised(task: Task, config: KurtosisConfig | None, policy: Policy | None = None) -> Task:
    """The task with KURE's term in its loss; the task itself where there is no `config`.

    Args:
        task: of which the weights are.
        config: of the term.
        policy: bits of every layer, for a target by bits.
    """
    return task if config is None else replace(task, penalty=KurtosisPenalty(task, config, policy))


def monitored(
    task: Task, config: KurtosisConfig | None, folder: Path, seed: int
) -> tuple[Task, KurtosisMonitor | None]:
    """The task with what the stopping rule leaves to train on, and the monitor of its kurtosis.

    Args:
        task: of `regularised`.
        config: says whether there is a rule, and how much of the training set it holds out.
        folder: for the best weights.
        seed: of the draw of what is held out.
    """
    if config is None or not isinstance(task.penalty, KurtosisPenalty):
        return task, None
    if not config.stop:
        return task, KurtosisMonitor(task.penalty, None, 0.0, folder)
    train, held_out = hold_out(task.train, config.held_out, seed=seed)
    start = evaluate(task.model, held_out, loss=task.objective).value
    return replace(task, train=train), KurtosisMonitor(task.penalty, held_out, start, folder, task.objective)


def _amount(info: MetricInfo, drop: float) -> str:
    """A drop of the metric, and which way it goes."""
    way = "below" if info.larger_is_better else "above"
    return f"{drop:.1%} {way}" if info.unit == "%" else f"{drop:g} {way}"
