"""Settings, wherever they come from: read and checked by the annotations of the dataclass or function that takes them.

A command's `--set`, a method's `?key=value`, the options of a data spec, a file, and the dataclass built in Python all
come by here, so that a value is legal everywhere or nowhere. Ranges stand in the annotation, as `Range`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mixbit._bits import COMMON_BITS
from mixbit.errors import MixbitError, did_you_mean, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_FRACTION = re.compile(r"[0-9]{1,9}/[1-9][0-9]{0,8}")
LARGEST = 2**63 - 1
"""The largest whole number without a range of its own: what files, generators and tensors can hold."""
LARGEST_COUNT = 1_000_000_000
"""The largest number of images, samples and the like."""
LARGEST_EPOCHS = 1_000_000

LARGEST_SIDE = 4096
"""The largest side of an image, in pixels: its three channels are then 200 MB as float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bounds of a number, as metadata: `Annotated[float, Range(above=0)]`; NaN and infinity are never legal."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the number is within."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def words(self) -> str:
        """The bounds in the words of messages.

        >>> Range(least=1).words(), Range(least=0, most=1).words(), Range(above=0, most=1).words()
        ('from 1 up', 'from 0 to 1', 'above 0, at most 1')
        """
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        parts = [f"from {self.least} up"] if self.least is not None else []
        parts += [f"above {self.above}"] if self.above is not None else []
        parts += [f"at most {self.most}"] if self.most is not None else []
        return ", ".join([*parts, *([f"below {self.below}"] if self.below is not None else [])])


Count = Annotated[int, Range(least=1, most=LARGEST_COUNT)]
Amount = Annotated[int, Range(least=0, most=LARGEST_COUNT)]
Epochs = Annotated[int, Range(least=1, most=LARGEST_EPOCHS)]
Seed = Annotated[int, Range(least=0, most=LARGEST)]
Side = Annotated[int, Range(least=1, most=LARGEST_SIDE)]
"""Height and width of an image."""
Bits = Annotated[int, Range(least=COMMON_BITS[0], most=COMMON_BITS[-1])]
"""A bit-width of weights, or of weights and activations alike."""
NotNegative = Annotated[float, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(least=0, most=1)]
"""0 to 1, both included."""
Part = Annotated[float, Range(above=0, most=1)]
"""A share of something that must not be empty."""


def check(settings: DataclassInstance, *, room: str = "", error: type[MixbitError] = MixbitError) -> None:
    """For `__post_init__`: raise `error` unless every field is what its annotation says.

    >>> @dataclass(frozen=True)
    ... class Example:
    ...     images: Count = 8
    ...     rule: Literal["mse", "minmax"] = "mse"
    ...     def __post_init__(self) -> None:
    ...         check(self)
    >>> Example(images=True)
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: images=True is illegal. Legal: a whole number from 1 to 1000000000.
    >>> Example(rule="minmay")
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: rule='minmay' is illegal. Did you mean 'minmax'? Legal: 'mse' or 'minmax'.
    """
    kinds = _kinds(type(settings))
    for field in fields(settings):
        check_value(field.name, getattr(settings, field.name), kinds[field.name], room=room, error=error)


def check_value(name: str, value: object, kind: Any, *, room: str = "", error: type[MixbitError] = MixbitError) -> None:
    """Raise `error` unless the value is of that kind; `room` says whose setting it is."""
    if not fits(kind, value):
        near = did_you_mean(value, _words(kind)) if isinstance(value, str) else ""
        where = f"{room}: " if room else ""
        raise error(f"{where}{name}={shown(value)} is illegal.{near} Legal: {legal(kind)}.")


def read(kind: type[Settings], values: object, *, room: str) -> Settings:
    """Build settings from JSON values: lists stand for tuples, and an unknown key is an error that offers the nearest.

    Raises:
        MixbitError: no object, an unknown key, or a value that the annotation does not allow.

    >>> from mixbit.training import TrainConfig
    >>> read(TrainConfig, {"epoch": 2}, room="training")
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: training has no setting 'epoch'. Did you mean 'epochs'? Legal: epochs, batch_size, ...
    """
    if not isinstance(values, Mapping):
        raise MixbitError(f"{room}: {shown(values)} are no settings. Legal: an object of names and values.")
    kinds = _kinds(kind)
    names = [field.name for field in fields(kind) if field.init]
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise MixbitError(
                f"{room} has no setting {shown(key)}.{did_you_mean(str(key), names)} Legal: {', '.join(names)}."
            )
        given[key] = tuple(value) if isinstance(value, list) and _takes_tuple(kinds[key]) else value
        check_value(key, given[key], kinds[key], room=room)
    return kind(**given)


