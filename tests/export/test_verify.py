"""A file against the reference executor, in a real ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mixbit.data import InputSpace
from mixbit.errors import ExportError
from mixbit.export import ExecutorPredictor
from mixbit.inference import ArrayPredictor, TorchPredictor
from mixbit.integer import IntegerGraph, executor, lower
from mixbit.integer.graph import Linear
from mixbit.metric import accuracy, mean_iou
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from mixbit.task import Objective, objective_of
from tests.export.graphs import Builder
from tests.needs import why

pytest.importorskip("onnxruntime", reason=why("onnx"))

from mixbit.export import verify as verifying
from mixbit.export._probe import runtime_saturates
from mixbit.export._processors import narrow
from mixbit.export.float_onnx import float_onnx
from mixbit.export.onnx import load_session, write_onnx
from mixbit.export.qonnx import write_qonnx
from mixbit.export.verify import Judge, Verification, numpy_batches, verify, verify_predictor

X = torch.randn(40, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    network = capture(model, X)
    quantize(model, Policy.uniform(network, 3, 4), network)
    calibrate(model, [X])
    return model.eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> IntegerGraph:
    return lower(model, capture(nn.Sequential(*model), X), [X], rounding="float32")


def labels(graph: IntegerGraph) -> np.ndarray:
    return executor.run(graph, X.numpy()).argmax(axis=1)


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ({"top1_agreement": 0.999}, True),
        ({"top1_agreement": 0.9989}, False),
        ({"top1_agreement": None}, True),
        ({"top1_agreement": None, "largest_steps": 1.01}, False),
        ({"largest_steps": 1.0}, True),
        ({"largest_steps": 1.01}, False),
        ({"operations": 3, "top1_agreement": 0.5, "largest_steps": 9.0}, True),
        ({"operations": 3, "parting": "fc (Linear), by 1 steps"}, False),
    ],
)
def test_right_is_both_the_classes_and_a_step_of_the_outputs(told: dict[str, Any], right: bool, tmp_path: Path) -> None:
    found = Verification(
        path=tmp_path,
        size_bytes=1,
        images=1000,
        top1_agreement=1.0,
        identical=0.0,
        largest_difference=0.1,
        largest_steps=0.4,
        reference_accuracy=None,
        accuracy=None,
        session_ms=1.0,
    )
    assert replace(found, **told).right is right


@pytest.mark.parametrize("order", [1, -1])
def test_an_operation_that_is_wrong_in_one_batch_is_wrong(order: int, tmp_path: Path) -> None:
    """Weights that were lost say nothing where the input is zero."""
    pytest.importorskip("qonnx", reason=why("qonnx"))
    b = Builder((2, 5, 5))
    graph = b.finish(b.linear(b.flatten(b.conv(b.first, 4)), 3, bits=None))
    conv = graph.weighted()[0]
    lost = replace(conv, weight=np.concatenate([conv.weight[:1], 0 * conv.weight[1:]]))
    wrong = replace(graph, ops=tuple(lost if op is conv else op for op in graph.ops))
    file = write_qonnx(wrong, tmp_path / "net.onnx").path
    zeros = np.zeros_like(b.samples), None
    assert verify(file, graph, [zeros]).right
    found = verify(file, graph, [(b.samples, None), zeros][::order])
    assert not found.right and found.parting is not None and found.parting.startswith(f"{conv.name} (Conv), by ")


def test_a_right_file(graph: IntegerGraph, tmp_path: Path) -> None:
    file = write_onnx(graph, tmp_path / "net.onnx")
    half = labels(graph)
    half[20:] += 1
    found = verify(file.path, graph, [(X[:30].numpy(), half[:30]), (X[30:].numpy(), half[30:])], rounds=2)
    assert found.right and found.images == 40 and found.top1_agreement == 1.0
    assert found.size_bytes == file.size_bytes and found.session_ms > 0
    assert found.accuracy == found.reference_accuracy == 0.5
    assert set(found.timings) == {"file"} and found.timings["file"].rounds == 2


def test_a_file_with_one_wrong_weight_is_found(graph: IntegerGraph, tmp_path: Path) -> None:
    last = graph.ops[-1]
    assert isinstance(last, Linear)
    weight = last.weight.copy()
    weight[2] = -weight[2]
    broken = replace(graph, ops=(*graph.ops[:-1], replace(last, weight=weight)))
    write_onnx(broken, tmp_path / "net.onnx")
    found = verify(tmp_path / "net.onnx", graph, [(X.numpy(), None)], rounds=0)
    assert not found.right and found.largest_steps > 1 and found.accuracy is None
    apart = np.abs(executor.run(broken, X.numpy()) - executor.run(graph, X.numpy())).max(axis=1)
    assert found.largest_difference == pytest.approx(apart.max(), rel=1e-5)
    worst_first = [(X.numpy()[[at]], None) for at in np.argsort(-apart)]
    single = verify(tmp_path / "net.onnx", graph, worst_first, rounds=0)
    assert (single.images, single.identical) == (found.images, found.identical)
    assert single.largest_difference == pytest.approx(apart.max(), rel=1e-5)
    assert single.largest_steps == pytest.approx(found.largest_steps, rel=1e-5)


def test_a_difference_is_told_in_steps_of_the_output(graph: IntegerGraph, tmp_path: Path) -> None:
    """A bias that is off by three weight steps is three output steps, of the channel that it belongs to."""
    last = graph.ops[-1]
    assert isinstance(last, Linear)
    bias = last.bias.copy()
    bias[1] += 3 * 2**last.shift
    write_onnx(replace(graph, ops=(*graph.ops[:-1], replace(last, bias=bias))), tmp_path / "net.onnx", strict=True)
    found = verify(tmp_path / "net.onnx", graph, [(X.numpy(), None)], rounds=0)
    assert found.largest_steps == pytest.approx(3, rel=1e-3)
    assert found.identical == 0.0


def test_a_channel_without_steps_hides_no_other(tmp_path: Path) -> None:
    """Of scale 0 its output is 0, in no steps at all; another channel is wrong by three."""
    scales = [1.0, 0.0, 1.0, 0.1]
    write_onnx(tokens(scales, bias={0: 3 * 32}), tmp_path / "net.onnx")
    found = verify(tmp_path / "net.onnx", tokens(scales), [(TOKENS, None)], rounds=0)
    assert found.largest_steps == pytest.approx(3, rel=1e-3) and not found.right


def tokens(scales: list[float], *, bias: dict[int, int] | None = None, softmax: bool = False) -> IntegerGraph:
    """A linear layer along two tokens that passes its four channels through, each in a unit of its own."""
    b = Builder((2, 4), seed=0)
    y = b.linear(b.first, 4, bits=None, weight=np.eye(4, dtype=np.int8), weight_bits=2, shift=5)
    if softmax:
        y = b.softmax(y)
    found = b.finish(y)
    at = next(at for at, op in enumerate(found.ops) if isinstance(op, Linear))
    of = np.zeros(4, np.int32)
    for channel, value in (bias or {}).items():
        of[channel] = value
    layer = replace(found.ops[at], weight=np.eye(4, dtype=np.int8), weight_scale=np.array(scales, np.float32), bias=of)
    return replace(found, ops=(*found.ops[:at], layer, *found.ops[at + 1 :]))


TOKENS = np.random.default_rng(0).standard_normal((16, 2, 4)).astype(np.float32)


@pytest.mark.parametrize(("channel", "wrong"), [(1, 500), (0, 0.9), (3, 2)])
def test_steps_of_an_output_along_tokens_are_those_of_its_channel(channel: int, wrong: float, tmp_path: Path) -> None:
    scales = [1.0, 1e-3, 1.0, 0.1]
    write_onnx(tokens(scales, bias={channel: round(wrong * 32)}), tmp_path / "net.onnx")
    found = verify(tmp_path / "net.onnx", tokens(scales), [(TOKENS, None)], rounds=0)
    assert found.largest_steps == pytest.approx(round(wrong * 32) / 32, rel=1e-2)
    assert found.right is (wrong < 1)


@pytest.mark.parametrize(
    ("scales", "bias", "right"),
    [
        ([0.1, 0.1, 0.1, 0.1], {}, True),
        ([0.01, 0.01, 0.01, 0.01], {}, False),  # a tenth of the logits, the same classes
        ([0.1, 0.1, 0.1, 0.1], {2: 3 * 32}, False),
        ([0.1, 0.1, 0.1, 0.1], {2: 16}, True),
        ([0.1, 0.1, 0.1, 0.1], dict.fromkeys(range(4), 3 * 32), True),  # probabilities know no common summand
    ],
)
def test_probabilities_are_judged_by_the_logits_that_they_tell(
    scales: list[float], bias: dict[int, int], right: bool, tmp_path: Path
) -> None:
    write_onnx(tokens(scales, bias=bias, softmax=True), tmp_path / "net.onnx")
    found = verify(tmp_path / "net.onnx", tokens([0.1] * 4, softmax=True), [(TOKENS, None)], rounds=0)
    assert (found.largest_steps <= 1.0) is right
    assert np.isfinite(found.largest_steps)


def test_classes_are_compared_at_every_token_along_the_axis_that_is_given(tmp_path: Path) -> None:
    graph, broken = tokens([1.0] * 4), tokens([1.0] * 4, bias={2: 2000})
    write_onnx(broken, tmp_path / "net.onnx")
    found = verify(tmp_path / "net.onnx", graph, [(TOKENS, None)], rounds=0)
    assert found.top1_agreement is None and found.positions == 0  # nobody said where the classes are
    ours, theirs = executor.run(broken, TOKENS), executor.run(graph, TOKENS)
    for axis in (1, 2):
        judge = Judge(class_axis=axis)
        found = verify(tmp_path / "net.onnx", graph, [(TOKENS, theirs.argmax(axis))], judge=judge, rounds=0)
        same = (ours.argmax(axis) == theirs.argmax(axis)).mean()
        assert found.top1_agreement == pytest.approx(same) and found.positions == 16 * 8 // TOKENS.shape[axis]
        assert found.accuracy == pytest.approx(same) and found.reference_accuracy == 1.0
    assert same < 1.0


def test_a_task_is_judged_by_its_own_metric(tmp_path: Path) -> None:
    graph, broken = tokens([1.0] * 4), tokens([1.0] * 4, bias={2: 2000})
    write_onnx(broken, tmp_path / "net.onnx")
    ours, theirs = executor.run(broken, TOKENS), executor.run(graph, TOKENS)

    def judged(objective: Objective, targets: torch.Tensor) -> Verification:
        halves = [(TOKENS[:10], targets[:10]), (TOKENS[10:], targets[10:])]
        return verify(tmp_path / "net.onnx", graph, halves, judge=Judge(objective=objective), rounds=0)

    found = judged(objective_of(nn.functional.mse_loss), torch.from_numpy(TOKENS))
    assert found.top1_agreement is None and found.metric.name == "loss"
    assert found.accuracy == pytest.approx(np.square(ours - TOKENS).mean(), rel=1e-5)
    assert found.reference_accuracy == pytest.approx(np.square(theirs - TOKENS).mean(), rel=1e-5)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.movedim(2, 1), targets)

    truth = theirs.argmax(2)
    found = judged(objective_of(loss, mean_iou(4, class_axis=2), class_axis=2), torch.from_numpy(truth))
    assert found.top1_agreement == pytest.approx((ours.argmax(2) == truth).mean()) and found.positions == 32
    said, classes = ours.argmax(2), np.unique(truth)
    shares = [((said == c) & (truth == c)).sum() / ((said == c) | (truth == c)).sum() for c in classes]
    assert len(classes) == 4 and found.accuracy == pytest.approx(np.mean(shares)) and found.reference_accuracy == 1.0

    found = judged(objective_of(loss, accuracy(2, ignore_index=-100), class_axis=2), torch.full((16, 2), -100))
    assert found.accuracy is None and found.unmeasured is not None and "not ignored" in found.unmeasured


def test_metrics_with_a_state_of_their_own_are_counted_for_each_network(tmp_path: Path) -> None:
    class Mean:
        higher_is_better = False

        def reset(self) -> None:
            self.values: list[float] = []

        def update(self, outputs: torch.Tensor, _targets: torch.Tensor) -> None:
            self.values.append(float(outputs.mean()))

        def compute(self) -> float:
            return sum(self.values) / len(self.values)

    graph, broken = tokens([1.0] * 4), tokens([1.0] * 4, bias={2: 2000})
    write_onnx(broken, tmp_path / "net.onnx")
    judge = Judge(objective=objective_of(nn.functional.mse_loss, Mean()))
    found = verify(tmp_path / "net.onnx", graph, [(TOKENS, torch.from_numpy(TOKENS))], judge=judge, rounds=0)
    assert found.accuracy == pytest.approx(executor.run(broken, TOKENS).mean(), abs=1e-5)
    assert found.reference_accuracy == pytest.approx(executor.run(graph, TOKENS).mean(), abs=1e-5)


def test_the_float_network_is_timed_beside_the_file(graph: IntegerGraph, model: nn.Module, tmp_path: Path) -> None:
    write_onnx(graph, tmp_path / "net.onnx")
    plain = float_onnx(model, X)
    with torch.no_grad():
        session = load_session(plain)
        wanted = nn.Sequential(*model)
        import copy

        from mixbit.quantization import detach

        bare = copy.deepcopy(wanted)
        detach(bare)
        found = session.run(None, {session.get_inputs()[0].name: X[:1].numpy()})[0]
        assert np.allclose(found, bare(X[:1]).numpy(), atol=1e-5)
    timed = verify(tmp_path / "net.onnx", graph, [(X.numpy(), None)], float_model=plain, rounds=2)
    assert set(timed.timings) == {"file", "float32"}


def test_every_session_has_the_threads_that_are_asked_for(
    graph: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the file, that of the network without narrowed layers, and that of the network beside it."""
    given: list[tuple[int, int]] = []

    def loaded(*of: Any, **named: Any) -> Any:
        session = load_session(*of, **named)
        options = session.get_session_options()
        given.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return session

    monkeypatch.setattr(verifying, "load_session", loaded)
    write_onnx(graph, tmp_path / "net.onnx")
    beside = (tmp_path / "net.onnx").read_bytes()
    found = verify(tmp_path / "net.onnx", graph, [(X.numpy(), None)], float_model=beside, threads=3, rounds=1)
    assert found.narrowed and given == [(3, 1)] * 3


