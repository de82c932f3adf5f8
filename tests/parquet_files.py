"""Small parquet files in the hub's layout, and random images to fill them with."""

import io

import numpy
import pyarrow
import pyarrow.parquet
from PIL import Image


def photo(seed=0, height=8, width=8, channels=3):
    """Random pixels (H, W, 3), or (H, W) with one channel."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8)


def encoded(pixels, form="PNG"):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form)
    return file.getvalue()


def decoded(content, mode=None):
    """Pillow's own reading, (C, H, W)."""
    image = Image.open(io.BytesIO(content))
    pixels = numpy.asarray(image.convert(mode or image.mode))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def write(path, images, labels, *, image="image", label="label", bare=False):
    """A file of encoded images (None is a null) and labels; ``bare`` without the struct."""
    if not bare:
        structs = [content if content is None else {"bytes": content} for content in images]
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        images = pyarrow.array(structs, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({image: images, label: labels}), path)
    return path


def write_split(path, labels, *, height=28, width=28, channels=1, seed=0, **columns):
    """A file with a random PNG for each label."""
    images = [encoded(photo(seed + row, height, width, channels)) for row in range(len(labels))]
    return write(path, images, labels, **columns)
