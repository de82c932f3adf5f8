"""triplet_adv_loss: values against float64 loops, and every edge of the contract."""

import pytest
import torch
from helpers import (
    DTYPES,
    HALVES,
    METRICS,
    MININGS,
    NEVER,
    NORMS,
    REDUCTIONS,
    SIZES,
    allowed_mask,
    check_pick,
    close,
    close_half,
    distance64,
    generator,
    loss64,
    make_problem,
    matrix64,
    reduced,
    same_bits,
)

import tla_ops
from tla_ops import reference
from tla_ops.types import TripletLossDetails

CALL = {"margin": 0.3, "weight": 1.7, "norm_weight": 0.02}


def check_details(problem, out, metric, mining="hardest", norm="l2", reduction="mean", **masks):
    """Picks by regret; then distances and loss, given the picks, against float64."""
    allowed = allowed_mask(problem.labels, problem.candidate_labels, **masks)
    positive = problem.positive if problem.positive.ndim == 3 else problem.positive.unsqueeze(1)
    d_ap = distance64(problem.anchor.unsqueeze(1), positive, metric)
    want = {"hardest": "nearest", "semihard": "semihard", "random": "any"}[mining]
    bound = d_ap.amin(1) if mining == "semihard" else None
    d64 = matrix64(problem.anchor, problem.candidates, metric)
    check_pick(out.negative_distance, out.negative_index, d64, allowed, want, bound)
    close(out.positive_distance, d_ap)
    losses = loss64(problem, out.negative_index, metric=metric, norm=norm, **CALL)
    close(out.loss, reduced(losses, reduction), 2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_value(B, M, D, metric, device):
    problem = make_problem(B, M, D, K=2, device=device)
    out = tla_ops.triplet_adv_loss(
        *problem, metric=metric, reduction="none", return_details=True, **CALL
    )
    assert isinstance(out, TripletLossDetails)
    assert out.loss.dtype == torch.float32
    check_details(problem, out, metric, reduction="none")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_option(reduction, norm, mining, metric, device):
    problem = make_problem(19, 40, 12, K=3, device=device)
    call = {**CALL, "metric": metric, "mining": mining, "norm": norm, "reduction": reduction}
    out = tla_ops.triplet_adv_loss(
        *problem, **call, generator=generator(4, device), return_details=True
    )
    check_details(problem, out, metric, mining, norm, reduction)
    loss = tla_ops.triplet_adv_loss(*problem, **call, generator=generator(4, device))
    assert isinstance(loss, torch.Tensor)
    assert same_bits(loss, out.loss)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", MININGS)
def test_agrees_with_the_reference_in_float64(mining, metric, device):
    problem = make_problem(23, 50, 9, K=2, dtype=torch.float64, device=device)
    rows = torch.arange(23, device=device)
    call = {**CALL, "metric": metric, "mining": mining, "target_labels": rows % 6,
            "exclude": rows * 2, "return_details": True}  # fmt: skip
    ours = tla_ops.triplet_adv_loss(*problem, **call, generator=generator(1, device))
    truth = reference.triplet_adv_loss(*problem, **call, generator=generator(1, device))
    assert ours.loss.dtype == torch.float64
    assert torch.equal(ours[1], truth[1])
    for x, y in zip(ours, truth, strict=True):
        close(x, y, 1e-12)


@pytest.mark.parametrize("K", [None, 0, 1, 2, 5, 17])
def test_positives(K, device):
    problem = make_problem(9, 30, 8, K=K, device=device)
    out = tla_ops.triplet_adv_loss(*problem, return_details=True, **CALL)
    assert out.positive_distance.shape == (9, 1 if K is None else K)
    check_details(problem, out, "angular")
    if K == 0:
        close(out.loss, reduced(loss64(problem, out.negative_index, **CALL), "mean"))
        assert out.negative_index.ge(0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rule(dtype, metric, device):
    problem = make_problem(33, 200, 70, K=2, dtype=dtype, device=device)
    call = {**CALL, "metric": metric, "reduction": "none"}
    ours = tla_ops.triplet_adv_loss(*problem, **call)
    assert ours.dtype == torch.float32
    close_half(
        ours,
        reference.triplet_adv_loss(*problem, **call),
        reference.triplet_adv_loss(*problem.double(), **call),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("candidate_dtype", DTYPES)
def test_dtypes_mix(dtype, candidate_dtype, device):
    problem = make_problem(9, 40, 21, dtype=dtype, candidate_dtype=candidate_dtype, device=device)
    problem = problem._replace(positive=problem.positive.to(torch.bfloat16))
    out = tla_ops.triplet_adv_loss(*problem, return_details=True, **CALL)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {out.loss.dtype, out.positive_distance.dtype, out.negative_distance.dtype} == {wide}
    check_details(problem, out, "angular")


def test_defaults_are_the_signature(device):
    problem = make_problem(9, 40, 21, device=device)
    full = tla_ops.triplet_adv_loss(
        *problem, margin=0.03, weight=1.0, norm_weight=0.0, metric="angular", mining="hardest",
        norm="l2", target_labels=None, exclude=None, precision=None, reduction="mean",
        generator=None, sparse_grad=False, return_details=False,
    )  # fmt: skip
    assert same_bits(full, tla_ops.triplet_adv_loss(*problem))


def test_linf_is_chebyshev(device):
    problem = make_problem(9, 40, 21, device=device)
    one, two = (tla_ops.triplet_adv_loss(*problem, metric=m) for m in ("linf", "chebyshev"))
    assert same_bits(one, two)


@pytest.mark.parametrize("metric", METRICS)
def test_agrees_with_mining_to_the_bit(metric, device):
    problem = make_problem(33, 300, 65, device=device)
    for mining in ("hardest", "semihard"):
        distance, index = tla_ops.mine_negatives(
            *problem.mine, metric=metric, mining=mining, positive=problem.positive
        )
        out = tla_ops.triplet_adv_loss(*problem, metric=metric, mining=mining, return_details=True)
        assert torch.equal(out.negative_index, index)
        assert same_bits(out.negative_distance, distance)


def test_masks(device):
    problem = make_problem(30, 40, 6, device=device)
    masks = {
        "target_labels": torch.arange(30, device=device) % 7,
        "exclude": tla_ops.mine_negatives(*problem.mine)[1],
    }
    out = tla_ops.triplet_adv_loss(*problem, **CALL, **masks, return_details=True)
    check_details(problem, out, "angular", **masks)
    assert not (out.negative_index == masks["exclude"]).any()


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_valid_negative(reduction, mining, device):
    """Index -1, distance +inf; only the norms of anchor and positives are left."""
    problem = make_problem(6, 50, 4, K=2, classes=1, device=device)
    call = {**CALL, "mining": mining, "reduction": reduction, "return_details": True}
    for cut in (50, 0):
        pool = problem._replace(
            candidates=problem.candidates[:cut], candidate_labels=problem.candidate_labels[:cut]
        )
        out = tla_ops.triplet_adv_loss(*pool, **call)
        assert out.negative_index.eq(-1).all()
        assert out.negative_distance.eq(torch.inf).all()
        close(out.loss, reduced(loss64(pool, out.negative_index, **CALL), reduction))
        plain = tla_ops.triplet_adv_loss(*pool, mining=mining, reduction=reduction)
        assert plain.eq(0).all()


def test_some_rows_without_a_negative(device):
    problem = make_problem(9, 50, 4, device=device)
    cy = torch.full_like(problem.candidate_labels, int(problem.labels[0]))
    problem = problem._replace(candidate_labels=cy)
    out = tla_ops.triplet_adv_loss(*problem, **CALL, reduction="none", return_details=True)
    assert 0 < out.negative_index.eq(-1).sum() < 9
    check_details(problem, out, "angular", reduction="none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mining", MININGS)
def test_empty_batch(mining, reduction, device):
    problem = make_problem(0, 9, 4, K=2, device=device).leaves()
    loss = tla_ops.triplet_adv_loss(*problem, **CALL, mining=mining, reduction=reduction)
    assert loss.shape == ((0,) if reduction == "none" else ())
    assert loss.sum().item() == 0
    loss.sum().backward()
    for x in problem.features:
        assert x.grad is not None
        assert x.grad.shape == x.shape
        assert not x.grad.any()


def test_negative_and_zero_margins(device):
    problem = make_problem(30, 40, 6, device=device)
    for margin in (-0.2, 0, -5):
        ours = tla_ops.triplet_adv_loss(*problem, margin=margin, reduction="none")
        close(ours, reference.triplet_adv_loss(*problem.double(), margin=margin, reduction="none"))
    assert ours.eq(0).all()


def test_sentinel_pool(device):
    problem = make_problem(5, 20, 6, device=device)
    empty = torch.full_like(problem.candidate_labels, NEVER)
    out = tla_ops.triplet_adv_loss(
        *problem._replace(candidate_labels=empty), return_details=True, reduction="none"
    )
    assert out.negative_index.eq(-1).all()
    assert out.loss.eq(0).all()


def test_nan_surfaces_in_the_loss(device):
    for where in range(3):
        problem = make_problem(6, 30, 5, K=2, device=device)
        problem.features[where][2, ..., 1] = torch.nan
        losses = tla_ops.triplet_adv_loss(*problem, reduction="none")
        if where == 2:
            hit = problem.labels != problem.candidate_labels[2]
        else:
            hit = torch.arange(6, device=device) == 2
        assert torch.equal(losses.isnan(), hit)
        assert tla_ops.triplet_adv_loss(*problem).isnan()
        assert tla_ops.triplet_adv_loss(*problem, reduction="sum", mining="semihard").isnan()


def test_nan_in_a_positive_of_a_row_without_negatives_is_no_triplet(device):
    problem = make_problem(3, 30, 5, classes=1, device=device)
    problem.positive[1] = torch.nan
    assert tla_ops.triplet_adv_loss(*problem, reduction="none").eq(0).all()
    hit = tla_ops.triplet_adv_loss(*problem, reduction="none", norm_weight=0.1).isnan()
    assert hit.tolist() == [False, True, False]


def test_zero_norm_weight_skips_the_norms(device):
    """0 times infinity never makes a NaN."""
    problem = make_problem(4, 30, 5, device=device)
    problem.candidates[3] = torch.inf
    for norm in NORMS:
        loss = tla_ops.triplet_adv_loss(*problem, metric="euclidean", norm=norm, margin=5.0)
        assert loss.isfinite()
    problem.positive[1] *= 1e20
    problem.anchor[2] *= 1e20
    loss = tla_ops.triplet_adv_loss(*problem, metric="chebyshev", norm="mean_square")
    assert loss.isfinite()


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_zero_and_short_vectors(norm, device):
    problem = make_problem(5, 9, 4, device=device)
    for x in problem.features:
        x[0] = 0
        x[1] *= 1e-13
    out = tla_ops.triplet_adv_loss(
        *problem, **CALL, norm=norm, reduction="none", return_details=True
    )
    close(out.loss, loss64(problem, out.negative_index, norm=norm, **CALL))


def test_precision_is_accepted(device):
    problem = make_problem(9, 40, 6, device=device)
    for precision in ("exact", "fast", None):
        out = tla_ops.triplet_adv_loss(
            *problem, **CALL, precision=precision, reduction="none", return_details=True
        )
        close(out.loss, loss64(problem, out.negative_index, **CALL))


def test_details_are_detached(device):
    problem = make_problem(4, 9, 3, device=device).leaves()
    out = tla_ops.triplet_adv_loss(*problem, return_details=True)
    assert out.loss.requires_grad
    assert not any(x.requires_grad for x in out[1:])