def read_options(
    function: Callable[..., object], texts: Mapping[str, str], *, where: str, error: type[MixbitError]
) -> dict[str, Any]:
    """Options typed as text, as a function's keyword-only parameters want them; lists have commas between.

    Raises:
        MixbitError: (the subclass given) a text that the parameter's annotation does not allow. Names are the caller's
            affair.

    >>> def load(folder: str, *, size: Count = 32, mean: tuple[float, ...] = (0.5,), part: str = "") -> None: ...
    >>> read_options(load, {"size": "16", "mean": "0.1,0.2", "part": "2"}, where="it", error=MixbitError)
    {'size': 16, 'mean': (0.1, 0.2), 'part': '2'}
    """
    kinds = get_type_hints(function, include_extras=True)
    found: dict[str, Any] = {}
    for name, text in texts.items():
        kind = kinds[name]
        value: object = text if fits(kind, text) else _number(text)
        if _takes_tuple(kind):
            value = tuple(map(_number, text.split(",")))
        if not fits(kind, value):
            raise error(f"{where}: {name} is {shown(text)}; it must be {legal(kind)}.")
        found[name] = value
    return found


def read_value(text: str) -> Any:
    """What was typed: JSON, a fraction as a number, or else the text itself.

    Raises:
        MixbitError: JSON that is nested too deeply, or a whole number of thousands of digits.

    >>> read_value("[4, 2]"), read_value("1/8"), read_value("cosine")
    ([4, 2], 0.125, 'cosine')
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return float(Fraction(text)) if _FRACTION.fullmatch(text) else text
    except (RecursionError, ValueError) as cause:
        raise MixbitError(
            f"{shown(text)} cannot be read: it is nested too deeply, or a whole number of thousands of digits. Legal: "
            "JSON with whole numbers below 2^63, or text."
        ) from cause


def read_pairs(
    texts: Iterable[str], *, where: str, form: str, error: type[MixbitError] = MixbitError
) -> dict[str, str]:
    """Cut `key=value` texts; each key once.

    >>> read_pairs(["lr=0.1", "epochs=2"], where="--set", form="--set key=value")
    {'lr': '0.1', 'epochs': '2'}
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or key in found:
            raise error(f"{where}: cannot read {shown(text)}. Write each setting once, as {form}.")
        found[key] = value
    return found


def read_named(text: str, *, what: str) -> tuple[str, dict[str, Any]]:
    """Cut `NAME?key=value&other=value`, as methods and attacks are asked for with settings; values are JSON or text.

    Raises:
        MixbitError: a setting without `=`, or given twice.

    >>> read_named("pgd?steps=3&ball=L2", what="attack"), read_named("pgd", what="attack")
    (('pgd', {'steps': 3, 'ball': 'L2'}), ('pgd', {}))
    """
    name, _, rest = text.strip().partition("?")
    form = f"{what.upper()}?key=value&other=value"
    given = read_pairs(filter(None, rest.split("&")), where=f"{what} {shown(text)}", form=form)
    return name, {key: read_value(value) for key, value in given.items()}


# ---------------------------------------------------------------------------------------------- kinds of values


@cache
def _kinds(of: type) -> dict[str, Any]:
    return get_type_hints(of, include_extras=True)


def fits(kind: Any, value: object) -> bool:
    """Whether a value is what an annotation says; a bool is no number, and a number is finite.

    >>> fits(int, 3), fits(int, True), fits(float, 3), fits(float, math.nan), fits(tuple[int, ...] | None, (1, 2.5))
    (True, False, True, False, False)
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [one for one in kind.__metadata__ if isinstance(one, Range)]
        return fits(arguments[0], value) and all(bound.holds(value) for bound in bounds)  # type: ignore[arg-type]
    if origin in (Union, UnionType):
        return any(fits(one, value) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return _fits_all(arguments, value, fixed=origin is tuple and arguments[-1] is not Ellipsis)
    return _fits_plain(origin or kind, value)


def _fits_all(kinds: tuple[Any, ...], value: object, *, fixed: bool) -> bool:
    if not isinstance(value, tuple):
        return False
    if fixed:
        return len(value) == len(kinds) and all(map(fits, kinds, value))
    return all(fits(kinds[0], one) for one in value)


def _fits_plain(kind: Any, value: object) -> bool:
    if kind is Any:
        return True
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, Integral) and abs(int(value)) <= LARGEST
    if kind is float:
        return isinstance(value, Real) and _finite(value)
    if kind is Path:
        return isinstance(value, str | Path)
    return isinstance(value, NoneType if kind is None else kind)


def _finite(value: Real) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number beyond the largest float
        return False


def legal(kind: Any) -> str:
    """What an annotation allows, in words.

    >>> legal(Literal["sgd", "adamw"] | None)
    "'sgd' or 'adamw', or null"
    >>> legal(tuple[Bits, ...])
    'a list, each a whole number from 1 to 8'
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [one.words() for one in kind.__metadata__ if isinstance(one, Range)]
        return " ".join([legal(arguments[0]), *bounds])
    if origin in (Union, UnionType):
        return ", or ".join(legal(one) for one in arguments)
    if origin is Literal:
        words = [repr(one) for one in arguments]
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    if _takes_tuple(kind):
        if origin is tuple and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}: {'; '.join(map(legal, arguments))}"
        return f"a list, each {legal(arguments[0])}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return "null" if kind in (None, NoneType) else plain.get(origin or kind, "an object")


def _takes_tuple(kind: Any) -> bool:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(map(_takes_tuple, get_args(kind)))
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _words(kind: Any) -> list[str]:
    """The words that a kind offers, to guess which one was meant."""
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    return [word for one in get_args(kind) for word in _words(one)] if get_args(kind) else []


def _number(text: str) -> object:
    """A number that was typed, or else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
