"""Training on a GPU in one command under nine minutes, without a network: `make gpu-train`.

    python3 tools/gpu_train.py [--data DIR] [--results DIR] [--only STEP,STEP] [--dry-run]

Builds as `make gpu` does, unless that is done; tests the training layer; times training steps on
random images; then trains on MNIST by the paper's recipes for what time is left, and attacks what
that came to. These runs are short: no figure of theirs is the paper's. Exit status: as `make gpu`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import gpu
from gpu import PYTHON, ROOT, TOOLS, WORK
from steps import Step, stop_on_sigterm

TESTS = ("test_fast_attack.py", "test_attacks.py", "test_methods.py", "test_trainer.py")
# Recipe, timed steps, limit in seconds.
TIMED = (
    ("mnist-at", 30, 35.0),
    ("mnist-tla", 30, 35.0),
    ("cifar10-at", 10, 60.0),
    ("cifar10-tla", 10, 60.0),
)
TRAINED = ("mnist-at", "mnist-tla")
LONGEST, SHORTEST = 130.0, 20.0
AROUND = 75.0
"""Seconds of such a step beside training: start, data, the last checkpoint, attacks."""
SETTINGS = ("val_every=1000", "checkpoint_every=1000", "log_every=100")
ATTACKS = "clean,fgsm,bim,pgd,pgd_long,mim,cw"
TRAINING = gpu.TRAINER | gpu.RECIPES


def is_built() -> bool:
    """Whether the environment has the package, and nothing it is made of is newer: make's rule."""
    built = [*WORK.glob("venv/lib*/python*/site-packages/tla_ops-*.dist-info/RECORD")]
    folders = (ROOT / name for name in ("csrc", "cmake", "tla_ops"))
    sources = [path for folder in folders for path in folder.rglob("*")]
    sources += [ROOT / name for name in ("setup.py", "CMakeLists.txt", "pyproject.toml")]
    sources += (ROOT / "benchmarks" / "results").glob("*/*.json")
    made = (p for p in sources if p.is_file() and p.suffix not in (".pyc", ".so"))
    return bool(built) and max(p.stat().st_mtime for p in made) <= built[0].stat().st_mtime


def why_no_mnist(data: str | None) -> str | None:
    """Where `tla_ops.training.data` looks for a data set's files."""
    if not data:
        return "no data: DATA=folder or TLA_DATA names a folder with mnist/train-*.parquet"
    places = (Path(data, "mnist", "mnist"), Path(data, "mnist"), Path(data))
    if any(any(place.glob("train-*.parquet")) for place in places):
        return None
    return f"no data: {data} holds no mnist/train-*.parquet"


def file_of(results: Path, step: str) -> Path:
    return results / f"{step.replace('-', '_')}.json"


def first_steps(results: Path, capability: Sequence[int], build: bool) -> list[Step]:
    """All but the training, whose time is what these leave."""
    steps = [gpu.build_step(capability)] if build else []
    tests = [ROOT / "tests" / name for name in TESTS]
    # The run that is killed several times takes long.
    steps.append(gpu.suite_step(80, "-k", "not killed", *tests, packages=gpu.TO_TEST | TRAINING))
    for recipe, repeats, limit in TIMED:
        name = f"time-{recipe}"
        command = [PYTHON, "-m", "tla_ops", "bench", "train", "--recipe", recipe]
        command += ["--repeats", str(repeats), "--device", "cuda"]
        command += ["--output", file_of(results, name)]
        steps.append(Step(name, command, limit, missing=gpu.not_installed(TRAINING)))
    return steps


def training_steps(
    results: Path, data: str | None, commit: str | None, recipes: Sequence[str], left: float
) -> list[Step]:
    """The recipes share the seconds left alike."""
    seconds = min(LONGEST, left / max(len(recipes), 1) - AROUND)
    missing = gpu.not_installed(TRAINING | gpu.IMAGES) or why_no_mnist(data)
    if seconds < SHORTEST:
        missing = missing or f"{max(left, 0):.0f} s are left, too few to train in"
    steps = []
    for recipe in recipes:
        name = f"train-{recipe}"
        command = [PYTHON, TOOLS / "train_briefly.py", recipe, "--seconds", f"{seconds:.0f}"]
        command += [item for setting in SETTINGS for item in ("--set", setting)]
        command += ["--attacks", ATTACKS, "--images", "1000", "--device", "cuda"]
        command += ["--run", WORK / "runs" / recipe, "--output", file_of(results, name)]
        command += ["--data", str(Path(data).resolve())] if data else []
        command += ["--commit", commit] if commit else []
        steps.append(Step(name, command, seconds + AROUND, missing=missing))
    return steps


def main(arguments: Sequence[str] | None = None) -> int:
    parser = gpu.parser_of(__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist/*.parquet (default: TLA_DATA)")
    parser.set_defaults(results=WORK / "results-train", data=os.environ.get("TLA_DATA"))
    args = parser.parse_args(arguments)
    results = args.results.resolve()
    found = gpu.probe()
    capability = found.get("capability") or (9, 0)
    names = args.only.split(",") if args.only else []
    build = "build" in names if args.only else not is_built()

    def training(recipes: Sequence[str], left: float) -> list[Step]:
        return training_steps(results, args.data, args.commit, recipes, left)

    # What --only names, told before anything runs.
    every = first_steps(results, capability, True) + training(TRAINED, args.seconds)
    wanted = [step.name for step in gpu.chosen(every, args.only)]
    recipes = [recipe for recipe in TRAINED if f"train-{recipe}" in wanted]
    if args.dry_run:
        gpu.show([step for step in every if step.name in wanted])
        return 0
    reason = gpu.prepare(found, build)
    if reason:
        return gpu.refuse(reason)
    stop_on_sigterm()
    runner = gpu.runner_of(args, found)
    try:
        # Anew: what is installed may be another environment's by now.
        first = first_steps(results, capability, build)
        runner.run([step for step in first if step.name in wanted])
        passed = runner.run(training(recipes, runner.deadline - time.monotonic()))
    finally:
        gpu.finish(runner, found)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
