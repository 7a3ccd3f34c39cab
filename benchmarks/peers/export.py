"""ONNX files of mixbit, MCT and Brevitas of the same networks: bytes, weights, whether they load, and CPU time.

    python benchmarks/peers/export.py [--networks resnet20 resnet18] [--rounds 30] [--threads 1] [--fresh | --smoke]

Networks of the zoo with random weights, calibrated on random inputs: neither moves bytes or speed. Every toolkit is
called as its documentation says, and, where that fails or writes more than it needs to, once more with the arguments
that help. A call that fails is a row with the reason. All files of a network are timed in turns in one process, and its
rows are made together; networks that are not asked for keep what the result file has.
"""

from __future__ import annotations

import argparse
import operator
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision_shim  # noqa: F401 (before MCT, which imports torchvision)
from torch import Tensor, nn

# isort: split
import model_compression_toolkit as toolkit
from brevitas.export import export_onnx_qcdq
from brevitas.graph.calibrate import calibration_mode
from brevitas.graph.quantize import COMPUTE_LAYER_MAP, preprocess_for_quantize
from brevitas.graph.quantize import quantize as brevitas_quantize
from brevitas.quant import Int8WeightPerChannelFloat
from brevitas.quant_tensor import QuantTensor
from model_compression_toolkit.exporter import QuantizationFormat, pytorch_export_model
from subject import RESULTS, records, silent_solvers

from mixbit import models
from mixbit.export.float_onnx import float_onnx
from mixbit.export.onnx import write_onnx
from mixbit.export.verify import time_sessions
from mixbit.integer import lower
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize

NETWORKS = {"resnet20": (3, 32, 32), "resnet18": (3, 224, 224), "mobilenetv2": (3, 224, 224)}
WEIGHT_BITS = (4, 8)
"""Of all layers but the first and the last, which have 8; activations have 8 everywhere."""
FILES = records.ROOT / "runs" / "peers_export"
PACKAGES = ("model-compression-toolkit", "brevitas", "onnx", "onnxruntime", "onnxscript", "onnxoptimizer", "torch")
OLD = {"dynamo": False}
"""PyTorch's exporter of before 2.9, which the toolkits were written for."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a toolkit says of the file that it wrote."""

    reported: float | None
    """Bytes of the weights; None if it says nothing."""
    own: nn.Module
    """Its quantized model, which the file should agree with."""
    weights: str | None = None
    """How the file holds the weights, where the types of its tensors do not tell."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of the table before it is made."""

    toolkit: str
    call: str
    """How the exporter was called."""
    policy: str
    make: Callable[[Path], Written]

    @property
    def name(self) -> dict[str, str]:
        """What tells its row from the others of the network."""
        return {"toolkit": self.toolkit, "call": self.call, "policy": self.policy}


@dataclass(slots=True)
class Subject:
    """A network with its inputs."""

    name: str
    x: Tensor = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(4, *NETWORKS[self.name])

    def model(self) -> nn.Module:
        """The float network, the same each time."""
        torch.manual_seed(0)
        return models.build(self.name).eval()

    def policy_bytes(self, bits: int) -> float:
        """Bytes that our policy gives to the weights."""
        network = capture(self.model(), self.x[:1])
        return float(Policy.uniform(network, bits, 8).costs["weight_bytes"])


def attempts(subject: Subject) -> Iterator[Attempt]:
    """Every call of every toolkit; mixbit and the float network first."""
    yield Attempt("float32", "torch.onnx.export", "float32", partial(float_file, subject))
    for bits in WEIGHT_BITS:
        policy = f"W{bits}A8"
        yield Attempt("mixbit", "pack=fields", policy, partial(mixbit_file, subject, bits))
        searched = cache(partial(mct_model, subject, bits))
        for call, kind, arguments in (
            ("default", None, {}),
            ("dynamo=False", None, OLD),
            ("dynamo=False, FAKELY_QUANT", QuantizationFormat.FAKELY_QUANT, OLD),
        ):
            yield Attempt("MCT", call, policy, partial(mct_file, subject, searched, kind, arguments))
        best = {**OLD, "keep_initializers_as_inputs": False}
        for call, bias, arguments in (
            ("default", True, {}),
            ("default, biases in float", False, {}),
            ("dynamo=False, keep_initializers_as_inputs=False", True, best),
        ):
            yield Attempt("Brevitas", call, policy, partial(brevitas_file, subject, bits, bias, arguments))


