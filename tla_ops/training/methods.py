"""Training methods: each one short function from a model and a batch to the loss of one step.

Every set of images, a stream, is forwarded by a call of its own, so that batch normalisation never
mixes the statistics of clean and adversarial images; a method's docstring names its streams in the
order in which they move the running statistics. What mode the model has in the attack, the attack
says: ``functools.partial(pgd, mode="eval", ...)``.

``statistics``, an option of :func:`alp` and of the TLA family, says which streams move the running
statistics: "all", what plain forward calls do and the default, or "adversarial", the adversarial
one alone; anything else is a ValueError. In eval mode, in which a model is attacked and evaluated
and negatives are searched for, clean images are then normalised by adversarial statistics, too.

``label_smoothing`` is the share of each target that is spread over all classes, in every cross
entropy. Nothing here waits for the device, and under ``torch.autocast`` the losses are float32.
"""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F

import tla_ops
from tla_ops.training.attacks import Attack
from tla_ops.training.models import Classifier
from tla_ops.training.regularizer import TripletRegularizer
from tla_ops.training.steps import (
    Batch,
    Step,
    active_hinges,
    at_work,
    clean_streams,
    cross_entropy,
    nearest_negatives,
    noisy,
    pool_features,
    random_negatives,
    tla_loss,
    triplet_step,
    triplets_of,
)

__all__ = [
    "Batch",
    "Step",
    "alp",
    "at",
    "at2l",
    "pool_features",
    "tla",
    "tla_loss",
    "tla_rn",
    "tla_sa",
    "trades",
    "um",
]


def um(model: Classifier, batch: Batch, *, label_smoothing: float = 0.0) -> Step:
    """Undefended model: cross entropy on clean images."""
    return Step(cross_entropy(model(batch.images), batch.labels, label_smoothing))


def at(model: Classifier, batch: Batch, *, attack: Attack, label_smoothing: float = 0.0) -> Step:
    """Adversarial training (Madry et al. 2018, equation 2.1): cross entropy on adversarial images,
    the only stream.
    """
    adversarial = attack(model, batch.images, batch.labels)
    return Step(cross_entropy(model(adversarial), batch.labels, label_smoothing))


def alp(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    weight: float = 0.5,
    statistics: str = "all",
    label_smoothing: float = 0.0,
) -> Step:
    """Adversarial logit pairing (Kannan et al. 2018): L(f(x'), y) + λ ‖f(x) - f(x')‖² / C.

    ``weight`` is λ, of the squared difference of the logits, in their mean over batch and classes;
    .5 for every data set of the TLA paper. The cross entropy is that of the adversarial images
    alone, as in all the TLA paper's baselines; ALP's own MNIST setting halves it between clean and
    adversarial images. Streams: adversarial, clean, both with gradient.
    """
    adversarial = attack(model, batch.images, batch.labels)
    logits = model(adversarial)
    with clean_streams(model, statistics):
        pairing = at_work(model(batch.images)) - at_work(logits)
    loss = cross_entropy(logits, batch.labels, label_smoothing)
    return Step(loss + weight * pairing.square().mean())


def trades(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
) -> Step:
    """TRADES (Zhang et al. 2019, equation 5): L(f(x), y) + β KL(f(x) ‖ f(x')).

    ``beta`` is the paper's 1/λ, of the mean over the batch of the divergence in nats; ``attack``
    maximises that divergence (``attacks.pgd_kl``). Streams: clean, adversarial, both with gradient.
    """
    adversarial = attack(model, batch.images, batch.labels)
    logits = model(batch.images)
    clean = F.log_softmax(at_work(logits), 1)
    attacked = F.log_softmax(at_work(model(adversarial)), 1)
    divergence = F.kl_div(attacked, clean, reduction="batchmean", log_target=True)
    return Step(cross_entropy(logits, batch.labels, label_smoothing) + beta * divergence)


