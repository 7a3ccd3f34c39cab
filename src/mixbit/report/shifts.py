"""The metric under shifted quantizers, for one model or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mixbit.report.table import Table

if TYPE_CHECKING:
    from mixbit.robustness.quantizer_shift import ShiftPoint, ShiftSummary, ShiftSweep

__all__ = ["shift_summary_table", "shift_table"]

_TITLES = {
    "step-size": ("with scaled steps", "step / trained step"),
    "power-of-two": ("with steps that are powers of two", "steps"),
    "ptq-bits": ("after post-training quantization", "bits"),
    "qat-bits": ("with weights at other bits", "weight bits"),
    "bit-shift": ("with more or fewer weight bits", "bits more"),
    "rounding": ("with other rounding", "rounding"),
    "clipping": ("with other clipping", "clipping"),
}
_SHOWN = 5


def shift_table(models: Mapping[str, ShiftSweep]) -> Table:
    """One row a point, one column a model; a star marks the point at which a model was trained.

    Args:
        models: name of the model -> its sweep; all of one protocol. Points that a model was not evaluated at are left
            empty.

    Raises:
        ValueError: no model, or sweeps of different protocols.
    """
    protocols = sorted({sweep.protocol for sweep in models.values()})
    if len(protocols) != 1:
        raise ValueError(f"a table shows sweeps of one protocol, got {protocols}.")
    title, axis = _TITLES[protocols[0]]
    labels = dict.fromkeys(point.label for sweep in models.values() for point in sweep.points)
    rows = [_row(label, models) for label in _ordered(labels, models)]
    reference = next(iter(models.values())).reference
    first = (reference.label, *(s.metric.text(s.reference.accuracy) for s in models.values()))
    title = f"{reference.metric.title} {title}"
    columns = (axis, *(f">{name}" for name in models))
    return Table(title=title, columns=columns, rows=(first, *rows), notes=tuple(_notes(models)))


def shift_summary_table(models: Mapping[str, ShiftSummary]) -> Table:
    """The few numbers of `mixbit.robustness.quantizer_shift.summarise`, one row a model."""
    rows = tuple(
        (
            name,
            *(
                "-" if value is None else one.metric.text(value)
                for value in (
                    one.as_trained,
                    one.step_mean,
                    one.step_worst,
                    one.smaller_steps,
                    one.larger_steps,
                    one.power_of_two,
                    one.bits_area,
                )
            ),
        )
        for name, one in models.items()
    )
    columns = ("model", ">as trained", ">steps, mean", ">steps within 10 %, worst", ">smaller steps", ">larger steps")
    name = next(iter(models.values())).metric.name
    notes = [f"Mean over steps times 0.8, 0.9, 1, 1.1, 1.25 and 1.5; area under the {name} over 2 to 8 weight bits."]
    if len({one.factors for one in models.values()}) > 1:
        notes.append("The models were swept over different factors: their smaller and larger steps do not compare.")
    return Table(
        title="Robustness to the quantizer",
        columns=(*columns, ">powers of two", ">bits, area"),
        rows=rows,
        notes=tuple(notes),
    )


def _ordered(labels: Mapping[str, None], models: Mapping[str, ShiftSweep]) -> list[str]:
    """By place on the axis where all have one; else as they come."""
    places = {point.label: point.value for sweep in models.values() for point in sweep.points}
    placed = sorted((label for label in labels if places[label] is not None), key=lambda label: places[label] or 0.0)
    return [*placed, *(label for label in labels if places[label] is None)]


def _row(label: str, models: Mapping[str, ShiftSweep]) -> tuple[str, ...]:
    found = ({point.label: point for point in sweep.points}.get(label) for sweep in models.values())
    cells = zip(found, models.values(), strict=True)
    return label, *("" if point is None else _starred(point, sweep) for point, sweep in cells)


def _starred(point: ShiftPoint, sweep: ShiftSweep) -> str:
    trained = point.value is not None and point.value == sweep.reference.value
    return sweep.metric.text(point.accuracy) + (" *" if trained else "")


def _notes(models: Mapping[str, ShiftSweep]) -> Iterator[str]:
    """Images, settings other than the usual, and layers that stayed."""
    samples = sorted({sweep.reference.samples for sweep in models.values()})
    title = next(iter(models.values())).metric.title
    yield f"{title} on {', '.join(map(str, samples))} images. A star marks the point of training."
    for name, sweep in models.items():
        if sweep.settings.get("bias_correction"):
            yield f"{name}: with bias correction."
        if sweep.settings.get("sides", "weights") != "weights":
            yield f"{name}: quantizers of {sweep.settings['sides']} are shifted."
        if sweep.left:
            names = ", ".join(f"{one.name} ({one.reason})" for one in sweep.left[:_SHOWN])
            more = f" and {len(sweep.left) - _SHOWN} more" if len(sweep.left) > _SHOWN else ""
            yield f"{name}: not shifted are {names}{more}."
