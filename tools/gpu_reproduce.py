"""Tables of the papers on a GPU, in commands of under nine minutes without a network.

    python3 tools/gpu_reproduce.py [--targets tla/table1] [--datasets mnist] [--budget short]
        [--seeds 0,1] [--images N] [--slow-images N] [--without NAME,...] [--methods NAME,...]
        [--set KEY=VALUE] [--data DIR] [--results DIR] [--only STEP,STEP] [--dry-run]

`make gpu-reproduce`. Builds as `make gpu` does, unless that is done; times the parts of a training
step, once; then `tla-ops reproduce`, a seed after the other; then puts every table that is finished
into the results. What the time cuts short leaves its checkpoints and evaluations under
build/gpu/runs, where the same command goes on. Exit status: as `make gpu`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import gpu
from gpu import PYTHON, ROOT, WORK
from gpu_train import TRAINING, is_built
from steps import Step, stop_on_sigterm

PARTS = {"mnist": ("lenet", 40, 60.0), "cifar10": ("wrn", 7, 120.0)}
"""Of a data set: the model and the steps of attack whose training steps are timed, and a limit."""
PASSED = ("--images", "--slow-images", "--without", "--methods")
KEEPING = 20.0
"""Seconds at the end that no other step may take."""
NEEDED = TRAINING | gpu.IMAGES | {"matplotlib": "matplotlib"}


def steps_of(args: argparse.Namespace, capability: Sequence[int], build: bool) -> list[Step]:
    """All but the last share the time: a seed has what those before it leave."""
    results, datasets = args.results.resolve(), args.datasets.split(",")
    missing = gpu.not_installed(NEEDED)
    steps = [gpu.build_step(capability)] if build else []
    for name in datasets:
        if name in PARTS and not (results / f"parts_{name}.json").exists():
            model, attack_steps, limit = PARTS[name]
            command = [PYTHON, "-m", "tla_ops", "bench", "table2", "--model", model]
            command += ["--attack-steps", str(attack_steps), "--negatives", "1,50,500"]
            command += ["--device", "cuda", "--output", results / f"parts_{name}.json"]
            steps.append(Step(f"parts-{name}", command, limit, missing=missing))
    runs = WORK / "runs" / "reproduce"
    # What is wrong with a folder `tla-ops reproduce` says, before it trains.
    reason = missing or (None if args.data else "no data: DATA=folder or TLA_DATA names a folder")
    for seed in args.seeds.split(","):
        command = [PYTHON, "-m", "tla_ops", "reproduce", *args.targets.split(",")]
        command += ["--budget", args.budget, "--datasets", args.datasets]
        command += ["--seed", seed, "--device", "cuda", "--output", runs]
        for name in PASSED:
            value = getattr(args, name.lstrip("-").replace("-", "_"))
            command += [name, value] if value else []
        command += [item for setting in args.set for item in ("--set", setting)]
        command += ["--data", Path(args.data).resolve()] if args.data else []
        steps.append(Step(f"seed-{seed}", command, args.seconds, missing=reason))
    keep = [PYTHON, ROOT / "benchmarks" / "keep_reproduction.py", runs, "--output", results]
    keep += ["--commit", args.commit] if args.commit else []
    return [*steps, Step("keep", keep, KEEPING, missing=reason)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = gpu.parser_of(__doc__.splitlines()[0])
    for name, default, said in (
        ("--targets", "tla/table1", "with commas"),
        ("--datasets", "mnist", "with commas"),
        ("--budget", "short", "as for tla-ops reproduce"),
        ("--seeds", "0,1", "with commas"),
    ):
        parser.add_argument(name, default=default, help=f"{said} (default: %(default)s)")
    for name in PASSED:
        parser.add_argument(name, help="as for tla-ops reproduce")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data", help="folder with mnist/*.parquet (default: TLA_DATA)")
    parser.set_defaults(results=WORK / "results-reproduce", data=os.environ.get("TLA_DATA"))
    args = parser.parse_args(arguments)
    found = gpu.probe()
    capability = found.get("capability") or (9, 0)
    build = "build" in args.only.split(",") if args.only else not is_built()
    steps = gpu.chosen(steps_of(args, capability, build), args.only)
    if args.dry_run:
        gpu.show(steps)
        return 0
    reason = gpu.prepare(found, build)
    if reason:
        return gpu.refuse(reason)
    stop_on_sigterm()
    runner = gpu.runner_of(args, found)
    runner.deadline -= KEEPING
    try:
        # Anew: what is installed may be another environment's by now.
        steps = gpu.chosen(steps_of(args, capability, build), args.only)
        runner.run([step for step in steps if step.name != "keep"])
        runner.deadline += KEEPING
        passed = runner.run([step for step in steps if step.name == "keep"])
    finally:
        gpu.finish(runner, found)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
