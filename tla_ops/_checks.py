"""Argument checks: errors before any launch, naming the argument, what was expected and got.

They take as long as a small problem's arithmetic: each asks a tensor as little as it can.
"""

from __future__ import annotations

import sys
from numbers import Real
from typing import Any

import torch
from torch import Tensor

METRICS = ("angular", "cosine", "euclidean", "chebyshev", "linf")
NEGATIVE_MINING = ("hardest", "semihard", "random")
POSITIVE_MINING = ("hardest", "easiest", "random")
NORMS = ("l2", "mean_square")
REDUCTIONS = ("mean", "sum", "none")
PRECISIONS = (None, "exact", "fast")

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INT64, _STRIDED = torch.int64, torch.strided
_LARGEST = sys.float_info.max
INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


def shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def features(where: str, name: str, x: Any, dims: tuple[int, ...], form: str) -> None:
    """`x` is a float tensor with one of the numbers of dimensions in `dims`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor {form}, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{where}: {name} must be float64, float32, bfloat16 or float16, got {x.dtype}"
        )
    if x.layout is not _STRIDED:
        raise TypeError(f"{where}: {name} must be a dense tensor, got layout {x.layout}")
    if x.dim() not in dims:
        raise ValueError(f"{where}: {name} must be {form}, got {shape(x)}")


def anchors(where: str, name: str, x: Any) -> None:
    features(where, name, x, (2,), "(B, D)")
    if x.shape[1] == 0:
        raise ValueError(f"{where}: {name} must have D >= 1 features, got {shape(x)}")


def same_device(where: str, name: str, x: Tensor, anchor_name: str, anchor: Tensor) -> None:
    # On CPUs there is one device, and asking for its name takes longer than this.
    if x.is_cpu and anchor.is_cpu:
        return
    if x.device != anchor.device:
        raise ValueError(
            f"{where}: {name} must be on {anchor.device} as {anchor_name} is, got {x.device}"
        )


def rows_like(where: str, name: str, x: Any, anchor: Tensor, anchor_name: str = "anchor") -> None:
    """`x` is (M, D) on the anchor's device."""
    features(where, name, x, (2,), "(M, D)")
    if x.shape[1] != anchor.shape[1]:
        raise ValueError(
            f"{where}: {name} must be (M, {anchor.shape[1]}) to match {anchor_name} "
            f"{shape(anchor)}, got {shape(x)}"
        )
    same_device(where, name, x, anchor_name, anchor)


def positives(where: str, x: Any, anchor: Tensor) -> None:
    features(where, "positive", x, (2, 3), "(B, D) or (B, K, D)")
    size, (b, d) = x.shape, anchor.shape
    if size[0] != b or size[-1] != d:
        raise ValueError(
            f"{where}: positive must be ({b}, {d}) or ({b}, K, {d}) to match anchor "
            f"{shape(anchor)}, got {shape(x)}"
        )
    same_device(where, "positive", x, "anchor", anchor)


def integers(
    where: str,
    name: str,
    x: Any,
    rows: int,
    of: str,
    anchor: Tensor,
    anchor_name: str = "anchor",
) -> Tensor:
    """`x` as int64: one integer for each of `rows` rows of `of`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{where}: {name} must be an integer tensor, got {type(x).__name__}")
    dtype = x.dtype
    if dtype not in INTEGERS:
        raise TypeError(f"{where}: {name} must have an integer dtype, got {dtype}")
    if x.dim() != 1 or x.shape[0] != rows:
        raise ValueError(f"{where}: {name} must be ({rows},) to match {of}, got {shape(x)}")
    same_device(where, name, x, anchor_name, anchor)
    return x if dtype is _INT64 else x.to(_INT64)


def number(where: str, name: str, value: Any) -> float:
    """Any finite number; a negative margin is one (triplets may then violate the order by it)."""
    is_number = isinstance(value, (float, int, Real)) and not isinstance(value, bool)
    if not is_number:
        raise TypeError(f"{where}: {name} must be a number, got {type(value).__name__}")
    # Not math.isfinite: torch.compile cannot trace that for numbers it keeps symbolic.
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"{where}: {name} must be finite, got {value}")
    return value if isinstance(value, float) else float(value)


def choice(where: str, name: str, value: Any, known: tuple) -> None:
    if not (value is None or isinstance(value, str)) or value not in known:
        listed = ", ".join(repr(k) for k in known)
        raise ValueError(f"{where}: {name} must be one of {listed}, got {value!r}")


def metric(where: str, value: Any) -> str:
    choice(where, "metric", value, METRICS)
    return "chebyshev" if value == "linf" else value


def generator_device(where: str, generator: Any, anchor: Tensor) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"{where}: generator must be a torch.Generator, got {type(generator).__name__}"
        )
    if generator.device.type != anchor.device.type:
        raise ValueError(
            f"{where}: generator must be on {anchor.device} as anchor is, got {generator.device}"
        )


def pool(
    where: str,
    anchor: Tensor,
    candidates: Tensor,
    labels: Tensor,
    candidate_labels: Tensor,
    target_labels: Tensor | None,
    exclude: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Checks the candidates and every row's labels and indices, which come back as int64."""
    rows_like(where, "candidates", candidates, anchor)
    rows, count = anchor.shape[0], candidates.shape[0]
    labels = integers(where, "labels", labels, rows, "anchor", anchor)
    candidate_labels = integers(
        where, "candidate_labels", candidate_labels, count, "candidates", anchor
    )
    if target_labels is not None:
        target_labels = integers(where, "target_labels", target_labels, rows, "anchor", anchor)
    if exclude is not None:
        exclude = integers(where, "exclude", exclude, rows, "anchor", anchor)
    return labels, candidate_labels, target_labels, exclude
