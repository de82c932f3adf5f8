"""Finds and loads the compiled libraries, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import torch

_HERE = Path(__file__).resolve().parent
_MINIMUM_TORCH = (2, 10)

CPU_LIBRARY = _HERE / "libtla_ops_cpu.so"
CUDA_LIBRARY = _HERE / "libtla_ops_cuda.so"

_HOW_TO_BUILD = (
    "build it with `pip install .` (or `pip install --no-build-isolation .` against the torch that "
    "is installed) in a checkout of tla_ops; it needs a C++20 compiler"
)


def load() -> None:
    """Load the CPU library, and the CUDA one where it was built and torch has CUDA.

    Raises:
        ImportError: torch is too old, or the CPU library is not there.
    """
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _MINIMUM_TORCH:
        raise ImportError(f"tla_ops needs torch >= 2.10, this is torch {torch.__version__}")
    if not CPU_LIBRARY.exists():
        hint = ""
        if (_HERE.parent / "csrc").is_dir():
            hint = f" ({_HERE} is a source checkout: run Python from another folder once installed)"
        raise ImportError(
            f"tla_ops: the compiled library {CPU_LIBRARY.name} is missing from {_HERE}{hint}; "
            + _HOW_TO_BUILD
        )
    torch.ops.load_library(str(CPU_LIBRARY))
    if CUDA_LIBRARY.exists() and torch.version.cuda is not None:
        torch.ops.load_library(str(CUDA_LIBRARY))


def has_cuda_kernels() -> bool:
    """Whether CUDA tensors can be handed to the operators."""
    return CUDA_LIBRARY.exists() and torch.version.cuda is not None


def missing_cuda_message() -> str:
    """Why a CUDA tensor cannot be worked on here, and what to do."""
    from . import _build_info

    cuda = _build_info.info()["cuda"]
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} has no CUDA"
    else:
        reason = cuda["reason"]
    rebuild = "rebuild with nvcc on PATH: `TLA_OPS_CUDA=on pip install --no-build-isolation .`, or "
    return (
        f"tla_ops: no CUDA kernels in this installation ({reason}); "
        f"{rebuild if cuda['kernels'] else ''}move the tensors to the CPU, or call the same "
        "function in tla_ops.reference"
    )


def build_info() -> dict:
    """What this installation was built with and what it runs on.

    Returns:
        A dict: ``version``; ``compiler``; ``torch_abi`` (lowest torch version the libraries load
        under); ``torch`` (the one in use); ``cpu``: instruction sets ``compiled``, ``available``
        on this machine and ``in_use``; ``cuda``: ``built``, ``architectures``, ``toolkit``,
        ``kernels`` (whether this version has any to build), ``sources_sha256`` (of the kernels'
        sources) and, where it was not built, the ``reason``; ``verified``: the operators whose
        CUDA kernels, as they are in this version, a results file shows to have passed on hardware,
        a list of ``{"capability": "9.0", "device": ..., "operators": [...]}``.
    """
    from . import _build_info

    info = dict(_build_info.info())
    info["torch"] = torch.__version__
    return info
