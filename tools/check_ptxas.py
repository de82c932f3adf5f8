"""Compiles every csrc/cuda/*.cu with nvcc and fails where ptxas reports spills or a stack frame.

    python tools/check_ptxas.py [--allow PATTERN] [--json FILE] [FILE.cu ...]

A kernel that spills, or indexes a register array at run time, is right and slow: no test sees it.
Kernels that are written for an instruction (EXPECTED) are looked at in machine code, where there is
a cuobjdump (CUDA's, or `pip install nvidia-cuda-cuobjdump`, or the one that comes with triton).
Needs nvcc and an installed torch (its headers), no GPU. Flags are read from cmake/cuda.cmake, so
that what is examined is what is built. Exit status: 0 all clean, 1 a kernel is not (or there is
none), 2 no nvcc or no torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What cmake/cuda.cmake builds by default. PTX is compiled by the driver: no report, but it has to
# compile.
TARGETS = {
    "sm_80": ["-cubin", "-gencode=arch=compute_80,code=sm_80"],
    "sm_90a": ["-cubin", "-gencode=arch=compute_90a,code=sm_90a"],
    "compute_90": ["-ptx", "-arch=compute_90"],
}
# Instructions that kernels of such a name must have on sm_90a: without them they are right, on a
# slower path.
EXPECTED = {"screen_wgmma": ("HGMMA.64x256x16", "UTMALDG.2D.MULTICAST")}


@dataclass
class Kernel:
    """One entry function on one architecture, as ptxas reports it; sizes in bytes."""

    name: str
    arch: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    allowed: bool = False
    missing: list[str] = field(default_factory=list)  # instructions that it should have

    @property
    def clean(self) -> bool:
        return not (self.stack or self.spill_stores or self.spill_loads)


def parse(report: str) -> list[Kernel]:
    """The kernels of a `-Xptxas -v` report, under their mangled names."""
    kernels: dict[tuple[str, str], Kernel] = {}
    current: Kernel | None = None
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '([^']+)' for '([^']+)'", line):
            current = Kernel(found[1], found[2])
            kernels[current.name, current.arch] = current
        elif current is None:
            continue
        # Also said of device functions that were not inlined: they count towards the entry
        # function they are reported under.
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack, stores, loads = map(int, found.groups())
            current.stack = max(current.stack, stack)
            current.spill_stores += stores
            current.spill_loads += loads
        elif found := re.search(r"Used (\d+) registers", line):
            current.registers = int(found[1])
            if shared := re.search(r"(\d+) bytes smem", line):
                current.shared = int(shared[1])
            if cumulative := re.search(r"(\d+) bytes cumulative stack size", line):
                current.stack = max(current.stack, int(cumulative[1]))
    return list(kernels.values())


def parse_sass(listing: str) -> dict[str, set[str]]:
    """Instructions of every function in what `cuobjdump -sass` prints, by mangled names."""
    functions: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in listing.splitlines():
        if found := re.search(r"Function : (\S+)", line):
            current = functions.setdefault(found[1], set())
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line):
            current.add(found[1])
    return functions


def missing(name: str, instructions: set[str]) -> list[str]:
    """What a kernel should have and has not; an instruction may go on with `.`."""
    wanted = [i for part, all_ in EXPECTED.items() if part in name for i in all_]
    return [i for i in wanted if not any(f"{has}.".startswith(f"{i}.") for has in instructions)]


def demangle(names: Sequence[str]) -> list[str]:
    """C++ names where a demangler is installed, else the names as they are."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt") or shutil.which("llvm-cxxfilt")
    if tool is None or not names:
        return list(names)
    run = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def short(name: str) -> str:
    """`void tla::cuda::mine<float, 3>(float*, int)` -> `mine<float, 3>`."""
    name = re.sub(r"\(anonymous namespace\)::", "", name)
    depth, end = 0, len(name)
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            end = i
            break
    name = name[:end].removeprefix("void ")
    return re.sub(r"\btla::(cuda::)?", "", name)


def cmake_flags(torch_include: Path) -> list[str]:
    """The compile flags of the CUDA library, from the files that CMake reads."""
    cuda = (ROOT / "cmake" / "cuda.cmake").read_text()
    target = re.search(r"set\(TLA_TORCH_TARGET (\S+)\)", (ROOT / "CMakeLists.txt").read_text())
    options = re.search(r"target_compile_options\(tla_ops_cuda PRIVATE ([^)]*)\)", cuda)
    definitions = re.search(r"target_compile_definitions\(tla_ops_cuda PRIVATE ([^)]*)\)", cuda)
    if not (target and options and definitions):
        raise SystemExit("check_ptxas: cmake/cuda.cmake no longer reads as this tool expects")
    names = definitions[1].replace("${TLA_TORCH_TARGET}", target[1]).split()
    return [
        *shlex.split(options[1]),
        *(f"-D{name}" for name in names),
        *("-isystem", str(torch_include)),
    ]


