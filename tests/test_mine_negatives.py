"""mine_negatives: every mode against a float64 truth, measured by regret."""

import pytest
import torch
from helpers import (
    DTYPES,
    HALVES,
    METRICS,
    NEVER,
    SIZES,
    allowed_mask,
    check_pick,
    distance64,
    expected_draw,
    generator,
    make_problem,
    matrix64,
    randn,
    random_state,
    same_bits,
)
from hypothesis import given
from hypothesis import strategies as st

import tla_ops


def truth(problem, metric, **masks):
    return (
        matrix64(problem.anchor, problem.candidates, metric),
        allowed_mask(problem.labels, problem.candidate_labels, **masks),
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_hardest(B, M, D, metric, device):
    problem = make_problem(B, M, D, device=device)
    distance, index = tla_ops.mine_negatives(*problem.mine, metric=metric)
    assert distance.dtype == torch.float32
    assert distance.device == index.device == problem.anchor.device
    check_pick(distance, index, *truth(problem, metric), "nearest")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_semihard(B, M, D, metric, device):
    problem = make_problem(B, M, D, K=2, device=device)
    bound = distance64(problem.anchor.unsqueeze(1), problem.positive, metric).amin(1)
    picks = tla_ops.mine_negatives(
        *problem.mine, metric=metric, mining="semihard", positive=problem.positive
    )
    check_pick(*picks, *truth(problem, metric), "semihard", bound)


@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_random(B, M, D, device):
    problem = make_problem(B, M, D, device=device)
    d64, allowed = truth(problem, "cosine")
    g = generator(B, device)
    picks = tla_ops.mine_negatives(*problem.mine, mining="random", metric="cosine", generator=g)
    assert torch.equal(picks[1].cpu(), expected_draw(allowed, generator(B, device)))
    check_pick(*picks, d64, allowed, "any")


def test_random_follows_torchs_seed(device):
    problem = make_problem(64, 100, 3, device=device)
    picks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        picks.append(tla_ops.mine_negatives(*problem.mine, mining="random")[1])
    assert torch.equal(picks[0], picks[1])
    assert not torch.equal(picks[0], picks[2])


def test_deterministic_modes_leave_the_random_stream_alone(device):
    problem = make_problem(4, 9, 3, device=device)
    before = random_state(device)
    tla_ops.mine_negatives(*problem.mine)
    assert torch.equal(before, random_state(device))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("candidate_dtype", DTYPES)
def test_dtypes_mix(dtype, candidate_dtype, metric, device):
    problem = make_problem(17, 130, 33, dtype=dtype, candidate_dtype=candidate_dtype, device=device)
    distance, index = tla_ops.mine_negatives(*problem.mine, metric=metric)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check_pick(distance, index, *truth(problem, metric), "nearest")
    positive = problem.positive.to(candidate_dtype)
    picks = tla_ops.mine_negatives(
        *problem.mine, metric=metric, mining="semihard", positive=positive
    )
    bound = distance64(problem.anchor, positive[:, 0], metric)
    check_pick(*picks, *truth(problem, metric), "semihard", bound)


@pytest.mark.parametrize("metric", METRICS)
def test_float64_is_computed_in_float64(metric, device):
    problem = make_problem(9, 65, 40, dtype=torch.float64, device=device)
    picks = tla_ops.mine_negatives(*problem.mine, metric=metric)
    check_pick(*picks, *truth(problem, metric), "nearest", tol=1e-13)


def test_positive_may_be_flat(device):
    problem = make_problem(9, 30, 4, device=device)
    call = {"mining": "semihard", "metric": "euclidean"}
    flat = tla_ops.mine_negatives(*problem.mine, positive=problem.positive[:, 0], **call)
    deep = tla_ops.mine_negatives(*problem.mine, positive=problem.positive, **call)
    assert torch.equal(flat[1], deep[1])
    assert same_bits(flat[0], deep[0])


def test_semihard_falls_back_to_the_largest(device):
    a = torch.zeros(2, 3, device=device)
    c = torch.tensor([[1.0, 0, 0], [3, 0, 0], [0, 3, 0], [9, 0, 0]], device=device)
    p = torch.full((2, 3), 5.0, device=device)
    y, cy = torch.tensor([0, 1], device=device), torch.tensor([1, 1, 1, 0], device=device)
    distance, index = tla_ops.mine_negatives(
        a, c, y, cy, mining="semihard", metric="euclidean", positive=p
    )
    assert index.tolist() == [1, 3]
    assert distance.tolist() == [3, 9]


def test_semihard_is_strict(device):
    """A candidate exactly as far as the positive is not semi-hard."""
    a, p = torch.zeros(1, 2, device=device), torch.tensor([[3.0, 4.0]], device=device)
    c = torch.tensor([[4.0, 3.0], [0.0, 7.0], [5.0, 0.0], [6.0, 0.0]], device=device)
    y, cy = torch.zeros(1, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    y, cy = y.to(device), cy.to(device)
    pick = tla_ops.mine_negatives(a, c, y, cy, mining="semihard", metric="euclidean", positive=p)
    assert pick[1].tolist() == [3]


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_leaves_out_copies_of_the_positive(metric, device):
    """The positive's distance and a copy's come from the same sum: neither is the farther."""
    a, p = randn(20, 37, device=device), randn(20, 37, seed=1, device=device)
    c = torch.cat([p, p + 5 * randn(20, 37, seed=2, device=device)])
    y, cy = torch.zeros(20, dtype=torch.int64, device=device), torch.ones(40, device=device).long()
    _, index = tla_ops.mine_negatives(a, c, y, cy, mining="semihard", metric=metric, positive=p)
    farther = matrix64(a, c, metric) > distance64(a, p, metric).unsqueeze(1) + 1e-5
    farther = farther.any(1).to(device)  # else the copy may be the largest of all
    assert farther.sum() > 15
    assert not (index == torch.arange(20, device=device))[farther].any()


@pytest.mark.parametrize("mining", ["hardest", "semihard", "random"])
def test_target_labels(mining, device):
    problem = make_problem(40, 60, 5, classes=4, device=device)
    target = torch.arange(40, device=device) % 6  # own classes and missing ones, too
    allowed = allowed_mask(problem.labels, problem.candidate_labels, target)
    distance, index = tla_ops.mine_negatives(
        *problem.mine, mining=mining, target_labels=target, metric="euclidean",
        positive=problem.positive, generator=generator(5, device),
    )  # fmt: skip
    d64 = matrix64(problem.anchor, problem.candidates, "euclidean")
    if mining == "random":
        assert torch.equal(index.cpu(), expected_draw(allowed, generator(5, device)))
        assert all(allowed[i, j] for i, j in enumerate(index.tolist()))
        return
    bound = distance64(problem.anchor, problem.positive[:, 0], "euclidean")
    want = "nearest" if mining == "hardest" else "semihard"
    check_pick(distance, index, d64, allowed, want, bound)


def test_target_whose_last_candidate_is_excluded_falls_back(device):
    a, c = torch.zeros(1, 1, device=device), torch.tensor([[1.0], [2.0], [3.0]], device=device)
    y, cy = torch.tensor([0], device=device), torch.tensor([0, 1, 2], device=device)
    target, exclude = torch.tensor([1], device=device), torch.tensor([1], device=device)
    call = {"metric": "euclidean", "target_labels": target}
    assert tla_ops.mine_negatives(a, c, y, cy, **call)[1].item() == 1
    assert tla_ops.mine_negatives(a, c, y, cy, exclude=exclude, **call)[1].item() == 2


@pytest.mark.parametrize("mining", ["hardest", "random"])
def test_exclude(mining, device):
    problem = make_problem(40, 8, 5, device=device)
    nearest = tla_ops.mine_negatives(*problem.mine)[1]
    exclude = torch.where(torch.arange(40, device=device) % 3 == 0, -1, nearest)
    picks = tla_ops.mine_negatives(*problem.mine, mining=mining, exclude=exclude)
    assert not ((picks[1] == exclude) & (exclude >= 0)).any()
    if mining == "hardest":
        check_pick(*picks, *truth(problem, "angular", exclude=exclude), "nearest")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("candidate_dtype", [torch.uint8, torch.int16, torch.int64])
def test_label_dtypes_mix(dtype, candidate_dtype, device):
    problem = make_problem(9, 40, 4, device=device)
    y, cy = problem.labels.to(dtype), problem.candidate_labels.to(candidate_dtype)
    target, exclude = problem.labels.to(torch.uint8) + 1, torch.zeros_like(y).to(torch.int32)
    got = tla_ops.mine_negatives(
        problem.anchor, problem.candidates, y, cy, target_labels=target, exclude=exclude
    )
    expected = truth(problem, "angular", target_labels=target, exclude=exclude)
    check_pick(*got, *expected, "nearest")


def test_labels_outside_int32_stay_apart(device):
    """Labels that agree in their low 32 bits are different classes."""
    a, c = torch.ones(2, 2, device=device), torch.ones(3, 2, device=device)
    y = torch.tensor([7, -5], device=device)
    cy = torch.tensor([7, 7 + 2**32, -5 - 2**40], device=device)
    assert tla_ops.mine_negatives(a, c, y, cy)[1].tolist() == [1, 0]


def test_the_sentinel_is_never_picked(device):
    problem = make_problem(20, 30, 4, device=device)
    cy = problem.candidate_labels.clone()
    cy[::2] = NEVER
    target = torch.full((20,), NEVER, device=device)
    y = torch.where(torch.arange(20, device=device) < 3, NEVER, problem.labels)
    problem = problem._replace(candidate_labels=cy, labels=y)
    for extra in ({}, {"target_labels": target}):
        picks = tla_ops.mine_negatives(*problem.mine, **extra)
        assert (picks[1] % 2 == 1).all()
        check_pick(*picks, *truth(problem, "angular"), "nearest")
    none = tla_ops.mine_negatives(*problem.mine[:3], torch.full((30,), NEVER, device=device))
    assert none[1].eq(-1).all()
    assert none[0].eq(torch.inf).all()


@pytest.mark.parametrize("mining", ["hardest", "semihard", "random"])
@pytest.mark.parametrize(("B", "M"), [(0, 5), (5, 0), (0, 0)])
def test_empty(B, M, mining, device):
    problem = make_problem(B, M, 3, device=device)
    distance, index = tla_ops.mine_negatives(
        *problem.mine, mining=mining, positive=problem.positive
    )
    assert distance.shape == index.shape == (B,)
    assert distance.eq(torch.inf).all()
    assert index.eq(-1).all()


@pytest.mark.parametrize("mining", ["hardest", "semihard", "random"])
def test_only_same_class(mining, device):
    problem = make_problem(5, 70, 3, classes=1, device=device)
    distance, index = tla_ops.mine_negatives(
        *problem.mine, mining=mining, positive=problem.positive
    )
    assert distance.eq(torch.inf).all()
    assert index.eq(-1).all()


def test_no_positives_under_semihard_is_hardest(device):
    problem = make_problem(9, 40, 4, K=0, device=device)
    picks = tla_ops.mine_negatives(*problem.mine, mining="semihard", positive=problem.positive)
    assert torch.equal(picks[1], tla_ops.mine_negatives(*problem.mine)[1])


def strided(x):
    """The same numbers with other strides."""
    wide = x.new_zeros(x.shape[0], 2 * x.shape[1])
    wide[:, ::2] = x
    shifted = torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)
    return [x.t().contiguous().t(), wide[:, ::2], shifted]


@pytest.mark.parametrize("metric", METRICS)
def test_strides(metric, device):
    problem = make_problem(18, 70, 21, device=device)
    expected = tla_ops.mine_negatives(*problem.mine, metric=metric)
    for a, c in zip(strided(problem.anchor), strided(problem.candidates), strict=True):
        got = tla_ops.mine_negatives(a, c, *problem[3:], metric=metric)
        assert torch.equal(got[1], expected[1])
        assert same_bits(got[0], expected[0])
    one = problem.anchor[:1]
    y = problem.labels.repeat_interleave(2)[::2]
    got = tla_ops.mine_negatives(
        one.expand(18, 21), problem.candidates, y, problem.candidate_labels, metric=metric
    )
    expected = tla_ops.mine_negatives(
        one.repeat(18, 1), problem.candidates, y, problem.candidate_labels, metric=metric
    )
    assert torch.equal(got[1], expected[1])
    assert same_bits(got[0], expected[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", HALVES)
def test_fast_returns_the_true_distance_of_its_pick(metric, dtype, device):
    for problem in (make_problem(33, 300, 64, device=device),
                    make_problem(33, 300, 64, dtype=dtype, device=device)):  # fmt: skip
        for precision in ("exact", "fast", None):
            picks = tla_ops.mine_negatives(*problem.mine, metric=metric, precision=precision)
            d64, allowed = truth(problem, metric)
            at = d64.gather(1, picks[1].cpu().unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(picks[0].cpu().double(), at, rtol=2e-5, atol=2e-5)
            check_pick(at, picks[1], d64, allowed, "nearest", tol=3e-2)


def test_mined_distances_are_detached(device):
    problem = make_problem(4, 9, 3, device=device).leaves()
    distance, index = tla_ops.mine_negatives(*problem.mine)
    assert not distance.requires_grad
    assert not index.requires_grad


@given(
    B=st.integers(0, 9),
    M=st.integers(0, 70),
    D=st.integers(1, 40),
    classes=st.integers(1, 5),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-4, 1, 1e4]),
)
def test_hardest_on_any_problem(B, M, D, classes, metric, seed, scale, device):
    problem = make_problem(B, M, D, classes=classes, seed=seed, device=device)
    problem = problem._replace(candidates=(problem.candidates * scale).round(decimals=1))
    exclude = torch.randint(-1, max(M, 1), (B,), generator=generator(seed)).to(device)
    target = torch.randint(classes + 1, (B,), generator=generator(seed + 1)).to(device)
    picks = tla_ops.mine_negatives(
        *problem.mine, metric=metric, exclude=exclude, target_labels=target
    )
    check_pick(*picks, *truth(problem, metric, exclude=exclude, target_labels=target), "nearest")
