"""cdist: every distance, differentiable."""

import pytest
import torch
from helpers import (
    DTYPES,
    HALVES,
    METRICS,
    SIZES,
    TWICE,
    close,
    close_half,
    differentiate_twice,
    distance64,
    randn,
    same_bits,
)
from hypothesis import given
from hypothesis import strategies as st

import tla_ops
from tla_ops import reference


def pair(B, M, D, lead=(), **kwargs):
    return randn(*lead, B, D, **kwargs), randn(*lead, M, D, seed=1, **kwargs)


def truth(x1, x2, metric):
    return distance64(x1.unsqueeze(-2), x2.unsqueeze(-3), metric)


def grads(function, x1, x2, metric, upstream):
    x1, x2 = (x.detach().clone().requires_grad_() for x in (x1, x2))
    return torch.autograd.grad(function(x1, x2, metric=metric), (x1, x2), upstream)


@pytest.mark.parametrize("metric", [*METRICS, "linf"])
@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_value_and_gradient(B, M, D, metric, device):
    x1, x2 = pair(B, min(M, 300), D, device=device)
    d = tla_ops.cdist(x1, x2, metric=metric)
    assert d.shape == (B, min(M, 300))
    assert d.dtype == torch.float32
    close(d, truth(x1, x2, metric))
    if B * M * D < 10**5:
        g = randn(*d.shape, seed=2, device=device)
        ours = grads(tla_ops.cdist, x1, x2, metric, g)
        close(
            ours[0], grads(reference.cdist, x1.double(), x2.double(), metric, g.double())[0], 5e-5
        )
        close(
            ours[1], grads(reference.cdist, x1.double(), x2.double(), metric, g.double())[1], 5e-5
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("lead", [(), (2,), (1, 2), (0,), (2, 0)])
def test_leading_dimensions_and_gradcheck(lead, metric, device):
    x1, x2 = pair(3, 4, 5, lead, dtype=torch.float64, device=device)
    d = tla_ops.cdist(x1, x2, metric=metric)
    assert d.shape == (*lead, 3, 4)
    close(d, truth(x1, x2, metric), 1e-12)
    if d.numel():
        inputs = [x1.requires_grad_(), x2.requires_grad_()]
        assert torch.autograd.gradcheck(lambda *x: tla_ops.cdist(*x, metric=metric), inputs)


def test_angular_is_the_default(device):
    x1, x2 = pair(4, 5, 6, device=device)
    assert same_bits(tla_ops.cdist(x1, x2), tla_ops.cdist(x1, x2, metric="angular"))


@pytest.mark.parametrize(("p", "metric"), [(2.0, "euclidean"), (float("inf"), "chebyshev")])
def test_is_torchs(p, metric, device):
    x1, x2 = pair(9, 40, 13, dtype=torch.float64, device=device)
    close(tla_ops.cdist(x1, x2, metric=metric), torch.cdist(x1, x2, p=p), 1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_dtypes_mix(dtype, other, metric, device):
    x1, x2 = (
        randn(5, 20, dtype=dtype, device=device),
        randn(9, 20, seed=1, dtype=other, device=device),
    )
    d = tla_ops.cdist(x1, x2, metric=metric)
    assert d.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(d, truth(x1, x2, metric))
    got = grads(tla_ops.cdist, x1, x2, metric, torch.ones_like(d))
    assert [g.dtype for g in got] == [dtype, other]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rule(dtype, metric, device):
    x1, x2 = pair(17, 33, 65, dtype=dtype, device=device)
    g = randn(17, 33, seed=2, device=device)
    ours, eager = (grads(f, x1, x2, metric, g) for f in (tla_ops.cdist, reference.cdist))
    exact = grads(reference.cdist, x1.double(), x2.double(), metric, g.double())
    for x, y, z in zip(ours, eager, exact, strict=True):
        close_half(x, y, z)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("B", "M"), [(0, 3), (3, 0), (0, 0)])
def test_empty(B, M, metric, device):
    x1, x2 = (x.requires_grad_() for x in pair(B, M, 4, device=device))
    d = tla_ops.cdist(x1, x2, metric=metric)
    assert d.shape == (B, M)
    d.sum().backward()
    assert x1.grad.shape == x1.shape
    assert not x1.grad.any()
    assert x2.grad.shape == x2.shape
    assert not x2.grad.any()


@pytest.mark.parametrize("metric", METRICS)
def test_subgradients_at_the_kinks(metric, device):
    rows = [[0.0, 0, 0], [1, -1, 1], [1, 1, 0], [1e-13, 0, 0], [2, -2, 2], [0, 0, 5]]
    x = torch.tensor(rows, device=device)
    ones = torch.ones(6, 6, device=device)
    ours = grads(tla_ops.cdist, x, x, metric, ones)
    expected = grads(reference.cdist, x, x, metric, ones)
    for got, other in zip(ours, expected, strict=True):
        assert got.isfinite().all()
        close(got, other)


@pytest.mark.parametrize("metric", METRICS)
def test_nan_and_infinity_stay_in_their_row(metric, device):
    x1, x2 = pair(9, 80, 21, device=device)
    clean = tla_ops.cdist(x1, x2, metric=metric)
    x1[2, 3], x2[40, 5] = torch.nan, torch.nan
    d = tla_ops.cdist(x1, x2, metric=metric)
    hit = torch.zeros(9, 80, dtype=torch.bool, device=device)
    hit[2], hit[:, 40] = True, True
    assert torch.equal(d.isnan(), hit)
    close(d[~hit], clean[~hit], 1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_strides(metric, device):
    x1, x2 = pair(7, 19, 11, device=device)
    g = randn(19, 7, seed=2, device=device).t()
    expected = tla_ops.cdist(x1, x2, metric=metric)
    views = (x1.t().contiguous().t(), torch.stack([x2, x2], 2)[..., 1])
    close(tla_ops.cdist(*views, metric=metric), expected, 1e-6)
    for upstream in (g, torch.ones((), device=device).expand(7, 19)):
        odd = grads(tla_ops.cdist, x1, x2, metric, upstream)
        plain = grads(tla_ops.cdist, x1, x2, metric, upstream.contiguous())
        assert all(map(same_bits, odd, plain))


def test_euclidean_by_differences(device):
    x1, x2 = pair(9, 20, 5, device=device)
    x1, x2 = 1e4 + x1, 1e4 + x2
    close(tla_ops.cdist(x1, x2, metric="euclidean"), truth(x1, x2, "euclidean"), 1e-6)
    assert tla_ops.cdist(x1, x1, metric="euclidean").diagonal().eq(0).all()


def test_leading_dimensions_broadcast_as_in_torch(device):
    x1, x2 = randn(2, 1, 3, 5, device=device), randn(4, 6, 5, seed=1, device=device)
    close(tla_ops.cdist(x1, x2), truth(x1, x2, "angular"))
    x1 = randn(3, 5, device=device).requires_grad_()
    tla_ops.cdist(x1, x2).sum().backward()
    close(x1.grad, grads(reference.cdist, x1.double(), x2.double(), "angular",
                         torch.ones(4, 3, 6, device=device).double())[0])  # fmt: skip


def test_only_what_requires_a_gradient_gets_one(device):
    x1, x2 = pair(3, 4, 5, device=device)
    tla_ops.cdist(x1.requires_grad_(), x2).sum().backward()
    assert x1.grad.any()
    assert x2.grad is None
    y2 = x2.clone().requires_grad_()
    tla_ops.cdist(x1.detach(), y2).sum().backward()
    assert y2.grad.any()


def test_double_backward_says_so(device):
    x1, x2 = (x.requires_grad_() for x in pair(3, 4, 5, device=device))
    with pytest.raises(RuntimeError, match=TWICE):
        differentiate_twice(tla_ops.cdist(x1, x2).sum(), x1)


@given(
    B=st.integers(0, 20),
    M=st.integers(0, 40),
    D=st.integers(1, 70),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-15, 1e-6, 1.0, 1e6]),
)
def test_any_problem(B, M, D, metric, seed, scale, device):
    x1 = scale * randn(B, D, seed=seed, device=device)
    x2 = randn(M, D, seed=seed + 1, device=device)
    close(tla_ops.cdist(x1, x2, metric=metric), truth(x1, x2, metric), 2e-5)
