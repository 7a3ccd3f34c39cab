"""Weight entropy (EAGL; Bablani et al., arXiv 2301.13330): a layer whose weights use their levels evenly needs them.

The paper's part: quantize every layer's weights at the higher of two precisions (4 and 2 bits), take the entropy of the
histogram over the levels as the gain of keeping that layer at the higher precision, and fill the budget by a knapsack.

Ours: a harm for every bit-width (the entropy lost against the most bits), histograms of activations as an option, and
steps that minimise the squared error of the float weights, so that no network has to be trained with quantizers first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit._settings import Bits, Count, Seed, check
from mixbit.errors import MixbitError
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.policy import LayerScores, Program, Scores
from mixbit.quantizers import Quantizer, RuleName
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task

__all__ = ["WeightEntropy", "level_entropy"]


@register(
    "weight-entropy",
    "entropy of the quantized weights: what fewer levels would lose",
    source="EAGL: Bablani et al., arXiv 2301.13330",
    cost="weights",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class WeightEntropy:
    """Entropy `H_l(b)` of the histogram of a layer's weights over the `2^b` levels of their quantizer, in bits.

    Harm at b bits: `H_l(b_max) - H_l(b)`, the entropy lost against the most bits (our completion). With `faithful`
    there are two bit-widths, and the harm of the lower one is `H_l` at the higher, the paper's gain of keeping it.

    Attributes:
        bits: candidate bit-widths; exactly two with `faithful` (the paper: 4 and 2).
        faithful: the paper's gain instead of the entropy lost.
        activations: our option: the same for each layer's input on one batch, and bits of weights and inputs chosen
            apart. Without it the two take the same bits, one decision a layer.
        rule: how steps are chosen; see `mixbit.quantizers.RULES`.
        batch_size: inputs of that one batch.
        first_last: also score the first and the last layer.
        seed: of that batch.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    faithful: bool = False
    activations: bool = False
    rule: RuleName = "mse"
    batch_size: Count = 128
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        if self.faithful and (len(self.bits) != 2 or self.activations):
            raise MixbitError(
                f"faithful=True with bits={list(self.bits)}, activations={self.activations}: the paper chooses between "
                "two bit-widths by weights alone. Give bits=4,2 and leave activations off, or set faithful=False."
            )

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Histogram the weights and, if asked, one batch of inputs."""
        rising = ladder(self.bits)
        x: Any = torch.empty(0)
        if self.activations:
            x = task.calibration(self.batch_size, self.seed)
        probe = Perturbation(
            task,
            rising,
            rising if self.activations else (),
            x,
            first_last=self.first_last,
            per_channel=False,
            weight_rule=self.rule,
            activation_rule=self.rule,
        )
        weights = {la.name: _entropies(probe.weight_bank(la.name), probe.weight(la.name)) for la in probe.layers}
        inputs = _input_entropies(probe, x) if self.activations else {}
        nothing = dict.fromkeys(rising, 0.0)
        return make_scores(
            task.network,
            self,
            method="weight-entropy",
            layers={
                name: LayerScores(self._harm(found), self._harm(inputs[name]) if inputs else dict(nothing))
                for name, found in weights.items()
            },
            program=Program(coupled=not self.activations),
            found={"entropy_bits": {name: {str(b): h for b, h in found.items()} for name, found in weights.items()}},
        )

    def _harm(self, entropy: dict[int, float]) -> dict[int, float]:
        low, high = min(entropy), max(entropy)
        if self.faithful:
            return {low: entropy[high], high: 0.0}
        return {bits: entropy[high] - found for bits, found in entropy.items()}


def level_entropy(values: Tensor) -> float:
    """Entropy in bits of the histogram of quantized values: `-sum_v p_v log2(p_v)` over the values that occur.

    >>> level_entropy(torch.tensor([0.0, 0.5, 0.5, -1.0]))        # 1/4, 1/2, 1/4
    1.5
    """
    _, counts = torch.unique(values, return_counts=True)
    p = counts.double() / counts.sum()
    return float(-(p * p.log2()).sum()) + 0.0  # no negative zero


@torch.no_grad()
def _entropies(bank: Quantizer, values: Tensor) -> dict[int, float]:
    """Entropy of `values` at every bit-width of a bank; the bank is left as it was, switched off."""
    found = {}
    for bits in bank.bits:
        bank.select(bits)
        bank.bypass = False
        found[bits] = level_entropy(bank.forward(values))
        bank.bypass = True
    return found


@torch.no_grad()
def _input_entropies(probe: Perturbation, x: Any) -> dict[str, dict[int, float]]:
    """Entropy of every searched layer's input in the float model."""
    found: dict[str, dict[int, float]] = {}

    def see(name: str, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        assert isinstance(module, Quantizer)
        found[name] = _entropies(module, inputs[0])

    handles = [probe.input_bank(la.name).register_forward_pre_hook(partial(see, la.name)) for la in probe.layers]
    try:
        _batch.call(probe.model, x)
    finally:
        for handle in handles:
            handle.remove()
    return found
