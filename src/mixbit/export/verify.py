"""An exported file against the reference executor, on real inputs; and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mixbit import _batch
from mixbit.errors import ExportError, shown
from mixbit.export._by_operation import has_every_tensor, parting
from mixbit.export._foreign import read_foreign
from mixbit.export._judging import Judge
from mixbit.export._onnx_statement import Statement
from mixbit.export._probe import runtime_saturates
from mixbit.export._processors import Cpu, narrow
from mixbit.export.onnx import build_onnx, load_session
from mixbit.export.qonnx import trace_qonnx
from mixbit.inference import Predictor
from mixbit.integer import executor
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph, Linear, Softmax, Weighted
from mixbit.latency.timing import Timing, interleave
from mixbit.metric import ACCURACY, MetricInfo

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = [
    "LEAST_AGREEMENT",
    "Agreement",
    "Judge",
    "Timing",
    "Verification",
    "is_qonnx",
    "time_sessions",
    "verify",
    "verify_predictor",
]

LEAST_AGREEMENT = 0.999
"""Top-1 agreement below which a file is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How whatever gives outputs stands to the reference executor.

    >>> Agreement(images=1000, top1_agreement=0.98, identical=0.9, largest_difference=0.1, largest_steps=0.4,
    ...     reference_accuracy=None, accuracy=None).right
    False
    """

    images: int
    top1_agreement: float | None
    """Part of the positions (0 to 1) at which both name the same class; None where none has classes."""
    identical: float
    """Part of the images whose outputs equal the reference's but for the last digits of a float32."""
    largest_difference: float
    """The largest difference of any output, in its own unit."""
    largest_steps: float
    """The largest difference in steps of the output: what one step of one weight times one of an input changes."""
    reference_accuracy: float | None
    """The task's metric, see `metric`."""
    accuracy: float | None
    """The task's metric of what is verified; None without targets."""
    metric: MetricInfo = ACCURACY.info
    """What the accuracies are: accuracy, or the metric of the task."""
    positions: int = 0
    """Where classes are named: an image has one, or one for each of its pixels or tokens."""
    unmeasured: str | None = None
    """Why there is no metric although there are targets."""
    fewer: str | None = None
    """Why there are fewer images than were asked for, if there are."""
    parting: str | None = None
    """The first operation that is wrong, and by how much, where operations were looked at."""
    stranger: str | None = None
    """What tells that a wrong file was exported from another run; None if nothing does."""

    @property
    def at_risk(self) -> tuple[str, ...]:
        """Layers that can be wrong on this machine."""
        return ()

    @property
    def right(self) -> bool:
        """Whether it does what the reference does.

        A top-1 agreement of `LEAST_AGREEMENT` where there are classes, and outputs that are at most a step apart.
        """
        return _agrees(self)


def _agrees(found: Agreement) -> bool:
    agrees = found.top1_agreement is None or found.top1_agreement >= LEAST_AGREEMENT
    return agrees and found.largest_steps <= 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification(Agreement):
    """What a file was found to be.

    >>> found = Verification(path=Path("net.onnx"), size_bytes=9, images=1000, top1_agreement=1.0, identical=0.998,
    ...     largest_difference=0.01, largest_steps=0.4, reference_accuracy=0.9, accuracy=0.9, session_ms=12.0)
    >>> found.right
    True
    """

    path: Path
    kind: Literal["onnx", "qonnx"] = "onnx"
    size_bytes: int
    session_ms: float
    """Wall time to open the file: for ONNX to create the session, unpacking included."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """Name (`file`, `float32`, ...) -> CPU time of one inference of one sample."""
    operations: int = 0
    """Operations of a QONNX file, each held against the reference on the file's own inputs; 0 for other files."""
    cpu: Cpu | None = None
    """For which processors the file says that it is; None of a file that says nothing."""
    runtime_saturates: bool | None = None
    """Whether sums of two products saturate in this runtime on this machine; None of a file that is not run in it."""
    needs_vnni: tuple[str, ...] = ()
    """Layers of the file that can saturate where the runtime does."""
    narrowed: tuple[str, ...] = ()
    """Layers whose weights the file has on wider steps, see `mixbit.export.onnx.OnnxLayer.narrowed`."""
    unnarrowed_agreement: float | None = None
    """Part of the positions for which the network names the same class without that; None if nothing is narrowed."""
    unnarrowed_accuracy: float | None = None
    """The metric of the network without that."""

    @property
    def at_risk(self) -> tuple[str, ...]:
        """Layers that can be wrong on this machine."""
        return self.needs_vnni if self.runtime_saturates else ()

    @property
    def right(self) -> bool:
        """Whether the file does what the reference does.

        A top-1 agreement of `LEAST_AGREEMENT` where there are classes, and outputs that are at most a step apart. A
        QONNX file, whose sums are float32, is right where every operation is: ties that fall to the other side can part
        whole outputs.
        """
        if self.operations:
            return self.parting is None
        return _agrees(self)


