"""The digits in three parts, for tests that train a little."""

from typing import NamedTuple

from tla_ops.training.data import load
from tla_ops.training.image_set import ImageSet, hold_out


class Splits(NamedTuple):
    train: ImageSet
    validation: ImageSet
    test: ImageSet


def digits() -> Splits:
    data = load("digits")
    return Splits(*hold_out(data.train, 360), data.test)
