"""What a machine with a GPU shows in one command under nine minutes, without a network: `make gpu`.

    python3 tools/gpu.py [--results DIR] [--only STEP,STEP] [--dry-run]

Takes this Python's torch; builds for this GPU alone into build/gpu; then self-test, test suite,
benchmarks and compute-sanitizer. What is missing here is taken from wheels/ (`make gpu-wheels`
fills it). Exit status: 0 every step passed, 1 one did not, 2 no GPU or nothing to build with.
"""

from __future__ import annotations

import argparse
import glob
import importlib.metadata
import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from steps import Runner, Step, stop_on_sigterm

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "gpu"
PYTHON = WORK / "venv" / "bin" / "python"
BENCHMARKS, TOOLS = ROOT / "benchmarks", ROOT / "tools"
SECONDS = 520.0
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Module to import, and what pip calls it.
TO_BUILD = {"pip": "pip", "setuptools": "setuptools>=77", "wheel": "wheel", "pybind11": "pybind11"}
PROGRAMS = {"cmake": "cmake", "ninja": "ninja"}
TO_TEST = {
    **{"pytest": "pytest", "hypothesis": "hypothesis", "numpy": "numpy", "rich": "rich"},
    **{"sklearn": "scikit-learn", "matplotlib": "matplotlib"},
}
RECIPES, IMAGES = {"yaml": "pyyaml"}, {"pyarrow": "pyarrow", "PIL": "pillow"}
# Tests of what is not there skip.
HELPFUL = {
    **{"xdist": "pytest-xdist", "tensorboard": "tensorboard", **RECIPES, **IMAGES},
    **{"art": "adversarial-robustness-toolbox", "multiprocess": "multiprocess"},
}
# Installed without their dependencies: torch and triton are this Python's. To compare with:
PEERS = {
    **{"pytorch_metric_learning": "pytorch-metric-learning", "flash_kmeans": "flash-kmeans"},
    "tqdm": "tqdm",
}
# And what the trainer stands on, with what that imports.
TRAINER = {
    **{"lightning": "lightning", "lightning_utilities": "lightning-utilities"},
    **{"torchmetrics": "torchmetrics", "fsspec": "fsspec", "packaging": "packaging"},
    **{"typing_extensions": "typing-extensions", "tqdm": "tqdm"},
}
PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda,
    "name": torch.cuda.get_device_name() if cuda else None,
    "capability": list(torch.cuda.get_device_capability()) if cuda else None,
}))
"""


def probe() -> dict:
    """torch and the GPU, asked in a process of its own; "error" where there is no torch."""
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd="/")
    if run.returncode:
        return {"error": run.stderr.strip().splitlines()[-1:] or ["torch does not import"]}
    return json.loads(run.stdout.splitlines()[-1])


def arch_of(capability: Sequence[int]) -> str:
    """Hopper's own instructions need the "a" target; what is newer runs the portable kernels."""
    return "9.0a" if tuple(capability) == (9, 0) else "{}.{}".format(*capability)


