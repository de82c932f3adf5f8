"""Tables with the paper's numbers beside ours: plain data, Markdown and HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

SHARES = ("percent", "error")
KINDS = (*SHARES, "points", "ratio", "seconds", "number")
BEST = ("max", "min", "")
DASH = "–"


class Cell(NamedTuple):
    """One number of ours and the paper's, both in the column's unit (shares, not percent)."""

    value: float | None
    """None, and what is not finite: not measured."""
    paper: float | None = None
    error: float | None = None
    """Standard error of ours."""
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column's name, the spanning header above it, a small line under it, and its unit.

    ``kind`` is percent or error (the values are shares: error of what is misclassified), points
    (differences of shares, in points), ratio, seconds or number. ``best`` says which value of the
    column is marked: max, min or "" for none.
    """

    name: str
    group: str = ""
    note: str = ""
    kind: str = "percent"
    best: str = "max"


@dataclass(frozen=True)
class Table:
    """Rows and columns as in the paper; ``corner`` heads the first column.

    ``mark_worst`` marks each row's lowest value among the columns whose ``best`` is max.
    """

    title: str
    corner: str
    columns: Sequence[Column]
    rows: Mapping[str, Sequence[Cell]]
    mark_worst: bool = False
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for column in self.columns:
            for name, known in (("kind", KINDS), ("best", BEST)):
                if getattr(column, name) not in known:
                    raise ValueError(
                        f"Table {self.title!r}: {name} of column {column.name!r} must be among "
                        f"{known}, got {getattr(column, name)!r}"
                    )
        for row, cells in self.rows.items():
            if len(cells) != len(self.columns):
                raise ValueError(
                    f"Table {self.title!r}: row {row!r} must have {len(self.columns)} cells as "
                    f"there are columns, got {len(cells)}"
                )

    def as_dict(self) -> dict[str, Any]:
        """The table as plain JSON: the fields by their names, ``rows`` from a row's name to its
        cells, each with value, paper, error, note, difference (value - paper, or None), best and
        worst.

        Numbers that look alike are ties, and all of them are marked. A best is marked where two
        rows have a value, a worst where two of the row's columns have.
        """
        rows = {name: [_cell(cell) for cell in cells] for name, cells in self.rows.items()}
        for place, column in enumerate(self.columns):
            if column.best:
                _mark("best", [(cells[place], column.kind) for cells in rows.values()], column.best)
        if self.mark_worst:
            for cells in rows.values():
                pairs = [
                    (cell, column.kind)
                    for cell, column in zip(cells, self.columns, strict=True)
                    if column.best == "max"
                ]
                _mark("worst", pairs, "min")
        return {
            "title": self.title,
            "corner": self.corner,
            "columns": [asdict(column) for column in self.columns],
            "rows": rows,
            "mark_worst": self.mark_worst,
            "notes": list(self.notes),
        }


def _cell(cell: Cell) -> dict[str, Any]:
    value, paper, error = map(_finite, (cell.value, cell.paper, cell.error))
    return {
        "value": value,
        "paper": paper,
        "error": error,
        "note": cell.note,
        "difference": None if value is None or paper is None else value - paper,
        "best": False,
        "worst": False,
    }


def _finite(number: float | None) -> float | None:
    if number is None or not math.isfinite(number):
        return None
    return number if isinstance(number, int) else float(number)


def _mark(name: str, pairs: Sequence[tuple[dict[str, Any], str]], which: str) -> None:
    measured = [(cell, kind) for cell, kind in pairs if cell["value"] is not None]
    if len(measured) < 2:
        return
    choose = max if which == "max" else min
    chosen, its_kind = choose(measured, key=lambda pair: pair[0]["value"])
    shown = _number(chosen["value"], its_kind)
    for cell, kind in measured:
        cell[name] = _number(cell["value"], kind) == shown


def markdown(table: dict[str, Any]) -> str:
    """The title, table, legend and notes of what :meth:`Table.as_dict` returns, in GitHub's
    Markdown.
    """
    columns = table["columns"]
    lines = [
        f"**{escaped(table['title'])}**",
        "",
        _line([escaped(table["corner"]), *(_head(column) for column in columns)]),
        _line([":---", *["---:"] * len(columns)]),
        *(
            _line([escaped(name), *map(_markdown_cell, cells, _kinds(table))])
            for name, cells in table["rows"].items()
        ),
    ]
    texts = filter(None, [_legend(table, "In brackets"), *table["notes"]])
    below = "\n".join(f"- {escaped(text)}" for text in texts)
    return "\n".join(lines) + "\n" + (f"\n{below}\n" if below else "")


def escaped(text: str) -> str:
    """``text`` on one line, with what Markdown would take for markup escaped."""
    return re.sub(r"([\\|*<])", r"\\\1", " ".join(text.split()))


def _head(column: dict[str, Any]) -> str:
    name = f"{column['group']}: {column['name']}" if column["group"] else column["name"]
    return "<br>".join(escaped(part) for part in (name, column["note"]) if part)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: dict[str, Any], kind: str) -> str:
    small = escaped("; ".join(_beside(cell, kind)))
    return _marked(cell, kind, "**", "**") + _error(cell, kind) + (f" ({small})" if small else "")


