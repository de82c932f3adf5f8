"""Checkpoints: one file that is whole or absent, read without running any code from it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from tla_ops.training import recipe as recipes
from tla_ops.training.files import write_atomically
from tla_ops.training.models import Classifier, build

FORMAT = 1
DAMAGED = (
    *(zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError),
    *(RuntimeError, LookupError, ValueError, TypeError, AttributeError),
)
"""What reading a file raises that is no checkpoint, or was one."""


class CheckpointError(ValueError):
    """A file that is no checkpoint of this package, or not one that fits."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; ``torch.load(path, weights_only=True)`` reads it."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT} | content, file))


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU.

    Raises:
        CheckpointError: not a checkpoint, or one of another version.
    """
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:  # torch does not look at the checksums
                raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise CheckpointError(f"{path}: needs checkpoint format {FORMAT}, got {found}")
    return content


def read_model(path: Path) -> tuple[Classifier, recipes.Recipe]:
    """The trained model, in eval mode, and the recipe it was made by."""
    content = read(path)
    try:
        recipe = recipes.from_dict(content["recipe"])
        shape = tuple(content["image_shape"])
        model = build(recipe.model, content["classes"], shape, **recipe.model_options)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a model of this version: {error}") from error
    load_weights(model, content, path)
    return model.eval(), recipe


def load_weights(model: Classifier, content: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights, averaged ones if it has them, into ``model``."""
    try:
        model.load_state_dict(content.get("ema") or content["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: other layers than this recipe's model: {error}") from error
