"""The command line: `tla-ops`, also `python -m tla_ops`.

Each verb has a function that adds its options and one that runs it. What a verb needs is imported
when it runs, so that `tla-ops info` and every `--help` work with torch alone.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tla_ops.types import SelfTestReport

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

# Import name: name on the package index.
EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


class CommandError(Exception):
    """An error whose text is all that the user needs to read."""


class BadUsage(CommandError):
    """Arguments that do not go together."""


class Outcome(NamedTuple):
    """What a verb came to: the object for ``--json``, the text for people, the exit status."""

    result: dict[str, Any]
    text: Callable[[], str]
    status: int = DONE


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
        **_page(
            "Hard-negative triplet losses on adversarial features.",
            "tla-ops demo",
            "tla-ops bench table2 --model small",
            "tla-ops info --json",
        ),
    )
    version = f"tla-ops {importlib.metadata.version('tla_ops')}"
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(verbs)
    _add_bench(verbs)
    _add_info(verbs)
    return parser


def _verb(verbs: Any, name: str, description: str, *examples: str) -> argparse.ArgumentParser:
    return verbs.add_parser(name, help=description, **_page(description, *examples))


def _page(description: str, *examples: str) -> dict[str, Any]:
    """A help page with its examples below the options; options are never abbreviated."""
    return {
        "description": description,
        "epilog": "\n".join(["examples:", *(f"  {example}" for example in examples)]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def _finish(parser: argparse.ArgumentParser, name: str, run: Callable[..., Any]) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.set_defaults(run=run, name=f"tla-ops {name}")


# demo


def _add_demo(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "demo",
        "Train a small network on real images (UCI digits) three ways, and attack it.",
        "tla-ops demo",
        "tla-ops demo --seed 1 --output runs/seed1",
        "tla-ops demo --json",
    )
    add = parser.add_argument
    add(
        "--seed",
        type=_at_least(0, 2**32 - 1),
        default=0,
        help="decides every number (default: %(default)s)",
    )
    add("--epochs", type=_at_least(1), default=30, help="default: %(default)s")
    add(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="folder for metrics.json, demo.png and the weights (default: %(default)s)",
    )
    _finish(parser, "demo", _run_demo)


def _run_demo(args: argparse.Namespace) -> Outcome:
    _need(args.name, "sklearn", "matplotlib")
    from tla_ops.experiments import demo
    from tla_ops.training.files import plain

    metrics = demo.run(demo.Config(seed=args.seed, epochs=args.epochs), args.output)
    return Outcome(plain(metrics), lambda: f"{demo.render(metrics)}\nwritten to {args.output}")


# bench


def _add_bench(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "bench",
        "Time something and print a table.",
        "tla-ops bench table2",
        "tla-ops bench table2 --help",
    )
    targets = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    _add_table2(targets)


def _add_table2(targets: Any) -> None:
    parser = _verb(
        targets,
        "table2",
        "The TLA paper's Table 2: training time per iteration against the number of candidates.",
        "tla-ops bench table2",
        "tla-ops bench table2 --model lenet --negatives 1,250,500 --repeats 3",
        "tla-ops bench table2 --model wrn --device cuda --output table2.json",
    )
    add = parser.add_argument
    add("--model", choices=["small", "lenet", "wrn"], help="default: small on a CPU, wrn on a GPU")
    add("--batch", type=_at_least(2), default=50, help="images a step (default: %(default)s)")
    add(
        "--negatives",
        type=_sizes,
        default=(1, 250, 500, 1000, 2000),
        metavar="N,N,...",
        help="candidates; 1 is a random negative (default: 1,250,500,1000,2000)",
    )
    add("--repeats", type=_at_least(1), default=10, help="timed iterations (default: %(default)s)")
    add("--attack-steps", type=_at_least(0), default=7, help="PGD steps (default: %(default)s)")
    add("--device", type=_device, default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    add(
        "--threads",
        type=_at_least(1),
        metavar="N",
        help="default: 1 for the small model on a CPU, which gains nothing from more",
    )
    add("--output", type=Path, metavar="FILE", help="write the numbers as JSON, row by row")
    _finish(parser, "bench table2", _run_table2)


def _run_table2(args: argparse.Namespace) -> Outcome:
    import torch

    from tla_ops.experiments import table2
    from tla_ops.training.files import plain

    on_gpu = args.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise CommandError(f"--device {args.device}: this torch sees no CUDA device")
    if args.output is not None:
        _check_file(args.output)
    model = args.model or ("wrn" if on_gpu else "small")
    config = table2.Config(
        seed=0,
        threads=args.threads or (1 if model == "small" and not on_gpu else None),
        model=model,
        batch=args.batch,
        negatives=args.negatives,
        repeats=args.repeats,
        attack_steps=args.attack_steps,
        device=args.device,
    )
    results = table2.run(config, args.output)
    return Outcome(plain(results), lambda: table2.render(results))


# info


def _add_info(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "info",
        "What was compiled: version, instruction sets, architectures, toolkit.",
        "tla-ops info",
        "tla-ops info --json",
        "tla-ops info --selftest",
        "tla-ops info --selftest --device cuda:1",
    )
    parser.add_argument(
        "--selftest",
        action="store_true",
        help="compare the operators with plain PyTorch on every device; status 1 if one disagrees",
    )
    parser.add_argument("--device", type=_device, help="test this one alone: cpu, cuda, cuda:1")
    _finish(parser, "info", _run_info)


def _run_info(args: argparse.Namespace) -> Outcome:
    import tla_ops

    info = tla_ops.build_info()
    if not args.selftest:
        if args.device:
            raise BadUsage("--device needs --selftest")
        return Outcome(info, lambda: _render_info(info))
    reports = [_selftest(device) for device in ([args.device] if args.device else _devices())]
    result = {**info, "selftest": [_plain(report) for report in reports]}
    failed = any(report.failed for report in reports)
    return Outcome(
        result,
        lambda: "\n\n".join([_render_info(info), *map(_render_report, reports)]),
        FAILED if failed else DONE,
    )


def _devices() -> list[str]:
    """Every device that has kernels."""
    import torch

    from tla_ops import _library

    count = torch.cuda.device_count() if _library.has_cuda_kernels() else 0
    return ["cpu", *(f"cuda:{index}" for index in range(count))]


def _selftest(device: str) -> SelfTestReport:
    import torch

    import tla_ops

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CommandError(f"--device {device}: this torch sees no CUDA device")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table says it
            return tla_ops.selftest(device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {device}: {error}") from error


def _plain(report: SelfTestReport) -> dict[str, Any]:
    operators = {name: found._asdict() for name, found in report.operators.items()}
    return {**report._asdict(), "operators": operators}


def _render_report(report: SelfTestReport) -> str:
    capability = f", {report.capability}" if report.capability else ""
    lines = [f"self-test on {report.device} ({report.name}{capability})"]
    width = max(map(len, report.operators))
    for name, found in report.operators.items():
        outcome = f"passed, {found.problems} problems, {found.worst:.0%} of what may differ"
        lines.append(f"  {name:<{width}}  {outcome if found.passed else f'FAILED: {found.reason}'}")
    return "\n".join(lines)


def _render_info(info: dict[str, Any]) -> str:
    shown: list[Any] = [
        f"{record['capability']} ({record['device']}): {', '.join(record['operators'])}"
        for record in info["verified"]
    ]
    if not shown and info["cuda"]["kernels"]:
        shown = ["no hardware has verified the CUDA kernels of this version"]
    return "\n".join(_lines({**info, "verified": "; ".join(shown)}))


def _lines(info: dict[str, Any], indent: str = "") -> list[str]:
    """Nested keys and values, one a line, values aligned within a level."""
    width = max((len(str(key)) for key in info), default=0)
    lines = []
    for key, value in info.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key!s:<{width}}  {_shown(value)}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value) or "none"
    return "none" if value in (None, "", {}) else str(value)


# shared


def _need(name: str, *modules: str) -> None:
    """Fail with the command that installs what is missing."""
    missing = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or module).split(".")[0] != module:
                raise
            missing.append(EXTRAS[module])
    if missing:
        raise CommandError(f"needs {' and '.join(missing)}: pip install 'tla_ops[train]'")


def _check_file(path: Path) -> None:
    """Fail before anything is measured where the result could not be written."""
    if path.is_dir():
        raise CommandError(f"--output {path}: is a folder")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise CommandError(f"--output {path}: {folder} cannot be written to")


def _complain(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


def _at_least(lowest: int, highest: float = float("inf")) -> Callable[[str], int]:
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


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_at_least(1)(part) for part in text.split(","))


def _device(text: str) -> str:
    import torch

    try:
        kind = torch.device(text).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N: {text!r}")
    return text
