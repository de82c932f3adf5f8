"""Augmentation of batches on the device of the images: each image its own draw, no loop over images
and no wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# augment(images, generator) -> images of the same shape
Augment = Callable[[Tensor, torch.Generator | None], Tensor]

# Luma of ITU-R BT.601: the grey that a saturation of 0 leaves.
_GREY = (0.299, 0.587, 0.114)


def crop_flip(
    images: Tensor, generator: torch.Generator | None = None, *, padding: int = 2
) -> Tensor:
    """Random crop of the original size out of images (N, C, H, W) with ``padding`` zeros on each
    side, then a horizontal flip of every other image or so.

    The default is that of Madry's CIFAR-10 pipeline, which grows 32×32 to 36×36.
    """
    if padding < 0:
        raise ValueError(f"crop_flip: padding must be at least 0, got {padding}")
    count, _, height, width = images.shape
    device = images.device
    places = (2, count)
    top, left = torch.randint(2 * padding + 1, places, device=device, generator=generator)
    flip = torch.rand(count, device=device, generator=generator) < 0.5
    # Every window as a view, of which each image copies one.
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(count, device=device), :, top, left]
    return torch.where(flip[:, None, None, None], cropped.flip(3), cropped)


def crop_flip_colour(
    images: Tensor,
    generator: torch.Generator | None = None,
    *,
    padding: int = 4,
    saturation: tuple[float, float] = (0.5, 2.0),
    brightness: tuple[float, float] = (0.8, 1.2),
) -> Tensor:
    """:func:`crop_flip`, then :func:`jitter`, of colour images (N, 3, H, W) in [0, 1].

    TLA's supplement says "crop, flip, saturation, etc." for Tiny ImageNet. Padding and saturation
    are those of its authors' code; the range of brightness is ours.
    """
    cropped = crop_flip(images, generator, padding=padding)
    return jitter(cropped, generator, saturation=saturation, brightness=brightness)


def jitter(
    images: Tensor,
    generator: torch.Generator | None = None,
    *,
    saturation: tuple[float, float],
    brightness: tuple[float, float],
) -> Tensor:
    """Colour images (N, 3, H, W) in [0, 1] with saturation, then brightness, multiplied by factors
    uniform in a range (lowest, highest), and clamped to [0, 1].

    A saturation of 0 is grey, a brightness of 0 is black, 1 leaves either as it is.
    """
    if images.shape[1] != 3:
        raise ValueError(f"jitter: images must be (N, 3, H, W), got {tuple(images.shape)}")

    def factor(name: str, bounds: tuple[float, float]) -> Tensor:
        low, high = bounds
        if not 0 <= low <= high:
            raise ValueError(f"jitter: {name} must be 0 <= lowest <= highest, got {bounds}")
        uniform = torch.rand(
            (len(images), 1, 1, 1), dtype=images.dtype, device=images.device, generator=generator
        )
        return low + (high - low) * uniform

    saturate, brighten = factor("saturation", saturation), factor("brightness", brightness)
    red, green, blue = images.split(1, dim=1)
    grey = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
    saturated = (grey + saturate * (images - grey)).clamp_(0, 1)
    return (brighten * saturated).clamp_(0, 1)


AUGMENT: dict[str, Augment | None] = {
    "none": None,
    "crop_flip": crop_flip,
    "crop_flip_colour": crop_flip_colour,
}
