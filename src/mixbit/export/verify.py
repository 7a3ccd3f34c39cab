"""An exported file against the reference executor, on real inputs; and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from mixbit import _batch
from mixbit.errors import ExportError
from mixbit.export import executor
from mixbit.export._timing import Timing, interleave
from mixbit.export.arithmetic import Array
from mixbit.export.graph import IntegerGraph
from mixbit.export.onnx import load_session
from mixbit.export.qonnx import DOMAIN, trace_qonnx

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["LEAST_AGREEMENT", "Timing", "Verification", "is_qonnx", "time_sessions", "verify"]

LEAST_AGREEMENT = 0.999
"""Top-1 agreement below which a file is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a file was found to be.

    >>> found = Verification(path=Path("net.onnx"), size_bytes=9, images=1000, top1_agreement=1.0, identical=0.998,
    ...     largest_difference=0.01, largest_steps=0.4, reference_accuracy=0.9, accuracy=0.9, session_ms=12.0)
    >>> found.right
    True
    """

    path: Path
    kind: Literal["onnx", "qonnx"] = "onnx"
    size_bytes: int
    images: int
    top1_agreement: float
    """Part of the images (0 to 1) for which the file and the reference name the same class."""
    identical: float
    """Part of the images whose outputs equal the reference's but for the last digits of a float32."""
    largest_difference: float
    """Of any output, in its own unit."""
    largest_steps: float
    """The same in steps of the output: the least that one step of one weight times one of an input can change."""
    reference_accuracy: float | None
    accuracy: float | None
    """Of the file; None without labels."""
    session_ms: float
    """Wall time to open the file: for ONNX to create the session, unpacking included."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """Name (`file`, `float32`, ...) -> CPU time of one inference of one sample."""

    @property
    def right(self) -> bool:
        """Whether the file does what the reference does: top-1 agreement of `LEAST_AGREEMENT`, at most a step apart."""
        return self.top1_agreement >= LEAST_AGREEMENT and self.largest_steps <= 1.0


def verify(
    path: Path,
    graph: IntegerGraph,
    batches: Iterable[tuple[Array, Array | None]],
    *,
    float_model: bytes | None = None,
    threads: int = 1,
    rounds: int = 20,
) -> Verification:
    """Run a file on real inputs beside the reference executor.

    Args:
        path: an ONNX file of `mixbit.export.onnx`, or a QONNX file of `mixbit.export.qonnx`. The latter runs in the
            executor of the qonnx package, in Python, and is not timed.
        graph: what it was printed from.
        batches: `(inputs (N, ...), labels (N,) or None)`.
        float_model: the float network as ONNX, to time beside it.
        threads: of the runtime.
        rounds: of timing; 0 leaves it out.

    Raises:
        ExportError: the file cannot be read, takes another input, or there is no batch.
    """
    begin = time.perf_counter()
    qonnx = is_qonnx(path)
    session = None if qonnx else load_session(path, threads=threads)
    created = (time.perf_counter() - begin) * 1e3
    if session is not None:
        _check_input(path, session, graph)
    tally, example = _Tally(_output_step(graph)), None
    for x, labels in batches:
        x = np.asarray(x, np.float32)
        example = x[:1] if example is None else example
        found = trace_qonnx(path, x)[graph.output] if session is None else _run(session, x)
        tally.add(found, executor.run(graph, x), labels)
    if example is None:
        raise ExportError("there is nothing to verify with. Give at least one batch of real inputs.")
    timings = {}
    if rounds and session is not None:
        sessions = {"file": session}
        if float_model is not None:
            sessions["float32"] = load_session(float_model, threads=threads)
        timings = time_sessions(sessions, example, rounds=rounds)
    return Verification(
        path=path,
        kind="qonnx" if qonnx else "onnx",
        size_bytes=path.stat().st_size,
        session_ms=created,
        timings=timings,
        images=tally.images,
        top1_agreement=tally.agreed / tally.images,
        identical=tally.identical / tally.images,
        largest_difference=tally.largest,
        largest_steps=tally.steps,
        accuracy=tally.share(tally.right),
        reference_accuracy=tally.share(tally.reference_right),
    )


def is_qonnx(path: Path) -> bool:
    """Whether a file has operators of QONNX, which no runtime knows."""
    return path.is_file() and DOMAIN.encode() in path.read_bytes()


def time_sessions(sessions: dict[str, InferenceSession], x: Array, *, rounds: int = 30) -> dict[str, Timing]:
    """CPU time of one inference of each session, in interleaved rounds.

    Args:
        sessions: name -> session.
        x: the input, `(1, ...)` float32.
        rounds: how often each has its turn.
    """
    return interleave({name: _call(session, x) for name, session in sessions.items()}, rounds=rounds)


def _call(session: InferenceSession, x: Array) -> Callable[[], object]:
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


def _run(session: InferenceSession, x: Array) -> Array:
    found: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def _check_input(path: Path, session: InferenceSession, graph: IntegerGraph) -> None:
    wanted = graph.tensors[graph.input].shape
    found = session.get_inputs()
    if len(found) != 1 or tuple(found[0].shape[1:]) != wanted:
        shapes = ", ".join(f"{one.name} {tuple(one.shape)}" for one in found)
        raise ExportError(
            f"{path} takes {shapes}, the network takes (N, {', '.join(map(str, wanted))}). "
            "Give the run folder that the file was exported from."
        )


def _output_step(graph: IntegerGraph) -> Array:
    """One step of the accumulators that make the output, by channel; probabilities have none."""
    maker = next((op for op in reversed(graph.weighted()) if graph.tensors[op.output].grid is None), None)
    if maker is None or maker.output != graph.output:
        return np.array([np.inf])
    step = np.abs(graph.unit(maker)) * 2**maker.shift
    return np.where(step > 0, step, np.inf)


class _Tally:
    """Differences so far."""

    def __init__(self, step: Array) -> None:
        self.images = self.agreed = self.identical = self.right = self.reference_right = self.labelled = 0
        self.largest = self.steps = 0.0
        self._step = step

    def add(self, found: Array, wanted: Array, labels: Array | None) -> None:
        """One batch of outputs `(N, classes)`."""
        flat, reference = found.reshape(len(found), -1), wanted.reshape(len(wanted), -1)
        apart = np.abs(flat.astype(np.float64) - reference)
        self.images += len(flat)
        self.agreed += int((flat.argmax(axis=1) == reference.argmax(axis=1)).sum())
        digits = 1e-6 * max(float(np.abs(reference).max(initial=0)), 1e-6)
        self.identical += int((apart.max(axis=1, initial=0) <= digits).sum())
        self.largest = max(self.largest, float(apart.max(initial=0)))
        whole = apart.reshape(len(apart), len(self._step), -1) if len(self._step) > 1 else apart[:, None]
        self.steps = max(self.steps, float((whole / self._step[:, None]).max(initial=0)))
        if labels is not None:
            self.labelled += len(labels)
            self.right += int((flat.argmax(axis=1) == labels).sum())
            self.reference_right += int((reference.argmax(axis=1) == labels).sum())

    def share(self, count: int) -> float | None:
        """Accuracy."""
        return count / self.labelled if self.labelled else None


def numpy_batches(batches: Iterable[tuple[Any, Any]], images: int) -> Iterator[tuple[Array, Array | None]]:
    """The first `images` samples of a split's batches, as arrays, without targets that are no class numbers `(n,)`.

    Raises:
        ExportError: several inputs.
    """
    left = images
    for x, y in batches:
        if left <= 0:
            return
        inputs = _batch.tensors(x)
        if len(inputs) != 1:
            raise ExportError(f"the model takes {_batch.describe(x)}. Legal: one tensor.")
        taken = inputs[0].cpu().numpy()[:left]
        numbers = isinstance(y, Tensor) and y.dim() == 1 and not y.is_floating_point()
        left -= len(taken)
        yield taken, y.cpu().numpy()[: len(taken)] if numbers else None
