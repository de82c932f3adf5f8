"""`tla-ops train`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tla_ops.commands.shared import (
    BadUsage,
    CommandError,
    Outcome,
    add_data,
    add_verb,
    any_device,
    check_folder,
    finish,
    found_device,
    load_data,
    need,
)


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "train",
        "Train a model by a recipe: one for each data set and method, or a YAML file.",
        "tla-ops train --list",
        "tla-ops train digits-tla",
        "tla-ops train mnist-tla --data data --set max_steps=100 --set checkpoint_every=10",
        "tla-ops train cifar10-tla --data hub --set precision=bf16-mixed --output runs/cifar10",
        "tla-ops train cifar10-tla --data hub --output runs/cifar10 --resume",
        "torchrun --nproc-per-node 2 -m tla_ops train cifar10-at --data data",
    )
    option = parser.add_argument
    option("recipe", nargs="?", metavar="RECIPE", help="a recipe's name, or a .yaml file")
    option("--list", action="store_true", help="list the recipes and stop")
    option(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for a key of the recipe; may be repeated",
    )
    add_data(parser)
    option(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for checkpoints, metrics.csv, tensorboard/ and result.json (default: "
        "runs/RECIPE)",
    )
    option(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in --output, to the same numbers",
    )
    option("--device", type=any_device, default="auto", help="auto, cpu, cuda, cuda:1")
    finish(parser, "train", run)


def run(args: argparse.Namespace) -> Outcome:
    need(args.name, "yaml")
    from tla_ops.training import recipe as recipes

    if args.list:
        listed = {name: recipes.load_recipe(name) for name in recipes.recipe_names()}
        return Outcome(
            {name: recipe.as_dict() for name, recipe in listed.items()}, lambda: _listing(listed)
        )
    if args.recipe is None:
        raise BadUsage("needs a RECIPE: `tla-ops train --list` lists them")
    try:
        recipe = recipes.load_recipe(args.recipe, args.set)
    except recipes.RecipeError as error:
        raise BadUsage(str(error)) from error
    need(args.name, "lightning")
    from tla_ops.training import trainer
    from tla_ops.training.checkpoint import CheckpointError
    from tla_ops.training.files import plain

    output = args.output = args.output or Path("runs") / recipe.name
    check_folder(output)
    device = found_device(args.device)
    dataset = load_data(args.name, recipe.dataset, args.data)
    try:
        result = trainer.train(recipe, dataset, output, resume=args.resume, device=device)
    except (trainer.RunError, CheckpointError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from error
    return Outcome(plain(result), lambda: _text(result, output))


def _listing(listed: dict[str, Any]) -> str:
    from tla_ops.training.report import text_table

    rows = [
        [
            name,
            recipe.dataset,
            recipe.model,
            recipe.method,
            str(recipe.batch),
            f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.max_steps} steps",
            f"{recipe.attack}-{recipe.attack_steps}, {recipe.epsilon}"
            if recipe.attack_steps
            else "-",
        ]
        for name, recipe in listed.items()
    ]
    return text_table(["recipe", "data", "model", "method", "batch", "length", "attack"], rows)


def _text(result: dict[str, Any], output: Path) -> str:
    from tla_ops.training.runlog import note

    lines = [
        f"{result['experiment']}: {result['step']} steps, {result['images']['train']} images, "
        f"{result['images']['held_out']} held out",
        *result["notes"],
        f"last: {note(result['last'])}",
    ]
    if result["best"]["step"]:
        lines.append(f"best.pt: step {result['best']['step']}, chosen on held-out training images")
    return "\n".join([*lines, f"written to {output}"])
