"""`tla-ops info`"""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

from tla_ops.commands.shared import (
    DONE,
    FAILED,
    BadUsage,
    CommandError,
    Outcome,
    add_verb,
    device,
    finish,
    found_device,
)

if TYPE_CHECKING:
    from tla_ops.types import SelfTestReport


def add(verbs: Any) -> None:
    parser = add_verb(
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
    parser.add_argument("--device", type=device, help="test this one alone: cpu, cuda, cuda:1")
    finish(parser, "info", run)


def run(args: argparse.Namespace) -> Outcome:
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

    import tla_ops

    found_device(device)
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
