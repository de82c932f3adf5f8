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
    the counts are after it. Photos that differ in size are ``resized`` to ``shape``.
    """

    shape: Shape
    classes: int
    train: int
    test: int
    hub: str = ""
    subfolder: str = "data"
    test_split: str | None = "test"
    resized: bool = False


DATASETS = {
    "digits": Facts((1, 8, 8), 10, 1_437, 360, test_split=None),
    "mnist": Facts((1, 28, 28), 10, 60_000, 10_000, "ylecun/mnist", "mnist"),
    "cifar10": Facts((3, 32, 32), 10, 50_000, 10_000, "uoft-cs/cifar10", "plain_text"),
    "tiny-imagenet": Facts(
        (3, 64, 64), 200, 100_000, 10_000, "zh-plus/tiny-imagenet", test_split="valid"
    ),
    "cats-vs-dogs": Facts(
        (3, 64, 64), 2, 18_728, 4_682, "microsoft/cats_vs_dogs", test_split=None, resized=True
    ),
}
_HELD_OUT = "no test split is published: a fixed, stratified fifth of the images is held out as one"


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
    ``size`` resizes images to size × size; without it only "cats-vs-dogs" is resized, to 64 × 64.
    ``progress(done, total)`` is called as images are decoded.

    Raises DataError for a set that is not found and for files that are not what they must be.
    """
    if name not in DATASETS:
        raise DataError(f"load: name must be one of {', '.join(DATASETS)}, got {name!r}")
    facts = DATASETS[name]
    if name == "digits":
        if size is not None:
            raise DataError(f"load: size must be None for digits, got {size}")
        train, test = hold_out(_digits(), facts.test)
        return Dataset(name, train, test, facts.classes, (_HELD_OUT,))
    if size is not None and size < 1:
        raise DataError(f"load: size must be at least 1, got {size}")
    shape = facts.shape if size is None else (facts.shape[0], size, size)
    place = _find(name, facts, folder)
    published = {"train": facts.train}
    if facts.test_split is None:
        published["train"] += facts.test
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
    train = decoded("train")
    if facts.test_split is None:
        notes.append(_HELD_OUT)
        train, test = hold_out(train, len(train) // 5)
    else:
        test = decoded(facts.test_split)
        if facts.test_split != "test":
            notes.append("the test split is the published validation split")
    return Dataset(name, train, test, facts.classes, tuple(notes))


def _digits() -> ImageSet:
    """The UCI handwritten digits that scikit-learn carries: 1,797 images with 17 grey levels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    return ImageSet(images, torch.from_numpy(bunch.target).to(torch.int64), scale=16)


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
        splits = ("train", facts.test_split) if facts.test_split else ("train",)
        patterns = [f"{facts.subfolder}/{split}-*.parquet" for split in splits]
        folder = parquet.download(facts.hub, patterns)
    folder = Path(folder).expanduser()
    for place in (folder / name, folder):
        for inner in (place / facts.subfolder, place):
            if any(inner.glob("train-*.parquet")):
                return inner
    raise DataError(
        f"load: {folder} must hold train-00000-of-….parquet of {name}, in itself or in a "
        f"sub-folder {' or '.join(dict.fromkeys((name, facts.subfolder)))}, got no such file"
    )


def _notes(shards: parquet.Shards, images: int, published: int, split: str) -> Iterator[str]:
    word = "training" if split == "train" else "test"
    if len(shards.files) < shards.published:
        yield (
            f"{len(shards.files)} of {shards.published} {word} shards found: "
            f"{images:,} of {published:,} images"
        )
    elif images != published:
        yield f"{images:,} of {published:,} {word} images"
    if shards.left_out:
        yield f"a second copy of a {word} shard is left out: {', '.join(shards.left_out)}"
