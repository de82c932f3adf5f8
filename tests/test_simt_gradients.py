"""The kernels of the triplet loss and of gradients, run on the CPU, against float64 autograd."""

import pytest
import torch
from helpers import (
    DTYPES,
    METRICS,
    NORMS,
    REDUCTIONS,
    close,
    distance64,
    loss64,
    make_problem,
    randn,
    reduced,
    same_bits,
)
from simt.operators import GPUS, LOSS, backward, cdist, loss, odd_step, share

from tla_ops import reference

SIZES = [(1, 1, 1), (2, 5, 7), (33, 4, 20), (7, 40, 515), (5, 3, 640), (40, 100, 33), (3, 6, 1040)]
NAMES = list(GPUS)
FEW = {"multiprocessors": 1, "capability": 80}


def autograd64(anchor, positive, negative, upstream, p=None, n=None, *, metric="angular", **call):
    """Losses a row, distances, and the gradients of all three by reference.py in float64."""
    call = {**LOSS, **call}
    leaves = [x.detach().double().requires_grad_() for x in (anchor, positive, negative)]
    a, near, far = leaves
    b = len(a)
    exists = torch.ones(b, dtype=torch.bool) if n is None else n >= 0
    far = far if n is None else reference._rows(far, n)
    near = near if p is None else reference._rows(near, p).unsqueeze(1)
    rows, to_positive, to_negative = reference._triplets(
        a, near, far, exists, call["margin"], call["weight"], call["norm_weight"], metric,
        call["norm"],
    )  # fmt: skip
    if p is not None:
        usable = exists & (p >= 0)
        rows = torch.where(usable, rows, 0)
        to_positive = torch.where(usable.unsqueeze(1), to_positive, torch.inf)
        to_negative = torch.where(usable, to_negative, torch.inf)
    total = reduced(rows, call["reduction"])
    upstream = upstream.double().expand(total.shape)
    gradients = torch.autograd.grad(total, leaves, upstream, allow_unused=True)
    gradients = [
        torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)
    ]
    return total, to_positive, to_negative, gradients


def tolerance(dtype):
    return {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 2e-5)


def check(answer, truth):
    for name, expected in zip(("anchor", "positive", "negative"), truth, strict=True):
        if name in answer:
            close(answer[name], expected, tolerance(answer[name].dtype))


