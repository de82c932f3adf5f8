"""Mining on inputs made to break a screen: near-ties, clusters, duplicates, extreme norms, NaN."""

import pytest
import torch
from helpers import (
    DTYPES,
    HALVES,
    METRICS,
    allowed_mask,
    check_pick,
    make_problem,
    matrix64,
    randn,
    same_bits,
)

import tla_ops

COSINES = ("angular", "cosine")


def check_hardest(a, c, y, cy, metric, tol=2e-5):
    picks = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
    check_pick(*picks, matrix64(a, c, metric), allowed_mask(y, cy), "nearest", tol=tol)
    return picks


def labels(B, M, device, classes=3):
    return torch.arange(B, device=device) % classes, torch.arange(M, device=device) % classes


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_candidates_one_ulp_apart(metric, dtype, device):
    base = randn(1, 65, dtype=dtype).expand(700, 65).clone()
    steps = randn(700, 65, seed=1, dtype=dtype)
    c = torch.where(steps > 1, torch.nextafter(base, steps), base)
    assert len(torch.unique(c, dim=0)) > 600
    a = randn(9, 65, seed=2, device=device, dtype=dtype)
    check_hardest(a, c.to(device), *labels(9, 700, device), metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [0.1, 1e-2, 1e-3, 1e-5])
