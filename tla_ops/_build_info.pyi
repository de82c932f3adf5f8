from typing import Any

def info() -> dict[str, Any]:
    """What was compiled: version, compiler, torch ABI, CPU instruction sets, CUDA, verified."""

def plan_search(
    anchors: int,
    candidates: int,
    dim: int,
    element_size: int,
    threads: int,
    screen: bool,
) -> dict[str, Any]:
    """How a search is cut: anchor_block, tile, blocks, splits, split_size, kind."""

def plan_tiles(
    anchors: int,
    candidates: int,
    dim: int,
    element_size: int,
    tiles: bool,
    rows: int,
    multiprocessors: int,
    capability: int,
) -> dict[str, Any]:
    """How a CUDA search is cut into tiles, teams of blocks and blocks that work on rows."""

def plan_large(
    anchors: int,
    candidates: int,
    dim: int,
    element_size: int,
    candidate_size: int,
    product: bool,
    screens: str,
    multiprocessors: int,
    capability: int,
    in_place: bool = True,
    semihard: bool = False,
) -> dict[str, Any]:
    """Which of these screens a CUDA search takes, or tiles, and in what pieces."""

def plan_strips(rows: int, columns: int, padded: int, clusters: int) -> dict[str, Any]:
    """How the wgmma screen's clusters share a product: pairs of tiles of rows, strips of tiles."""

def plan_rows(
    rows: int, element_size: int, multiprocessors: int, capability: int
) -> dict[str, Any]:
    """The launch for work of a warp a row."""

def plan_backward(
    anchors: int, pool_rows: int, picks: bool, multiprocessors: int, capability: int
) -> dict[str, Any]:
    """The launch of triplet_loss_backward, anchor_blocks of it for the anchors; or, with pools
    that are picked from by many, whether it sorts the picks, and the launches behind that."""

def plan_cdist(
    n: int, b: int, m: int, element_size: int, multiprocessors: int, capability: int
) -> dict[str, Any]:
    """The launch of cdist on CUDA, and the anchors of its tiles."""

def plan_cdist_backward(n: int, b: int, multiprocessors: int, capability: int) -> dict[str, Any]:
    """The launch of one side of cdist's backward on CUDA."""
