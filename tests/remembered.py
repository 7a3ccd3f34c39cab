"""One torch.export of a network and not ten: for tests of runs, which open the same network again and again.

Following a network takes a second and more, and a run does it at every command. A program is given again only where the
modules are of the same classes and all that they hold is the same, to the values of tensors and to which of them are
shared. Tests of the capture itself are without this.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from tests.warm import one_onnx_registry

if TYPE_CHECKING:
    from mixbit.network._inputs import Inputs

_KNOWN: dict[object, Any] = {}
_MOST = 100


class _Content(pickle.Pickler):
    """Writes what a module holds, with a digest in the place of a tensor."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            data = obj.detach().contiguous()
            digest = hashlib.sha256(data.flatten().view(torch.uint8).numpy().tobytes()).digest()
            return tuple, ((type(obj).__name__, digest, str(data.dtype), obj.shape, obj.requires_grad),)
        return NotImplemented


def content(model: nn.Module, inputs: Inputs) -> tuple[object, ...]:
    """What tells a network and its inputs from another, as far as a graph depends on them.

    Raises:
        Exception: something of it cannot be written down.
    """
    stream = io.BytesIO()
    leaves, shape = tree_flatten((inputs.args, inputs.kwargs))
    told = [(leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    _Content(stream).dump((model, told, str(shape), inputs.batch))
    modules = tuple(model.modules())
    code = tuple((type(one), one.forward.__func__) for one in modules)  # type: ignore[attr-defined]
    return hashlib.sha256(stream.getvalue()).digest(), code, torch.is_grad_enabled()


@contextmanager
def remembered_exports() -> Iterator[None]:
    """Networks that are alike are followed once, and PyTorch's exporter to ONNX makes its table of functions once."""
    from mixbit.network import _export

    with suppress(ImportError):
        one_onnx_registry()

    real = _export.export

    def export(model: nn.Module, inputs: Inputs) -> Any:
        try:
            key: object = content(model, inputs)
            hash(key)
        except Exception:
            return real(model, inputs)
        if key not in _KNOWN:
            if len(_KNOWN) == _MOST:
                _KNOWN.clear()
            _KNOWN[key] = real(model, inputs)
        return _KNOWN[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_export, "export", export)
        yield
