"""Where a call runs: compiled operators or plain PyTorch, exact or fast, and its random draws.

CUDA kernels that no results file shows to have passed on a device's hardware prove themselves
first: see ``selftest.py``.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from types import FrameType

import torch
from torch import Tensor

from . import _checks as check
from . import _library
from .types import SelfTestReport

OPERATORS = ("cdist", "mine", "triplet_adv_loss", "triplet_loss")
"""What is tested and left out as one: an operator together with its backward."""

SCREENS = ("blas", "mma", "bank", "wgmma")
"""The ways a large CUDA search may go (``csrc/common/plan_large.h``), each tested by itself."""

_ON_REQUEST = ("wgmma",)
"""Screens that a first use does not test: threads wait for what hardware signals, and where a fault
is that may be for ever. `selftest` tests them, for those who ask and for a results file."""

_TRUSTED = ("cpu", "meta")
"""Device types that need no self-test. Tests take "cpu" out, which then goes the way CUDA goes."""

_tables: dict[int | None, frozenset[str]] = {}
"""By device index: the operators and screens that may run there. The one state that outlives a
call."""
_lock = threading.Lock()
_warned: set[str] = set()


def has_kernels(x: Tensor, *operators: str) -> bool:
    """Whether all these compiled operators take the tensor; if not, plain PyTorch runs, said once.

    Raises:
        RuntimeError: a CUDA tensor where no CUDA kernels were built.
    """
    if x.is_cpu and "cpu" in _TRUSTED:
        return True  # without asking for the device's name, which takes longer
    kind = x.device.type
    if kind in _TRUSTED:
        return True
    if kind not in ("cuda", "cpu"):
        _say_no_kernels(kind)
        return False
    table = _tables.get(x.device.index)
    if table is None:
        return _first_use(kind, x.device.index, operators, torch.compiler.is_compiling())
    return table.issuperset(operators)


def screens(x: Tensor) -> str:
    """The screens that compiled operators may use for this tensor, which `has_kernels` let in."""
    if not x.is_cuda:
        return ""
    table = _tables.get(x.device.index)
    if table is None:
        table = _verified_screens(x.device.index)
    # The bound on a product's error holds for sums in float32 (docs/exactness.md).
    left_out = "blas" if not _blas_screens() else ""
    return " ".join([name for name in SCREENS if name in table and name != left_out])


@torch.compiler.assume_constant_result
def _verified_screens(index: int | None) -> frozenset[str]:
    # Where there is no GPU the tensor is a fake one.
    return _verified(index).intersection(SCREENS) if torch.cuda.is_available() else frozenset()


@torch.compiler.assume_constant_result
def _blas_screens() -> bool:
    """Whether torch's BLAS adds in float32, and does not refuse to run. Compiled code keeps it."""
    refuses = torch.are_deterministic_algorithms_enabled() and (
        "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    )
    return not (refuses or torch.backends.cuda.matmul.allow_fp16_accumulation)


def remember(report: SelfTestReport) -> None:
    """Let what passed run on the report's device, and leave out what failed."""
    device = torch.device(report.device)
    if device.type not in _TRUSTED:
        with _lock:
            _remember(device.index, frozenset(), report)


@torch.compiler.assume_constant_result
def _say_no_kernels(kind: str) -> None:
    _say_once(f"tla_ops has no kernels for {kind} devices: plain PyTorch (tla_ops.reference) runs")


# Traced code calls this while it is traced, in plain Python, and keeps the answer until the
# device has a table: torch.compile watches `_tables`. So nothing is stored here while tracing.
@torch.compiler.assume_constant_result
def _first_use(kind: str, index: int | None, operators: tuple[str, ...], compiling: bool) -> bool:
    """Whether these operators may run on a device that has no table yet."""
    if not _library.has_cuda_kernels():
        raise RuntimeError(_library.missing_cuda_message())
    if kind == "cuda" and not torch.cuda.is_available():
        return True  # a fake tensor: no other is on a device that is not there
    verified = _verified(index)
    if verified.issuperset(operators):
        return True
    way = "under torch.compile" if compiling else "during CUDA graph capture"
    device = torch.device(kind) if index is None else torch.device(kind, index)
    if compiling or torch.cuda.is_current_stream_capturing():
        _say_once(
            f"tla_ops: the CUDA kernels have not been tested on {device} yet, and cannot be {way}: "
            f'plain PyTorch (tla_ops.reference) runs. Call tla_ops.selftest("{device}") before'
        )
        return False
    from .selftest import run  # which imports the operators

    with _lock:
        if index not in _tables:
            known = verified.union(_ON_REQUEST)
            untested = [name for name in OPERATORS + SCREENS if name not in known]
            _remember(index, verified, run(device, untested))
        return _tables[index].issuperset(operators)


def _remember(index: int | None, verified: frozenset[str], report: SelfTestReport) -> None:
    failed = report.failed
    _tables[index] = (verified | set(report.operators)) - set(failed)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        _say_once(
            f"tla_ops: CUDA kernels disagree with plain PyTorch on {report.device} "
            f"({report.name}) and are left out, other kernels or tla_ops.reference run in their "
            f"place: {reasons}"
        )


@functools.cache
def _verified(index: int | None) -> frozenset[str]:
    """What a results file shows to have passed on hardware like this device."""
    capability = "{}.{}".format(*torch.cuda.get_device_capability(index))
    records = _library.build_info()["verified"]
    passed = [frozenset(r["operators"]) for r in records if r["capability"] == capability]
    return frozenset.intersection(*passed) if passed else frozenset()


def _say_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=_outside())


def _outside() -> int:
    """The stack level, seen from the caller, of the first frame that is not this package's."""
    level, frame = 1, sys._getframe(1)
    parent: FrameType | None = frame
    while parent is not None and parent.f_globals.get("__name__", "").startswith("tla_ops."):
        level, parent = level + 1, parent.f_back
    return level


@torch.compiler.assume_constant_result
def _float32_matmul_is_exact() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # raised once the newer fp32_precision settings were used
        return True


def is_fast(where: str, precision: str | None) -> bool:
    if precision is None:
        return not _float32_matmul_is_exact()
    check.choice(where, "precision", precision, check.PRECISIONS)
    return precision == "fast"


def check_generator(where: str, anchor: Tensor, generator: torch.Generator | None) -> None:
    """It is one of the anchor's device, and torch can trace it."""
    if generator is not None:
        if torch.compiler.is_compiling():
            raise ValueError(f"{where}: generator must be None under torch.compile")
        check.generator_device(where, generator, anchor)


def uniform_draws(mining: str, anchor: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """One number in [0, 1) a row for random mining, the same on every device for the same draw."""
    if mining != "random":
        return None
    rows, dtype, device = anchor.shape[0], torch.float64, anchor.device
    # torch.compile traces a draw of dynamic size only where no generator is named.
    if generator is None:
        return torch.rand(rows, dtype=dtype, device=device)
    return torch.rand(rows, dtype=dtype, device=device, generator=generator)


def with_positives_dim(positive: Tensor) -> Tensor:
    """(B, D) or (B, K, D) positives as (B, K, D)."""
    return positive.unsqueeze(1) if positive.dim() == 2 else positive
