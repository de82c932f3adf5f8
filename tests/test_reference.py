"""The reference against numbers worked out by hand, the papers' formulas and torch's functions."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import METRICS, generator, make_problem, matrix64, randn

from tla_ops import reference

D64 = torch.float64


def t(*rows):
    return torch.tensor(rows, dtype=D64)


def test_angular_distance_by_hand():
    x, y = t([3.0, 4.0]), t([4.0, 3.0], [-4.0, -3.0], [-4.0, 3.0], [0.0, 0.0])
    expected = t([1 - 0.96, 1 - 0.96, 1.0, 1.0])
    torch.testing.assert_close(reference.cdist(x, y, metric="angular"), expected)
    expected = t([1 - 0.96, 1 + 0.96, 1.0, 1.0])
    torch.testing.assert_close(reference.cdist(x, y, metric="cosine"), expected)


def test_difference_metrics_by_hand():
    x, y = t([1.0, 2.0]), t([4.0, -2.0], [1.0, 2.0])
    assert reference.cdist(x, y, metric="euclidean").tolist() == [[5.0, 0.0]]
    assert reference.cdist(x, y, metric="chebyshev").tolist() == [[4.0, 0.0]]
    assert reference.cdist(x, y, metric="linf").tolist() == [[4.0, 0.0]]


def test_equation_1_by_hand():
    a, p = t([3.0, 4.0]), t([4.0, 3.0])
    c, y, cy = t([3.0, 4.0], [0.0, 2.0], [5.0, 0.0]), torch.tensor([0]), torch.tensor([0, 1, 2])
    # Class 0 is the anchor's own; of (0, 2) at 1 - 4/5 and (5, 0) at 1 - 3/5 the first is nearer.
    loss, index, d_ap, d_an = reference.triplet_adv_loss(
        a, p, c, y, cy, margin=0.3, weight=2.0, norm_weight=0.1, return_details=True
    )
    assert index.tolist() == [1]
    torch.testing.assert_close(d_ap, t([0.04]))
    torch.testing.assert_close(d_an, t([0.2])[0])
    torch.testing.assert_close(loss.item(), 2 * (0.04 - 0.2 + 0.3) + 0.1 * (5 + 5 + 2))
    loss = reference.triplet_adv_loss(a, p, c, y, cy, margin=0.1, norm_weight=1, norm="mean_square")
    torch.testing.assert_close(loss.item(), 12.5 + 12.5 + 2.0)  # .04 - .2 + .1 < 0: no triplet


def test_two_positives_share_anchor_and_negative():
    a, c = t([1.0, 0.0]), t([0.0, 1.0])
    p = t([[1.0, 1.0], [0.0, 2.0]])
    y, cy = torch.tensor([0]), torch.tensor([1])
    loss = reference.triplet_adv_loss(a, p, c, y, cy, margin=0.5, norm_weight=1.0)
    triplet = (1 - math.sqrt(0.5) - 1 + 0.5) * (math.sqrt(0.5) < 0.5) + (1 - 1 + 0.5)
    torch.testing.assert_close(loss.item(), triplet + 1 + math.sqrt(2) + 2 + 1)


def test_at2l_loss_by_hand():
    a, p, n = t([0.0, 0.0]), t([1.0, -2.0]), t([0.5, 1.0])
    loss = reference.triplet_loss(a, p, n, metric="chebyshev", margin=1.0)
    assert loss.item() == 2.0 - 1.0 + 1.0


def test_cosine_is_torchs():
    x, y = randn(20, 13, dtype=D64), randn(20, 13, seed=1, dtype=D64)
    ours = torch.stack([reference.cdist(x[i : i + 1], y[i : i + 1], metric="cosine")[0, 0]
                        for i in range(20)])  # fmt: skip
    torch.testing.assert_close(ours, 1 - F.cosine_similarity(x, y))


@pytest.mark.parametrize(("metric", "p"), [("euclidean", 2.0), ("chebyshev", math.inf)])
def test_cdist_is_torchs(metric, p):
    x, y = randn(2, 9, 13, dtype=D64), randn(2, 30, 13, seed=1, dtype=D64)
    torch.testing.assert_close(reference.cdist(x, y, metric=metric), torch.cdist(x, y, p=p))


def test_triplet_loss_is_torchs():
    a, p, n = (randn(9, 13, seed=s, dtype=D64) for s in range(3))
    ours = reference.triplet_loss(a, p, n, metric="euclidean", margin=0.7)
    theirs = F.triplet_margin_loss(a, p, n, margin=0.7, eps=0)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("metric", METRICS)
def test_chunks_do_not_show(metric, monkeypatch):
    x, y = randn(7, 5, dtype=D64), randn(11, 5, seed=1, dtype=D64)
    whole = reference.cdist(x, y, metric=metric)
    monkeypatch.setattr(reference, "CHUNK", 2 * 11 * 5)
    torch.testing.assert_close(reference.cdist(x, y, metric=metric), whole)


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_is_tensorflow_addons_rule(metric):
    problem = make_problem(30, 6, 4, dtype=D64, classes=3)
    problem = problem._replace(positive=2 * randn(30, 1, 4, dtype=D64))
    a, p, c, y, cy = problem
    d = matrix64(a, c, metric)
    _, index = reference.mine_negatives(*problem.mine, mining="semihard", metric=metric, positive=p)
    fallbacks = 0
    for i in range(30):
        bound = matrix64(a[i : i + 1], p[i], metric)[0, 0]
        negatives = [j for j in range(6) if cy[j] != y[i]]
        farther = [j for j in negatives if d[i, j] > bound]
        fallbacks += not farther
        expected = min(farther, key=lambda j: d[i, j]) if farther else max(
            negatives, key=lambda j: d[i, j])  # fmt: skip
        assert index[i] == expected
    assert 0 < fallbacks < 30


def test_random_draws_uniformly_among_the_allowed():
    a, c = randn(4000, 2), randn(6, 2, seed=1)
    y, cy = torch.zeros(4000, dtype=torch.int64), torch.tensor([0, 1, 0, 2, 3, 0])
    _, index = reference.mine_negatives(a, c, y, cy, mining="random", generator=generator(3))
    counts = torch.bincount(index, minlength=6)
    assert counts[[0, 2, 5]].eq(0).all()
    assert counts[[1, 3, 4]].min() > 1200


def grad_of(function, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*inputs), inputs)


def test_subgradient_of_the_absolute_value_at_zero():
    ga, gc = grad_of(lambda a, c: reference.cdist(a, c).sum(), t([1.0, 0.0]), t([0.0, 1.0]))
    assert not ga.any()
    assert not gc.any()


def test_subgradient_of_the_hinge_at_zero():
    a, p, n = t([0.0, 0.0]), t([1.0, 0.0]), t([2.0, 0.0])
    for margin, active in [(1.0, False), (1.25, True)]:
        grads = grad_of(
            lambda a, p, n, m=margin: reference.triplet_loss(a, p, n, metric="euclidean", margin=m),
            a, p, n,
        )  # fmt: skip
        assert grads[1].any() == active
        assert grads[2].any() == active


def test_tied_coordinates_go_to_the_lowest_index():
    gx, gy = grad_of(
        lambda x, y: reference.cdist(x, y, metric="linf").sum(),
        t([0.0, 3.0, 1.0]),
        t([1.0, 1.0, 3.0]),
    )
    assert gx.tolist() == [[0, 1, 0]]
    assert gy.tolist() == [[0, -1, 0]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("norm", ["l2", "mean_square"])
def test_no_nan_gradient_from_zero_or_equal_vectors(metric, norm):
    z, x = t([0.0, 0.0, 0.0]), t([1.0, 2.0, -1.0])
    for a, p, n in [(z, x, x), (x, x, z), (x, z, x), (z, z, z)]:
        grads = grad_of(
            lambda a, p, n: reference.triplet_loss(
                a, p, n, metric=metric, norm=norm, norm_weight=0.5, margin=3.0
            ),
            a, p, n,
        )  # fmt: skip
        assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize(("length", "live"), [(0.5e-12, False), (2e-12, True)])
def test_the_shortest_vector_with_a_direction(length, live):
    x = t([length * 0.6, length * 0.8]).requires_grad_()
    d = reference.cdist(x, t([1.0, 0.0]), metric="cosine")
    torch.testing.assert_close(d.item(), 0.4 if live else 1.0)
    assert bool(torch.autograd.grad(d.sum(), x)[0].any()) == live


def test_batch_hard_by_hand():
    x, y = t([0.0], [1.0], [3.0], [-2.0], [10.0]), torch.tensor([0, 0, 0, 1, 2])
    out = reference.batch_hard_triplet_loss(x, y, margin=0.5, reduction="none", return_details=True)
    assert out.positive_index.tolist() == [2, 2, 0, -1, -1]
    assert out.negative_index[:3].tolist() == [3, 3, 3]
    assert out.positive_distance.tolist() == [3, 2, 3, math.inf, math.inf]
    assert out.negative_distance[:3].tolist() == [2, 3, 5]
    assert out.loss.tolist() == [1.5, 0, 0, 0, 0]
    mean = reference.batch_hard_triplet_loss(x, y, margin=0.5)
    assert mean.item() == 1.5 / 5