def picks(b, m, seed, none=0.2):
    g = torch.Generator().manual_seed(seed)
    index = torch.randint(m, (b,), generator=g)
    return torch.where(torch.rand(b, generator=g) < none, -1, index)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_forward_and_backward(simt, metric, norm):
    """Rows given, picked negatives, and rows of one batch; every size, reduction and type."""
    first = METRICS.index(metric) + 4 * NORMS.index(norm)
    for n, (b, m, d) in share(simt, SIZES, of=2, first=first):
        for case in ("given", "picked", "batch"):
            reduction = REDUCTIONS[(n + first) % 3]
            dtype = torch.float64 if (n + first) % 4 == 0 else torch.float32
            k = 1 if case == "batch" else (n + first) % 4
            norm_weight = 0.02 * ((n + first) % 5 != 2)
            problem = make_problem(b, m, d, k, dtype=dtype, seed=n)
            call = {"metric": metric, "norm": norm, "reduction": reduction,
                    "norm_weight": norm_weight}  # fmt: skip
            rows = [problem.anchor, problem.positive, problem.candidates]
            index = {}
            if case == "given":
                rows[2] = randn(b, d, seed=n, dtype=dtype)
            else:
                index["n"] = picks(b, m, n)
            if case == "batch":
                rows[1] = problem.anchor
                index["p"] = picks(b, b, n + 1)
            upstream = randn(b, seed=n) if reduction == "none" else torch.tensor(0.7)
            total, near, far, gradients = autograd64(*rows, upstream, **index, **call)
            sent = {"positive_index": index.get("p"), "negative_index": index.get("n")}
            gpu = GPUS[NAMES[n % 4]] if n % 2 else FEW
            out = loss(simt, *rows, **sent, **call, gpu=gpu, seed=n)
            close(out["loss"], total, 2e-5)
            close(out["positive_distance"], near)
            close(out["negative_distance"], far)
            got = backward(simt, upstream, *rows, **sent, **call, gpu=gpu, seed=n + 1)
            assert set(got) == {"anchor", "positive", "negative"}
            check(got, gradients)
            needed = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 0, 0)][n % 5]
            for key, value in backward(
                simt, upstream, *rows, **sent, **call, needed=needed, gpu=FEW, seed=n + 2
            ).items():
                assert same_bits(value, got[key]), key


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_strides(simt, dtype):
    """Each argument of its own type and layout; the upstream gradient, too."""
    layouts = [
        lambda x: x,
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.cat([x[..., :1], x, x[..., :3]], -1)[..., 1:-3],
        odd_step,
        lambda x: x[:1].expand_as(x),
    ]
    at = DTYPES.index(dtype)
    for n, d in share(simt, [5, 20, 516, 66], of=2, first=at):
        problem = make_problem(9, 6, d, 2, dtype=torch.float64, seed=n)
        rows = [
            layouts[(n + at + k) % 5](x.to(DTYPES[(at + k * (n + 1)) % 4]))
            for k, x in enumerate(problem.features)
        ]
        index = picks(9, 6, n)
        upstream = randn(9, seed=n, dtype=dtype)
        for grad in (upstream, upstream[:1].expand(9), upstream.repeat_interleave(2)[::2]):
            call = {"reduction": "none", "metric": METRICS[n], "margin": 3.0}
            total, near, far, gradients = autograd64(*rows, grad, n=index, **call)
            out = loss(simt, *rows, negative_index=index, **call, seed=n)
            close(out["loss"], total, 5e-5)
            close(out["positive_distance"], near)
            close(out["negative_distance"], far)
            got = backward(simt, grad, *rows, negative_index=index, **call, seed=n)
            assert [got[name].dtype for name in ("anchor", "positive", "negative")] == [
                x.dtype for x in rows
            ]
            check(got, gradients)
            again = backward(simt, grad, *rows, negative_index=index, **call, seed=n + 1, gpu=FEW)
            assert all(same_bits(again[key], got[key]) for key in got)


