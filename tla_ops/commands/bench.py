"""`tla-ops bench`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tla_ops.commands.shared import (
    BadUsage,
    Outcome,
    add_verb,
    any_device,
    at_least,
    check_file,
    device,
    finish,
    found_device,
    need,
    sizes,
)


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "bench",
        "Time something and print a table.",
        "tla-ops bench table2",
        "tla-ops bench train",
        "tla-ops bench train --help",
    )
    targets = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    _add_table2(targets)
    _add_train(targets)


def _add_table2(targets: Any) -> None:
    parser = add_verb(
        targets,
        "table2",
        "The TLA paper's Table 2: training time per iteration against the number of candidates.",
        "tla-ops bench table2",
        "tla-ops bench table2 --model lenet --negatives 1,250,500 --repeats 3",
        "tla-ops bench table2 --flows bank --negatives 1000,10000,100000",
        "tla-ops bench table2 --model wrn --device cuda --output table2.json",
    )
    option = parser.add_argument
    option(
        "--model",
        choices=[
            *("small", "lenet", "mlp", "convnet", "wrn", "resnet50"),
            *("mnist_a", "mnist_b", "mnist_c", "mnist_d", "gan_a", "gan_b", "gan_c", "gan_d"),
            *("vgg16", "vgg19", "inception_v3", "at2l_resnet50"),
            *("timm", "thermometer", "randomized"),
        ],
        help="default: small on a CPU, wrn on a GPU",
    )
    option("--batch", type=at_least(2), default=50, help="images a step (default: %(default)s)")
    option(
        "--negatives",
        type=sizes,
        default=(1, 250, 500, 1000, 2000),
        metavar="N,N,...",
        help="candidates; 1 is a random negative (default: 1,250,500,1000,2000)",
    )
    option(
        "--repeats", type=at_least(1), default=10, help="timed iterations (default: %(default)s)"
    )
    option(
        "--flows",
        type=_flows,
        default=("paper", "bank"),
        metavar="FLOW,FLOW",
        help="paper: candidates are forwarded, bank: as many stored features (default: paper,bank)",
    )
    option("--attack-steps", type=at_least(0), default=7, help="PGD steps (default: %(default)s)")
    option("--device", type=device, default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    option(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="default: 1 for the small model on a CPU, which gains nothing from more",
    )
    option("--output", type=Path, metavar="FILE", help="write the numbers as JSON, row by row")
    finish(parser, "bench table2", _run_table2)


def _flows(text: str) -> tuple[str, ...]:
    flows = tuple(text.split(","))
    if set(flows) - {"paper", "bank"}:
        raise argparse.ArgumentTypeError(f"must be paper, bank or both: {text!r}")
    return flows


def _run_table2(args: argparse.Namespace) -> Outcome:
    from tla_ops.experiments import table2
    from tla_ops.training.files import plain

    on_gpu = found_device(args.device).startswith("cuda")
    if args.output is not None:
        check_file(args.output)
    model = args.model or ("wrn" if on_gpu else "small")
    try:
        config = table2.Config(
            seed=0,
            threads=args.threads or (1 if model == "small" and not on_gpu else None),
            model=model,
            batch=args.batch,
            negatives=args.negatives,
            repeats=args.repeats,
            attack_steps=args.attack_steps,
            device=args.device,
            flows=args.flows,
        )
    except ValueError as error:
        raise BadUsage(str(error)) from error
    results = table2.run(config, args.output)
    return Outcome(plain(results), lambda: table2.render(results))


def _add_train(targets: Any) -> None:
    parser = add_verb(
        targets,
        "train",
        "Images a second of training steps beside a plain eager loop and a public trainer's.",
        "tla-ops bench train",
        "tla-ops bench train --recipe cifar10-tla --set model_options.widen=2 --repeats 3",
        "tla-ops bench train --recipe mnist-at --device cuda --output train.json",
    )
    option = parser.add_argument
    option("--recipe", default="digits-tla", help="a recipe's name or file (default: %(default)s)")
    option("--set", action="append", default=[], metavar="KEY=VALUE", help="as for tla-ops train")
    option("--repeats", type=at_least(2), default=10, help="timed steps (default: %(default)s)")
    option("--device", type=any_device, default="auto", help="auto, cpu, cuda, cuda:1")
    option("--output", type=Path, metavar="FILE", help="write the numbers as JSON, row by row")
    finish(parser, "bench train", _run_train)


def _run_train(args: argparse.Namespace) -> Outcome:
    need(args.name, "yaml", "lightning")
    from tla_ops.experiments import bench_train
    from tla_ops.training import recipe as recipes
    from tla_ops.training.files import plain
    from tla_ops.training.trainer import RunError

    if args.output is not None:
        check_file(args.output)
    try:
        recipe = recipes.load_recipe(args.recipe, args.set)
    except recipes.RecipeError as error:
        raise BadUsage(str(error)) from error
    try:
        results = bench_train.run(recipe, args.repeats, found_device(args.device), args.output)
    except RunError as error:
        raise BadUsage(str(error)) from error
    return Outcome(plain(results), lambda: bench_train.render(results))
