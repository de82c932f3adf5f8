"""The TLA paper's Table 2: what a larger candidate mini-batch costs a training iteration.

The paper's "Mini-Batch TT" times the forward pass of the candidates: it grows by 1.76 ms an image,
which is that pass on the authors' GPU, while the search among the features that come out of it is a
negligible part of the arithmetic. The rows here split an iteration, so that this can be seen, and
stand beside those of a second flow, in which a feature bank of as many rows takes the mini-batch's
place and nothing is forwarded for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from tla_ops.experiments.table2_flows import PARTS, full_bank, iteration, random_batch
from tla_ops.training.files import write_json
from tla_ops.training.models import MODELS, Classifier
from tla_ops.training.progress import Progress
from tla_ops.training.report import environment, text_table

# Negative size: (Mini-Batch TT, Total TT) in seconds; WRN-32-10, batch 50, PGD-7, one V100.
PAPER = {
    1: (0.0, 1.802),
    250: (0.467, 2.259),
    500: (0.908, 2.688),
    1000: (1.832, 3.621),
    2000: (3.548, 5.992),
}
FLOWS = ("paper", "bank")


@dataclass(frozen=True)
class Config:
    """What is timed: the model's name in ``MODELS``, the sizes, and which of ``FLOWS``.

    Raises:
        ValueError: for unknown or no flows, and for a bank alone without a size above 1.
    """

    model: str
    batch: int
    negatives: tuple[int, ...]
    repeats: int
    attack_steps: int
    device: str
    seed: int
    threads: int | None = None  # None: as many as torch takes
    flows: tuple[str, ...] = FLOWS
    model_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.flows or set(self.flows) - set(FLOWS):
            raise ValueError(
                f"flows must be some of {', '.join(FLOWS)}, got {', '.join(self.flows)}"
            )
        if not self.cases:
            raise ValueError(f"negatives must have a size above 1 for a bank, got {self.negatives}")

    @property
    def cases(self) -> list[tuple[int, str]]:
        """(negative size, flow) of each row. A random negative, size 1, needs no candidate's
        features, so that a bank has no part in it.
        """
        sizes, flows = dict.fromkeys(self.negatives), dict.fromkeys(self.flows)
        return [(size, flow) for size in sizes for flow in flows if flow == "paper" or size > 1]


def run(config: Config, output: Path | None = None) -> dict[str, Any]:
    """Time every negative size on random images; each repeat takes all sizes in turn, and of each
    size the flows in alternating order.

    Rows are written to ``output`` after each repeat. A negative size of 1 is a random
    negative, as in the paper: no pool is forwarded, nothing is mined, and there is no row of a
    bank.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        return _run(config, output)
    finally:
        torch.set_num_threads(before)


def _run(config: Config, output: Path | None) -> dict[str, Any]:
    device = torch.device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MODELS[config.model](**config.model_options).to(device)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    cases = config.cases
    batches = {size: random_batch(model, config.batch, size, seed=config.seed) for size, _ in cases}
    banks = {size: full_bank(model, batches[size]) for size, flow in cases if flow == "bank"}
    samples: dict[tuple[int, str], list[dict[str, float]]] = {case: [] for case in cases}
    results: dict[str, Any] = environment(device) | {"configuration": asdict(config)}
    with Progress("table2", len(cases) * (config.repeats + 1)) as progress:
        for repeat in range(config.repeats + 1):
            for size, flow in in_turn(cases, repeat):
                bank = banks[size] if flow == "bank" else None
                sample = iteration(model, optimizer, batches[size], config.attack_steps, bank)
                if repeat > 0:  # the first round warms up
                    samples[size, flow].append(sample)
                progress.update(f"{flow}, negative size {size}: {sample['total']:.3f} s")
            if repeat > 0:
                rows = [row(samples[case], *case, config, model) for case in cases]
                results |= {"rows": rows, "slope_ms_per_candidate": slopes(rows)}
                if output is not None:
                    write_json(output, results)
    return results


def in_turn(cases: Sequence[tuple[int, str]], repeat: int) -> list[tuple[int, str]]:
    """The cases by size; which flow of a size goes first changes with each size and repeat."""
    turns: list[tuple[int, str]] = []
    for position, size in enumerate(dict.fromkeys(size for size, _ in cases)):
        own = [case for case in cases if case[0] == size]
        turns += own if (position + repeat) % 2 == 0 else reversed(own)
    return turns


