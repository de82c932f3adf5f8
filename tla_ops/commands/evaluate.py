"""`tla-ops evaluate`"""

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
    at_least,
    check_file,
    finish,
    found_device,
    load_data,
    need,
)


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "evaluate",
        "Accuracy of a checkpoint on test images, clean and under attacks.",
        "tla-ops evaluate runs/digits-tla/best.pt",
        "tla-ops evaluate runs/mnist-tla/best.pt --data data --attacks clean,pgd --images 1000",
        "tla-ops evaluate best.pt --attacks transfer --source runs/mnist-um/best.pt",
        "tla-ops evaluate best.pt --attacks autoattack --output autoattack.json",
    )
    option = parser.add_argument
    option("checkpoint", type=Path, metavar="CKPT", help="best.pt or last.pt of `tla-ops train`")
    option(
        "--attacks",
        type=lambda text: list(dict.fromkeys(name.strip() for name in text.split(","))),
        default=["clean", "fgsm", "bim", "pgd", "mim", "cw"],
        metavar="NAME,...",
        help="clean, fgsm, bim, pgd, pgd_long, pgd20r (20 restarts), mim, cw, ll, ill, transfer; "
        "with the extra [eval] autoattack, deepfool, cw_l2, jsma (default: clean,fgsm,bim,pgd,mim,"
        "cw); steps are the recipe's eval_steps, of its eval_step or else its attack_step",
    )
    option("--source", type=Path, metavar="CKPT", help="the model that transfer attacks")
    option("--images", type=at_least(1), metavar="N", help="the first N test images (default: all)")
    option("--batch", type=at_least(1), default=200, help="images at a time (default: %(default)s)")
    option("--seed", type=at_least(0), default=0, help="of random starts (default: %(default)s)")
    add_data(parser)
    option("--device", type=any_device, default="auto", help="auto, cpu, cuda, cuda:1")
    option("--output", type=Path, metavar="FILE", help="write the numbers as JSON, row by row")
    finish(parser, "evaluate", run)


def run(args: argparse.Namespace) -> Outcome:
    need(args.name, "yaml")
    import torch

    from tla_ops.training import checkpoint
    from tla_ops.training.evaluate import ATTACKS, evaluate
    from tla_ops.training.files import write_json
    from tla_ops.training.progress import Progress
    from tla_ops.training.report import environment

    unknown = [name for name in args.attacks if name not in ("clean", *ATTACKS)]
    if unknown:
        known = ", ".join(("clean", *ATTACKS))
        raise BadUsage(f"--attacks must be among {known}, got {unknown[0]!r}")
    if "transfer" in args.attacks and args.source is None:
        raise BadUsage("--attacks transfer needs --source, the model to attack in place of CKPT")
    if args.output is not None:
        check_file(args.output)
        if args.output.resolve() in {p.resolve() for p in (args.checkpoint, args.source) if p}:
            raise BadUsage(f"--output {args.output}: is a checkpoint to read")
    if {"autoattack", "deepfool", "cw_l2", "jsma"} & set(args.attacks):
        need(args.name, "art", *(["multiprocess"] if "autoattack" in args.attacks else []))
    device = torch.device(found_device(args.device))
    try:
        model, recipe = checkpoint.read_model(args.checkpoint)
        source = None if args.source is None else checkpoint.read_model(args.source)[0].to(device)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if source is not None and of_kind(source) != of_kind(model):
        raise CommandError(
            f"--source {args.source}: (image shape, classes) must be {of_kind(model)} as "
            f"{args.checkpoint} has, got {of_kind(source)}"
        )
    dataset = load_data(args.name, recipe.dataset, args.data)
    test = dataset.test
    count = min(args.images or len(test), len(test))
    result: dict[str, Any] = {
        "experiment": "evaluate",
        "checkpoint": str(args.checkpoint),
        "source": None if args.source is None else str(args.source),
        "recipe": recipe.as_dict(),
        "notes": [*dataset.notes, f"{count} of {len(test)} test images, the first"],
        "seed": args.seed,
        "environment": environment(device),
        "attacks": {},
    }
    with Progress("evaluate", len(args.attacks)) as progress:

        def report(name: str, row: dict[str, Any]) -> None:
            result["attacks"][name] = row
            if args.output is not None:
                write_json(args.output, result)
            progress.update(f"{name}: {row['accuracy']:.1%}")

        rows = torch.arange(count)
        evaluate(
            model.to(device),
            recipe,
            test.take(rows).to(device),
            test.labels[rows].to(device),
            args.attacks,
            source=source,
            size=args.batch,
            seed=args.seed,
            report=report,
        )
    return Outcome(result, lambda: _text(result))


def of_kind(model: Any) -> tuple[tuple[int, ...], int]:
    return tuple(model.image_shape), model.head.out_features


def _text(result: dict[str, Any]) -> str:
    from tla_ops.training.report import text_table

    recipe = result["recipe"]
    rows = [
        [
            name,
            "-" if row["steps"] is None else str(row["steps"]),
            f"{row['accuracy']:.2%}",
            f"{row['standard_error']:.2%}",
            f"{row['mean_linf']:.3f}",
            f"{row['mean_l2']:.3f}",
            f"{row['seconds']:.1f}",
        ]
        for name, row in result["attacks"].items()
    ]
    header = ["attack", "steps", "accuracy", "standard error", "mean l∞", "mean l2", "seconds"]
    return "\n".join(
        [
            f"{recipe['name']}, {recipe['attack_norm']}, epsilon {recipe['epsilon']}, "
            f"step {recipe.get('eval_step') or recipe['attack_step']}",
            *result["notes"],
            "",
            text_table(header, rows),
        ]
    )
