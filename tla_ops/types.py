"""Named results of the loss functions."""

from typing import NamedTuple

from torch import Tensor


class TripletLossDetails(NamedTuple):
    """What ``triplet_adv_loss`` and ``triplet_loss`` return with ``return_details=True``.

    Distances are detached, float32 (float64 for float64 anchors).
    """

    loss: Tensor
    """Reduced loss; (B,) for ``reduction="none"``."""
    negative_index: Tensor
    """(B,) int64: the row's negative among the candidates, -1 where it has none."""
    positive_distance: Tensor
    """(B, K): distance of the anchor to each of its positives."""
    negative_distance: Tensor
    """(B,): distance of the anchor to its negative, +inf where it has none."""


class BatchHardDetails(NamedTuple):
    """What ``batch_hard_triplet_loss`` returns with ``return_details=True``.

    Distances are detached, float32 (float64 for float64 embeddings).
    """

    loss: Tensor
    """Reduced loss; (B,) for ``reduction="none"``."""
    positive_index: Tensor
    """(B,) int64: the row's positive in the batch, -1 where it has none."""
    negative_index: Tensor
    """(B,) int64: the row's negative in the batch, -1 where it has none."""
    positive_distance: Tensor
    """(B,): distance to the positive, +inf where there is none."""
    negative_distance: Tensor
    """(B,): distance to the negative, +inf where there is none."""


class OperatorCheck(NamedTuple):
    """What the self-test found of one operator, its backward included."""

    passed: bool
    problems: int
    """How many problems were compared."""
    worst: float
    """The largest difference as a share of what is allowed; 1 and less pass."""
    reason: str | None
    """Why it failed: what differed in which problem, or the exception."""


class SelfTestReport(NamedTuple):
    """What ``selftest`` returns."""

    device: str
    """``"cuda:0"`` or ``"cpu"``."""
    name: str
    """Of the hardware."""
    capability: str | None
    """Of a CUDA device, such as ``"9.0"``."""
    operators: dict[str, OperatorCheck]
    """By name; the public functions call one or two of them each."""

    @property
    def passed(self) -> list[str]:
        """Names of the operators that agree with ``tla_ops.reference``."""
        return sorted(name for name, found in self.operators.items() if found.passed)

    @property
    def failed(self) -> dict[str, str]:
        """The others' reasons by name."""
        checks = self.operators.items()
        return {name: found.reason or "" for name, found in checks if not found.passed}
