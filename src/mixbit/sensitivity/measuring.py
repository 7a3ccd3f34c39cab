"""What the methods share that measure the network's loss with some sides quantized, on a fixed set of images.

Images are taken in chunks, and each chunk goes through all rows of the measurement before the next, so that states of
the network are kept for one chunk at a time. A row is what one run from a cached prefix serves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn
from torch.nn import functional as F

from mixbit import _batch
from mixbit._progress import progress_bar
from mixbit.cost import LayerBits
from mixbit.data import Batch
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger, content_of
from mixbit.policy import Side
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.sensitivity.suffix import State, Suffix, Work
from mixbit.task import Task

__all__ = [
    "Chunk",
    "Loss",
    "Measure",
    "Measuring",
    "Row",
    "RowSums",
    "Variable",
    "calibration_images",
    "choose",
    "contents",
    "first_images",
    "not_scored",
]

Measure = Literal["loss", "kl"]
Variable = tuple[str, Side, int]
"""(layer, side, bits): one side of one layer at one bit-width."""


def calibration_images(task: Task, images: int, seed: int) -> tuple[Any, Any]:
    """The first `images` training images of a shuffled pass, without augmentation; all of them if there are fewer.

    Raises:
        MixbitError: `images` is no positive number.
    """
    if images < 1:
        raise MixbitError(f"images={images} is not legal. Give the number of calibration images, at least 1.")
    return _batch.first_samples(task.train.batches(min(images, 256), seed=seed, shuffle=True, augment=False), images)


def first_images(x: Any, step_images: int) -> Any:
    """The images that set the steps of inputs."""
    if step_images < 1:
        raise MixbitError(f"step_images={step_images} is not legal. Give at least 1 image to set the steps of inputs.")
    return _batch.cut(x, None, _batch.samples(x), slice(step_images))[0]


def choose(variables: Iterable[Variable], base: Mapping[str, LayerBits]) -> dict[str, LayerBits]:
    """The bits of `base` with these sides set to others.

    >>> choose([("a", "weight", 2)], {"a": LayerBits(None, 8)})
    {'a': LayerBits(weight_bits=2, activation_bits=8)}
    """
    chosen = dict(base)
    for layer, side, bits in variables:
        old = chosen.get(layer, LayerBits(None, None))
        chosen[layer] = LayerBits(
            bits if side == "weight" else old.weight_bits, bits if side == "activation" else old.activation_bits
        )
    return chosen


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the calibration images, and the network's states for them in the base state of the measurement."""

    x: Any
    y: Any
    reference: Any
    """Outputs of the float network."""
    base: Any
    """Outputs of the base state."""
    states: dict[str, State]


Row = Callable[[Chunk], list[float]]
"""Measures some sums on a chunk."""


class Loss:
    """Sum over a chunk's images of the task's loss, or of the divergence from the float network's outputs.

    "kl" is `sum_c p_c log(p_c / q_c)` with the class probabilities `p` of the float and `q` of the measured network.
    """

    def __init__(self, task: Task, measure: Measure) -> None:
        if measure not in ("loss", "kl"):
            raise MixbitError(f"measure={measure!r} is not legal. Legal: 'loss', 'kl'.")
        self._objective, self._device = task.objective, task.device
        self._measure = measure

    def of(self, outputs: Any, chunk: Chunk) -> float:
        """The sum; on equal outputs "kl" is 0.

        Raises:
            MixbitError: "kl" of outputs that are no class scores.
        """
        y = _batch.move(chunk.y, self._device)
        if self._measure == "loss":
            return float(self._objective.loss(outputs, y)) * _batch.samples(chunk.x)
        scores, axis = self._objective.class_scores(outputs, y, "measure='kl'")
        p, q = (F.log_softmax(one.double(), dim=axis) for one in (self._objective.chosen(chunk.reference), scores))
        return float(F.kl_div(q, p, reduction="sum", log_target=True))


