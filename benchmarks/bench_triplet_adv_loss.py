"""Forward + backward of the triplet loss beside its peers, in one run with interleaved repetitions.

    python benchmarks/bench_triplet_adv_loss.py [--quick] [--output FILE]

Writes one JSON file under benchmarks/results/<machine>/ and prints it as a table. latency.py is the
one that looks at every size and at a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cases import loss_problem
from harness import Row, measure, print_table, write_results
from peers import LOSS_PEERS, NotHere

SHAPES = [(50, 500, 640), (50, 2000, 640)]


def rows_of(shape: tuple[int, int, int], mode: str, repeats: int) -> list[Row]:
    problem = loss_problem(*shape)
    functions, missing = {}, []
    for name, peer in LOSS_PEERS.items():
        try:
            functions[name] = peer(problem, mode)
        except NotHere as error:
            row = Row("triplet_adv_loss", name, mode, *shape, "float32")
            row.more = {"error": str(error)}
            missing.append(row)
    return measure("triplet_adv_loss", functions, mode, shape, "float32", repeats) + missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    args = parser.parse_args()
    repeats = 20 if args.quick else 200
    rows = [
        row for s in SHAPES for mode in ("forward", "both") for row in rows_of(s, mode, repeats)
    ]
    path = write_results("triplet_adv_loss", rows, args.output)
    print_table(rows)
    print(f"\nwritten to {path}")


# pytest benchmarks/bench_triplet_adv_loss.py: pytest-benchmark over the papers' pool sizes.


def pytest_generate_tests(metafunc: Any) -> None:
    metafunc.parametrize("m", [1, 250, 500, 1000, 2000])
    metafunc.parametrize("mode", ["forward", "both"])
    metafunc.parametrize("impl", list(LOSS_PEERS))


def bench_triplet_adv_loss(benchmark: Any, m: int, mode: str, impl: str) -> None:
    benchmark.group = f"triplet_adv_loss {mode} (50, {m}, 640)"
    benchmark(LOSS_PEERS[impl](loss_problem(50, m, 640), mode))


if __name__ == "__main__":
    main()
