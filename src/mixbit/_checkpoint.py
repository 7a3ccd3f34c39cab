"""The state of a training in one safetensors file: written whole or not at all, read without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mixbit import _io
from mixbit.errors import StaleRun, WeightsError


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts atomically."""
    _io.write_bytes(path, save(unshared(tensors), metadata={"mixbit": json.dumps(facts)}))


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them: on the CPU, contiguous, and each name with memory of its own (tied weights share it).

    >>> weight = torch.zeros(2, 2)
    >>> apart = unshared({"a": weight, "b": weight, "c": weight[0]})
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


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("mixbit", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is no readable checkpoint: {error}. Delete it to start again.") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer/{index}/{key}": value
        for index, entries in state.items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimizer_tensors` back, each in the memory layout of its parameter, which fused optimizers rely on."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            like = parameters[int(index)]
            laid_out = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            state.setdefault(int(index), {})[key] = laid_out
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "model/") -> None:
    """Copy tensors into the model in place, so that memory layout and sharing stay."""
    state = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    model.load_state_dict(state, strict=True)


def random_state() -> dict[str, Tensor]:
    """State of PyTorch's generators, of every device that has one in use."""
    state = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["rng/cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Put `random_state` back, as far as the devices are here."""
    torch.set_rng_state(tensors["rng/cpu"])
    if "rng/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng/cuda"])


def check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than the run was begun with."""
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise StaleRun(
                f"{path.parent} was begun with {key}={old.get(key)!r}, now {key}={new.get(key)!r}. "
                "Give the old value to go on with it, or another run folder to begin anew."
            )
