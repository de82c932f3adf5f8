"""The problems that are timed and the implementations that stand beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import tla_ops
from tla_ops import reference

MARGIN, NORM_WEIGHT = 0.03, 1e-3


@dataclass
class Problem:
    """Random features with ten classes; candidates want a gradient where the loss is timed."""

    anchor: Tensor
    positive: Tensor
    candidates: Tensor
    labels: Tensor
    candidate_labels: Tensor

    def regret(self, mine: Callable[[], object], rows: int = 64) -> float | None:
        """The largest excess of the picks' distance over the true minimum, in float64."""
        picked = mine()
        if not isinstance(picked, tuple) or picked[1].dtype != torch.int64:
            return None
        _, index = picked
        a, c = self.anchor[:rows].double(), self.candidates.double()
        d = 1 - (torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(c).mT).abs()
        d[self.labels[:rows, None] == self.candidate_labels] = torch.inf
        best = d.min(1).values
        return float((d.gather(1, index[:rows, None])[:, 0] - best).max())


def _problem(b: int, m: int, d: int, dtype: torch.dtype, grad: bool) -> Problem:
    g = torch.Generator().manual_seed(0)
    features = [torch.randn(n, d, generator=g).to(dtype).requires_grad_(grad) for n in (b, b, m)]
    labels = [torch.randint(0, 10, (n,), generator=g) for n in (b, m)]
    return Problem(*features, *labels)


def loss_problem(b: int, m: int, d: int) -> Problem:
    return _problem(b, m, d, torch.float32, True)


def mining_problem(b: int, m: int, d: int, dtype: torch.dtype) -> Problem:
    return _problem(b, m, d, dtype, False)


def _timed(loss: Callable[[], Tensor], problem: Problem, mode: str) -> Callable[[], object]:
    """Forward alone, as in evaluation, or forward and backward into fresh gradients."""

    def forward() -> object:
        with torch.no_grad():
            return loss()

    def both() -> object:
        for x in (problem.anchor, problem.positive, problem.candidates):
            x.grad = None
        loss().backward()
        return None

    return forward if mode == "forward" else both


def _loss_of(module: object) -> Callable[[Problem, str], Callable[[], object]]:
    def peer(p: Problem, mode: str) -> Callable[[], object]:
        def loss() -> Tensor:
            return module.triplet_adv_loss(  # type: ignore[attr-defined]
                p.anchor, p.positive, p.candidates, p.labels, p.candidate_labels,
                margin=MARGIN, norm_weight=NORM_WEIGHT,
            )  # fmt: skip

        return _timed(loss, p, mode)

    return peer


def _metric_learning(p: Problem, mode: str) -> Callable[[], object]:
    """BatchHardMiner and TripletMarginLoss over a reference set that holds positives and pool."""
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner

    distance = CosineSimilarity()
    miner, criterion = (
        BatchHardMiner(distance=distance),
        TripletMarginLoss(MARGIN, distance=distance),
    )
    labels = torch.cat([p.labels, p.candidate_labels])

    def loss() -> Tensor:
        pool = torch.cat([p.positive, p.candidates])
        triplets = miner(p.anchor, p.labels, pool, labels)
        return criterion(p.anchor, p.labels, triplets, ref_emb=pool, ref_labels=labels)

    return _timed(loss, p, mode)


def _bare_mm(p: Problem, mode: str = "forward") -> Callable[[], object]:
    a, c = p.anchor.detach(), p.candidates.detach()
    out = torch.empty(a.shape[0], c.shape[0], dtype=a.dtype)
    return lambda: torch.mm(a, c.mT, out=out)


def _mine_of(module: object) -> Callable[[Problem], Callable[[], object]]:
    return lambda p: (
        lambda: module.mine_negatives(  # type: ignore[attr-defined]
            p.anchor, p.candidates, p.labels, p.candidate_labels
        )
    )


LOSS_PEERS = {
    "tla_ops": _loss_of(tla_ops),
    "eager": _loss_of(reference),
    "pytorch_metric_learning": _metric_learning,
    "mm": _bare_mm,
}
MINING_PEERS = {"tla_ops": _mine_of(tla_ops), "eager": _mine_of(reference), "mm": _bare_mm}
