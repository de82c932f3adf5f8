"""Adversarial images of a whole training set, on disk: the X_adv of AT2L's Algorithms 1 and 2
(Li et al., IJCAI 2019).

A set is what one attack makes of every image against one model, X_a,m, in a folder: ``changes.npy``
has the changes x' - x, ``set.json`` says of what they are and how far they have come. A set is
opened only once it is complete; :mod:`tla_ops.training.set_builder` makes them. Extra ``[train]``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tla_ops import _checks

FORMAT = 1
CHANGES, RECORD = "changes.npy", "set.json"
KEYS = (
    *("format", "about", "epsilon", "seed", "batch", "images", "image_shape"),
    *("done", "crc32", "seconds"),
)
LEVELS = {"int8": 120, "float16": 2**15}
"""What stands for a change by the whole radius: a number that has a tenth, and one that puts
float16's normal numbers from 2^-29 on."""


class AdversarialSetError(ValueError):
    """A folder that holds no set of adversarial images, an unfinished one, or a damaged one."""


class AdversarialSet:
    """A complete set, opened by its folder. Its changes stay on disk: what is asked for is read.

    ``about`` is what it was built with, as JSON has it; ``epsilon`` the ball's radius, None without
    a ball; ``image_shape`` (channels, height, width). ``seconds`` is what the attack took, a pass
    that made several sets being counted to each in equal shares.

    With a ball a value takes one byte, the change in units of epsilon / 120: images are off by half
    a unit at most, and changes by multiples of a tenth of epsilon are as they were. Without a ball
    it takes two, a float16: changes are off by 2^-11 of themselves at most, from 2^-29 on. Pixels
    at 0 and at 1 are exact in either.

    Raises:
        AdversarialSetError: for a folder without a complete set. Only the files' form is looked at;
            ``set_builder.build`` compares a checksum.
    """

    def __init__(self, path: Path) -> None:
        record = read_record(path)
        if not record:
            raise AdversarialSetError(
                f"AdversarialSet: {path} must hold a whole {RECORD} of format {FORMAT}, got none"
            )
        if record["done"] < record["images"]:
            raise AdversarialSetError(
                f"AdversarialSet: {path} must hold a complete set, "
                f"got {record['done']} of {record['images']} images"
            )
        self.changes = open_changes(path, record)
        self.path = path
        self.about: dict[str, Any] = record["about"]
        self.epsilon = None if record["epsilon"] is None else Fraction(record["epsilon"])
        self.seconds: float = record["seconds"]
        channels, height, width = record["image_shape"]
        self.image_shape: tuple[int, int, int] = channels, height, width

    def __len__(self) -> int:
        return len(self.changes)

    @property
    def images_per_second(self) -> float:
        """At which it was made."""
        return len(self) / self.seconds

    def take(self, rows: Tensor, clean: Tensor) -> Tensor:
        """The adversarial images (B, C, H, W) of rows (B,) of the training set.

        ``clean`` (B, C, H, W) are the rows' images as the attack had them: float32 in [0, 1], and
        not augmented. What comes back is on their device, detached, within [0, 1], and within the
        ball up to the rounding of one addition. Rows on the CPU cost no wait for a device.

        Raises:
            ValueError, TypeError: for rows that the set lacks, and for clean images that are not
                theirs in number, shape or kind.
        """
        return Mixture([self]).draw(rows, clean)


