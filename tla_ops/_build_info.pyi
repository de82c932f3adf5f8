from typing import Any

def info() -> dict[str, Any]:
    """What was compiled: version, compiler, torch ABI, CPU instruction sets, CUDA, verified."""

def plan_search(
    anchors: int,
    candidates: int,
    dim: int,
    element_size: int,
    threads: int,
    product: bool,
    wide: bool,
    amx: bool,
) -> dict[str, Any]:
    """How a search is cut: anchor_block, tile, blocks, splits, split_size, kind."""
