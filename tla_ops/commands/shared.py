"""What the verbs have in common: outcomes, errors, help pages, argument types."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

# Import name: name on the package index, and the extra that brings it.
EXTRAS = {
    "sklearn": ("scikit-learn", "train"),
    "matplotlib": ("matplotlib", "train"),
    "yaml": ("pyyaml", "train"),
    "lightning": ("lightning", "train"),
    "pyarrow": ("pyarrow", "train"),
    "PIL": ("pillow", "train"),
    "huggingface_hub": ("huggingface_hub", "train"),
    "art": ("adversarial-robustness-toolbox", "eval"),
    "multiprocess": ("multiprocess", "eval"),
}


class CommandError(Exception):
    """An error whose text is all that the user needs to read."""


class BadUsage(CommandError):
    """Arguments that do not go together."""


class Outcome(NamedTuple):
    """What a verb came to: the object for ``--json``, the text for people, the exit status."""

    result: dict[str, Any]
    text: Callable[[], str]
    status: int = DONE


def add_verb(verbs: Any, name: str, description: str, *examples: str) -> argparse.ArgumentParser:
    return verbs.add_parser(name, help=description, **page(description, *examples))


def page(description: str, *examples: str) -> dict[str, Any]:
    """A help page with its examples below the options; options are never abbreviated."""
    return {
        "description": description,
        "epilog": "\n".join(["examples:", *(f"  {example}" for example in examples)]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def finish(parser: argparse.ArgumentParser, name: str, run: Callable[..., Any]) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.set_defaults(run=run, name=f"tla-ops {name}")


def need(name: str, *modules: str) -> None:
    """Fail with the command that installs what is missing: its extra, or a package that none
    brings.
    """
    missing = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or module).split(".")[0] != module:
                raise
            missing.append(module)
    if missing:
        packages = [EXTRAS[module][0] if module in EXTRAS else module for module in missing]
        extras = dict.fromkeys(EXTRAS[module][1] for module in missing if module in EXTRAS)
        wanted = [f"'tla_ops[{','.join(extras)}]'"] if extras else []
        wanted += [module for module in missing if module not in EXTRAS]
        raise CommandError(f"needs {' and '.join(packages)}: pip install {' '.join(wanted)}")


def check_file(path: Path) -> None:
    """Fail before anything is measured where the result could not be written."""
    if path.is_dir():
        raise CommandError(f"--output {path}: is a folder")
    check_folder(path, path.parent)


def check_folder(path: Path, folder: Path | None = None) -> None:
    """Fail before long work where its folder, ``path`` itself or another, cannot be made."""
    folder = folder or path
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise CommandError(f"--output {path}: {folder} is a file")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"--output {path}: {folder} cannot be written to")


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of parquet files, or of folders of them named mnist, cifar10, tiny-imagenet; "
        "hub: fetch them from the Hugging Face hub (default: the environment's TLA_DATA). The "
        "digits need none",
    )


def load_data(name: str, dataset: str, folder: str | None) -> Any:
    """The data set, or an error that says what is missing."""
    need(name, *(["sklearn"] if dataset == "digits" else ["pyarrow", "PIL"]))
    if folder == "hub" and dataset != "digits":
        need(name, "huggingface_hub")
    from tla_ops.training import data
    from tla_ops.training.progress import Progress

    with contextlib.ExitStack() as stack:
        bars: list[Progress] = []

        def progress(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress(f"reading {dataset}", total)))
            bars[0].update(steps=done - bars[0].done)

        try:
            return data.load(dataset, folder, progress=progress)
        except ValueError as error:
            raise CommandError(f"--data: {str(error).removeprefix('load: ')}") from error


def at_least(lowest: int, highest: float = float("inf")) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            upper = "" if highest == float("inf") else f" and at most {highest}"
            raise argparse.ArgumentTypeError(
                f"must be an integer of at least {lowest}{upper}: {text!r}"
            )
        return value

    return convert


def sizes(text: str) -> tuple[int, ...]:
    return tuple(at_least(1)(part) for part in text.split(","))


def device(text: str) -> str:
    import torch

    try:
        kind = torch.device(text).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda") or text.startswith("cpu:"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N: {text!r}")
    return text


def any_device(text: str) -> str:
    return text if text == "auto" else device(text)


def found_device(name: str) -> str:
    """The device of ``--device``, or an error where it is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    index = torch.device(name).index or 0
    if name.startswith("cuda") and index >= torch.cuda.device_count():
        raise CommandError(f"--device {name}: this torch sees {_devices()}")
    return name


def _devices() -> str:
    import torch

    count = torch.cuda.device_count()
    return f"{count} CUDA devices" if count else "no CUDA device"