def test_opening_a_file_is_told_in_milliseconds(
    graph: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(graph, tmp_path / "net.onnx")
    monkeypatch.setattr(verifying, "time", SimpleNamespace(perf_counter=iter([1.0, 1.25]).__next__))
    assert verify(tmp_path / "net.onnx", graph, [(X.numpy(), None)], rounds=0).session_ms == 250


def test_no_batch_and_another_shape(graph: IntegerGraph, tmp_path: Path) -> None:
    write_onnx(graph, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="at least one batch"):
        verify(tmp_path / "net.onnx", graph, [])
    name = graph.input
    other = replace(graph, tensors={**graph.tensors, name: replace(graph.tensors[name], shape=(2, 7, 7))})
    with pytest.raises(ExportError, match=r"the network takes \(N, 2, 7, 7\)"):
        verify(tmp_path / "net.onnx", other, [(X.numpy(), None)])


def test_batches_are_cut_to_the_number_of_images() -> None:
    batches = [(X[:30], torch.arange(30)), (X[30:], torch.arange(10))]
    assert [len(x) for x, _ in numpy_batches(batches, 35)] == [30, 5]
    assert [len(x) for x, _ in numpy_batches(batches, 12)] == [12]


# ------------------------------------------------------------------------------------------------ processors


def test_the_runtime_is_asked_whether_it_saturates_and_the_answer_is_kept(graph: IntegerGraph, tmp_path: Path) -> None:
    file = write_onnx(graph, tmp_path / "net.onnx", cpu="vnni")
    found = verify(file.path, graph, [(X.numpy(), None)], rounds=0)
    assert found.runtime_saturates is runtime_saturates()
    assert found.right or found.at_risk


@pytest.mark.parametrize("saturates", [False, True])
def test_a_file_for_vnni_names_its_layers_where_the_runtime_saturates(
    graph: IntegerGraph, tmp_path: Path, saturates: bool
) -> None:
    file = write_onnx(graph, tmp_path / "net.onnx", cpu="vnni")
    found = verify(file.path, graph, [(X.numpy(), None)], rounds=0, saturates=lambda: saturates)
    assert found.cpu == "vnni" and found.needs_vnni == tuple(one.name for one in file.layers if one.needs_vnni)
    assert found.needs_vnni and found.at_risk == (found.needs_vnni if saturates else ())
    assert found.narrowed == () and found.unnarrowed_agreement is None


@pytest.mark.parametrize("strict", [False, True])
def test_a_file_for_any_processor_is_never_at_risk(graph: IntegerGraph, tmp_path: Path, strict: bool) -> None:
    file = write_onnx(graph, tmp_path / "net.onnx", strict=strict)
    found = verify(file.path, graph, [(X.numpy(), labels(graph))], rounds=0, saturates=lambda: True)
    assert found.right and found.identical == 1.0 and found.cpu == "any" and found.at_risk == ()
    assert bool(found.narrowed) is not strict
    # The network with its own weights is run beside it; of that one, the labels are the classes.
    assert found.unnarrowed_accuracy == (None if strict else 1.0)
    assert found.unnarrowed_agreement == (None if strict else found.accuracy)


def test_what_wider_steps_cost_is_measured_beside_the_networks_own_weights(tmp_path: Path) -> None:
    """On a classifier whose wider steps turn some of 2000 close decisions."""
    random = np.random.default_rng(0)
    b = Builder((64,), seed=0)
    weight = np.clip(np.rint(random.normal(0, 40, (10, 64))), -128, 127).astype(np.int8)
    graph = b.finish(b.linear(b.first, 10, weight_bits=8, weight=weight, bits=None))
    x = random.standard_normal((2000, 64)).astype(np.float32)
    file = write_onnx(graph, tmp_path / "net.onnx")
    names = [one.name for one in file.layers if one.narrowed]
    own, wider = (executor.run(one, x).argmax(axis=1) for one in (graph, narrow(graph, names)))
    same = float((own == wider).mean())
    assert names and 0.9 < same < 1
    found = verify(file.path, graph, [(x, own)], rounds=0)
    assert (found.top1_agreement, found.unnarrowed_agreement) == (1, pytest.approx(same))
    assert (found.accuracy, found.unnarrowed_accuracy) == (pytest.approx(same), 1)


def _with_metadata(path: Path, text: str) -> Path:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"mixbit": text})
    onnx.save(model, path)
    return path


