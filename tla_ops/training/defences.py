"""Defences that change the image before the network sees it, and the attack on one of them.

Each is a module from images (B, C, H, W) in [0, 1] to what its network takes; :func:`behind` makes
one classifier of both, for attacks, methods and evaluation. AT2L (IJCAI 2019, section 4.4 and
appendix B) adds its triplets to the loss of such classifiers. Its third defence, Defense-GAN, is in
``defense_gan``.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from tla_ops import _checks
from tla_ops.training._ascent import (
    Mode,
    attacking,
    ball_around,
    cross_entropy,
    logits_of,
    ordinary,
)
from tla_ops.training.classifier import Classifier, Shape


def behind(defence: nn.Module, network: Classifier, image_shape: Shape) -> Classifier:
    """The classifier that sees images through ``defence``.

    Args:
        defence: maps images of ``image_shape`` to what ``network`` takes; ``body[0]`` of the
            result.
        network: shares its parameters; ``body[1]`` and ``head`` are its own.
        image_shape: (channels, height, width) of the images.
    """
    body = nn.Sequential(defence, network.body)
    dim, classes = network.head.in_features, network.head.out_features
    return Classifier(body, dim, classes, image_shape, network.head)


class ThermometerEncoding(nn.Module):
    """Thermometer codes (Buckman et al. 2018): images (B, C, H, W) to zeros and ones
    (B, C·levels, H, W), of which channel ``c·levels + l - 1`` is 1 where channel c is at most
    l/levels.

    A pixel of bucket b, above (b-1)/levels and at most b/levels, so has zeros up to level b-1 and
    ones from b on, the order of that paper's Table 1; level ``levels`` is always 1.

    The codes have no useful derivative. In backward each level is taken for a ramp from 1 to 0
    across the two buckets about its bound, so that FGSM and PGD find a direction and the network's
    own gradient is exact. (Athalye et al. 2018 let it fall across the bucket below the bound alone,
    which leaves white pixels without any.) What is already coded, with C·levels channels, passes as
    it is: the way in for :func:`ls_pga`, which needs no stand-in.

    Args:
        levels: number of buckets, 2 or more; 16 in that paper.
        channels: C.
    """

    def __init__(self, levels: int = 16, channels: int = 3) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"ThermometerEncoding: levels must be at least 2, got {levels}")
        if channels < 1:
            raise ValueError(f"ThermometerEncoding: channels must be at least 1, got {channels}")
        self.levels, self.channels = levels, channels

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == self.channels * self.levels:
            return images
        if images.shape[1] != self.channels:
            raise ValueError(
                f"ThermometerEncoding: images must have {self.channels} channels, or codes "
                f"{self.channels * self.levels}, got {tuple(images.shape)}"
            )
        pixels = images.unsqueeze(2)
        codes = (pixels <= _bounds(images, self.levels).view(-1, 1, 1)).to(images.dtype)
        if images.requires_grad:
            # A level's slope is the difference of its neighbours' codes; the last has none.
            slopes = torch.zeros_like(codes)
            slopes[:, :, :-1] = codes[:, :, 1:]
            slopes[:, :, 1:-1] -= codes[:, :, :-2]
            ramps = slopes * (pixels * (-self.levels / 2))
            codes = codes + (ramps - ramps.detach())
        return codes.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, channels={self.channels}"


def ls_pga(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    steps: int,
    levels: int,
    step: float = 1.0,
    anneal: float = 1.2,
    random_start: bool = True,
    mode: Mode = "eval",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logit-space projected gradient ascent (Buckman et al. 2018, algorithm 4) on the cross entropy
    of ``labels`` (B,), as an attack of :mod:`tla_ops.training.attacks`.

    Each pixel has a logit for every bucket that meets its ball. The model is given the mixture of
    their codes with the softmax of the logits over a temperature, and the logits climb by the sign
    of their gradient while the temperature falls; at the end a pixel takes its bucket of the
    largest logit, its own in a tie. That is turned back into an image: a pixel in its own bucket
    stays, and another goes to the middle of what the ball has of the bucket. So the image is in the
    l-infinity ball, its codes are those that were found, and rounding seldom changes them.

    Args:
        model: takes codes (B, C·levels, H, W): a :class:`ThermometerEncoding` in front of a
            network, or that network alone.
        images: (B, C, H, W) float32 or float64 in [0, 1].
        epsilon: the ball's radius, an exact fraction of the [0, 1] range.
        steps: number of steps.
        levels: the encoding's.
        step: length of a step, in units of the logits. Athalye et al. have 1 for attacks and .01 in
            training.
        anneal: what the temperature, 1 at first, is divided by after each step.
        random_start: logits start from N(0, 1), and otherwise from 0, equal for all buckets.
        mode: "eval" or "train": the model's mode during the attack.
        generator: source of the random start, on the images' device; torch's default otherwise.

    Returns:
        Adversarial images (B, C, H, W) in the images' dtype, detached.

    Raises:
        ValueError: for a negative ``epsilon``, ``step`` or ``steps``, ``levels`` below 2, an
            ``anneal`` that is not positive, or a model that takes codes of other levels.
    """
    for name, value, least in (
        ("epsilon", epsilon, 0),
        ("steps", steps, 0),
        ("levels", levels, 2),
        ("step", _checks.number("ls_pga", "step", step), 0),
    ):
        if not value >= least:
            raise ValueError(f"ls_pga: {name} must be at least {least}, got {value}")
    if not _checks.number("ls_pga", "anneal", anneal) > 0:
        raise ValueError(f"ls_pga: anneal must be positive, got {anneal}")
    with attacking(model, mode):
        images, labels = ordinary(images), ordinary(labels).long()
        ball = ball_around(images, float(epsilon), "linf")
        low, high = ball.project(torch.zeros_like(images)), ball.project(torch.ones_like(images))
        bounds = _bounds(images, levels)
        buckets = torch.arange(levels, device=images.device).view(-1, 1, 1)
        shape = (*images.shape[:2], levels, *images.shape[2:])
        logits = images.new_zeros(shape)
        if random_start:
            logits = torch.randn(
                shape, dtype=images.dtype, device=images.device, generator=generator
            )
        outside = (buckets < _bucket(low, bounds)) | (buckets > _bucket(high, bounds))
        logits = logits.masked_fill(outside, -torch.inf)
        coldness = 1.0
        for _ in range(steps):
            gradient = _gradient_of_mixture(model, logits, labels, coldness)
            # Where coldness has overflowed the gradient is NaN, whose sign is 0.
            logits = logits + step * gradient.sign()
            coldness *= anneal
        own = _bucket(images, bounds)
        tied = logits.gather(2, own) == logits.amax(2, keepdim=True)
        picked = torch.where(tied, own, logits.argmax(2, keepdim=True))
        middle = _middle_of(picked, low, high, bounds)
        return torch.where(picked == own, images.unsqueeze(2), middle).squeeze(2)


