"""Sessions of ONNX Runtime, with errors that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mixbit import _io
from mixbit.errors import ExportError, MissingExtra
from mixbit.export._onnx_functions import DOMAIN

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["load_session"]

# A serialized model starts with the field of its IR version.
_FIRST_BYTE = b"\x08"
# Kind of error, and where in the runtime's source it was raised, which says nothing to a user.
_SOURCE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+ .*?\) (?=[A-Z]))?")


def load_session(
    source: str | os.PathLike[str] | bytes, *, threads: int = 1, attributes: Mapping[str, object] | None = None
) -> InferenceSession:
    """A session of ONNX Runtime on the CPU, with its default optimizations.

    Args:
        source: a file, or its content.
        threads: threads of one operation.
        attributes: further attributes of `onnxruntime.SessionOptions`, such as `enable_profiling`.

    Raises:
        MissingExtra: onnxruntime is not installed.
        ExportError: `threads` is below 1; or the file is missing, truncated, no ONNX model, or newer than the runtime.
    """
    try:
        import onnxruntime
    except ImportError as cause:
        raise MissingExtra("Running an ONNX file needs onnxruntime: pip install 'mixbit[export]'.") from cause
    if threads < 1:
        raise ExportError(f"threads={threads}, legal is 1 or more.")
    name, content = (
        ("the model", source)
        if isinstance(source, bytes)
        else (repr(str(source)), _io.read_bytes(source, error=ExportError))
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Failures become exceptions, here or in `run`; the runtime need not print them as well.
    options.log_severity_level = 4
    for attribute, value in (attributes or {}).items():
        setattr(options, attribute, value)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # the runtime's exceptions have no base class but this
        raise ExportError(_explain(name, content, str(cause), onnxruntime.__version__)) from cause


def _explain(name: str, content: bytes, reason: str, version: str) -> str:
    """What is wrong, and the remedy."""
    runtime, first = f"ONNX Runtime {version}", _SOURCE.sub("", (reason or "no reason given").splitlines()[0])
    if not content.startswith(_FIRST_BYTE):
        return f"{name} is no ONNX model. Legal: a file of `mixbit export`, or any other ONNX file."
    if "INVALID_PROTOBUF" in reason or "Protobuf parsing failed" in reason or not _whole(content):
        return f"{name} is truncated or damaged ({len(content)} bytes). Export or copy it again."
    if "IR version" in reason or "opset" in reason.lower():
        return f"{name} needs a newer runtime than {runtime}: pip install -U onnxruntime. It says: {first}"
    if "xternal data" in reason:
        return (
            f"{name} keeps weights in another file, which is not read. Write it as one: "
            "onnx.save(onnx.load(PATH), NEW_PATH)."
        )
    return f"{runtime} cannot load {name}. Export it again, or with other settings. It says: {first}"


def _whole(content: bytes) -> bool:
    """Whether nothing is missing at the end: a cut between two fields leaves a smaller file that can still be parsed.

    Operator sets follow the graph, and functions follow both.
    """
    try:
        import onnx
    except ImportError:  # the runtime alone is there, and its own words must do
        return True
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception:  # protobuf's DecodeError; protobuf ships no types
        return False
    written = {function.name for function in model.functions}
    called = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    return bool(model.graph.node) and bool(model.opset_import) and called <= written
