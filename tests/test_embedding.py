"""t-SNE's points, and the numbers beside its pictures against loops over pairs."""

import math

import pytest
import torch
from helpers import matrix64, randn

pytest.importorskip("sklearn")

from tla_ops.experiments.embedding import silhouette, tsne

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def groups():
    """Three bundles of directions in ten dimensions, of lengths that say nothing, and whose each
    row is."""
    labels = torch.arange(75) % 3
    centres = torch.eye(10)[:3] + 0.2
    rows = centres[labels] + 0.1 * randn(75, 10, seed=1)
    return rows * torch.linspace(0.1, 50, 75)[:, None].flip(0), labels


def test_directions_that_are_near_stay_near(groups):
    features, labels = groups
    points = tsne(features, perplexity=10)
    assert points.shape == (75, 2)
    assert points.dtype == torch.float32
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(1)], labels)
    # Powers of two leave every bit of a direction as it is.
    lengths = 2.0 ** (torch.arange(75) % 5)
    assert torch.equal(tsne(features * lengths[:, None], perplexity=10), points)


def test_equal_seeds_give_equal_points():
    # So many features that PCA's solver is a randomised one.
    features, before = randn(60, 600, seed=4), torch.random.get_rng_state()
    points = tsne(features, seed=3)
    assert torch.equal(tsne(features, seed=3), points)
    assert not torch.equal(tsne(features, seed=4), points)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(2, 5), (3, 5), (4, 5), (7, 1), (20, 2)])
def test_few_points_and_few_dimensions(shape):
    points = tsne(randn(*shape, seed=2))
    assert points.shape == (shape[0], 2)
    assert torch.isfinite(points).all()
    assert points.std() > 0


def test_nothing_to_tell_apart_is_one_point():
    assert torch.equal(tsne(torch.zeros(0, 4)), torch.zeros(0, 2))
    assert torch.equal(tsne(torch.ones(1, 4)), torch.zeros(1, 2))
    collapsed = torch.linspace(1, 9, 40)[:, None] * torch.rand(1, 6)
    assert torch.equal(tsne(collapsed), torch.zeros(40, 2))
    half = tsne(torch.cat([collapsed, -collapsed]))
    assert torch.isfinite(half).all()
    assert half.std() > 0


def test_silhouette(groups):
    features, labels = groups
    distances = matrix64(features, features, "cosine")
    total = 0.0
    for i in range(75):
        own = [j for j in range(75) if labels[j] == labels[i] and j != i]
        a = distances[i, own].mean()
        b = min(distances[i, labels == k].mean() for k in range(3) if k != labels[i])
        total += ((b - a) / max(a, b)).item()
    assert silhouette(features, labels) == pytest.approx(total / 75, rel=1e-4)
    assert 0.3 < total / 75 < 1


def test_silhouette_undefined(groups):
    features, labels = groups
    for some, group in ((75, labels * 0), (75, torch.arange(75)), (1, labels), (0, labels)):
        assert math.isnan(silhouette(features[:some], group[:some]))


def test_errors(groups):
    features, labels = groups
    with pytest.raises(ValueError, match=r"must be \(N, D\) and finite, got \(10,\)$"):
        tsne(features[0])
    with pytest.raises(ValueError, match=r"got \(75, 10\) with NaN or infinity"):
        tsne(features / 0)
    with pytest.raises(ValueError, match=r"groups must be \(75,\) .* got \(74,\)"):
        silhouette(features, labels[1:])