def _gradient_of_mixture(
    model: nn.Module, logits: Tensor, labels: Tensor, coldness: float
) -> Tensor:
    """Of each image's cross entropy at the mixture of codes that the logits (B, C, k, H, W) give;
    0 for what is -inf there.
    """
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        # Of one-hot codes of buckets the sum up to a level is that level of the thermometer.
        codes = (logits * coldness).softmax(2).cumsum(2).flatten(1, 2)
        loss = cross_entropy(logits_of(model, codes), labels).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


def _bucket(images: Tensor, bounds: Tensor) -> Tensor:
    """Each pixel's bucket, from 0 on: (B, C, 1, H, W)."""
    return torch.bucketize(images.contiguous(), bounds).unsqueeze(2)


def _middle_of(buckets: Tensor, low: Tensor, high: Tensor, bounds: Tensor) -> Tensor:
    """Of each pixel's bucket (B, C, 1, H, W), above one of the ``bounds`` and at most the next, the
    middle of what lies in its ball, from ``low`` to ``high`` (B, C, H, W).
    """
    above = torch.cat([bounds.new_zeros(1), torch.nextafter(bounds[:-1], bounds[1:])])
    bottom = torch.maximum(above[buckets], low.unsqueeze(2))
    return (bottom + torch.minimum(bounds[buckets], high.unsqueeze(2))) / 2


