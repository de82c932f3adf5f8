"""Our loss and what stands beside it: a function takes a problem and a mode and returns the call to
time. What is not here raises `NotHere`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from cases import MARGIN, NORM_WEIGHT, Problem
from latency_impls import compile_runs
from packages import package
from peers import mm
from torch import Tensor

import tla_ops
from tla_ops import reference


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


def _loss_of(module: ModuleType) -> Callable[[Problem, str], Callable[[], object]]:
    def peer(p: Problem, mode: str) -> Callable[[], object]:
        def loss() -> Tensor:
            return module.triplet_adv_loss(
                p.anchor, p.positive, p.candidates, p.labels, p.candidate_labels,
                margin=MARGIN, norm_weight=NORM_WEIGHT,
            )  # fmt: skip

        return _timed(loss, p, mode)

    return peer


def pytorch_metric_learning_loss(p: Problem, mode: str) -> Callable[[], object]:
    """BatchHardMiner and TripletMarginLoss over a reference set that holds positives and pool."""
    root = "pytorch_metric_learning"
    distance = package(root, f"{root}.distances").CosineSimilarity()
    miner = package(root, f"{root}.miners").BatchHardMiner(distance=distance)
    criterion = package(root, f"{root}.losses").TripletMarginLoss(MARGIN, distance=distance)
    labels = torch.cat([p.labels, p.candidate_labels])

    def loss() -> Tensor:
        pool = torch.cat([p.positive, p.candidates])
        triplets = miner(p.anchor, p.labels, pool, labels)
        return criterion(p.anchor, p.labels, triplets, ref_emb=pool, ref_labels=labels)

    return _timed(loss, p, mode)


LOSS_PEERS = {
    "tla_ops": _loss_of(tla_ops),
    "eager": _loss_of(reference),
    "compile": lambda p, mode: compile_runs([p], mode)[0].call,
    "pytorch_metric_learning": pytorch_metric_learning_loss,
    "mm": lambda p, mode: mm(p),
}
