"""The problems of bench_mine_negatives.py, most telling first. Plain data: render.py reads it."""

from __future__ import annotations

from typing import NamedTuple

Shape = tuple[int, int, int]
SIZES = (65536, 16384, 4096)
DIMS = (1024, 640, 2048, 4096)
BANK: Shape = (50, 10**6, 640)
DTYPES = ("bfloat16", "float32")
DATA = ("gaussian", "relu", "clusters", "duplicates")
SCREENS = ("wgmma", "mma", "blas", "bank")
"""What `paths` of the operator may name; without any it goes by tiles."""
PATHS = (*SCREENS, "tiles")
OTHER_PATH = "the plan takes"
"""How the row of a path begins its error where the path does not take the problem."""
FEW_PRODUCTS = 2**36
"""Tiles, which have no matrix unit, take seconds beyond."""


class Case(NamedTuple):
    """`compiled`: torch.compile, which takes long for a shape, is among the peers."""

    shape: Shape
    dtype: str
    data: str = "gaussian"
    compiled: bool = False

    @property
    def is_bank(self) -> bool:
        """Reading the candidates once is what takes the time."""
        return self.shape[0] <= 64

    @property
    def products(self) -> int:
        b, m, d = self.shape
        return b * m * d

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype} {self.data}"


GRID: list[tuple[Shape, str]] = [
    *((BANK, dtype) for dtype in DTYPES),
    *(((n, n, d), dtype) for n in SIZES for d in sorted(DIMS) for dtype in DTYPES),
]
"""The rows of the table, measured or not."""


def gpu_cases() -> list[Case]:
    first = SIZES[0], SIZES[0], DIMS[0]
    told = [Case(first, dtype, compiled=dtype == "float32") for dtype in DTYPES]
    told += [Case(BANK, dtype) for dtype in DTYPES]
    middle = SIZES[1], SIZES[1], DIMS[0]
    told += [Case(middle, dtype, data) for data in DATA for dtype in reversed(DTYPES)]
    told += [Case((n, n, d), dtype) for d in DIMS for dtype in DTYPES for n in SIZES]
    told += [Case((n, n, d), "float32", "relu") for d in DIMS for n in SIZES]
    return _once(told)


def _once(cases: list[Case]) -> list[Case]:
    """The first of those that differ in nothing but `compiled`."""
    kept: dict[tuple, Case] = {}
    for case in cases:
        kept.setdefault((case.shape, case.dtype, case.data), case)
    return list(kept.values())


def cpu_cases() -> list[Case]:
    shapes = [(50, 2000, 640), (1024, 8192, 640), (1024, 65536, 640), (50, 10**5, 640)]
    told = [Case(shape, dtype) for shape in shapes for dtype in reversed(DTYPES)]
    told[2] = told[2]._replace(compiled=True)
    return told + [Case((1024, 8192, 640), "float32", data) for data in DATA[1:]]


def quick_cases() -> list[Case]:
    return [
        *(Case((70, 600, 64), "float32", data) for data in DATA),
        Case((70, 600, 64), "bfloat16"),
        Case((50, 3000, 64), "float32"),
    ]
