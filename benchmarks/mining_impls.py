"""Who mines in which problem: ours, its paths by themselves, and its peers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from cases import Problem, Search, Task
from mining_cases import FEW_PRODUCTS, INSTRUCTION_SETS, PATHS, Case
from ours import tla_ops_bank, tla_ops_path, tla_ops_search, using
from peers import MINING_PEERS, Peer

Key = tuple[str, str]  # mode and implementation


class Impl(NamedTuple):
    """`facts`: of its row; `within`: where its calls are made."""

    make: Callable[[Problem], Search]
    task: Task | None
    facts: dict[str, object]
    within: Callable[[], AbstractContextManager[None]] = nullcontext


def implementations(case: Case, device: str, only: set[str] | None) -> dict[Key, Impl]:
    """In the order in which they run. Peers stand in the rows of exact mining."""
    found: dict[Key, Impl] = {}
    if not case.slow:
        found["mine_exact", "tla_ops"] = Impl(tla_ops_search, Task(), {})
        found["mine_fast", "tla_ops"] = Impl(lambda p: tla_ops_search(p, fast=True), Task(), {})
        if case.is_bank and device == "cpu":
            found["mine_exact", "tla_ops_bank"] = Impl(tla_ops_bank, Task(), {})
        for path in PATHS if device == "cuda" else INSTRUCTION_SETS:
            few = case.products <= FEW_PRODUCTS.get(path, case.products)
            if few or (case.is_bank and device == "cuda"):
                found["mine_exact", f"tla_ops_{path}"] = _by(path, device)
    for impl, peer in MINING_PEERS.items():
        if _takes_part(impl, peer, case, device):
            facts = {"arithmetic": "TF32"} if peer.tf32 and case.dtype == "float32" else {}
            found["mine_exact", impl] = Impl(peer.make, peer.task, facts)
    return {key: impl for key, impl in found.items() if only is None or key[1] in only}


def _by(path: str, device: str) -> Impl:
    if device == "cuda":
        return Impl(lambda p: tla_ops_path(p, path), Task(), {"path": path})
    # Around many calls: changing it takes longer than a small search.
    return Impl(tla_ops_search, Task(), {"instruction_set": path}, lambda: using(path))


def _takes_part(impl: str, peer: Peer, case: Case, device: str) -> bool:
    wanted = {
        "copy": case.is_bank,
        "mm_float16": case.dtype == "float32" and device == "cuda",
        "mm_float32": case.dtype != "float32" and device == "cpu",
        "sklearn": device == "cpu",
        # Its code is the same whatever the features; on a GPU it has a case of its own.
        "compile": device == "cuda" or case.data == "gaussian",
    }
    return wanted.get(impl, True) and case.slow == (peer.slow and device == "cuda")