def _bounds(images: Tensor, levels: int) -> Tensor:
    """Upper bounds (levels,) of the buckets, in the images' dtype: l/levels, rounded as
    ``uint8 / 255`` rounds where that is the same number; the last is infinite, for what exceeds 1.
    """
    count = torch.arange(1, levels + 1, dtype=images.dtype, device=images.device)
    bounds = count / levels
    bounds[-1] = torch.inf
    return bounds


class RandomResizePad(nn.Module):
    """Random resizing and padding (Xie et al. 2018): images (B, C, H, W) to (B, C, side, side).

    Each image is resized, by its nearest pixels, to a square of a side that is uniform in
    ``smallest`` ... ``side - 1``, and set at a uniform place among ``value``. Every call draws
    anew, in training and in evaluation alike. On ImageNet that paper has 299 and 331, which makes
    12,528 patterns.

    Args:
        smallest, side: 1 <= smallest < side.
        value: of the padding. The paper pads "zeros"; its authors' code does so behind a scaling of
            the images to [-1, 1], where that is grey: 0.5 here.
        generator: draws sides and places, on the images' device; torch's default if None.

    Images of a batch have patterns of their own, where the authors' code has one a batch.
    """

    def __init__(
        self,
        smallest: int,
        side: int,
        value: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= smallest < side:
            raise ValueError(
                "RandomResizePad: smallest must be at least 1 and below side, "
                f"got {smallest} and {side}"
            )
        self.smallest, self.side, self.generator = smallest, side, generator
        self.value = _checks.number("RandomResizePad", "value", value)

    def forward(self, images: Tensor) -> Tensor:
        count, device, generator = len(images), images.device, self.generator
        sides = torch.randint(
            self.smallest, self.side, (count,), device=device, generator=generator
        )
        places = self.side - sides + 1
        share = torch.rand(2, count, dtype=torch.float64, device=device, generator=generator)
        top, left = torch.minimum((share * places).long(), places - 1)
        return resize_and_pad(images, sides, top, left, side=self.side, value=self.value)

    def extra_repr(self) -> str:
        return f"smallest={self.smallest}, side={self.side}, value={self.value}"


def resize_and_pad(
    images: Tensor, sides: Tensor, top: Tensor, left: Tensor, *, side: int, value: float = 0.0
) -> Tensor:
    """Images (B, C, side, side): each resized to ``sides`` (B,) squared by its nearest pixels, and
    set with its corner at row ``top`` (B,) and column ``left`` (B,) among ``value``.

    With fixed patterns it is the predefined one, or each of the ensemble, that Xie et al. attack.
    What does not fit is cut off.
    """
    rows, within_rows = _sources(images.shape[2], sides, top, side)
    columns, within_columns = _sources(images.shape[3], sides, left, side)
    count, channels, _, width = images.shape
    resized = images.gather(2, rows[:, None, :, None].expand(count, channels, side, width))
    resized = resized.gather(3, columns[:, None, None].expand(count, channels, side, side))
    within = within_rows[:, None, :, None] & within_columns[:, None, None]
    return torch.where(within, resized, value)


def _sources(length: int, sides: Tensor, start: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """For each of ``side`` places in a row, which of ``length`` pixels it shows, if any."""
    place = torch.arange(side, device=sides.device) - start[:, None]
    within = (place >= 0) & (place < sides[:, None])
    return torch.where(within, place * length // sides[:, None], 0), within