def test_tight_clusters(metric, spread, device):
    center = randn(1, 64, device=device)
    a = center + spread * randn(20, 64, seed=1, device=device)
    c = center + spread * randn(900, 64, seed=2, device=device)
    # An anchor's cosines here differ by about spread**2: far below half precision's steps.
    check_hardest(a, c, *labels(20, 900, device), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_clusters_by_class(metric, device):
    y, cy = labels(30, 999, device)
    centers = 3 * randn(3, 48, device=device)
    a = centers[(y + 1) % 3] + 0.01 * randn(30, 48, seed=1, device=device)
    c = centers[cy] + 0.01 * randn(999, 48, seed=2, device=device)
    check_hardest(a, c, y, cy, metric)


def test_euclidean_with_a_large_common_offset(device):
    """Sums of differences, not of squares minus products: those cancel here."""
    a, c = randn(15, 33, device=device), randn(300, 33, seed=1, device=device)
    check_hardest(1000 + a, 1000 + c, *labels(15, 300, device), "euclidean")
    check_hardest(1000 + 1e-3 * a, 1000 + 1e-3 * c, *labels(15, 300, device), "euclidean")


@pytest.mark.parametrize("metric", METRICS)
def test_collapsed_features(metric, device):
    """Every row the same: the lowest allowed index, everywhere."""
    a = randn(1, 40, device=device).expand(12, 40)
    c = randn(1, 40, seed=1, device=device).expand(777, 40)
    for pool in (c, c.contiguous()):
        _, index = check_hardest(a, pool, *labels(12, 777, device), metric)
        assert index.tolist() == [1 if i % 3 == 0 else 0 for i in range(12)]


@pytest.mark.parametrize("metric", METRICS)
def test_few_distinct_rows(metric, device):
    distinct = randn(4, 31, device=device)
    c = distinct[torch.arange(1500, device=device) * 7 % 4]
    a = randn(16, 31, seed=2, device=device)
    y, cy = labels(16, 1500, device, classes=5)
    _, index = check_hardest(a, c, y, cy, metric)
    allowed = allowed_mask(y, cy)
    for i, j in enumerate(index.tolist()):
        same = (c == c[j]).all(1).cpu() & allowed[i]
        assert j == int(same.nonzero()[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_from_1e_minus_6_to_1e6(metric, dtype, device):
    scale = torch.logspace(-6, 6, 500, device=device, dtype=torch.float64).unsqueeze(1)
    c = (randn(500, 24, dtype=torch.float64, device=device) * scale.flip(0)).to(dtype)
    a = (randn(13, 24, seed=1, dtype=torch.float64, device=device) * scale[::40]).to(dtype)
    check_hardest(a, c, *labels(13, 500, device), metric)


@pytest.mark.parametrize("metric", COSINES)
@pytest.mark.parametrize("scale", [1e-11, 1e-8, 1e8, 1e17])
def test_cosines_do_not_depend_on_scale(metric, scale, device):
    a, c = randn(9, 16, device=device), randn(200, 16, seed=1, device=device)
    y, cy = labels(9, 200, device)
    check_hardest(a * scale, c, y, cy, metric)
    check_hardest(a, c * scale, y, cy, metric)


@pytest.mark.parametrize("metric", COSINES)
def test_vectors_without_direction(metric, device):
    """Below 1e-12: cosine 0, distance 1, to everything."""
    a = randn(6, 8, device=device)
    c = randn(40, 8, seed=1, device=device)
    a[0], a[1] = 0, 1e-20
    c[::2] = 0
    c[1::4] = 1e-13 * c[1::4] / c[1::4].norm(dim=1, keepdim=True)
    c[3::8] = 3e-12 * c[3::8] / c[3::8].norm(dim=1, keepdim=True)
    distance, _ = check_hardest(a, c, *labels(6, 40, device), metric)
    assert distance[:2].eq(1).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_squares_beyond_float32(metric, scale, device):
    """Squares of these overflow float32: the row's own pick is right, the others' are untouched."""
    a, c = randn(9, 16, device=device), randn(300, 16, seed=1, device=device)
    y, cy = labels(9, 300, device)
    expected = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
    a[4] *= scale
    distance, index = check_hardest(a, c, y, cy, metric)
    rest = torch.arange(9, device=device) != 4
    assert same_bits(distance[rest], expected[0][rest])
    assert torch.equal(index[rest], expected[1][rest])
    check_hardest(a, c * scale, y, cy, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_huge_numbers_in_float64(metric, device):
    a, c = (randn(n, 16, seed=n, dtype=torch.float64, device=device) for n in (9, 300))
    y, cy = labels(9, 300, device)
    small = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
    large = tla_ops.mine_negatives(a * 2.0**300, c * 2.0**300, y, cy, metric=metric)
    assert torch.equal(small[1], large[1])


@pytest.mark.parametrize("metric", ["euclidean", "chebyshev"])
def test_an_infinite_candidate_is_farthest_but_still_a_candidate(metric, device):
    a, c = randn(4, 5, device=device), randn(30, 5, seed=1, device=device)
    c[7, 2] = torch.inf
    y, cy = torch.zeros(4, device=device).long(), torch.ones(30, device=device).long()
    check_hardest(a, c, y, cy, metric)
    cy[:] = 0
    cy[7] = 1
    distance, index = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
    assert index.eq(7).all()
    assert distance.eq(torch.inf).all()
    distance, index = tla_ops.mine_positives(a, c, y, torch.zeros_like(cy), metric=metric)
    assert index.eq(7).all()
    assert distance.eq(torch.inf).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [0, 15, 16, 63, 64, 100, 256, 299])
def test_a_nan_candidate_ranks_hardest(metric, dtype, at, device):
    problem = make_problem(6, 300, 19, classes=2, dtype=dtype, device=device)
    c = problem.candidates.clone()
    c[at, 7] = torch.nan
    c[299, 0] = torch.nan
    problem = problem._replace(candidates=c, candidate_labels=torch.zeros_like(problem[4]))
    wanted = torch.where(problem.labels == 0, -1, at)
    for extra in ({}, {"mining": "semihard", "positive": problem.positive}):
        distance, index = tla_ops.mine_negatives(*problem.mine, metric=metric, **extra)
        assert torch.equal(index, wanted)
        assert distance[wanted >= 0].isnan().all()
        assert distance[wanted < 0].eq(torch.inf).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_nan_in_a_same_class_candidate_is_not_seen(metric, device):
    problem = make_problem(8, 200, 19, classes=2, device=device)
    clean = tla_ops.mine_negatives(*problem.mine, metric=metric)
    c = problem.candidates.clone()
    c[problem.candidate_labels == 0] = torch.nan
    distance, index = tla_ops.mine_negatives(problem.anchor, c, *problem[3:], metric=metric)
    own = problem.labels == 0
    assert own.any()
    assert torch.equal(index[own], clean[1][own])
    assert same_bits(distance[own], clean[0][own])
    first = int((problem.candidate_labels == 0).nonzero()[0])
    assert index[~own].eq(first).all()
    assert distance[~own].isnan().all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_nan_anchor_takes_the_first_and_harms_no_other(metric, device):
    problem = make_problem(8, 200, 19, device=device)
    clean = tla_ops.mine_negatives(*problem.mine, metric=metric)
    problem.anchor[3, 5] = torch.nan
    distance, index = tla_ops.mine_negatives(*problem.mine, metric=metric)
    rest = torch.arange(8, device=device) != 3
    assert torch.equal(index[rest], clean[1][rest])
    assert same_bits(distance[rest], clean[0][rest])
    first = int((problem.candidate_labels != problem.labels[3]).nonzero()[0])
    assert index[3] == first
    assert distance[3].isnan()


def test_a_nan_positive_under_semihard_is_hardest(device):
    problem = make_problem(8, 90, 19, device=device)
    problem.positive[2] = torch.nan
    picks = tla_ops.mine_negatives(*problem.mine, mining="semihard", positive=problem.positive)
    assert picks[1][2] == tla_ops.mine_negatives(*problem.mine)[1][2]


@pytest.mark.parametrize("metric", COSINES)
def test_an_infinite_coordinate_makes_a_cosine_nan(metric, device):
    problem = make_problem(5, 90, 19, device=device)
    cy = problem.candidate_labels.clone()
    cy[40] = 99
    problem.candidates[40, 3] = -torch.inf
    distance, index = tla_ops.mine_negatives(*problem.mine[:3], cy, metric=metric)
    assert index.eq(40).all()
    assert distance.isnan().all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("metric", METRICS)
def test_relu_features_with_zero_rows(dtype, metric, device):
    a, c = randn(33, 50, device=device).relu(), randn(400, 50, seed=1, device=device).relu()
    c[::9] = 0
    check_hardest(a.to(dtype), c.to(dtype), *labels(33, 400, device), metric)