def verify_predictor(
    predictor: Predictor,
    graph: IntegerGraph,
    batches: Iterable[tuple[Array, Any]],
    *,
    judge: Judge | None = None,
) -> Agreement:
    """Compare whatever gives logits with the reference executor of a graph, on the same inputs.

    Args:
        predictor: the fake-quantized network, another runtime, the network on a device.
        graph: the integer network.
        batches: as in `verify`: inputs as the network reads them, which become inputs of the predictor's space first.
        judge: as in `verify`.

    Raises:
        ExportError: outputs of another shape, or that are not finite, or there is no batch.
    """
    judge = Judge() if judge is None else judge
    tally = _Tally(_Steps(graph), judge)
    for x, targets in batches:
        given = predictor.space.leave(torch.from_numpy(np.asarray(x, np.float32)))
        with torch.no_grad():
            found = predictor.logits(given).cpu().numpy()
        # What the predictor's network read: there and back, a last digit can be another.
        wanted = executor.run(graph, predictor.space.enter(given).numpy())
        _check_output(predictor.name, found, wanted)
        tally.add(found, wanted, targets)
    if not tally.images:
        raise ExportError(_NOTHING)
    return Agreement(**tally.facts())


_NOTHING = "there is nothing to verify with. Give at least one batch of real inputs."


def verify(
    path: Path,
    graph: IntegerGraph,
    batches: Iterable[tuple[Array, Any]],
    *,
    judge: Judge | None = None,
    float_model: bytes | None = None,
    threads: int = 1,
    rounds: int = 20,
    saturates: Callable[[], bool] = runtime_saturates,
) -> Verification:
    """Run a file on real inputs beside the reference executor.

    The reference has the weights that the file says that it has. If some are narrowed, the network without that is run
    as well: what it costs is in the result.

    Args:
        path: an ONNX file of `mixbit.export.onnx`, or a QONNX file of `mixbit.export.qonnx`. The latter runs in the
            executor of the qonnx package, in Python, and is not timed.
        graph: what it was printed from, before layers were narrowed.
        batches: `(inputs (N, ...), class numbers (N,), or targets of the judge's task, or None)`.
        judge: where the classes are, and the metric; without one outputs `(N, C)` are scores of classes, and no others.
        float_model: the float network as ONNX, to time beside it.
        threads: of the runtime.
        rounds: of timing; 0 leaves it out.
        saturates: tells whether the runtime saturates on this machine; asked of the runtime unless given.

    Raises:
        ExportError: the file cannot be read, holds what no file of `mixbit export` holds, takes another input, gives
            another output or one that is not finite, or there is no batch.
    """
    looked = read_foreign(path)
    begin = time.perf_counter()
    session = None if looked.qonnx else load_session(path, threads=threads)
    created = (time.perf_counter() - begin) * 1e3
    said = None if session is None else _statement(path, session, graph)
    narrowed = () if said is None else said.narrowed
    plain = load_session(build_onnx(graph, strict=True).SerializeToString(), threads=threads) if narrowed else None
    judge = Judge() if judge is None else judge
    tally, other, example = _Tally(_Steps(graph), judge), _Tally(_Steps(graph), judge), None
    held = narrow(graph, narrowed)
    operations, part = 0, None
    for x, targets in batches:
        x = np.asarray(x, np.float32)
        example = x[:1] if example is None else example
        values = trace_qonnx(path, x) if session is None else {}
        found = _run(path, session, x) if session is not None else values[looked.model.graph.output[0].name]
        wanted = executor.run(held, x)
        _check_output(path, found, wanted)
        if looked.model.graph.output[0].name == graph.output and has_every_tensor(graph, values):
            operations, part = len(graph.ops), part or parting(graph, values)
        tally.add(found, wanted, targets)
        if plain is not None:
            other.add(found, _run(path, plain, x), targets)
    if example is None:
        raise ExportError(_NOTHING)
    result = Verification(
        path=path,
        kind="qonnx" if looked.qonnx else "onnx",
        size_bytes=path.stat().st_size,
        session_ms=created,
        timings={} if session is None or not rounds else _timed(session, float_model, threads, example, rounds),
        **tally.facts(),
        operations=operations,
        parting=part,
        cpu=None if said is None else said.cpu,
        runtime_saturates=None if session is None else saturates(),
        needs_vnni=() if said is None else said.needs_vnni,
        narrowed=narrowed,
        unnarrowed_agreement=other.agreement,
        unnarrowed_accuracy=other.reference_score.value,
    )
    return result if said is None or result.right else replace(result, stranger=_stranger(said, graph))


