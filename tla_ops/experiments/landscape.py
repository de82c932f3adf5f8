"""The loss around an image, along two random directions: the supplement's Figure 8."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tla_ops.training.attacks import model_mode


def random_directions(shape: torch.Size | tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Two directions of independent random signs, float32 on the CPU, the same for equal seeds.

    A step along either changes every pixel by its length, so that lengths are those of the
    l-infinity norm, as an attack's budget is; where both are taken, pixels with equal signs change
    by the sum. "Each column has the same direction": every model gets the same pair.
    """
    draws = torch.randint(2, (2, *shape), generator=torch.Generator().manual_seed(seed))
    first, second = (2 * draws - 1).float()
    return first, second


@torch.no_grad()
def loss_surface(
    model: nn.Module,
    image: Tensor,
    label: int,
    directions: tuple[Tensor, Tensor],
    radius: float,
    points: int,
    *,
    clamp: bool = True,
    size: int = 256,
) -> Tensor:
    """Cross entropy at ``image + a * directions[0] + b * directions[1]``, in eval mode.

    Args:
        model: from images (N, C, H, W) to logits; its modes are restored.
        image: (C, H, W) in [0, 1], on the model's device.
        label: the true class.
        directions: (C, H, W) each, such as those of :func:`random_directions`.
        radius: a and b run over ``points`` even steps from -radius to radius.
        points: at least 1; an odd number has the image itself in the middle.
        clamp: keep pixels in [0, 1], where images are and attacks search. A pixel that reaches the
            bound stays there, and the surface becomes flatter towards its edges.
        size: images forwarded at a time.

    Returns:
        (points, points) float32 on the CPU, a along the rows, b along the columns.

    Raises:
        ValueError: points or the directions' shapes.
    """
    if points < 1:
        raise ValueError(f"loss_surface: points must be at least 1, got {points}")
    for direction in directions:
        if direction.shape != image.shape:
            raise ValueError(
                f"loss_surface: directions must be {tuple(image.shape)} like the image, "
                f"got {tuple(direction.shape)}"
            )
    first, second = (direction.to(image) for direction in directions)
    steps = torch.linspace(-float(radius), float(radius), points) if points > 1 else torch.zeros(1)
    grid = torch.cartesian_prod(steps, steps).to(image).reshape(-1, 2, 1, 1, 1)
    losses = []
    with model_mode(model, "eval"):
        for some in grid.split(size):
            moved = image + some[:, 0] * first + some[:, 1] * second
            logits = model(moved.clamp(0, 1) if clamp else moved)
            target = torch.full((len(moved),), label, device=logits.device)
            losses.append(F.cross_entropy(logits.float(), target, reduction="none"))
    return torch.cat(losses).reshape(points, points).cpu()


def roughness(surface: Tensor) -> float:
    """The mean absolute second difference of neighbouring points along both axes, in nats: 0 for a
    plane. It depends on the step: compare surfaces of one radius and one number of points.

    Args:
        surface: (points, points).

    Returns:
        The mean; NaN below three points.
    """
    if min(surface.shape) < 3:
        return math.nan
    bends = [surface.double().diff(n=2, dim=dim).abs().flatten() for dim in (0, 1)]
    return torch.cat(bends).mean().item()
