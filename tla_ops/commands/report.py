"""`tla-ops report`"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from tla_ops.commands.shared import (
    BadUsage,
    CommandError,
    Outcome,
    add_verb,
    check_file,
    finish,
)


def add(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "report",
        "One HTML page of all the experiments' results below a folder.",
        "tla-ops report runs/reproduce",
        "tla-ops report runs/reproduce/full --output reproduction.html",
        "tla-ops report runs --json",
    )
    option = parser.add_argument
    option("folder", type=Path, metavar="DIR", help="what `tla-ops reproduce` wrote, at any depth")
    option(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page, which needs no other file (default: DIR/report.html)",
    )
    finish(parser, "report", run)


def run(args: argparse.Namespace) -> Outcome:
    from tla_ops.experiments import report, results

    if not args.folder.is_dir():
        raise CommandError(f"{args.folder}: is {'a file' if args.folder.exists() else 'not there'}")
    output = args.output or args.folder / "report.html"
    check_file(output)
    found = results.find(args.folder)
    inputs = {path.resolve() for path in (*(r.path for r in found.results), *found.broken)}
    if output.resolve() in inputs:
        raise BadUsage(f"--output {output}: is a result to read")
    if not found.results:
        raise CommandError("\n".join([_nothing(found), *_warnings(found.broken)]))
    missing = report.write(found, output)
    result = {
        "output": str(output),
        "results": [
            {
                **{key: item.metrics[key] for key in ("experiment", "title", "budget", "complete")},
                "file": str(item.path),
            }
            for item in found.results
        ],
        "broken": {str(path): reason for path, reason in found.broken.items()},
        "missing_figures": [str(path) for path in missing],
        "others": found.others,
    }
    return Outcome(result, lambda: _text(result))


def _nothing(found: Any) -> str:
    others = f" ({found.others} of other commands)" if found.others else ""
    return (
        f"{found.folder}: holds no results of experiments{others}; `tla-ops reproduce --list` "
        "shows what makes some"
    )


def _warnings(broken: dict[Any, str]) -> list[str]:
    return [f"warning: {path}: {reason}" for path, reason in broken.items()]


def _text(result: dict[str, Any]) -> str:
    from tla_ops.training.report import text_table

    rows = [
        [item["experiment"], item["budget"] + ("" if item["complete"] else ", incomplete")]
        for item in result["results"]
    ]
    budgets = Counter(item["budget"] for item in result["results"])
    counts = ", ".join(f"{count} {budget}" for budget, count in sorted(budgets.items()))
    lines = [
        text_table(["experiment", "budget"], rows),
        "",
        f"{len(rows)} {'result' if len(rows) == 1 else 'results'}: {counts}",
    ]
    if result["others"]:
        lines.append(f"skipped {result['others']} results of other commands")
    lines += _warnings(result["broken"])
    lines += [f"warning: {path}: no such figure" for path in result["missing_figures"]]
    return "\n".join([*lines, f"written to {result['output']}"])
