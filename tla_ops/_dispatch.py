"""Where a call runs: compiled operators or plain PyTorch, exact or fast, and its random draws."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from . import _checks as check
from . import _library

_warned: set[str] = set()


def has_kernels(x: Tensor) -> bool:
    """Whether compiled operators take the tensor; if not, plain PyTorch runs, said once."""
    kind = x.device.type
    if kind in ("cpu", "meta"):
        return True
    if kind == "cuda":
        if _library.has_cuda_kernels():
            return True
        raise RuntimeError(_library.missing_cuda_message())
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(
            f"tla_ops has no kernels for {kind} devices: plain PyTorch (tla_ops.reference) runs",
            stacklevel=4,
        )
    return False


@torch.compiler.assume_constant_result
def _float32_matmul_is_exact() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # raised once the newer fp32_precision settings were used
        return True


def is_fast(where: str, precision: str | None) -> bool:
    check.choice(where, "precision", precision, check.PRECISIONS)
    return not _float32_matmul_is_exact() if precision is None else precision == "fast"


def uniform_draws(
    where: str, mining: str, anchor: Tensor, generator: torch.Generator | None
) -> Tensor | None:
    """One number in [0, 1) a row for random mining, the same on every device for the same draw."""
    if generator is not None:
        if torch.compiler.is_compiling():
            raise ValueError(f"{where}: generator must be None under torch.compile")
        check.generator_device(where, generator, anchor)
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
