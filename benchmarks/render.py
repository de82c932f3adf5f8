"""Renders docs/performance.md, docs/scaling.md, docs/training.md, docs/reproduction.md,
docs/ablation.md and their figures from benchmarks/results.

python benchmarks/render.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from render_ablation import ablation_figures, ablation_page
from render_latency import latency_tables, line
from render_mining import grid_tables, long_table
from render_reproduction import reproduction_page
from render_scaling import figures, scaling_page
from render_targets import targets_table
from render_training import training_figures, training_page

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
INTRO = """# Performance

Rendered by `benchmarks/render.py` from `benchmarks/results/`; `make bench` measures again. Medians
of one run in which implementations take turns; absolute times on shared machines mean little, the
ratios to `tla_ops` in the same run count.

- `eager`: `tla_ops/reference.py`, what one would write in PyTorch; it stores the anchors ×
  candidates matrix.
- `pytorch_metric_learning`: `BatchHardMiner` and `TripletMarginLoss` over a reference set of
  positives and candidates, which is put together in every call.
- `compile`: torch.compile of the reference (of mining: see below).
- `mm`: the bare matrix product of anchors and candidates into a preallocated output, in the inputs'
  dtype. It neither masks nor picks, has no norms and no gradients; a bfloat16 product uses the
  processor's matrix unit and stores rounded scores, on which nothing should be mined.
- regret: how much farther the pick is than the true minimum, in float64, over a sample of rows.
"""
OF_TARGETS = ("mine_negatives", "triplet_adv_loss", "scaling")
COLUMNS = (
    *("bench", "mode", "B, M, D", "dtype", "implementation"),
    *("median ms", "20–80%", "to tla_ops"),
)


def tables(document: dict) -> list[str]:
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in document["rows"]:
        key = (row["bench"], row["mode"], row["dtype"], row["B"], row["M"], row["D"])
        groups[key].append(row)
    lines = [
        f"\n## {document['device']}\n",
        f"torch {document['torch']}, commit {document['commit']}, {document['date'][:10]}; "
        f"instruction sets {', '.join(document['instruction_sets'])}.\n",
        line(COLUMNS),
        line(["---"] * len(COLUMNS)),
    ]
    for (bench, mode, dtype, b, m, d), rows in groups.items():
        ours = next((r.get("median_ms") for r in rows if r["impl"] == "tla_ops"), None)
        timed = [row for row in rows if "median_ms" in row]
        for row in sorted(timed, key=lambda row: row["median_ms"]):
            ratio = f"{row['median_ms'] / ours:.2f}" if ours else "–"
            cells = (
                *(bench, mode, f"{b}, {m}, {d}", dtype, row["impl"], f"{row['median_ms']:.3f}"),
                *(f"{row['p20_ms']:.3f}–{row['p80_ms']:.3f}", ratio),
            )
            lines.append(line(cells))
    return lines


def screening_table(document: dict) -> list[str]:
    columns = (
        "D",
        "features",
        "mining",
        "at once",
        "listed",
        "99%",
        "rescored",
        "99%",
        "rows redone",
    )
    lines = [
        "## What a screen leaves to rescore\n",
        f"Simulated by `benchmarks/screening.py` (torch {document['torch']}), angular, "
        f"float32: what stands in a row's list of {document['capacity']} (semihard: "
        f"{document['semihard_capacity']}) after a float16 screen "
        f"in which so many tiles of {document['tile']} candidates are looked at at once, and what "
        "the final best leaves of it. A row whose list runs over looks at all candidates "
        "(docs/exactness.md).\n",
        line(("B, M", *columns)),
        line(["---"] * (1 + len(columns))),
    ]
    for row in document["rows"]:
        rest = ("–", "–")
        if row["rescored_mean"] is not None:
            rest = f"{row['rescored_mean']:.1f}", f"{row['rescored_p99']:.0f}"
        lines.append(line((
            f"{row['B']}, {row['M']}", str(row["D"]), row["features"], row["mining"],
            str(row["streams"]),
            f"{row['listed_mean']:.1f}", f"{row['listed_p99']:.0f}", *rest, f"{row['redone']:.1%}",
        )))  # fmt: skip
    return lines


def page(results: Path) -> str:
    """The whole of docs/performance.md: says nothing that is not in a results file."""
    parts = [INTRO]
    for folder in sorted(path for path in results.glob("*") if path.is_dir()):
        found = [_read(p) for p in (folder / f"{name}.json" for name in OF_TARGETS) if p.exists()]
        if found and "instruction_sets" in found[0]:  # a processor's
            parts.append("\n".join(targets_table(found)) + "\n")
    for path in sorted(results.glob("*/triplet_adv_loss.json")):
        parts.append("\n".join(tables(_read(path))) + "\n")
    for document in map(_read, sorted(results.glob("*/latency.json"))):
        if "capability" in document:  # a GPU's
            parts.append("\n".join(latency_tables(document)) + "\n")
    mining = [_read(path) for path in sorted(results.glob("*/mine_negatives.json"))]
    for gpu in [d for d in mining if "capability" in d] or [None]:
        parts.append("\n".join(grid_tables(gpu)) + "\n")
    parts += ["\n".join(long_table(document)) + "\n" for document in mining]
    for document in map(_read, sorted(results.glob("*/screening.json"))):
        parts.append("\n".join(screening_table(document)) + "\n")
    return "\n".join(parts)


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    results = HERE / "results"

    def every(name: str) -> list[dict]:
        return [_read(path) for path in sorted(results.glob(f"*/{name}.json"))]

    made = [_read(path) for path in sorted(results.glob("*/reproduce/*.json"))]
    changed = [_read(path) for path in sorted(results.glob("*/ablation/*.json"))]
    scaling, runs = every("scaling"), every("short_runs")
    pages = {
        "performance.md": page(results),
        "scaling.md": scaling_page(scaling),
        "training.md": training_page(every("train"), every("attacks"), every("carlini"), runs),
        "reproduction.md": reproduction_page(made),
        "ablation.md": ablation_page(changed),
    }
    for name, text in pages.items():
        (DOCS / name).write_text(text)
        print(f"written to {DOCS / name}")
    try:
        for path in (
            *figures(scaling, DOCS),
            *training_figures(runs, DOCS),
            *ablation_figures(changed, DOCS),
        ):
            print(f"written to {path}")
    except ImportError as error:
        print(f"figures left out: {error}")


if __name__ == "__main__":
    main()
