"""What a processor is asked for (two cores with AMX), and whether it was met.

Plain data for render.py and the benchmarks. What limits a row does not depend on what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mining_cases import CPU_SHAPE, LACKS, Shape

NOT_MEASURED = "not measured"
LOSS_SHAPES: list[Shape] = [(50, 500, 640), (50, 2000, 640)]
FLAT = 0.25
"""Bytes by which peak memory may grow for another pair of an anchor and a candidate, of which a
stored float32 distance takes four: room for what grows with the anchors alone."""


class Target(NamedTuple):
    """`impl` over `against` at most `number`, or, with `faster`, `against` over `impl` at least.
    `instead` is judged where the machine lacks `impl`.
    """

    what: str
    bench: str
    shape: Shape
    number: float
    limits: str
    against: str = "mm"
    dtype: str = "float32"
    data: str = "gaussian"
    mode: str = "mine_exact"
    impl: str = "tla_ops"
    instead: str = ""
    faster: bool = False

    @property
    def asked(self) -> str:
        other = "float32 `mm`" if self.against.startswith("mm") else f"`{self.against}`"
        if self.faster:
            return f"≥ {self.number:g} × faster than {other}"
        return f"≤ {self.number:g} × {other}"


def _mining(what: str, number: float, limits: str, **more: str) -> Target:
    return Target(what, "mine_negatives", CPU_SHAPE, number, limits, **more)


SCREEN = (
    "the screen's rate (the matrix unit's in integers of 8 bits, or the vector units' of 8 or 16) "
    "against theirs in float32; next, packing and reading the candidates and comparing scores"
)
SECOND_LOOK = (
    "the second look, in float32, at candidates that the screen's error bound cannot tell from the "
    "best: a row's number of such near-ties, and reading their features again"
)
CALLS = {
    "eager": "the interpreter and PyTorch's dispatcher around two operators and a backward pass; "
    "the product itself, which both have in common",
    "pytorch_metric_learning": "the interpreter and PyTorch's dispatcher around two operators and "
    "a backward pass; what the other spends on matrices of distances and on hardest positives",
}
MINING_TARGETS = [
    _mining("exact, gaussian", 0.15, SCREEN),
    _mining("exact, relu", 0.15, SCREEN, data="relu"),
    _mining(
        "exact, collapsed (cosines about .92)", 0.20,
        "the screen's error bound beside how closely cosines about .92 lie; then as for gaussian "
        "features", data="collapsed",
    ),
    _mining("exact, duplicates (64 rows and noise of 1e-6)", 1.2, SECOND_LOOK, data="duplicates"),
    _mining("exact, copies (all candidates one row)", 1.2, SECOND_LOOK, data="copies"),
    _mining(
        "bfloat16 features, gaussian", 0.11,
        "the screen's rate; next, packing the candidates, of which half as many bytes are read, "
        "and comparing scores",
        dtype="bfloat16", against="mm_float32",
    ),
    _mining(
        "the float32 path by itself (avx512, or avx2 where there is none), gaussian", 1.05,
        "the vector units' float32 rate, which the bare product has in common",
        impl="tla_ops_avx512", instead="tla_ops_avx2",
    ),
]  # fmt: skip
LOSS_TARGETS = [
    Target(
        f"forward and backward, {shape}", "triplet_adv_loss", shape, number, CALLS[against],
        against, mode="both", faster=True,
    )
    for shape in LOSS_SHAPES
    for against, number in (("eager", 8), ("pytorch_metric_learning", 15))
]  # fmt: skip


def judged(target: Target, rows: Sequence[dict]) -> tuple[str, str]:
    """What was measured, and yes, no or NOT_MEASURED."""
    group = {row["impl"]: row for row in rows if _of(target, row)}
    ours, other = group.get(target.impl, {}), group.get(target.against, {})
    if ours.get("error", "").startswith(LACKS):
        ours = group.get(target.instead, ours)
    if not ours.get("correct", True):
        return "wrong", "no"
    if "error" in ours and not ours["error"].startswith(LACKS):
        return "failed", "no"
    if not ours.get("median_ms") or not other.get("median_ms"):
        return "–", NOT_MEASURED
    times = (ours["median_ms"], other["median_ms"])
    ratio = times[1] / times[0] if target.faster else times[0] / times[1]
    met = ratio >= target.number if target.faster else ratio <= target.number
    ms = ", ".join(f"{short(time)} ms" for time in times)
    return f"{ratio:.{1 if target.faster else 3}f} × ({ms})", "yes" if met else "no"


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _of(target: Target, row: dict) -> bool:
    problem = row["bench"], (row["B"], row["M"], row["D"]), row["dtype"], row["mode"]
    asked = target.bench, target.shape, target.dtype, target.mode
    return problem == asked and row.get("data", "gaussian") == target.data
