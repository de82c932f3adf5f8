"""The operators in plain PyTorch: the truth for tests, the baseline for benchmarks, the fallback.

Everything is differentiable by ordinary autograd and runs on any device. Nothing is checked and
nothing is fused: the B x M matrix of distances is stored. Sources: TLA, "Metric Learning for
Adversarial Robustness" (NeurIPS 2019), section 3 and equation 1; AT2L, "Improving the Robustness
of Deep Neural Networks via Adversarial Training with Triplet Loss" (IJCAI 2019), section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .types import BatchHardDetails, TripletLossDetails

EPS = 1e-12
"""A vector shorter than this has cosine 0 to everything."""
NEVER = torch.iinfo(torch.int64).min
"""A candidate with this label is never picked."""
CHUNK = 1 << 24
"""Elements of the (rows, M, D) differences held at a time."""


def triplet_adv_loss(
    anchor, positive, candidates, labels, candidate_labels, *, margin=0.03, weight=1.0,
    norm_weight=0.0, metric="angular", mining="hardest", norm="l2", target_labels=None,
    exclude=None, precision=None, reduction="mean", generator=None, sparse_grad=False,
    return_details=False,
):  # fmt: skip
    """TLA: each anchor against its positives and the negative mined among the candidates."""
    _, index = mine_negatives(
        anchor, candidates, labels, candidate_labels, mining=mining, metric=metric,
        positive=positive, target_labels=target_labels, exclude=exclude, generator=generator,
    )  # fmt: skip
    loss, d_ap, d_an = _triplets(
        anchor, positive, _rows(candidates, index), index >= 0, margin, weight, norm_weight,
        metric, norm,
    )  # fmt: skip
    details = TripletLossDetails(_reduce(loss, reduction), index, d_ap.detach(), d_an.detach())
    return details if return_details else details.loss


def triplet_loss(
    anchor, positive, negative, *, margin=0.03, weight=1.0, norm_weight=0.0, metric="angular",
    norm="l2", reduction="mean", return_details=False,
):  # fmt: skip
    """The same loss with the negatives given, one a row."""
    index = torch.arange(anchor.shape[0], device=anchor.device)
    loss, d_ap, d_an = _triplets(
        anchor, positive, negative, index >= 0, margin, weight, norm_weight, metric, norm
    )
    details = TripletLossDetails(_reduce(loss, reduction), index, d_ap.detach(), d_an.detach())
    return details if return_details else details.loss


def batch_hard_triplet_loss(
    embeddings, labels, *, margin, metric="euclidean", weight=1.0, norm_weight=0.0, norm="l2",
    mining="hardest", positive_mining="hardest", precision=None, reduction="mean", generator=None,
    return_details=False,
):  # fmt: skip
    """Batch-hard triplets (Hermans et al. 2017): positives and negatives from the batch itself."""
    pool = (embeddings, embeddings, labels, labels)
    own = torch.arange(embeddings.shape[0], device=embeddings.device)
    far, p = mine_positives(
        *pool, mining=positive_mining, metric=metric, exclude=own, generator=generator
    )
    bound = torch.where(p >= 0, far, torch.nan)
    _, n = _mine(*pool, mining, metric, bound, None, None, generator, same_class=False)
    usable = (p >= 0) & (n >= 0)
    loss, d_ap, d_an = _triplets(
        embeddings, _rows(embeddings, p), _rows(embeddings, n), n >= 0, margin, weight,
        norm_weight, metric, norm,
    )  # fmt: skip
    loss = torch.where(usable, loss, 0)
    d_ap = torch.where(p >= 0, d_ap[:, 0].detach(), torch.inf)
    details = BatchHardDetails(_reduce(loss, reduction), p, n, d_ap, d_an.detach())
    return details if return_details else details.loss


def mine_negatives(
    anchor, candidates, labels, candidate_labels, *, mining="hardest", metric="angular",
    positive=None, target_labels=None, exclude=None, precision=None, generator=None,
):  # fmt: skip
    """The negative of each anchor: (distance, index), (+inf, -1) where there is none."""
    bound = None
    if mining == "semihard":
        far = _pair(_at_work(anchor, anchor).unsqueeze(1), _positives(anchor, positive), metric)
        bound = far.amin(1) if far.shape[1] else far.new_full(far.shape[:1], torch.nan)
    return _mine(
        anchor, candidates, labels, candidate_labels, mining, metric, bound, target_labels,
        exclude, generator, same_class=False,
    )  # fmt: skip


def mine_positives(
    anchor, candidates, labels, candidate_labels, *, mining="hardest", metric="angular",
    exclude=None, precision=None, generator=None,
):  # fmt: skip
    """The positive of each anchor: hardest is the farthest of its class, easiest the nearest."""
    return _mine(
        anchor, candidates, labels, candidate_labels, mining, metric, None, None, exclude,
        generator, same_class=True,
    )  # fmt: skip


def cdist(x1, x2, *, metric="angular"):
    """Every distance between the rows of x1 (..., B, D) and x2 (..., M, D): (..., B, M)."""
    x1, x2 = _at_work(x1, x1), _at_work(x2, x1)
    if metric in ("angular", "cosine"):
        with torch.autocast(x1.device.type, enabled=False):
            return _from_products(x1 @ x2.mT, _l2(x1).unsqueeze(-1), _l2(x2).unsqueeze(-2), metric)
    step = max(1, CHUNK // max(1, x2.shape[-2] * x2.shape[-1]))
    rows = [_length(x.unsqueeze(-2) - x2.unsqueeze(-3), metric) for x in x1.split(step, dim=-2)]
    return torch.cat(rows, dim=-2)


def _triplets(anchor, positive, negative, exists, margin, weight, norm_weight, metric, norm):
    """TLA's equation 1 without the cross entropy, a row each; `exists`: it has a negative."""
    a, p, n = _at_work(anchor, anchor), _positives(anchor, positive), _at_work(negative, anchor)
    d_ap = _pair(a.unsqueeze(1), p, metric)
    d_an = torch.where(exists, _pair(a, n, metric), torch.inf)
    # relu, not clamp: its derivative at the kink is 0, and it hands NaN on.
    triplet = torch.relu(d_ap - d_an.unsqueeze(1) + margin).sum(1)
    loss = weight * torch.where(exists, triplet, 0)
    if norm_weight != 0:
        loss = loss + norm_weight * (_norm(a, norm) + _norm(p, norm).sum(1) + _norm(n, norm))
    return loss, d_ap, d_an


