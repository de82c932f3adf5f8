"""Every operator and screen on the GPU against the reference; the file that later builds take as
evidence."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import torch
from harness import environment, write_json

from tla_ops import _dispatch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--commit")
    args = parser.parse_args()
    # The function has the module's name.
    selftest = importlib.import_module("tla_ops.selftest")
    index = torch.cuda.current_device() if args.device == "cuda" else None
    device = torch.device(args.device, index)
    document = environment(args.device, args.commit)
    document["bench"] = "selftest"
    report = selftest.run(device, ())
    # One after the other, the likeliest to hang last: what was found is written before that.
    for names in (_dispatch.OPERATORS, *((name,) for name in _dispatch.SCREENS)):
        found = selftest.run(device, names).operators
        report = report._replace(operators={**report.operators, **found})
        document["operators"] = {name: one._asdict() for name, one in report.operators.items()}
        if args.device == "cuda":
            document["kernels"] = selftest.evidence(report)
        write_json(args.output, document)
        for name, one in found.items():
            said = "passed" if one.passed else f"FAILED: {one.reason}"
            print(f"{name:<24}{said}, {one.problems} problems, worst {one.worst:.2g} of the limit")
    failed = report.failed
    print(f"{len(failed)} of {len(report.operators)} failed" if failed else "all agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
