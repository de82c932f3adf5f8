"""The loop that all attacks are: projected steps along the gradient of the images alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tla_ops import _checks

Mode = Literal["train", "eval"]
Norm = Literal["linf", "l2"]


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


class _Linf(NamedTuple):
    """The l-infinity ball around images, within [0, 1]: everything between two images."""

    images: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, images: Tensor, epsilon: float) -> _Linf:
        return cls(images, (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1))

    def of(self, rows: Tensor | slice) -> _Linf:
        return _Linf(*(part[rows] for part in self))

    def uniform(self, generator: torch.Generator | None) -> Tensor:
        shape, dtype, device = self.low.shape, self.low.dtype, self.low.device
        uniform = torch.rand(shape, dtype=dtype, device=device, generator=generator)
        return torch.lerp(self.low, self.high, uniform)

    def project(self, points: Tensor) -> Tensor:
        return points.clamp(self.low, self.high)

    @staticmethod
    def unit(gradient: Tensor) -> Tensor:
        return gradient.sign()


class _L2(NamedTuple):
    """The l2 ball of radius ``epsilon`` around images, and [0, 1]."""

    images: Tensor
    epsilon: float

    def of(self, rows: Tensor | slice) -> _L2:
        return _L2(self.images[rows], self.epsilon)

    def uniform(self, generator: torch.Generator | None) -> Tensor:
        shape, dtype, device = self.images.shape, self.images.dtype, self.images.device
        normal = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        # A share r**n of an n-dimensional ball lies within r of its centre.
        share = torch.rand(shape[0], dtype=dtype, device=device, generator=generator)
        radius = self.epsilon * share ** (1 / max(1, shape[1:].numel()))
        return self.project(self.images + _as_rows(radius, normal) * self.unit(normal))

    def project(self, points: Tensor) -> Tensor:
        moved = points.clamp(0, 1) - self.images
        length = _length(moved)
        scale = torch.where(length > self.epsilon, self.epsilon / length, 1)
        return self.images + moved * _as_rows(scale, moved)

    @staticmethod
    def unit(gradient: Tensor) -> Tensor:
        # Over the largest magnitude first: squares of tiny numbers would vanish.
        largest = gradient.flatten(1).abs().amax(1)
        gradient = gradient / _as_rows(torch.where(largest > 0, largest, 1), gradient)
        return gradient / _as_rows(_length(gradient).clamp(min=1), gradient)


Ball = _Linf | _L2


def ball_around(images: Tensor, epsilon: float, norm: Norm) -> Ball:
    return _Linf.around(images, epsilon) if norm == "linf" else _L2(images, epsilon)


def attack(
    where: str,
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    epsilon: Fraction,
    step: Fraction,
    steps: int,
    mode: Mode,
    norm: Norm = "linf",
    restarts: int = 1,
    start: Callable[[Ball], Tensor] | None = None,
    decay: float | None = None,
    early_stop: bool = False,
) -> Tensor:
    """Each image's worst of ``restarts`` runs that increase ``loss(logits, target)`` (B,).

    ``target`` (B, ...) is the labels wherever ``restarts`` or ``early_stop`` compare runs.
    """
    for name, value, least in (
        ("epsilon", epsilon, 0),
        ("step", step, 0),
        ("steps", steps, 0),
        ("restarts", restarts, 1),
    ):
        if not value >= least:
            raise ValueError(f"{where}: {name} must be at least {least}, got {value}")
    _checks.choice(where, "norm", norm, ("linf", "l2"))
    if early_stop and mode != "eval":
        raise ValueError(f"{where}: mode must be 'eval' with early_stop, got {mode!r}")
    with attacking(model, mode):
        images, target = ordinary(images), ordinary(target)
        if not target.is_floating_point():
            target = target.long()
        ball, length = ball_around(images, float(epsilon), norm), float(step)
        worst = images.clone()
        worst_margin = images.new_full(images.shape[:1], -torch.inf)
        rows: Any = slice(None)  # the images that a run is for
        if early_stop:
            rows = _indices(logits_of(model, images).argmax(1) == target)
        for _ in range(restarts):
            if early_stop and not len(rows):
                break
            first = (images if start is None else start(ball))[rows]
            adversarial = _ascend(
                model, ball.of(rows), target[rows], first, loss, length, steps, decay, early_stop
            )
            if restarts == 1:
                worst[rows] = adversarial
                break
            margin = wrong_margin(logits_of(model, adversarial), target[rows]).to(images.dtype)
            weaker = margin < worst_margin[rows]
            worst[rows] = torch.where(_as_rows(weaker, images), worst[rows], adversarial)
            worst_margin[rows] = torch.maximum(margin, worst_margin[rows])
            if early_stop:
                rows = rows[_indices(margin <= 0)]
    return worst


def _ascend(
    model: nn.Module,
    ball: Ball,
    target: Tensor,
    adversarial: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    length: float,
    steps: int,
    decay: float | None,
    early_stop: bool,
) -> Tensor:
    """The loop of every attack: ``steps`` projected steps of ``length`` from ``adversarial``, up
    ``loss(logits, target)`` (B,).

    With ``decay`` along the velocity; with ``early_stop``, where targets are labels, an image stays
    where it is first misclassified.
    """
    if early_stop:
        result, rows = adversarial.clone(), torch.arange(len(target), device=target.device)
    velocity: Tensor | float = 0.0
    for _ in range(steps):
        logits, direction = _logits_and_gradient(model, adversarial, target, loss)
        if early_stop:
            result[rows] = adversarial
            right = _indices(logits.argmax(1) == target)
            rows, ball, target = rows[right], ball.of(right), target[right]
            adversarial, direction = adversarial[right], direction[right]
            if not len(rows):
                return result
        if decay is not None:
            size = direction.flatten(1).abs().sum(1)
            size = _as_rows(torch.where(size > 0, size, 1), direction)
            velocity = decay * velocity + direction / size
            direction = velocity
        adversarial = ball.project(adversarial + length * ball.unit(direction))
    if not early_stop:
        return adversarial
    result[rows] = adversarial
    return result


@contextmanager
def attacking(model: nn.Module, mode: Mode) -> Iterator[None]:
    """The model in ``mode``, and no gradient but where asked for, whatever the caller is under."""
    with model_mode(model, mode), torch.inference_mode(False), torch.no_grad():
        yield


def ordinary(tensor: Tensor) -> Tensor:
    """Without gradient, and no inference tensor: autograd does not save those."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def predict(model: nn.Module, images: Tensor, mode: Mode) -> Tensor:
    """Logits (B, C) of the model in ``mode``, without gradient."""
    with attacking(model, mode):
        return logits_of(model, images)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The model's output (B, C), in float32 where it was of a lower precision."""
    logits = model(images)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _logits_and_gradient(
    model: nn.Module, images: Tensor, target: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The logits and, as the images, the gradient of each image's loss."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = logits_of(model, images)
        (gradient,) = torch.autograd.grad(loss(logits, target).sum(), images)
    return logits.detach(), gradient


def uniform(ball: Ball, generator: torch.Generator | None) -> Tensor:
    return ball.uniform(generator)


# Losses, (B,) of logits (B, C): what an attack increases.


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def target_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    return -F.cross_entropy(logits, target, reduction="none")


def divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(clean || softmax(logits)) of probabilities ``clean`` (B, C)."""
    return F.kl_div(logits.log_softmax(1), clean, reduction="none").sum(1)


def wrong_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best wrong logit minus the true one, (B,): positive where the image is misclassified."""
    true = logits.gather(1, labels[:, None])
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.amax(1) - true[:, 0]


def _indices(mask: Tensor) -> Tensor:
    """Rows (R,) where the mask (B,) is set; the host waits for their number."""
    return mask.nonzero()[:, 0]


def _length(images: Tensor) -> Tensor:
    """Euclidean norm (B,) of each image."""
    return torch.linalg.vector_norm(images.flatten(1), dim=1)


def _as_rows(values: Tensor, images: Tensor) -> Tensor:
    """Values (B,) in a shape that broadcasts over images (B, ...)."""
    return values.view(-1, *[1] * (images.ndim - 1))
