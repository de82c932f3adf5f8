"""batch_hard_triplet_loss: anchors, positives and negatives from one batch."""

import pytest
import torch
from helpers import (
    DTYPES,
    HALVES,
    METRICS,
    NEVER,
    NORMS,
    REDUCTIONS,
    SIZES,
    allowed_mask,
    check_pick,
    close,
    close_half,
    distance64,
    expected_draw,
    generator,
    matrix64,
    randn,
    reduced,
    same_bits,
    uniform,
)

import tla_ops
from tla_ops import reference
from tla_ops.types import BatchHardDetails

CALL = {"margin": 0.3, "weight": 1.7, "norm_weight": 0.02}


def batch(B, D, classes=4, device="cpu", dtype=torch.float32, seed=0):
    labels = torch.randint(classes, (B,), generator=generator(seed + 9)).to(device)
    return randn(B, D, seed=seed, dtype=dtype, device=device), labels


def loss64(x, out, metric, norm="l2", margin=0.3, weight=1.7, norm_weight=0.02):
    """(B,) losses of the picks taken, a row at a time in float64."""
    x = x.detach().cpu().double()
    losses = torch.zeros(len(x), dtype=torch.float64)
    for i, (p, n) in enumerate(zip(out[1].tolist(), out[2].tolist(), strict=True)):
        if p >= 0 and n >= 0:
            gap = distance64(x[i], x[p], metric) - distance64(x[i], x[n], metric) + margin
            rows = x[[i, p, n]]
            sizes = rows.norm(dim=1) if norm == "l2" else rows.square().mean(1)
            losses[i] = weight * gap.relu() + norm_weight * sizes.sum()
    return losses


def check(x, y, out, metric, norm="l2", reduction="mean"):
    own = torch.arange(len(x))
    d64 = matrix64(x, x, metric)
    positives = allowed_mask(y, y, exclude=own, same_class=True)
    check_pick(out.positive_distance, out.positive_index, d64, positives, "farthest")
    check_pick(out.negative_distance, out.negative_index, d64, allowed_mask(y, y), "nearest")
    close(out.loss, reduced(loss64(x, out, metric, norm), reduction), 2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("B", "D"), sorted({(B, D) for B, _, D in SIZES} | {(0, 3), (300, 20)}))
def test_value(B, D, metric, device):
    x, y = batch(B, D, device=device)
    out = tla_ops.batch_hard_triplet_loss(x, y, metric=metric, **CALL, return_details=True)
    assert isinstance(out, BatchHardDetails)
    check(x, y, out, metric)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_options(reduction, norm, device):
    x, y = batch(40, 9, device=device)
    call = {**CALL, "norm": norm, "reduction": reduction}
    out = tla_ops.batch_hard_triplet_loss(x, y, **call, return_details=True)
    check(x, y, out, "euclidean", norm, reduction)
    assert same_bits(tla_ops.batch_hard_triplet_loss(x, y, **call), out.loss)


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_with_every_positive_mining(metric, device):
    x, y = batch(60, 5, device=device)
    d64, allowed = matrix64(x, x, metric), allowed_mask(y, y)
    positives = allowed_mask(y, y, exclude=torch.arange(60), same_class=True)
    for mining, want in [("hardest", "farthest"), ("easiest", "nearest"), ("random", "any")]:
        out = tla_ops.batch_hard_triplet_loss(
            x, y, metric=metric, mining="semihard", positive_mining=mining, **CALL,
            return_details=True,
        )  # fmt: skip
        check_pick(out.positive_distance, out.positive_index, d64, positives, want)
        bound = d64.gather(1, out.positive_index.cpu().unsqueeze(1)).squeeze(1)
        check_pick(out.negative_distance, out.negative_index, d64, allowed, "semihard", bound)
        close(out.loss, loss64(x, out, metric).mean(), 2e-5)