class Mixture:
    """X_adv, the union of sets X_a,m over attacks a and models m, all of the same training set.

    ValueError for none, and for sets that differ in the number or the shape of their images.
    """

    def __init__(self, sets: Sequence[AdversarialSet]) -> None:
        shapes = sorted({(len(part), *part.image_shape) for part in sets})
        if len(shapes) != 1:
            raise ValueError(
                f"Mixture: sets must be one or more of the same shape (N, C, H, W), got {shapes}"
            )
        self.sets = list(sets)
        self.image_shape = self.sets[0].image_shape
        self._scales = torch.tensor(
            [[LEVELS[part.changes.dtype.name], float(radius_of(part.epsilon))] for part in sets]
        )

    def __len__(self) -> int:
        return len(self.sets[0])

    def draw(self, rows: Tensor, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """For each of rows (B,) its adversarial image from one of the sets, any as likely
        (Algorithm 2, line 11). ``rows``, ``clean``, what comes back and what is raised are as for
        :meth:`AdversarialSet.take`.

        ``generator`` draws the sets, on the CPU; torch's default there if None. Of a single set
        nothing is drawn.
        """
        _checks.features("draw", "clean", clean, (4,), "(B, C, H, W)")
        if tuple(clean.shape[1:]) != self.image_shape:
            raise ValueError(
                f"draw: clean must be images {self.image_shape}, got {tuple(clean.shape[1:])}"
            )
        rows = _checks.integers("draw", "rows", rows, len(clean), "clean", rows)
        wanted = rows.cpu().numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise ValueError(
                f"draw: rows must be in 0..{len(self) - 1}, got {wanted.min()}..{wanted.max()}"
            )
        which = torch.zeros(len(wanted), dtype=torch.int64)
        if len(self.sets) > 1:
            which = torch.randint(len(self.sets), which.shape, generator=generator)
        # float16 has the integers of the int8 sets, too: one tensor moves to the device.
        stored = torch.empty(clean.shape, dtype=torch.float16)
        for number, part in enumerate(self.sets):
            (mine,) = (which.numpy() == number).nonzero()
            stored[torch.from_numpy(mine)] = torch.from_numpy(part.changes[wanted[mine]]).half()
        # All levels over themselves are 1, so that no change exceeds the radius. By a tensor: CUDA
        # divides by a number as it multiplies by its inverse, which was rounded.
        levels, radius = self._scales[which].to(clean).view(-1, 2, 1, 1, 1).unbind(1)
        return (clean.detach() + stored.to(clean) / levels * radius).clamp_(0, 1)


class Stored:
    """An attack that made its images beforehand, for a method to train against: set ``rows`` to
    the batch's rows (B,) of the training set, then ``stored(model, images, labels)`` draws for
    them, from torch's default generator on the CPU. The images must not be augmented.

    A call uses the rows up, so that no batch gets those of the one before. ValueError without any.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.rows: Tensor | None = None

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        rows, self.rows = self.rows, None
        if rows is None:
            raise ValueError("Stored: rows must be set before each call, got None")
        return self.mixture.draw(rows, images)


# What is on disk.


def read_record(path: Path) -> dict[str, Any]:
    """What a folder's ``set.json`` says; nothing where it is missing, damaged or of another format.

    ``done`` of ``images`` are there, in order, and ``crc32`` is the checksum of those.
    """
    with suppress(FileNotFoundError, ValueError):
        content = json.loads((path / RECORD).read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and all(key in content for key in KEYS)
        if whole and content["format"] == FORMAT:
            return dict(content)
    return {}


def open_changes(path: Path, record: dict[str, Any], *, new: bool = False) -> Any:
    """The array (N, C, H, W) of a folder's changes, mapped and not read; made first if ``new``.

    AdversarialSetError where it is not what the record says.
    """
    dtype = "float16" if record["epsilon"] is None else "int8"
    shape = (record["images"], *record["image_shape"])
    options = {"mode": "w+", "dtype": dtype, "shape": shape} if new else {"mode": "r"}
    try:
        changes = need_numpy().lib.format.open_memmap(path / CHANGES, **options)
    except (FileNotFoundError, ValueError) as error:
        raise AdversarialSetError(f"AdversarialSet: {path} is damaged: {error}") from error
    found = changes.dtype.name, changes.shape
    if found != (dtype, shape):
        raise AdversarialSetError(
            f"AdversarialSet: {path}: {CHANGES} must be {(dtype, shape)}, got {found}"
        )
    return changes


def radius_of(epsilon: Fraction | None) -> Fraction:
    """Of the ball; without one, what no pixel exceeds."""
    return Fraction(1) if epsilon is None else epsilon


def need_numpy() -> Any:
    try:
        return import_module("numpy")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "adversarial sets need numpy: pip install 'tla_ops[train]'", name=error.name
        ) from error