def float_file(subject: Subject, path: Path) -> Written:
    """The float network by PyTorch's own exporter."""
    model = subject.model()
    path.write_bytes(float_onnx(model, subject.x))
    return Written(float(4 * sum(p.numel() for p in model.parameters() if p.ndim > 1)), model)


def mixbit_file(subject: Subject, bits: int, path: Path) -> Written:
    """Ours, packed."""
    model = subject.model()
    network = capture(model, subject.x[:1])
    quantize(model, Policy.uniform(network, bits, 8), network)
    calibrate(model, [subject.x])
    file = write_onnx(lower(model.eval(), network, [subject.x], rounding="float32"), path, pack="fields")
    weights = Counter({layer.container: 0 for layer in file.layers})
    for layer in file.layers:
        weights[layer.container] += layer.weight_bytes
    return Written(file.policy_bytes, model, weights.most_common(1)[0][0])


def mct_model(subject: Subject, bits: int) -> tuple[nn.Module, float]:
    """Quantized by MCT within the bytes of our policy, and the bytes it reports.

    Its ranges are the largest values: searching better ones takes minutes, and moves neither bytes nor speed.
    """

    def batches() -> Iterator[list[Tensor]]:
        yield [subject.x]

    settings = toolkit.core.MixedPrecisionQuantizationConfig(num_of_images=len(subject.x))
    limit = toolkit.core.ResourceUtilization(weights_memory=subject.policy_bytes(bits))
    ranges = toolkit.core.QuantizationErrorMethod.NOCLIPPING
    plain_ranges = toolkit.core.QuantizationConfig(weights_error_method=ranges, activation_error_method=ranges)
    config = toolkit.core.CoreConfig(plain_ranges, mixed_precision_config=settings)
    with silent_solvers():
        model, info = toolkit.ptq.pytorch_post_training_quantization(subject.model(), batches, limit, config)
    return model.eval(), float(info.final_resource_utilization.weights_memory)


def mct_file(
    subject: Subject,
    searched: Callable[[], tuple[nn.Module, float]],
    kind: QuantizationFormat | None,
    arguments: dict[str, Any],
    path: Path,
) -> Written:
    """MCT's ONNX file; its exporter takes no arguments for PyTorch's, so these are set around the call."""
    model, reported = searched()
    rest = {} if kind is None else {"quantization_format": kind}
    with exporting(**arguments):
        pytorch_export_model(model, str(path), lambda: iter([[subject.x[:1]]]), **rest)
    return Written(reported, model)


@contextmanager
def exporting(**arguments: Any) -> Iterator[None]:
    """PyTorch's exporter with other defaults."""
    original = torch.onnx.export
    torch.onnx.export = partial(original, **arguments)
    try:
        yield
    finally:
        torch.onnx.export = original


def brevitas_file(subject: Subject, bits: int, bias: bool, arguments: dict[str, Any], path: Path) -> Written:
    """Brevitas's QCDQ file."""
    model = brevitas_model(subject, bits, bias=bias)
    export_onnx_qcdq(model, args=subject.x[:1], export_path=str(path), **arguments)
    return Written(None, brevitas_model(subject, bits, bias=bias))


def brevitas_model(subject: Subject, bits: int, *, bias: bool) -> nn.Module:
    """Batch norms merged, and every layer and activation quantized, by Brevitas's own passes over the graph."""

    def weight_bits(module: nn.Module) -> int:
        ends = isinstance(module, nn.Linear) or module.in_channels == subject.x.shape[1]
        return 8 if ends else bits

    # A lambda, since Brevitas asks nothing else for the value of a module.
    extra = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": lambda module: weight_bits(module)}
    extra |= {} if bias else {"bias_quant": None}
    layers = dict(COMPUTE_LAYER_MAP)
    for kind in (nn.Conv2d, nn.Linear):
        layer, settings = layers[kind]
        layers[kind] = (layer, settings | extra)
    traced = preprocess_for_quantize(subject.model(), relu6_to_relu=False)
    model = dequantized_slices(brevitas_quantize(traced, compute_layer_map=layers).eval())
    with torch.no_grad(), calibration_mode(model):
        model(subject.x)
    return model


