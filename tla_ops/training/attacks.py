"""Adversarial attacks on a batch of images in [0, 1].

Every attack is one loop with a loss, a start and a ball of its own. What they share:

``model`` maps images to logits (B, C). It runs in ``mode``, and every submodule gets its own mode
back. Gradients are taken with respect to the images alone: those of parameters are neither computed
nor touched. In "train" mode batch normalisation uses the statistics of the attack's batches, and
counts them into its running ones.

``images`` are (B, ...) float32 or float64 with values in [0, 1], ``labels`` (B,) integer classes.
What comes back has the images' shape and dtype, is detached, within the ball up to the rounding of
one addition, and within [0, 1].

``epsilon``, the ball's radius, and ``step`` are fractions of the [0, 1] range, and exact
(``Fraction(8, 255)``), so that a step count times a step size means what it says. A negative one,
``steps`` below 0, ``restarts`` below 1 and an unknown ``norm`` or ``mode`` are ValueErrors.

Under ``torch.autocast`` the model runs in the lower precision; losses are taken in float32, and
images, steps and projections stay in the images' dtype. Callers may be under ``torch.no_grad`` or
``torch.inference_mode``. Unless ``early_stop`` is set the host never waits for a tensor's value, so
that a call can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tla_ops import _checks
from tla_ops.training import _ascent
from tla_ops.training._ascent import Mode, Norm
from tla_ops.training._ascent import model_mode as model_mode

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``attack(model, images, labels)`` returns the adversarial images; keyword options are bound with
``functools.partial``.
"""


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    norm: Norm = "linf",
    restarts: int = 1,
    random_start: bool = True,
    early_stop: bool = False,
    mode: Mode = "eval",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018) on the cross entropy of ``labels`` (B,).

    Args:
        model, images, labels, epsilon: as the module says.
        step: length of one step: of each pixel's for "linf", of the whole image's for "l2".
        steps: number of steps of each restart.
        norm: the ball's. "linf" steps along the gradient's sign and clips; "l2" along the gradient
            over its own norm, clips to [0, 1] and then shrinks what is left of the perturbation
            into the ball, which keeps it within [0, 1]. A gradient of zero moves nothing.
        restarts: number of runs; each image keeps the run with the largest logit margin of a wrong
            class.
        random_start: start from a uniform point: for "linf" of the ball's part within [0, 1], for
            "l2" of the ball, clipped to [0, 1]. Otherwise from the image itself.
        early_stop: for evaluation, in "eval" mode alone. An image that the model gets wrong, be it
            before the first step, takes no further step and is forwarded no more in this run, and
            a restart is for the images that stood all earlier ones. The model is fooled wherever
            the run without it would have fooled it, mostly by a smaller margin.
        mode: "eval" or "train": the model's mode during the attack.
        generator: source of the random starts, on the images' device; torch's default otherwise.
            Every image draws in every restart that any image takes part in.

    Returns:
        Adversarial images, as ``images``, within the ball and within [0, 1]; detached.

    Raises:
        ValueError: for an option outside its range, and for ``early_stop`` in "train" mode, where
            batch statistics would depend on which images are left.
    """
    start = partial(_ascent.uniform, generator=generator) if random_start else None
    return _ascent.attack(
        "pgd",
        model,
        images,
        labels,
        _ascent.cross_entropy,
        epsilon=epsilon,
        step=step,
        steps=steps,
        norm=norm,
        restarts=restarts,
        start=start,
        early_stop=early_stop,
        mode=mode,
    )


def fgsm(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: Fraction, mode: Mode = "eval"
) -> Tensor:
    """Fast gradient sign method (Goodfellow et al. 2015): the images (B, ...) after one step of
    length ``epsilon`` along the sign of the gradient of the cross entropy of ``labels`` (B,).
    """
    return _ascent.attack(
        "fgsm",
        model,
        images,
        labels,
        _ascent.cross_entropy,
        epsilon=epsilon,
        step=epsilon,
        steps=1,
        mode=mode,
    )


def bim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    norm: Norm = "linf",
    early_stop: bool = False,
    mode: Mode = "eval",
) -> Tensor:
    """Basic iterative method or I-FGSM (Kurakin et al. 2017, "Adversarial examples in the physical
    world"): :func:`pgd` on images (B, ...) and labels (B,) that starts from the images themselves.
    """
    return _ascent.attack(
        "bim",
        model,
        images,
        labels,
        _ascent.cross_entropy,
        epsilon=epsilon,
        step=step,
        steps=steps,
        norm=norm,
        early_stop=early_stop,
        mode=mode,
    )


def mim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    decay: float = 1.0,
    mode: Mode = "eval",
) -> Tensor:
    """Momentum iterative method (Dong et al. 2018): :func:`bim` along the sign of the velocity
    ``decay * velocity + gradient / ||gradient||_1``.

    The norm of each image's gradient is the sum of magnitudes, as the paper prints it; the mean of
    magnitudes, which its authors' code takes, scales every velocity of an image alike and changes
    no sign. ``decay`` is the paper's mu; 0 makes it :func:`bim`. Images (B, ...), labels (B,).
    """
    return _ascent.attack(
        "mim",
        model,
        images,
        labels,
        _ascent.cross_entropy,
        epsilon=epsilon,
        step=step,
        steps=steps,
        decay=_checks.number("mim", "decay", decay),
        mode=mode,
    )


def ll(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: Fraction, mode: Mode = "eval"
) -> Tensor:
    """One step towards the least likely class (Kurakin et al. 2017, "Adversarial machine learning
    at scale"): of length ``epsilon``, along the sign that lowers that class's cross entropy.

    The target is the class with the smallest logit on the clean image (B, ...); ``labels`` (B,) are
    not looked at.
    """
    return _ascent.attack(
        "ll",
        model,
        images,
        _ascent.predict(model, images, mode).argmin(1),
        _ascent.target_likelihood,
        epsilon=epsilon,
        step=epsilon,
        steps=1,
        mode=mode,
    )


def ill(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    mode: Mode = "eval",
) -> Tensor:
    """Iterated :func:`ll` or I-LL (Kurakin et al. 2017, "Adversarial examples in the physical
    world"): ``steps`` of length ``step``, all towards the class that the model finds least likely
    on the clean image (B, ...); ``labels`` (B,) are not looked at.
    """
    return _ascent.attack(
        "ill",
        model,
        images,
        _ascent.predict(model, images, mode).argmin(1),
        _ascent.target_likelihood,
        epsilon=epsilon,
        step=step,
        steps=steps,
        mode=mode,
    )


def cw_linf(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    confidence: float = 50.0,
    restarts: int = 1,
    random_start: bool = True,
    early_stop: bool = False,
    mode: Mode = "eval",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The TLA paper's l-infinity C&W attack: :func:`pgd`, options and all, on the margin loss
    ``-relu(correct - wrong + confidence)`` of Carlini and Wagner (2017).

    ``correct`` is the logit of the image's label, ``wrong`` the largest other one. An image whose
    wrong logit leads by more than ``confidence`` has no gradient left and stays. Images (B, ...),
    labels (B,).
    """
    confidence = _checks.number("cw_linf", "confidence", confidence)
    return _ascent.attack(
        "cw_linf",
        model,
        images,
        labels,
        lambda logits, labels: -F.relu(confidence - _ascent.wrong_margin(logits, labels)),
        epsilon=epsilon,
        step=step,
        steps=steps,
        restarts=restarts,
        start=partial(_ascent.uniform, generator=generator) if random_start else None,
        early_stop=early_stop,
        mode=mode,
    )


def pgd_kl(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    mode: Mode = "eval",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The inner maximisation of TRADES (Zhang et al. 2019): signed-gradient steps that increase
    KL(softmax f(x) || softmax f(x')) within the l-infinity ball.

    f(x) is the model's output for the clean images (B, ...) in ``mode``, without gradient. At x
    itself the gradient is zero, so x' starts at x + 0.001 N(0, 1), clipped to the ball and to
    [0, 1]. ``labels`` (B,) are not looked at; ``generator`` as in :func:`pgd`.
    """

    def noisy(ball: _ascent.Ball) -> Tensor:
        like = ball.images
        noise = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        return ball.project(like + 0.001 * noise)

    return _ascent.attack(
        "pgd_kl",
        model,
        images,
        _ascent.predict(model, images, mode).softmax(1),
        _ascent.divergence,
        epsilon=epsilon,
        step=step,
        steps=steps,
        start=noisy,
        mode=mode,
    )


def transfer(
    model: nn.Module, images: Tensor, labels: Tensor, *, source: nn.Module, attack: Attack
) -> Tensor:
    """Black-box attack on ``model`` (Papernot et al. 2016): what ``attack`` makes of images
    (B, ...) and labels (B,) on ``source``. ``model`` itself is not called.
    """
    return attack(source, images, labels)


def in_batches(attack: Attack, size: int) -> Attack:
    """``attack`` on slices of at most ``size`` images, joined: for evaluation of more images than
    fit in one batch. ValueError for a ``size`` below 1.
    """
    if size < 1:
        raise ValueError(f"in_batches: size must be at least 1, got {size}")

    def sliced(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        slices = zip(images.split(size), labels.split(size), strict=True)
        return torch.cat([attack(model, *part) for part in slices])

    return sliced
