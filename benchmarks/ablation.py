"""Whether triplets help adversarial training, and what decides it: runs of one change each.

Every run is evaluated on development images: training images that are neither learned from nor
choose the checkpoint. Test images are not looked at. Networks and lengths are what a processor
manages in minutes, and each file says which.

One JSON file a run under benchmarks/results/<machine>/ablation/; a run whose file is there is not
made again. docs/ablation.md is rendered from them. A run takes minutes, all with three seeds hours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, environment, machine, write_json

from tla_ops.training import checkpoint, trainer
from tla_ops.training.attacks import in_batches, pgd
from tla_ops.training.data import DataError, Dataset, ImageSet, hold_out, load
from tla_ops.training.evaluate import accuracy
from tla_ops.training.models import Classifier
from tla_ops.training.recipe import Recipe, RecipeError, load_recipe
from tla_ops.training.runlog import curves

EXAMPLES = """examples:
  TLA_DATA=data python benchmarks/ablation.py --list
  TLA_DATA=data python benchmarks/ablation.py --only at,tla,tla-statistics --seeds 0,1,2
  TLA_DATA=data python benchmarks/ablation.py --dataset cifar10 --only at,tla --seeds 0,1,2
  TLA_DATA=data python benchmarks/ablation.py --only at --set max_steps=20 --output /tmp/ablation
"""
BASES: dict[str, tuple[str, ...]] = {
    "mnist": (
        "model_options.width=0.25", "learning_rate=1e-3", "attack_steps=5", "attack_step=1/10",
        "fast_attack=bfloat16", "max_steps=800", "log_every=50", "val_every=200", "val_images=500",
        "val_steps=10", "checkpoint_every=400",
    ),
    "cifar10": (
        "model_options.units=1", "model_options.widen=1", "attack_steps=3", "attack_step=4/255",
        "fast_attack=bfloat16", "max_steps=600", "schedule={450: 0.01}", "candidates=100",
        "log_every=50", "val_every=150", "val_images=500", "val_steps=10", "checkpoint_every=300",
    ),
}  # fmt: skip
"""By data set, what its runs have in place of the recipes' own."""
ALL, ADVERSARIAL = "statistics=all", "statistics=adversarial"
VARIANTS: dict[str, tuple[str, ...]] = {
    "at": (),
    "alp": (ALL,),
    "tla": (ALL,),
    "tla-rn": (ALL,),
    "tla-sa": (ALL,),
    "alp-statistics": (ADVERSARIAL,),
    "tla-statistics": (ADVERSARIAL,),
    "tla-rn-statistics": (ADVERSARIAL,),
    "tla-sa-statistics": (ADVERSARIAL,),
    "tla-no-norms": (ALL, "norm_weight=0"),
    "tla-no-triplets": (ALL, "weight=0"),
    "tla-statistics-no-norms": (ADVERSARIAL, "norm_weight=0"),
    "tla-statistics-no-triplets": (ADVERSARIAL, "weight=0"),
    "tla-statistics-mean-square": (ADVERSARIAL, "norm=mean_square", "norm_weight=5e-5"),
    "tla-weight-0.1": (ALL, "weight=0.1"),
    "tla-statistics-weight-0.1": (ADVERSARIAL, "weight=0.1"),
    "tla-statistics-weight-2": (ADVERSARIAL, "weight=2"),
    "tla-statistics-margin-0.01": (ADVERSARIAL, "margin=0.01"),
    "tla-statistics-margin-0.2": (ADVERSARIAL, "margin=0.2"),
    "tla-statistics-candidates-500": (ADVERSARIAL, "candidates=500"),
    "at-no-smoothing": ("label_smoothing=0",),
    "tla-statistics-no-smoothing": (ADVERSARIAL, "label_smoothing=0"),
    "at-slower": ("learning_rate=3e-4",),
    "tla-statistics-slower": (ADVERSARIAL, "learning_rate=3e-4"),
    "at-few": ("train_images=1000",),
    "tla-statistics-few": (ADVERSARIAL, "train_images=1000"),
    "at-longer": ("max_steps=2400",),
    "tla-longer": (ALL, "max_steps=2400"),
    "tla-statistics-longer": (ADVERSARIAL, "max_steps=2400"),
}
"""What a run changes, beside its base, of its data set's recipe that begins its name; and
``train_images``, how many there are to learn from beside those that choose the checkpoint, which no
recipe says."""
NAMES: dict[str, tuple[str, ...]] = {
    "mnist": tuple(VARIANTS),
    "cifar10": (
        "at", "alp", "tla", "tla-statistics", "tla-no-triplets", "tla-statistics-no-triplets",
        "tla-weight-0.1", "tla-statistics-weight-0.1",
    ),
}  # fmt: skip
"""By data set, the runs that there are: on CIFAR-10, whose steps take longer, what decides most."""
TRAIN_IMAGES = "train_images="
METHODS = ("tla-rn", "tla-sa", "tla", "alp", "at")
DEVELOPMENT = 1000
ATTACKS: dict[str, dict[str, Any]] = {
    "mnist": {"epsilon": Fraction(3, 10), "step": Fraction(1, 20), "steps": 40},
    "cifar10": {"epsilon": Fraction(8, 255), "step": Fraction(2, 255), "steps": 20},
}


