"""The papers' text, and what notes and settings quote of it.

The text is not part of this repository: the environment variable TLA_PAPER names its folder, or it
lies in shared/paper beside the checkout.
"""

import os
import re
from fractions import Fraction
from pathlib import Path

import pytest


def text(name):
    for folder in (os.environ.get("TLA_PAPER"), Path(__file__).parents[2] / "shared" / "paper"):
        if folder and (Path(folder) / name).is_file():
            return (Path(folder) / name).read_text(encoding="utf-8")
    pytest.skip(f"neither TLA_PAPER nor shared/paper beside the checkout has {name}")


def running(name):
    """The text in one line; words that were divided stay so: "adver- sarial"."""
    return " ".join(text(name).split())


def at(settings, path):
    """The setting at "mnist.cw.steps"."""
    for part in path.split("."):
        settings = settings[int(part)] if isinstance(settings, list) else settings[part]
    return settings


def assert_printed(name, pattern, settings, keys):
    """The groups of the pattern's one match in the text are the settings at ``keys``.

    Before a key may stand a factor: "255*" where the paper prints levels of 0 to 255. A list is
    printed with commas and "and".
    """
    (match,) = re.finditer(pattern, running(name))
    assert len(match.groups()) == len(keys.split())
    for printed, key in zip(match.groups(), keys.split(), strict=True):
        levels, _, path = key.rpartition("*")
        kept = at(settings, path)
        if isinstance(kept, list):
            assert re.split(", and |, | and ", printed) == kept
        elif printed[0].isdigit():
            number = Fraction(printed.replace("−", "-"))
            assert number == Fraction(str(kept)) * Fraction(levels or 1)
        else:
            assert printed.lower() == kept.lower()


def assert_quoted(names, notes, at_least):
    """What stands in quotation marks in notes are words of the texts, but for case, hyphens and
    " ... ".
    """
    words = squashed("".join(map(text, names)))
    quoted = [quote for note in notes for quote in re.findall('"([^"]+)"', note)]
    assert len(quoted) >= at_least
    for quote in quoted:
        for piece in quote.split(" ... "):
            assert squashed(piece) in words, quote


def squashed(words):
    return re.sub(r"[-\s]", "", words).lower()
