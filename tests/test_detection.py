"""The detector's densities by the Gaussian's formula, and its ROC curve by counting pairs."""

import math

import pytest
import torch
from helpers import randn

pytest.importorskip("sklearn")

from tla_ops.experiments import detection
from tla_ops.experiments.detection import Curve, fit, roc

pytestmark = pytest.mark.usefixtures("one_thread")

REG = 0.05


@pytest.fixture(scope="module")
def problem():
    """Features about three centres; the last coordinate never moves."""
    labels = torch.tensor([4, 1, 7]).repeat(20)
    spread = torch.tensor([5.0, 0.2, 1.0, 0.0])
    features = spread * randn(60, 4, seed=1) + 3 * spread * randn(8, 4, seed=2)[labels] + 0.3
    return features, labels


def log_densities(features, labels, queries, covariance, reg):
    """(N, 3) by class in ascending order, by torch.distributions in float64."""
    x, q = features.double()[:, :3], queries.double()[:, :3]
    centre, size = x.mean(0), x.std(0, correction=0)
    x, q = (x - centre) / size, (q - centre) / size
    columns = []
    for label in (1, 4, 7):
        own = x[labels == label]
        matrix = own.T.cov(correction=0)
        if covariance != "full":
            matrix = matrix.diag().diag()
        if covariance == "spherical":
            # The constant coordinate is one of the four whose mean variance it is.
            matrix = matrix.trace() / 4 * torch.eye(3, dtype=torch.float64)
        matrix = matrix + reg * torch.eye(3, dtype=torch.float64)
        shape = torch.distributions.MultivariateNormal(own.mean(0), matrix)
        fourth = reg + (matrix[0, 0] - reg if covariance == "spherical" else 0)
        constant = -0.5 * math.log(2 * math.pi * fourth)
        columns.append(shape.log_prob(q) + constant)
    return torch.stack(columns, 1)


@pytest.mark.parametrize("covariance", ["diag", "full", "spherical"])
def test_confidence_is_the_largest_density(problem, covariance, monkeypatch):
    monkeypatch.setattr(detection, "ROWS", 7)
    features, labels = problem
    queries = torch.cat([features, randn(20, 4, seed=3)])
    confidence, assigned = fit(features, labels, covariance, REG).confidence(queries)
    best = log_densities(features, labels, queries, covariance, REG).max(1)
    torch.testing.assert_close(confidence, best.values, rtol=1e-6, atol=1e-6)
    assert torch.equal(assigned, torch.tensor([1, 4, 7])[best.indices])
    assert assigned.unique().tolist() == [1, 4, 7]


def test_diagonal_with_a_little_regularisation_is_the_default(problem):
    features, labels = problem
    ours, theirs = fit(features, labels), fit(features, labels, "diag", detection.REGULARISATION)
    assert torch.equal(ours.confidence(features)[0], theirs.confidence(features)[0])


def test_units_of_a_coordinate_and_dead_ones_do_not_matter(problem):
    features, labels = problem
    factor = torch.tensor([2.0**-13, 8.0, 4.0, 1.0])
    before = fit(features, labels).confidence(features)
    moved = features.clone()
    moved[:, 3] = 100.0
    after = fit(features * factor, labels).confidence(moved * factor)
    torch.testing.assert_close(after[0], before[0])
    assert torch.equal(after[1], before[1])


def test_a_class_that_never_lights_a_unit_is_well_posed(problem):
    features, labels = problem
    features = features.clone()
    features[labels == 4, 2] = 0
    confidence, assigned = fit(features, labels).confidence(features)
    assert torch.isfinite(confidence).all()
    assert (assigned == labels).double().mean() > 0.9


def test_more_features_than_images(problem):
    features, labels = randn(6, 300, seed=4), torch.tensor([0, 0, 0, 1, 1, 2])
    for covariance in ("diag", "full", "spherical"):
        detector = fit(features, labels, covariance)
        confidence, assigned = detector.confidence(features)
        assert torch.isfinite(confidence).all()
        # A class with one image has no Gaussian.
        assert assigned[:5].tolist() == [0, 0, 0, 1, 1]
        assert set(assigned.tolist()) == {0, 1}


def test_outliers_are_less_likely(problem):
    features, labels = problem
    detector = fit(features, labels)
    inside = detector.confidence(features)[0]
    outside = detector.confidence(features + 40 * features.std(0))[0]
    assert outside.max() < inside.min()
    curve = roc(torch.cat([inside, outside]), torch.arange(120) >= 60)
    assert curve.auc == 1


def test_collapsed_features_have_one_confidence():
    detector = fit(torch.ones(6, 3) / 3, torch.tensor([0, 0, 0, 1, 1, 1]))
    confidence, _ = detector.confidence(torch.rand(4, 3))
    assert (confidence == confidence[0]).all()
    assert torch.isfinite(confidence).all()
    assert detector.confidence(torch.zeros(0, 3))[0].shape == (0,)
    assert roc(confidence, torch.tensor([True, False, True, False])).auc == 0.5


def test_auc_is_the_share_of_pairs_in_order():
    confidence = randn(80, seed=5).round(decimals=1)
    wrong = randn(80, seed=6) - confidence > 0.3
    bad, good = confidence[wrong], confidence[~wrong]
    ahead = (bad[:, None] < good).double() + 0.5 * (bad[:, None] == good).double()
    curve = roc(confidence, wrong)
    assert curve.auc == pytest.approx(ahead.mean().item())
    assert 0.6 < curve.auc < 1
    assert (curve.fpr[0], curve.tpr[0]) == (0, 0)
    assert (curve.fpr[-1], curve.tpr[-1]) == (1, 1)
    # Rejecting below a threshold: a point of the curve.
    threshold = confidence.sort().values[30]
    point = (good <= threshold).double().mean().item(), (bad <= threshold).double().mean().item()
    middle = torch.tensor([curve.fpr, curve.tpr]).T
    corners = (middle - torch.tensor(point)).abs().amax(1)
    assert corners.min() < 1e-6


def test_a_curve_of_one_kind_of_image_is_undefined():
    for wrong in (torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)):
        curve = roc(randn(3), wrong)
        assert math.isnan(curve.auc)
        assert curve[:2] == Curve([], [], 0)[:2]
    assert math.isnan(roc(randn(0), torch.zeros(0, dtype=torch.bool)).auc)


def test_errors(problem):
    features, labels = problem
    detector = fit(features, labels)
    with pytest.raises(ValueError, match=r"confidence: features must be \(N, 4\), got \(60, 3\)"):
        detector.confidence(features[:, :3])
    with pytest.raises(ValueError, match="confidence: features must be finite"):
        detector.confidence(features / 0)
    with pytest.raises(ValueError, match=r"fit: features must be \(N, D\), got \(4,\)"):
        fit(features[0], labels)
    with pytest.raises(ValueError, match=r"labels must be \(60,\) .* got \(59,\)"):
        fit(features, labels[1:])
    with pytest.raises(ValueError, match="labels must name a class twice"):
        fit(features[:3], labels[:3])
    with pytest.raises(ValueError, match="covariance must be diag, full or spherical, got 'tied'"):
        fit(features, labels, "tied")
    with pytest.raises(ValueError, match=r"must both be \(N,\), got \(60,\) and \(3,\)"):
        roc(features[:, 0], labels[:3] > 0)
