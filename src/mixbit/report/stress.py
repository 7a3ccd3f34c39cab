"""The robustness profile of one run, or of several side by side: tables, and plots for a browser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbit import _io
from mixbit.errors import MissingExtra, MixbitError
from mixbit.report.attack_plots import attack_plot
from mixbit.report.attacks import attack_tables
from mixbit.report.certificates import certificate_plot, certificate_table
from mixbit.report.shift_plots import shift_plot
from mixbit.report.shifts import shift_summary_table, shift_table
from mixbit.report.table import Table
from mixbit.report.units import hover

if TYPE_CHECKING:
    from mixbit.robustness import CorruptionReport, ShiftSweep
    from mixbit.runs import Profile

__all__ = ["corruption_plot", "corruption_table", "stress_plots", "stress_tables"]


def stress_tables(profiles: Sequence[Profile]) -> list[Table]:
    """What was measured, one table a question; runs that lack a part are left out of its table."""
    names = unique_names(profiles)
    tables: list[Table] = []
    if reports := {n: p.corruption for n, p in zip(names, profiles, strict=True) if p.corruption is not None}:
        tables.append(corruption_table(reports))
    for sweeps in (_sweeps(names, profiles, "steps"), *_bit_sweeps(names, profiles)):
        if sweeps:
            tables.append(shift_table(sweeps))
    if summaries := {n: p.summary for n, p in zip(names, profiles, strict=True) if p.summary is not None}:
        tables.append(shift_summary_table(summaries))
    for name, profile in zip(names, profiles, strict=True):
        if profile.attacks is not None:
            tables += attack_tables(profile.attacks, name if len(profiles) > 1 else "")
        if profile.certificates is not None:
            tables.append(certificate_table(profile.certificates, name if len(profiles) > 1 else ""))
    return tables


def unique_names(profiles: Sequence[Profile]) -> list[str]:
    """Names of the run folders; with their parents' where two are equal."""
    short = [profile.name for profile in profiles]
    return [name if short.count(name) == 1 else str(profile.run) for name, profile in zip(short, profiles, strict=True)]


def _sweeps(names: Sequence[str], profiles: Sequence[Profile], part: str) -> dict[str, ShiftSweep]:
    found = {name: getattr(profile, part) for name, profile in zip(names, profiles, strict=True)}
    return {name: sweep for name, sweep in found.items() if sweep is not None}


def _bit_sweeps(names: Sequence[str], profiles: Sequence[Profile]) -> Iterator[dict[str, ShiftSweep]]:
    """Sweeps of float runs and of quantized ones are of different protocols, so they have a table each."""
    bits = _sweeps(names, profiles, "bits")
    for protocol in sorted({sweep.protocol for sweep in bits.values()}):
        yield {name: sweep for name, sweep in bits.items() if sweep.protocol == protocol}


def corruption_table(reports: Mapping[str, CorruptionReport]) -> Table:
    """For one model accuracy by kind and severity; for several the mean over severities, one column a model.

    The last row of several is the mean corruption error in relation to the first model; below 1 is better.
    """
    return _severities(*reports.items()) if len(reports) == 1 else _side_by_side(reports)


def _severities(named: tuple[str, CorruptionReport]) -> Table:
    name, report = named
    empty = ("",) * len(report.severities)
    show, title = report.metric.text, report.metric.title
    rows = [("clean", *empty, show(report.clean_accuracy))]
    for kind in report.kinds:
        cells = (show(report.cell(kind, severity).accuracy) for severity in report.severities)
        rows.append((kind, *cells, show(report.mean_accuracy_of(kind))))
    rows.append(("mean of the kinds", *empty, show(report.mean_accuracy)))
    columns = ("corruption", *(f">{severity}" for severity in report.severities), ">mean")
    return Table(title=f"{title} on bad data: {name}", columns=columns, rows=tuple(rows), notes=(_images(report),))


