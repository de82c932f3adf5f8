"""The implementations that stand beside ours, one function each.

    python benchmarks/peers.py     # which of them this machine has

A function takes a problem and returns the call to time. Packages are imported where they are used;
what is not here raises `NotHere`, which says why.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from cases import MARGIN, NORM_WEIGHT, Problem, Task
from mining_cases import OTHER_PATH
from torch import Tensor

import tla_ops
from tla_ops import _build_info, _dispatch, ops, reference

Search = Callable[[], Tensor]
"""Picks an index a row, or (`mm`, `copy`) only does work of that size."""
PACKAGES = {
    "pytorch_metric_learning": "pytorch-metric-learning",
    "flash_kmeans": "flash-kmeans",
    "faiss": "faiss-cpu or faiss-gpu",
    "cuvs": "cuvs-cu13 or cuvs-cu12",
}
CHUNK_BYTES = {"cuda": 2**30, "cpu": 2**26}
"""Of the products that `eager_chunks` holds at a time."""


class NotHere(unittest.SkipTest):
    """An implementation that cannot be had for this problem on this machine. pytest skips it."""


def package(name: str, module: str | None = None) -> Any:
    try:
        return importlib.import_module(module or name)
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        reason = f"not installed: {PACKAGES[name]}"
        raise NotHere(reason if missing == name else f"{name} lacks {missing}: {error}") from error


def refuse(condition: bool, reason: str) -> None:
    if condition:
        raise NotHere(reason)


# --- searches


def tla_ops_search(p: Problem, fast: bool = False) -> Search:
    """As a user calls it: the plan chooses the path."""
    if not _dispatch.has_kernels(p.anchor, "mine"):
        raise RuntimeError("the self-test left the kernels out")
    return lambda: (
        tla_ops.mine_negatives(
            p.anchor, p.candidates, p.labels, p.candidate_labels,
            precision="fast" if fast else "exact",
        )[1]
    )  # fmt: skip


def tla_ops_path(p: Problem, path: str, fast: bool = False) -> Search:
    """By one path alone, whatever the self-test says of it."""
    refuse(p.device != "cuda", "paths are CUDA's")
    refuse(path not in (*_dispatch.SCREENS, "tiles"), f"this version has no path {path}")
    allowed = "" if path == "tiles" else path
    found = planned(p, allowed)
    refuse(found != path, f"{OTHER_PATH} {found} here")
    return lambda: (
        ops.mine(
            p.anchor, p.candidates, p.labels, p.candidate_labels, None, None, None, None,
            "angular", "hardest", False, fast, allowed,
        )[1]
    )  # fmt: skip


def planned(p: Problem, allowed: str | None = None) -> str:
    """The path that csrc/common/plan_large.h chooses among those allowed, or (None) in `mine`."""
    gpu = torch.cuda.get_device_properties(p.anchor.device)
    return _build_info.plan_large(
        len(p.anchor), *p.candidates.shape, 4, p.candidates.element_size(), True,
        _dispatch.screens(p.anchor) if allowed is None else allowed,
        gpu.multi_processor_count, 10 * gpu.major + gpu.minor,
    )["screen"]  # fmt: skip


def mm(p: Problem, dtype: torch.dtype | None = None) -> Search:
    """The bare matrix product: the ceiling. float32 has TF32 off."""
    a, c = (x.detach().to(dtype or x.dtype) for x in (p.anchor, p.candidates))
    out = torch.empty(len(a), len(c), dtype=a.dtype, device=a.device)
    return lambda: torch.mm(a, c.mT, out=out)


def mm_float16(p: Problem) -> Search:
    """What a float32 search screens with, if nothing else took time."""
    refuse(p.anchor.dtype != torch.float32, "beside float32 alone")
    return mm(p, torch.float16)


def copy(p: Problem) -> Search:
    """Twice the traffic of reading the candidates once."""
    target = torch.empty_like(p.candidates)
    return lambda: target.copy_(p.candidates)


def eager(p: Problem) -> Search:
    """The reference, which stores all distances."""
    return lambda: reference.mine_negatives(p.anchor, p.candidates, p.labels, p.candidate_labels)[1]


def eager_chunks(p: Problem, step: Callable[..., Tensor] | None = None) -> Search:
    """The reference's formula as one who minds memory writes it: rows normalised once, a chunk of
    anchors at a time, in place. Products are in float32: half-precision ones would be stored
    rounded."""
    step = step or _chunk_step
    rows = max(1, CHUNK_BYTES[p.device] // (4 * len(p.candidates)))

    def search() -> Tensor:
        a, c = F.normalize(p.anchor.float()), F.normalize(p.candidates.float())
        chunks = zip(a.split(rows), p.labels.split(rows), strict=True)
        return torch.cat([step(x, c, y, p.candidate_labels) for x, y in chunks])

    return search


def _chunk_step(a: Tensor, c: Tensor, y: Tensor, cy: Tensor) -> Tensor:
    # The smallest 1 - |cosine|, without another pass for the 1.
    return (a @ c.mT).abs_().masked_fill_(y[:, None] == cy, -1).max(1).indices


def compiled(p: Problem) -> Search:
    """torch.compile of what `eager_chunks` does with a chunk, under CUDA graphs on a GPU."""
    torch._dynamo.reset()  # shapes do not share a compile cache, whose size is limited
    step = torch.compile(_chunk_step, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def chunk(*arguments: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return step(*arguments).clone()  # the next replay writes there again

    return eager_chunks(p, chunk)


def pytorch_metric_learning(p: Problem) -> Search:
    """BatchHardMiner with a reference set, which finds the hardest positives, too."""
    root = "pytorch_metric_learning"
    miner = package(root, f"{root}.miners").BatchHardMiner(
        distance=package(root, f"{root}.distances").CosineSimilarity()
    )

    def search() -> Tensor:
        rows, _, negatives = miner(p.anchor, p.labels, p.candidates, p.candidate_labels)
        index = torch.full((len(p.anchor),), -1, device=p.anchor.device)
        index[rows] = negatives
        return index

    return search


def flash_kmeans(p: Problem) -> Search:
    """The assignment of k-means: the nearest of all, whatever its class. Rows are normalised
    beforehand. Of its 162 tilings for large D, each of which is compiled and tried for any new
    shape, the 8 of the largest tile are left."""
    module = package("flash_kmeans", "flash_kmeans.assign_euclid_triton")
    refuse(p.device != "cuda", "needs a GPU")
    tuner = module._cosine_assign_kernel_split_d_autotuned
    tuner.configs = [config for config in tuner.configs if _large_tile(config)]
    a, c = (F.normalize(x)[None].contiguous() for x in (p.anchor, p.candidates))
    return lambda: module.cosine_assign_triton(a, c)[0]


def _large_tile(config: Any) -> bool:
    tile = [config.kwargs[f"BLOCK_{x}"] for x in "NKD"]
    return tile[:2] == [128, 128] and tile[2] <= 64 and config.num_stages > 1


def faiss(p: Problem) -> Search:
    """Brute force in float32, the nearest of all, whatever its class. Rows are normalised
    beforehand."""
    module = package("faiss")
    a, c = (F.normalize(x.float()).contiguous() for x in (p.anchor, p.candidates))
    if p.device == "cuda":
        refuse(not hasattr(module, "StandardGpuResources"), "this faiss has no GPU part")
        package("faiss", "faiss.contrib.torch_utils")
        resources = module.StandardGpuResources()
        metric = module.METRIC_INNER_PRODUCT
        return lambda: module.knn_gpu(resources, a, c, 1, metric=metric)[1][:, 0]
    a, c = a.numpy(), c.numpy()
    return lambda: torch.from_numpy(module.knn(a, c, 1, module.METRIC_INNER_PRODUCT)[1][:, 0])


def cuvs(p: Problem) -> Search:
    """Brute force, the nearest of all, whatever its class. Rows are normalised beforehand."""
    brute_force = package("cuvs", "cuvs.neighbors.brute_force")
    refuse(p.device != "cuda", "needs a GPU")
    refuse(p.anchor.dtype == torch.bfloat16, "has no bfloat16")
    a, c = (F.normalize(x).contiguous() for x in (p.anchor, p.candidates))
    index = brute_force.build(c, metric="inner_product")
    return lambda: torch.as_tensor(brute_force.search(index, a, 1)[1], device=a.device)[:, 0]


class Peer(NamedTuple):
    """`task`: what it looks for, None if it picks nothing; `slow`: to start, for any new shape;
    `tf32`: its float32 products are."""

    make: Callable[[Problem], Search]
    task: Task | None = None
    slow: bool = False
    tf32: bool = False


ANY_CLASS = Task(signed=True, masked=False)
MINING_PEERS = {
    "mm": Peer(mm),
    "mm_float16": Peer(mm_float16),
    "eager": Peer(eager, Task()),
    "eager_chunks": Peer(eager_chunks, Task()),
    "flash_kmeans": Peer(flash_kmeans, ANY_CLASS, slow=True, tf32=True),
    "pytorch_metric_learning": Peer(pytorch_metric_learning, Task(signed=True)),
    "faiss": Peer(faiss, ANY_CLASS),
    "cuvs": Peer(cuvs, ANY_CLASS),
    "compile": Peer(compiled, Task(), slow=True),
    "copy": Peer(copy),
}


# --- losses


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
    "pytorch_metric_learning": pytorch_metric_learning_loss,
    "mm": lambda p, mode: mm(p),
}


def main() -> None:
    for module in PACKAGES:
        try:
            package(module)
            version = importlib.metadata.packages_distributions().get(module, [module])[0]
            print(f"{module:<26}{importlib.metadata.version(version)}")
        except NotHere as error:
            print(f"{module:<26}{error}")


if __name__ == "__main__":
    main()
