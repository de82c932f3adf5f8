"""What several seeds come to: means, intervals, and differences that are paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from tla_ops.experiments.tables import SHARES, Cell, Column, Table, markdown

NORMAL = 1.96
# Of Student's t, 97.5%, by degrees of freedom.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
BASELINE = "AT"


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of a mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    quantile = STUDENT[len(values) - 2] if len(values) - 2 < len(STUDENT) else NORMAL
    return quantile * stdev(values) / len(values) ** 0.5


def seeds_section(documents: Sequence[dict[str, Any]]) -> str:
    """Tables of one target over its seeds; nothing for fewer than two, for a seed that is there
    twice, or of tables that differ in title, rows or columns.
    """
    numbers = [document.get("seed", 0) for document in documents]
    counts = {len(document["tables"]) for document in documents}
    if len(documents) < 2 or len(set(numbers)) < len(numbers) or len(counts) > 1:
        return ""
    seeds = ", ".join(map(str, numbers))
    parts = [f"## {documents[0]['title']}: means over the seeds {seeds}"]
    for tables in zip(*(document["tables"] for document in documents), strict=True):
        shapes = [(table["title"], table["columns"], list(table["rows"])) for table in tables]
        if any(shape != shapes[0] for shape in shapes):
            continue
        parts.append(markdown(_means(tables).as_dict()).rstrip())
        if BASELINE in tables[0]["rows"]:
            parts.append(markdown(_differences(tables).as_dict()).rstrip())
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _means(tables: Sequence[dict[str, Any]]) -> Table:
    first = tables[0]

    def cell(row: str, place: int) -> Cell:
        cells = [table["rows"][row][place] for table in tables]
        kind = first["columns"][place]["kind"]
        values = [own["value"] for own in cells]
        if None in values:
            return Cell(None, cells[0]["paper"])
        scale, unit = (100, "%") if kind in SHARES else (1, "")
        note = f"± {scale * (interval(values) or 0):.3g}{unit}"
        return Cell(mean(values), cells[0]["paper"], note=note)

    return _table(first, first["title"], cell, first["rows"], first["columns"], [
        "± in brackets: half of a 95% interval of the mean by Student's t over the seeds.",
        *first["notes"],
    ])  # fmt: skip


def _differences(tables: Sequence[dict[str, Any]]) -> Table:
    first = tables[0]
    columns = [
        column | ({"kind": "number", "best": ""} if column["kind"] in SHARES else {"best": ""})
        for column in first["columns"]
    ]

    def cell(row: str, place: int) -> Cell:
        scale = 100 if first["columns"][place]["kind"] in SHARES else 1
        pairs = [
            [table["rows"][name][place]["value"] for name in (row, BASELINE)] for table in tables
        ]
        if any(None in pair for pair in pairs):
            return Cell(None)
        apart = [scale * (own - base) for own, base in pairs]
        return Cell(round(mean(apart), 2), note=f"± {interval(apart) or 0:.2f}")

    rows = [row for row in first["rows"] if row != BASELINE]
    title = f"{first['title']}: above {BASELINE}, shares in points, paired by seed"
    return _table(
        first, title, cell, rows, columns,
        ["± in brackets: half of a 95% interval of the mean difference by Student's t."],
    )  # fmt: skip


def _table(first, title, cell, rows, columns, notes) -> Table:  # type: ignore[no-untyped-def]
    return Table(
        title, first["corner"], [Column(**column) for column in columns],
        {row: [cell(row, place) for place in range(len(columns))] for row in rows}, notes=notes,
    )  # fmt: skip