def test_random_draws_the_positive_first(device):
    x, y = batch(50, 5, device=device)
    g = generator(3, device)
    out = tla_ops.batch_hard_triplet_loss(
        x, y, margin=0.3, mining="random", positive_mining="random", generator=g,
        return_details=True,
    )  # fmt: skip
    positives = allowed_mask(y, y, exclude=torch.arange(50), same_class=True)
    g = generator(3, device)
    assert torch.equal(out.positive_index.cpu(), expected_draw(positives, g))
    u = uniform(50, g)
    for i, row in enumerate(allowed_mask(y, y)):
        js = row.nonzero().flatten()
        assert out.negative_index[i] == js[int(u[i] * len(js))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, device):
    x, y = batch(30, 17, dtype=dtype, device=device)
    out = tla_ops.batch_hard_triplet_loss(x, y, **CALL, return_details=True)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {out.loss.dtype, out.positive_distance.dtype, out.negative_distance.dtype} == {wide}
    check(x, y, out, "euclidean")
    for labels in (torch.uint8, torch.int16, torch.int32):
        other = tla_ops.batch_hard_triplet_loss(x, y.to(labels), **CALL)
        assert same_bits(other, out.loss)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rule(dtype, device):
    x, y = batch(30, 65, dtype=dtype, device=device)
    runs = []
    functions = [tla_ops.batch_hard_triplet_loss] + 2 * [reference.batch_hard_triplet_loss]
    for function, z in zip(functions, (x, x, x.double()), strict=True):
        z = z.clone().requires_grad_()
        runs.append(torch.autograd.grad(function(z, y, **CALL), z)[0])
    assert runs[0].dtype == dtype
    close_half(*runs)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", ["hardest", "semihard", "random"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck(norm, mining, metric, device):
    x, y = batch(8, 5, classes=3, dtype=torch.float64, device=device)
    y[0] = 77  # no positive
    assert torch.autograd.gradcheck(
        lambda x: tla_ops.batch_hard_triplet_loss(
            x, y, **CALL, metric=metric, mining=mining, norm=norm, generator=generator(1, device),
            positive_mining="hardest" if norm == "l2" else "random",
        ),
        x.requires_grad_(),
    )  # fmt: skip


@pytest.mark.parametrize("B", [2, 15, 64, 257])
def test_gradient_against_the_reference(B, device):
    x, y = batch(B, 12, device=device)
    got, truth = [], []
    for function, z, out in [
        (tla_ops.batch_hard_triplet_loss, x, got),
        (reference.batch_hard_triplet_loss, x.double(), truth),
    ]:
        z = z.clone().requires_grad_()
        out.append(torch.autograd.grad(function(z, y, **CALL), z)[0])
    close(got[0], truth[0], 2e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_without_a_triplet_give_nothing(reduction, device):
    """No positive, or no negative: 0, norms included, and the row counts in the mean."""
    for y in ([0, 1, 2, 3], [5, 5, 5, 5], [NEVER] * 4):
        x = randn(4, 3, device=device).requires_grad_()
        y = torch.tensor(y, device=device)
        loss = tla_ops.batch_hard_triplet_loss(x, y, **CALL, reduction=reduction)
        assert loss.eq(0).all()
        loss.sum().backward()
        assert not x.grad.any()
    x, y = randn(4, 3, device=device), torch.tensor([0, 0, 1, 2], device=device)
    rows = tla_ops.batch_hard_triplet_loss(x, y, **CALL, reduction="none")
    assert rows[:2].gt(0).all()
    assert rows[2:].eq(0).all()
    close(tla_ops.batch_hard_triplet_loss(x, y, **CALL), rows.sum() / 4)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("B", [0, 1])
def test_empty_and_single(B, reduction, device):
    x, y = batch(B, 5, device=device)
    loss = tla_ops.batch_hard_triplet_loss(x.requires_grad_(), y, **CALL, reduction=reduction)
    assert loss.eq(0).all()
    assert loss.shape == ((B,) if reduction == "none" else ())
    loss.sum().backward()
    assert x.grad.shape == (B, 5)
    assert not x.grad.any()


def test_duplicates_never_pick_the_own_row(device):
    x = randn(1, 7, device=device).expand(20, 7)
    y = torch.arange(20, device=device) % 2
    out = tla_ops.batch_hard_triplet_loss(x, y, margin=0.3, return_details=True)
    assert out.positive_index.tolist() == [2, 3] + [0, 1] * 9
    assert out.negative_index.tolist() == [1, 0] * 10
    close(out.loss, torch.tensor(0.3))


def test_nan_surfaces(device):
    x, y = batch(30, 5, device=device)
    x[4, 2] = torch.nan
    assert tla_ops.batch_hard_triplet_loss(x, y, margin=0.3).isnan()


def test_margin_has_no_default():
    with pytest.raises(TypeError, match="margin"):
        tla_ops.batch_hard_triplet_loss(*batch(4, 3))