@pytest.mark.parametrize("metric", METRICS)
def test_shared_picks(simt, metric):
    """One owner a row, and the same bits in any schedule; rows nobody picked are zeros."""
    for n, (b, m, d) in share(simt, [(70, 3, 33), (40, 1, 68), (37, 90, 130)], of=2):
        problem = make_problem(b, m, d, 1, seed=n, dtype=DTYPES[n + 1])
        a, c = problem.anchor, problem.candidates
        p, j = picks(b, b, n), picks(b, m, n + 1)
        p[b // 2 :] = 2
        upstream = torch.tensor(1.3)
        call = {"metric": metric, "margin": 2.0}
        sent = {"positive_index": p, "negative_index": j}
        *_, gradients = autograd64(a, a, c, upstream, p=p, n=j, **call)
        got = backward(simt, upstream, a, a, c, **sent, **call, seed=n)
        check(got, gradients)
        left_out = (p < 0) | (j < 0)
        assert not got["anchor"][left_out].any()
        for pool, index in (("positive", p), ("negative", j)):
            nobody = torch.ones(len(got[pool]), dtype=torch.bool)
            nobody[index[~left_out]] = False
            assert same_bits(got[pool][nobody], torch.zeros_like(got[pool][nobody]))
        for k, gpu in enumerate((FEW, *GPUS.values())):
            again = backward(simt, upstream, a, a, c, **sent, **call, gpu=gpu, seed=n + k)
            assert all(same_bits(again[key], got[key]) for key in got)
        # In the rows of those that own a pick; they add up to the dense gradient.
        sparse = backward(simt, upstream, a, a, c, **sent, **call, sparse=True, seed=n)
        assert same_bits(sparse["anchor"], got["anchor"])
        assert same_bits(sparse["positive"], got["positive"])
        dense = torch.zeros_like(c)
        for i in range(b):
            owns = not left_out[i] and not any(j[h] == j[i] and not left_out[h] for h in range(i))
            if owns:
                dense[j[i]] = sparse["negative"][i]
            else:
                assert not sparse["negative"][i].any()
        assert same_bits(dense, got["negative"])


def test_nothing_there(simt):
    for n, (b, m, k) in enumerate([(0, 0, 1), (0, 5, 0), (4, 5, 0), (4, 0, 2), (0, 40, 2)]):
        problem = make_problem(b, m, 6, k, seed=n)
        index = picks(b, m, n) if m else torch.full((b,), -1)
        for reduction in REDUCTIONS:
            upstream = torch.ones(b) if reduction == "none" else torch.tensor(1.0)
            call = {"negative_index": index, "reduction": reduction, "seed": n}
            truth = loss64(problem, index, margin=0.3, weight=1.7, norm_weight=0.02)
            close(loss(simt, *problem.features, **call)["loss"], reduced(truth, reduction))
            got = backward(simt, upstream, *problem.features, **call)
            *_, gradients = autograd64(*problem.features, upstream, n=index, reduction=reduction)
            check(got, gradients)
            sparse = backward(simt, upstream, *problem.features, **call, sparse=True)
            assert sparse["negative"].shape == (b, 6)


@pytest.mark.parametrize("metric", METRICS)
def test_kinks(simt, metric):
    """Subgradients: the hinge at 0, equal rows, orthogonal rows, tied coordinates, zero rows."""
    zero = torch.zeros(1, 20)
    one = torch.eye(20)
    rows = {
        "equal": (one[:1], one[:1], one[1:2]),
        "orthogonal": (one[:1], one[1:2], one[2:3]),
        "tied": (2 * one[:1], one[:1] + one[1:2], torch.ones(1, 20)),
        "zero anchor": (zero, one[:1], one[1:2]),
        "zero others": (one[:1], zero, zero),
    }
    for n, (a, p, c) in enumerate(rows.values()):
        p = p.unsqueeze(1)
        gap = distance64(a, p[:, 0], metric) - distance64(a, c, metric)
        for margin in (2.0, -gap.item()):
            call = {"metric": metric, "margin": margin, "norm_weight": 0.5}
            upstream = torch.tensor(1.0)
            *_, gradients = autograd64(a, p, c, upstream, **call)
            got = backward(simt, upstream, a, p, c, **call, seed=n)
            # A gap with a root in it is rounded, in one way here and in another there: not a hinge
            # at 0.
            if margin == 2.0 or (4 * gap.item()).is_integer():
                check(got, gradients)


@pytest.mark.parametrize("scale", [1e-39, 1e-30, 1e-18, 1e-13, 1e18, 1e19, 1e25])
def test_gradients_of_any_scale(simt, scale):
    a, p, c = (randn(4, 9, seed=k) * scale for k in range(3))
    p = p.unsqueeze(1)
    for metric, norm_weight in (("cosine", 0.0), ("angular", 1.0), ("euclidean", 1.0)):
        if metric == "euclidean" and scale < 1e-18:
            continue
        call = {"metric": metric, "margin": 3.0 * max(1, scale), "norm_weight": norm_weight}
        upstream = torch.tensor(1.0)
        *_, gradients = autograd64(a, p, c, upstream, **call)
        got = backward(simt, upstream, a, p, c, **call)
        for name, expected in zip(("anchor", "positive", "negative"), gradients, strict=True):
            size = expected.abs().max()
            if size < 1e-40:
                assert not got[name].any()
                continue
            tol = 1e-5 if min(scale, float(size)) > 1e-38 else 0.02
            assert ((got[name].double() - expected).abs() <= tol * size).all(), (metric, name)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_surface(simt, bad, metric):
    for n in range(3):
        rows = [randn(3, 20, seed=k) for k in range(3)]
        rows[n][1, 3] = bad
        a, p, c = rows
        p = p.unsqueeze(1)
        call = {"metric": metric, "margin": 3.0, "norm_weight": 0.0, "reduction": "none"}
        total, near, far, _ = autograd64(a, p, c, torch.ones(3), **call)
        out = loss(simt, a, p, c, **call, seed=n)
        close(out["loss"], total)
        close(out["positive_distance"], near)
        close(out["negative_distance"], far)
        got = backward(simt, torch.ones(3), a, p, c, **call, seed=n)
        for value in got.values():
            assert value.flatten(1)[[0, 2]].isfinite().all()
        if total[1].isnan() and (bad != bad or metric in ("angular", "cosine")):
            assert got["anchor"][1].isnan().any()


@pytest.mark.parametrize("metric", METRICS)
def test_cdist_and_its_gradients(simt, metric):
    sizes = [(1, 1, 1, 1), (3, 4, 6, 20), (1, 4, 67, 67), (2, 3, 37, 516), (2, 0, 4, 8)]
    sizes += [(1, 5, 0, 8), (2, 34, 5, 18)]
    for k, (n, b, m, d) in share(simt, sizes, of=3, first=METRICS.index(metric)):
        x1, x2 = (
            randn(n, rows, d, seed=rows, dtype=DTYPES[(k + at) % 4 if k % 2 else at])
            for at, rows in enumerate((b, m))
        )
        if k % 3 == 1:
            x1 = x1[:1].expand_as(x1)
            x2 = odd_step(x2)
        if k % 3 == 2:
            x2 = x2.mT.contiguous().mT
        leaves = [x.double().requires_grad_() for x in (x1, x2)]
        truth = reference.cdist(*leaves, metric=metric)
        gpu = FEW if k % 2 else GPUS["cluster"]
        got = cdist(simt, x1, x2, metric, seed=k, gpu=gpu)
        assert got.dtype == (torch.float64 if x1.dtype == torch.float64 else torch.float32)
        close(got.view(truth.shape), truth)
        type = got.dtype
        upstream = randn(n, b, m, seed=k, dtype=type)
        for grad in (upstream, upstream[:, :1, :1].expand(n, b, m))[: 1 + (b * m > 0)]:
            if b * m == 0:
                expected = [torch.zeros_like(x) for x in leaves]
            else:
                expected = torch.autograd.grad(truth, leaves, grad.double(), retain_graph=True)
            for swapped in (0, 1):
                by = simt("cdist_backward", grad=grad, anchor=x1, candidates=x2, metric=metric,
                          swapped=swapped, gpu=gpu, seed=k)["grad"]  # fmt: skip
                x = (x1, x2)[swapped]
                assert by.dtype == x.dtype
                close(by.view(x.shape), expected[swapped], 2 * tolerance(x.dtype))


def test_a_row_is_at_no_distance_from_itself(simt):
    for n, scale in share(simt, (1e-30, 1e-13, 1e-11, 1.0, 1e10, 1e25), of=3):
        for dtype, d in ((torch.float32, 33), (torch.bfloat16, 640), (torch.float64, 20)):
            x = (randn(35, d, seed=n, dtype=torch.float64) * scale).to(dtype)
            for metric in METRICS:
                diagonal = cdist(simt, x, x, metric, seed=n)[range(35), range(35)]
                short = x.double().norm(dim=1) < 1e-12
                expected = short & (metric in ("angular", "cosine"))
                assert torch.equal(diagonal, expected.to(diagonal.dtype)), (metric, scale, dtype)
