"""docs/scaling.md and its figures, from what scaling.py wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from render_latency import line
from targets import short

IMPLS = {
    "tla_ops": ("#0b5cad", "o", "-"),
    "eager": ("#b8410f", "s", "--"),
    "eager_chunks": ("#3a7a2a", "^", "-."),
}
"""Colours of good contrast on white that differ in lightness, too; markers and dashes."""
AXES = {
    "M": ("Candidates", "candidates M"),
    "B": ("Anchors", "anchors B"),
    "D": ("Features", "features D"),
    "threads": ("Threads", "threads"),
    "memory": ("Memory", "anchors B"),
}
"""Heading, and what stands at the axis of a figure."""
INTRO = """# Scaling

Rendered by `benchmarks/render.py` from `benchmarks/results/`; `make scaling` measures again. The
cost of `mine_negatives` on a processor (hardest, angular, exact, float32, Gaussian features, ten
classes) when one size varies. `eager` is `tla_ops/reference.py`, which stores all distances;
`eager_chunks` its formula over chunks of anchors whose products take 64 MB, rows normalised once.
Medians of one run in which implementations take turns.

a + b × size is fitted by least squares of relative errors over the whole grid; the exponent p of
size^p is that of the grid's upper end, its last two decades. `tla_ops` faster from: the size from
which on it is the faster at all larger ones of the grid, too. Efficiency: the time with one thread
over the threads' time together. Memory: the peak of a process that makes the problem and calls the
search once, less that of one which only makes the problem.
"""
NOT_RUN = "\nNot run yet.\n"


def scaling_page(documents: Sequence[dict]) -> str:
    """Says nothing that is not in a results file."""
    parts = [INTRO, *("\n".join(_machine(d)) + "\n" for d in documents)]
    return "\n".join(parts) if documents else INTRO + NOT_RUN


def _machine(document: dict) -> list[str]:
    lines = [
        f"\n## {document['device']}\n",
        f"torch {document['torch']}, commit {document['commit']}, {document['date'][:10]}; "
        f"instruction sets {', '.join(document['instruction_sets'])}.",
    ]
    for axis in AXES:
        rows = _rows(document, axis)
        if rows:
            lines += [f"\n### {AXES[axis][0]}: {_shape(axis, rows)}\n"]
            lines += [f"![{AXES[axis][0]}]({figure_name(document, axis)})\n"]
            lines += _table(axis, rows)
            lines += _laws(axis, document.get("laws", {}).get(axis, {}))
    lines += _room(document)
    for title, key in (("Wrong", "wrong"), ("Left out", "left_out")):
        if document.get(key):
            lines += [f"\n{title}:\n", *(f"- {entry}" for entry in document[key])]
    return lines


def _rows(document: dict, axis: str) -> list[dict]:
    return [row for row in document["rows"] if row["axis"] == axis]


def _shape(axis: str, rows: list[dict]) -> str:
    varies = "B" if axis == "memory" else axis
    sizes = [f"{size} = {rows[0][size]}" for size in "BMD" if size != varies]
    if axis not in ("threads", "memory"):
        sizes.append(f"{rows[0]['threads']} threads")
    return ", ".join(sizes)


def _table(axis: str, rows: list[dict]) -> list[str]:
    key, what = ("peak_mb", "MB") if axis == "memory" else ("median_ms", "ms")
    impls = [impl for impl in IMPLS if any(row["impl"] == impl for row in rows)]
    head = (AXES[axis][1], *(f"{impl}, {what}" for impl in impls))
    lines = [line(head), line(["---"] * len(head))]
    for value in sorted({row["value"] for row in rows}):
        at = {row["impl"]: row for row in rows if row["value"] == value}
        lines.append(line((str(value), *(_cell(at.get(impl, {}), key) for impl in impls))))
    return lines


def _cell(row: dict, key: str) -> str:
    if not row.get("correct", True):
        return "wrong"
    error = row.get("error") or row.get("memory_error")
    return short(row[key]) if row.get(key) is not None else error or "–"


def _laws(axis: str, laws: dict) -> list[str]:
    found = {impl: laws[impl] for impl in IMPLS if impl in laws}
    if not found:
        return []
    if axis == "threads":
        counts = list(next(iter(found.values()))["efficiency"])
        head = ("efficiency with threads", *counts)
        cells = ((impl, *law["efficiency"].values()) for impl, law in found.items())
        body = [(impl, *(f"{value:.0%}" for value in values)) for impl, *values in cells]
    else:
        head = ("", "a, µs", "b, µs", "exponent", "`tla_ops` faster from")
        body = [
            (
                *(impl, short(law["a_ms"] * 1e3), short(law["b_ms"] * 1e3)),
                *(f"{law['exponent']:.2f}", _crossing(axis, impl, laws.get("crossover", {}))),
            )
            for impl, law in found.items()
        ]
    return ["", line(head), line(["---"] * len(head)), *map(line, body)]


def _crossing(axis: str, impl: str, crossover: dict) -> str:
    if impl not in crossover:
        return "–"
    at = crossover[impl]
    return "nowhere here" if at is None else f"{axis} = {at:.0f}"


def _room(document: dict) -> list[str]:
    """Where the reference runs out of memory, computed and tried."""
    if "largest" not in document:
        return []
    grows = document["bytes_a_pair"]
    lines = ["\n### Where memory ends\n"]
    told = ", ".join(f"`{impl}` {value:.2f} bytes" for impl, value in grows.items())
    lines.append(
        "Peak memory beyond the problem, for another pair of an anchor and a candidate, by the two "
        f"largest numbers of anchors above: {told}. By that, or where anchors are few by what it "
        "takes for each candidate, `eager` fills this machine's "
        f"{document['memory_mb'] / 1024:.1f} GB at so many candidates; they themselves fill it at "
        "the last column's.\n"
    )
    head = ("B", "D", "`eager` out of memory from M", "features alone")
    lines += [line(head), line(["---"] * len(head))]
    for row in document["largest"]:
        lines.append(line(str(row[key]) for key in ("B", "D", "M_eager", "M_features")))
    if document.get("proof"):
        lines += _proof(document["proof"])
    return lines


def _proof(proof: list[dict]) -> list[str]:
    lines = [
        "\nTried in processes that may take so much more address space (the room) and no more, at "
        "so many times the candidates at which `eager` is computed to fill it:\n"
    ]
    impls = list(dict.fromkeys(row["impl"] for row in proof))
    head = ("B, M, D", "room, MB", "filled", *impls)
    lines += [line(head), line(["---"] * len(head))]
    for filled in dict.fromkeys(row["filled"] for row in proof):
        rows = [row for row in proof if row["filled"] == filled]
        first = rows[0]
        shape = f"{first['B']}, {first['M']}, {first['D']}"
        said = (row["memory"] for row in rows)
        lines.append(line((shape, f"{first['room_mb']:.0f}", f"{filled:g} ×", *said)))
    return lines


def figure_name(document: dict, axis: str) -> str:
    return f"scaling-{document['machine']}-{axis.lower()}.svg"


def figures(documents: Sequence[dict], folder: Path) -> Iterator[Path]:
    """Writes one figure an axis; the same bytes for the same results."""
    for document in documents:
        for axis in AXES:
            if rows := _rows(document, axis):
                path = folder / figure_name(document, axis)
                _figure(axis, rows, path)
                yield path


def _figure(axis: str, rows: list[dict], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    key, unit = ("peak_mb", "peak memory, MB") if axis == "memory" else ("median_ms", "time, ms")
    # Text stays text, which is smaller and can be searched for; ids do not change with each run.
    look = {"svg.fonttype": "none", "svg.hashsalt": "tla_ops", "font.size": 11}
    with mpl.rc_context(look):
        figure, axes = plt.subplots(figsize=(7.2, 4.4), facecolor="white", layout="constrained")
        for impl, (colour, marker, dashes) in IMPLS.items():
            points = [(row["value"], row[key]) for row in _good(rows, impl) if row.get(key)]
            if points:
                xs, ys = zip(*sorted(points), strict=True)
                style = {"color": colour, "marker": marker, "linestyle": dashes}
                axes.plot(xs, ys, **style, linewidth=2, markersize=6, label=impl)
        axes.set(xscale="log", yscale="log", xlabel=AXES[axis][1], ylabel=unit)
        if axis in ("threads", "memory", "D"):
            values = sorted({row["value"] for row in rows})
            axes.set_xticks(values, [str(value) for value in values])
            axes.xaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(_shape(axis, rows), fontsize=11)
        axes.grid(which="major", color="#c9c9c9", linewidth=0.8)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=len(IMPLS), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _good(rows: list[dict], impl: str) -> list[dict]:
    return [row for row in rows if row["impl"] == impl and row.get("correct", True)]
