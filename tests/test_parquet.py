"""Reading parquet files: pixels as they were, and errors that name file and row."""

import re

import pytest
import torch

pytest.importorskip("pyarrow")
pytest.importorskip("PIL")

import numpy
import pyarrow
import pyarrow.parquet
from parquet_files import decoded, encoded, photo, write, write_split
from PIL import Image, ImageFile

from tla_ops.training import parquet
from tla_ops.training.parquet import DataError

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def read(*files, shape=COLOUR, classes=10, **options):
    return parquet.read(files, shape=shape, classes=classes, **options)


def fails(match, *files, **options):
    with pytest.raises(DataError, match=match) as caught:
        read(*files, **options)
    return str(caught.value)


@pytest.mark.parametrize("names", [("image", "label"), ("img", "labels")])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_labels_are_what_was_written(tmp_path, names, bare, channels):
    pixels = [photo(seed, channels=channels) for seed in range(5)]
    image, label = names
    path = tmp_path / "file.parquet"
    write(path, list(map(encoded, pixels)), [3, 0, 9, 1, 1], image=image, label=label, bare=bare)
    images, labels = read(path, shape=(channels, 8, 8))
    assert images.dtype == torch.uint8
    assert labels.tolist() == [3, 0, 9, 1, 1]
    expected = numpy.stack(pixels).reshape(5, 8, 8, channels).transpose(0, 3, 1, 2)
    assert numpy.array_equal(images.numpy(), expected)


def test_jpegs_are_decoded_as_pillow_does_and_grey_ones_become_rgb(tmp_path):
    contents = [encoded(photo(0), "JPEG"), encoded(photo(1, channels=1), "JPEG")]
    contents += [encoded(Image.fromarray(photo(2)).convert("P")), encoded(photo(3, channels=4))]
    images, _ = read(write(tmp_path / "file.parquet", contents, [0, 1, 2, 3]))
    for image, content in zip(images, contents, strict=True):
        assert numpy.array_equal(image.numpy(), decoded(content, "RGB"))
    assert torch.equal(images[1, 0], images[1, 2])


def test_files_longer_than_a_batch_keep_their_order(tmp_path):
    rng = numpy.random.default_rng(0)
    sizes, files, pixels, truth = (1500, 1, 1100), [], [], []
    for index, size in enumerate(sizes):
        part, labels = rng.integers(0, 256, (size, 2, 2), numpy.uint8), rng.integers(0, 10, size)
        files.append(write(tmp_path / f"{index}.parquet", list(map(encoded, part)), labels))
        pixels.append(part)
        truth.append(labels)
    counts = []
    images, labels = read(*files, shape=(1, 2, 2), advance=counts.append)
    assert numpy.array_equal(images[:, 0].numpy(), numpy.concatenate(pixels))
    assert numpy.array_equal(labels.numpy(), numpy.concatenate(truth))
    assert sum(counts) == parquet.count_rows(files) == sum(sizes)
    assert len(counts) > 3


def test_resizing_keeps_what_fits_and_averages_the_rest(tmp_path):
    same = photo(0)
    flat = numpy.full((20, 30, 3), 77, numpy.uint8)
    flat[:, 15:] = 177
    path = write(tmp_path / "file.parquet", [encoded(same), encoded(flat)], [0, 1])
    images, _ = read(path, resize=True)
    assert numpy.array_equal(images[0].numpy(), same.transpose(2, 0, 1))
    assert (images[1, :, :, :3] == 77).all()
    assert (images[1, :, :, 5:] == 177).all()


