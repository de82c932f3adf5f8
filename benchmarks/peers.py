"""Forward + backward of the triplet loss beside its peers, in one run with interleaved repetitions.

    python benchmarks/peers.py [--quick] [--output FILE]

Writes one JSON file under benchmarks/results/<machine>/ and prints it as a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from cases import LOSS_PEERS, MINING_PEERS, loss_problem, mining_problem
from harness import Row, measure, print_table, write_results

LOSS_SHAPES = [(50, 500, 640), (50, 2000, 640)]
MINING_SHAPES = [(50, 2000, 640), (1024, 8192, 640), (1024, 65536, 640)]


def loss_rows(repeats: int) -> list[Row]:
    rows = []
    for shape in LOSS_SHAPES:
        problem = loss_problem(*shape)
        for mode in ("forward", "both"):
            functions = {name: peer(problem, mode) for name, peer in LOSS_PEERS.items()}
            rows += measure("triplet_adv_loss", functions, mode, shape, "float32", repeats)
    return rows


def mining_rows(repeats: int, shapes: list[tuple[int, int, int]]) -> list[Row]:
    rows = []
    for shape in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            problem = mining_problem(*shape, dtype)
            functions = {name: peer(problem) for name, peer in MINING_PEERS.items()}
            name = str(dtype).removeprefix("torch.")
            count = max(3, repeats // (shape[0] * shape[1] // 10**5))
            new = measure("mine_negatives", functions, "mine_exact", shape, name, count)
            for row in new:
                row.regret = problem.regret(functions[row.impl])
            rows += new
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions, no large pool")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    args = parser.parse_args()
    repeats = 20 if args.quick else 200
    rows = loss_rows(repeats)
    rows += mining_rows(repeats, MINING_SHAPES[:1] if args.quick else MINING_SHAPES)
    path = write_results("peers", rows, args.output)
    print_table(rows)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
