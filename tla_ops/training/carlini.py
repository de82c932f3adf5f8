"""Carlini and Wagner's l-infinity attack on many images at once, each in a search of its own."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tla_ops import _checks
from tla_ops.training._ascent import (
    Mode,
    _as_rows,
    attacking,
    logits_of,
    ordinary,
    wrong_margin,
)

SMALLEST_BOUND = 1 / 256
REACHED = 1e-4
"""Of a constant: a loss below that much ends a run."""
INSIDE = 0.9999995
"""Of an image scaled to [-1, 1], whose ends lie at infinity in tanh space."""
BETAS, TINY = (0.9, 0.999), 1e-8
"""Adam's."""
ROUND = 8
"""Iterations between two times that the host asks which searches are over."""


def carlini_linf(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    confidence: float = 0.0,
    steps: int = 1000,
    learning_rate: float = 5e-3,
    constant: float = 1e-3,
    largest_constant: float = 2.0,
    constant_factor: float = 2.0,
    shrink: float = 0.9,
    batch_size: int = 128,
    mode: Mode = "eval",
) -> Tensor:
    """Carlini and Wagner's l-infinity attack (2017, section VI.C), untargeted: the smallest largest
    change of a pixel that it finds to fool the model.

    It minimises ``c * relu(correct - wrong + confidence) + sum(relu(|x' - x| - tau))`` over x' =
    (tanh(w) + 1) / 2, where ``correct`` is the label's logit and ``wrong`` the largest other one.
    The bound tau is 1 at first. At each bound Adam takes up to ``steps`` with the constant c, then
    as many with ``constant_factor`` times that c, and so forth; when it succeeds, the bound becomes
    ``shrink`` times the smaller of itself and max |x' - x|. An image's search ends where c reaches
    ``largest_constant`` or the bound 1/256.

    - From the paper: the objective; c that starts very low and doubles until it succeeds or exceeds
      a threshold; tau that shrinks by 0.9; the last bound's solution as the next one's start.
    - From the authors' code (nn_robust_attacks, li_attack.py): ``correct - wrong``, untargeted; 1,
      1/256 and the largest change as bounds; success as soon as x' is misclassified at a loss below
      c / 10,000; c that a new bound does not lower; Adam that goes on from where it is when c grows
      and has fresh moments at a new bound; images in [-1, 1] times 0.9999995 before arctanh.
    - From the AT2L paper (Li et al. 2019, appendix A): ``steps``, ``learning_rate``, ``constant``,
      ``largest_constant`` and ``constant_factor``. It prints no norm: that it means this attack,
      whose arguments they are, is our reading.
    - Chosen here: loss and class are of the same x', where the code looks at the class one update
      later; a new bound goes on from w, not from its image taken to tanh space again;
      ``confidence``, as the authors' l2 attack has it; epsilon where PyTorch's Adam has it; a loss
      that is not finite ends a search.

    Every iteration is one forward and one backward pass of the images under way, up to
    ``batch_size``, each with a bound, a constant, moments and a number of steps of its own: none
    waits for another, and where a search is over the next image takes its place. Which are over is
    asked every eighth iteration, when the host waits for the device; what goes on until then counts
    for nothing. In "eval" mode an image's result does not depend on the others or on
    ``batch_size``, up to the rounding of the model's batches.

    Args:
        model: images to logits (B, C). Gradients of parameters are neither computed nor touched;
            callers may be under ``torch.no_grad`` or ``torch.inference_mode``.
        images: (B, ...) float32 or float64, in [0, 1].
        labels: (B,), integer classes.
        confidence: by how much, at least 0, the wrong logit has to lead; within 1e-4.
        steps: of Adam for each constant at each bound; with 0 nothing moves.
        learning_rate, constant: Adam's, in tanh space, and the first c; above 0.
        largest_constant: no c is as large.
        constant_factor: above 1.
        shrink: between 0 and 1; the larger, the finer and slower.
        batch_size: images worked on at a time.
        mode: "eval" or "train": the model's mode during the attack.

    Returns:
        Detached images as ``images``, in [0, 1]. Those that the model gets wrong as they are, and
        those for which no run succeeds, are the clean ones.

    Raises:
        TypeError: for an option that is not a number.
        ValueError: for an option out of its range, or images of another dtype.
    """
    where = "carlini_linf"
    for name, value, least in (
        ("confidence", confidence, 0),
        ("steps", steps, 0),
        ("batch_size", batch_size, 1),
    ):
        if _checks.number(where, name, value) < least:
            raise ValueError(f"{where}: {name} must be at least {least}, got {value}")
    for name, value, limit in (
        ("learning_rate", learning_rate, 0),
        ("constant", constant, 0),
        ("constant_factor", constant_factor, 1),
        ("shrink", shrink, 0),
    ):
        if _checks.number(where, name, value) <= limit:
            raise ValueError(f"{where}: {name} must be above {limit}, got {value}")
    if shrink >= 1:
        raise ValueError(f"{where}: shrink must be below 1, got {shrink}")
    _checks.number(where, "largest_constant", largest_constant)
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{where}: images must be float32 or float64, got {images.dtype}")
    with attacking(model, mode):
        images, labels = ordinary(images), ordinary(labels).long()
        result = images.clone()
        if steps == 0 or not len(images):
            return result
        said = torch.cat([logits_of(model, some).argmax(1) for some in images.split(batch_size)])
        waiting = (said == labels).nonzero()[:, 0]
        advanced = partial(
            _advanced,
            model,
            confidence=confidence,
            steps=steps,
            learning_rate=learning_rate,
            largest_constant=largest_constant,
            constant_factor=constant_factor,
            shrink=shrink,
        )
        working = _begun(waiting[:0], images, labels, constant)
        while True:
            result[working.rows[working.over]] = working.found[working.over]
            working = working.of(~working.over)
            room = batch_size - len(working.rows)
            working = working.beside(_begun(waiting[:room], images, labels, constant))
            waiting = waiting[room:]
            if not len(working.rows):
                return result
            while not working.over.any():
                for _ in range(ROUND):
                    working = advanced(working)


