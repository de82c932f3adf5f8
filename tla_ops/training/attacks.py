"""Adversarial attacks on a batch of images in [0, 1].

Budgets are exact fractions (``Fraction(8, 255)``), so that a step count times a step size means
what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``attack(model, images, labels)`` returns the adversarial images; keyword options are bound with
``functools.partial``.
"""

Mode = Literal["train", "eval"]


@contextmanager
def model_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Run the body with ``model`` in train or eval mode, then give every submodule its own mode
    back.
    """
    if mode not in ("train", "eval"):
        raise ValueError(f"model_mode: mode must be 'train' or 'eval', got {mode!r}")
    before = [(module, module.training) for module in model.modules()]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    restarts: int = 1,
    random_start: bool = True,
    mode: Mode = "eval",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent in the l-infinity ball (Madry et al. 2018).

    Args:
        model: maps images to logits (B, C). Its mode during the attack is ``mode`` and is restored
            afterwards;
            the ``.grad`` of its parameters is never touched.
        images: (B, ...) floating point, values in [0, 1].
        labels: (B,) integer classes, whose cross entropy the attack increases.
        epsilon: radius of the ball, as a fraction of the [0, 1] range.
        step: length of one signed-gradient step.
        steps: number of steps of each restart.
        restarts: number of runs; each image keeps the run with the largest logit margin of a wrong
            class.
        random_start: start from a uniform point of the ball, otherwise from the image itself.
        mode: "eval" (default) or "train": the model's mode during the attack.
        generator: source of the random starts, on the images' device; torch's default otherwise.

    Returns:
        Adversarial images, as ``images``, within ``epsilon`` of them and within [0, 1]; detached.

    Raises:
        ValueError: for a negative ``epsilon`` or ``step``, ``steps`` below 0 or ``restarts`` below
            1.
    """
    if epsilon < 0 or step < 0:
        raise ValueError(f"pgd: epsilon and step must not be negative, got {epsilon} and {step}")
    if steps < 0 or restarts < 1:
        raise ValueError(f"pgd: needs steps >= 0 and restarts >= 1, got {steps} and {restarts}")
    images = images.detach()
    low = (images - float(epsilon)).clamp_(min=0)
    high = (images + float(epsilon)).clamp_(max=1)
    worst, worst_margin = images, None
    with model_mode(model, mode):
        for _ in range(restarts):
            adversarial = images
            if random_start:
                uniform = torch.rand(
                    images.shape, dtype=images.dtype, device=images.device, generator=generator
                )
                adversarial = torch.lerp(low, high, uniform)
            for _ in range(steps):
                gradient = _input_gradient(model, adversarial, labels)
                adversarial = (adversarial + float(step) * gradient.sign()).clamp_(low, high)
            if restarts == 1:
                return adversarial
            margin = _wrong_margin(model, adversarial, labels)
            if worst_margin is None:
                worst, worst_margin = adversarial, margin
            else:
                better = margin > worst_margin
                worst = torch.where(better.view(-1, *[1] * (images.ndim - 1)), adversarial, worst)
                worst_margin = torch.maximum(margin, worst_margin)
    return worst


def _input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the summed cross entropy with respect to the images alone."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        return torch.autograd.grad(loss, images)[0]


@torch.no_grad()
def _wrong_margin(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Best wrong logit minus the true one, (B,): positive where the image is misclassified."""
    logits = model(images)
    true = logits.gather(1, labels[:, None])
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.amax(1) - true[:, 0]
