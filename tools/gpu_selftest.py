"""Every operator on the GPU against the reference; the file that later builds take as evidence."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from harness import environment, write_json

import tla_ops


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--commit")
    args = parser.parse_args()
    report = tla_ops.selftest(args.device)
    document = environment(args.device, args.commit)
    document["bench"] = "selftest"
    document["operators"] = {name: found._asdict() for name, found in report.operators.items()}
    if args.device == "cuda":
        # The function has the module's name.
        document["kernels"] = importlib.import_module("tla_ops.selftest").evidence(report)
    write_json(args.output, document)
    for name, found in report.operators.items():
        said = "passed" if found.passed else f"FAILED: {found.reason}"
        print(f"{name:<24}{said}, {found.problems} problems, worst {found.worst:.2g} of the limit")
    failed = report.failed
    print(f"{len(failed)} of {len(report.operators)} operators failed" if failed else "all agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