def search_path() -> str:
    """The programs of this Python's environment, which may not be active, and nvcc's."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    if shutil.which("nvcc") is None:
        places.append("/usr/local/cuda/bin")
    return os.pathsep.join(places)


def sanitizer() -> str | None:
    found = shutil.which("compute-sanitizer", path=search_path())
    places = ("/usr/local/cuda*/bin", "/usr/local/cuda*/compute-sanitizer", "/opt/nvidia/*/")
    for place in places:
        found = found or next(iter(sorted(glob.glob(f"{place}/compute-sanitizer"))), None)
    return found


def missing(packages: dict[str, str]) -> list[str]:
    """What pip would be asked for."""
    wanted = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
    if "setuptools" in packages and "setuptools>=77" not in wanted:
        version = importlib.metadata.version("setuptools")
        wanted += ["setuptools>=77"] if int(version.split(".")[0]) < 77 else []
    return wanted


def missing_programs() -> list[str]:
    return [name for program, name in PROGRAMS.items() if not shutil.which(program, path=PATH)]


def make_environment() -> list[str]:
    """A virtual environment that sees this Python's packages, with what wheels/ has of the rest.
    Returns what is still missing to build."""
    shutil.rmtree(WORK / "venv", ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(WORK / "venv")], check=True, cwd="/"
    )
    # Not --system-site-packages: where this Python is a virtual environment's, that means the
    # packages of the one it was made from.
    folder = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    mine = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        mine.append(site.getusersitepackages())
    Path(folder, "python_that_ran_make_gpu.pth").write_text("\n".join(dict.fromkeys(mine)) + "\n")
    lacks = missing(TO_BUILD) + missing_programs()
    lone = PEERS | TRAINER
    wanted = [name for name in lacks + missing(TO_TEST | HELPFUL | lone) if name != "pip"]
    wheels = ROOT / "wheels"
    if wanted and wheels.is_dir() and "pip" not in lacks:
        for name in wanted:  # one at a time: what is not there stops none of the others
            alone = ["--no-deps"] if name in lone.values() else []
            install = [PYTHON, "-m", "pip", "install", "-q", "--no-index", "--find-links", wheels]
            subprocess.run([*install, *alone, name], cwd="/")
    return [name for name in lacks if name == "pip" or not _in_environment(name)]


def _in_environment(requirement: str) -> bool:
    if not PYTHON.exists():
        return False
    name = requirement.split(">")[0]
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    run = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, cwd="/")
    return run.returncode == 0 and not (name == "setuptools" and int(run.stdout.split(".")[0]) < 77)


PATH = search_path()


def not_installed(packages: dict[str, str]) -> str | None:
    """Why a step that imports these cannot run; None: it can."""
    names = ", ".join(name for name in missing(packages) if not _in_environment(name))
    return f"not installed: {names} (make gpu-wheels)" if names else None


def build_step(capability: Sequence[int]) -> Step:
    return Step(
        "build",
        [
            *(PYTHON, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"),
            *("--disable-pip-version-check", "--force-reinstall", ROOT),
        ],
        limit=180,
        variables={"TLA_OPS_CUDA": "on", "TORCH_CUDA_ARCH_LIST": arch_of(capability)},
        needed=True,
    )


def suite_step(limit: float, *arguments: str | Path, packages: dict[str, str] = TO_TEST) -> Step:
    """From another folder than the checkout, whose tla_ops is not built."""
    workers = min(8, os.cpu_count() or 1)
    parallel = ["-n", str(workers)] if _in_environment("pytest-xdist") else []
    return Step(
        "tests",
        [
            *(PYTHON, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT),
            *("-p", "no:cacheprovider", *parallel, *arguments),
        ],
        limit=limit,
        variables={"OMP_NUM_THREADS": "2"} if parallel else {},
        missing=not_installed(packages),
    )


def all_steps(results: Path, commit: str | None, capability: Sequence[int]) -> list[Step]:
    named = ["--commit", commit] if commit else []
    checker = sanitizer()
    build = build_step(capability)
    selftest = Step(
        "selftest",
        [PYTHON, TOOLS / "gpu_selftest.py", "--output", results / "correctness.json", *named],
        limit=60,
    )
    mining = Step(
        "mining",
        [
            *(PYTHON, BENCHMARKS / "bench_mine_negatives.py", "--device", "cuda"),
            *("--seconds", "70", "--output", results / "mine_negatives.json", *named),
        ],
        limit=90,
    )
    # Those left out run on any CPU, and compile for a while first.
    tests = suite_step(200, f"--ignore-glob={ROOT / 'tests' / 'test_simt_*'}", ROOT / "tests")
    latency = Step(
        "latency",
        [
            *(PYTHON, BENCHMARKS / "latency.py", "--device", "cuda", "--seconds", "70"),
            *("--output", results / "latency.json", *named),
        ],
        limit=90,
    )
    # Right before fast: what time is left after the races were looked for is for the benchmarks.
    checks = {tool: _sanitize(tool, checker) for tool in SANITIZERS}
    first = [checks.pop(tool) for tool in ("memcheck", "racecheck")]
    return [build, selftest, tests, *first, mining, latency, *checks.values()]


def _sanitize(tool: str, checker: str | None) -> Step:
    command = [checker or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
    command += ["--report-api-errors", "no", "--print-limit", "20"]
    if tool in ("racecheck", "synccheck"):
        # Mangled names of namespace tla::cuda: torch's own kernels are not ours to check. The other
        # two have to see what torch's write.
        command += ["--kernel-name", "kns=3tla4cuda"]
    return Step(
        tool,
        [*command, PYTHON, TOOLS / "sanitize_suite.py"],
        limit=75,
        # A tensor an allocation, so that reading past one is seen.
        variables={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        missing=None if checker else "compute-sanitizer was not found",
    )


def chosen(steps: list[Step], only: str | None) -> list[Step]:
    if only is None:
        return steps
    names = only.split(",")
    unknown = set(names) - {step.name for step in steps}
    if unknown:
        known = ", ".join(step.name for step in steps)
        raise SystemExit(f"gpu: no step {', '.join(sorted(unknown))}; there are {known}")
    return [step for step in steps if step.name in names]


def refuse(message: str) -> int:
    print(f"gpu: {message}", file=sys.stderr)
    return 2


def parser_of(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", type=Path, help="folder for the JSON (default: %(default)s)")
    parser.add_argument("--only", help="some steps, by name, with commas; built before: no build")
    parser.add_argument("--commit", help="what to call these sources, where there is no git")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all steps together")
    parser.add_argument("--dry-run", action="store_true", help="print the steps, run nothing")
    return parser


def show(steps: Sequence[Step]) -> None:
    for step in steps:
        said = f"  ({step.missing})" if step.missing else ""
        print(f"{step.name}, at most {step.limit:.0f} s{said}")
        variables = [f"{key}={value}" for key, value in step.variables.items()]
        print("    " + " ".join(map(str, [*variables, *step.command])))


def prepare(found: dict, build: bool) -> str | None:
    """Make the environment if it is to be built; what stands in the way of running steps."""
    if "error" in found:
        return f"{sys.executable} has no torch to use: {found['error'][0]}"
    if found["capability"] is None:
        return f"torch {found['torch']} of {sys.executable} sees no CUDA device here"
    if shutil.which("nvcc", path=PATH) is None:
        return "nvcc was not found: put it on PATH"
    if not build:
        return None if PYTHON.exists() else "nothing is built yet: run the step build first"
    lacking = make_environment()
    if lacking:
        return (f"not installed: {', '.join(lacking)}; `make gpu-wheels` on a machine with a "
                "network puts them into wheels/")  # fmt: skip
    for leftover in (ROOT / "build").glob("lib*"):
        shutil.rmtree(leftover)
    return None


def runner_of(args: argparse.Namespace, found: dict) -> Runner:
    facts = found | {"commit": args.commit, "capability": arch_of(found["capability"])}
    # The checkout's tla_ops, which is not built, would be in the way of the installed one.
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join(place for place in places if place and Path(place).resolve() != ROOT)
    variables = {"PATH": PATH, "PYTHONUNBUFFERED": "1", "PYTHONPATH": kept}
    return Runner(args.results.resolve(), WORK, variables, args.seconds, facts)


def finish(runner: Runner, found: dict) -> None:
    if runner.outcomes:
        print(f"\n{found['name']}, torch {found['torch']}\n{runner.table()}\nin {runner.results}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__.splitlines()[0])
    parser.set_defaults(results=WORK / "results")
    args = parser.parse_args(arguments)
    found = probe()
    if args.dry_run:
        steps = all_steps(args.results.resolve(), args.commit, found.get("capability") or (9, 0))
        show(chosen(steps, args.only))
        return 0
    reason = prepare(found, build=args.only is None or "build" in args.only.split(","))
    if reason:
        return refuse(reason)
    stop_on_sigterm()
    runner = runner_of(args, found)
    try:
        steps = all_steps(runner.results, args.commit, found["capability"])
        passed = runner.run(chosen(steps, args.only))
    finally:
        finish(runner, found)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
