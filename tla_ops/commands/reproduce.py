"""`tla-ops reproduce`"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from tla_ops.commands.shared import (
    EXTRAS,
    BadUsage,
    CommandError,
    Outcome,
    add_data,
    add_verb,
    any_device,
    at_least,
    check_folder,
    finish,
    found_device,
    load_data,
    need,
)

WORDS = {
    "smoke": "seconds, on the embedded digits",
    "short": "less training and fewer images",
    "full": "as the paper",
}


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "reproduce",
        "Make a table or a figure of the papers, the paper's numbers beside ours.",
        "tla-ops reproduce --list",
        "tla-ops reproduce tla/table1",
        "tla-ops reproduce tla/table1 --budget short --datasets mnist --data data",
        "tla-ops reproduce tla/table1 --budget short --datasets mnist --data data \\",
        "    --set model_options.width=0.25 --set max_steps=600 --images 500",
        "tla-ops reproduce tla/table1 --budget short --datasets cifar10 --data data \\",
        "    --methods at,tla --without autoattack",
        "tla-ops reproduce tla/table5 tla/fig5 --budget full --data hub --device cuda",
        "tla-ops reproduce at2l/app-table4 --budget short --datasets cifar10-cats-dogs --data data",
        "tla-ops reproduce tla at2l && tla-ops report runs/reproduce",
    )
    option = parser.add_argument
    option(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="tables and figures; tla, at2l: all of a paper's that --datasets are for",
    )
    option("--list", action="store_true", help="list the targets and what they need, and stop")
    option(
        "--budget",
        choices=list(WORDS),
        default="smoke",
        help="; ".join(f"{name}: {what}" for name, what in WORDS.items()) + " (default: smoke)",
    )
    option(
        "--datasets",
        type=lambda text: list(dict.fromkeys(name.strip() for name in text.split(","))),
        metavar="NAME,...",
        help="of digits, mnist, cifar10, tiny-imagenet, cats-vs-dogs, cifar10-cats-dogs, imagenet "
        "(default: digits, in place of the paper's first, for smoke; the paper's own for short "
        "and full)",
    )
    add_data(parser)
    option(
        "--output",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="folder for results, and for checkpoints and evaluations, which are used again "
        "(default: %(default)s)",
    )
    option("--images", type=at_least(10), metavar="N", help="test images, over the budget's number")
    option(
        "--slow-images",
        type=at_least(10),
        metavar="N",
        help="of those, how many meet DeepFool, C&W, of l2 and AT2L's of l-infinity, JSMA and "
        "AutoAttack, likewise",
    )
    option(
        "--without",
        type=_attacks,
        default=[],
        metavar="NAME,...",
        help="columns that TLA's Tables 1, 3 and 4 leave out: of fgsm, bim, cw, pgd, pgd_long, "
        "pgd20r, mim, transfer, autoattack, jsma, pgd_l2, cw_l2, deepfool",
    )
    option(
        "--methods",
        type=_methods,
        metavar="NAME,...",
        help="rows of those tables, and what is trained for them: of um, at, alp, tla-rn, tla-sa, "
        "tla (default: the paper's)",
    )
    option(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for a key of every recipe that has it; may be repeated",
    )
    option(
        "--seed", type=at_least(0, 2**61), default=0, help="of trainings and attacks (default: 0)"
    )
    option("--device", type=any_device, default="auto", help="auto, cpu, cuda, cuda:1")
    finish(parser, "reproduce", run)


def _attacks(text: str) -> list[str]:
    from tla_ops.experiments.tla.names import ATTACKS

    return _among(text, [name for name in ATTACKS if name != "clean"])


def _methods(text: str) -> list[str]:
    from tla_ops.experiments.tla.names import METHODS

    return _among(text, list(METHODS))


def _among(text: str, known: list[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(known)}: {unknown[0]!r}")
    return names


def run(args: argparse.Namespace) -> Outcome:
    from tla_ops.experiments.targets import ATTACKED, TARGETS, chosen

    if args.list:
        return Outcome({name: _about(target) for name, target in TARGETS.items()}, _listing)
    if not args.targets:
        raise BadUsage("needs a TARGET: `tla-ops reproduce --list` lists them")
    try:
        targets = chosen(args.targets)
    except ValueError as error:
        raise BadUsage(str(error)) from error
    targets = _with_data(args, targets)
    tables = [target for target in targets if target.name in ATTACKED]
    if args.without and not tables:
        raise BadUsage(f"--without: only {', '.join(sorted(ATTACKED))} have columns of attacks")
    if args.methods is not None:
        _check_rows(args.methods, tables)
    need(args.name, "yaml", "lightning", "sklearn", "matplotlib")
    need(args.name, *{extra for target in targets for extra in target.extras})
    check_folder(args.output)
    from tla_ops.experiments.budget import load_budget
    from tla_ops.experiments.lab import Lab
    from tla_ops.experiments.target import make
    from tla_ops.training import pretrained
    from tla_ops.training import recipe as recipes
    from tla_ops.training.checkpoint import CheckpointError
    from tla_ops.training.parquet import DataError
    from tla_ops.training.trainer import RunError

    for override in args.set:
        _check_override(override)
    lab = Lab(
        load_budget(args.budget),
        args.output,
        lambda name: load_data(args.name, name, args.data),
        datasets=args.datasets,
        device=found_device(args.device),
        overrides=args.set,
        images=args.images,
        slow_images=args.slow_images,
        without=args.without,
        methods=args.methods,
        seed=args.seed,
    )
    made = {}
    try:
        with pretrained.looked_in(args.data):
            _prepare(args.name, lab, targets)
            for target in targets:
                lab.say(f"{target.name}: {target.title}")
                made[target.name] = make(target, lab)
                lab.say(f"{target.name}: done in {made[target.name]['seconds']:.1f} s")
    except recipes.RecipeError as error:
        raise BadUsage(f"--set {str(error).removeprefix('--set ')}") from error
    except (RunError, CheckpointError, DataError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from error
    places = {target.name: lab.place(target.folder) for target in targets}
    return Outcome(made, lambda: _text(made, places))


def _check_rows(methods: list[str], tables: list[Any]) -> None:
    """Every table has a row."""
    from tla_ops.experiments.targets import ATTACKED

    if not tables:
        raise BadUsage(f"--methods: only {', '.join(sorted(ATTACKED))} have rows to choose")
    for table in tables:
        if not set(methods) & set(table.methods):
            raise BadUsage(
                f"--methods must have one of {', '.join(table.methods)} for {table.name}, "
                f"got {','.join(methods)}"
            )


def _with_data(args: argparse.Namespace, targets: list[Any]) -> list[Any]:
    """The targets that the chosen data sets are for; one that was named itself has to be."""
    if args.datasets is None:
        return targets
    kept = []
    for target in targets:
        known = _known(target)
        if set(args.datasets) & set(known):
            kept.append(target)
        elif target.name in args.targets:
            raise BadUsage(
                f"--datasets must have one of {', '.join(known)} for {target.name}, "
                f"got {','.join(args.datasets)}"
            )
    every = {name for target in targets for name in _known(target)}
    unknown = set(args.datasets) - every
    if unknown:
        raise BadUsage(
            f"--datasets must be among {', '.join(sorted(every))}, got {sorted(unknown)[0]}"
        )
    return kept


def _known(target: Any) -> tuple[str, ...]:
    """Data sets that a target can be made on."""
    from tla_ops.experiments.targets import STAND_IN, STAND_INS, stands_for

    others = (name for name in STAND_INS if stands_for(name, target.datasets))
    return STAND_IN, *target.datasets, *others


def _prepare(name: str, lab: Any, targets: list[Any]) -> None:
    """Fail before anything is trained: for a value that no recipe takes, for a missing package or
    missing weights of another's networks, or, last as they take long to read, for missing data.
    """
    from tla_ops.experiments.tla.blocks import left_to_the_target
    from tla_ops.training import pretrained

    pairs = [
        (target, setting.dataset) for target in targets for setting in lab.settings(target.datasets)
    ]
    for target in targets:
        left_to_the_target(lab, *target.sets)
    for target, dataset in pairs:
        for method in target.methods:
            lab.recipe(dataset, method)
    need(name, *{target.packages[dataset] for target, dataset in pairs
                 if dataset in target.packages})  # fmt: skip
    datasets = dict.fromkeys(dataset for _, dataset in pairs)
    if "imagenet" in datasets:  # whose networks are not trained here
        for network in pretrained.NETWORKS.values():
            pretrained.weights(network)
    for dataset in datasets:
        lab.dataset(dataset)


def _check_override(override: str) -> None:
    """A key that no recipe has is a mistake; one that some lack is not."""
    from tla_ops.training import recipe as recipes

    key = override.partition("=")[0].partition(".")[0]
    own = {"name", "dataset", "method", "options", "seed", "init_from"}
    known = {field.name for field in fields(recipes.Recipe)} - own
    known |= {name for method in recipes.METHODS for name in recipes.method_options(method)}
    if "=" not in override or key not in known:
        raise BadUsage(f"--set must be KEY=VALUE, KEY one of {', '.join(sorted(known))}, "
                       f"got {override!r}")  # fmt: skip


def _about(target: Any) -> dict[str, Any]:
    return {
        "title": target.title,
        "datasets": list(target.datasets),
        "methods": list(target.methods),
        "extras": list(dict.fromkeys(EXTRAS[name][1] for name in target.extras)),
        "packages": _packages(target),
    }


def _listing() -> str:
    from tla_ops.experiments.targets import TARGETS
    from tla_ops.training.report import text_table

    rows = [
        [
            name,
            target.title,
            ", ".join(target.datasets),
            ", ".join(target.methods),
            f"[{EXTRAS[target.extras[0]][1]}]" if target.extras else "-",
        ]
        for name, target in TARGETS.items()
    ]
    table = [["target", "what", "data", "trains", "extra"], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    header, *rows = [
        [cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in table
    ]
    return "\n".join(
        [
            text_table(header, rows),
            "",
            "all need the extra [train] and, but for the digits of smoke, the data by --data",
            *_packages_lines(TARGETS.values()),
            *(f"--budget {name}: {what}" for name, what in WORDS.items()),
        ]
    )


def _packages(target: Any) -> dict[str, str]:
    """Packages that no extra brings, by the data set that they are needed on."""
    return {name: target.packages[name] for name in _known(target) if name in target.packages}


def _packages_lines(targets: Iterable[Any]) -> list[str]:
    """The packages of all targets, and who needs them."""
    needing: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        for dataset, package in _packages(target).items():
            needing.setdefault((package, dataset), []).append(target.name)
    return [
        f"{package}, which no extra brings, on {dataset}: {', '.join(names)}"
        for (package, dataset), names in needing.items()
    ]


def _text(made: dict[str, Any], places: dict[str, Path]) -> str:
    """Our numbers, the paper's in brackets; ``table.md`` has the rest."""
    from tla_ops.experiments.page import labels

    lines = []
    for name, metrics in made.items():
        place = places[name]
        lines += [f"{name}: {metrics['title']} ({metrics['source']})"]
        lines += [*labels(metrics), *metrics["notes"], ""]
        for table in metrics["tables"]:
            lines += [table["title"], _numbers(table), ""]
        files = ["metrics.json", "table.md", *(figure["file"] for figure in metrics["figures"])]
        lines += [f"written to {place}: {', '.join(files)}", ""]
    return "\n".join(lines).rstrip()


def _numbers(table: dict[str, Any]) -> str:
    from tla_ops.experiments.tables import shown
    from tla_ops.training.report import text_table

    def cell(entry: dict[str, Any], kind: str) -> str:
        if entry["paper"] is None:
            return shown(entry["value"], kind)
        return f"{shown(entry['value'], kind)} ({shown(entry['paper'], kind)})"

    kinds = [column["kind"] for column in table["columns"]]
    heads = [" ".join(filter(None, (column["group"], column["name"], column["note"])))
             for column in table["columns"]]  # fmt: skip
    # Numbers of columns stand in for heads that would make lines too long to read.
    rows = [[name, *map(cell, cells, kinds)] for name, cells in table["rows"].items()]
    numbers = [f"[{place}]" for place in range(1, len(heads) + 1)]
    legend = [f"{number} {head}" for number, head in zip(numbers, heads, strict=True)]
    return "\n".join([text_table([table["corner"], *numbers], rows), "; ".join(legend)])
