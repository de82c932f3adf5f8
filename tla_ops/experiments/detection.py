"""Images that a model gets wrong, found by how unlikely their penultimate features are: TLA's
section 5.3 and Figure 5.

The paper: one Gaussian a class, fitted on half clean and half adversarial images of the training
split; an image is assigned the class whose density at it is the largest, and that density is its
confidence; images below a threshold are rejected, and the ROC curve is over that threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

REGULARISATION = 1e-3
"""Added to every variance, of features that vary by 1 over all classes."""
ROWS = 4096
"""Whose densities are computed at a time."""


class Curve(NamedTuple):
    """A ROC curve from (0, 0) to (1, 1), and the area under it; without points, and NaN, where
    it is undefined.
    """

    fpr: list[float]
    tpr: list[float]
    auc: float


@dataclass(frozen=True)
class Detector:
    """One Gaussian a class over features from which `centre` was taken and which were multiplied
    by `scale`, both (D,).
    """

    centre: Tensor
    scale: Tensor
    mixtures: dict[int, Any]

    def confidence(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of each row's most likely class, and that class.

        Args:
            features: (N, D), floating point.

        Returns:
            (N,) float64 and (N,) int64, on the CPU. Log densities are those of the scaled
            features: they compare images, not models.

        Raises:
            ValueError: features have another D than those of the fit, or are not finite.
        """
        _check("confidence", features, len(self.centre))
        rows = [
            torch.stack([_log_density(mixture, some) for mixture in self.mixtures.values()], 1)
            for some in _scaled(features, self.centre, self.scale).split(ROWS)
        ]
        best = torch.cat(rows).max(1)
        return best.values, torch.tensor(list(self.mixtures))[best.indices]


def fit(
    features: Tensor,
    labels: Tensor,
    covariance: str = "diag",
    regularisation: float = REGULARISATION,
) -> Detector:
    """Fit the Gaussians, by scikit-learn's GaussianMixture with one component for each class.

    The paper prints neither the covariance nor its regularisation. A full covariance of 640 or 1024
    features needs more images than that of every class; a diagonal one is well-posed from two on.
    Features are standardised over all classes first, so that ``regularisation`` has the same
    meaning for every coordinate and model: many of a ReLU's are 0 for a whole class, and a variance
    of nearly 0 would let that coordinate decide every density. One that never varied has no scale
    and is ignored.

    Args:
        features: (N, D), floating point, finite; half of clean and half of adversarial images.
        labels: (N,) true classes.
        covariance: "diag", "full" or "spherical", scikit-learn's covariance_type.
        regularisation: added to the variances, scikit-learn's reg_covar.

    Returns:
        The detector, on the CPU in float64. A class with fewer than two images has no Gaussian.

    Raises:
        ValueError: no class has two images, labels do not match, or features are not finite.
    """
    from sklearn.mixture import GaussianMixture

    _check("fit", features, features.shape[-1])
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"fit: labels must be ({len(features)},) to match features {tuple(features.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    if covariance not in ("diag", "full", "spherical"):
        raise ValueError(f"fit: covariance must be diag, full or spherical, got {covariance!r}")
    labels = labels.cpu()
    classes, sizes = labels.unique(return_counts=True)
    classes = classes[sizes >= 2]
    if len(classes) == 0:
        raise ValueError("fit: labels must name a class twice, got none that does")
    features = features.detach().double().cpu()
    centre, moves = features.mean(0), features.amax(0) > features.amin(0)
    # scikit-learn's StandardScaler would leave what never varied in its own units.
    scale = torch.where(moves, 1 / features.std(0, correction=0), 0)
    scaled = _scaled(features, centre, scale)
    mixtures = {}
    for label in classes.tolist():
        # With one component every start is the same, and "random" takes no k-means.
        mixture = GaussianMixture(
            1,
            covariance_type=covariance,
            reg_covar=regularisation,
            init_params="random",
            random_state=0,
        )
        mixtures[label] = mixture.fit(scaled[labels == label].numpy())
    return Detector(centre, scale, mixtures)


def roc(confidence: Tensor, misclassified: Tensor) -> Curve:
    """The ROC curve of rejecting images by low confidence, where rejecting a misclassified image is
    right.

    Args:
        confidence: (N,) of the clean and the adversarial images of a test set.
        misclassified: (N,) bool. The paper detects "mis-predicted adversarial inputs" and defines
            the false class as the model's prediction: the network's arg-max against the true label,
            for clean images as for adversarial ones. The class that section 5.3 assigns belongs to
            the ranking alone; as the other reading, pass ``assigned != labels``.

    Returns:
        The curve; undefined where no image is misclassified, or every one.

    Raises:
        ValueError: the shapes differ.
    """
    from sklearn import metrics

    if confidence.ndim != 1 or confidence.shape != misclassified.shape:
        raise ValueError(
            "roc: confidence and misclassified must both be (N,), "
            f"got {tuple(confidence.shape)} and {tuple(misclassified.shape)}"
        )
    truth, score = misclassified.cpu().numpy().astype(bool), -confidence.double().cpu().numpy()
    if truth.all() or not truth.any():
        return Curve([], [], math.nan)
    fpr, tpr, _ = metrics.roc_curve(truth, score)
    return Curve(fpr.tolist(), tpr.tolist(), float(metrics.auc(fpr, tpr)))


def _check(where: str, features: Tensor, dim: int) -> None:
    if features.ndim != 2 or features.shape[1] != dim:
        wanted = "(N, D)" if where == "fit" else f"(N, {dim})"
        raise ValueError(f"{where}: features must be {wanted}, got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{where}: features must be finite, got NaN or infinity")


def _scaled(features: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return (features.detach().double().cpu() - centre) * scale


def _log_density(mixture: Any, rows: Tensor) -> Tensor:
    if len(rows) == 0:
        return torch.zeros(0, dtype=torch.float64)
    return torch.from_numpy(mixture.score_samples(rows.numpy()))
