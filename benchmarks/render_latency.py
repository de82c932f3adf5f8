"""The GPU's latency tables of docs/performance.md, from what latency.py wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

OURS = "tla_ops_graph"
# Columns of times, where any row has them.
IMPLS = (
    *("tla_ops_graph", "tla_ops", "eager_graph", "compile", "eager"),
    *("floor_launches", "floor_bytes"),
)
RATIOS = ("eager", "eager_graph", "compile")
TARGET_ROW = ("both", "float32", 50, 500, 640)
# What, the implementation it is a multiple of (None: microseconds), and the number.
TARGETS = (
    ("at most 13 µs", None, 13.0),
    ("at least 10 × faster than eager", "eager", 10.0),
    ("at least 3 × faster than torch.compile under CUDA graphs", "compile", 3.0),
)
NOTES = """`triplet_adv_loss` in µs a call: medians, between CUDA events around many calls that
rotate among several sets of inputs, each result first compared with float64. `tla_ops` and `eager`
are plain calls from Python, `…_graph` replays of a CUDA graph a call, `compile` is `torch.compile`
with `mode="reduce-overhead"`. `floor_launches` is as many empty kernels under a graph (one forward,
one backward), `floor_bytes` the bytes that must be moved at the measured copy rate. "× eager" is
how many times faster the replay is than that. A dash: not measured; "wrong": the result was.
"""


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latency_tables(document: dict) -> list[str]:
    groups: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for row in document["rows"]:
        key = (row["mode"], row["dtype"], row["B"], row["M"], row["D"])
        groups[key][row["impl"]] = row
    floor = next((g for key, g in groups.items() if key[0] == "launch"), {})
    lines = [
        f"\n## {document['device']}\n",
        f"torch {document['torch']}, CUDA {document['cuda']}, driver {document['driver']}, commit "
        f"{document['commit']}, {document['date'][:10]}.\n",
        NOTES,
        *_targets(groups.get(TARGET_ROW, {})),
    ]
    for mode in ("forward", "backward", "both"):
        chosen = {key: group for key, group in groups.items() if key[0] == mode}
        lines += _mode_table(mode, chosen)
    lines += _floor_table(floor)
    for title, key in (("Wrong", "wrong"), ("Left out", "left_out"), ("Warnings", "warnings")):
        if document.get(key):
            lines += [f"\n{title}:\n", *(f"- {entry}" for entry in document[key])]
    return lines


def _targets(group: dict[str, dict]) -> list[str]:
    """Forward and backward at (50, 500, 640) in float32 under graph replay."""
    lines = [
        "Forward and backward, (50, 500, 640), float32, graph replay:\n",
        line(("target", "measured", "met")),
        line(["---"] * 3),
    ]
    ours = _time(group, OURS)
    for what, peer, number in TARGETS:
        other = _time(group, peer) if peer else None
        if ours is None or (peer and other is None):
            lines.append(line((what, "–", "not measured")))
            continue
        value = ours * 1e3 if other is None else other / ours
        met = value <= number if other is None else value >= number
        measured = f"{value:.1f} {'×' if peer else 'µs'}"
        lines.append(line((what, measured, "yes" if met else "no")))
    return lines


def _mode_table(mode: str, groups: dict[tuple, dict[str, dict]]) -> list[str]:
    if not groups:
        return []
    impls = [impl for impl in IMPLS if any(impl in group for group in groups.values())]
    ratios = [impl for impl in RATIOS if impl in impls] if OURS in impls else []
    head = ["dtype", "B, M, D", *impls, *(f"× {impl}" for impl in ratios)]
    lines = [f"\n{mode.capitalize() if mode != 'both' else 'Forward and backward'}:\n"]
    lines += [line(head), line(["---"] * len(head))]
    for key in sorted(groups, key=lambda k: (k[1] != "float32", k[1], k[4], k[3])):
        _, dtype, b, m, d = key
        group = groups[key]
        cells = [dtype, f"{b}, {m}, {d}", *(_cell(group, impl) for impl in impls)]
        for impl in ratios:
            ours, other = _time(group, OURS), _time(group, impl)
            cells.append(f"{other / ours:.1f}" if ours and other else "–")
        lines.append(line(cells))
    return lines


def _floor_table(group: dict[str, dict]) -> list[str]:
    launches = {k: row for k, row in group.items() if k != "copy"}
    lines = []
    if launches:
        lines = ["\nEmpty launches under a graph, µs, 128 blocks of 128 threads:\n"]
        lines += [line(("what", "a graph each", "each of many in one graph"))]
        lines += [line(["---"] * 3)]
        for kind, row in launches.items():
            chained = row.get("chained_ms")
            cell = "–" if chained is None else f"{chained * 1e3:.2f}"
            lines.append(line((kind, f"{row['median_ms'] * 1e3:.2f}", cell)))
    if "copy" in group:
        rate = group["copy"]["gb_per_s"] / 1e3
        lines.append(f"\nCopy on the device: {rate:.2f} TB/s, bytes read and written.")
    return lines


def _cell(group: dict[str, dict], impl: str) -> str:
    if impl not in group:
        return "–"
    value = _time(group, impl)
    return "wrong" if value is None else f"{value * 1e3:.1f}"


def _time(group: dict[str, dict], impl: str | None) -> float | None:
    """Milliseconds; None where it was not measured, or its result was wrong."""
    row = group.get(impl) if impl else None
    return row["median_ms"] if row and row.get("correct", True) else None
