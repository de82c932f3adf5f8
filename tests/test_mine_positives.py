"""mine_positives: the same search among the row's own class."""

import pytest
import torch
from helpers import (
    DTYPES,
    METRICS,
    NEVER,
    SIZES,
    allowed_mask,
    check_pick,
    expected_draw,
    generator,
    make_problem,
    matrix64,
)

import tla_ops

WANT = {"hardest": "farthest", "easiest": "nearest"}


def truth(problem, metric, exclude=None):
    return (
        matrix64(problem.anchor, problem.candidates, metric),
        allowed_mask(problem.labels, problem.candidate_labels, exclude=exclude, same_class=True),
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", list(WANT))
@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_value(B, M, D, mining, metric, device):
    problem = make_problem(B, M, D, device=device)
    picks = tla_ops.mine_positives(*problem.mine, mining=mining, metric=metric)
    assert picks[0].dtype == torch.float32
    check_pick(*picks, *truth(problem, metric), WANT[mining])


@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_random(B, M, D, device):
    problem = make_problem(B, M, D, device=device)
    d64, allowed = truth(problem, "angular")
    g = generator(B, device)
    distance, index = tla_ops.mine_positives(*problem.mine, mining="random", generator=g)
    assert torch.equal(index.cpu(), expected_draw(allowed, generator(B, device)))
    check_pick(distance, index, d64, allowed, "any")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("candidate_dtype", DTYPES)
def test_dtypes_mix(dtype, candidate_dtype, device):
    problem = make_problem(9, 70, 21, dtype=dtype, candidate_dtype=candidate_dtype, device=device)
    distance, index = tla_ops.mine_positives(*problem.mine)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check_pick(distance, index, *truth(problem, "angular"), "farthest")


@pytest.mark.parametrize("mining", ["hardest", "easiest", "random"])
def test_own_row_is_left_out(mining, device):
    problem = make_problem(50, 50, 6, device=device)
    x, y, own = problem.anchor, problem.labels, torch.arange(50, device=device)
    picks = tla_ops.mine_positives(x, x, y, y, mining=mining, exclude=own)
    assert not (picks[1] == own).any()
    if mining in WANT:
        batch = problem._replace(candidates=x, candidate_labels=y)
        check_pick(*picks, *truth(batch, "angular", own), WANT[mining])


@pytest.mark.parametrize("mining", ["hardest", "easiest", "random"])
@pytest.mark.parametrize(("B", "M"), [(0, 4), (4, 0), (4, 9)])
def test_nothing_of_the_class(B, M, mining, device):
    problem = make_problem(B, M, 3, device=device)
    cy = problem.candidate_labels + 100
    distance, index = tla_ops.mine_positives(*problem.mine[:3], cy, mining=mining)
    assert distance.shape == (B,)
    assert distance.eq(torch.inf).all()
    assert index.eq(-1).all()


@pytest.mark.parametrize("mining", ["hardest", "easiest"])
@pytest.mark.parametrize("metric", METRICS)
def test_ties_and_nan_take_the_lowest_index(mining, metric, device):
    problem = make_problem(6, 200, 9, classes=2, device=device)
    same = problem.candidates[:1].expand(200, 9).contiguous()
    _, index = tla_ops.mine_positives(
        problem.anchor, same, *problem[3:], mining=mining, metric=metric
    )
    first = [int((problem.candidate_labels == y).nonzero()[0]) for y in problem.labels]
    assert index.tolist() == first
    problem.candidates[100:, 2] = torch.nan
    distance, index = tla_ops.mine_positives(*problem.mine, mining=mining, metric=metric)
    first = [100 + int((problem.candidate_labels[100:] == y).nonzero()[0]) for y in problem.labels]
    assert index.tolist() == first
    assert distance.isnan().all()


def test_the_sentinel_is_never_a_positive(device):
    problem = make_problem(6, 40, 3, classes=2, device=device)
    y, cy = torch.full_like(problem.labels, NEVER), torch.full_like(problem.candidate_labels, NEVER)
    assert tla_ops.mine_positives(*problem.mine[:2], y, cy)[1].eq(-1).all()
    cy = torch.where(torch.arange(40, device=device) % 2 == 0, NEVER, problem.candidate_labels)
    assert (tla_ops.mine_positives(*problem.mine[:3], cy)[1] % 2 == 1).all()
