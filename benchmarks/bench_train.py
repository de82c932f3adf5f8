"""Images a second of whole training steps, beside a plain loop and a public trainer's, for several
recipes: `tla-ops bench train` for each, into one file under benchmarks/results/<machine>/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import RESULTS, current_commit, machine, write_json

from tla_ops.experiments import bench_train
from tla_ops.training.recipe import load_recipe

EXAMPLES = """examples:
  python benchmarks/bench_train.py
  python benchmarks/bench_train.py --device cuda --repeats 30 --output train.json
  python benchmarks/bench_train.py --recipes digits-at --repeats 3 --output /tmp/train.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipes",
        type=lambda text: text.split(","),
        default=["mnist-at", "mnist-tla"],
        metavar="NAME,...",
        help="default: mnist-at,mnist-tla",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps (default: 7)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    parser.add_argument("--commit", help="what to call these sources, where there is no git")
    args = parser.parse_args(arguments)
    path = args.output or RESULTS / machine(args.device) / "train.json"
    document: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for name in args.recipes:
        results = bench_train.run(load_recipe(name, args.set), args.repeats, args.device)
        print(bench_train.render(results), end="\n\n", flush=True)
        rows += results.pop("rows")
        document = {
            **{key: value for key, value in results.items() if key != "recipe"},
            "commit": args.commit or current_commit(),
            "changed": args.set,
            "rows": rows,
        }
        write_json(path, document)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
