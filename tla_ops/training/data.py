"""The data sets of the papers, as image sets in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from tla_ops.training import parquet
from tla_ops.training.image_set import ImageSet, hold_out
from tla_ops.training.parquet import DataError, Shape


class Dataset(NamedTuple):
    """A data set's parts, on the CPU; ``notes`` say in what they differ from what is published.

    Whoever chooses a model does so on images that :func:`hold_out` takes from ``train``.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: int
    notes: tuple[str, ...] = ()


class Facts(NamedTuple):
    """What is published: shape (C, H, W), classes, images in the training and the test split.

    ``hub`` is the Hugging Face hub's name, ``subfolder`` where its files lie, ``test_split`` how
    their names begin; without one a fixed, stratified fifth of the images is the test split, and
    the counts are after it. Photos that differ in size are ``resized`` to ``shape``. ``note`` says
    what a user of the set has to know.

    A set that is ``part_of`` another one of ``DATASETS`` has that one's images of the classes
    ``kept``, which are its classes 0, 1, ...
    """

    shape: Shape
    classes: int
    train: int
    test: int
    hub: str = ""
    subfolder: str = "data"
    train_split: str = "train"
    test_split: str | None = "test"
    resized: bool = False
    note: str = ""
    part_of: str = ""
    kept: tuple[int, ...] = ()


_HELD_OUT = "no test split is published: a fixed, stratified fifth of the images is held out as one"

DATASETS = {
    "digits": Facts((1, 8, 8), 10, 1_437, 360, test_split=None, note=_HELD_OUT),
    "mnist": Facts((1, 28, 28), 10, 60_000, 10_000, "ylecun/mnist", "mnist"),
    "cifar10": Facts((3, 32, 32), 10, 50_000, 10_000, "uoft-cs/cifar10", "plain_text"),
    "tiny-imagenet": Facts(
        (3, 64, 64), 200, 100_000, 10_000, "zh-plus/tiny-imagenet", test_split="valid",
        note="the test split is the published validation split",
    ),
    "cats-vs-dogs": Facts(
        (3, 64, 64), 2, 18_728, 4_682, "microsoft/cats_vs_dogs", test_split=None, resized=True,
        note=_HELD_OUT,
    ),
    "cifar10-cats-dogs": Facts(
        (3, 32, 32), 2, 10_000, 2_000, part_of="cifar10", kept=(3, 5),
        note="CIFAR-10's cats and dogs, 32 × 32, in place of cats-vs-dogs",
    ),
    "imagenet": Facts(
        (3, 299, 299), 1_000, 40_000, 10_000, "ILSVRC/imagenet-1k", train_split="validation",
        test_split=None, resized=True,
        note="all images are of the published validation split, which pretrained networks have not "
        "been trained on: a fixed, stratified fifth of them is held out as the test split",
    ),
}  # fmt: skip


