"""The command line: `tla-ops`, also `python -m tla_ops`."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tla_ops.commands import bench, demo, evaluate, info, report, reproduce, train
from tla_ops.commands.shared import (
    BAD_USAGE,
    DONE,
    FAILED,
    INTERRUPTED,
    BadUsage,
    CommandError,
    page,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 (done), 1 (failed), 2 (bad usage) or 130 (interrupted)."""
    # A terminal or a pipe that lacks a character gets a question mark, not an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse leaves this way after --help, --version and bad usage
        return BAD_USAGE if stop.code else DONE
    except KeyboardInterrupt:
        return _complain("tla-ops: interrupted", INTERRUPTED)
    try:
        result, text, status = args.run(args)
        if os.environ.get("RANK", "0") == "0":  # one process of a distributed run speaks for all
            print(json.dumps(result, allow_nan=False) if args.json else text(), flush=True)
    except KeyboardInterrupt:
        output = getattr(args, "output", None)
        kept = f", what was finished is in {output}" if _holds_something(output) else ""
        return _complain(f"{args.name}: interrupted{kept}", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) left; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (CommandError, OSError) as error:
        status = BAD_USAGE if isinstance(error, BadUsage) else FAILED
        return _complain(f"{args.name}: {error}", status)
    return status


def _holds_something(output: Path | None) -> bool:
    if output is None or not output.exists():
        return False
    return output.is_file() or any(output.iterdir())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tla-ops",
        **page(
            "Hard-negative triplet losses on adversarial features.",
            "tla-ops demo",
            "tla-ops train digits-tla",
            "tla-ops evaluate runs/digits-tla/best.pt",
            "tla-ops reproduce --list",
            "tla-ops report runs/reproduce",
            "tla-ops bench table2 --model small",
            "tla-ops info --json",
        ),
    )
    version = f"tla-ops {importlib.metadata.version('tla_ops')}"
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, train, evaluate, reproduce, report, bench, info):
        command.add(verbs)
    return parser


def _complain(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
