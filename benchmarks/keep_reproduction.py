"""Copies results of `tla-ops reproduce` to where docs/reproduction.md is rendered from.

python benchmarks/keep_reproduction.py runs/reproduce && python benchmarks/render.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import RESULTS, machine

from tla_ops.training.files import write_json


def keep(folder: Path, place: Path) -> list[Path]:
    """Every finished metrics.json below ``folder`` beyond smoke size, by budget and target."""
    kept = []
    for path in sorted(folder.glob("*/*/metrics.json")):
        metrics = json.loads(path.read_text())
        if metrics["budget"] == "smoke" or not metrics["complete"]:
            continue
        target = metrics["experiment"].replace("/", "-")
        kept.append(place / f"{metrics['budget']}-{target}.json")
        write_json(kept[-1], metrics)
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="--output of `tla-ops reproduce`")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<machine>")
    args = parser.parse_args(arguments)
    kept = keep(args.folder, (args.output or RESULTS / machine()) / "reproduce")
    print("\n".join(f"written to {path}" for path in kept) or "nothing beyond smoke runs found")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
