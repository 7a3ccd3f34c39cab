"""The state of a training in one safetensors file: written whole or not at all, read without pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mixbit import _distributed, _io
from mixbit.errors import WeightsError
from mixbit.ledger import check_settings
from mixbit.models import write_weights


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts atomically."""
    write_weights(path, tensors, {"mixbit": json.dumps(facts)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a training was when it was saved, and what it was."""

    epoch: int
    """Number of finished epochs."""
    batch: int
    """Steps taken in the epoch after them."""
    history: list[dict[str, Any]]
    """A record for every finished epoch."""
    settings: dict[str, Any]
    step: dict[str, Any] = field(default_factory=dict)
    """Kind, parameter groups and names of the state of a step that brings some."""
    state: dict[str, Any] = field(default_factory=dict)
    """The plain values of that state."""


def read(path: Path, settings: Mapping[str, Any], *, epochs: int, per_epoch: int) -> tuple[dict[str, Tensor], Place]:
    """The state of a training of these settings, epochs, and steps in each of them.

    Raises:
        WeightsError: no checkpoint, or one that no such training writes; the message says what is wrong with it.
        StaleRun: it was begun with other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("mixbit", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no readable checkpoint: {_first_line(error)}. {_ANEW}") from error
    place = _io.as_record(facts, Place, where=str(path), remedy=_ANEW, error=WeightsError)
    check_same(path, place.settings, json.loads(json.dumps(settings)))
    _check_place(path, place, epochs, per_epoch)
    for name, tensor in tensors.items():
        if name.startswith("step/state/"):
            continue  # what it means, and what is legal, is the step's affair
        # A model's own constants may be infinite, as masks of attention are.
        numbers = tensor.nan_to_num(nan=float("nan")) if name.startswith("model/") else tensor
        if tensor.is_floating_point() and not torch.isfinite(numbers).all():
            raise WeightsError(f"{path} holds numbers in {name!r} that are not finite. {_ANEW}")
    return tensors, place


_ANEW = "Delete it to start again, or give another run folder."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_place(path: Path, place: Place, epochs: int, per_epoch: int) -> None:
    """Refuse numbers of epochs, steps and records that do not belong together."""
    at_the_end = place.epoch == epochs
    for name, found, legal, holds in (
        ("epoch", place.epoch, f"0 to {epochs}", 0 <= place.epoch <= epochs),
        ("batch", place.batch, f"0 to {per_epoch - 1}", 0 <= place.batch < (1 if at_the_end else per_epoch)),
        ("history", len(place.history), f"{place.epoch} records", len(place.history) == place.epoch),
    ):
        if not holds:
            raise WeightsError(
                f"{path} does not fit this training: {name} is {found}, legal is {legal}. The data may have changed. "
                f"{_ANEW}"
            )


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Around putting tensors of a checkpoint back: what does not fit is an error of ours that names the file."""
    try:
        yield
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} does not fit this model or optimizer: {_first_line(error)}. {_ANEW}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = "optimizer") -> dict[str, Tensor]:
    """The optimizer's state as flat tensors, `prefix/number of the parameter/key`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}/{index}/{key}": value
        for index, entries in state.items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str = "optimizer"
) -> None:
    """Put `optimizer_tensors` back, each in the memory layout of its parameter, which fused optimizers rely on."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}/"):
            index, key = name.removeprefix(f"{prefix}/").split("/")
            like = parameters[int(index)]
            if tensor.shape != like.shape and key != "step":
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, its parameter {tuple(like.shape)}")
            laid_out = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            state.setdefault(int(index), {})[key] = laid_out
    wanted = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else {"momentum_buffer"}
    for at, entries in state.items():
        if set(entries) != wanted:
            raise ValueError(f"{prefix}/{at} holds {sorted(entries)}, this optimizer's are {sorted(wanted)}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "model/") -> None:
    """Copy tensors into the model in place, so that memory layout and sharing stay."""
    state = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    model.load_state_dict(state, strict=True)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"parameter {name!r} is not finite")


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of PyTorch's generators: the CPU's, that of the model's device, and those of all other CUDA devices."""
    state = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own = device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())
        state["rng/cuda"] = torch.cuda.get_rng_state(own)
        for index in range(torch.cuda.device_count()):
            state[f"rng/cuda/{index}"] = torch.cuda.get_rng_state(index)
    if torch.backends.mps.is_available():
        state["rng/mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Put `random_state` back, as far as the devices are here.

    The state of the first process goes to all of them, each with a device of its own: its model's device gets that of
    the first one's.
    """
    torch.set_rng_state(tensors["rng/cpu"])
    if torch.cuda.is_available():
        if _distributed.world_size() == 1:
            for index in range(torch.cuda.device_count()):
                if f"rng/cuda/{index}" in tensors:
                    torch.cuda.set_rng_state(tensors[f"rng/cuda/{index}"], index)
        if "rng/cuda" in tensors:
            own = device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())
            torch.cuda.set_rng_state(tensors["rng/cuda"], own)
    if torch.backends.mps.is_available() and "rng/mps" in tensors:
        torch.mps.set_rng_state(tensors["rng/mps"])


def check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than the run was begun with."""
    check_settings(str(path.parent), old, new, "another run folder to begin anew")
