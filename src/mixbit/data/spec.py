"""Data named in one string: `cifar10:DIR`, `imagefolder:DIR?size=160`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mixbit import _io
from mixbit._settings import read_options, read_pairs
from mixbit.data import _quality_spec, noisy
from mixbit.data.base import DataSet
from mixbit.errors import DataError, did_you_mean, shown

__all__ = ["Source", "digest", "load", "parse_spec", "sources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One kind of data that a spec can name."""

    module: str
    function: str
    argument: str = ""
    """What follows the colon, for messages; empty: nothing does."""
    summary: str


_SOURCES: dict[str, Source] = {
    "digits": Source(module="digits", function="digits", summary="scikit-learn's 1797 handwritten digits, embedded"),
    "cifar10": Source(module="cifar10", function="cifar10", argument="DIR", summary="the standard binary files"),
    "fashion-mnist": Source(
        module="fashion_mnist", function="fashion_mnist", argument="DIR", summary="the standard idx files, .gz or plain"
    ),
    "imagefolder": Source(
        module="imagefolder", function="imagefolder", argument="DIR", summary="DIR/train/CLASS/*, DIR/val/CLASS/*"
    ),
    "hf": Source(module="hf", function="hf", argument="NAME", summary="the datasets package: a hub name or a folder"),
}


def sources() -> Mapping[str, Source]:
    """The kinds of data that `load` knows, by name."""
    return dict(_SOURCES)


def load(
    spec: str, *, seed: int = 0, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> DataSet:
    """Load a data set named by a string.

    Args:
        spec: `digits`, `cifar10:DIR`, `fashion-mnist:DIR`, `imagefolder:DIR` or `hf:NAME`, with options behind a
            question mark: `imagefolder:DIR?size=160&workers=4`, `cifar10:DIR?mean=0.49,0.48,0.45&std=0.25,0.24,0.26`.
            Every kind of data takes `corrupt=KIND&severity=3` (the test split alone), `quality=mixed` (both splits; see
            `MixedQuality`) and `noise=SIGMA` (the training split alone; see `NoisySplit`) as well.
        seed: draws the split of data that come without one (digits, and `hf` data without a test part). Keep it fixed
            for all commands on one network, or a model is tested on what it was trained on.
        mean: instead of the data set's own, one number a channel on the scale of pixel / 255.
        std: the same.

    Raises:
        DataError: an unknown name or option, or data that are missing, damaged or mislabelled.
        MissingExtra: a package that this kind of data needs is not installed.
    """
    name, argument, given_options = parse_spec(spec)
    quality, options = _quality_spec.split_options(given_options, spec)
    noise, options = noisy.split_options(options, spec)
    function = _function(name)
    given: dict[str, object] = {} if mean is None else {"mean": mean}
    given |= {} if std is None else {"std": std}
    given |= _typed(function, options, spec)
    if "seed" in inspect.signature(function).parameters:
        given.setdefault("seed", seed)
    with _io.filesystem():
        found = function(argument, **given) if _SOURCES[name].argument else function(**given)
    found = found if quality is None else quality.applied(found)
    return found if noise is None else noise.applied(found)


def digest(spec: str) -> str | None:
    """Digest of the files behind a spec, wherever they lie; None for embedded data and for a name on the hub.

    Raises:
        DataError: an unknown name, or files that are missing.

    >>> digest("digits") is None
    True
    """
    name, argument, _ = parse_spec(spec)
    module = import_module(f"mixbit.data.{_SOURCES[name].module}")
    return _io.digest_all(Path(argument), module.files(argument)) if hasattr(module, "files") else None


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Cut a spec into name, argument and options.

    Raises:
        DataError: an unknown name, an argument missing or too many, or a malformed option.

    >>> parse_spec("imagefolder:pets?size=160&workers=2")
    ('imagefolder', 'pets', {'size': '160', 'workers': '2'})
    """
    body, _, tail = spec.partition("?")
    name, colon, argument = body.partition(":")
    if name not in _SOURCES:
        legal = ", ".join(f"{kind}:{source.argument}".rstrip(":") for kind, source in _SOURCES.items())
        raise DataError(f"Unknown data {shown(spec)}; there are: {legal}.{did_you_mean(name, _SOURCES)}")
    wanted = _SOURCES[name].argument
    if wanted and not argument:
        raise DataError(f"{shown(spec)} names no data; write {name}:{wanted}.")
    if colon and not wanted:
        raise DataError(f"{shown(spec)}: {name} is embedded and takes nothing behind a colon; write {name}.")
    return name, argument, _options(spec, tail)


def _options(spec: str, tail: str) -> dict[str, str]:
    pairs = filter(None, tail.split("&"))
    return read_pairs(pairs, where=shown(spec), form="?name=value&name=value", error=DataError)


def _function(name: str) -> Callable[..., DataSet]:
    source = _SOURCES[name]
    function: Callable[..., DataSet] = getattr(import_module(f"mixbit.data.{source.module}"), source.function)
    return function


def _typed(function: Callable[..., DataSet], options: Mapping[str, str], spec: str) -> dict[str, object]:
    """Options in the types that the function's annotations name."""
    parameters = inspect.signature(function).parameters
    legal = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in legal:
            everywhere = (*_quality_spec.OPTIONS, *noisy.OPTIONS)
            known, near = ", ".join(sorted(legal)), did_you_mean(option, [*legal, *everywhere])
            raise DataError(f"{shown(spec)}: unknown option {option!r}; there are: {known}.{near}")
    return read_options(function, options, where=shown(spec), error=DataError)
