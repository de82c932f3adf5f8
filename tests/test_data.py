"""Where data sets are loaded from, and what is said where they are not."""

import os
from pathlib import Path

import pytest
import torch

from tla_ops.training.data import DATASETS, DataError, load

pytestmark = pytest.mark.usefixtures("one_thread")


# digits


def test_digits_split_is_disjoint_and_stratified():
    pytest.importorskip("sklearn")
    dataset = load("digits")
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (1437, 360, 10)
    assert dataset.train.image_shape == (1, 8, 8)
    whole = torch.cat([dataset.train.images, dataset.test.images])
    assert whole.min() == 0
    assert whole.max() == 1
    assert len(whole.flatten(1).unique(dim=0)) == 1797  # no two images of the set are equal
    for part in (dataset.train, dataset.test):
        share = torch.bincount(part.labels, minlength=10) / len(part)
        assert share.min() > 0.09
        assert share.max() < 0.11
    assert torch.equal(load("digits").test.stored, dataset.test.stored)
    assert "held out" in dataset.notes[0]
    with pytest.raises(DataError, match="size must be None for digits"):
        load("digits", size=4)


# files


@pytest.fixture
def write_split():
    """The writer of small parquet files, where their libraries are installed."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("PIL")
    from parquet_files import write_split

    return write_split


@pytest.fixture
def mnist(tmp_path, write_split, monkeypatch):
    """Writes three training and two test images of MNIST's kind into a folder."""
    monkeypatch.delenv("TLA_DATA", raising=False)

    def write(folder=""):
        write_split(tmp_path / folder / "train-00000-of-00001.parquet", [5, 0, 4])
        write_split(tmp_path / folder / "test-00000-of-00001.parquet", [7, 2], seed=3)
        return tmp_path

    return write


@pytest.mark.parametrize("folder", ["", "mnist", "mnist/mnist"])
@pytest.mark.parametrize("given_by", ["path", "string", "environment"])
def test_load_finds_files_in_each_layout(mnist, monkeypatch, folder, given_by):
    place = mnist(folder)
    if given_by == "environment":
        monkeypatch.setenv("TLA_DATA", str(place))
        place = None
    dataset = load("mnist", str(place) if given_by == "string" else place)
    assert dataset.train.labels.tolist() == [5, 0, 4]
    assert dataset.test.labels.tolist() == [7, 2]
    assert dataset.train.stored.shape == (3, 1, 28, 28)
    assert (dataset.name, dataset.classes) == ("mnist", 10)
    assert dataset.notes == ("3 of 60,000 training images", "2 of 10,000 test images")


def test_load_reads_the_shards_it_finds_and_reports_progress(tmp_path, write_split):
    folder, sides = tmp_path / "cifar10", {"height": 32, "width": 32, "channels": 3}
    sides["image"] = "img"
    write_split(folder / "train-00002-of-00004.parquet", [3, 4], **sides)
    write_split(folder / "train-00000-of-00004.parquet", [1, 2], **sides)
    write_split(folder / "train-00000-of-00004-ab.parquet", [9, 9], **sides)
    write_split(folder / "test-00000-of-00001.parquet", [5] * 100, **sides)
    calls = []
    dataset = load("cifar10", tmp_path, progress=lambda *call: calls.append(call))
    assert dataset.train.labels.tolist() == [9, 9, 3, 4]
    assert dataset.notes == (
        "2 of 4 training shards found: 4 of 50,000 images",
        "a second copy of a training shard is left out: train-00000-of-00004.parquet",
        "100 of 10,000 test images",
    )
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (104, 104)


def test_a_published_validation_split_is_the_test_split(tmp_path, write_split):
    sides = {"height": 64, "width": 64, "channels": 3}
    write_split(tmp_path / "data" / "train-00000-of-00001-12ab.parquet", [199, 0], **sides)
    write_split(tmp_path / "data" / "valid-00000-of-00001-34cd.parquet", [100], **sides)
    dataset = load("tiny-imagenet", tmp_path)
    assert dataset.classes == 200
    assert dataset.test.labels.tolist() == [100]
    assert "the test split is the published validation split" in dataset.notes


