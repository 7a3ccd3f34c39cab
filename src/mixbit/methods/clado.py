"""CLADO: what two quantized layers do to the loss together (Deng et al., DAC 2025, arXiv 2307.05657).

Every single choice and every pair of choices in different layers is measured by forward passes on a small set. The
rises of the loss make a quadratic form over one 0/1 variable a choice, and the policy minimises it under the budget.

Ours: passes start at the first layer that changes, from kept states; with more than one activation bit-width the inputs
get variables as well; the base of the measurement is an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mixbit._settings import Amount, Bits, Count, Seed, check
from mixbit.cost import LayerBits
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.policy import LayerScores, Pairs, Program, Scores
from mixbit.quantizers import RuleName
from mixbit.sensitivity.measuring import (
    Chunk,
    Measure,
    Measuring,
    Row,
    RowSums,
    Variable,
    calibration_images,
    contents,
    first_images,
    not_scored,
)
from mixbit.sensitivity.perturbation import Perturbation, searched_layers
from mixbit.sensitivity.suffix import State
from mixbit.task import Task

__all__ = ["Clado", "project_psd", "sensitivity_matrix"]

Matrix = npt.NDArray[np.float64]


@register(
    "clado",
    "loss rises of single choices and of pairs, as a quadratic form",
    source="Deng et al., DAC 2025, arXiv 2307.05657",
    cost="forward",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Clado:
    """CLADO's sensitivity matrix and the program that minimises it.

    With `L0` the loss in the base state and variables `(layer, side, bits)`: `d_u = L(u) - L0` for one choice and
    `d_uv = L(u and v) - L0` for two. The matrix `G` has the diagonal `2 d_u` and off the diagonal `d_uv - d_u - d_v`,
    with zeros between two bit-widths of one layer and side, which are never chosen together. The predicted rise of a
    policy x is `1/2 x'Gx = sum_u (G_uu / 2) x_u + sum_{u<v} G_uv x_u x_v`; the paper's objective `x'Gx` is twice that.
    The scores carry the first sum as curves and the second as `Program.pairs`.

    Two choices that cost 0.1 and 0.2 alone and 0.5 together have `G = [[0.2, 0.2], [0.2, 0.4]]`, so that both at once
    are predicted at `0.1 + 0.2 + 0.2 = 0.5`, as measured.

    Attributes:
        bits: candidate bit-widths of weights (paper: 8, 4, 2).
        activation_bits: one bit-width: inputs are fixed at it (paper: 8). Several: inputs have variables too, our
            completion; the authors warn that their solvers may then not end, and that with 2-bit activations the
            quadratic form no longer finds 8 bits to be the best choice without a budget.
        fix_activations: with one activation bit-width, quantize the inputs in every pass, that of `L0` too. False
            leaves them in float while weights are measured.
        base: the rest of the network in a measurement: "float", or "quantized": every side that has variables at its
            most bits (our option).
        images: training images, the first of a shuffled pass without augmentation.
        measure: "loss", or "kl": the divergence of the class probabilities from the float network's.
        project: project G onto the positive semi-definite matrices, as the paper does; it makes the form convex.
        diagonal: measure no pairs: the additive ablation. The rises are taken as they are, without projection.
        batch_size: images that go through the network together.
        cache_mib: limit of the kept states; fewer images go together where they would take more.
        per_channel: one weight step an output channel.
        rule: how steps are chosen.
        step_images: the first so many of the images set the steps of inputs.
        first_last: also search the first and the last layer.
        seed: of the choice of images.
    """

    bits: tuple[Bits, ...] = (8, 4, 2)
    activation_bits: tuple[Bits, ...] = (8,)
    fix_activations: bool = True
    base: Literal["float", "quantized"] = "float"
    images: Count = 1024
    measure: Measure = "loss"
    project: bool = True
    diagonal: bool = False
    batch_size: Count = 128
    cache_mib: Amount = 1024
    per_channel: bool = True
    rule: RuleName = "mse"
    step_images: Count = 32
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Measure single choices and pairs; with a run folder a killed search goes on at the row where it was.

        Raises:
            MixbitError: a setting is not legal, or a loss is not finite.
            StaleRun: the run folder holds a partial measurement of other settings, another model or other images.
        """
        ladder(self.bits)
        ladder(self.activation_bits)
        x, y = calibration_images(task, self.images, self.seed)
        probe = Perturbation(
            task,
            self.bits,
            self.activation_bits,
            first_images(x, self.step_images),
            first_last=self.first_last,
            per_channel=self.per_channel,
            weight_rule=self.rule,
            activation_rule=self.rule,
        )
        names = [layer.name for layer in probe.layers]
        measuring = Measuring(
            task,
            probe,
            x,
            y,
            measure=self.measure,
            base={name: self._base_bits() for name in names},
            batch_size=self.batch_size,
            cache_mib=self.cache_mib,
        )
        variables = self._variables(measuring.suffix.order)
        sums = RowSums(run, "clado", asdict(self) | contents(task.model, [(x, y)]))
        measuring.fill(sums, self._rows(measuring, variables), label="clado", quiet=quiet)
        return self._scores(task, probe, measuring, variables, sums)

    def _base_bits(self) -> LayerBits:
        """Bits of every searched layer in the base state."""
        quantized = self.base == "quantized"
        weight = max(self.bits) if quantized else None
        if len(self.activation_bits) == 1:
            return LayerBits(weight, self.activation_bits[0] if self.fix_activations else None)
        return LayerBits(weight, max(self.activation_bits) if quantized else None)

    def _variables(self, order: Sequence[str]) -> list[Variable]:
        """All choices, in the order in which the network meets their layers."""
        found: list[Variable] = []
        for layer in order:
            found += [(layer, "weight", b) for b in ladder(self.bits)]
            if len(self.activation_bits) > 1:
                found += [(layer, "activation", b) for b in ladder(self.activation_bits)]
        return found

    def _rows(self, measuring: Measuring, variables: Sequence[Variable]) -> dict[str, Row]:
        """One row for the base state, and one a variable: alone, then with each one that comes after it."""

        def row(at: int) -> Row:
            first = variables[at]
            partners = [] if self.diagonal else _partners(variables, at)

            def measure(chunk: Chunk) -> list[float]:
                layers = {layer for layer, _, _ in partners}
                alone, states = measuring.run(chunk.states[first[0]], [first], chunk, keep=layers)
                # A partner in the same layer starts where its own row does, before anything has changed.
                states[first[0]] = chunk.states[first[0]]
                return [alone, *self._together(measuring, states, first, partners, chunk)]

            return measure

        return {"": measuring.base_loss} | {str(at): row(at) for at in range(len(variables))}

    def _together(
        self,
        measuring: Measuring,
        states: dict[str, State],
        first: Variable,
        partners: Sequence[Variable],
        chunk: Chunk,
    ) -> list[float]:
        found = []
        for at, second in enumerate(partners):
            found.append(measuring.run(states[second[0]], [first, second], chunk)[0])
            # Partners come layer by layer, so a state that was used last can go.
            if at + 1 == len(partners) or partners[at + 1][0] != second[0]:
                del states[second[0]]
        return found

    def _scores(
        self,
        task: Task,
        probe: Perturbation,
        measuring: Measuring,
        variables: Sequence[Variable],
        sums: RowSums,
    ) -> Scores:
        means = {row: [total / measuring.images for total in totals] for row, totals in sums.rows.items()}
        base = means[""][0]
        rises = [[total - base for total in means[str(at)]] for at in range(len(variables))]
        raw = sensitivity_matrix(variables, rises)
        matrix = project_psd(raw) if self.project and not self.diagonal else raw
        searched = [layer.name for layer in searched_layers(task.network, first_last=self.first_last)]
        return make_scores(
            task.network,
            self,
            method="clado",
            layers={layer.name: self._curves(layer.name, variables, matrix) for layer in probe.layers},
            program=Program() if self.diagonal else Program(pairs=_pairs(variables, matrix)),
            found={
                "base_loss": base,
                "smallest_eigenvalue": _smallest(raw),
                "largest_eigenvalue": float(np.linalg.eigvalsh(raw)[-1]),
                "not_scored": not_scored(task, probe, searched),
                **measuring.describe(sums.work),
            },
        )

    def _curves(self, layer: str, variables: Sequence[Variable], matrix: Matrix) -> LayerScores:
        harms: dict[Any, float] = {v: float(matrix[at, at]) / 2 for at, v in enumerate(variables)}
        fixed = dict.fromkeys(self.activation_bits, 0.0)
        return LayerScores(
            weight={b: harms[layer, "weight", b] for b in self.bits},
            activation={b: harms.get((layer, "activation", b), 0.0) for b in fixed},
        )


def _partners(variables: Sequence[Variable], at: int) -> list[Variable]:
    """The variables after one that can be chosen together with it."""
    layer, side, _ = variables[at]
    return [v for v in variables[at + 1 :] if v[:2] != (layer, side)]


def sensitivity_matrix(variables: Sequence[Variable], rises: Sequence[Sequence[float]]) -> Matrix:
    """CLADO's G before projection.

    Args:
        variables: `(layer, side, bits)` of each row.
        rises: for each variable u its own rise `d_u`, and then, unless there are none, `d_uv` of every later variable v
            of another layer or side, in order.

    Returns:
        Symmetric `(n, n)`: `2 d_u` on the diagonal, `d_uv - d_u - d_v` off it.

    >>> two = [("a", "weight", 2), ("b", "weight", 2)]
    >>> sensitivity_matrix(two, [[0.1, 0.5], [0.2]]).round(9).tolist()
    [[0.2, 0.2], [0.2, 0.4]]
    """
    single = np.array([row[0] for row in rises])
    matrix: Matrix = np.diag(2 * single)
    places = {variable: at for at, variable in enumerate(variables)}
    for at, row in enumerate(rises):
        for partner, together in zip(_partners(variables, at), row[1:], strict=False):
            other = places[partner]
            matrix[at, other] = matrix[other, at] = together - single[at] - single[other]
    return matrix


def project_psd(matrix: Matrix) -> Matrix:
    """The nearest positive semi-definite matrix: negative eigenvalues of a symmetric matrix are set to zero.

    The released code takes a general eigendecomposition of the same matrix; `eigh` keeps it real and symmetric.

    >>> project_psd(np.array([[0.0, 1.0], [1.0, 0.0]])).round(9).tolist()     # eigenvalues 1 and -1
    [[0.5, 0.5], [0.5, 0.5]]
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    projected = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return np.asarray((projected + projected.T) / 2, dtype=np.float64)


def _smallest(matrix: Matrix) -> float:
    return float(np.linalg.eigvalsh(matrix)[0])


def _pairs(variables: Sequence[Variable], matrix: Matrix) -> Pairs:
    apart = matrix - np.diag(matrix.diagonal())
    return Pairs(tuple(variables), tuple(tuple(float(v) for v in row) for row in apart))
