"""Timing, peak memory, and the JSON that every benchmark writes."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import tla_ops

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Row:
    """One implementation on one problem. Without times it failed: `more` says how."""

    bench: str
    impl: str
    mode: str
    B: int
    M: int
    D: int
    dtype: str
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    peak_mb: float | None = None
    regret: float | None = None
    repeats: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    """What a benchmark has beyond these: further keys of the row in the file."""

    def as_json(self) -> dict[str, Any]:
        row = asdict(self)
        more = row.pop("more")
        return {key: value for key, value in (row | more).items() if value is not None}


def measure(
    bench: str,
    functions: dict[str, Callable[[], object]],
    mode: str,
    shape: tuple[int, int, int],
    dtype: str,
    repeats: int,
) -> list[Row]:
    """Times the functions in turn, repetition by repetition, so that noise falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(3):
            function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    rows = []
    for name, values in times.items():
        rows.append(Row(bench, name, mode, *shape, dtype, *quantiles(values), repeats=repeats))
    return rows


@dataclass
class Run:
    """A call to time. With `prepare`, which is not timed, every call is timed by itself. `within`:
    what is in force during the call."""

    call: Callable[[], object]
    prepare: Callable[[], object] | None = None
    within: Callable[[], AbstractContextManager[None]] = nullcontext


def measure_on(
    device: str, runs: dict[str, Sequence[Run]], calls: int, samples: int
) -> dict[str, list[float]]:
    """Milliseconds a call, `samples` times `calls` calls that rotate among an implementation's runs
    (one a set of inputs). Implementations take turns. On a GPU between two events."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for several in runs.values():
        for run in (*several, *several[:1], *several[:1]):
            if run.prepare:
                run.prepare()
            run.call()
    for _ in range(samples):
        for name, several in runs.items():
            queue = [several[i % len(several)] for i in range(calls)]
            if several[0].prepare:
                times[name] += [elapsed(device, [run]) for run in queue[: len(several)]]
            else:
                times[name].append(elapsed(device, queue))
    return times


def elapsed(device: str, queue: Sequence[Run]) -> float:
    """Milliseconds a call."""
    if queue[0].prepare:
        queue[0].prepare()
    with queue[0].within():
        return _elapsed(device, queue)


def _elapsed(device: str, queue: Sequence[Run]) -> float:
    if device != "cuda":
        started = time.perf_counter()
        for run in queue:
            run.call()
        return (time.perf_counter() - started) * 1e3 / len(queue)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for run in queue:
        run.call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / len(queue)


def host_time(runs: Sequence[Run]) -> float:
    """Milliseconds a call keeps the host, without waiting for the GPU; the median of 16 calls."""
    times = []
    for i in range(16):
        torch.cuda.synchronize()
        started = time.perf_counter()
        runs[i % len(runs)].call()
        times.append((time.perf_counter() - started) * 1e3)
    torch.cuda.synchronize()
    return statistics.median(times)


def gpu_peak_mb(call: Callable[[], object]) -> float:
    """Memory a call takes beyond what is in use before it: outputs, gradients, temporaries."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, 20%, 80%)"""
    p20, *_, p80 = statistics.quantiles(values, n=5, method="inclusive")
    return statistics.median(values), p20, p80


def write_results(
    name: str,
    rows: list[Row],
    output: Path | None = None,
    device: str = "cpu",
    commit: str | None = None,
    **more: object,
) -> Path:
    """One object a file, named after the benchmark, in the machine's own folder.

    A file is whole or as it was before: a benchmark may write after each step.
    """
    path = output or RESULTS / machine(device) / f"{name}.json"
    document = environment(device, commit) | more | {"rows": [row.as_json() for row in rows]}
    write_json(path, document)
    return path


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    rows = document.get("rows", [])
    head = json.dumps({k: v for k, v in document.items() if k != "rows"}, indent=1)
    body = ",\n".join(f"  {json.dumps(row)}" for row in rows)  # a line a row
    temporary.write_text(f'{head[:-2]},\n "rows": [\n{body}\n ]\n}}\n')
    os.replace(temporary, path)


def environment(device: str = "cpu", commit: str | None = None) -> dict[str, Any]:
    """What every results file says of where its numbers come from."""
    facts: dict[str, Any] = {"machine": machine(device)}
    if device == "cuda":
        facts |= {"device": gpu_description(), "driver": driver(), "cpu": cpu_model()}
        facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    else:
        facts["device"] = f"{cpu_model()}, {torch.get_num_threads()} threads"
        facts["instruction_sets"] = tla_ops.build_info()["cpu"]["available"]
        facts["driver"] = None
    return facts | {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit or current_commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def print_table(rows: list[Row]) -> None:
    """Each problem with its implementations, and how many times slower each is than ours."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        problem = row.B, row.M, row.D, row.dtype, row.more.get("data", "")
        groups.setdefault((row.bench, row.mode, *problem), []).append(row)
    for (bench, mode, b, m, d, dtype, data), group in groups.items():
        ours = next((row.median_ms for row in group if row.impl == "tla_ops"), None)
        print(f"\n{bench} {mode}, B={b} M={m} D={d} {dtype} {data}".rstrip())
        for row in group:
            if row.median_ms is None:
                print(f"  {row.impl:<26}{row.more.get('error', '')}")
        for row in sorted((r for r in group if r.median_ms is not None), key=lambda r: r.median_ms):
            ratio = f"{row.median_ms / ours:8.2f} x" if ours else ""
            regret = "" if row.regret is None else f"  regret {row.regret:.1e}"
            print(
                f"  {row.impl:<26}{row.median_ms:10.3f} ms  "
                f"[{row.p20_ms:.3f}, {row.p80_ms:.3f}]{ratio}{regret}"
            )


def cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def gpu_description() -> str:
    p = torch.cuda.get_device_properties(0)
    memory = p.total_memory / 2**30
    return f"{p.name}, {p.multi_processor_count} multiprocessors, {memory:.0f} GiB"


def driver() -> str | None:
    version = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return version.splitlines()[0] if version else None


def machine(device: str = "cpu") -> str:
    """A folder name: the GPU's name, or the CPU's model and its widest vectors or matrix unit."""
    if device == "cuda":
        return dashed(torch.cuda.get_device_name())
    words = [w for w in dashed(cpu_model()).split("-") if w not in ("r", "processor", "cpu")]
    vectors = tla_ops.build_info()["cpu"]["in_use"].split("_")[0]  # whatever screens beside them
    return "-".join([*words, vectors])


def dashed(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def current_commit() -> str | None:
    """The checkout's commit, "-dirty" where anything but results differs from it."""
    commit = output_of("git", "rev-parse", "--short", "HEAD")
    if not commit:
        return None
    rendered = [":!benchmarks/results", ":!docs/performance.md", ":!docs/scaling*"]
    changed = output_of("git", "status", "--porcelain", "--", ".", *rendered)
    return commit if changed == "" else f"{commit}-dirty"


def output_of(*command: str) -> str | None:
    """What a command prints, None if it is missing or fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
