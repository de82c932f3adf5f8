"""Labelled images out of parquet files as the Hugging Face hub publishes them: a column of encoded
images (a struct with ``bytes``, or the bytes themselves) and a column of integer labels.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")

# Encoded images in memory at a time, and images that a thread decodes in one go.
_ROWS, _PIECE = 1024, 64
_PNG_END = b"IEND\xaeB`\x82"

Shape = tuple[int, int, int]


class DataError(ValueError):
    """A data set that is not there, or a file of one that is not what it must be.

    Rows are numbered within their file, from 0.
    """


class Shards(NamedTuple):
    """Files of a split in their order, how many were published, and names of files left out because
    another file is the same shard.
    """

    files: list[Path]
    published: int
    left_out: list[str]


def find_shards(folder: Path, split: str) -> Shards:
    """The files ``<split>-00000-of-00004.parquet`` of a folder, the name with or without a hash at
    its end.

    Raises DataError where there is none, or where they are shards of different cuts.
    """
    pattern = re.compile(rf"{re.escape(split)}-(\d+)-of-(\d+)(-[0-9a-f]+)?\.parquet")
    found: dict[int, Path] = {}
    published, left_out = set(), []
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        published.add(int(match[2]))
        if int(match[1]) in found:
            left_out.append(path.name)
        else:
            found[int(match[1])] = path
    if not found:
        raise DataError(f"load: {folder} must hold {split}-00000-of-….parquet, got no such file")
    if len(published) > 1:
        counts = " and ".join(f"…-of-{count:05}" for count in sorted(published))
        raise DataError(f"load: {folder} must hold one cut of its {split} split, got {counts}")
    return Shards([found[index] for index in sorted(found)], published.pop(), left_out)


def download(repository: str, patterns: Sequence[str]) -> Path:
    """The folder with a hub data set's files that match ``patterns``, downloaded unless cached."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            "load: folder 'hub' needs huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=list(patterns))
        )
    # Being offline has as many exceptions as the hub's client had HTTP libraries.
    except Exception as error:
        raise DataError(
            f"load: {repository} must be on the Hugging Face hub and within reach, or in its local "
            f"cache, got {type(error).__name__}: {error}"
        ) from error


def count_rows(files: Sequence[Path]) -> int:
    """Images in the files, as their footers say."""
    return sum(_open(path).metadata.num_rows for path in files)


def read(
    files: Sequence[Path],
    *,
    shape: Shape,
    classes: int,
    resize: bool = False,
    advance: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """All images (N, C, H, W) uint8 and labels (N,) int64 of the files, in order.

    Every image must be ``shape`` (C, H, W), or is resized to its H and W (bilinear with
    antialiasing) with ``resize``; grey ones become RGB where C is 3. Labels must be in
    0..``classes`` - 1. ``advance`` is called with the number of images decoded since its last call.
    Memory beyond the result is a batch of encoded images. Raises DataError that names file and row.
    """
    images = torch.empty((count_rows(files), *shape), dtype=torch.uint8)
    labels = torch.empty(len(images), dtype=torch.int64)
    pixels, first = images.numpy(), 0
    threads = min(4, os.cpu_count() or 1)
    with _no_truncated_images(), ThreadPoolExecutor(threads) as pool:
        for path in files:
            row = 0
            for encoded, batch_labels in _batches(path):
                labels[first : first + len(encoded)] = _labels(batch_labels, classes, path, row)
                decode = partial(_decode, pixels, shape, resize, path, encoded, first, row)
                for count in pool.map(decode, range(0, len(encoded), _PIECE)):
                    if advance is not None:
                        advance(count)
                first, row = first + len(encoded), row + len(encoded)
    return images, labels


def _open(path: Path) -> Any:
    try:
        import PIL  # noqa: F401
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "load: parquet files need pyarrow and Pillow: pip install 'tla_ops[train]'"
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"load: {path} must be a parquet file, got {error}") from error
    if file.metadata.num_rows == 0:
        raise DataError(f"load: {path} must hold at least one row, got none")
    return file


