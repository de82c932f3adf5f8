"""Tensors of more than 2^31 elements: every offset is counted in 64 bits.

Memory that nobody writes costs nothing, so that a few rows far apart are enough.
"""

import math
import mmap
import sys

import pytest
import torch
from helpers import METRICS, Problem, make_problem, randn, same_bits
from simt.client import Spread
from simt.operators import GPUS, adv_loss, backward, cdist, loss, mine, mine_large, share

import tla_ops
from tla_ops import _build_info, ops

AVAILABLE = _build_info.info()["cpu"]["available"]
FAR = 2**31 + 8  # elements; a multiple of what is loaded at once


def far_apart(x, at=0):
    """The tensor's values, neighbours along one dimension more than 2^31 elements apart."""
    strides = [
        FAR * math.prod(x.shape[at + 1 :]) if k == at else n for k, n in enumerate(x.stride())
    ]
    return Spread(x, tuple(strides))


def kernels(simt, p, metric, gpu):
    """What the kernels' bodies make of a problem, whose features may be spread."""
    index, upstream = torch.tensor([6, -1, 6, 0, 5]), torch.tensor(0.7)
    rows, call = p.features, {"metric": metric, "gpu": gpu}
    yield mine(simt, *p.mine, **call)
    if metric != "chebyshev":
        for screen in ("mma", "blas"):
            yield mine_large(simt, *p.mine, metric=metric, screen=screen)
    yield adv_loss(simt, p, mining="semihard", **call)
    yield loss(simt, *rows, negative_index=index, **call)
    for sorted in (False, True):
        call["sorted"] = call["sparse"] = sorted
        yield backward(simt, upstream, *rows, negative_index=index, **call)


@pytest.mark.parametrize("metric", METRICS)
def test_kernels_reach_rows_far_apart(simt, metric):
    """Rows, or a row's elements: the same bits as side by side."""
    n = METRICS.index(metric)
    dtype = (torch.float32, torch.bfloat16, torch.float16, torch.float64)[n]
    p = make_problem(5, 7, 12, 2, dtype=dtype, seed=n)
    gpu = list(GPUS.values())[n]
    near = list(kernels(simt, p, metric, gpu))
    for _, at in share(simt, (0, 1), of=2, first=n):
        a, positive, c = p.features
        features = far_apart(a, at), far_apart(positive, 2 * at), far_apart(c, at)
        far = kernels(simt, Problem(*features, *p[3:]), metric, gpu)
        for got, expected in zip(far, near, strict=True):
            assert got.keys() == expected.keys()
            assert all(same_bits(got[name], expected[name]) for name in expected)


def test_kernels_reach_matrices_far_apart(simt):
    x1, x2 = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    near = cdist(simt, x1, x2, "cosine")
    far = [Spread(x, (FAR, 8, 1)) for x in (x1, x2)]
    apart = simt("cdist", anchor=far[0], candidates=far[1], metric="cosine")["distance"]
    assert same_bits(apart.view(near.shape), near)
    grad = torch.randn(3, 4, 5)
    for swapped in (0, 1):
        call = {"metric": "cosine", "swapped": swapped}
        got = [
            simt("cdist_backward", grad=g, anchor=a, candidates=c, **call)["grad"]
            for g, a, c in [(grad, x1, x2), (Spread(grad, (64 * FAR, 8 * FAR, FAR)), *far)]
        ]
        assert same_bits(*got)


def untouched(count, dtype):
    """Zeros that take memory only where something is written."""
    if sys.platform != "linux":
        pytest.skip("needs MAP_NORESERVE")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
    try:
        memory = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    except OSError as error:
        pytest.skip(f"no address space: {error}")
    return torch.frombuffer(memory, dtype=dtype)


def spread(x, at=0):
    """`far_apart` for the installed operators."""
    _, strides = far_apart(x, at)
    last = sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True))
    return untouched(last + 1, x.dtype).as_strided(x.shape, strides).copy_(x)