def _side_by_side(reports: Mapping[str, CorruptionReport]) -> Table:
    first = next(iter(reports.values()))
    alike = [one for one in reports.values() if (one.kinds, one.severities) != (first.kinds, first.severities)]
    if alike:
        raise MixbitError(
            f"the runs were stressed by different corruptions: {first.kinds} at {first.severities}, and "
            f"{alike[0].kinds} at {alike[0].severities}. Give the same --kinds and --severities for all."
        )
    rows = [("clean", *(one.metric.text(one.clean_accuracy) for one in reports.values()))]
    rows += [(kind, *(one.metric.text(one.mean_accuracy_of(kind)) for one in reports.values())) for kind in first.kinds]
    rows.append(("mean of the kinds", *(one.metric.text(one.mean_accuracy) for one in reports.values())))
    rows.append(("mCE by the first", *(_error(one, first) for one in reports.values())))
    return Table(
        title=f"{first.metric.title} on bad data, mean over severities",
        columns=("corruption", *(f">{name}" for name in reports)),
        rows=tuple(rows),
        notes=(_images(first),),
    )


def _error(report: CorruptionReport, reference: CorruptionReport) -> str:
    try:
        return f"{report.mean_corruption_error(reference):.3f}"
    except MixbitError:  # the first makes no error on some kind
        return "-"


def _images(report: CorruptionReport) -> str:
    constants = {"cifar": "CIFAR-10-C", "imagenet": "ImageNet-C"}[report.scale]
    severities = ", ".join(map(str, report.severities))
    return f"{report.samples} test images; constants of {constants}, severities {severities}; noise seed {report.seed}."


def stress_plots(profiles: Sequence[Profile], folder: Path) -> dict[Path, str]:
    """Curves over severity, and over step sizes and bits; a file each, with what it holds.

    Raises:
        MissingExtra: plotly is not installed.
    """
    names = unique_names(profiles)
    files: dict[Path, str] = {}
    if reports := {n: p.corruption for n, p in zip(names, profiles, strict=True) if p.corruption is not None}:
        files[corruption_plot(reports, folder / "corruptions.html")] = "results on bad data, for a browser"
    if steps := _sweeps(names, profiles, "steps"):
        bits = _sweeps(names, profiles, "bits")
        files[shift_plot(steps, folder / "shifts.html", bits=bits)] = "results with other quantizers, for a browser"
    for name, profile in zip(names, profiles, strict=True):
        if profile.attacks is not None:
            files[attack_plot(profile.attacks, _place(folder, "attack", name, profiles))] = (
                "results under attack, for a browser"
            )
        if profile.certificates is not None:
            path = _place(folder, "certify", name, profiles)
            files[certificate_plot(profile.certificates, path)] = "certified accuracy over the radius, for a browser"
    return files


def _place(folder: Path, what: str, name: str, profiles: Sequence[Profile]) -> Path:
    """Of a plot of one run, with its name where there are several."""
    return folder / (f"{what}.html" if len(profiles) == 1 else f"{what}-{name.replace('/', '-')}.html")


def corruption_plot(reports: Mapping[str, CorruptionReport], path: Path) -> Path:
    """Accuracy over severity, one panel a kind, one line a model; severity 0 is the clean image.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        from plotly.colors import qualitative
        from plotly.subplots import make_subplots
    except ImportError as cause:
        raise MissingExtra("The plot needs plotly: pip install 'mixbit[report]'.") from cause
    kinds = next(iter(reports.values())).kinds
    across = min(4, len(kinds))
    figure = make_subplots(
        rows=-(-len(kinds) // across), cols=across, shared_yaxes=True, subplot_titles=kinds, horizontal_spacing=0.03
    )
    for number, (name, report) in enumerate(reports.items()):
        colour = qualitative.Dark24[number % len(qualitative.Dark24)]
        for place, kind in enumerate(kinds):
            line = _line(name, report, kind, colour, legend=place == 0)
            figure.add_trace(line, row=place // across + 1, col=place % across + 1)
    metric = next(iter(reports.values())).metric
    figure.update_yaxes(title_text=metric.axis, col=1)
    figure.update_layout(template="plotly_white", title_text=f"{metric.title} over severity of corruption")
    _io.write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


def _line(name: str, report: CorruptionReport, kind: str, colour: str, *, legend: bool) -> Any:
    from plotly import graph_objects

    heights = [report.clean_accuracy, *(report.cell(kind, severity).accuracy for severity in report.severities)]
    return graph_objects.Scatter(
        x=[0, *report.severities],
        y=[report.metric.scaled(height) for height in heights],
        name=name,
        legendgroup=name,
        showlegend=legend,
        mode="lines+markers",
        line={"color": colour},
        hovertemplate=f"{kind} %{{x}}: {hover(report.metric)}",
    )
