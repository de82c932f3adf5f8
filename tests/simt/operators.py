"""The operators as the CUDA kernels' bodies compute them, the arguments as in tla_ops."""

import torch

from .client import A100, H200

# By the names of what they bring about: how many blocks share a tile, and where they meet.
# The last two leave a team several tiles.
GPUS = {
    "cluster": H200,
    "grid": A100,
    "turns": {"multiprocessors": 1, "capability": 86},
    "few": {"multiprocessors": 5, "capability": 90},
}
LOSS = {"margin": 0.3, "weight": 1.7, "norm_weight": 0.02, "norm": "l2", "reduction": "mean"}


def share(run, cases, of, plain=1, first=0):
    """One in `of` of the cases, with its number; in the plain build one in `plain`."""
    step = plain if run.flavour == "plain" else of
    first += {"plain": 0, "asan": 1, "race": 3}[run.flavour]
    return list(enumerate(cases))[first % step :: step]


def odd_step(x):
    """The same numbers, with one more between what dimension 0 counts."""
    flat = x.flatten(1)
    return torch.cat([flat, flat[:, :1]], 1)[:, :-1].unflatten(1, x.shape[1:])


def mine(run, a, c, y, cy, *, metric="angular", mining="hardest", same_class=False, **more):
    """Distance, index and plan."""
    return run(
        "mine", anchor=a, candidates=c, labels=y, candidate_labels=cy, metric=metric,
        mining=mining, same_class=int(same_class), **more,
    )  # fmt: skip


def mine_large(run, a, c, y, cy, *, metric="angular", mining="hardest", same_class=False,
               fast=False, screen="blas", anchor_chunk=1 << 20, candidate_chunk=1 << 20,
               capacity=64, clusters=2, **more):  # fmt: skip
    """Distance, index and `rescored`: how many candidates of each row were, -1 for all."""
    return run(
        "mine_large", anchor=a, candidates=c, labels=y, candidate_labels=cy, metric=metric,
        mining=mining, same_class=int(same_class), fast=int(fast), screen=screen,
        anchor_chunk=anchor_chunk, candidate_chunk=candidate_chunk, capacity=capacity,
        clusters=clusters, **more,
    )  # fmt: skip


def mine_bank(run, a, c, y, cy, *, metric="angular", mining="hardest", same_class=False,
              fast=False, resident=True, stages=4, capacity=4096, **more):  # fmt: skip
    """As mine_large; candidates as they are."""
    return run(
        "mine_bank", anchor=a, candidates=c, labels=y, candidate_labels=cy, metric=metric,
        mining=mining, same_class=int(same_class), fast=int(fast), resident=int(resident),
        stages=stages, capacity=capacity, **more,
    )  # fmt: skip


def cdist(run, a, c, metric, **more):
    """(B, D) and (M, D), or stacks of those."""
    a, c = (x if x.ndim == 3 else x.unsqueeze(0) for x in (a, c))
    return run("cdist", anchor=a, candidates=c, metric=metric, **more)["distance"].squeeze(0)


def adv_loss(run, problem, *, metric="angular", mining="hardest", **more):
    call = {**LOSS, "metric": metric, "mining": mining, **more}
    return run("triplet_adv_loss", **problem._asdict(), **call)


def loss(run, anchor, positive, negative, **more):
    rows = {"anchor": anchor, "positive": positive, "negative": negative}
    return run("triplet_loss", **rows, **{**LOSS, "metric": "angular", **more})


def backward(run, grad, anchor, positive, negative, *, needed=(1, 1, 1), sparse=False,
             sorted=False, **more):  # fmt: skip
    rows = {"grad": grad, "anchor": anchor, "positive": positive, "negative": negative}
    names = ("need_anchor", "need_positive", "need_negative")
    flags = {**dict(zip(names, map(int, needed), strict=True)), "sparse": int(sparse),
             "sorted": int(sorted)}  # fmt: skip
    return run("triplet_loss_backward", **rows, **flags, **{**LOSS, "metric": "angular", **more})


def best(d, allowed, farthest=False):
    """NaN first, then the smallest (largest), then the lowest index; -1 where none is allowed."""
    largest = torch.finfo(d.dtype).max
    key = (-d if farthest else d).clamp(-largest, largest)
    key = torch.where(d.isnan(), -torch.inf, key)
    if key.shape[1] == 0:
        return torch.full(d.shape[:1], -1)
    index = torch.where(allowed, key, torch.inf).argmin(1)
    return torch.where(allowed.any(1), index, -1)


def drawn(allowed, uniform):
    """The pick of mining="random" in each row."""
    rows = (row.nonzero().flatten().tolist() for row in allowed)
    picks = [
        js[min(int(u * len(js)), len(js) - 1)] if js else -1
        for js, u in zip(rows, uniform.tolist(), strict=True)
    ]
    return torch.tensor(picks, dtype=torch.int64)
