"""Short training runs on real data, evaluated on test images: what the training layer reaches here.

None is the papers' experiment: networks, attacks and lengths are what a processor manages in
minutes, and each run's file says which. Checkpoints are chosen on held-out training images.

One JSON file under benchmarks/results/<machine>/, written after each run. Exit status 1: a run
failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, environment, machine, write_json

from tla_ops.training import checkpoint, trainer
from tla_ops.training.data import DataError, load
from tla_ops.training.evaluate import evaluate
from tla_ops.training.recipe import load_recipe
from tla_ops.training.runlog import curves

EXAMPLES = """examples:
  TLA_DATA=data python benchmarks/short_runs.py
  python benchmarks/short_runs.py --data data --only mnist-at,mnist-tla --output /tmp/runs.json
"""


@dataclass
class Run:
    """A recipe, what of it is another way here, and what its checkpoint is asked."""

    recipe: str
    overrides: tuple[str, ...]
    attacks: tuple[str, ...]
    images: int
    smoke: bool = False
    """Steps on real data and no more: nothing can be said of accuracies."""


REDUCED = (
    "model_options.width=0.25", "learning_rate=1e-3", "attack_steps=10", "attack_step=1/20",
    "max_steps=1200", "log_every=50", "val_every=200", "val_steps=20", "checkpoint_every=200",
)  # fmt: skip
EVALUATION = ("eval_steps.pgd=40", "eval_steps.bim=40", "eval_steps.mim=40")
FEW = (
    "epochs=null", "max_steps=3", "batch=8", "val_images=200", "val_steps=1", "log_every=1",
    "candidates=16",
)  # fmt: skip
RUNS = [
    *(
        Run(
            f"mnist-{method}", (*REDUCED, *EVALUATION),
            ("clean", "fgsm", "bim", "pgd", "mim", "cw"), 1000,
        )
        for method in ("at", "tla")
    ),
    *(
        Run(
            f"cifar10-{method}", (*FEW, "model_options={units: 1, widen: 2}"),
            ("clean", "fgsm"), 100, True,
        )
        for method in ("at", "tla")
    ),
    *(
        Run(f"tiny-imagenet-{method}", FEW, ("clean", "fgsm"), 100, True)
        for method in ("at", "tla")
    ),
]  # fmt: skip


def measured(run: Run, folder: Path, data: str | None) -> dict[str, Any]:
    """Train and evaluate one run."""
    recipe = load_recipe(run.recipe, run.overrides)
    dataset = load(recipe.dataset, data)
    result = trainer.train(recipe, dataset, folder, resume=True, device="cpu")
    model, _ = checkpoint.read_model(folder / "best.pt")
    rows = torch.arange(min(run.images, len(dataset.test)))
    test = dataset.test
    return {
        "recipe": result["recipe"],
        "changed": list(run.overrides),
        "smoke": run.smoke,
        "steps": result["step"],
        "best": result["best"],
        "train_seconds": result["seconds"],
        "images": result["images"],
        "notes": [*dataset.notes, f"the first {len(rows)} test images"],
        "curves": curves(folder / "metrics.csv"),
        "attacks": evaluate(model, recipe, test.take(rows), test.labels[rows], run.attacks),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of the data sets (default: TLA_DATA)")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="RECIPE,...")
    parser.add_argument("--runs", type=Path, default=Path("runs/short"), help="for checkpoints")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    args = parser.parse_args(arguments)
    document: dict[str, Any] = environment() | {"threads": torch.get_num_threads(), "runs": {}}
    path = args.output or RESULTS / machine() / "short_runs.json"
    failed = False
    for run in RUNS:
        if args.only is not None and run.recipe not in args.only:
            continue
        try:
            document["runs"][run.recipe] = measured(run, args.runs / run.recipe, args.data)
        except (DataError, trainer.RunError) as error:
            document["runs"][run.recipe] = {"error": str(error)}
            failed = True
        write_json(path, document)
        print(run.recipe, document["runs"][run.recipe].get("attacks", "failed"), flush=True)
    print(f"written to {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
