"""What no implementation can go below on this GPU: empty launches under a graph, and the copy rate.

Of latency.py; `python benchmarks/floor.py` prints them alone. Needs nvcc for the launches.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Row, Run, measure_on, print_table, quantiles

KINDS = {"empty_kernel": 0, "cooperative_grid_sync": 1, "cluster_8": 2, "memset_and_kernel": 3}
CHAIN = 16
SCRATCH_BYTES = 4096  # a workspace of a few hundred partial results


@functools.cache
def _capture_stream() -> torch.cuda.Stream:
    """One for all captures: autograd runs a backward pass on the stream of its forward pass."""
    return torch.cuda.Stream()


def captured(body: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of what the body launches; call the body once before, outside.

    Not `torch.cuda.graph`, which empties the allocator's cache and may collect garbage each time:
    there are thousands of captures here.
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(_capture_stream()):
        graph.capture_begin()
        try:
            body()
        finally:
            graph.capture_end()
    return graph


class Launcher:
    """floor.cu, built for this GPU."""

    def __init__(self) -> None:
        nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
        if nvcc is None:
            raise RuntimeError("nvcc was not found")
        arch = "{}{}".format(*torch.cuda.get_device_capability())
        with tempfile.TemporaryDirectory() as folder:
            library = f"{folder}/floor.so"
            build(nvcc, arch, library)
            self._launch = ctypes.CDLL(library).tla_floor_launch  # stays mapped without its file
        self._launch.argtypes = [
            *(ctypes.c_int, ctypes.c_void_p),
            *(ctypes.c_size_t, ctypes.c_void_p),
        ]
        self._scratch = torch.zeros(SCRATCH_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, kind: str) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        error = self._launch(KINDS[kind], self._scratch.data_ptr(), SCRATCH_BYTES, stream)
        if error:
            raise RuntimeError(f"{kind}: CUDA error {error}")

    def graph(self, kind: str, count: int) -> Run:
        """`count` of the kind, one after the other in one graph."""

        def body() -> None:
            for _ in range(count):
                self(kind)

        body()
        torch.cuda.synchronize()
        return Run(captured(body).replay)


def build(nvcc: str, arch: str, library: str) -> None:
    source = Path(__file__).with_name("floor.cu")
    subprocess.run(
        [
            *(nvcc, "-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC", "-o", library),
            *(f"-gencode=arch=compute_{arch},code=sm_{arch}", str(source)),
        ],
        check=True,
    )


def floor_rows(samples: int) -> tuple[list[Row], list[str]]:
    """Rows of the bench `floor`, and what could not be had."""
    rows, left_out = [], []
    try:
        launcher = Launcher()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return [copy_row(samples)], [f"floor: {error}"]
    runs, chains = {}, {}
    for kind in KINDS:
        try:
            runs[kind] = [launcher.graph(kind, 1)]
            chains[kind] = [launcher.graph(kind, CHAIN)]
        except RuntimeError as error:
            left_out.append(f"floor: {error}")
    if "empty_kernel" in runs:
        runs["two_empty_kernels"] = [launcher.graph("empty_kernel", 2)]
    times = measure_on("cuda", runs, 64, samples)
    in_chain = measure_on("cuda", chains, 8, samples)
    for kind, values in times.items():
        more = {}
        if kind in in_chain:
            more["chained_ms"] = quantiles(in_chain[kind])[0] / CHAIN
        rows.append(_row(kind, values, more))
    return [*rows, copy_row(samples)], left_out


def copy_row(samples: int) -> Row:
    """A copy of 1 GiB; `gb_per_s` counts bytes read and bytes written."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    run = Run(lambda: target.copy_(source))
    values = measure_on("cuda", {"copy": [run]}, 4, samples)["copy"]
    bandwidth = 2 * source.nbytes / quantiles(values)[0] / 1e6
    return _row("copy", values, {"gb_per_s": bandwidth})


def _row(kind: str, values: list[float], more: dict[str, float]) -> Row:
    return Row(
        *("floor", kind, "launch", 0, 0, 0, "float32", *quantiles(values)),
        repeats=len(values),
        more=more,
    )


if __name__ == "__main__":
    rows, missing = floor_rows(samples=50)
    print_table(rows)
    print(*missing, sep="\n")