def _stranger(said: Statement, graph: IntegerGraph) -> str | None:
    """What a file says of itself that is not so of the network."""
    if said.fingerprint != graph.fingerprint:
        return "its metadata name another network"
    bits = {op.name: op.weight_bits for op in graph.weighted()}
    for name, found in said.layers.items():
        if (wanted := bits.get(name)) != found:
            here = "is none of this run's" if wanted is None else f"and {wanted} in this run"
            return f"its layer {shown(name)} has weights of {found} bits by its metadata, {here}"
    return None


def _statement(path: Path, session: InferenceSession, graph: IntegerGraph) -> Statement | None:
    """What the file says of itself, once it is one of a network with this input."""
    _check_input(path, session, graph)
    return Statement.read(session.get_modelmeta().custom_metadata_map, str(path))


def _timed(
    session: InferenceSession, float_model: bytes | None, threads: int, example: Array, rounds: int
) -> dict[str, Timing]:
    sessions = {"file": session}
    if float_model is not None:
        sessions["float32"] = load_session(float_model, threads=threads)
    return time_sessions(sessions, example, rounds=rounds)


def is_qonnx(path: Path) -> bool:
    """Whether a file has operators of QONNX, which no runtime knows.

    Raises:
        ExportError: as `verify` for a file that is not run.
    """
    return read_foreign(path).qonnx


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


def _run(path: Path, session: InferenceSession, x: Array) -> Array:
    try:
        found: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    except Exception as cause:  # the runtime's exceptions have no base class but this
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ExportError(f"ONNX Runtime cannot run {shown(str(path))} on {len(x)} images: {reason}.") from cause
    return found


def _check_input(path: Path, session: InferenceSession, graph: IntegerGraph) -> None:
    wanted = graph.tensors[graph.input].shape
    found = session.get_inputs()
    if len(found) != 1 or tuple(found[0].shape[1:]) != wanted or found[0].type != "tensor(float)":
        shapes = ", ".join(f"{one.name} {tuple(one.shape)} {one.type}" for one in found) or "nothing"
        raise ExportError(
            f"{path} takes {shapes}, the network takes (N, {', '.join(map(str, wanted))}) in float32. "
            "Give the run folder that the file was exported from."
        )


def _check_output(path: Path | str, found: object, wanted: Array) -> None:
    """Finite numbers, as many as the reference gives."""
    if not isinstance(found, np.ndarray) or found.shape != wanted.shape or found.dtype.kind != "f":
        what = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise ExportError(
            f"{path} gives {what}, the network gives float32 of shape {wanted.shape}. "
            "Give the run folder that the file was exported from."
        )
    broken = ~np.isfinite(found.reshape(len(found), -1)).all(axis=1)
    if broken.any():
        raise ExportError(
            f"{path} gives NaN or infinity for {int(broken.sum())} of {len(found)} images, where the reference is "
            "finite. Export it again from the run folder."
        )


