"""Every operator once or a few times, small and odd, for compute-sanitizer to watch: no results are
compared here. PyTorch's caching allocator should be off (PYTORCH_NO_CUDA_MEMORY_CACHING=1)."""

from __future__ import annotations

import argparse
import itertools

import torch
from torch import Tensor

import tla_ops
from tla_ops import _dispatch, ops
from tla_ops.selftest import SCREENED, _takes

SHAPES = [(1, 1, 1, 1), (3, 37, 19, 2), (50, 129, 65, 1), (17, 513, 640, 1), (5, 0, 8, 1)]
METRICS = ("angular", "cosine", "euclidean", "chebyshev")
REDUCTIONS = ("mean", "none")


def problem(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    b, m, d, k = shape
    g = torch.Generator().manual_seed(1)
    features = [
        torch.randn(size, generator=g).to(device, dtype).requires_grad_()
        for size in ((b, d), (b, k, d), (m, d))
    ]
    labels = [torch.randint(4, (n,), generator=g).to(device) for n in (b, m)]
    return *features, *labels


def exercise(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> int:
    """How many calls were made."""
    a, p, c, y, cy = problem(shape, dtype, device)
    calls = 0
    for metric, reduction in itertools.product(METRICS, REDUCTIONS):
        options = {"metric": metric, "reduction": reduction, "norm_weight": 0.01}
        for mining in ("hardest", "semihard", "random"):
            loss = tla_ops.triplet_adv_loss(a, p, c, y, cy, mining=mining, **options)
            torch.autograd.grad(loss.sum(), (a, p, c))
            calls += 2
        loss = tla_ops.triplet_loss(a, p, a.detach() + 1, **options)
        torch.autograd.grad(loss.sum(), (a, p))
        loss = tla_ops.batch_hard_triplet_loss(a, y, margin=0.1, **options)
        torch.autograd.grad(loss.sum(), a)
        calls += 4
    for metric in METRICS:
        torch.autograd.grad(tla_ops.cdist(a, c, metric=metric).sum(), (a, c))
        own = torch.arange(len(y), device=device)
        for precision in ("exact", "fast"):
            tla_ops.mine_negatives(
                a, c, y, cy, metric=metric, target_labels=(y + 1) % 4, exclude=own,
                precision=precision,
            )  # fmt: skip
            tla_ops.mine_positives(a, c, y, cy, metric=metric, precision=precision)
        calls += 6
    loss = tla_ops.triplet_adv_loss(a, p, c, y, cy, sparse_grad=True)
    loss.backward()
    return calls + 2


def screens(device: str) -> int:
    """Every screen that the device's plan has use for, on the smallest problems that take it."""
    calls = 0
    for screen, (b, m, d) in SCREENED.items():
        if not _takes(torch.device(device), screen):
            continue
        a, p, c, y, cy = (x.detach() for x in problem((b, m, d, 1), torch.float32, device))
        own = torch.arange(b, device=device)
        for metric, mining, common in itertools.product(
            METRICS[:3], ("hardest", "semihard"), (0.0, 3.0)
        ):
            ops.mine(
                a + common, c + common, y, cy, p + common, (y + 1) % 4, own, None, metric, mining,
                False, False, screen,
            )  # fmt: skip
            calls += 1
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    # The kernels are to be watched whatever the self-test says of them, and not the self-test.
    for index in range(torch.cuda.device_count()):
        _dispatch._tables[index] = frozenset(_dispatch.OPERATORS + _dispatch.SCREENS)
    calls = sum(exercise(shape, torch.float32, device) for shape in SHAPES)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        calls += exercise(SHAPES[1], dtype, device)
    if device != "cpu":
        calls += exercise((600, 37, 5, 2), torch.float32, device) + screens(device)
        torch.cuda.synchronize()
    print(f"{calls} calls on {device}")


if __name__ == "__main__":
    main()
