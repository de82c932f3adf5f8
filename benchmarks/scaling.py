"""Mining's cost on a processor against candidates, anchors, features and threads.

Ours beside eager PyTorch and eager PyTorch in chunks, in turns; laws are fitted, and peak memory is
measured in processes of their own. One JSON file under benchmarks/results/<machine>/, written after
each step, of which benchmarks/render.py makes docs/scaling.md and its figures. Exit status 1: a
pick of ours was wrong, or ours failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cases import Problem, Task, judge, mining_problem
from children import Children, described, limit_memory, machine_bytes
from fits import crossover, exponent, linear
from harness import Row, Run, elapsed, quantiles, write_results
from mining_cases import Case, Shape
from mining_impls import implementations
from scaling_memory import largest, laws, peaks, proof

EXAMPLES = """examples:
  python benchmarks/scaling.py
  python benchmarks/scaling.py --axis M --axis threads
  python benchmarks/scaling.py --quick --output /tmp/scaling.json
"""
IMPLS = ["tla_ops", "eager", "eager_chunks"]
AXES = ("M", "B", "D", "threads", "memory")
REGRET = 2e-5
QUEUE_MS, LONG_MS = 10.0, 500.0
"""Shorter calls are timed several at once; longer ones are called three times."""


class Plan(NamedTuple):
    """Base shapes, of which one size varies; `memory`: candidates, and the anchors before them."""

    shapes: dict[str, Shape]
    grids: dict[str, list[int]]
    memory: tuple[int, list[int]]
    proof_share: int
    samples: int
    seconds: float


def full_plan() -> Plan:
    shapes = {"M": (50, 0, 640), "B": (0, 16384, 640), "D": (256, 16384, 0)}
    grids = {
        "M": [1, 3, 10, 30, 100, 300, 1000, 3000, 10**4, 30000, 10**5, 300000, 10**6],
        "B": [1, 4, 16, 64, 256, 1024, 4096],
        "D": [16, 64, 256, 640, 1024, 2048, 4096],
        "threads": threads(),
    }
    shapes["threads"] = (256, 65536, 640)
    return Plan(shapes, grids, (65536, [64, 256, 1024, 2048]), 16, 15, 1.5)


def quick_plan() -> Plan:
    shapes = {"M": (20, 0, 32), "B": (0, 300, 32), "D": (20, 300, 0), "threads": (20, 300, 32)}
    grids = {"M": [1, 10, 100, 1000], "B": [1, 10, 100], "D": [8, 64], "threads": threads()[:2]}
    return Plan(shapes, grids, (16384, [16, 512, 2048]), 128, 3, 0.2)


def threads() -> list[int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return sorted({2**i for i in range(10) if 2**i < (cores or 1)} | {cores or 1})


class Scaling:
    """The rows so far, what follows from them, what was left out and what was wrong."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.plan = args, quick_plan() if args.quick else full_plan()
        self.started = time.monotonic()
        self.rows: list[Row] = []
        self.found: dict[str, Any] = {}
        self.left_out: list[str] = []
        self.wrong: list[str] = []

    def save(self) -> Path:
        return write_results(
            "scaling", self.rows, self.args.output, commit=self.args.commit, **self.found,
            left_out=self.left_out, wrong=self.wrong,
        )  # fmt: skip

    def run(self, axis: str) -> None:
        for value, problem in self.problems(axis):
            if time.monotonic() - self.started > self.args.seconds:
                self.left_out.append(f"{axis} = {value}: after {self.args.seconds:.0f} s")
                continue
            before = torch.get_num_threads()
            try:
                if axis == "threads":
                    torch.set_num_threads(value)
                self.point(axis, value, problem)
            finally:
                torch.set_num_threads(before)
            self.save()
        self.found.setdefault("laws", {})[axis] = self.laws(axis)
        print(f"{time.monotonic() - self.started:6.1f} s  {axis}", file=sys.stderr, flush=True)

    def problems(self, axis: str) -> Iterator[tuple[int, Problem]]:
        """Candidates and anchors are made once and sliced; features of each width anew."""
        shape, grid = self.plan.shapes[axis], self.plan.grids[axis]
        if axis == "M":
            # A copy of the candidates, and a copy of that, should fit in half of memory.
            room = machine_bytes() // (2 * 3 * 4 * shape[2])
            self.left_out += [f"M = {m}: too large for this machine" for m in grid if m > room]
            grid = [m for m in grid if m <= room]
            p = mining_problem((shape[0], grid[-1], shape[2]), torch.float32)
            for m in grid:
                yield (
                    m,
                    Problem(p.anchor, p.anchor, p.candidates[:m], p.labels, p.candidate_labels[:m]),
                )
        elif axis == "B":
            p = mining_problem((grid[-1], *shape[1:]), torch.float32)
            for b in grid:
                a = p.anchor[:b]
                yield b, Problem(a, a, p.candidates, p.labels[:b], p.candidate_labels)
        elif axis == "D":
            for d in grid:
                yield d, mining_problem((*shape[:2], d), torch.float32)
        else:
            p = mining_problem(shape, torch.float32)
            for count in grid:
                yield count, p

    def point(self, axis: str, value: int, problem: Problem) -> None:
        shape = (len(problem.anchor), *problem.candidates.shape)
        queues: dict[str, list[Run]] = {}
        rows = {impl: Row("scaling", impl, "mine_exact", *shape, "float32") for impl in IMPLS}
        makers = implementations(Case(shape, "float32"), "cpu", set(IMPLS))
        for impl, row in rows.items():
            row.more = {"axis": axis, "value": value, "threads": torch.get_num_threads()}
            self.rows.append(row)
            try:
                run = Run(makers["mine_exact", impl].make(problem))
                picks = run.call()
                if impl == "tla_ops":
                    self.check(row, problem, picks)
                del picks
                first = elapsed("cpu", [run])
            except Exception as error:  # the others are worth measuring
                row.more["error"] = described(error)
                if impl == "tla_ops":
                    self.wrong.append(f"{axis} = {value}: {row.more['error']}")
                continue
            queues[impl] = [run] * max(1, min(64, int(QUEUE_MS / first)))
        times = self.turns(queues)
        for impl, values in times.items():
            rows[impl].repeats = len(values)
            rows[impl].median_ms, rows[impl].p20_ms, rows[impl].p80_ms = quantiles(values)

    def turns(self, queues: dict[str, list[Run]]) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {impl: [] for impl in queues}
        begun = time.monotonic()
        for turn in range(self.plan.samples):
            if turn >= 3 and time.monotonic() - begun > self.plan.seconds:
                break
            for impl, queue in queues.items():
                if turn < 3 or times[impl][0] < LONG_MS:
                    times[impl].append(elapsed("cpu", queue))
        return times

    def check(self, row: Row, problem: Problem, picks: torch.Tensor) -> None:
        found = judge(problem, picks, Task())
        row.regret = found.get("regret")
        right = "not_allowed" not in found and (row.regret or 0.0) <= REGRET
        row.more["correct"] = right
        if not right:
            self.wrong.append(f"{row.more['axis']} = {row.more['value']}: {found}")

    def laws(self, axis: str) -> dict[str, Any]:
        rows = [row for row in self.rows if row.more["axis"] == axis and row.median_ms]
        by: dict[str, dict[int, float]] = {impl: {} for impl in IMPLS}
        for row in rows:
            by[row.impl][row.more["value"]] = row.median_ms or 0.0
        told: dict[str, Any] = {}
        for impl, times in by.items():
            if len(times) < 2:
                continue
            xs, ts = list(times), list(times.values())
            if axis == "threads":
                told[impl] = {"efficiency": {x: ts[0] * xs[0] / (x * times[x]) for x in xs}}
            else:
                a, b = linear(xs, ts)
                told[impl] = {"a_ms": a, "b_ms": b, "exponent": exponent(xs, ts)}
        for other in IMPLS[1:]:
            both = [x for x in by["tla_ops"] if x in by[other]]
            if both and axis != "threads":
                times = [[by[impl][x] for x in both] for impl in ("tla_ops", other)]
                told.setdefault("crossover", {})[other] = crossover(both, *times)
        return told

    def memory(self, children: Children) -> None:
        m, anchors = self.plan.memory
        d = self.plan.shapes["M"][2]
        found: dict[tuple[Shape, str], float] = {}
        for shape, impl, peak in peaks(children, [(b, m, d) for b in anchors], IMPLS):
            row = Row("scaling", impl, "mine_exact", *shape, "float32")
            row.peak_mb = peak.pop("peak_mb", None)
            row.more = {"axis": "memory", "value": shape[0], **peak}
            self.rows.append(row)
            if row.peak_mb is not None:
                found[shape, impl] = row.peak_mb
            self.save()
        if len(found) < len(anchors) * len(IMPLS):
            self.left_out.append("laws of memory: not every peak was measured")
            return
        told = laws(found)
        self.found["bytes_a_pair"] = {impl: law["pair"] for impl, law in told.items()}
        self.found["bytes_a_candidate"] = {impl: law["candidate"] for impl, law in told.items()}
        self.found["memory_mb"] = machine_bytes() / 2**20
        self.found["largest"] = largest(told, [50, 1024, 16384], d)
        self.save()
        self.found["proof"] = proof(children, told, IMPLS, self.plan.proof_share)
        print(f"{time.monotonic() - self.started:6.1f} s  memory", file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny problems, few repetitions")
    add("--axis", action="append", choices=AXES, help="these alone, may repeat")
    add("--seconds", type=float, default=230.0, help="begin no further point after so long")
    add("--commit", help="what to call these sources, where there is no git")
    add("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    limit_memory()
    scaling = Scaling(args)
    axes = args.axis or AXES
    if "memory" in axes:  # first: the machine has most room then
        with Children() as children:
            scaling.memory(children)
    for axis in axes:
        if axis != "memory":
            scaling.run(axis)
    path = scaling.save()
    for title, lines in (("left out", scaling.left_out), ("WRONG", scaling.wrong)):
        for line in lines:
            print(f"{title}: {line}")
    print(f"written to {path}")
    return 1 if scaling.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
