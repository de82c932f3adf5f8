"""triplet_loss: the negatives are given."""

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    DTYPES,
    HALVES,
    METRICS,
    NORMS,
    REDUCTIONS,
    SIZES,
    TWICE,
    close,
    close_half,
    differentiate_twice,
    distance64,
    randn,
    same_bits,
)

import tla_ops
from tla_ops import reference
from tla_ops.types import TripletLossDetails

CALL = {"margin": 0.3, "weight": 1.7, "norm_weight": 0.02}


def triple(B, D, K=2, **kwargs):
    return (
        randn(B, D, **kwargs), randn(B, K, D, seed=1, **kwargs), randn(B, D, seed=2, **kwargs)
    )  # fmt: skip


def grads(function, inputs, **call):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves, **call), leaves)


def doubles(inputs):
    return [x.double() for x in inputs]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_value_and_gradient(B, M, D, metric, device):
    inputs, call = triple(B, D, device=device), {**CALL, "metric": metric}
    close(tla_ops.triplet_loss(*inputs, **call), reference.triplet_loss(*doubles(inputs), **call))
    ours = grads(tla_ops.triplet_loss, inputs, **call)
    truth = grads(reference.triplet_loss, doubles(inputs), **call)
    for x, y in zip(ours, truth, strict=True):
        close(x, y, 2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(reduction, norm, metric, device):
    inputs = [x.requires_grad_() for x in triple(4, 5, dtype=torch.float64, device=device)]
    assert torch.autograd.gradcheck(
        lambda *x: tla_ops.triplet_loss(*x, **CALL, metric=metric, norm=norm, reduction=reduction),
        inputs,
    )


def test_details(device):
    a, p, n = triple(9, 5, device=device)
    out = tla_ops.triplet_loss(a, p, n, reduction="none", return_details=True)
    assert isinstance(out, TripletLossDetails)
    assert torch.equal(out.negative_index, torch.arange(9, device=device))
    close(out.positive_distance, distance64(a.unsqueeze(1), p, "angular"))
    close(out.negative_distance, distance64(a, n, "angular"))
    assert out.loss.shape == (9,)


def test_defaults_are_those_of_triplet_adv_loss(device):
    a, p, n = triple(9, 5, device=device)
    full = tla_ops.triplet_loss(
        a, p, n, margin=0.03, weight=1.0, norm_weight=0.0, metric="angular", norm="l2",
        reduction="mean", return_details=False,
    )  # fmt: skip
    assert same_bits(full, tla_ops.triplet_loss(a, p, n))


def test_is_torchs_triplet_margin_loss(device):
    a, p, n = triple(30, 16, K=1, dtype=torch.float64, device=device)
    ours = tla_ops.triplet_loss(a, p, n, metric="euclidean", margin=0.7)
    close(ours, F.triplet_margin_loss(a, p[:, 0], n, margin=0.7, eps=0), 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_dtypes(metric, dtype, device):
    a, p, n = triple(9, 33, device=device)
    inputs, call = (a.to(dtype), p, n.to(torch.bfloat16)), {**CALL, "metric": metric}
    loss = tla_ops.triplet_loss(*inputs, **call)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close(loss, reference.triplet_loss(*doubles(inputs), **call))
    got = grads(tla_ops.triplet_loss, inputs, **call)
    assert [g.dtype for g in got] == [dtype, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_rule(metric, dtype, device):
    inputs, call = triple(33, 65, dtype=dtype, device=device), {**CALL, "metric": metric}
    ours, eager = (grads(f, inputs, **call) for f in (tla_ops.triplet_loss, reference.triplet_loss))
    truth = grads(reference.triplet_loss, doubles(inputs), **call)
    for x, y, z in zip(ours, eager, truth, strict=True):
        close_half(x, y, z)


@pytest.mark.parametrize(("B", "K"), [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty(B, K, reduction, device):
    inputs = [x.requires_grad_() for x in triple(B, 5, K, device=device)]
    loss = tla_ops.triplet_loss(*inputs, reduction=reduction)
    assert loss.eq(0).all()
    loss.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in inputs)
    if B:
        ours = tla_ops.triplet_loss(*inputs, norm_weight=1.0)
        close(ours, inputs[0].norm(dim=1).mean() + inputs[2].norm(dim=1).mean())


@pytest.mark.parametrize("metric", METRICS)
def test_subgradients_at_the_kinks(metric, device):
    """Zero, equal, orthogonal and tied vectors: the reference's gradients, none of them NaN."""
    z, x, y = torch.tensor([[0.0, 0, 0, 0], [1, -2, 2, 0], [2, 1, 0, 2]], device=device)
    tied, short = torch.tensor([1.0, -1, -1, 1], device=device), 1e-13 * y
    vectors = [z, x, y, tied, short]
    rows = [(a, p, n) for a in vectors for p in vectors for n in vectors]
    inputs = [torch.stack(v) for v in zip(*rows, strict=True)]
    call = {**CALL, "metric": metric, "margin": 9.0, "reduction": "sum"}
    ours = grads(tla_ops.triplet_loss, inputs, **call)
    # In float32, too: what is tied there is not tied in float64.
    truth = grads(reference.triplet_loss, inputs, **call)
    for got, expected in zip(ours, truth, strict=True):
        assert got.isfinite().all()
        close(got, expected)


def test_hinge_at_zero_has_gradient_zero(device):
    a, p, n = (torch.tensor([[v, 0.0]], device=device) for v in (0.0, 1.0, 2.0))
    call = {"metric": "euclidean", "norm_weight": 0.0}
    assert not any(g.any() for g in grads(tla_ops.triplet_loss, (a, p, n), margin=1.0, **call))
    assert all(g.any() for g in grads(tla_ops.triplet_loss, (a, p, n), margin=1.25, **call)[1:])


def test_linf_ties_go_to_the_lowest_coordinate(device):
    a = torch.zeros(1, 4, device=device)
    p, n = (
        torch.tensor([[0.0, -3, 3, 1]], device=device),
        torch.tensor([[2.0, 2, -2, 2]], device=device),
    )
    ga, gp, gn = grads(tla_ops.triplet_loss, (a, p, n), metric="linf", margin=1.0)
    assert gp.tolist() == [[0, -1, 0, 0]]
    assert gn.tolist() == [[-1, 0, 0, 0]]
    assert ga.tolist() == [[1, 1, 0, 0]]


def test_double_backward_says_so(device):
    inputs = [x.requires_grad_() for x in triple(4, 5, device=device)]
    loss = tla_ops.triplet_loss(*inputs)
    with pytest.raises(RuntimeError, match=TWICE):
        differentiate_twice(loss, inputs[0])