@pytest.mark.parametrize(("size", "side"), [(None, 64), (16, 16)])
def test_photos_of_any_size_are_resized_and_a_fifth_held_out(tmp_path, write_split, size, side):
    for index, (height, width) in enumerate([(20, 30), (64, 64)]):
        write_split(
            tmp_path / f"train-0000{index}-of-00002.parquet",
            [0, 1] * 5,
            label="labels",
            height=height,
            width=width,
            channels=3,
        )
    dataset = load("cats-vs-dogs", tmp_path, size=size)
    assert dataset.train.stored.shape == (16, 3, side, side)
    assert torch.bincount(dataset.test.labels).tolist() == [2, 2]
    assert dataset.notes[0] == "20 of 23,410 training images"
    assert "held out" in dataset.notes[1]


@pytest.mark.parametrize("size", [None, 16])
def test_cats_and_dogs_are_two_classes_of_cifar10(tmp_path, write_split, size):
    sides = {"height": 32, "width": 32, "channels": 3, "image": "img"}
    folder = tmp_path / "cifar10"
    write_split(folder / "train-00001-of-00004.parquet", [5, 3, 0, 9, 3, 4], **sides)
    write_split(folder / "test-00000-of-00001.parquet", [1, 3, 5, 5], seed=50, **sides)
    calls = []
    whole = load("cifar10", tmp_path, size=size)
    dataset = load(
        "cifar10-cats-dogs", tmp_path, size=size, progress=lambda *call: calls.append(call)
    )
    assert (dataset.name, dataset.classes) == ("cifar10-cats-dogs", 2)
    assert dataset.train.labels.tolist() == [1, 0, 0]  # a cat is 0, a dog 1, as in Cats vs. Dogs
    assert dataset.test.labels.tolist() == [0, 1, 1]
    assert torch.equal(dataset.train.stored, whole.train.stored[[0, 1, 4]])
    assert torch.equal(dataset.test.images, whole.test.images[1:])
    assert dataset.notes == (
        "CIFAR-10's cats and dogs, 32 × 32, in place of cats-vs-dogs",
        "cifar10: 1 of 4 training shards found: 6 of 50,000 images",
        "cifar10: 4 of 10,000 test images",
    )
    assert calls[-1] == (10, 10)


def test_imagenets_validation_photos_are_split(tmp_path, write_split):
    folder = tmp_path / "imagenet" / "data"
    for index, channels in enumerate((1, 3)):
        write_split(
            folder / f"validation-0000{index}-of-00014.parquet",
            [999, 7] * 5,
            height=20,
            width=30,
            channels=channels,
        )
    (folder / "train-00000-of-00294.parquet").touch()  # never looked at
    (folder / "test-00000-of-00028.parquet").touch()
    dataset = load("imagenet", tmp_path)
    assert dataset.train.stored.shape == (16, 3, 299, 299)
    assert torch.bincount(dataset.test.labels, minlength=1000)[[7, 999]].tolist() == [2, 2]
    assert torch.equal(dataset.train.stored[0, 0], dataset.train.stored[0, 2])
    assert dataset.notes[0] == "2 of 14 validation shards found: 20 of 50,000 images"
    assert "published validation split" in dataset.notes[1]
    assert "fifth" in dataset.notes[1]
    for left in folder.glob("validation*"):
        left.unlink()
    with pytest.raises(DataError, match=r"must hold validation-00000-of-….parquet of imagenet"):
        load("imagenet", tmp_path)


def test_size_resizes_any_set(mnist):
    dataset = load("mnist", mnist(), size=32)
    assert dataset.train.stored.shape == (3, 1, 32, 32)
    assert dataset.test.stored.shape == (2, 1, 32, 32)


def test_load_says_the_ways_to_the_files(mnist, tmp_path, monkeypatch):
    monkeypatch.delenv("TLA_DATA", raising=False)
    for empty in (None, ""):
        with pytest.raises(DataError, match=r"sub-folder mnist .* 'hub' .* TLA_DATA, got none"):
            load("mnist", empty)
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=f"{place} must hold train-00000-of-….parquet"):
            load("mnist", place)
    with pytest.raises(DataError, match=r"name must be one of digits, mnist, .*, got 'svhn'"):
        load("svhn")
    with pytest.raises(DataError, match="size must be at least 1, got 0"):
        load("mnist", mnist(), size=0)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match="must hold test-00000-of"):
        load("mnist", tmp_path)


