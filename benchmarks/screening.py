"""How many candidates a float16 screen leaves to rescore: python benchmarks/screening.py

The bound of docs/exactness.md on the CPU: rows are packed and multiplied as CUDA's screens do, and
lists are filled as so many blocks would that each look at a tile of candidates at the same time.
Counts depend on the features alone, not on a machine; nothing is timed. Writes
benchmarks/results/simulated/screening.json, from which benchmarks/render.py makes the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TILE = 128
CAPACITY = 128
SEMIHARD_CAPACITY = 2048
SAMPLE = 64
TARGET = Path(__file__).parent / "results" / "simulated" / "screening.json"


def gaussian(rows: int, dim: int, g: torch.Generator) -> Tensor:
    return torch.randn(rows, dim, generator=g)


def relu(rows: int, dim: int, g: torch.Generator) -> Tensor:
    """Features after a ReLU: their cosines crowd at 1 / pi."""
    return torch.randn(rows, dim, generator=g).relu()


def clusters(cosine: float) -> Callable[[int, int, torch.Generator], Tensor]:
    """All rows near one direction, a mean cosine apart, as where an embedding collapses."""

    def make(rows: int, dim: int, g: torch.Generator) -> Tensor:
        center = torch.randn(1, dim, generator=torch.Generator().manual_seed(1))
        center /= center.norm()
        noise = torch.randn(rows, dim, generator=g) / dim**0.5
        return cosine**0.5 * center + (1 - cosine) ** 0.5 * noise

    return make


def copies(size: int) -> Callable[[int, int, torch.Generator], Tensor]:
    """Groups of about so many rows that differ by a thousandth."""

    def make(rows: int, dim: int, g: torch.Generator) -> Tensor:
        groups = max(1, 65536 // size)
        centers = torch.randn(groups, dim, generator=torch.Generator().manual_seed(2))
        group = torch.randint(groups, (rows,), generator=g)
        return centers[group] + 1e-3 * torch.randn(rows, dim, generator=g)

    return make


FEATURES = {
    "Gaussian": gaussian, "ReLU": relu, "collapsed, cosine 0.92": clusters(0.92),
    "collapsed, cosine 0.99": clusters(0.99), "50 near-copies": copies(50),
    "300 near-copies": copies(300),
}  # fmt: skip


def packed(unit: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows less a mean as float16 holds them, their norms, the norms of what rounding took."""
    rest = unit - mean
    half = (rest * 2**14).half().double() / 2**14
    lost = (rest - half).norm(dim=1).float() * 1.001 + 2**-23
    return half.float(), rest.norm(dim=1).float() * 1.001 + lost, lost


def screen(a: Tensor, c: Tensor, streams: int, nearer: float | None = None) -> dict[str, Any]:
    """What stands in the lists of angular mining, and what is left by the final best.

    Hardest, or semihard with a positive that is nearer than such a share of the candidates.
    """
    dim = a.shape[1]
    a, c = (torch.nn.functional.normalize(rows.double()) for rows in (a, c))
    mean = c[:: max(1, len(c) // SAMPLE)].mean(0)
    mean = mean if mean @ mean > 1 / 4 else torch.zeros_like(mean)
    (x, nx, rx), (y, ny, ry) = packed(a, mean), packed(c, mean)
    unit = 1.25 * (-(-dim // 64) * 64 + 16) * 2**-23
    fixed = 1.01 * (4 * (dim / 128 + 40) * 2**-24 + 2**-23) + 2**-19
    score = (x @ y.T + (c @ mean).float() + (a @ mean - mean @ mean).float()[:, None]).abs()
    error = (rx[:, None] + unit * nx[:, None]) * ny + nx[:, None] * ry + fixed
    lower, upper = score - error, score + error
    if nearer is not None:
        positive = score.kthvalue(round(nearer * len(c)), 1, keepdim=True).values
        farther, may_be = upper < positive, lower < positive
        lower = lower.masked_fill(~farther, -torch.inf)
        upper = upper.masked_fill(~may_be, -torch.inf)
    # Tile t of every stream at the same time: a block knows what was seen before, and its own tile.
    steps = c.shape[0] // (TILE * streams)
    used = steps * streams * TILE
    best = lower[:, :used].view(len(a), streams, steps, TILE).amax(3)
    before = best.amax(1).cummax(1).values.roll(1, 1)
    before[:, 0] = -torch.inf
    known = torch.maximum(best, before[:, None])
    listed = (upper[:, :used].view(len(a), streams, steps, TILE) >= known[..., None]).sum((1, 2, 3))
    rescored = (upper >= lower.amax(1, keepdim=True)).sum(1)
    redone = listed > (CAPACITY if nearer is None else SEMIHARD_CAPACITY)
    kept = rescored[~redone].double()
    listed = listed.double()
    return {
        "listed_mean": float(listed.mean()),
        "listed_p99": float(listed.quantile(0.99)),
        "rescored_mean": float(kept.mean()) if len(kept) else None,
        "rescored_p99": float(kept.quantile(0.99)) if len(kept) else None,
        "redone": float(redone.double().mean()),
    }


def rows(anchors: int, candidates: int) -> list[dict[str, Any]]:
    found = []
    for dim in (640, 2048):
        for name, make in FEATURES.items():
            a = make(anchors, dim, torch.Generator().manual_seed(3))
            c = make(candidates, dim, torch.Generator().manual_seed(4))
            for streams in (1, 8):
                found.append({
                    "bench": "screening", "impl": "simulation", "mode": "mine_exact",
                    "B": anchors, "M": candidates, "D": dim, "dtype": "float32", "features": name,
                    "mining": "hardest", "streams": streams, **screen(a, c, streams),
                })  # fmt: skip
                print(json.dumps(found[-1]), flush=True)
        a = gaussian(anchors, dim, torch.Generator().manual_seed(3))
        c = gaussian(candidates, dim, torch.Generator().manual_seed(4))
        for nearer in (0.5, 0.9, 0.99, 0.999):
            found.append({
                "bench": "screening", "impl": "simulation", "mode": "mine_exact", "B": anchors,
                "M": candidates, "D": dim, "dtype": "float32", "features": "Gaussian",
                "mining": f"semihard, positive nearer than {nearer:.1%}", "streams": 8,
                **screen(a, c, 8, nearer),
            })  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anchors", type=int, default=256)
    parser.add_argument("--candidates", type=int, default=65536)
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    document = {
        "machine": "simulated", "device": "simulated", "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "tile": TILE,
        "capacity": CAPACITY, "semihard_capacity": SEMIHARD_CAPACITY,
        "rows": rows(options.anchors, options.candidates),
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