class _Searches(NamedTuple):
    """Where each of the images under way is in its search, a row each."""

    rows: Tensor
    """(R,) of the call's images."""
    images: Tensor
    """(R, ...), clean."""
    labels: Tensor
    point: Tensor
    """(R, ...), in tanh space."""
    first: Tensor
    second: Tensor
    """(R, ...), Adam's moments."""
    taken: Tensor
    """(R,) updates since the bound was set."""
    bound: Tensor
    constant: Tensor
    found: Tensor
    """(R, ...), the best of the runs that succeeded."""
    distance: Tensor
    """(R,) of it, in l-infinity."""
    over: Tensor

    def of(self, rows: Tensor) -> _Searches:
        return _Searches(*(part[rows] for part in self))

    def beside(self, others: _Searches) -> _Searches:
        return _Searches(*(torch.cat(parts) for parts in zip(self, others, strict=True)))


def _begun(rows: Tensor, images: Tensor, labels: Tensor, constant: float) -> _Searches:
    images = images[rows]
    nothing = torch.zeros_like(images)
    numbers = images.new_zeros(rows.shape)
    return _Searches(
        rows=rows,
        images=images,
        labels=labels[rows],
        point=torch.atanh((2 * images - 1) * INSIDE),
        first=nothing,
        second=nothing,
        taken=numbers,
        bound=numbers + 1,
        constant=numbers + constant,
        found=images,
        distance=numbers + torch.inf,
        over=numbers > 0,
    )


def _advanced(
    model: nn.Module,
    at: _Searches,
    *,
    confidence: float,
    steps: int,
    learning_rate: float,
    largest_constant: float,
    constant_factor: float,
    shrink: float,
) -> _Searches:
    """One forward pass, which says whose run has ended, and one update of what is then aimed at.

    Where a run ends, the next one starts from the same point: the pass serves both.
    """
    with torch.enable_grad():
        point = at.point.detach().requires_grad_()
        adversarial = (torch.tanh(point) + 1) / 2
        change = (adversarial - at.images).abs()
        logits = logits_of(model, adversarial)
        hinge = F.relu(confidence - wrong_margin(logits, at.labels))
        with torch.no_grad():
            loss = at.constant * hinge + _beyond(change, at.bound)
            fooled = logits.argmax(1) != at.labels
            succeeded = fooled & (loss < REACHED * at.constant) & ~at.over
            failed = ~succeeded & (at.taken > 0) & (at.taken % steps == 0)
            largest = change.flatten(1).amax(1)
            closer = succeeded & (largest < at.distance)
            shrunk = shrink * torch.minimum(at.bound, largest)
            bound = torch.where(succeeded, shrunk, at.bound)
            constant = torch.where(failed, constant_factor * at.constant, at.constant)
        aim = constant * hinge + _beyond(change, bound)
        (gradient,) = torch.autograd.grad(aim.sum(), point)
    goes_on = (~succeeded).to(bound.dtype)
    taken = at.taken * goes_on + 1
    # A new bound's moments are 0.
    kept = [_as_rows(beta * goes_on, gradient) for beta in BETAS]
    first = kept[0] * at.first + (1 - BETAS[0]) * gradient
    second = kept[1] * at.second + (1 - BETAS[1]) * gradient**2
    shares = [_as_rows(1 - beta**taken, gradient) for beta in BETAS]
    step = learning_rate * (first / shares[0]) / ((second / shares[1]).sqrt() + TINY)
    ended = (bound <= SMALLEST_BOUND) | (constant >= largest_constant) | ~loss.isfinite()
    return at._replace(
        point=at.point - step,
        first=first,
        second=second,
        taken=taken,
        bound=bound,
        constant=constant,
        found=torch.where(_as_rows(closer, change), adversarial.detach(), at.found),
        distance=torch.where(closer, largest.detach(), at.distance),
        over=at.over | ended,
    )


def _beyond(change: Tensor, bound: Tensor) -> Tensor:
    """Sum (R,) of what of each image's change (R, ...) exceeds its bound (R,)."""
    return F.relu(change - _as_rows(bound, change)).flatten(1).sum(1)
