"""One torch.export of a network and not ten: for tests of runs, which open the same network again and again.

Following a network takes a second and more, and a run does it at every command. A program is given again only where the
modules are of the same classes and all that they hold is the same, to which tensors are shared. Values of parameters
and of buffers may differ: torch.export sees none of them, and what a program says of them is read from the model that
asks. Tests of the capture itself are without this.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._pytree import tree_flatten
from torch.utils.hooks import RemovableHandle

from tests.warm import one_onnx_registry

if TYPE_CHECKING:
    from mixbit.network._inputs import Inputs

_KNOWN: dict[object, Any] = {}
_MOST = 100


class _Content(pickle.Pickler):
    """Writes what a module holds: a digest in the place of a tensor, and of parameters and buffers only their form.

    PyTorch counts all hooks of a process. A hook has here the number that it has among those of its network.
    """

    def __init__(self, stream: io.BytesIO, model: nn.Module) -> None:
        super().__init__(stream)
        self._registered = {id(one) for one in (*model.parameters(), *model.buffers())}
        self._hooks = {id(held) for one in model.modules() for name, held in vars(one).items() if "_hooks" in name}
        self._numbers: dict[int, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            form = (str(obj.dtype), str(obj.device), obj.shape, obj.stride(), obj.requires_grad)
            return tuple, ((type(obj).__name__, None if id(obj) in self._registered else _digest(obj), form),)
        if id(obj) in self._hooks and isinstance(obj, OrderedDict):
            return OrderedDict, (), None, None, iter([(self._number(key), hook) for key, hook in obj.items()])
        if isinstance(obj, RemovableHandle):
            return tuple, (("handle", obj.hooks_dict_ref(), self._number(obj.id)),)
        return NotImplemented

    def _number(self, of: int) -> int:
        return self._numbers.setdefault(of, len(self._numbers))


def _digest(tensor: torch.Tensor) -> bytes:
    """Of its values."""
    data = tensor.detach().contiguous().flatten()
    return hashlib.sha256(data.view(torch.uint8).numpy().tobytes()).digest()


def content(model: nn.Module, inputs: Inputs) -> tuple[object, ...]:
    """What tells a network and its inputs from another, as far as a graph depends on them.

    Raises:
        Exception: something of it cannot be written down.
    """
    stream = io.BytesIO()
    leaves, shape = tree_flatten((inputs.args, inputs.kwargs))
    told = [(leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    _Content(stream, model).dump((model, told, str(shape), inputs.batch))
    modules = tuple(model.modules())
    code = tuple((type(one), one.forward.__func__) for one in modules)  # type: ignore[attr-defined]
    return hashlib.sha256(stream.getvalue()).digest(), code, torch.is_grad_enabled()


def remembering(real: Callable[[nn.Module, Inputs], Any]) -> Callable[[nn.Module, Inputs], Any]:
    """`_export.export`, which follows networks that are alike once."""

    def export(model: nn.Module, inputs: Inputs) -> Any:
        try:
            key: object = content(model, inputs)
            hash(key)
        except Exception:
            return real(model, inputs)
        if key not in _KNOWN:
            if len(_KNOWN) == _MOST:
                del _KNOWN[next(iter(_KNOWN))]  # the oldest
            _KNOWN[key] = real(model, inputs)
        return _KNOWN[key]

    return export


@contextmanager
def remembered_exports() -> Iterator[None]:
    """Networks that are alike are followed once, and PyTorch's exporter to ONNX makes its table of functions once."""
    from mixbit.network import _export

    with suppress(ImportError):
        one_onnx_registry()
    with patch.object(_export, "export", remembering(_export.export)):
        yield
