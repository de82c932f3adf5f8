"""What a trained model is worth: accuracy under attacks, and the geometry of its triplets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import tla_ops
from tla_ops.training import art_attacks, attacks
from tla_ops.training.attacks import Attack, model_mode
from tla_ops.training.data import ImageSet
from tla_ops.training.models import Classifier
from tla_ops.training.recipe import STEPPED, Recipe

RESTARTS = 20
"""Of the attack that the TLA paper calls 20PGD."""


class TripletStatistics(NamedTuple):
    """Share of anchors with an active hinge, and mean angular distances to the positive and to the
    mined negative.
    """

    active: float
    positive_distance: float
    negative_distance: float


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, size: int = 500) -> float:
    """Share of images (N, C, H, W) that ``model`` gives their label (N,), in eval mode, ``size`` at
    a time.
    """
    with model_mode(model, "eval"):
        right = [
            (model(some).argmax(1) == their).double()
            for some, their in zip(images.split(size), labels.split(size), strict=True)
        ]
    return torch.cat(right).mean().item()


def _iterated(attack: Callable[..., Tensor], **more: Any) -> Callable[[Recipe, int], Attack]:
    return lambda recipe, steps: partial(
        attack, epsilon=recipe.epsilon, step=recipe.evaluation_step, steps=steps, **more
    )


def _normed(attack: Callable[..., Tensor], **more: Any) -> Callable[[Recipe, int], Attack]:
    """An iterated attack in the ball of the recipe's norm; the others are l-infinity's."""
    return lambda recipe, steps: _iterated(attack, norm=recipe.attack_norm, **more)(recipe, steps)


def _bounded(attack: Callable[..., Tensor]) -> Callable[[Recipe, int], Attack]:
    return lambda recipe, steps: partial(attack, epsilon=recipe.epsilon)


def _unbounded(attack: Callable[..., Tensor]) -> Callable[[Recipe, int], Attack]:
    return lambda recipe, steps: attack


ATTACKS: dict[str, Callable[[Recipe, int], Attack]] = {
    "fgsm": _bounded(attacks.fgsm),
    "bim": _normed(attacks.bim, early_stop=True),
    "pgd": _normed(attacks.pgd, early_stop=True),
    "pgd_long": _normed(attacks.pgd, early_stop=True),
    "pgd20r": _normed(attacks.pgd, early_stop=True, restarts=RESTARTS),
    "mim": _iterated(attacks.mim),
    "cw": _iterated(attacks.cw_linf),
    "ll": _bounded(attacks.ll),
    "ill": _iterated(attacks.ill),
    "transfer": _normed(attacks.pgd),
    "autoattack": _bounded(art_attacks.autoattack),
    "deepfool": _unbounded(art_attacks.deepfool),
    "cw_l2": _unbounded(art_attacks.cw_l2),
    "jsma": _unbounded(art_attacks.jsma),
}
"""What `evaluate` knows beside "clean": from a recipe and a number of steps to an attack. Those
with `early_stop` count an image as lost at the first step that misleads the model."""


def evaluate(
    model: Classifier,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    *,
    source: nn.Module | None = None,
    size: int = 200,
    seed: int = 0,
    report: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Accuracy under each attack, on the model as it is in evaluation.

    Args:
        model: the victim.
        recipe: its budget (``epsilon``) and steps (``evaluation_step``, their size, and
            ``eval_steps``; 20 for an attack that is not in it).
        images: (N, C, H, W) in [0, 1]; labels: (N,).
        names: "clean" and keys of `ATTACKS`.
        source: the model that "transfer" attacks.
        size: images attacked at a time.
        seed: of random starts, the same for every attack.
        report: called with each name and row as it is done.

    Returns:
        By name: ``accuracy``, its standard error, ``images``, ``steps`` (None where an attack has
        no number of its own), ``mean_linf`` and ``mean_l2`` of the perturbations (DeepFool, C&W-l2
        and JSMA have no ball to stay in) and ``seconds``.

    Raises:
        ValueError: an unknown name, or "transfer" without ``source``.
    """
    unknown = [name for name in names if name != "clean" and name not in ATTACKS]
    if unknown:
        raise ValueError(
            f"evaluate: attacks must be among clean, {', '.join(ATTACKS)}, got {unknown[0]!r}"
        )
    if source is None and "transfer" in names:
        raise ValueError("evaluate: transfer needs source, the model to attack in place of this")
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        started = time.perf_counter()
        steps = recipe.eval_steps.get(name, 20) if name in STEPPED else None
        adversarial = images
        if name != "clean":
            with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
                torch.manual_seed(seed)
                attack: Any = ATTACKS[name](recipe, steps or 0)
                if name == "autoattack":
                    attack = partial(attack, seed=seed)
                if name == "transfer" and source is not None:
                    attack = partial(attacks.transfer, source=source, attack=attack)
                adversarial = attacks.in_batches(attack, size)(model, images, labels)
        share = accuracy(model, adversarial, labels)
        change = (adversarial - images).flatten(1)
        rows[name] = {
            "accuracy": share,
            "standard_error": (share * (1 - share) / len(labels)) ** 0.5,
            "images": len(labels),
            "steps": steps,
            "mean_linf": change.abs().amax(1).mean().item(),
            "mean_l2": change.norm(dim=1).mean().item(),
            "seconds": time.perf_counter() - started,
        }
        if report is not None:
            report(name, rows[name])
    return rows


@torch.no_grad()
def triplet_statistics(
    model: Classifier,
    adversarial: Tensor,
    clean: ImageSet,
    margin: float,
    generator: torch.Generator | None = None,
) -> TripletStatistics:
    """Triplets of adversarial images (N, C, H, W), one for each row of ``clean``, in eval mode.

    The positive is another clean image of the class, the negative the nearest of all clean images
    of other classes.
    """
    positives = clean.positives(torch.arange(len(clean), device=clean.labels.device), generator)
    with model_mode(model, "eval"):
        pool = model.features(clean.images)
        details = tla_ops.triplet_adv_loss(
            model.features(adversarial),
            pool[positives],
            pool,
            clean.labels,
            clean.labels,
            margin=margin,
            return_details=True,
        )
    return summary(details.positive_distance[:, 0], details.negative_distance, margin)


def summary(positive: Tensor, negative: Tensor, margin: float) -> TripletStatistics:
    """Statistics of distances (N,) to positives and to negatives; an infinite distance (no
    negative) is left out.
    """
    found = torch.isfinite(negative)
    active = positive - negative + margin > 0
    return TripletStatistics(
        active.double().mean().item(),
        positive.double().mean().item(),
        negative[found].double().mean().item(),
    )