def dequantized_slices(model: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Take slices of values: Brevitas's QuantTensor is a tuple, and ResNet-20's shortcuts slice what they get."""
    for node in list(model.graph.nodes):
        if node.target is operator.getitem and isinstance(node.args[1], tuple):
            with model.graph.inserting_before(node):
                node.args = (model.graph.call_function(plain, (node.args[0],)), node.args[1])
    model.recompile()
    return model


def plain(x: Any) -> Any:
    """A tensor without its scale."""
    return x.value if isinstance(x, QuantTensor) else x


def made(subject: Subject, attempt: Attempt) -> tuple[dict[str, Any], onnxruntime.InferenceSession | None]:
    """The row of an attempt, and the session of its file if it loads."""
    row: dict[str, Any] = {"loads": False}
    path = FILES / f"{subject.name}-{attempt.toolkit}-{attempt.policy}-{re.sub(r'[^a-zA-Z]+', '_', attempt.call)}.onnx"
    try:
        written = attempt.make(path)
        row |= {"reported_bytes": written.reported, **described(path)}
        row["weights"] = written.weights or row["weights"]
        opened = session(path)
        return row | {"loads": True, "difference": difference(opened, written.own, subject.x)}, opened
    except (Exception, SystemExit) as error:  # another toolkit's failure is a result
        return row | {"failure": reason(error)}, None


def reason(error: BaseException) -> str:
    """Type and first line, and those of the cause where there is one."""
    texts = []
    for one in (error, error.__cause__):
        if one is not None:
            first = re.sub(r"\x1b\[\d*m", "", str(one)).strip().partition("\n")[0]
            texts.append(f"{type(one).__name__}: {first.replace(str(records.ROOT) + '/', '')}")
    return "; caused by ".join(texts)


def described(path: Path) -> dict[str, Any]:
    """Bytes of a file with the data beside it that it refers to, and of its constants by type."""
    model = onnx.load(str(path), load_external_data=False)
    tensors = [*model.graph.initializer]
    tensors += [
        a.t for node in model.graph.node for a in node.attribute if node.op_type == "Constant" and a.name == "value"
    ]
    beside = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    found: Counter[str] = Counter()
    for tensor in tensors:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        found[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += int(np.prod(tensor.dims)) * kind.itemsize
    return {
        "file_bytes": path.stat().st_size + sum((path.parent / name).stat().st_size for name in beside),
        "weights": found.most_common(1)[0][0],
        "constants": dict(found.most_common()),
    }


def session(path: Path) -> onnxruntime.InferenceSession:
    """As ONNX Runtime comes, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(opened: onnxruntime.InferenceSession, own: nn.Module, x: Tensor) -> float | None:
    """Largest difference of an output of the file to the toolkit's own model, over the largest output.

    None where all outputs are zero: MobileNetV2's are near 1e-9 with random weights, and quantized they vanish.
    """
    with torch.no_grad():
        wanted = np.concatenate([plain(own(one[None])).numpy() for one in x])
    name = opened.get_inputs()[0].name
    found = np.concatenate([opened.run(None, {name: one[None].numpy()})[0] for one in x])
    largest = np.abs(wanted).max()
    return float(np.abs(found - wanted).max() / largest) if largest > 0 else None


def measured(subject: Subject, tried: list[Attempt], rounds: int) -> list[dict[str, Any]]:
    """All rows of a network, timed."""
    rows, sessions = [], {}
    for number, attempt in enumerate(tried):
        row, opened = made(subject, attempt)
        rows.append(row)
        if opened is not None:
            sessions[str(number)] = opened
        shown = {key: value for key, value in row.items() if key != "constants"}
        print(subject.name, attempt.name, shown, flush=True)
    found = time_sessions(sessions, subject.x[:1].numpy(), rounds=rounds)
    for number, timing in found.items():
        rows[int(number)] |= {"median_ms": timing.median_ms, "spread_ms": timing.spread_ms}
        rows[int(number)]["speedup"] = found["0"].median_ms / timing.median_ms
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["resnet20", "resnet18"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; ONNX Runtime has one")
    records.arguments(parser)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.networks, given.rounds = ["resnet20"], 1
    FILES.mkdir(parents=True, exist_ok=True)
    results = records.Results(
        "export",
        settings={"rounds": given.rounds, "threads": given.threads},
        libraries=PACKAGES,
        fresh=given.fresh,
        smoke=given.smoke,
        folder=RESULTS,
    )
    # MCT searches for a minute before it writes: it has no part in a smoke run.
    tried = {
        subject.name: (subject, [one for one in attempts(subject) if not given.smoke or one.toolkit != "MCT"])
        for subject in map(Subject, given.networks)
    }
    names = {name: [{"network": name, **one.name} for one in found] for name, (_, found) in tried.items()}
    if results.plan([of for several in names.values() for of in several]):
        results.facts(versions=records.versions(PACKAGES), rounds=given.rounds)
    for name, (subject, found) in tried.items():
        results.group(names[name], lambda subject=subject, found=found: measured(subject, found, given.rounds))  # type: ignore[misc]


if __name__ == "__main__":
    main()