class Measuring:
    """One measurement: the images, the quantizers and the suffix runs, chunk by chunk.

    Attributes:
        images: how many there are.
        chunk_images: images of a chunk: `batch_size`, or fewer if the kept states would take over `cache_mib`.
    """

    def __init__(
        self,
        task: Task,
        probe: Perturbation,
        x: Any,
        y: Any,
        *,
        measure: Measure,
        base: Mapping[str, LayerBits],
        batch_size: int,
        cache_mib: int,
    ) -> None:
        self.suffix = Suffix(task, probe, x)
        self.loss = Loss(task, measure)
        self.base = dict(base)
        self._x, self._y = x, y
        self.images = _batch.samples(x)
        # Two sets of states live at a time: those of the base and those of a row.
        self._image_bytes = 2 * self.suffix.bytes_per_image(x)
        self.chunk_images = max(1, min(batch_size, cache_mib * 2**20 // max(1, self._image_bytes)))
        self._told = Work()

    @property
    def number_of_chunks(self) -> int:
        """How many chunks there are; the last may be smaller."""
        return -(-self.images // self.chunk_images)

    def chunks(self, start: int = 0) -> Iterator[Chunk]:
        """The chunks from number `start` on, with the base's states at all layers."""
        for number in range(start, self.number_of_chunks):
            part = slice(number * self.chunk_images, (number + 1) * self.chunk_images)
            x, y = _batch.cut(self._x, self._y, self.images, part)
            begin = self.suffix.begin(x)
            reference, states = self.suffix.run(begin, {}, keep=self.suffix.order)
            base = reference
            if self.base:
                base, states = self.suffix.run(begin, self.base, keep=self.suffix.order)
            yield Chunk(x, y, reference, base, states)

    def run(
        self, state: State, variables: Sequence[Variable], chunk: Chunk, keep: Collection[str] = ()
    ) -> tuple[float, dict[str, State]]:
        """Loss (a sum) with these sides quantized beside the base, from `state` on, and the states at `keep`."""
        outputs, states = self.suffix.run(state, choose(variables, self.base), keep=keep)
        found = self.loss.of(outputs, chunk)
        where = ", ".join(f"{layer} ({side}) at {bits} bits" for layer, side, bits in variables)
        return _finite(found, where), states

    def base_loss(self, chunk: Chunk) -> list[float]:
        """The row of the base state: its loss (a sum)."""
        return [_finite(self.loss.of(chunk.base, chunk), "nothing else quantized")]

    def fill(self, sums: RowSums, rows: Mapping[str, Row], *, label: str, quiet: bool) -> None:
        """Measure all rows on all chunks, but those that the sums have already."""
        left = [
            (number, name) for number in range(self.number_of_chunks) for name in rows if (number, name) not in sums
        ]
        with progress_bar(label, len(left), quiet=quiet) as advance:
            first = left[0][0] if left else self.number_of_chunks
            for number, chunk in enumerate(self.chunks(first), start=first):
                for name in rows:
                    if (number, name) not in sums:
                        sums.put(number, name, rows[name](chunk), self._work_since())
                        advance(1, name)

    def _work_since(self) -> Work:
        """Work since this was asked last."""
        found, self._told = self.suffix.work - self._told, copy.copy(self.suffix.work)
        return found

    def describe(self, work: Work) -> dict[str, Any]:
        """How the measurement was done, for the settings of the scores; passes are in runs of all images."""
        whole = self.images or 1
        return {
            "images_used": self.images,
            "chunk_images": self.chunk_images,
            "cache_mib_used": round(self._image_bytes * min(self.chunk_images, self.images) / 2**20, 3),
            "prefix_caching": self.suffix.reason is None,
            "prefix_caching_reason": self.suffix.reason,
            "passes": {
                "without_cache": round(work.passes / whole, 4),
                "with_cache_equivalents": round(work.done / whole, 4),
            },
        }


def _finite(loss: float, where: str) -> float:
    if not math.isfinite(loss):
        raise MixbitError(f"the loss is {loss} with {where}. Check the model and the calibration images for NaN.")
    return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """What one row gave on one chunk."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    values: list[float]
    work: tuple[float, float]


class RowSums:
    """Sums over images that grow row by row and chunk by chunk; with a run folder a killed search goes on with them.

    Attributes:
        rows: name of a row -> its sums.
        work: all that was done for them.

    Args:
        run: folder of the search, or None.
        name: of the method, and so of the file in the folder.
        settings: all that the values depend on.

    Raises:
        StaleRun: the file belongs to other settings, another model or other images.
    """

    def __init__(self, run: Path | None, name: str, settings: Mapping[str, Any]) -> None:
        path = None if run is None else run / f"{name}.jsonl"
        before = [] if run is None else [run / f"{name}-partial.json"]
        self._pieces = Ledger(path, f"partial measurements of {name}", settings, before=before)
        self.rows: dict[str, list[float]] = {}
        self.work = Work()
        for key in self._pieces:
            self._add(key)

    def __contains__(self, place: tuple[int, str]) -> bool:
        """Whether a row is measured on a chunk."""
        return "{}/{}".format(*place) in self._pieces

    def put(self, chunk: int, row: str, values: list[float], work: Work) -> None:
        """Add a chunk's values to a row, and write them."""
        key = f"{chunk}/{row}"
        self._pieces.put(key, {"values": values, "work": [work.passes, work.done]})
        self._add(key)

    def _add(self, key: str) -> None:
        piece, row = self._pieces.read(key, _Piece), key.partition("/")[2]
        old = self.rows.get(row)
        self.rows[row] = piece.values if old is None else [a + b for a, b in zip(old, piece.values, strict=True)]
        passes, done = piece.work
        self.work = Work(self.work.passes + passes, self.work.done + done)


def contents(model: nn.Module, images: Iterable[Batch]) -> dict[str, str]:
    """Digests of weights and buffers, and of images and targets, for the settings of what is measured on them."""
    state = model.state_dict()
    return {
        "weights": content_of(state[name] for name in sorted(state)),
        "training_images": content_of(tensor for x, y in images for tensor in [*_batch.tensors(x), *_batch.tensors(y)]),
    }


def not_scored(task: Task, probe: Perturbation, searched: Iterable[str]) -> list[str]:
    """Searched layers that cannot carry quantizers."""
    on = {layer.name for layer in probe.layers}
    return [f"{name}: its module cannot carry quantizers" for name in searched if name not in on]