class _Steps:
    """Differences in steps of the output: one step of the accumulators that make it, by channel.

    A file may differ from the reference by a step of each logit. Behind a softmax logits are known but for a number
    that all of an image share: `log p - log q` is the difference of the logits plus that number, and the number that
    leaves the fewest steps is taken.
    """

    def __init__(self, graph: IntegerGraph) -> None:
        makers = {op.output: op for op in graph.ops}
        maker, name = makers.get(graph.output), graph.output
        self._softmax = isinstance(maker, Softmax)
        if isinstance(maker, Softmax):
            name, maker = maker.x, makers.get(maker.x)
        shape, grid = graph.tensors[name].shape, graph.tensors[name].grid
        if grid is not None:
            self._step = np.full(shape, grid.scale)
            return
        if not isinstance(maker, Weighted):
            raise ExportError(f"the output is made by {name!r}, which has no steps to measure a difference in.")
        step = np.abs(graph.unit(maker)) * 2**maker.shift
        along = step if isinstance(maker, Linear) else step.reshape(-1, *[1] * (len(shape) - 1))
        self._step = np.broadcast_to(np.where(along > 0, along, np.inf), shape)

    def largest(self, found: Array, wanted: Array) -> float:
        """The most steps of any output `(N, *shape)`."""
        if not self._softmax:
            return float((np.abs(found.astype(np.float64) - wanted) / self._step).max(initial=0))
        logs = np.log(np.maximum(found, _LEAST)) - np.log(np.maximum(wanted, _LEAST))
        low, high = (end(logs, axis=-1, keepdims=True) for end in (np.min, np.max))
        for _ in range(_HALVINGS):  # the most steps are a convex function of the shared number
            third = (high - low) / 3
            left = self._most(logs - low - third) <= self._most(logs - high + third)
            low, high = np.where(left, low, low + third), np.where(left, high - third, high)
        return float(self._most(logs - (low + high) / 2).max(initial=0))

    def _most(self, logs: Array) -> Array:
        # What float32 loses of an exponential and its share is no step.
        found: Array = (np.maximum(np.abs(logs) - _LOST, 0) / self._step).max(axis=-1, keepdims=True)
        return found


_LEAST = 1e-30
"""Probabilities below it are one: float32 holds no digits of them."""
_LOST = 2e-5
_HALVINGS = 60


class _Tally:
    """Differences so far."""

    def __init__(self, steps: _Steps, judge: Judge) -> None:
        self.images = self.identical = self.positions = 0
        self.score, self.reference_score = judge.score(), judge.score()
        self.largest = self.steps = 0.0
        self._steps, self._judge, self._agreed = steps, judge, 0

    def add(self, found: Array, wanted: Array, targets: Any) -> None:
        """One batch of outputs `(N, *shape)`."""
        flat, reference = found.reshape(len(found), -1), wanted.reshape(len(wanted), -1)
        apart = np.abs(flat.astype(np.float64) - reference)
        self.images += len(flat)
        digits = 1e-6 * max(float(np.abs(reference).max(initial=0)), 1e-6)
        self.identical += int((apart.max(axis=1, initial=0) <= digits).sum())
        self.largest = max(self.largest, float(apart.max(initial=0)))
        self.steps = max(self.steps, self._steps.largest(found, wanted))
        said, truth = (self._judge.classes(one, targets) for one in (found, wanted))
        if said is not None and truth is not None:
            self.positions += said.size
            self._agreed += int((said == truth).sum())
        self.score.add(found, targets)
        self.reference_score.add(wanted, targets)

    def facts(self) -> dict[str, Any]:
        """The fields of `Agreement`."""
        return {
            "images": self.images,
            "top1_agreement": self.agreement,
            "positions": self.positions,
            "identical": self.identical / self.images,
            "largest_difference": self.largest,
            "largest_steps": self.steps,
            "accuracy": self.score.value,
            "reference_accuracy": self.reference_score.value,
            "metric": self._judge.info,
            "unmeasured": self.reference_score.reason,
        }

    @property
    def agreement(self) -> float | None:
        """Part of the positions of one class."""
        return self._agreed / self.positions if self.positions else None


def sample_batches(batches: Iterable[tuple[Any, Any]], images: int) -> Iterator[tuple[Array, Any]]:
    """The first `images` samples of a split's batches: inputs as arrays, targets as they are.

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
        count = len(inputs[0])
        _, targets = _batch.cut(x, y, count, slice(min(count, left)))
        taken = inputs[0].cpu().numpy()[:left]
        left -= len(taken)
        yield taken, _batch.move(targets, "cpu")


def numpy_batches(batches: Iterable[tuple[Any, Any]], images: int) -> Iterator[tuple[Array, Array | None]]:
    """Batches as arrays, without targets that are no class numbers `(n,)`."""
    for x, y in sample_batches(batches, images):
        numbers = isinstance(y, Tensor) and y.dim() == 1 and not y.is_floating_point()
        yield x, y.numpy() if numbers else None