def test_load_does_not_take_another_sets_folder(mnist):
    with pytest.raises(DataError, match="must hold train"):
        load("cifar10", mnist("mnist"))
    with pytest.raises(DataError, match=r"row 0 .*RGB 32×32 .*got L 28×28"):
        load("cifar10", mnist("cifar10"))


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_hub_is_asked_for_the_files_that_are_read(mnist, monkeypatch, by_environment):
    hub = pytest.importorskip("huggingface_hub")
    snapshot, calls = mnist("mnist"), []

    def download(repository, **options):
        calls.append((repository, options))
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", download)
    if by_environment:
        monkeypatch.setenv("TLA_DATA", "hub")
    assert len(load("mnist", None if by_environment else "hub").train) == 3
    patterns = ["mnist/train-*.parquet", "mnist/test-*.parquet"]
    assert calls == [("ylecun/mnist", {"repo_type": "dataset", "allow_patterns": patterns})]
    with pytest.raises(DataError, match="must hold validation-"):
        load("imagenet", "hub")
    patterns = ["data/validation-*.parquet"]
    assert calls[1] == (
        "ILSVRC/imagenet-1k", {"repo_type": "dataset", "allow_patterns": patterns}
    )  # fmt: skip


def test_an_unreachable_hub_is_a_data_error(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(repository, **options):
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(DataError, match=r"uoft-cs/cifar10 must be .* within reach.*no connection"):
        load("cifar10", "hub")


def test_facts_agree_with_each_other():
    for name, facts in DATASETS.items():
        assert facts.hub or facts.part_of in DATASETS or name == "digits"
        assert facts.train > facts.test > 0
        assert len(facts.kept) in (0, facts.classes)
    for name in ("cats-vs-dogs", "imagenet"):
        facts = DATASETS[name]
        assert facts.test == (facts.train + facts.test) // 5


# the real files


def real(name):
    root = os.environ.get("TLA_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"TLA_DATA names no folder with {name}")
    pytest.importorskip("pyarrow")
    pytest.importorskip("PIL")
    return load(name)


def test_real_mnist():
    dataset = real("mnist")
    assert (len(dataset.train), len(dataset.test), dataset.notes) == (60_000, 10_000, ())
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(dataset.train.labels).tolist() == counts
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    mean, std = (dataset.train.stored.double() / 255).mean(), dataset.train.images.double().std()
    assert (mean.item(), std.item()) == pytest.approx((0.1307, 0.3081), abs=5e-5)


def test_real_cifar10():
    dataset = real("cifar10")
    assert torch.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.train.stored.shape[1:] == (3, 32, 32)
    mean = dataset.train.images.mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), rtol=0, atol=5e-3)
    if len(dataset.train) < 50_000:
        assert "training shards found" in dataset.notes[0]


def test_real_cats_and_dogs():
    whole, dataset = real("cifar10"), load("cifar10-cats-dogs")
    assert torch.bincount(dataset.test.labels).tolist() == [1000] * 2
    counts = torch.bincount(whole.train.labels)[[3, 5]]
    assert torch.equal(torch.bincount(dataset.train.labels), counts)


def test_real_tiny_imagenet():
    dataset = real("tiny-imagenet")
    for part in (dataset.train, dataset.test):
        counts = torch.bincount(part.labels, minlength=200)
        assert len(counts) == 200
        assert (counts == counts[0]).all()
    red, green, blue = dataset.train.stored.unbind(1)
    grey = ((red == green) & (green == blue)).flatten(1).all(1)
    assert 0 < grey.sum() < 0.1 * len(grey)


def test_the_verbs_show_what_is_being_read(mnist, capsys):
    from tla_ops.commands.shared import CommandError, load_data

    dataset = load_data("tla-ops train", "mnist", str(mnist("mnist")))
    assert len(dataset.train) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == "reading mnist: 5/5"
    with pytest.raises(CommandError, match="must hold train-00000"):
        load_data("tla-ops train", "cifar10", str(mnist("mnist")))
