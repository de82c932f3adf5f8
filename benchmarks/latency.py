"""Forward and backward of the triplet loss at the papers' sizes, where launches are everything.

    python benchmarks/latency.py [--quick] [--device cpu] [--seconds N] [--output FILE]

Beside ours: the reference in eager PyTorch, both under CUDA graphs, torch.compile, and the floor
(empty launches; bytes over the copy rate). Results are compared with float64 before they are timed.
One JSON file under benchmarks/results/<machine>/, written after each problem. Exit status 1: a
result was wrong or an implementation failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from cases import Problem
from floor import floor_rows
from harness import (
    Row,
    Run,
    gpu_peak_mb,
    host_time,
    measure_on,
    print_table,
    quantiles,
    write_results,
)
from latency_impls import (
    EAGER,
    GRAPH,
    MODES,
    acceptable,
    bytes_moved,
    compile_runs,
    eager_run,
    errors,
    graph_runs,
    picks,
    random_problem,
    regret,
    truth,
)

import tla_ops

B = 50
TARGET = (50, 500, 640)
SHAPES = [(B, m, d) for d in (640, 1024, 2048) for m in (500, 1, 250, 1000, 2000)]
COMPILED = [TARGET, (50, 2000, 640)]
"""torch.compile takes seconds a shape; --compile all does it for all."""
DTYPES = (torch.float32, torch.bfloat16)


@dataclass
class Plan:
    device: str
    shapes: Sequence[tuple[int, int, int]]
    compiled: Sequence[tuple[int, int, int]]
    sets: int
    calls: int
    samples: int


class Bench:
    """The rows so far, what was left out and why, and what was wrong."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.generator = torch.Generator(plan.device).manual_seed(seed)
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.wrong: list[str] = []
        self.empty_ms: dict[str, float] = {}
        self.bandwidth = 0.0  # bytes a millisecond

    def floor(self) -> None:
        rows, missing = floor_rows(self.plan.samples)
        self.rows += rows
        self.left_out += missing
        by_kind = {row.impl: row for row in rows}
        self.bandwidth = by_kind["copy"].more["gb_per_s"] * 1e6
        if "two_empty_kernels" in by_kind:
            one, two = (by_kind[k].median_ms for k in ("empty_kernel", "two_empty_kernels"))
            self.empty_ms = {"forward": one, "backward": one, "both": two}

    def problem(self, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        problems = [random_problem(shape, dtype, self.generator) for _ in range(self.plan.sets)]
        for mode in MODES:
            self.rows += self._mode(problems, shape, dtype, mode)
        if self.plan.device == "cuda":
            torch.cuda.empty_cache()  # a graph has a memory pool of its own

    def _mode(
        self, problems: list[Problem], shape: tuple[int, int, int], dtype: torch.dtype, mode: str
    ) -> list[Row]:
        name = str(dtype).removeprefix("torch.")
        runs, chains, facts = self._runs(problems, shape, dtype, mode, f"{mode} {shape} {name}")
        device, calls, samples = self.plan.device, self.plan.calls, self.plan.samples
        times = measure_on(device, runs, calls, samples)
        chained = measure_on(device, chains, max(1, calls // len(problems)), samples)
        rows = []
        for impl, values in times.items():
            more = facts[impl]
            if impl in chained:
                more["chained_ms"] = quantiles(chained[impl])[0] / len(problems)
            if device == "cuda":
                if runs[impl][0].prepare is None:
                    more["host_ms"] = host_time(runs[impl])
                if impl in EAGER:
                    more["peak_mb"] = gpu_peak_mb(runs[impl][0].call)
            row = Row("triplet_adv_loss", impl, mode, *shape, name, *quantiles(values))
            row.repeats, row.more = len(values), more | {"input_sets": len(problems)}
            rows.append(row)
        floors = {"floor_launches": self.empty_ms.get(mode)}
        if self.bandwidth:
            floors["floor_bytes"] = bytes_moved(problems[0], mode) / self.bandwidth
        for impl, value in floors.items():
            if value is not None:
                rows.append(Row("triplet_adv_loss", impl, mode, *shape, name, *[value] * 3))
        return rows

    def _runs(
        self,
        problems: list[Problem],
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        mode: str,
        what: str,
    ) -> tuple[dict[str, list[Run]], dict[str, list[Run]], dict[str, dict]]:
        """Runs by implementation, those in one graph, and what the comparison with float64 gave."""
        makers = {
            impl: partial(lambda m: ([eager_run(m, p, mode) for p in problems], None), module)
            for impl, module in EAGER.items()
        }
        if self.plan.device == "cuda":
            for impl, module in GRAPH.items():
                makers[impl] = partial(graph_runs, module, problems, mode)
        if shape in self.plan.compiled:
            makers["compile"] = lambda: (compile_runs(problems, mode), None)
        runs: dict[str, list[Run]] = {}
        chains: dict[str, list[Run]] = {}
        facts: dict[str, dict] = {}
        for impl, make in makers.items():
            # Whatever goes wrong with one of them, the others are still worth measuring.
            try:
                several, chain = make()
                found = self._compare(impl, problems, several, mode)
            except Exception as error:
                first = str(error).strip().splitlines()[:1]
                self.wrong.append(f"{impl} {what}: {type(error).__name__}: {''.join(first)}")
                continue
            if not acceptable(found, dtype):
                self.wrong.append(f"{impl} {what}: {found}")
            facts[impl] = found | {"correct": acceptable(found, dtype)}
            runs[impl] = several
            if chain is not None:
                chains[impl] = [chain]
        return runs, chains, facts

    def _compare(
        self, impl: str, problems: list[Problem], runs: list[Run], mode: str
    ) -> dict[str, float]:
        """The first and the last set of inputs: the errors of the worse."""
        module = (EAGER | GRAPH).get(impl, EAGER["eager"])
        worst: dict[str, float] = {}
        for p, run in ((problems[0], runs[0]), (problems[-1], runs[-1])):
            index = picks(module, p)
            if run.prepare:
                run.prepare()
            outputs = tuple(x.clone() for x in run.call())
            found = errors(outputs, truth(p, index), mode) | {"regret": regret(p, index)}
            for key, value in found.items():
                worst[key] = max(worst.get(key, 0.0), value) if value == value else value
        return worst


def plan_of(args: argparse.Namespace) -> Plan:
    gpu = args.device == "cuda"
    shapes = [TARGET, (50, 1, 640)] if args.quick else SHAPES
    compiled = {"none": [], "papers": COMPILED, "all": SHAPES}[args.compile]
    if args.quick:
        return Plan(args.device, shapes, compiled, sets=2, calls=4, samples=5)
    return Plan(args.device, shapes, compiled, sets=8, calls=32 if gpu else 8, samples=21)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--quick", action="store_true", help="two sizes, few repetitions")
    parser.add_argument("--compile", choices=("none", "papers", "all"), default="papers")
    parser.add_argument("--seconds", type=float, help="begin no further problem after so long")
    parser.add_argument("--seed", type=int, help="default: another one each time; in the file")
    parser.add_argument("--commit", help="what to call these sources, where there is no git")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    started = time.monotonic()
    seed = torch.seed() % 2**31 if args.seed is None else args.seed
    bench = Bench(plan_of(args), seed)
    path = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def save() -> Path:
            said = sorted({str(w.message) for w in caught if "tla_ops" in str(w.message)})
            return write_results(
                *("latency", bench.rows, args.output, args.device, args.commit),
                seed=seed,
                left_out=bench.left_out,
                wrong=bench.wrong,
                warnings=said,
            )

        if args.device == "cuda":
            bench.floor()
            failed = tla_ops.selftest().failed
            # What is left out would be timed as plain PyTorch under our name.
            bench.wrong += [f"self-test: {name}: {reason}" for name, reason in failed.items()]
            path = save()
        for shape in bench.plan.shapes if not bench.wrong else ():
            for dtype in DTYPES:
                if args.seconds and time.monotonic() - started > args.seconds:
                    bench.left_out.append(f"{shape} {dtype}: after {args.seconds:.0f} s")
                    continue
                bench.problem(shape, dtype)
                print(f"{time.monotonic() - started:6.1f} s  {shape} {dtype}", file=sys.stderr)
                path = save()
        path = save()
    print_table([row for row in bench.rows if (row.B, row.M, row.D) in (TARGET, (0, 0, 0))])
    for line in bench.left_out:
        print(f"left out: {line}")
    for line in bench.wrong:
        print(f"WRONG: {line}")
    print(f"\nwritten to {path}")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
