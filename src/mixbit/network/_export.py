"""torch.export with the model in evaluation mode, quietly, and with the batch as a symbol where that works."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.fx import config as fx_config

from mixbit.network._inputs import Inputs
from mixbit.network._sizes import Sizes

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# What PyTorch raises when a branch, a loop or a shape depends on the values of a tensor.
_DATA_DEPENDENT = {
    "DataDependent",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "GuardOnDataDependentSymNode",
    "PendingUnbackedSymbolNotFound",
}


class ExportFailed(Exception):
    """torch.export could not follow the model; the cause is what it raised."""


def export(model: nn.Module, inputs: Inputs) -> tuple[ExportedProgram, Sizes]:
    """Export with a symbolic batch; if the model does not allow that, with the batch of the example.

    Raises:
        ExportFailed: from whatever torch.export raised for the example as it was given.
    """
    with _quiet(), _without_stack_traces():
        try:
            return _export_dynamic(model, inputs if inputs.batch > 1 else inputs.doubled())
        except Exception:
            # Models that hold a batch size in their code, or a shape that torch cannot follow for all batches.
            return _export_static(model, inputs)


def _export_static(model: nn.Module, inputs: Inputs) -> tuple[ExportedProgram, Sizes]:
    try:
        exported = torch.export.export(model, inputs.args, inputs.kwargs, strict=False)
    except Exception as error:
        raise ExportFailed from error
    return exported, Sizes(frozenset(), inputs.batch)


def _export_dynamic(model: nn.Module, inputs: Inputs) -> tuple[ExportedProgram, Sizes]:
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    batched = [tensor for tensor in inputs.tensors() if inputs.is_batched(tensor)]
    for tensor in batched:
        shapes[tensor] = {0: torch.export.Dim.AUTO}
    dynamic = shapes.dynamic_shapes(model, inputs.args, inputs.kwargs)  # type: ignore[no-untyped-call]
    exported = torch.export.export(model, inputs.args, inputs.kwargs, dynamic_shapes=dynamic, strict=False)
    symbols = frozenset(_batch_symbols(exported, inputs))
    return exported, Sizes(symbols, 1 if symbols else inputs.batch)


def _batch_symbols(exported: ExportedProgram, inputs: Inputs) -> Iterator[object]:
    """Free symbols of the inputs' first dimensions; none where torch found that the batch must be a constant."""
    names = set(exported.graph_signature.user_inputs)
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in names and isinstance(value, torch.Tensor) and value.dim():
            size: object = value.shape[0]
            if isinstance(size, torch.SymInt):
                yield from size.node.expr.free_symbols


def is_data_dependent(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that the graph depends on values."""
    cause: BaseException | None = error
    while cause is not None:
        if any(kind.__name__ in _DATA_DEPENDENT for kind in type(cause).__mro__):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients and without the fused path of attention; everything is put back at the end.

    The flags are set one by one, so that neither `train` nor `eval` of the user's classes runs.
    """
    flags = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        for module, flag in flags:
            stack.callback(setattr, module, "training", flag)
            module.training = False
        # The fused path would hide the projections of attention in one operator.
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs and prints whole graphs when it fails, and warns of attributes that it puts back."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.filterwarnings("ignore", message="The tensor attribute")
        try:
            logging.disable(logging.CRITICAL)
            yield
        finally:
            logging.disable(disabled)


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """torch.export writes down for every operator which lines of code led to it, a sixth of its time: nothing reads it.

    What it raises names lines all the same. Older versions of PyTorch have no such setting.
    """
    before = getattr(fx_config, "do_not_emit_stack_traces", None)
    if before is None:
        yield
        return
    fx_config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx_config.do_not_emit_stack_traces = before