def html(table: dict[str, Any]) -> str:
    """The same facts as ``<figure class="table">``: title, legend, the ``<table>`` within
    ``<div class="scroll">``, the notes as a list below. The class ``hidden`` is for what is read
    aloud and copied, but not seen.
    """
    title = escape(table["title"])
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(map(_html_cell, cells, _kinds(table)))
        + "</tr>"
        for name, cells in table["rows"].items()
    )
    legend = _legend(table, "Small")
    notes = "".join(f"<li>{escape(note)}</li>" for note in table["notes"])
    return (
        f'<figure class="table">\n<figcaption>{title}</figcaption>\n'
        + (f'<p class="legend">{escape(legend)}</p>\n' if legend else "")
        + f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">\n<table>\n'
        f"<thead>\n{_html_head(table)}\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n"
        + (f'<ul class="legend">{notes}</ul>\n' if notes else "")
        + "</figure>\n"
    )


def _html_head(table: dict[str, Any]) -> str:
    """One row of names, or groups above names, where a name without a group takes both rows."""
    corner, columns = escape(table["corner"]), table["columns"]
    above = [f'<th scope="col" rowspan="2">{corner}</th>']
    for group, part in groupby(columns, lambda column: column["group"]):
        if group:
            count = len(list(part))
            above.append(f'<th scope="colgroup" colspan="{count}">{escape(group)}</th>')
        else:
            above += [_html_name(column, ' rowspan="2"') for column in part]
    below = "".join(_html_name(column) for column in columns if column["group"])
    if below:
        return f"<tr>{''.join(above)}</tr>\n<tr>{below}</tr>"
    return f'<tr><th scope="col">{corner}</th>{"".join(map(_html_name, columns))}</tr>'


def _html_name(column: dict[str, Any], span: str = "") -> str:
    return f'<th scope="col"{span}>{escape(column["name"])}{_small([column["note"]])}</th>'


def _html_cell(cell: dict[str, Any], kind: str) -> str:
    number = _marked(cell, kind, "<strong>", "</strong>")
    small = _small([part.replace(", -", ", −") for part in _beside(cell, kind)])
    if cell["paper"] is not None:
        small = small.replace("paper ", '<span class="hidden">paper </span>', 1)
    return f'<td><span class="ours">{number}</span>{_error(cell, kind)}{small}</td>'


def _small(lines: Sequence[str]) -> str:
    return "".join(f"<small>{escape(line)}</small>" for line in lines if line)


def _kinds(table: dict[str, Any]) -> list[str]:
    return [column["kind"] for column in table["columns"]]


def _legend(table: dict[str, Any], beside: str) -> str:
    """What a table's marks mean, those that it has; ``beside`` says where the paper's numbers
    stand.
    """
    cells = [cell for row in table["rows"].values() for cell in row]
    marks = []
    if any(cell["best"] for cell in cells):
        marks.append("Bold: our best of the column.")
    if any(cell["worst"] for cell in cells):
        marks.append("Underlined: our lowest of the row.")
    if any(_error(cell, "number") for cell in cells):
        marks.append("±: one standard error.")
    if any(cell["difference"] is not None for cell in cells):
        shares = set(SHARES) & set(_kinds(table))
        unit = ", of percentages in points" if shares else ""
        marks.append(f"{beside}: the paper's number, and ours minus the paper's{unit}.")
    elif any(cell["paper"] is not None for cell in cells):
        marks.append(f"{beside}: the paper's number.")
    if any(cell["value"] is None for cell in cells):
        marks.append(f"{DASH}: not measured.")
    return " ".join(marks)


def _marked(cell: dict[str, Any], kind: str, bold: str, end: str) -> str:
    """Our number within its marks; ``<u>`` is the same in Markdown and HTML, bold is given."""
    text = shown(cell["value"], kind)
    text = f"<u>{text}</u>" if cell["worst"] else text
    return f"{bold}{text}{end}" if cell["best"] else text


def _error(cell: dict[str, Any], kind: str) -> str:
    if cell["value"] is None or cell["error"] is None:
        return ""
    scale = _scale(kind)
    return f" ±{scale * cell['error']:.{_decimals(kind, cell['value'])}f}"


def _beside(cell: dict[str, Any], kind: str) -> list[str]:
    """What stands smaller beside our number: the paper's with the difference, and the note."""
    parts = []
    if cell["paper"] is not None:
        parts.append(f"paper {_number(cell['paper'], kind)}")
    if cell["difference"] is not None:
        decimals = _decimals(kind, cell["paper"], cell["value"])
        difference = f"{_scale(kind) * cell['difference']:+.{decimals}f}"
        parts[0] += f", {difference if float(difference) else difference[1:]}"
    return [*parts, cell["note"]] if cell["note"] else parts


def shown(value: float | None, kind: str) -> str:
    """A number as tables have it, with its unit."""
    return DASH if value is None else _number(value, kind)


def _number(value: float, kind: str) -> str:
    unit = {"percent": "%", "error": "%", "seconds": " s"}.get(kind, "")
    sign = "+" if kind == "points" and value > 0 else ""
    return f"{sign}{_scale(kind) * value:.{_decimals(kind, value)}f}{unit}"


def _scale(kind: str) -> int:
    return 100 if kind in SHARES else 1


def _decimals(kind: str, *values: float) -> int:
    """Two for shares and points, else as many as make four significant digits of the largest
    value; none for integers.
    """
    largest = max(abs(value) for value in values)
    if kind in (*SHARES, "points"):
        return 2
    if largest == 0 or all(isinstance(value, int) for value in values):
        return 0
    return min(9, max(0, 3 - math.floor(math.log10(largest))))
