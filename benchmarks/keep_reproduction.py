"""Copies results of `tla-ops reproduce` to where docs/reproduction.md is rendered from.

python benchmarks/keep_reproduction.py runs/reproduce && python benchmarks/render.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import RESULTS, dashed, machine

from tla_ops.experiments.results import find
from tla_ops.training.files import write_json


def keep(folder: Path, place: Path | None, commit: str | None = None) -> list[Path]:
    """Every finished result below ``folder`` beyond smoke size, by budget, target and seed, under
    ``place`` or the folder of the machine that it was made on; ``commit`` names sources that were
    not in git where they ran.
    """
    kept = []
    for metrics in (result.metrics for result in find(folder).results):
        if metrics["budget"] == "smoke" or not metrics["complete"]:
            continue
        made_on = metrics["environment"]
        made_on["commit"] = made_on["commit"] or commit
        # A processor's folder is named by its instruction sets, which this machine knows of itself.
        its = machine() if made_on["device"] == "cpu" else dashed(made_on["machine"])
        target = metrics["experiment"].replace("/", "-")
        folder = (place or RESULTS / its) / "reproduce"
        seed = f"-seed{metrics['seed']}" if metrics.get("seed") else ""
        path = folder / f"{metrics['budget']}-{target}{seed}.json"
        if path in kept:
            raise SystemExit(f"keep_reproduction: two results would be {path}: remove one's folder")
        if path.exists() and asked(json.loads(path.read_text(encoding="utf-8"))) != asked(metrics):
            raise SystemExit(
                f"keep_reproduction: {path} was made with other options: rename it, or choose "
                "another --output"
            )
        kept.append(path)
        write_json(path, metrics)
    return kept


def asked(metrics: dict[str, Any]) -> Any:
    return metrics.get("overrides") or []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="--output of `tla-ops reproduce`")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<machine>")
    parser.add_argument("--commit", help="what to call the sources, where there was no git")
    args = parser.parse_args(arguments)
    kept = keep(args.folder, args.output, args.commit)
    print("\n".join(f"written to {path}" for path in kept) or "nothing beyond smoke runs found")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
