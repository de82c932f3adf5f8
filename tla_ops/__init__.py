"""Hard-negative triplet losses on adversarial features, as fused C++ operators.

``triplet_adv_loss`` is the loss of "Metric Learning for Adversarial Robustness" (TLA, NeurIPS
2019): for each adversarial feature the hardest negative of a pool, the hinge, the norm decay and
their gradients, without ever storing the anchors x candidates matrix.
"""

from ._library import build_info
from .functional import (
    batch_hard_triplet_loss,
    cdist,
    triplet_adv_loss,
    triplet_loss,
)
from .mining import mine_negatives, mine_positives
from .modules import FeatureBank, TripletAdvLoss
from .selftest import selftest
from .types import BatchHardDetails, OperatorCheck, SelfTestReport, TripletLossDetails

__version__ = build_info()["version"]

__all__ = [
    "BatchHardDetails",
    "FeatureBank",
    "OperatorCheck",
    "SelfTestReport",
    "TripletAdvLoss",
    "TripletLossDetails",
    "batch_hard_triplet_loss",
    "build_info",
    "cdist",
    "mine_negatives",
    "mine_positives",
    "selftest",
    "triplet_adv_loss",
    "triplet_loss",
]