def test_a_file_that_says_nothing_of_processors_is_verified(graph: IntegerGraph, tmp_path: Path) -> None:
    path = _with_metadata(write_onnx(graph, tmp_path / "net.onnx", strict=True).path, '{"version":1}')
    found = verify(path, graph, [(X.numpy(), None)], rounds=0)
    assert found.right and found.cpu is None and found.narrowed == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not what mixbit export writes"),
        ("[]", "says nothing"),
        ('{"cpu":"amd"}', "is not what mixbit export writes"),
        ('{"cpu":"amd","layers":[],"narrowed":[],"needs_vnni":[]}', "cpu='amd' is unknown"),
        ('{"cpu":"any","layers":[["a",8]],"narrowed":[1],"needs_vnni":[]}', "is not what mixbit export writes"),
        ('{"cpu":"any","layers":[["a",8]],"narrowed":[true],"needs_vnni":[]}', "is not what mixbit export writes"),
        ('{"cpu":"any","fingerprint":"","layers":[["a",8]],"narrowed":[0],"needs_vnni":[]}', "narrows the layer 'a'"),
    ],
)
def test_metadata_that_cannot_be_are_refused(graph: IntegerGraph, tmp_path: Path, text: str, message: str) -> None:
    path = _with_metadata(write_onnx(graph, tmp_path / "net.onnx", strict=True).path, text)
    if message == "says nothing":
        assert verify(path, graph, [(X.numpy(), None)], rounds=0).cpu is None
        return
    with pytest.raises(ExportError, match=message):
        verify(path, graph, [(X.numpy(), None)], rounds=0)


