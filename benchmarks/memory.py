"""Peak memory of a search as a whole process, which children.py starts.

    python benchmarks/memory.py     # ours beside a bare product and the reference, as an example

A child makes a problem and calls a search once; another one makes the problem alone. What building
the search takes (a copy of normalised rows, a preallocated output) counts, too.
"""

from __future__ import annotations

from pathlib import Path

import torch
from cases import mining_problem
from children import Children, limit_memory
from mining_cases import Case, Shape
from mining_impls import Key, implementations

PROC = Path("/proc/self")


def peak(
    shape: Shape, dtype: str, data: str, mode: str = "", impl: str = "", seed: int = 0
) -> float | None:
    """MB resident at most, from when the problem is made; None where the system does not tell.
    Without an implementation, of the problem alone."""
    limit_memory()
    case = Case(tuple(shape), dtype, data)
    generator = torch.Generator().manual_seed(seed)
    problem = mining_problem(case.shape, getattr(torch, dtype), data, generator)
    try:
        (PROC / "clear_refs").write_text("5")  # what making it took is no part of the peak
    except OSError:
        return None
    if impl:
        found = implementations(case, "cpu", {impl})[mode, impl]
        with found.within():
            found.make(problem)()
    lines = (PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


class Peaks:
    """Of one problem."""

    def __init__(self, children: Children, case: Case) -> None:
        self._children, self._case = children, case
        self._alone = self._peak()

    def of(self, key: Key) -> dict[str, object]:
        """`peak_mb`: of `process_mb`, what `problem_mb` does not explain; or `memory_error`."""
        found = self._peak(mode=key[0], impl=key[1])
        error = found.get("error", self._alone.get("error"))
        if error:
            return {"memory_error": error}
        whole, alone = found["value"], self._alone["value"]
        if whole is None or alone is None:
            return {}
        return {"peak_mb": max(0.0, whole - alone), "process_mb": whole, "problem_mb": alone}

    def _peak(self, **search: str) -> dict[str, object]:
        case = self._case
        problem = {"shape": case.shape, "dtype": case.dtype, "data": case.data}
        return self._children.call("memory:peak", **problem, **search)


def main() -> None:
    case = Case((1024, 8192, 640), "float32")
    with Children() as children:
        peaks = Peaks(children, case)
        for impl in ("tla_ops", "mm", "eager"):
            print(f"{case} {impl}: {peaks.of(('mine_exact', impl))}")


if __name__ == "__main__":
    main()