# errors


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_cut_image_is_named_wherever_it_is_cut(tmp_path, monkeypatch, form, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    whole = encoded(photo(0), form)
    path = tmp_path / "file.parquet"
    for length in [*range(0, len(whole) - 20, 23), *range(len(whole) - 20, len(whole))]:
        write(path, [whole, whole[:length]], [0, 1])
        message = fails("whole PNG or JPEG", path)
        assert message.startswith(f"load: {path}, row 1 (counted from 0): ")
        assert f"got {length} bytes" in message
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient
    write(path, [whole + b"what some cameras append"], [0])
    read(path)


def test_the_first_bad_row_is_named_by_its_number_in_its_file(tmp_path):
    good = encoded(photo(0, 2, 2))
    first = write(tmp_path / "first.parquet", [good] * 1200, [0] * 1200)
    images = [good] * 1200
    images[1077] = images[1100] = images[1199] = good[:-20]
    second = write(tmp_path / "second.parquet", images, [0] * 1200)
    match = re.escape(f"load: {second}, row 1077 (counted from 0): image")
    fails(match, first, second, shape=(3, 2, 2))


@pytest.mark.parametrize("label", [-1, 10, 2**40, None])
def test_a_label_out_of_range(tmp_path, label):
    labels = [9] * 1100
    labels[1050] = label
    path = tmp_path / "file.parquet"
    write(path, [encoded(photo(0, 2, 2))] * 1100, labels)
    match = re.escape(f"{path}, row 1050 (counted from 0): label must be in 0..9, got {label}")
    fails(match, path, shape=(3, 2, 2))


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "got null"),
        (b"GIF89a", "6 bytes"),
        (encoded(photo(0), "BMP"), "that are none"),
        (encoded(photo(0, 8, 9)), "RGB 8×9"),
        (encoded(photo(0, 9, 8)), "RGB 9×8"),
        (encoded(Image.fromarray(photo(0, channels=1).astype(numpy.uint16))), "I;16 8×8"),
    ],
)
def test_what_is_no_image_of_the_shape(tmp_path, content, got):
    path = write(tmp_path / "file.parquet", [encoded(photo(1)), content], [0, 1])
    assert got in fails(re.escape(f"{path}, row 1 (counted from 0): image must"), path)


def test_a_struct_without_bytes(tmp_path):
    path = tmp_path / "file.parquet"
    images = [{"bytes": encoded(photo(0)), "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [0, 0]}), path)
    fails(re.escape(f"{path}, row 1 (counted from 0): image must be the bytes"), path)


def test_colour_where_grey_is_wanted(tmp_path):
    path = write(tmp_path / "file.parquet", [encoded(photo(0))], [0])
    for resize in (False, True):
        fails(r"row 0 .* be L.*got RGB 8×8", path, shape=GREY, resize=resize)


def test_columns(tmp_path):
    path, images = tmp_path / "file.parquet", [encoded(photo(0))]
    write(path, images, [0], image="picture")
    fails(rf"{path} must have a column 'image' or 'img', got 'picture', 'label'", path)
    write(path, images, [0], label="fine_label")
    fails(rf"{path} must have a column 'label' or 'labels', got 'image', 'fine_label'", path)
    for labels, kind in [([0.0], "double"), (["0"], "string"), ([True], "bool")]:
        write(path, images, labels)
        fails(f"{path}: column 'label' must hold integers, got {kind}", path)
    for content in (["a.png"], [3]):
        write(path, content, [0], bare=True)
        fails(f"{path}: column 'image' must hold encoded images", path)
    pyarrow.parquet.write_table(pyarrow.table({"image": [{"path": "a.png"}], "label": [0]}), path)
    fails(f"{path}: column 'image' must hold encoded images", path)


def test_small_unsigned_labels(tmp_path):
    labels = pyarrow.array([0, 199], pyarrow.uint8())
    path = write(tmp_path / "file.parquet", [encoded(photo(0))] * 2, labels)
    assert read(path, classes=200)[1].tolist() == [0, 199]
    fails("row 1 .*0..198, got 199", path, classes=199)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "file.parquet"
    fails(f"{path} must be a parquet file", path)
    for content in (b"", b"PAR1", b"not parquet at all" * 10):
        path.write_bytes(content)
        fails(f"{path} must be a parquet file", path)
    write(path, [], pyarrow.array([], pyarrow.int64()))
    fails(f"{path} must hold at least one row", path)


def test_a_damaged_page(tmp_path):
    path = write_split(tmp_path / "file.parquet", [0] * 50, height=8, width=8, channels=3)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    fails(f"{path} must be a whole parquet file", path)


# shards


def test_shards_are_found_in_order_with_gaps_and_copies(tmp_path):
    names = ["train-00003-of-00004.parquet", "train-00000-of-00004-0a1b.parquet"]
    names += ["train-00000-of-00004-ffff.parquet", "test-00000-of-00001.parquet"]
    names += ["train-00001-of-00004.parquet.part", "xtrain-00001-of-00004.parquet"]
    for name in names:
        (tmp_path / name).touch()
    shards = parquet.find_shards(tmp_path, "train")
    assert [path.name for path in shards.files] == [names[1], names[0]]
    assert shards.published == 4
    assert shards.left_out == [names[2]]
    (tmp_path / "train-00000-of-00002.parquet").touch()
    with pytest.raises(DataError, match=r"one cut .*-of-00002 and …-of-00004"):
        parquet.find_shards(tmp_path, "train")
    with pytest.raises(DataError, match=r"valid-00000-of-….parquet, got no such file"):
        parquet.find_shards(tmp_path, "valid")
