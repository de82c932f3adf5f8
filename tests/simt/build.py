"""Compiles kernels with the shim into executables, and runs them."""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent

COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")

# plain: fast. asan: addresses, lifetimes, alignment, undefined behaviour. race: races whatever the
# schedule, memory that nobody wrote.
FLAVOURS = ("plain", "asan", "race")

_ASAN = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# nvcc is told not to contract, either; packs alias their elements, as device code has it; addresses
# are fixed, so that 32 bits name an access.
_COMMON = [
    "-std=c++20",
    "-g1",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-pie",
    f"-I{HERE}",
]
_WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]


def _has_fma() -> bool:
    try:
        return " fma " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def why_not(flavour, folder):
    """Why this machine cannot build `flavour`, or None."""
    if not COMPILER:
        return "no C++ compiler"
    command = [COMPILER, "-x", "c++", *_ASAN, "-", "-o", str(Path(folder) / "try")]
    if (
        flavour == "asan"
        and subprocess.run(command, input=b"int main() {}", capture_output=True).returncode
    ):
        return f"{COMPILER} comes without AddressSanitizer"
    return None


def build(sources, flavour, folder, name="kernels", flags=()):
    """Compiles the C++ files `sources` as `flavour` into folder/flavour/name; returns its path.

    The shim is compiled once a folder and flavour, and everything at the same time.
    """
    folder = Path(folder) / flavour
    folder.mkdir(parents=True, exist_ok=True)
    common = [*_COMMON, *_WARNINGS, *(["-mfma"] if _has_fma() else []), *flags]
    common += _ASAN if flavour == "asan" else ["-O2"]
    if flavour == "race":
        common += ["-DTLA_SIMT_RACE"]
    jobs, objects = [], []

    def compile_(source, target, more=()):
        objects.append(str(target))
        command = [COMPILER, *common, *more, "-c", str(source), "-o", str(target)]
        jobs.append((command, subprocess.Popen(command, stdout=-1, stderr=-2, text=True)))

    # Only kernels are watched: the shim's own accesses are no thread's.
    watched = ["-fsanitize=thread"] if flavour == "race" else []
    for source in map(Path, sources):
        compile_(source, folder / f"{name}-{source.stem}.o", watched)
    for source in ["shim.cpp", "shim_hopper.cpp", *(["race.cpp"] if flavour == "race" else [])]:
        target = folder / f"{Path(source).stem}.o"
        if target.exists():
            objects.append(str(target))
        else:
            compile_(HERE / source, target)
    for command, job in jobs:
        output, _ = job.communicate()
        if job.returncode:
            raise RuntimeError(" ".join(command) + "\n" + output)
    program = folder / name
    sanitizers = _ASAN if flavour == "asan" else []
    command = [COMPILER, *objects, "-no-pie", *sanitizers, "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def run(program, *arguments, data=b"", timeout=120):
    """Runs a built program; its exit status, output and messages (exit status 3: the shim's)."""
    return subprocess.run(
        [str(program), *map(str, arguments)], input=data, capture_output=True, timeout=timeout
    )
