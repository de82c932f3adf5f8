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
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch

import tla_ops

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One implementation on one problem."""

    bench: str
    impl: str
    mode: str
    B: int
    M: int
    D: int
    dtype: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    peak_mb: float | None = None
    regret: float | None = None
    repeats: int = field(default=0)


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
        p20, *_, p80 = statistics.quantiles(values, n=5)
        rows.append(
            Row(bench, name, mode, *shape, dtype, statistics.median(values), p20, p80,
                repeats=repeats)
        )  # fmt: skip
    return rows


def write_results(name: str, rows: list[Row], output: Path | None = None) -> Path:
    """One object a file, named after the benchmark, in the machine's own folder."""
    path = output or RESULTS / machine() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine(),
        "device": f"{cpu_model()}, {torch.get_num_threads()} threads",
        "instruction_sets": tla_ops.build_info()["cpu"]["available"],
        "driver": None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": [{k: v for k, v in asdict(row).items() if v is not None} for row in rows],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)
    return path


def print_table(rows: list[Row]) -> None:
    """Each problem with its implementations, and how many times slower each is than ours."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.bench, row.mode, row.B, row.M, row.D, row.dtype), []).append(row)
    for (bench, mode, b, m, d, dtype), group in groups.items():
        ours = next(row.median_ms for row in group if row.impl == "tla_ops")
        print(f"\n{bench} {mode}, B={b} M={m} D={d} {dtype}")
        for row in sorted(group, key=lambda row: row.median_ms):
            regret = "" if row.regret is None else f"  regret {row.regret:.1e}"
            print(
                f"  {row.impl:<26}{row.median_ms:10.3f} ms  "
                f"[{row.p20_ms:.3f}, {row.p80_ms:.3f}]{row.median_ms / ours:8.2f} x{regret}"
            )


def cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """A folder name for this CPU: its model and the widest instruction set."""
    model = "".join(c if c.isalnum() else "-" for c in cpu_model().lower())
    words = [w for w in model.split("-") if w and w not in ("r", "processor", "cpu")]
    return "-".join([*words, tla_ops.build_info()["cpu"]["in_use"]])


def commit() -> str | None:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return run.stdout.strip() or None
