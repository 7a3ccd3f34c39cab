"""Weights files into models and back: safetensors, or PyTorch files read without unpickling code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mixbit import _io
from mixbit.errors import WeightsError

__all__ = ["load_weights", "read_weights", "write_weights"]

_SHOWN = 8


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load the weights of a file into `model`, in place, and return it.

    Every parameter and buffer must be in the file with the same shape and every tensor of the file must have a place,
    except BatchNorm's `num_batches_tracked` counters, which inference does not need.

    Args:
        model: any module.
        path: `.safetensors`; or `.pth`, `.pt`, `.th`, `.ckpt`, read with `weights_only=True`: a state_dict, or a dict
            with one under `state_dict` or `model`. A leading `module.` (DataParallel) is stripped.

    Raises:
        WeightsError: the file is missing, unreadable, would need unpickling, does not fit the model (the message lists
            the missing, unexpected and mis-shaped keys) or holds NaN or infinity. The model is then unchanged.
    """
    state = read_weights(path)
    own = model.state_dict()
    for place, module in model.named_modules():
        for key in getattr(module, "later_state", ()):  # a state of the first version is read without them
            if (name := f"{place}.{key}".removeprefix(".")) not in state:
                own.pop(name, None)
    problems = [*_mismatches(own, state), *_of_a_policy(own, state)] or _misfits(model, state) or _non_finite(state)
    if problems:
        raise WeightsError(f"{str(path)!r} does not fit {type(model).__name__}: " + "; ".join(problems) + ".")
    model.load_state_dict(state, strict=False)
    return model


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the named tensors of a weights file, on the CPU.

    Raises:
        WeightsError: as `load_weights`.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"No weights file at {str(path)!r}.")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if file.suffix in {".pth", ".pt", ".th", ".ckpt", ".bin"}:
        return _read_torch(file)
    legal = ".safetensors, .pth, .pt, .th, .ckpt, .bin"
    raise WeightsError(f"{str(path)!r} has the suffix {file.suffix!r}; weights are read from {legal}.")


def write_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as a safetensors file, whole or not at all; tied ones are written apart, each by its name.

    Args:
        path: the file.
        tensors: of any device and memory layout, such as a state_dict.
        metadata: texts beside them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_weights(f"{folder}/a.safetensors", {"w": torch.eye(2)})
    ...     read_weights(f"{folder}/a.safetensors")["w"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    from safetensors.torch import save

    _io.write_bytes(path, save(_unshared(tensors), metadata=None if metadata is None else dict(metadata)))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them: on the CPU, contiguous, and each name with memory of its own (tied weights share it).

    >>> weight = torch.zeros(2, 2)
    >>> apart = _unshared({"a": weight, "b": weight, "c": weight[0]})
    >>> len({t.data_ptr() for t in apart.values()})
    3
    """
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        memory = held.untyped_storage().data_ptr()
        out[name] = held.clone() if memory in seen else held
        seen.add(memory)
    return out


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as cause:
        raise WeightsError(f"{str(file)!r} is not a readable safetensors file: {cause}.") from cause


def _read_torch(file: Path) -> dict[str, Tensor]:
    import pickle

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise WeightsError(
            f"{str(file)!r} holds pickled Python objects besides tensors, and loading those would run code from the "
            "file; mixbit does not. If you trust it, convert it once: "
            "m = torch.load(FILE, weights_only=False); state = m if isinstance(m, dict) else m.state_dict(); "
            "safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, 'weights.safetensors')."
        ) from cause
    except Exception as cause:  # torch.load reports a damaged file in half a dozen ways, RuntimeError to EOFError.
        raise WeightsError(f"{str(file)!r} is not a readable PyTorch file: {cause}.") from cause
    return _state_dict(content, file)


def _state_dict(content: object, file: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{str(file)!r} holds a {type(content).__name__}, not a state_dict of named tensors.")
    foreign = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise WeightsError(f"{str(file)!r} holds values that are no tensors: {_some(foreign)}; save a state_dict.")
    unusual = [str(key) for key, value in content.items() if value.is_meta or value.is_quantized or _is_sparse(value)]
    if unusual:
        raise WeightsError(
            f"{str(file)!r} holds tensors that are sparse, quantized, or on the meta device: {_some(unusual)}; save "
            "dense ones with numbers."
        )
    # DataParallel puts its prefix before every key; a model may have a part of its own called `module`.
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""
    return {str(key).removeprefix(prefix): value for key, value in content.items()}


def _is_sparse(value: Tensor) -> bool:
    return value.layout is not torch.strided


def _mismatches(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What keeps `state` from fitting, in words; empty if it fits."""
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own and not key.endswith("num_batches_tracked")]
    shapes = [
        f"{key} (file {tuple(state[key].shape)}, model {tuple(own[key].shape)})"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    return [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds.items() if keys]


def _of_a_policy(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What a file says that was trained under a policy, for a model that is in float."""
    quantizers = [key for key in state if key not in own and "_quantizer." in key]
    remedy = "it was trained under a policy: give the float weights, or the run folder itself where a command takes one"
    return [remedy] if quantizers and not any("_quantizer." in key for key in own) else []


def _misfits(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What the model's own modules say against a state of the right shapes, such as one of other bits."""
    found = []
    for path, module in model.named_modules():
        misfit = getattr(module, "misfit", None)
        problem = misfit(state, f"{path}." if path else "") if callable(misfit) else None
        found += [str(problem)] if problem else []
    return found[:1] + ([f"{len(found) - 1} more of the kind"] if len(found) > 1 else [])


def _non_finite(state: Mapping[str, Tensor]) -> list[str]:
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    return [f"NaN or infinity in {_some(bad)}"] if bad else []


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
