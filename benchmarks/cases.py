"""The problems that are timed, and how far from the truth a search's picks are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN, NORM_WEIGHT = 0.03, 1e-3
COLLAPSED = 0.92
"""The cosine of any two rows where an embedding has collapsed to one tight cluster."""
CLASSES, CENTRES = 10, 64
SAMPLE = 128
CHUNK = 1 << 16


@dataclass
class Problem:
    """Random features with ten classes; candidates want a gradient where the loss is timed."""

    anchor: Tensor
    positive: Tensor
    candidates: Tensor
    labels: Tensor
    candidate_labels: Tensor

    @property
    def device(self) -> str:
        return self.anchor.device.type


Search = Callable[[], Tensor]
"""Picks an index a row, or (`mm`, `copy`) only does work of that size."""


class Task(NamedTuple):
    """What a search looks for: the largest |cosine| (or cosine) among other classes (or all)."""

    signed: bool = False
    masked: bool = True


def loss_problem(b: int, m: int, d: int) -> Problem:
    g = torch.Generator().manual_seed(0)
    features = [torch.randn(n, d, generator=g).requires_grad_() for n in (b, b, m)]
    return Problem(*features, *(torch.randint(CLASSES, (n,), generator=g) for n in (b, m)))


def mining_problem(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    data: str = "gaussian",
    generator: torch.Generator | None = None,
) -> Problem:
    """On the generator's device. Clusters and duplicates do not follow classes, so that a row's
    hardest negatives are the rest of its own. Copies: all candidates are one row."""
    b, m, d = shape
    g = generator or torch.Generator().manual_seed(0)
    at = {"generator": g, "device": g.device}
    labels, candidate_labels = (torch.randint(CLASSES, (n,), **at) for n in (b, m))
    centres = torch.randn(CENTRES, d, **at)

    def features(own: Tensor) -> Tensor:
        x = torch.randn(len(own), d, **at)
        if data == "relu":
            x = x.add_(centres[own], alpha=0.5).relu_()
        elif data == "collapsed":
            centre = F.normalize(centres[0], dim=0) * d**0.5
            x = x.mul_((1 / COLLAPSED - 1) ** 0.5).add_(centre)
        elif data in ("clusters", "duplicates"):
            c = centres[torch.randint(CENTRES, (len(own),), **at)]
            x = x.mul_(1e-2).add_(c) if data == "clusters" else x.mul_(1e-6).add_(1).mul_(c)
        return x.to(dtype)

    anchor, candidates = features(labels), features(candidate_labels)
    if data == "copies":
        candidates[:] = candidates[:1].clone()
    return Problem(anchor, anchor, candidates, labels, candidate_labels)


def judge(p: Problem, index: Tensor, task: Task) -> dict[str, float]:
    """`regret`: the largest excess of the picks' distance over the true minimum, in float64, over a
    sample of rows; `not_allowed`: how many of these have no pick, or one of their own class."""
    b, m = len(p.anchor), len(p.candidates)
    rows = torch.linspace(0, b - 1, min(b, SAMPLE), device=index.device).long()
    a, y, picks = p.anchor[rows].detach().double(), p.labels[rows], index[rows].long()
    a = F.normalize(a)

    def distances(chunk: slice) -> Tensor:
        cosine = a @ F.normalize(p.candidates[chunk].detach().double()).mT
        d = 1 - (cosine if task.signed else cosine.abs())
        own = y[:, None] == p.candidate_labels[chunk]
        return d.masked_fill(own, torch.inf) if task.masked else d

    best = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=a.device)
    picked = best.clone()
    for start in range(0, m, CHUNK):
        d = distances(slice(start, start + CHUNK))
        best = torch.minimum(best, d.min(1).values)
        here = (picks >= start) & (picks < start + d.shape[1])
        at = (picks - start).clamp(0, d.shape[1] - 1)
        picked = torch.where(here, d.gather(1, at[:, None])[:, 0], picked)
    nothing_to_pick = best.isinf() & (picks == -1)
    excess = torch.where(nothing_to_pick, 0, picked - best)
    bad = ~excess.isfinite()
    found: dict[str, float] = {}
    if not bad.all():
        found["regret"] = max(0.0, float(excess[~bad].max()))
    if bad.any():
        found["not_allowed"] = int(bad.sum())
    return found
