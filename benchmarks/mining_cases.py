"""The problems of bench_mine_negatives.py, most telling first. Plain data: render.py reads it."""

from __future__ import annotations

from typing import NamedTuple

Shape = tuple[int, int, int]
SIZES = (65536, 16384, 4096)
DIMS = (1024, 640, 2048, 4096)
BANK: Shape = (50, 10**6, 640)
CPU_SHAPE: Shape = (1024, 65536, 640)
"""Of the problems by which a processor is judged."""
DTYPES = ("bfloat16", "float32")
DATA = ("gaussian", "relu", "collapsed", "clusters", "duplicates", "copies")
GPU_DATA = ("gaussian", "relu", "clusters", "duplicates")
PATHS = ("wgmma", "mma", "blas", "bank", "tiles")
"""The ways a CUDA search may go (csrc/common/plan_large.h)."""
INSTRUCTION_SETS = ("amx", "avx512_vnni", "avx512", "avx2_int16", "avx2", "plain")
"""The ways a processor's search may go (csrc/cpu); a machine has some of them."""
LACKS = "this machine has no"
"""How the row of an instruction set begins its error where it cannot be had."""
OTHER_PATH = "the plan takes"
"""How the row of a path begins its error where the path does not take the problem."""
FEW_PRODUCTS = {"tiles": 2**36, "plain": 2**27}
"""These ways, which have no matrix or vector unit, take seconds beyond."""


class Case(NamedTuple):
    """`slow`: on a GPU, what takes long to start, for any new shape, in place of all the others."""

    shape: Shape
    dtype: str
    data: str = "gaussian"
    slow: bool = False

    @property
    def problem(self) -> Case:
        return self._replace(slow=False)

    @property
    def is_bank(self) -> bool:
        """Reading the candidates once is what takes the time."""
        return self.shape[0] <= 64

    @property
    def products(self) -> int:
        b, m, d = self.shape
        return b * m * d

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype} {self.data}" + (", slow peers" if self.slow else "")


GRID: list[tuple[Shape, str]] = [
    *((BANK, dtype) for dtype in DTYPES),
    *(((n, n, d), dtype) for n in SIZES for d in sorted(DIMS) for dtype in DTYPES),
]
"""The rows of the table, measured or not."""


def gpu_cases() -> list[Case]:
    big, middle, _ = SIZES
    main = [Case((big, big, DIMS[0]), dtype) for dtype in DTYPES]
    told = [*main, *(Case(BANK, dtype) for dtype in DTYPES)]
    told += [Case((big, big, d), "bfloat16") for d in DIMS]
    told += [case._replace(slow=True) for case in main]
    told += [Case((middle, middle, DIMS[0]), "float32", data) for data in GPU_DATA]
    told += [Case((n, n, d), dtype) for d in DIMS for n in SIZES[1:] for dtype in DTYPES]
    told += [Case((middle, middle, DIMS[0]), "bfloat16", data) for data in GPU_DATA]
    told += [Case((big, big, d), "float32") for d in DIMS]
    told += [Case((n, n, d), "float32", "relu") for n in SIZES for d in DIMS]
    told += [Case((big, big, d), dtype, slow=True) for d in DIMS[1:] for dtype in DTYPES]
    return list(dict.fromkeys(told))


def cpu_cases() -> list[Case]:
    told = [Case(CPU_SHAPE, "float32", data) for data in DATA]
    told.insert(1, Case(CPU_SHAPE, "bfloat16"))
    others = [(50, 500, 640), (50, 2000, 640), (1024, 8192, 640), (50, 10**5, 640)]
    return told + [Case(shape, dtype) for shape in others for dtype in reversed(DTYPES)]


def quick_cases() -> list[Case]:
    return [
        *(Case((70, 600, 64), "float32", data) for data in DATA),
        Case((70, 600, 64), "bfloat16"),
        Case((50, 3000, 64), "float32"),
    ]
