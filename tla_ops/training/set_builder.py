"""Builds sets of adversarial images (``adversarial_set``) in passes over the training set."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tla_ops.training.adversarial_set import (
    CHANGES,
    FORMAT,
    LEVELS,
    RECORD,
    AdversarialSet,
    AdversarialSetError,
    open_changes,
    radius_of,
    read_record,
)
from tla_ops.training.attacks import Attack
from tla_ops.training.files import plain, write_json
from tla_ops.training.image_set import ImageSet
from tla_ops.training.progress import Progress

ROUNDING = 1e-6
"""How far outside its ball an attack may leave a pixel."""

Family = Callable[..., Mapping[str, Tensor]]
"""``family(model, images, labels, kinds=[...])`` returns adversarial images by kind; options are
bound with ``functools.partial``, as of ``family.gradient_family``. What it makes of one kind must
not depend on which others are asked for.
"""


class Wanted(NamedTuple):
    """A set to be built: what of the family, in which folder, what to know it by, and the radius of
    the attack's l-infinity ball, None without one.

    ``about`` has plain values that tell attack, model and images from all others.
    """

    kind: str
    path: Path
    about: dict[str, Any]
    epsilon: Fraction | None


def only(attack: Attack) -> Family:
    """One attack as a family, of whatever one kind it is asked for."""

    def family(
        model: nn.Module, images: Tensor, labels: Tensor, *, kinds: Sequence[str]
    ) -> dict[str, Tensor]:
        (kind,) = kinds
        return {kind: attack(model, images, labels)}

    return family


def build(
    wanted: Sequence[Wanted],
    attack: Family,
    model: nn.Module,
    images: ImageSet,
    *,
    batch: int,
    seed: int = 0,
    quiet: bool = False,
) -> list[AdversarialSet]:
    """The sets ``wanted`` in one pass of ``attack`` over the images: found, gone on with, or made.

    A set is found if its folder has one of the same ``about``, ``epsilon``, ``seed``, ``batch`` and
    number and shape of images, whose changes have their checksum; an interrupted one goes on from
    its last finished batch. Whatever else is there, damaged sets too, is replaced. One process at
    a time may build in a folder.

    Args:
        wanted: sets of different kinds, in folders of their own.
        attack: is asked for the kinds that a batch lacks; an ``Attack`` becomes one by
            :func:`only`.
        model: what is attacked; its device is where that is done.
        images: the training set, of which ``batch`` images at a time are taken, in order.
        seed: a batch's random numbers come from this and its first row alone, in torch's default
            generators, which are left as they were.
        quiet: show no progress.

    Raises:
        ValueError: for a ``batch`` below 1, kinds or folders that repeat, an ``epsilon`` that is
            not above 0, and an attack that leaves [0, 1], the ball or the images' shape.
    """
    if batch < 1:
        raise ValueError(f"build: batch must be at least 1, got {batch}")
    kinds = [one.kind for one in wanted]
    if min(len(set(kinds)), len({one.path for one in wanted})) < len(wanted):
        raise ValueError(
            "build: wanted must have different kinds and paths, got "
            + ", ".join(f"{one.kind} in {one.path}" for one in wanted)
        )
    parts = [_Part(one, images, batch, seed) for one in wanted]
    device = next((value.device for value in model.parameters()), images.labels.device)
    start = min((part.done for part in parts), default=len(images))
    with Progress(", ".join(kinds), len(images), start, quiet=quiet) as progress:
        for first in range(start, len(images), batch):
            began = time.perf_counter()
            last = min(first + batch, len(images))
            rows = torch.arange(first, last, device=images.labels.device)
            clean, labels = images.take(rows).to(device), images.labels[rows].to(device)
            due = [part for part in parts if part.done == first]
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(_stream(seed, first))
                found = attack(model, clean, labels, kinds=[part.kind for part in due])
            changes = [part.encoded(found[part.kind], clean) for part in due]
            seconds = time.perf_counter() - began
            for part, values in zip(due, changes, strict=True):
                part.add(values, seconds / len(due))
            progress.update(f"{len(rows) / seconds:.0f} images/s", len(rows))
    return [AdversarialSet(one.path) for one in wanted]


class _Part:
    """The part of a set that is there: found in its folder, or begun, and added to."""

    def __init__(self, wanted: Wanted, images: ImageSet, batch: int, seed: int) -> None:
        self.kind, self.path = wanted.kind, wanted.path
        self.radius = radius_of(wanted.epsilon)
        if not self.radius > 0:
            raise ValueError(f"build: epsilon must be above 0, or None, got {wanted.epsilon}")
        self.identity: dict[str, Any] = plain(
            {
                "format": FORMAT,
                "about": wanted.about,
                "epsilon": wanted.epsilon,
                "seed": seed,
                "batch": batch,
                "images": len(images),
                "image_shape": images.image_shape,
            }
        )
        self.done, self.crc32, self.seconds = 0, 0, 0.0
        for left in self.path.glob(f".{RECORD}.*"):  # by a process that was killed
            left.unlink()
        changes = self._found()
        if changes is None:
            changes = self._begun()
        self.offset, self.dtype = changes.offset, changes.dtype.name

    def _found(self) -> Any:
        """The changes, and how many there are; None where they are not this set's."""
        kept = read_record(self.path)
        if any(kept.get(key) != value for key, value in self.identity.items()) or not kept["done"]:
            return None
        try:
            changes = open_changes(self.path, kept)
        except AdversarialSetError:
            return None
        crc32, step = 0, kept["batch"]
        for first in range(0, kept["done"], step):
            crc32 = zlib.crc32(changes[first : min(first + step, kept["done"])], crc32)
        if crc32 != kept["crc32"]:
            return None
        self.done, self.crc32, self.seconds = kept["done"], crc32, kept["seconds"]
        return changes

    def _begun(self) -> Any:
        # The record first: it must never vouch for changes that are not its own.
        self._record(sync=True)
        (self.path / CHANGES).unlink(missing_ok=True)  # which others may have mapped
        return open_changes(self.path, self.identity, new=True)

    def encoded(self, adversarial: Tensor, clean: Tensor) -> Any:
        """The array (B, C, H, W) that is stored of adversarial images."""
        if adversarial.shape != clean.shape:
            raise ValueError(
                f"build: {self.kind} must return images {tuple(clean.shape)}, "
                f"got {tuple(adversarial.shape)}"
            )
        change = adversarial.detach() - clean
        inside = (adversarial >= 0) & (adversarial <= 1)
        if not (inside & (change.abs() <= float(self.radius) + ROUNDING)).all():
            raise ValueError(
                f"build: {self.kind} must return images in [0, 1] within {self.radius} of the "
                f"clean ones, got {adversarial.min():g}..{adversarial.max():g} within "
                f"{change.abs().max():g}"
            )
        levels = float(LEVELS[self.dtype])
        value = change / float(self.radius) * levels
        # Cut off at the range's end when it is taken, the largest change leaves the pixel there.
        value = value.masked_fill(adversarial == 1, levels).masked_fill(adversarial == 0, -levels)
        if self.dtype == "int8":
            value = value.round().clamp(-levels, levels)
        return value.to(getattr(torch, self.dtype)).cpu().numpy()

    def add(self, changes: Any, seconds: float) -> None:
        """Write the next batch, and only then that it is there.

        Only the whole set waits for the disk: what a machine that stops leaves of a part may not
        have its checksum, and is made again.
        """
        last = self.done + len(changes) == self.identity["images"]
        with (self.path / CHANGES).open("r+b") as file:
            # Not through a mapping, which a full disk would end with a signal.
            file.seek(self.offset + self.done * changes[0].nbytes)
            file.write(changes.tobytes())
            if last:
                file.flush()
                os.fsync(file.fileno())
        self.done += len(changes)
        self.crc32 = zlib.crc32(changes, self.crc32)
        self.seconds += seconds
        self._record(sync=last)

    def _record(self, sync: bool) -> None:
        progress = {"done": self.done, "crc32": self.crc32, "seconds": self.seconds}
        write_json(self.path / RECORD, self.identity | progress, sync=sync)


def _stream(seed: int, first: int) -> int:
    """The seed of the batch that begins at row ``first``."""
    digest = hashlib.blake2b(f"{seed}/{first}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
