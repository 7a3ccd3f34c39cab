"""A table as data: what a terminal, a log file and a test all read."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under headings.

    Attributes:
        title: one line above it; empty for none.
        columns: headings; one that starts with ">" is right-aligned, for numbers.
        rows: cells, as many a row as there are columns.
        notes: lines below it.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    title: str = ""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row {row!r} has {len(row)} cells; the table has {len(self.columns)} columns.")

    @property
    def headings(self) -> tuple[str, ...]:
        """Column headings without the alignment mark."""
        return tuple(column.removeprefix(">") for column in self.columns)

    def right_aligned(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return self.columns[column].startswith(">")

    def plain(self) -> str:
        """Aligned text without colour, frame or line breaks in cells: for files, pipes and screen readers.

        >>> print(Table(title="Costs", columns=("cost", ">bytes"), rows=(("weights", "640"), ("peak", "64"))).plain())
        Costs
        cost     bytes
        -------  -----
        weights    640
        peak        64
        """
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        text = [self._line(line, widths) for line in lines]
        text.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*([self.title] if self.title else []), *text, *self.notes])

    def _line(self, cells: tuple[str, ...], widths: list[int]) -> str:
        padded = [
            cell.rjust(width) if self.right_aligned(column) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()
