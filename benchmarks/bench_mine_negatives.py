"""Mining beside a bare matrix product, eager PyTorch and the searches of other packages.

Every search's picks are compared with float64 on a sample of rows; then implementations take turns.
One JSON file under benchmarks/results/<machine>/, written after each row: first from a single call,
then from many. What fails or is not installed is kept as a row with `error`. Exit status 1: a pick
of ours was wrong, or ours failed.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from cases import Problem, Task, judge, mining_problem
from children import Children, described, limit_memory
from harness import Row, Run, elapsed, gpu_peak_mb, print_table, quantiles, write_results
from memory import Peaks
from mining_cases import DATA, DTYPES, Case, cpu_cases, gpu_cases, quick_cases
from mining_impls import Key, implementations
from ours import planned, tla_ops_search
from packages import NotHere
from peers import MINING_PEERS

EXAMPLES = """examples:
  python benchmarks/bench_mine_negatives.py                        # every case for this machine
  python benchmarks/bench_mine_negatives.py --seconds 100          # the most telling ones
  python benchmarks/bench_mine_negatives.py --shape 4096,65536,640 --dtype float32 --data relu
  python benchmarks/bench_mine_negatives.py --quick --only tla_ops,mm,eager --output /tmp/mine.json
"""
REGRET = {"mine_exact": 2e-5, "mine_fast": 2e-2}
"""What ours may have: DESIGN's bound, and a half-precision screen's rounding with room."""
LONG_MS = 1e3
"""What takes longer has three turns; the others go on."""
QUEUE_MS, QUEUE = 20.0, 16
"""Short calls are timed several at once, so that launching them is not what is measured."""


class Bench:
    """The rows so far, what was left out and why, and what was wrong."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, args.device
        self.children = Children()
        self.started = time.monotonic()
        self.seed = torch.seed() % 2**31 if args.seed is None else args.seed
        self.generator = torch.Generator(args.device).manual_seed(self.seed)
        self.rows: dict[tuple[Case, Key], Row] = {}  # by case.problem
        self.left_out: list[str] = []
        self.wrong: list[str] = []

    def time_is_up(self) -> bool:
        return self.args.seconds is not None and self.since() > self.args.seconds

    def since(self) -> float:
        return time.monotonic() - self.started

    def save(self) -> Path:
        return write_results(
            "mine_negatives", list(self.rows.values()), self.args.output, self.device,
            self.args.commit, seed=self.seed, left_out=self.left_out, wrong=self.wrong,
        )  # fmt: skip

    def run(self, case: Case) -> None:
        if self.time_is_up():
            self.left_out.append(f"{case}: {self._late()}")
            return
        self._forget()  # of the problem before
        problem = mining_problem(case.shape, getattr(torch, case.dtype), case.data, self.generator)
        queues: dict[Key, list[Run]] = {}
        for key, impl in implementations(case, self.device, self.args.only).items():
            if self.time_is_up():
                self.left_out.append(f"{case} {' '.join(key)}: {self._late()}")
                continue
            row = Row("mine_negatives", key[1], key[0], *case.shape, case.dtype)
            row.more = {"data": case.data, **impl.facts}
            self.rows[case.problem, key] = row
            with self.kept(case, key):
                run = Run(impl.make(problem), within=impl.within)
                if key[1] == "tla_ops" and self.device == "cuda":
                    row.more["path"] = planned(problem)
                self._first(case, key, problem, run, impl.task)
                count = int(QUEUE_MS / max(row.median_ms or QUEUE_MS, 1e-3))
                queues[key] = [run] * min(QUEUE, max(1, count))
            self.save()
        self._turns(case, queues)
        timed = list(queues)
        del problem, queues
        self._forget()
        self._memory(case, timed)
        print(f"{self.since():6.1f} s  {case}", file=sys.stderr, flush=True)

    def _first(self, case: Case, key: Key, problem: Problem, run: Run, task: Task | None) -> None:
        """Call it for its picks, and again for memory and a first time."""
        row = self.rows[case.problem, key]
        with run.within():
            picks = run.call()
        if task is not None:
            found = judge(problem, picks, task)
            row.regret = found.pop("regret", None)
            row.more |= found | {"looks_for": looks_for(task)}
            self._check(case, key)
        del picks
        times = []
        if self.device == "cuda":
            row.peak_mb = gpu_peak_mb(lambda: times.append(elapsed(self.device, [run])))
        else:
            times.append(elapsed(self.device, [run]))
        self._timed(case, key, times)

    def _check(self, case: Case, key: Key) -> None:
        row = self.rows[case.problem, key]
        right = row.regret is not None and row.regret <= REGRET[key[0]]
        if key[1].startswith("tla_ops"):
            row.more["correct"] = right and not row.more.get("not_allowed")
            if not row.more["correct"]:
                found = f"regret {row.regret}, {row.more.get('not_allowed', 0)} not allowed"
                self.wrong.append(f"{case} {' '.join(key)}: {found}")

    def _turns(self, case: Case, queues: dict[Key, list[Run]]) -> None:
        times: dict[Key, list[float]] = {key: [] for key in queues}
        begun = self.since()
        for turn in range(self.args.samples):
            long = self.since() - begun > self.args.case_seconds
            if (turn >= 3 and long) or self.time_is_up():
                break
            for key, queue in list(queues.items()):
                if turn >= 3 and times[key][0] > LONG_MS:
                    continue
                with self.kept(case, key):
                    times[key].append(elapsed(self.device, queue))
                if "error" in self.rows[case.problem, key].more:
                    del queues[key]
        for key, values in times.items():
            if "error" not in self.rows[case.problem, key].more and len(values) > 1:
                self._timed(case, key, values)

    def _memory(self, case: Case, keys: list[Key]) -> None:
        """Of a processor's, each as a whole process."""
        keys = [key for key in keys if "error" not in self.rows[case.problem, key].more]
        if self.device == "cuda" or self.args.no_memory or not keys:
            return
        peaks = None
        for key in keys:
            if self.time_is_up():
                self.left_out.append(f"{case} {' '.join(key)}, memory: {self._late()}")
                continue
            peaks = peaks or Peaks(self.children, case)
            row = self.rows[case.problem, key]
            found = peaks.of(key)
            row.peak_mb = found.pop("peak_mb", None)
            row.more |= found
            self.save()

    def _late(self) -> str:
        return f"after {self.args.seconds:.0f} s"

    def _timed(self, case: Case, key: Key, values: Sequence[float]) -> None:
        row = self.rows[case.problem, key]
        row.repeats = len(values)
        if len(values) > 1:
            row.median_ms, row.p20_ms, row.p80_ms = quantiles(values)
        else:
            row.median_ms = row.p20_ms = row.p80_ms = statistics.median(values)
        if row.impl != "copy":
            row.more["tflops"] = 2 * case.products / row.median_ms / 1e9
        # Of all: each of them may have a better time now.
        bare = exact = self.rows.get((case.problem, ("mine_exact", "mm")))
        if case.dtype != "float32":
            exact = self.rows.get((case.problem, ("mine_exact", "mm_float32")))
        for (other, _), row in self.rows.items():
            if other == case.problem and bare and bare.median_ms and row.median_ms:
                row.more["of_mm"] = bare.median_ms / row.median_ms
            if other == case.problem and exact and exact.median_ms and row.median_ms:
                row.more["times_float32_mm"] = row.median_ms / exact.median_ms

    @contextmanager
    def kept(self, case: Case, key: Key) -> Iterator[None]:
        """Whatever goes wrong with one of them stays in its row; the others are worth measuring."""
        try:
            yield
        except Exception as error:
            row = self.rows[case.problem, key]
            said = str(error) if isinstance(error, NotHere) else described(error)
            row.more["error"] = said
            row.median_ms = row.p20_ms = row.p80_ms = None
            if key[1].startswith("tla_ops") and not isinstance(error, NotHere):
                self.wrong.append(f"{case} {' '.join(key)}: {said}")
            error.__traceback__ = None  # its frames hold tensors
        else:
            return
        self._forget()

    def _forget(self) -> None:
        gc.collect()
        self.save()
        if self.device == "cuda":
            with suppress(RuntimeError):  # an error that CUDA repeats for ever after
                torch.cuda.empty_cache()


