"""The gradient attacks of AT2L's training sets (IJCAI 2019, section 3.3) in passes that they share.

A = {FGSM, LL, I-FGSM, I-LL}: each alone is in :mod:`tla_ops.training.attacks`, which says what
``model``, ``images``, ``epsilon``, ``step`` and ``mode`` are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import torch
from torch import Tensor, nn

from tla_ops import _checks
from tla_ops.training import _ascent
from tla_ops.training._ascent import Mode

KINDS = ("fgsm", "ll", "bim", "ill")
"""FGSM, LL, I-FGSM and I-LL, by the names of their functions in ``attacks``."""

Loss = Callable[[Tensor, Tensor], Tensor]
_LOSSES: dict[str, Loss] = {
    "fgsm": _ascent.cross_entropy,
    "ll": _ascent.target_likelihood,
    "bim": _ascent.cross_entropy,
    "ill": _ascent.target_likelihood,
}


def gradient_family(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    kinds: Iterable[str] = KINDS,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    mode: Mode = "eval",
) -> dict[str, Tensor]:
    """Adversarial images of each of ``kinds``, as ``fgsm``, ``ll``, ``bim`` and ``ill`` make them.

    One forward pass of the clean images (B, ...) serves all. Of its graph the gradient of the
    cross entropy of ``labels`` (B,) is FGSM's and BIM's first, that of the least likely class LL's
    and I-LL's first. All four take 2 ``steps`` - 1 forward passes, against 2 ``steps`` + 4 alone.
    The further steps are passes of B images each: joined in one of 2 B they are no faster where B
    fills the device, and another batch size may round differently.

    Args:
        kinds: some of ``KINDS``. What comes of one does not depend on which others are asked for.
        epsilon: the ball's radius, and the one step of FGSM and LL.
        step, steps: of BIM and I-LL.
        mode: "eval" or "train". In "train" mode batch normalisation counts each pass once, so that
            its running statistics see fewer batches than by the attacks alone.

    Returns:
        A dictionary from kind to images (B, ...), detached, within the ball and within [0, 1]. In
        "eval" mode they are those of the attack alone: bit for bit where the network's forward and
        backward repeat to the bit, as on a CPU; elsewhere but for rounding, which a sign turns into
        a step where a gradient is near 0.

    Raises:
        ValueError: for another kind or mode, and for a negative ``epsilon``, ``step`` or ``steps``.
    """
    where, kinds = "gradient_family", tuple(kinds)
    for kind in kinds:
        _checks.choice(where, "kinds", kind, KINDS)
    for name, value in (("epsilon", epsilon), ("step", step), ("steps", steps)):
        if not value >= 0:
            raise ValueError(f"{where}: {name} must be at least 0, got {value}")
    with _ascent.attacking(model, mode):
        images, labels = _ascent.ordinary(images), _ascent.ordinary(labels).long()
        losses = dict.fromkeys(_LOSSES[kind] for kind in kinds)
        target, gradient = _of_clean_images(model, images, labels, losses)
    made = {}
    for kind in kinds:
        loss = _LOSSES[kind]
        length, count = (step, steps) if kind in ("bim", "ill") else (epsilon, 1)
        made[kind] = _ascent.attack(
            where,
            model,
            images,
            target[loss],
            loss,
            epsilon=epsilon,
            step=length,
            steps=max(count - 1, 0),
            start=_one_step(gradient[loss], length) if count else None,
            mode=mode,
        )
    return made


def _of_clean_images(
    model: nn.Module, images: Tensor, labels: Tensor, losses: Iterable[Loss]
) -> tuple[dict[Loss, Tensor], dict[Loss, Tensor]]:
    """Each loss's classes (B,), and its gradient with respect to the images."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = _ascent.logits_of(model, images)
        target: dict[Loss, Tensor] = {
            _ascent.cross_entropy: labels,
            _ascent.target_likelihood: logits.detach().argmin(1),
        }
        gradient = {
            loss: torch.autograd.grad(loss(logits, target[loss]).sum(), images, retain_graph=True)[
                0
            ]
            for loss in losses
        }
    return target, gradient


def _one_step(gradient: Tensor, length: Fraction) -> Callable[[_ascent.Ball], Tensor]:
    """A start: one step from the clean images along their gradient."""
    return lambda ball: ball.project(ball.images + float(length) * ball.unit(gradient))