def _pair(x, y, metric):
    """Distance of x to y over the last dimension. Angular: TLA section 3; chebyshev: AT2L."""
    if metric in ("angular", "cosine"):
        return _from_products((x * y).sum(-1), _l2(x), _l2(y), metric)
    return _length(x - y, metric)


def _from_products(dot, nx, ny, metric):
    """1 - |<x,y>| / (||x|| ||y||), or without |.|; cosine 0, without gradient, of short vectors."""
    cosine = dot / nx.clamp_min(EPS) / ny.clamp_min(EPS)
    # A NaN stays one even beside a short vector.
    cosine = torch.where(((nx < EPS) | (ny < EPS)) & ~cosine.isnan(), 0, cosine)
    return 1 - (cosine.abs() if metric == "angular" else cosine)


def _length(difference, metric):
    """Length of a difference vector."""
    if metric == "euclidean":
        return _l2(difference)
    # max(dim) sends the whole gradient to the first of tied coordinates; amax would share it.
    return difference.abs().max(dim=-1).values


def _norm(x, norm):
    """TLA's L_norm, or what its authors' code computes in its place."""
    return _l2(x) if norm == "l2" else x.square().mean(-1)


def _l2(x):
    """||x||, whose derivative at 0 is 0 here."""
    return torch.linalg.vector_norm(x, dim=-1)


@torch.no_grad()
def _mine(
    anchor, candidates, labels, candidate_labels, mining, metric, bound, target_labels, exclude,
    generator, *, same_class,
):  # fmt: skip
    """Pick one allowed candidate a row. `bound`: the positive's distance, NaN for none."""
    allowed = _allowed(labels, candidate_labels, target_labels, exclude, same_class)
    if mining == "random":
        index = _draw(allowed, anchor, generator)
    else:
        # An infinite distance still beats not being allowed, which is +inf below.
        d = cdist(anchor, _at_work(candidates, anchor), metric=metric)
        d = d.clamp(max=torch.finfo(d.dtype).max)
        if mining == "semihard":
            bound = bound.unsqueeze(1)
            farther = (d > bound) | d.isnan() | bound.isnan()
            nearest_farther = torch.where(farther, d, torch.inf)
            d = torch.where((farther & allowed).any(1, keepdim=True), nearest_farther, -d)
        elif same_class and mining == "hardest":
            d = -d
        # argmin: NaN first, then the smallest, the lowest index of equals. The padding gives an
        # empty pool a column.
        index = F.pad(torch.where(allowed, d, torch.inf), (0, 1), value=torch.inf).argmin(1)
    index = torch.where(allowed.any(1), index, -1)
    distance = _pair(_at_work(anchor, anchor), _at_work(_rows(candidates, index), anchor), metric)
    return torch.where(index >= 0, distance, torch.inf), index


def _allowed(labels, candidate_labels, target_labels, exclude, same_class):
    """(B, M) mask of the candidates a row may pick."""
    labels, candidate_labels = labels.long().unsqueeze(1), candidate_labels.long()
    there = candidate_labels != NEVER
    if exclude is not None:
        index = torch.arange(candidate_labels.shape[0], device=candidate_labels.device)
        there = there & (index != exclude.long().unsqueeze(1))
    own = labels == candidate_labels
    if same_class:
        return own & there
    others = ~own & there
    if target_labels is None:
        return others
    # The target may be the row's own class: then nothing is left of it, as when it is missing.
    wanted = others & (candidate_labels == target_labels.long().unsqueeze(1))
    return torch.where(wanted.any(1, keepdim=True), wanted, others)


def _draw(allowed, anchor, generator):
    """The floor(u n)-th of a row's n allowed candidates."""
    # torch.compile traces a draw of dynamic size only where no generator is named.
    extra = {} if generator is None else {"generator": generator}
    u = torch.rand(anchor.shape[0], dtype=torch.float64, device=anchor.device, **extra)
    rank = allowed.long().cumsum(1)
    n = allowed.long().sum(1)
    nth = torch.minimum((u * n).long(), n - 1) + 1
    return torch.searchsorted(rank, nth.unsqueeze(1)).squeeze(1)


def _rows(x, index):
    """x[index], a row of zeros for index -1; the gradient of x is dense."""
    return torch.cat([x, x.new_zeros(1, x.shape[1])])[index]


def _positives(anchor, positive):
    """(B, D) or (B, K, D) positives as (B, K, D)."""
    positive = _at_work(positive, anchor)
    return positive.unsqueeze(1) if positive.ndim == 2 else positive


def _at_work(x, anchor) -> Tensor:
    """The dtype sums are done in: float64 for float64 anchors, else float32."""
    return x.to(torch.float64 if anchor.dtype == torch.float64 else torch.float32)


def _reduce(loss, reduction):
    if reduction == "none":
        return loss
    return loss.sum() / max(1, loss.shape[0]) if reduction == "mean" else loss.sum()
