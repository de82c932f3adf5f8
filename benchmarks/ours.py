"""Our searches: as a user calls them, or by one of their paths alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from cases import Problem, Search
from mining_cases import LACKS, OTHER_PATH
from packages import refuse

import tla_ops
from tla_ops import _build_info, _dispatch, ops


def tla_ops_search(p: Problem, fast: bool = False) -> Search:
    """As a user calls it: the plan chooses the path."""
    if not _dispatch.has_kernels(p.anchor, "mine"):
        raise RuntimeError("the self-test left the kernels out")
    return lambda: (
        tla_ops.mine_negatives(
            p.anchor, p.candidates, p.labels, p.candidate_labels,
            precision="fast" if fast else "exact",
        )[1]
    )  # fmt: skip


def tla_ops_bank(p: Problem) -> Search:
    """Of a bank that keeps its rows packed, searched again and again."""
    bank = tla_ops.FeatureBank(*p.candidates.shape, dtype=p.candidates.dtype, device=p.device)
    bank.enqueue(p.candidates.detach(), p.candidate_labels)

    bank.mine_negatives(p.anchor, p.labels)
    return lambda: bank.mine_negatives(p.anchor, p.labels)[1]


def tla_ops_path(p: Problem, path: str, fast: bool = False) -> Search:
    """By one path alone, whatever the self-test says of it."""
    refuse(p.device != "cuda", "paths are CUDA's")
    refuse(path not in (*_dispatch.SCREENS, "tiles"), f"this version has no path {path}")
    allowed = "" if path == "tiles" else path
    found = planned(p, allowed)
    refuse(found != path, f"{OTHER_PATH} {found} here")
    return lambda: (
        ops.mine(
            p.anchor, p.candidates, p.labels, p.candidate_labels, None, None, None, None,
            "angular", "hardest", False, fast, allowed,
        )[1]
    )  # fmt: skip


@contextmanager
def using(instruction_set: str) -> Iterator[None]:
    """A processor's searches go by it here, and by what was in use before after it."""
    available = tla_ops.build_info()["cpu"]["available"]
    refuse(instruction_set not in available, f"{LACKS} {instruction_set}")
    use = torch.ops.tla_ops.use_instruction_set
    before = use(instruction_set)
    try:
        yield
    finally:
        use(before)


def planned(p: Problem, allowed: str | None = None) -> str:
    """The path that csrc/common/plan_large.h chooses among those allowed, or (None) in `mine`."""
    gpu = torch.cuda.get_device_properties(p.anchor.device)
    return _build_info.plan_large(
        len(p.anchor), *p.candidates.shape, 4, p.candidates.element_size(), True,
        _dispatch.screens(p.anchor) if allowed is None else allowed,
        gpu.multi_processor_count, 10 * gpu.major + gpu.minor,
    )["screen"]  # fmt: skip
