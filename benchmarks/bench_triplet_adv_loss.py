"""Forward + backward of the triplet loss beside its peers, in one run with interleaved repetitions.

Our picks are compared with float64; losses and gradients are what the tests are for. One JSON file
under benchmarks/results/<machine>/, written after each problem; what fails or is not installed is
kept as a row with `error`. latency.py is the one that looks at every size and at a GPU. Exit status
1: a pick of ours was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cases import loss_problem
from children import described
from harness import Row, measure, print_table, write_results
from latency_impls import REGRET_TOLERANCE, picks, regret
from loss_peers import LOSS_PEERS
from packages import NotHere
from targets import LOSS_SHAPES, LOSS_TARGETS, judged

import tla_ops

EXAMPLES = """examples:
  python benchmarks/bench_triplet_adv_loss.py
  python benchmarks/bench_triplet_adv_loss.py --quick --only tla_ops,eager --output /tmp/loss.json
"""


def rows_of(
    shape: tuple[int, int, int], mode: str, repeats: int, only: set[str] | None
) -> list[Row]:
    problem = loss_problem(*shape)
    functions, failed = {}, []
    for name, peer in LOSS_PEERS.items():
        if only is not None and name not in only:
            continue
        try:
            functions[name] = peer(problem, mode)
            functions[name]()
        except Exception as error:  # the others are worth measuring
            functions.pop(name, None)
            row = Row("triplet_adv_loss", name, mode, *shape, "float32")
            row.more = {"error": str(error) if isinstance(error, NotHere) else described(error)}
            failed.append(row)
    rows = measure("triplet_adv_loss", functions, mode, shape, "float32", repeats)
    for row in rows:
        if row.impl == "tla_ops":
            row.regret = regret(problem, picks(tla_ops, problem))
            row.more["correct"] = row.regret <= REGRET_TOLERANCE
    return rows + failed


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", type=lambda s: set(s.split(",")), metavar="IMPL,...")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    rows: list[Row] = []
    wrong: list[str] = []
    for shape in LOSS_SHAPES:
        for mode in ("forward", "both"):
            rows += rows_of(shape, mode, 10 if args.quick else 200, args.only)
            wrong = [
                f"{row.mode} ({row.B}, {row.M}, {row.D}): {row.more.get('error', row.regret)}"
                for row in rows
                if row.impl == "tla_ops" and not row.more.get("correct")
            ]
            path = write_results("triplet_adv_loss", rows, args.output, wrong=wrong)
    print_table(rows)
    print()
    for target in LOSS_TARGETS:
        measured, met = judged(target, [row.as_json() for row in rows])
        print(f"{target.what}: {measured}, {target.asked}: {met}")
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"\nwritten to {path}")
    return 1 if wrong else 0


# pytest benchmarks/bench_triplet_adv_loss.py: pytest-benchmark over the papers' pool sizes.


def pytest_generate_tests(metafunc: Any) -> None:
    metafunc.parametrize("m", [1, 250, 500, 1000, 2000])
    metafunc.parametrize("mode", ["forward", "both"])
    metafunc.parametrize("impl", list(LOSS_PEERS))


def bench_triplet_adv_loss(benchmark: Any, m: int, mode: str, impl: str) -> None:
    benchmark.group = f"triplet_adv_loss {mode} (50, {m}, 640)"
    benchmark(LOSS_PEERS[impl](loss_problem(50, m, 640), mode))


if __name__ == "__main__":
    sys.exit(main())