# ------------------------------------------------------------------------------------------------ Predictors


class Given(ArrayPredictor):
    """Of outputs that are given."""

    def __init__(self, outputs: np.ndarray) -> None:
        super().__init__("given", None, (2, 6, 6), batch=len(X))
        self.outputs = outputs

    def _run(self, z: np.ndarray) -> np.ndarray:
        return self.outputs[: len(z)]


def test_a_predictor_is_held_against_the_executor(graph: IntegerGraph, model: nn.Module) -> None:
    """The fake-quantized network, in a space of its own: float sums, and the same classes."""
    space = InputSpace(mean=(0.5, -1.0), std=(2.0, 0.25))
    found = verify_predictor(TorchPredictor(model, space), graph, [(X.numpy(), labels(graph))])
    assert found.images == len(X) and found.top1_agreement == 1.0 and 0 < found.largest_difference < 0.01
    assert found.accuracy == found.reference_accuracy == 1.0
    same = verify_predictor(ExecutorPredictor(graph, space), graph, [(X.numpy()[:7], None), (X.numpy()[7:], None)])
    assert (same.identical, same.largest_difference, same.images, same.accuracy) == (1.0, 0.0, len(X), None)


def test_what_differs_is_counted_and_is_not_right(graph: IntegerGraph) -> None:
    outputs = executor.run(graph, X.numpy())
    wrong = outputs.copy()
    wrong[:4] = -wrong[:4]
    found = verify_predictor(Given(wrong), graph, [(X.numpy(), labels(graph))])
    assert found.identical == pytest.approx(1 - 4 / len(X)) and found.top1_agreement == pytest.approx(1 - 4 / len(X))
    assert found.accuracy == pytest.approx(1 - 4 / len(X)) and found.reference_accuracy == 1.0 and not found.right
    assert found.largest_difference == pytest.approx(2 * np.abs(outputs[:4]).max())


@pytest.mark.parametrize(("digits", "identical"), [(4, 1.0), (32, 0.0)])
def test_the_last_digits_of_the_largest_output_are_no_difference(
    graph: IntegerGraph, digits: int, identical: float
) -> None:
    outputs = executor.run(graph, X.numpy())
    moved = outputs + digits * np.spacing(np.abs(outputs).max())
    assert verify_predictor(Given(moved), graph, [(X.numpy(), None)]).identical == identical


def test_a_predictor_of_other_outputs_or_without_inputs(graph: IntegerGraph) -> None:
    outputs = executor.run(graph, X.numpy())
    with pytest.raises(ExportError, match=r"given gives float32 of shape \(40, 3\), the network gives float32"):
        verify_predictor(Given(outputs[:, :3]), graph, [(X.numpy(), None)])
    with pytest.raises(ExportError, match="given gives NaN or infinity for 40 of 40 images"):
        verify_predictor(Given(outputs * np.nan), graph, [(X.numpy(), None)])
    with pytest.raises(ExportError, match="nothing to verify with"):
        verify_predictor(Given(outputs), graph, [])