def everything(a, p, c, y, cy, metric):
    """Of the CPU operators: picks, losses and gradients."""
    out = [*tla_ops.mine_negatives(a, c, y, cy, metric=metric)]
    out += tla_ops.mine_negatives(a, c, y, cy, metric=metric, mining="semihard", positive=p)
    out += ops.triplet_adv_loss(
        *(a, p, c, y, cy, None, None, None), 0.4, 1.0, 0.02, metric, "hardest", "l2", "mean",
        False, "",
    )  # fmt: skip
    for sparse in (False, True):
        out += ops.triplet_loss_backward(
            *(torch.tensor(0.7), a, p, c, None, out[1]), 0.4, 1.0, 0.02, metric, "l2", "mean",
            True, True, True, sparse,
        )  # fmt: skip
    out.append(tla_ops.cdist(a, c, metric=metric))
    return out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("isa", [AVAILABLE[0], AVAILABLE[-1]])
def test_rows_far_apart(isa, dtype, metric):
    """Sizes for which a search is screened by products, too, with strides no BLAS takes."""
    before = torch.ops.tla_ops.use_instruction_set(isa)
    try:
        compare_far_apart(dtype, metric)
    finally:
        torch.ops.tla_ops.use_instruction_set(before)


def compare_far_apart(dtype, metric):
    p = make_problem(100, 130, 20, 2, dtype=dtype)
    near = everything(*p, metric)
    for at in (0, 1):
        rows = (p.anchor, spread(p.positive, 2 * at), spread(p.candidates, at))
        far = everything(*rows, *p[3:], metric)
        assert all(map(same_bits, far, near))
    anchors = everything(spread(p.anchor), *p[1:], metric)
    assert all(map(same_bits, anchors, near))


def pool_of(m, d, device):
    """Zeros in bfloat16."""
    if device.type == "cpu":
        return untouched(m * d, torch.bfloat16).view(m, d)
    # As many again for a dense gradient, and for the copy that a screen reads.
    if torch.cuda.mem_get_info(device)[0] < 7 * m * d:
        pytest.skip("needs 15 GB on the GPU")
    return torch.zeros(m, d, dtype=torch.bfloat16, device=device)


@pytest.mark.parametrize("B", [2, 600])
def test_a_pool_of_more_than_two_to_the_31_elements(B, device):
    """Side by side in memory, the picks at the far end; with many anchors, as CUDA takes those."""
    if B > 2 and device.type == "cpu":
        pytest.skip("the same on the CPU, and slow")
    m, d = 2**21 + 3, 1024
    last = torch.tensor([m - 2, m - 1], device=device)
    c, base = pool_of(m, d, device), randn(2, d, dtype=torch.bfloat16, device=device)
    c[last] = base
    c[5] = base[1]
    a = base.repeat(B // 2, 1) * 2.0 ** (torch.arange(B, device=device) % 4).unsqueeze(1)
    a = a.bfloat16()
    p = randn(B, 1, d, seed=1, dtype=torch.bfloat16, device=device)
    y = torch.zeros(B, device=device).long()
    cy = torch.ones(m, device=device).long()
    cy[5] = 0  # nobody's, or it would win the tie
    distance, index = tla_ops.mine_negatives(a, c, y, cy, metric="cosine")
    assert torch.equal(index, last.repeat(B // 2))
    assert (distance < 1e-6).all()
    upstream = torch.tensor(1.0, device=device)
    options = (0.4, 1.0, 0.02, "cosine", "l2", "mean", True, True, True)
    near = ops.triplet_loss_backward(
        *(upstream, a, p, c[last], None, index - (m - 2)), *options, False
    )
    sparse = ops.triplet_loss_backward(*(upstream, a, p, c, None, index), *options, True)
    assert all(map(same_bits, sparse[:2], near))
    assert same_bits(sparse[2][:2], near[2])
    assert not sparse[2][2:].any()
    if device.type == "cuda":
        dense = ops.triplet_loss_backward(*(upstream, a, p, c, None, index), *options, False)[2]
        assert same_bits(dense[last], near[2])
        assert not dense[: m - 2].any()
