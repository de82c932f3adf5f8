"""Trains by a recipe for some seconds, stops as Ctrl-C does, attacks the checkpoint: one JSON file.

    python tools/train_briefly.py mnist-at --seconds 130 --run DIR --output FILE --data DIR

Called again with the same folder it goes on from where it stopped. The file says how much of the
recipe's training was done, so that nobody takes a short run for a whole one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from steps import stop_on_sigterm

from tla_ops.training import checkpoint
from tla_ops.training.files import write_json
from tla_ops.training.report import environment
from tla_ops.training.runlog import curves

DONE, INTERRUPTED = 0, 130
START, PATIENCE = 60.0, 30.0
"""Seconds that a run has until it trains, and for the step under way and its checkpoint."""


def run_for(
    command: Sequence[str], metrics: Path, seconds: float, patience: float = PATIENCE
) -> tuple[int | None, float]:
    """Exit status of a run that gets SIGINT after some seconds of training, and how many it had.

    It trains once it has written its ``metrics.csv`` anew. The status is None where it does not
    stop, or does not come to train.
    """
    before, child = stamp(metrics), subprocess.Popen(command)
    try:
        until = time.monotonic() + START
        while child.poll() is None and stamp(metrics) == before:
            if time.monotonic() >= until:
                return None, 0.0
            time.sleep(0.05)
        started = time.monotonic()
        try:
            status: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(patience), time.monotonic() - started
            status = None
        return status, time.monotonic() - started
    finally:
        child.kill()
        child.wait()


def stamp(path: Path) -> tuple[int, int] | None:
    """Tells a file from the one that replaces it."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_ctime_ns
    return None


def step_of(path: Path) -> int:
    return checkpoint.read(path)["step"] if path.exists() else 0


def numbers(path: Path, after: int) -> list[dict[str, float]]:
    """The rows of metrics.csv of later steps."""
    return [row for row in curves(path) if row["step"] > after]


def about(run: Path, before: int, seconds: float, status: int) -> dict[str, Any]:
    """What a run did in this call."""
    kept = checkpoint.read(run / "last.pt")
    recipe, step = kept["recipe"], kept["step"]
    rows = numbers(run / "metrics.csv", before)
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    epochs = step * rows[-1]["epoch"] / rows[-1]["step"] if rows else None
    whole = f"{recipe['epochs']} epochs" if recipe["epochs"] else f"{recipe['max_steps']} steps"
    note = f"a whole run: {whole}"
    if status == INTERRUPTED:
        done = f" ({epochs:.2f} epochs)" if epochs is not None else ""
        note = f"a smoke run, not the recipe's training: {step} steps{done} of {whole}"
    return {
        "note": note,
        "whole": status == DONE,
        "steps": step,
        "steps_before": before,
        "epochs": epochs,
        "seconds": seconds,
        "images_per_second": median(rates) if rates else None,
        "recipe": recipe,
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("recipe")
    option("--seconds", type=float, required=True, help="of training")
    option("--run", type=Path, required=True, help="folder of checkpoints and metrics.csv")
    option("--output", type=Path, required=True, help="the JSON file")
    option("--set", action="append", default=[], metavar="KEY=VALUE", help="as for tla-ops train")
    option("--attacks", default="clean,fgsm,pgd", help="as for tla-ops evaluate")
    option("--images", type=int, default=1000, help="test images to attack, the first")
    option("--data", help="as for tla-ops train")
    option("--device", default="cuda")
    option("--commit", help="what to call these sources, where there is no git")
    args = parser.parse_args(arguments)
    stop_on_sigterm()
    verb = [sys.executable, "-m", "tla_ops"]
    where = ["--device", args.device, *(["--data", args.data] if args.data else [])]
    settings = [item for setting in args.set for item in ("--set", setting)]
    last, attacked = args.run / "last.pt", args.run / "evaluate.json"
    attacked.unlink(missing_ok=True)
    before = step_of(last)
    status, seconds = run_for(
        [*verb, "train", args.recipe, *settings, *where, "--output", str(args.run), "--resume"],
        args.run / "metrics.csv",
        args.seconds,
    )
    if status not in (DONE, INTERRUPTED):
        how = "did not train, or did not stop" if status is None else f"exit status {status}"
        print(f"{args.recipe}: {how}, after {seconds:.0f} s of training")
        return 1
    document: dict[str, Any] = {"bench": "train_briefly"} | environment(torch.device(args.device))
    document["commit"] = args.commit or document["commit"]
    document |= about(args.run, before, seconds, status) | {"evaluation": None}
    write_json(args.output, document)
    evaluate = [*verb, "evaluate", str(last), "--attacks", args.attacks, *where]
    evaluate += ["--images", str(args.images), "--output", str(attacked)]
    try:
        status = subprocess.run(evaluate).returncode
    finally:  # also where the time is up: it wrote after each attack
        if attacked.exists():
            found = json.loads(attacked.read_text())
            document["evaluation"] = {key: found[key] for key in ("notes", "attacks")}
            write_json(args.output, document)
    rate = document["images_per_second"]
    speed = f", {rate:.0f} images/s" if rate is not None else ""
    print(f"{args.recipe}: {document['note']}, in {seconds:.0f} s{speed}")
    return 0 if status == DONE else 1


if __name__ == "__main__":
    sys.exit(main())
