"""A processor's table of targets in docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from render_latency import line
from targets import FLAT, LOSS_TARGETS, MINING_TARGETS, NOT_MEASURED, judged

HEAD = ("what", "asked", "measured", "met", "what limits it")
NOTES = """Mining: (1024, 65536, 640), exact, against the bare float32 product of the same shape in
the same run (in brackets: ours, the other). Of `duplicates` and `copies` a search that screens has
most to look at twice.
Targets are for two cores with AMX; they are compared whatever the machine.
"""


def targets_table(documents: Sequence[dict]) -> list[str]:
    """`documents`: the results of one machine, by whatever benchmarks it has run."""
    first = documents[0]
    lines = [
        f"\n## Targets: {first['device']}\n",
        f"torch {first['torch']}; instruction sets {', '.join(first['instruction_sets'])}.\n",
        NOTES,
        line(HEAD),
        line(["---"] * len(HEAD)),
    ]
    rows = [row for document in documents for row in document["rows"]]
    for target in (*MINING_TARGETS, *LOSS_TARGETS):
        lines.append(line((target.what, target.asked, *judged(target, rows), target.limits)))
    return [*lines, line(_memory(documents))]


def _memory(documents: Sequence[dict]) -> tuple[str, ...]:
    """Peak memory flat in B × M, from scaling.json."""
    grows = next((d["bytes_a_pair"] for d in documents if "bytes_a_pair" in d), {})
    measured, met = "–", NOT_MEASURED
    if grows.get("tla_ops") is not None:
        measured = f"{grows['tla_ops']:.2f} bytes"
        if grows.get("eager") is not None:
            measured += f" (`eager`: {grows['eager']:.1f})"
        met = "yes" if grows["tla_ops"] <= FLAT else "no"
    return (
        "peak memory flat in B × M",
        f"≤ {FLAT:g} bytes for another pair",
        measured,
        met,
        "each anchor's list of candidates for the second look, and its packed row",
    )