def find_nvcc() -> str | None:
    candidates = [os.environ.get("CUDACXX"), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((path for c in candidates if c and (path := shutil.which(c))), None)


def find_cuobjdump() -> str | None:
    """CUDA's own, or that of a Python package."""
    places = [shutil.which("cuobjdump")]
    if nvcc := find_nvcc():
        places.append(str(Path(nvcc).resolve().parent / "cuobjdump"))
    for package, where in (
        ("triton", "backends/nvidia/bin/cuobjdump"),
        ("nvidia", "*/bin/cuobjdump"),
    ):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or []:
            places += map(str, Path(folder).glob(where))
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def find_torch_include() -> Path | None:
    spec = importlib.util.find_spec("torch")
    places = (spec.submodule_search_locations if spec else None) or []
    return next((Path(place) / "include" for place in places), None)


def compile_file(
    nvcc: str, source: Path, target: str, flags: Sequence[str], cuobjdump: str | None
) -> tuple[int, str, dict[str, set[str]]]:
    """nvcc's exit status and report, and the instructions of what should have some."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        command = [nvcc, *TARGETS[target], *flags, "-Xptxas", "-v", "-o", out, str(source)]
        run = subprocess.run(command, capture_output=True, text=True)
        report, sass = run.stdout + run.stderr, {}
        if cuobjdump and target == "sm_90a" and any(part in report for part in EXPECTED):
            listing = subprocess.run([cuobjdump, "-sass", out], capture_output=True, text=True)
            if listing.returncode:
                return listing.returncode, report + listing.stderr, sass
            sass = parse_sass(listing.stdout)
    return run.returncode, report, sass


def examine(
    sources: Sequence[Path], targets: Sequence[str], flags: Sequence[str], nvcc: str
) -> tuple[list[Kernel], list[str]]:
    """Every kernel of the sources on every target, and what did not compile."""
    jobs = [(source, target) for source in sources for target in targets]
    cuobjdump = find_cuobjdump()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(
            pool.map(lambda job: compile_file(nvcc, job[0], job[1], flags, cuobjdump), jobs)
        )
    kernels, failures = [], []
    for (source, target), (status, report, sass) in zip(jobs, done, strict=True):
        if status:
            failures.append(f"{source.name} for {target}:\n{report}")
        parsed = parse(report)
        for kernel in parsed:
            if sass and target == "sm_90a":
                kernel.missing = missing(kernel.name, sass.get(kernel.name, set()))
        kernels += parsed
    for kernel, name in zip(kernels, demangle([k.name for k in kernels]), strict=True):
        kernel.name = short(name)
    return sorted(kernels, key=lambda k: (k.name, k.arch)), failures


def table(kernels: Sequence[Kernel]) -> str:
    head = ("arch", "regs", "smem", "stack", "spill st", "spill ld", "", "kernel")
    lines = [head] + [
        (
            *(k.arch, str(k.registers), str(k.shared), str(k.stack)),
            *(str(k.spill_stores), str(k.spill_loads)),
            *(
                "FAILS" if k.missing else "" if k.clean else "allowed" if k.allowed else "FAILS",
                k.name,
            ),
        )
        for k in kernels
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:], strict=True)]
            + [line[-1]]
        )
        for line in lines
    )


def judge(kernels: Sequence[Kernel], allow: Sequence[str]) -> list[str]:
    """Marks what the patterns allow; returns what is wrong."""
    for kernel in kernels:
        kernel.allowed = any(re.search(pattern, kernel.name) for pattern in allow)
    if not kernels:
        return ["ptxas reported no kernel at all"]
    bad = [k for k in kernels if not k.clean and not k.allowed]
    problems = [f"{k.name} on {k.arch} spills or has a stack frame" for k in bad]
    return problems + [
        f"{k.name} on {k.arch} has no {', '.join(k.missing)}" for k in kernels if k.missing
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", type=Path, help="default: csrc/cuda/*.cu")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of kernels that may spill; again for more",
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all")
    parser.add_argument("--flag", action="append", default=[], help="one more flag for nvcc")
    parser.add_argument("--json", type=Path, help="write the report there, too")
    args = parser.parse_args(arguments)
    nvcc, include = find_nvcc(), find_torch_include()
    if nvcc is None:
        print("check_ptxas: nvcc was not found: put it on PATH or set CUDACXX", file=sys.stderr)
        return 2
    if include is None:
        print("check_ptxas: torch is not installed; its headers are needed", file=sys.stderr)
        return 2
    sources = args.sources or sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    flags = [*cmake_flags(include), *args.flag]
    kernels, failures = examine(sources, args.target or list(TARGETS), flags, nvcc)
    problems = judge(kernels, args.allow) if kernels or not failures else []
    if kernels:
        print(table(kernels))
    if find_cuobjdump() is None:
        print("check_ptxas: no cuobjdump: machine code was not looked at", file=sys.stderr)
    if args.json:
        document = {"kernels": [asdict(k) for k in kernels], "problems": problems + failures}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    for problem in problems + failures:
        print(f"check_ptxas: {problem}", file=sys.stderr)
    print(f"{len(kernels)} kernels in {len(sources)} files, {len(problems + failures)} problems")
    return 1 if problems or failures else 0


if __name__ == "__main__":
    sys.exit(main())
