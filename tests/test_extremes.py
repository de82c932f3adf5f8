"""Norms at the edges of float32, short vectors beside NaN, empty batches, unusual arguments."""

import numpy as np
import pytest
import torch

import tla_ops
from tla_ops import reference


def gradients(module, inputs, **call):
    leaves = [x.clone().requires_grad_() for x in inputs]
    module.triplet_loss(*leaves, **call).backward()
    return [x.grad for x in leaves]


@pytest.mark.parametrize("scale", [1e-39, 1e-30, 1e-18, 1e18, 1e22, 1e25])
@pytest.mark.parametrize("norm_weight", [0.0, 1.0])
def test_gradients_of_any_scale(scale, norm_weight, device):
    g = torch.Generator().manual_seed(0)
    inputs = [(torch.randn(4, 9, generator=g) * scale).to(device) for _ in range(3)]
    call = {"metric": "cosine", "margin": 3.0, "norm_weight": norm_weight}
    ours = gradients(tla_ops, inputs, **call)
    truth = gradients(reference, [x.cpu().double() for x in inputs], **call)
    for got, expected in zip(ours, truth, strict=True):
        got = got.cpu()
        size = expected.abs().max()
        if size < 1e-40:  # below what float32 holds
            assert not got.any()
        else:
            # Beside 1 / norm, float32 keeps few digits of a subnormal row or gradient.
            tol = 1e-5 if min(scale, float(size)) > 1e-38 else 0.02
            assert ((got.double() - expected).abs() <= tol * size).all()


@pytest.mark.parametrize("metric", ["angular", "cosine"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_surfaces_beside_a_short_vector(metric, bad, device):
    a, c = torch.zeros(1, 3, device=device), torch.ones(2, 3, device=device)
    c[1, 0] = bad
    y, cy = torch.tensor([0], device=device), torch.tensor([1, 1], device=device)
    for module in (tla_ops, reference):
        distance, index = module.mine_negatives(a, c, y, cy, metric=metric)
        assert index.item() == 1
        assert distance.isnan().all()
        leaf = a.clone().requires_grad_()
        loss = module.triplet_loss(leaf, c[:1], c[1:], metric=metric)
        loss.backward()
        assert loss.isnan()
    leaf = a.clone().requires_grad_()
    tla_ops.triplet_loss(leaf, c[:1], c[1:], metric=metric).backward()
    assert leaf.grad.isnan().any()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 0, 5), (2, 3, 5)),
        ((2, 3, 5), (2, 0, 5)),
        ((0, 3, 5), (0, 2, 5)),
        ((4, 1, 0, 5), (3, 5)),
    ],
)
def test_cdist_of_empty_batches(first, second, device):
    x1 = torch.zeros(first, requires_grad=True, device=device)
    x2 = torch.zeros(second, device=device)
    d = tla_ops.cdist(x1, x2)
    assert d.shape == reference.cdist(x1, x2).shape
    d.sum().backward()
    assert x1.grad.shape == first


def test_a_partly_filled_bank_is_searched_among_its_rows(device):
    """Unfilled slots everywhere, whole tiles of them, first and last."""
    g = torch.Generator().manual_seed(2)
    a, c = torch.randn(130, 40, generator=g).to(device), torch.zeros(3000, 40, device=device)
    cy = torch.full((3000,), torch.iinfo(torch.int64).min, device=device)
    filled = torch.arange(700, 900, device=device)
    c[filled], cy[filled] = torch.randn(200, 40, generator=g).to(device), 1
    y = torch.zeros(130, dtype=torch.int64, device=device)
    for metric in ("angular", "euclidean"):
        distance, index = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
        expected, row = tla_ops.mine_negatives(a, c[filled], y, cy[filled], metric=metric)
        assert torch.equal(index, row + 700)
        assert torch.equal(distance, expected)


@pytest.mark.parametrize("value", [10**400, float("nan"), -float("inf")])
def test_numbers_beyond_float64_are_refused(value):
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match="margin must be finite"):
        tla_ops.triplet_loss(x, x, x, margin=value)


def test_an_array_is_no_metric():
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match="metric must be one of 'angular'"):
        tla_ops.cdist(x, x, metric=np.array(["angular", "cosine"]))


@pytest.mark.parametrize("outside", [-5, 99])
def test_excluding_an_index_outside_the_pool_leaves_none_out(outside, device):
    a, c = torch.randn(3, 4, device=device), torch.randn(9, 4, device=device)
    y = torch.zeros(3, dtype=torch.int64, device=device)
    cy = torch.ones(9, dtype=torch.int64, device=device)
    exclude = torch.full((3,), outside, device=device)
    _, index = tla_ops.mine_negatives(a, c, y, cy, exclude=exclude)
    assert torch.equal(index, tla_ops.mine_negatives(a, c, y, cy)[1])


def test_half_precision_parts_of_a_row_are_added_before_rounding(device):
    """A row of a batch is anchor, positive and negative at once."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(64, 32, generator=g).bfloat16().to(device)
    y = torch.arange(64, device=device) % 8
    half, single = x.clone().requires_grad_(), x.float().requires_grad_()
    for leaf in (half, single):
        tla_ops.batch_hard_triplet_loss(leaf, y, margin=5.0).backward()
    assert torch.equal(half.grad, single.grad.bfloat16())
