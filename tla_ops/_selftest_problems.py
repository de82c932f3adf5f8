"""The problems that the self-test sets every operator."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference

METRICS = ("angular", "cosine", "euclidean", "chebyshev")


class Problem(NamedTuple):
    """Arguments of the operators, on the CPU."""

    name: str
    anchor: Tensor
    positive: Tensor
    candidates: Tensor
    labels: Tensor
    candidate_labels: Tensor
    target_labels: Tensor | None = None
    exclude: Tensor | None = None
    metrics: tuple[str, ...] = METRICS
    strided: bool = False

    @property
    def features(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.anchor, self.positive, self.candidates

    @property
    def mine(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.anchor, self.candidates, self.labels, self.candidate_labels

    def double(self) -> Problem:
        a, p, c = (x.double() for x in self.features)
        return self._replace(anchor=a, positive=p, candidates=c)


def problems() -> list[Problem]:
    """Small ones; together they make CUDA's plan share a tile among 1, 4 and 8 blocks, and give a
    block several tiles."""
    made: list[Problem] = []

    def make(
        name: str, B: int, M: int, D: int, K: int = 1, dtype: torch.dtype = torch.float32,
        candidate_dtype: torch.dtype | None = None,
    ) -> Problem:  # fmt: skip
        g = torch.Generator("cpu").manual_seed(len(made) + 1)

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g, dtype=torch.float64)

        anchor = randn(B, D)
        positive = anchor.unsqueeze(1) + 0.8 * randn(B, K, D)
        candidates = randn(M, D)
        y = torch.arange(B) % 3
        cy = torch.randint(4, (M,), generator=g)
        problem = Problem(
            name, anchor.to(dtype), positive.to(dtype), candidates.to(candidate_dtype or dtype), y,
            cy,
        )  # fmt: skip
        made.append(problem)
        return problem

    def change(**changes: Any) -> None:
        made[-1] = made[-1]._replace(**changes)

    make("one of each", 1, 1, 1)
    change(candidate_labels=torch.tensor([5]))
    masks = make("masks", 7, 45, 19, 2)
    # The second row's target is its own class, the third's is not there.
    target = torch.tensor([1, 1, 9, 2, 0, 1, 3])
    exclude = torch.tensor([3, -1, 44, 0, 7, 12, 99])
    masks.candidate_labels[::5] = reference.NEVER
    change(target_labels=target, exclude=exclude)
    lone = make("rows without a negative", 6, 33, 5)
    change(candidate_labels=torch.where(lone.candidate_labels == 1, reference.NEVER, 0))
    ties = make("ties", 9, 70, 33, 2)
    change(candidates=ties.candidates[torch.arange(70) * 5 % 7])
    nan = make("NaN", 5, 40, 12)
    nan.candidates[[11, 30], 3] = torch.nan
    nan.candidate_labels[[11, 30]] = 0
    nan.positive[1, 0, 2] = nan.anchor[4, 7] = torch.nan
    make("empty pool", 3, 0, 4, 2)
    make("bfloat16", 10, 65, 40, 2, torch.bfloat16)
    make("float16", 10, 65, 33, 1, torch.float16)
    make("float64", 6, 35, 9, 2, torch.float64)
    make("mixed dtypes", 6, 35, 24, 1, torch.float32, torch.bfloat16)
    make("strides", 11, 50, 36, 2)
    change(strided=True)
    make("long rows", 4, 37, 1027)
    make("the papers' rows", 40, 90, 640)
    make("shorter rows", 34, 70, 260, 1, torch.float32, torch.float16)
    make("many rows", 260, 2600, 3)
    change(metrics=("euclidean",))
    # More of them than a launch looks through, and than one piece of a row's shares holds.
    make("many anchors", 700, 2, 3)
    change(candidate_labels=torch.tensor([0, 1]), metrics=("angular", "euclidean"))
    return made
