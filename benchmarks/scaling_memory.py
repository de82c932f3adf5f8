"""What memory grows with, and where the reference runs out of it. Each call is a child's."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import torch
from cases import mining_problem
from children import Children, limit_memory, machine_bytes
from memory import Peaks
from mining_cases import Case, Shape
from mining_impls import implementations

Laws = dict[str, dict[str, float]]
SHARE = 16
"""The proof has this share of the machine's memory for room: nothing is exhausted."""
PROOF_B, PROOF_D = 4096, 16
"""Distances are nearly all that the reference stores for such a problem."""
FILLED = (0.7, 1.4)
"""Of the room, by what is computed: the reference has enough in the first, not in the second."""


def fits(shape: Shape, impl: str, room: int) -> bool:
    """A call that may take so many bytes of addresses more than there are in use before it."""
    make = implementations(Case(tuple(shape), "float32"), "cpu", {impl})["mine_exact", impl].make
    make(mining_problem((64, 512, shape[2]), torch.float32))()  # starts threads
    call = make(mining_problem(shape, torch.float32))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit_memory(pages * resource.getpagesize() + room)
    call()
    return True


def peaks(
    children: Children, shapes: list[Shape], impls: list[str]
) -> Iterator[tuple[Shape, str, dict[str, object]]]:
    for shape in shapes:
        of = Peaks(children, Case(shape, "float32"))
        for impl in impls:
            yield shape, impl, of.of(("mine_exact", impl))


def laws(found: dict[tuple[Shape, str], float]) -> Laws:
    """Bytes a pair of an anchor and a candidate, by the two largest numbers of anchors, and bytes a
    candidate, by the smallest, which its normalised copy and the like take before any product."""
    told: Laws = {}
    for impl in dict.fromkeys(impl for _, impl in found):
        (few, alone), *_, (low, a), (high, b) = sorted(
            (shape, mb * 2**20) for (shape, of), mb in found.items() if of == impl
        )
        pair = (b - a) / ((high[0] - low[0]) * high[1])
        told[impl] = {"pair": pair, "candidate": alone / few[1]}
    return told


def largest(laws: Laws, anchors: list[int], d: int) -> list[dict[str, int]]:
    """How many candidates fill this machine's memory: they themselves in float32 (`M_features`),
    and with what the reference stores, copies first and distances later (`M_eager`)."""
    law, memory = laws["eager"], machine_bytes()
    rows = []
    for b in anchors:
        eager = 4 * d + max(law["candidate"], b * law["pair"])
        rows.append(
            {"B": b, "D": d, "M_features": memory // (4 * d), "M_eager": int(memory / eager)}
        )
    return rows


def proof(children: Children, laws: Laws, impls: list[str], share: int = SHARE) -> list[dict]:
    """Calls under a limit, about where the reference is computed to reach it."""
    room = machine_bytes() // share
    rows = []
    for filled in FILLED:
        m = int(filled * room / (PROOF_B * laws["eager"]["pair"]))
        for impl in impls:
            shape = (PROOF_B, m, PROOF_D)
            found = children.call("scaling_memory:fits", shape=shape, impl=impl, room=room)
            said = "enough" if found.get("value") else found["error"]
            rows.append(dict(zip("BMD", shape, strict=True)))
            rows[-1] |= {"impl": impl, "filled": filled, "room_mb": room / 2**20, "memory": said}
    return rows
