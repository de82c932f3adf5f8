"""Packages to compare with: imported where they are used, and missed with a reason."""

from __future__ import annotations

import importlib
import unittest
from typing import Any

PACKAGES = {
    "pytorch_metric_learning": "pytorch-metric-learning",
    "sklearn": "scikit-learn",
    "flash_kmeans": "flash-kmeans",
    "faiss": "faiss-cpu or faiss-gpu",
    "cuvs": "cuvs-cu13 or cuvs-cu12",
}


class NotHere(unittest.SkipTest):
    """An implementation that cannot be had for this problem on this machine. pytest skips it."""


def package(name: str, module: str | None = None) -> Any:
    try:
        return importlib.import_module(module or name)
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        reason = f"not installed: {PACKAGES[name]}"
        raise NotHere(reason if missing == name else f"{name} lacks {missing}: {error}") from error


def refuse(condition: bool, reason: str) -> None:
    if condition:
        raise NotHere(reason)
