"""The options of a data spec that corrupt its images, whatever the source: `?corrupt=...` and `?quality=mixed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from mixbit.data.base import DataSet
from mixbit.data.corruption import SEVERITIES, Scale, check_severity
from mixbit.data.mixed_quality import DEFAULT_KINDS, MixedQuality, Mode
from mixbit.errors import DataError, did_you_mean, shown

__all__ = ["OPTIONS", "QualitySpec", "split_options"]

_MODES: dict[str, Mode] = {"mixed": "sample", "mixed-batch": "batch", "mixed-stream": "stream"}
_OF = {
    "corrupt": ("severity", "quality_seed", "scale"),
    "quality": ("kinds", "severities", "weights", "quality_seed", "scale"),
}
OPTIONS = tuple(dict.fromkeys([*_OF, *(option for options in _OF.values() for option in options)]))
"""What every source takes beside its own options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySpec:
    """What a spec says of its images' quality."""

    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    mode: Mode = "sample"
    seed: int = 0
    scale: Scale | None = None
    test_only: bool

    def applied(self, clean: DataSet) -> DataSet:
        """The data set with its test split, and unless `test_only` its training split, corrupted."""
        test = self._around(clean.test)
        return replace(clean, test=test, train=clean.train if self.test_only else self._around(clean.train))

    def _around(self, split: Any) -> MixedQuality:
        how: dict[str, Any] = {"seed": self.seed, "mode": self.mode, "scale": self.scale}
        return MixedQuality(split, self.kinds, self.severities, self.weights, **how)


def split_options(options: Mapping[str, str], spec: str) -> tuple[QualitySpec | None, dict[str, str]]:
    """Take the options of quality out of a spec's; those of the source are left.

    Raises:
        DataError: a value that cannot be read, or options that do not go together.

    >>> found, left = split_options({"size": "160", "corrupt": "jpeg"}, "imagefolder:pets?size=160&corrupt=jpeg")
    >>> found.kinds, found.severities, found.test_only, left
    (('jpeg',), (3,), True, {'size': '160'})
    """
    own = {name: value for name, value in options.items() if name in OPTIONS}
    left = {name: value for name, value in options.items() if name not in OPTIONS}
    if not own:
        return None, left
    if ("corrupt" in own) == ("quality" in own):
        raise DataError(f"{shown(spec)} has {', '.join(own)}; say either corrupt=KIND or quality=mixed, and not both.")
    _check_partners("corrupt" if "corrupt" in own else "quality", own, spec)
    try:
        return (_fixed(own) if "corrupt" in own else _mixed(own, spec)), left
    except ValueError as cause:
        raise DataError(
            f"{shown(spec)}: severity, severities, weights and quality_seed are numbers, with commas between."
        ) from cause


def _check_partners(head: str, own: Mapping[str, str], spec: str) -> None:
    for option in own:
        if option != head and option not in _OF[head]:
            legal = ", ".join(_OF[head])
            raise DataError(f"{shown(spec)}: {option} does not go with {head}=; there are: {legal}.")


def _fixed(own: Mapping[str, str]) -> QualitySpec:
    severity = int(own.get("severity", "3"))
    check_severity(own["corrupt"], severity)
    return QualitySpec(kinds=(own["corrupt"],), severities=(severity,), test_only=True, **_common(own))


def _mixed(own: Mapping[str, str], spec: str) -> QualitySpec:
    named = own["quality"]
    if named not in _MODES:
        near = did_you_mean(named, _MODES)
        raise DataError(f"{shown(spec)}: quality is {named!r}; there are: {', '.join(_MODES)}.{near}")
    return QualitySpec(
        kinds=tuple(own["kinds"].split(",")) if "kinds" in own else DEFAULT_KINDS,
        severities=tuple(int(one) for one in own["severities"].split(",")) if "severities" in own else SEVERITIES,
        weights=tuple(float(one) for one in own["weights"].split(",")) if "weights" in own else None,
        mode=_MODES[named],
        test_only=False,
        **_common(own),
    )


def _common(own: Mapping[str, str]) -> dict[str, Any]:
    return {"seed": int(own.get("quality_seed", "0")), "scale": cast("Scale | None", own.get("scale"))}
