"""TLA's ratios r and r' against a loop over pairs in float64, and what they keep in memory."""

import math

import pytest
import torch
from helpers import matrix64, randn

import tla_ops
from tla_ops.experiments.separation import NO_SPREAD, between, ratio, within_class

pytestmark = pytest.mark.usefixtures("one_thread")


def within64(features):
    distances = matrix64(features, features, "angular")
    pairs = [distances[i, j] for i in range(len(features)) for j in range(i + 1, len(features))]
    return (sum(pairs) / len(pairs)).item()


@pytest.mark.parametrize("n", [2, 3, 7, 8, 9, 25])
def test_within_a_class_every_pair_counts_once(n):
    features = randn(n, 6, seed=n)
    assert within_class(features, chunk=4) == pytest.approx(within64(features), rel=1e-6)
    assert within_class(features) == pytest.approx(within64(features), rel=1e-6)
    precise = features.double()
    assert within_class(precise, chunk=4) == pytest.approx(within64(features), rel=1e-13)


@pytest.mark.parametrize(("q", "n"), [(1, 1), (3, 9), (9, 3), (8, 4)])
def test_between_all_pairs(q, n):
    attacked, natural = randn(q, 5, seed=1), randn(n, 5, seed=2)
    expected = matrix64(attacked, natural, "angular").mean().item()
    assert between(attacked, natural, chunk=4) == pytest.approx(expected, rel=1e-6)
    assert between(attacked, natural) == pytest.approx(expected, rel=1e-6)


def test_the_distance_has_the_absolute_value_and_no_length():
    x = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    assert within_class(x) == pytest.approx(2 / 3)
    assert between(x[:1], x[1:]) == pytest.approx(0.5)


def test_a_row_is_no_pair_with_itself():
    # A feature of 0 has distance 1 to everything, itself too.
    assert within_class(torch.zeros(3, 4)) == 1


def test_too_few_rows_have_no_mean():
    none, one = randn(0, 4), randn(1, 4)
    assert math.isnan(within_class(none))
    assert math.isnan(within_class(one))
    assert math.isnan(between(none, one))
    assert math.isnan(between(one, none))


def test_sums_are_in_float64():
    x, y = randn(300, 5, seed=1), randn(200, 5, seed=2)
    every, own = tla_ops.cdist(x, y).double(), tla_ops.cdist(x, x).double()
    assert between(x, y, chunk=128) == pytest.approx(every.mean().item(), rel=1e-13)
    pairs = own[tuple(torch.triu_indices(300, 300, 1))]
    assert within_class(x, chunk=128) == pytest.approx(pairs.mean().item(), rel=1e-13)


def test_no_matrix_of_distances_is_larger_than_a_tile(monkeypatch):
    sizes, cdist = [], tla_ops.cdist

    def counted(*args, **options):
        found = cdist(*args, **options)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(tla_ops, "cdist", counted)
    features = randn(333, 4)
    within_class(features, chunk=32)
    between(features, features, chunk=32)
    assert max(sizes) == 32 * 32
    # All of the second, and no more of the first than the tiles on and above the diagonal.
    assert sum(sizes) <= 333 * 333 + (333 * 333 + 333 * 32) // 2


def test_no_graph_is_kept():
    features = randn(9, 4).requires_grad_()
    assert isinstance(within_class(features), float)
    assert isinstance(between(features, features), float)


@pytest.fixture(scope="module")
def problem():
    """Natural images of classes 0, 1 and 2 (many), 3 (one) and 4 (all alike); adversarial ones
    beside 0, 2, 3, 4 and 5."""
    natural = randn(31, 6, seed=3)
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 11 + [3] + [4] * 4)
    natural[labels == 4] = torch.arange(1.0, 5.0)[:, None] * natural[-1]
    adversarial = randn(14, 6, seed=4)
    groups = torch.tensor([0, 2, 3, 4, 5] * 2 + [2] * 4)
    return adversarial, groups, natural, labels


def test_ratio_is_the_mean_over_the_classes_that_have_one(problem):
    adversarial, groups, natural, labels = problem
    found = ratio(adversarial, groups, natural, labels)
    expected = {
        k: matrix64(adversarial[groups == k], natural[labels == k], "angular").mean().item()
        / within64(natural[labels == k])
        for k in (0, 2)
    }
    assert found.per_class == pytest.approx(expected, rel=1e-6)
    assert found.ratio == pytest.approx(sum(expected.values()) / 2, rel=1e-6)
    assert found.classes == 2
    assert found.sizes == {0: 2, 2: 6, 3: 2, 4: 2, 5: 2}
    assert abs(within_class(natural[labels == 4])) <= NO_SPREAD


def test_ratio_of_nothing(problem):
    adversarial, groups, natural, labels = problem
    for rows in (groups < 0, groups == 3, groups == 4, groups == 5):
        found = ratio(adversarial[rows], groups[rows], natural, labels)
        assert math.isnan(found.ratio)
        assert found.classes == 0
        assert found.per_class == {}


def test_images_like_those_of_the_class_have_a_ratio_of_one():
    centre = 3 * randn(1, 8, seed=5)
    natural, adversarial = (centre + randn(400, 8, seed=seed) for seed in (6, 7))
    classes = torch.zeros(400, dtype=torch.int64)
    found = ratio(adversarial, classes, natural, classes)
    assert found.ratio == pytest.approx(1, abs=0.05)
    away = ratio(adversarial.roll(1, 1), classes, natural, classes)
    assert away.ratio > 1.5


def test_a_feature_that_is_no_number_surfaces(problem):
    adversarial, groups, natural, labels = problem
    broken = natural.clone()
    broken[0, 0] = torch.nan
    found = ratio(adversarial, groups, broken, labels)
    assert math.isnan(found.ratio)
    assert found.classes == 2


def test_lengths_that_do_not_match_are_named(problem):
    adversarial, groups, natural, labels = problem
    with pytest.raises(ValueError, match=r"groups must be \(14,\) to match adversarial \(14, 6\)"):
        ratio(adversarial, groups[1:], natural, labels)
    with pytest.raises(ValueError, match=r"labels must be \(31,\) .* got \(30,\)"):
        ratio(adversarial, groups, natural, labels[1:])