def row(
    samples: Sequence[dict[str, float]],
    negatives: int,
    flow: str,
    config: Config,
    model: Classifier,
) -> dict[str, Any]:
    """The repeat whose total is the median, so that its parts add up, in the fields that benchmark
    files share, and this table's own behind them.
    """
    typical = sorted(samples, key=lambda sample: sample["total"])[(len(samples) - 1) // 2]
    milliseconds = {part: 1e3 * typical[part] for part in PARTS}
    totals = [1e3 * sample["total"] for sample in samples]
    fifths = quantiles(totals, n=5, method="inclusive") if len(totals) > 1 else totals * 4
    total = 1e3 * typical["total"]
    paper = PAPER.get(negatives, (None, None)) if flow == "paper" else (None, None)
    return {
        "bench": "table2",
        "impl": "tla_ops",
        "mode": "both",
        "flow": flow,
        "B": config.batch,
        "M": negatives,
        "D": model.head.in_features,
        "dtype": "float32",
        "median_ms": total,
        "p20_ms": min(fifths[0], total),
        "p80_ms": max(fifths[-1], total),
        "peak_mb": samples[-1].get("peak_mb"),
        "regret": None,
        **{f"{part}_ms": milliseconds[part] for part in PARTS},
        "mini_batch_ms": milliseconds["pool_forward"] + milliseconds["mining"],
        "paper_mini_batch_s": paper[0],
        "paper_total_s": paper[1],
    }


def slopes(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float] | None]:
    """:func:`slope` of each flow that has rows."""
    flows = dict.fromkeys(entry["flow"] for entry in rows)
    return {flow: slope([entry for entry in rows if entry["flow"] == flow]) for flow in flows}


def slope(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Milliseconds each further candidate adds to the columns, by least squares over a flow's rows
    with a pool; None below two.
    """
    rows = [entry for entry in rows if entry["M"] > 1]
    if len(rows) < 2:
        return None
    return {
        name: _fit([entry["M"] for entry in rows], [entry[f"{name}_ms"] for entry in rows])
        for name in ("mini_batch", "pool_forward", "mining")
    }


def paper_slope() -> float:
    """Milliseconds that the paper's Mini-Batch TT grows by with each candidate."""
    sizes = [size for size in PAPER if size > 1]
    return _fit(sizes, [1e3 * PAPER[size][0] for size in sizes])


def _fit(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y over x."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    variance = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / variance


def render(results: dict[str, Any]) -> str:
    """The tables that `tla-ops bench table2` prints."""
    config = results["configuration"]
    rows = {(entry["M"], entry["flow"]): entry for entry in results["rows"]}
    flows = [flow for flow in FLOWS if any(key[1] == flow for key in rows)]
    columns = {
        "Mini-Batch TT": ("paper", "mini_batch_ms"),
        "paper": ("paper", "paper_mini_batch_s"),
        "Total TT": ("paper", "median_ms"),
        "paper ": ("paper", "paper_total_s"),
        "bank Mini-Batch TT": ("bank", "mini_batch_ms"),
        "bank Total TT": ("bank", "median_ms"),
    }
    columns = {name: column for name, column in columns.items() if column[0] in flows}
    header = ["negatives", *columns, *(["ratio"] if len(flows) == 2 else [])]
    table = []
    for size in dict.fromkeys(size for size, _ in rows):
        cells = [_seconds(rows.get((size, flow)), key) for flow, key in columns.values()]
        if len(flows) == 2:
            totals = [rows[size, flow]["median_ms"] for flow in FLOWS if (size, flow) in rows]
            cells.append(f"{totals[0] / totals[1]:.2f}" if len(totals) == 2 else "-")
        table.append([str(size), *cells])
    parts = [
        [str(size), flow, *(_seconds(entry, f"{part}_ms") for part in PARTS)]
        for (size, flow), entry in rows.items()
    ]
    lines = [
        f"Seconds an iteration, the median of {config['repeats']}: model {config['model']}, "
        f"batch {config['batch']}, PGD-{config['attack_steps']},",
        f"on {results['machine']} ({results['device']}).",
        "",
        text_table(header, table),
        "",
        text_table(["negatives", "flow", *(part.replace("_", " ") for part in PARTS)], parts),
        "",
        "Mini-Batch TT = pool forward + mining; Total TT = that + attack + training step,",
        "all of the one repeat whose total is the median.",
        "A negative size of 1 is a random negative: no pool is forwarded, nothing is mined, and a",
        "bank has no part in it.",
        "Paper: WRN-32-10, batch 50, one V100 (Table 2).",
    ]
    if "bank" in flows:
        lines += [
            "Bank: that many stored features take the mini-batch's place; its mining is one",
            "operator with the triplets' loss. Ratio: Total TT over the bank's.",
        ]
    lines += [_added(*each) for each in results["slope_ms_per_candidate"].items() if each[1]]
    if "paper" in flows:
        lines += [
            "The paper's timer measures the forward pass of the pool, not the search in it:",
            "a faster search cannot shorten that column; forwarding the pool faster, or not at",
            "all, does.",
        ]
    return "\n".join(lines)


def _seconds(entry: dict[str, Any] | None, key: str) -> str:
    if entry is None or entry[key] is None:
        return "-"
    return f"{entry[key] / (1000 if key.endswith('_ms') else 1):.4g}"


def _added(flow: str, per_image: dict[str, float]) -> str:
    """What a further candidate costs a flow, and how much of that is the search."""
    added, mining = per_image["mini_batch"], per_image["mining"]
    share, beside = "", ""
    if flow == "paper":
        share = f", {mining / added:.1%} of it in mining" if added else ""
        beside = f" (paper: {paper_slope():.2f} ms)"
    measured = f"adds {added:.4g} ms{share}"
    if added <= 0 or not 0 <= mining <= added:
        measured = "adds less than this run's noise: try more --repeats"
    return f"Each further {'candidate' if flow == 'paper' else 'row of a bank'} {measured}{beside}."