def _batches(path: Path) -> Iterator[tuple[Any, Any]]:
    """Arrow arrays of encoded images and of labels, up to _ROWS at a time."""
    import pyarrow.compute

    file = _open(path)
    schema = file.schema_arrow
    image, label = (_column(path, schema, names) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    types = pyarrow.types
    kind = schema.field(image).type
    nested = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    content = kind.field("bytes").type if nested else kind
    if not (types.is_binary(content) or types.is_large_binary(content)):
        raise DataError(
            f"load: {path}: column {image!r} must hold encoded images, as binary or as a struct "
            f"with binary 'bytes', got {kind}"
        )
    if not types.is_integer(schema.field(label).type):
        raise DataError(
            f"load: {path}: column {label!r} must hold integers, got {schema.field(label).type}"
        )
    try:
        for batch in file.iter_batches(batch_size=_ROWS, columns=[image, label]):
            encoded = batch.column(image)
            # Unlike StructArray.field, struct_field is null where the struct is.
            encoded = pyarrow.compute.struct_field(encoded, "bytes") if nested else encoded
            yield encoded, batch.column(label)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"load: {path} must be a whole parquet file, got {error}") from error


def _column(path: Path, schema: Any, names: Sequence[str]) -> str:
    for name in names:
        if name in schema.names:
            return name
    wanted, got = " or ".join(map(repr, names)), ", ".join(map(repr, schema.names))
    raise DataError(f"load: {path} must have a column {wanted}, got {got}")


def _row(path: Path, row: int) -> str:
    return f"load: {path}, row {row} (counted from 0)"


def _labels(column: Any, classes: int, path: Path, row: int) -> Tensor:
    missing = column.is_null().to_numpy(zero_copy_only=False)
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    wrong = missing | (values < 0) | (values >= classes)
    if wrong.any():
        index = int(wrong.argmax())
        got = column[index].as_py()
        raise DataError(f"{_row(path, row + index)}: label must be in 0..{classes - 1}, got {got}")
    return torch.from_numpy(values.astype("int64"))


def _decode(
    pixels: Any, shape: Shape, resize: bool, path: Path, encoded: Any, first: int, row: int, at: int
) -> int:
    """Decode the piece of ``encoded`` that starts ``at`` into ``pixels``; returns its length."""
    piece = encoded[at : at + _PIECE].to_pylist()
    for index, content in enumerate(piece, at):
        try:
            pixels[first + index] = _pixels(content, shape, resize)
        except DataError as error:
            raise DataError(f"{_row(path, row + index)}: {error}") from error.__cause__
    return len(piece)


def _pixels(content: bytes | None, shape: Shape, resize: bool) -> Any:
    """Array (C, H, W) uint8 of an encoded image."""
    import numpy
    from PIL import Image

    if content is None:
        raise DataError("image must be the bytes of a PNG or JPEG, got null")
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            image.load()
            if image.format == "PNG" and _PNG_END not in content:
                raise OSError("image file is truncated after its pixels")
            # Wider than a byte a channel ("I;16", "F"): converting would cut, not scale.
            deep = image.mode[0] in "IF"
            got = f"{image.mode} {image.height}×{image.width}"
            fits = not deep and (channels == 3 or image.mode == "L")
            if fits and channels == 3 and image.mode != "RGB":
                image = image.convert("RGB")
            if fits and resize and image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            array = numpy.asarray(image)
    # A damaged file may raise nearly anything: OSError, SyntaxError, ValueError, zlib.error, ...
    except Exception as error:
        raise DataError(
            f"image must be a whole PNG or JPEG, got {len(content)} bytes that are none ({error})"
        ) from error
    if not fits or array.shape[:2] != (height, width):
        wanted = ("L" if channels == 1 else "RGB") + ("" if resize else f" {height}×{width}")
        raise DataError(
            f"image must have 8 bits a channel and be {wanted} (mode, height×width), got {got}"
        )
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@contextmanager
def _no_truncated_images() -> Iterator[None]:
    """Pillow raises for images that are cut, whatever another package has set."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