def recipe_of(dataset: str, name: str, seed: int, overrides: Sequence[str] = ()) -> Recipe:
    method = next(method for method in METHODS if name == method or name.startswith(f"{method}-"))
    printed = f"{dataset}-{method}"
    # A method without triplets looks at no candidates.
    mined = load_recipe(printed).candidates > 0
    base = [text for text in BASES[dataset] if mined or not text.startswith("candidates=")]
    changes = [text for text in VARIANTS[name] if not text.startswith(TRAIN_IMAGES)]
    recipe = load_recipe(printed, [*base, *changes, *overrides])
    return replace(recipe, name=name, seed=seed)


def given(name: str, recipe: Recipe, images: ImageSet) -> ImageSet:
    """Those of ``images`` that a run learns from and chooses its checkpoint by."""
    counts = [text.removeprefix(TRAIN_IMAGES) for text in VARIANTS[name]
              if text.startswith(TRAIN_IMAGES)]  # fmt: skip
    return hold_out(images, int(counts[0]) + recipe.val_images)[1] if counts else images


def found(path: Path, dataset: str, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Accuracies of a checkpoint, always under the same random starts."""
    model: Classifier = checkpoint.read_model(path)[0]
    torch.manual_seed(0)
    attack = in_batches(partial(pgd, **ATTACKS[dataset], early_stop=True), 500)
    adversarial = attack(model, images, labels)
    return {
        "clean": accuracy(model, images, labels),
        "pgd": accuracy(model, adversarial, labels),
    }


def measured(
    name: str, recipe: Recipe, dataset: Dataset, folder: Path, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    rest, development = hold_out(dataset.train, DEVELOPMENT)
    learned = dataset._replace(train=given(name, recipe, rest))
    result = trainer.train(recipe, learned, folder, resume=True, device="cpu")
    images, labels = development.images, development.labels
    return environment() | {
        "variant": name,
        "changed": list(VARIANTS[name]),
        "base": [*BASES[recipe.dataset], *overrides],
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "recipe": result["recipe"],
        "steps": result["step"],
        "best_step": result["best"]["step"],
        "seconds": result["seconds"],
        "images": len(labels),
        "attack": {key: str(value) for key, value in ATTACKS[recipe.dataset].items()},
        "best": found(folder / "best.pt", recipe.dataset, images, labels),
        "last": found(folder / "last.pt", recipe.dataset, images, labels),
        "curves": curves(folder / "metrics.csv"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of the data sets (default: TLA_DATA)")
    parser.add_argument("--dataset", choices=list(BASES), default="mnist")
    parser.add_argument("--list", action="store_true", help="the runs, and leave")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAME,...")
    parser.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2]
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--runs", type=Path, help="for checkpoints (default: runs/ablation)")
    parser.add_argument("--output", type=Path, help="folder (default: benchmarks/results/...)")
    args = parser.parse_args(arguments)
    if args.list:
        for name in NAMES[args.dataset]:
            print(f"{name:30}{', '.join(VARIANTS[name])}")
        return 0
    if args.overrides and not args.output:
        parser.error("--set needs --output: another experiment, which has a folder of its own")
    known = NAMES[args.dataset]
    names = args.only or known
    if unknown := set(names) - set(known):
        parser.error(f"--only must be of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    place = args.output or RESULTS / machine() / "ablation"
    runs = args.runs or (place / "runs" if args.overrides else Path("runs/ablation"))
    try:
        dataset = load(args.dataset, args.data)
        for seed in args.seeds:
            for name in names:
                stem = f"{args.dataset}-{name}-seed{seed}"
                path = place / f"{stem}.json"
                if path.exists():
                    continue
                recipe = recipe_of(args.dataset, name, seed, args.overrides)
                document = measured(name, recipe, dataset, runs / stem, args.overrides)
                write_json(path, document)
                print(name, seed, document["best"], document["last"], flush=True)
    except (DataError, RecipeError, trainer.RunError) as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
