"""The implementations that stand beside ours, one function each.

    python benchmarks/peers.py     # which of them this machine has

A function takes a problem and returns the call to time. Packages are imported where they are used;
what is not here raises `NotHere`, which says why.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from cases import Problem, Search, Task
from packages import PACKAGES, NotHere, package, refuse
from torch import Tensor

from tla_ops import reference

CHUNK_BYTES = {"cuda": 2**30, "cpu": 2**26}
"""Of the products that `eager_chunks` holds at a time."""


def mm(p: Problem, dtype: torch.dtype | None = None) -> Search:
    """The bare matrix product: the ceiling. float32 has TF32 off."""
    a, c = (x.detach().to(dtype or x.dtype) for x in (p.anchor, p.candidates))
    out = torch.empty(len(a), len(c), dtype=a.dtype, device=a.device)
    return lambda: torch.mm(a, c.mT, out=out)


def mm_float16(p: Problem) -> Search:
    """What a float32 search screens with, if nothing else took time."""
    refuse(p.anchor.dtype != torch.float32, "beside float32 alone")
    return mm(p, torch.float16)


def mm_float32(p: Problem) -> Search:
    """What exact distances of half-precision features cost before they are picked from."""
    refuse(p.anchor.dtype == torch.float32, "beside half precision alone")
    return mm(p, torch.float32)


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


def sklearn(p: Problem) -> Search:
    """The nearest of all, whatever its class. Rows are normalised beforehand, so that euclidean
    neighbours are cosine's."""
    search = package("sklearn", "sklearn.metrics").pairwise_distances_argmin
    refuse(p.device != "cpu", "needs a processor")
    a, c = (F.normalize(x.float()).numpy() for x in (p.anchor, p.candidates))
    return lambda: torch.from_numpy(search(a, c))


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
    "mm_float32": Peer(mm_float32),
    "eager": Peer(eager, Task()),
    "eager_chunks": Peer(eager_chunks, Task()),
    "flash_kmeans": Peer(flash_kmeans, ANY_CLASS, slow=True, tf32=True),
    "pytorch_metric_learning": Peer(pytorch_metric_learning, Task(signed=True)),
    "faiss": Peer(faiss, ANY_CLASS),
    "sklearn": Peer(sklearn, ANY_CLASS),
    "cuvs": Peer(cuvs, ANY_CLASS),
    "compile": Peer(compiled, Task(), slow=True),
    "copy": Peer(copy),
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