def load(
    name: str,
    folder: Path | str | None = None,
    *,
    size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """A data set of ``DATASETS``, decoded into memory.

    ``folder`` holds its parquet files, or a sub-folder of its name that does, or is "hub", which
    downloads them; None takes the environment variable TLA_DATA. In either place the files may lie
    in the hub's own sub-folder. "digits" needs no files. Shards that are not there are left out,
    and noted.
    ``size`` resizes images to size × size; without it only "cats-vs-dogs" is resized, to 64 × 64,
    and "imagenet", to 299 × 299, of which all 50,000 take 13 GB, and for a moment twice that.
    "cifar10-cats-dogs" is read from the files of "cifar10". ``progress(done, total)`` is called as
    images are decoded.

    Raises DataError for a set that is not found and for files that are not what they must be.
    """
    if name not in DATASETS:
        raise DataError(f"load: name must be one of {', '.join(DATASETS)}, got {name!r}")
    facts = DATASETS[name]
    if name == "digits":
        if size is not None:
            raise DataError(f"load: size must be None for digits, got {size}")
        train, test = hold_out(_digits(), facts.test)
        return Dataset(name, train, test, facts.classes, (facts.note,))
    if facts.part_of:
        whole = load(facts.part_of, folder, size=size, progress=progress)
        train, test = (_of_classes(part, facts.kept) for part in (whole.train, whole.test))
        about = (f"{facts.part_of}: {note}" for note in whole.notes)
        return Dataset(name, train, test, facts.classes, (facts.note, *about))
    if size is not None and size < 1:
        raise DataError(f"load: size must be at least 1, got {size}")
    shape = facts.shape if size is None else (facts.shape[0], size, size)
    place = _find(name, facts, folder)
    published = {facts.train_split: facts.train}
    if facts.test_split is None:
        published[facts.train_split] += facts.test
    else:
        published[facts.test_split] = facts.test
    shards = {split: parquet.find_shards(place, split) for split in published}
    total, done = sum(parquet.count_rows(part.files) for part in shards.values()), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def decoded(split: str) -> ImageSet:
        images, labels = parquet.read(
            shards[split].files,
            shape=shape,
            classes=facts.classes,
            resize=facts.resized or size is not None,
            advance=advance,
        )
        notes.extend(_notes(shards[split], len(images), published[split], split))
        return ImageSet(images, labels)

    notes: list[str] = []
    train = decoded(facts.train_split)
    if facts.test_split is None:
        train, test = hold_out(train, len(train) // 5)
    else:
        test = decoded(facts.test_split)
    if facts.note:
        notes.append(facts.note)
    return Dataset(name, train, test, facts.classes, tuple(notes))


def _digits() -> ImageSet:
    """The UCI handwritten digits that scikit-learn carries: 1,797 images with 17 grey levels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    return ImageSet(images, torch.from_numpy(bunch.target).to(torch.int64), scale=16)


def _of_classes(images: ImageSet, kept: tuple[int, ...]) -> ImageSet:
    """The images of the classes ``kept``, in their order; the labels are places in ``kept``."""
    same = images.labels[:, None] == torch.tensor(kept)
    part = images.subset(same.any(1).nonzero()[:, 0])
    return ImageSet(part.stored, same[same.any(1)].int().argmax(1), part.scale)


def _find(name: str, facts: Facts, folder: Path | str | None) -> Path:
    """The folder with the set's training files."""
    folder = os.environ.get("TLA_DATA") if folder is None else folder
    if not folder:
        raise DataError(
            f"load: folder must be a folder with the parquet files of {name} or with a sub-folder "
            f"{name} of them, or 'hub' to download {facts.hub}, here or in the environment "
            "variable TLA_DATA, got none"
        )
    if folder == "hub":
        splits = filter(None, (facts.train_split, facts.test_split))
        patterns = [f"{facts.subfolder}/{split}-*.parquet" for split in splits]
        folder = parquet.download(facts.hub, patterns)
    folder = Path(folder).expanduser()
    for place in (folder / name, folder):
        for inner in (place / facts.subfolder, place):
            if any(inner.glob(f"{facts.train_split}-*.parquet")):
                return inner
    raise DataError(
        f"load: {folder} must hold {facts.train_split}-00000-of-….parquet of {name}, in itself or "
        f"in a sub-folder {' or '.join(dict.fromkeys((name, facts.subfolder)))}, got no such file"
    )


def _notes(shards: parquet.Shards, images: int, published: int, split: str) -> Iterator[str]:
    word = {"train": "training", "validation": "validation"}.get(split, "test")
    if len(shards.files) < shards.published:
        yield (
            f"{len(shards.files)} of {shards.published} {word} shards found: "
            f"{images:,} of {published:,} images"
        )
    elif images != published:
        yield f"{images:,} of {published:,} {word} images"
    if shards.left_out:
        yield f"a second copy of a {word} shard is left out: {', '.join(shards.left_out)}"
