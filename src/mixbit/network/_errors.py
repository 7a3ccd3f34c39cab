"""Capture errors that name the user's line and module."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from types import FrameType

import torch
from torch import nn

from mixbit.errors import CaptureError
from mixbit.network._inputs import Inputs

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_STANDARD = sysconfig.get_paths()["stdlib"]
_INSTALLED = sysconfig.get_paths()["purelib"]


@contextmanager
def running(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Around a plain run of the model: what it raises is the user's error, not one of capture."""
    try:
        yield
    except Exception as error:
        raise CaptureError(
            f"the model does not run on the example inputs {inputs.describe()}: {_first_line(error)}"
            f"{_where(model, error)}. Give inputs that model(...) accepts, with the batch as first dimension."
        ) from error


def cannot_export(model: nn.Module, error: BaseException) -> CaptureError:
    """The model runs, but torch.export cannot follow it."""
    where = _where(model, error)
    remedy = (
        "Keep that line in tensor operations of torch (no .numpy(), no third-party code on tensors), or move it out of"
        " forward."
        if where
        else "Let forward take and return tensors, tuples, lists and dicts (for transformers: use_cache=False)."
    )
    return CaptureError(f"torch.export cannot follow the model: {_first_line(error)}{where}. {remedy}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *(shorten(line.rstrip("."), 240) for line in lines[:1])])


def _where(model: nn.Module, error: BaseException) -> str:
    """` at file:line in forward: `code` (module 'fc', Linear)`, as far as the traceback tells."""
    frames = list(_frames(error))
    text = ""
    for frame, line in reversed(frames):
        if _is_users(frame.f_code.co_filename):
            name = frame.f_code.co_filename
            code = linecache.getline(name, line).strip()
            text = f", at {name}:{line} in {frame.f_code.co_name}: `{code}`"
            break
    return text + _module(model, frames)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame, step.tb_lineno
        step = step.tb_next


def _is_users(file: str) -> bool:
    """Not torch, not capture, not the standard library; packages that hold models count as the user's."""
    if file.startswith((_TORCH, _HERE, "<")):
        return False
    return file.startswith(_INSTALLED) or not file.startswith(_STANDARD)


def _module(model: nn.Module, frames: list[tuple[FrameType, int]]) -> str:
    """The innermost module whose forward was running."""
    names = {id(module): name for name, module in model.named_modules()}
    for frame, _ in reversed(frames):
        name = names.get(id(frame.f_locals.get("self")))
        if name:
            return f" (module {name!r}, {type(frame.f_locals['self']).__name__})"
    return ""
