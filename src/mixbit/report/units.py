"""Numbers as people read them: four digits and a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixbit.metric import MetricInfo

__all__ = ["count", "duration", "hover", "percent", "seconds", "size"]


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while power + 1 < len(units) and abs(value) >= base ** (power + 1):
        power += 1
    if power == 0:
        return f"{value:g}{' ' + units[0] if units[0] else ''}"
    return f"{value / base**power:#.4g} {units[power]}"


def count(value: float) -> str:
    """A number of MACs, BitOps or weights, with decimal prefixes.

    >>> count(640), count(40_812_544), count(55_313_000_000)
    ('640', '40.81 M', '55.31 G')
    """
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"))


def size(value_bytes: float) -> str:
    """A number of bytes, with binary prefixes.

    >>> size(42), size(8 * 2**20)
    ('42 B', '8.000 MiB')
    """
    return _scaled(value_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def duration(value_ns: float) -> str:
    """A measured time of nanoseconds to seconds.

    >>> duration(640), duration(330_100), duration(12_345_678)
    ('640 ns', '330.1 us', '12.35 ms')
    """
    return _scaled(value_ns, 1000, ("ns", "us", "ms", "s"))


def percent(part: float) -> str:
    """A part of one as a percentage with two decimals.

    >>> percent(0.97222)
    '97.22 %'
    """
    return f"{100 * part:.2f} %"


def hover(metric: MetricInfo) -> str:
    """A height in a plot of a metric's scaled values, as a template of plotly.

    >>> from mixbit.metric import ACCURACY
    >>> hover(ACCURACY.info)
    '%{y:.2f} %'
    """
    return f"%{{y:{'.2f' if metric.unit == '%' else '.4g'}}} {metric.unit}".rstrip()


def seconds(value_s: float) -> str:
    """A duration in seconds, minutes or hours.

    >>> seconds(0.00712), seconds(3.4), seconds(3725)
    ('7.1 ms', '3.4 s', '1 h 2 min')
    """
    if value_s < 1:
        return f"{1000 * value_s:.1f} ms"
    if value_s < 60:
        return f"{value_s:.1f} s"
    minutes = int(value_s // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {int(value_s % 60)} s"
