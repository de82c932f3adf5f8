"""`tla-ops demo`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tla_ops.commands.shared import Outcome, add_verb, at_least, finish, need


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "demo",
        "Train a small network on real images (UCI digits) three ways, and attack it.",
        "tla-ops demo",
        "tla-ops demo --seed 1 --output runs/seed1",
        "tla-ops demo --json",
    )
    option = parser.add_argument
    option(
        "--seed",
        type=at_least(0, 2**32 - 1),
        default=0,
        help="decides every number (default: %(default)s)",
    )
    option("--epochs", type=at_least(1), default=30, help="default: %(default)s")
    option(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="folder for metrics.json, demo.png and the weights (default: %(default)s)",
    )
    finish(parser, "demo", run)


def run(args: argparse.Namespace) -> Outcome:
    need(args.name, "sklearn", "matplotlib")
    from tla_ops.experiments import demo
    from tla_ops.training.files import plain

    metrics = demo.run(demo.Config(seed=args.seed, epochs=args.epochs), args.output)
    return Outcome(plain(metrics), lambda: f"{demo.render(metrics)}\nwritten to {args.output}")
