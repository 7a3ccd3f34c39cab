"""A user's checkout of CMSIS-NN: whether it is one, and which of its files a network needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mixbit.errors import ExportError
from mixbit.export.c._manifest import read_manifest

__all__ = ["SINGLE_ROUNDING", "Checkout", "Library", "library_of", "open_checkout"]

SINGLE_ROUNDING = "CMSIS_NN_USE_SINGLE_ROUNDING"
"""With this macro all of CMSIS-NN rounds once, without it twice."""
_FOLDERS = ("ConvolutionFunctions", "FullyConnectedFunctions", "NNSupportFunctions")
_HEADER = "Include/arm_nnfunctions.h"
_NEEDED = ("arm_convolve_wrapper_s8", "arm_depthwise_conv_wrapper_s8")
_FLOAT = re.compile(r"_(f16|f32|flt)\.c$")
_DEFINITION = re.compile(r"^[A-Za-z_][\w \t*]*?\b(arm_\w+)\s*\([^;{}]*\)\s*\{", re.MULTILINE)
_NAME = re.compile(r"\barm_\w+")
_HOW = "Get it: git clone https://github.com/ARM-software/CMSIS-NN, and give that folder."


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with CMSIS-NN, and where its functions are."""

    path: Path
    defined: dict[str, str]
    """Function -> its file below `Source`."""
    used: dict[str, frozenset[str]]
    """File -> names of functions that are in it."""

    def sources(self, functions: Iterable[str]) -> tuple[str, ...]:
        """Files below `Source` that have the functions, and all that those call."""
        found, open_ = set[str](), [self.defined[name] for name in functions]
        while open_:
            file = open_.pop()
            if file not in found:
                found.add(file)
                open_ += [self.defined[name] for name in self.used[file] if name in self.defined]
        return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Library:
    """What of CMSIS-NN is compiled with a written folder."""

    include: Path
    sources: tuple[Path, ...]
    defines: tuple[str, ...]


def open_checkout(path: Path) -> Checkout:
    """Look into a checkout.

    Raises:
        ExportError: it is none, its version is too old, or its path cannot stand in a Makefile.
    """
    if re.search(r"[\s$#:]", str(path)):
        raise ExportError(
            f"CMSIS-NN in {str(path)!r}: make cannot have white space, '$', '#' or ':' in a path. Move it."
        )
    if not (path / _HEADER).is_file():
        raise ExportError(f"{path} is not a checkout of CMSIS-NN: {_HEADER} is missing. {_HOW}")
    texts = {
        file.relative_to(path / "Source").as_posix(): file.read_text(encoding="utf-8", errors="replace")
        for folder in _FOLDERS
        for file in sorted((path / "Source" / folder).glob("*.c"))
        if not _FLOAT.search(file.name)
    }
    defined = {name: file for file, text in texts.items() for name in _DEFINITION.findall(text)}
    missing = [name for name in _NEEDED if name not in defined]
    if missing:
        raise ExportError(f"{path} is not a checkout of CMSIS-NN: no file of Source defines {missing[0]}. {_HOW}")
    return Checkout(path, defined, {file: frozenset(_NAME.findall(text)) for file, text in texts.items()})


def library_of(folder: Path) -> Library | None:
    """What a written folder needs of CMSIS-NN; None where it needs nothing.

    Raises:
        ExportError: the checkout is not where it was.
    """
    found = read_manifest(folder).cmsis_nn
    if found is None or not found.sources:
        return None
    path = Path(found.path)
    sources = tuple(path / "Source" / name for name in found.sources)
    absent = [source for source in sources if not source.is_file()]
    if absent:
        raise ExportError(f"{absent[0]} is not there any more. Export again with --cmsis-nn and where CMSIS-NN is now.")
    return Library(path / "Include", sources, (SINGLE_ROUNDING,) if found.rounding == "single" else ())
