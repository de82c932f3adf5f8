"""AT2L's triplet loss as a regulariser, to add to any loss (AT2L, IJCAI 2019, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import tla_ops
from tla_ops import _checks


class TripletRegularizer(nn.Module):
    """``loss = my_loss + regularizer(logits_adversarial, logits_clean, labels)``: the mean over the
    batch of

    R(x, x', y) = λ [‖f(x') - f(x)‖∞ - ‖f(x') - f(xn)‖∞ + α]+.

    f are the logits; the anchor is the adversarial image x', its positive its own source x, and xn
    a clean image of the batch, of the class that the model takes x' for.

    Args:
        weight: λ. The default of λ and of α is the paper's for MNIST, CIFAR-10 and Cats vs. Dogs;
            it has .7 and 1.5 beside thermometer codes, 1 and 2 beside randomisation, .5 and 2
            beside Defense-GAN (appendix B).
        margin: α, in units of the distance.
        metric, mining: as for :func:`tla_ops.triplet_adv_loss`; "random" draws xn.
        confused_class: False takes xn from any other class, as the paper's Algorithm 2 does. So
            does True where x' is classified correctly or no image has the class it is taken for.
        generator: draws xn, on the logits' device; torch's default if None.

    Raises:
        ValueError, TypeError: for an option outside its range.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        margin: float = 1.0,
        metric: str = "linf",
        mining: str = "random",
        confused_class: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.weight = _checks.number("TripletRegularizer", "weight", weight)
        self.margin = _checks.number("TripletRegularizer", "margin", margin)
        _checks.choice("TripletRegularizer", "metric", metric, _checks.METRICS)
        _checks.choice("TripletRegularizer", "mining", mining, _checks.NEGATIVE_MINING)
        self.metric, self.mining = metric, mining
        self.confused_class, self.generator = confused_class, generator

    def forward(self, logits_adversarial: Tensor, logits_clean: Tensor, labels: Tensor) -> Tensor:
        """The regulariser, a scalar in float32 (float64 for float64 logits).

        Args:
            logits_adversarial: f(x') (B, classes), with gradient.
            logits_clean: f(x) (B, classes) of the same images, positives and negatives; with
                gradient, unless the caller detached them.
            labels: (B,), any integer dtype.

        A row without a negative, in a batch of one class, adds nothing and counts in the mean.
        """
        return self.details(logits_adversarial, logits_clean, labels).loss

    def details(
        self, logits_adversarial: Tensor, logits_clean: Tensor, labels: Tensor
    ) -> tla_ops.TripletLossDetails:
        """The regulariser and its triplets: the negatives' rows in the batch, and the distances."""
        where = "TripletRegularizer"
        _checks.anchors(where, "logits_adversarial", logits_adversarial)
        _checks.features(where, "logits_clean", logits_clean, (2,), "(B, classes)")
        if logits_clean.shape != logits_adversarial.shape:
            raise ValueError(
                f"{where}: logits_clean must be {_checks.shape(logits_adversarial)} as "
                f"logits_adversarial is, got {_checks.shape(logits_clean)}"
            )
        labels = _checks.integers(
            where,
            "labels",
            labels,
            len(logits_adversarial),
            "logits_adversarial",
            logits_adversarial,
        )
        return tla_ops.triplet_adv_loss(
            logits_adversarial,
            logits_clean,
            # torch.compile cannot trace an operator that is given one tensor twice.
            logits_clean.view_as(logits_clean),
            labels,
            labels.view_as(labels),
            margin=self.margin,
            weight=self.weight,
            metric=self.metric,
            mining=self.mining,
            target_labels=logits_adversarial.argmax(1) if self.confused_class else None,
            generator=self.generator,
            return_details=True,
        )

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight}, margin={self.margin}, metric={self.metric!r}, "
            f"mining={self.mining!r}, confused_class={self.confused_class}"
        )