def tla(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    weight: float,
    norm_weight: float,
    margin: float,
    norm: str = "l2",
    layer: str = "penultimate",
    source_positive: bool = False,
    noise: Fraction = Fraction(0),
    statistics: str = "all",
    bank: tla_ops.FeatureBank | None = None,
    label_smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> Step:
    """Triplet loss adversarial training (Mao et al. 2019, equation 1): the mean over the batch of

    L(f(x'), y) + λ1 Σ_p [D(x', p) - D(x', n) + α]+ + λ2 (‖h(x')‖ + Σ_p ‖h(p)‖ + ‖h(n)‖).

    The anchor is the adversarial image x', a positive p a clean image of its class, the negative n
    the clean image of another class that is nearest to the anchor; h are the features and D their
    angular distance 1 - |cos|. Where the negatives come from:

    - without a ``bank``, ``batch.candidates``: anchors and pool are forwarded in eval mode without
      gradient, and the picks again, with gradient and in the model's own mode;
    - with one, the rows that the trainer has enqueued of ``Step.features`` (those of
      ``batch.positives``): no pool is forwarded, and negatives carry no gradient.

    A row without a negative, as in front of an empty bank, adds neither triplet nor norms. Streams:
    adversarial, source if it is a positive, positives, negatives if they are forwarded.

    Args:
        attack: makes x' of ``batch.images``.
        weight: λ1, of the sum over an anchor's triplets.
        norm_weight: λ2.
        margin: α, in units of the distance.
        norm: "l2", or "mean_square" as in the authors' code: of the features' squares, the mean.
        layer: what h, D and the search are of: "penultimate"; "logits"; or a submodule of the
            model by its dotted name, as "body.6", whose output is flattened to (B, D). The paper's
            Table 6 (supplement; MNIST, λ1 = 2) has "Lower", "Middle", "Higher (Ours)" and "Logit
            (ALP)", and says neither which layers nor where: of ``models.lenet`` we take the two
            poolings, "body.6" and "body.13", as lower and middle. "Logit (ALP)" we take as this
            loss on the logits, as its row and caption say: 96.34% is not ALP's 95.06% (Table 1).
        source_positive: two positives, the anchor's clean source and the image of
            ``batch.positives`` (CIFAR-10 and Tiny ImageNet), not the latter alone (MNIST).
        noise: half width of the uniform noise on the clean source, in units of the [0, 1] range,
            to which the sum is clamped. The paper has it within ε on "the clean images", its
            authors' code on the source alone; that code also rounds to integers of 0..255, which
            is not done here.
        statistics: "all" or "adversarial", see the module.
        label_smoothing: in [0, 1].
        generator: draws the noise, on the images' device; torch's default if None.

    Raises:
        ValueError: for noise below 0, or noise without ``source_positive``; for a batch without
            candidates, if there is no bank; for a layer that the model lacks, with those it has, or
            that a forward pass does not run exactly once; for a bank of another dimension than D.
    """
    adversarial = attack(model, batch.images, batch.labels)
    index = None if bank is not None else nearest_negatives(model, adversarial, batch, layer)
    return tla_loss(
        model, batch, adversarial, index, weight=weight, norm_weight=norm_weight, margin=margin,
        norm=norm, layer=layer, source_positive=source_positive, noise=noise, statistics=statistics,
        bank=bank, label_smoothing=label_smoothing, generator=generator,
    )  # fmt: skip


def tla_rn(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    weight: float,
    norm_weight: float,
    margin: float,
    norm: str = "l2",
    source_positive: bool = False,
    noise: Fraction = Fraction(0),
    statistics: str = "all",
    label_smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> Step:
    """TLA with a random negative (Mao et al. 2019, section 5): any candidate of another class.

    The draw needs the labels alone, so nothing is forwarded for it, and a bank would save nothing.
    The authors' code draws from all classes; equation 1 wants x_n of another class, and a
    "negative" of the anchor's own would push apart what its positive pulls together. Arguments,
    streams and raises as for :func:`tla`; ``generator`` draws the negatives, then the noise.
    """
    adversarial = attack(model, batch.images, batch.labels)
    index = random_negatives(batch, generator)
    return tla_loss(
        model, batch, adversarial, index, weight=weight, norm_weight=norm_weight, margin=margin,
        norm=norm, source_positive=source_positive, noise=noise, statistics=statistics,
        label_smoothing=label_smoothing, generator=generator,
    )  # fmt: skip


def tla_sa(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    weight: float,
    norm_weight: float,
    margin: float,
    norm: str = "l2",
    noise: Fraction = Fraction(0),
    statistics: str = "all",
    bank: tla_ops.FeatureBank | None = None,
    label_smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> Step:
    """TLA with anchor and positive switched (Mao et al. 2019, sections 4 and 5).

    The anchor is the clean source, with ``noise``; its one positive is the adversarial image, whose
    cross entropy remains; the negative is the clean candidate nearest to the clean anchor. With a
    bank ``Step.features`` are those of the anchors. Streams: adversarial, source, negatives if they
    are forwarded. Arguments and raises as for :func:`tla`.
    """
    adversarial = attack(model, batch.images, batch.labels)
    source = noisy(batch.images, noise, generator)
    index = None if bank is not None else nearest_negatives(model, source, batch)
    positive = model.features(adversarial)
    with clean_streams(model, statistics):
        anchor = model.features(source)
        triplets = triplets_of(
            model, batch, anchor, positive, index, bank,
            weight=weight, norm_weight=norm_weight, margin=margin, norm=norm,
        )  # fmt: skip
    loss = cross_entropy(model.head(positive), batch.labels, label_smoothing)
    return triplet_step(loss, triplets, bank, anchor, batch.labels, margin)


def at2l(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    adversarial_weight: float,
    weight: float,
    margin: float,
    confused_class: bool = True,
    label_smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> Step:
    """Adversarial training with triplet loss (AT2L, IJCAI 2019, equation 2): the mean over the
    batch of

    (L(x, y) + λ1 L(x', y)) / (1 + λ1) + λ2 [‖f(x') - f(x)‖∞ - ‖f(x') - f(xn)‖∞ + α]+.

    f are the logits; the anchor is the adversarial image x', its positive its own source x, and xn
    a random clean image of the batch, of the class that the model takes x' for. Streams: clean,
    adversarial, all with gradient.

    Args:
        attack: makes x' of ``batch.images``.
        adversarial_weight: λ1.
        weight: λ2.
        margin: α, in units of the logits.
        confused_class: False draws xn from any other class, as the paper's Algorithm 2 does. So
            does True where x' is classified correctly or no image has the class it is taken for.
        label_smoothing: in [0, 1].
        generator: draws the negatives, on the images' device; torch's default if None.

    A row without a negative, in a batch of one class, adds no triplet.
    """
    adversarial = attack(model, batch.images, batch.labels)
    clean, attacked = model(batch.images), model(adversarial)
    regularizer = TripletRegularizer(
        weight=weight, margin=margin, confused_class=confused_class, generator=generator
    )
    triplets = regularizer.details(attacked, clean, batch.labels)
    loss = cross_entropy(clean, batch.labels, label_smoothing)
    loss = loss + adversarial_weight * cross_entropy(attacked, batch.labels, label_smoothing)
    return Step(
        loss / (1 + adversarial_weight) + triplets.loss,
        triplets.positive_distance.mean(1),
        triplets.negative_distance,
        active=active_hinges(triplets, margin),
    )