def looks_for(task: Task) -> str:
    among = "other classes" if task.masked else "all"
    return f"{'cosine' if task.signed else '|cosine|'} among {among}"


def chosen(args: argparse.Namespace) -> Iterator[Case]:
    if args.shape:
        dtypes, data = args.dtype or DTYPES, args.data or DATA[:1]
        cases = [Case(s, t, d) for s in args.shape for t in dtypes for d in data]
        yield from cases
        if args.device == "cuda":
            yield from (case._replace(slow=True) for case in cases)
        return
    cases = quick_cases() if args.quick else cpu_cases() if args.device == "cpu" else gpu_cases()
    for case in cases:
        if case.dtype in (args.dtype or DTYPES) and case.data in (args.data or DATA):
            yield case


def shape(text: str) -> tuple[int, int, int]:
    b, m, d = (int(part) for part in text.split(","))
    return b, m, d


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    add("--quick", action="store_true", help="tiny problems, few repetitions")
    add("--seconds", type=float, help="begin nothing further after so long")
    add("--case-seconds", type=float, help="for one problem's turns, 3 at least (3; on a CPU 25)")
    add("--samples", type=int, help="turns at most (default: 15, quick: 3)")
    add("--shape", type=shape, action="append", metavar="B,M,D", help="these alone, may repeat")
    add("--dtype", action="append", choices=DTYPES, help="may repeat")
    add("--data", action="append", choices=DATA, help="may repeat")
    add("--only", type=lambda s: set(s.split(",")), metavar="IMPL,...", help="implementations")
    add("--no-memory", action="store_true", help="on a processor: leave out peak memory")
    add("--seed", type=int, help="default: another one each time; in the file")
    add("--commit", help="what to call these sources, where there is no git")
    add("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    args = parser.parse_args(arguments)
    args.case_seconds = args.case_seconds or (3.0 if args.device == "cuda" else 25.0)
    args.samples = args.samples or (3 if args.quick else 15)
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    torch.set_float32_matmul_precision("highest")  # no TF32 in what is called float32
    if args.device == "cpu":
        limit_memory()
    bench = Bench(args)
    path = bench.save()
    with bench.children:
        for case in chosen(args):
            bench.run(case)
    path = bench.save()
    print_table(list(bench.rows.values()))
    for line in bench.left_out:
        print(f"left out: {line}")
    for line in bench.wrong:
        print(f"WRONG: {line}")
    print(f"\nwritten to {path}")
    return 1 if bench.wrong else 0


# pytest benchmarks/bench_mine_negatives.py: pytest-benchmark over a few of these problems.


def pytest_generate_tests(metafunc: Any) -> None:
    cases = [Case(s, t) for s in ((50, 2000, 640), (256, 8192, 640)) for t in DTYPES]
    metafunc.parametrize("case", cases, ids=str)
    metafunc.parametrize("impl", ["tla_ops", *(n for n, p in MINING_PEERS.items() if not p.slow)])


def bench_mine_negatives(benchmark: Any, case: Case, impl: str) -> None:
    problem = mining_problem(case.shape, getattr(torch, case.dtype), case.data)
    make = tla_ops_search if impl == "tla_ops" else MINING_PEERS[impl].make
    benchmark.group = str(case)
    benchmark(make(problem))


if __name__ == "__main__":
    sys.exit(main())
