"""The TLA paper's Table 2: what a larger candidate mini-batch costs a training iteration.

The paper's "Mini-Batch TT" times the forward pass of the candidates: it grows by 1.76 ms an image,
which is that pass on the authors' GPU, while the search among the features that come out of it is a
negligible part of the arithmetic. The rows here split an iteration, so that this can be seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

import tla_ops
from tla_ops.training.attacks import pgd
from tla_ops.training.files import write_json
from tla_ops.training.methods import Batch, pool_features, tla_loss
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
PARTS = ("attack", "pool_forward", "mining", "training_step")
EPSILON, STEP = Fraction(8, 255), Fraction(2, 255)
WEIGHT, NORM_WEIGHT, MARGIN = 2.0, 1e-3, 0.03  # the paper's values for CIFAR-10


@dataclass(frozen=True)
class Config:
    """What is timed: the model's name in ``MODELS``, and the sizes."""

    model: str
    batch: int
    negatives: tuple[int, ...]
    repeats: int
    attack_steps: int
    device: str
    seed: int
    threads: int | None = None  # None: as many as torch takes


def run(config: Config, output: Path | None = None) -> dict[str, Any]:
    """Time every negative size on random images; each repeat takes all sizes in turn.

    Rows are written to ``output`` after each repeat. A negative size of 1 is a random
    negative, as in the paper: no pool is forwarded and nothing is mined.
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
        model = MODELS[config.model]().to(device)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    batches = {size: random_batch(model, config, size) for size in config.negatives}
    samples: dict[int, list[dict[str, float]]] = {size: [] for size in batches}
    results: dict[str, Any] = environment(device) | {"configuration": asdict(config)}
    with Progress("table2", len(batches) * (config.repeats + 1)) as progress:
        for repeat in range(config.repeats + 1):
            for size, batch in batches.items():
                sample = iteration(model, optimizer, batch, config.attack_steps)
                if repeat > 0:  # the first round warms up
                    samples[size].append(sample)
                progress.update(f"negative size {size}: {sample['total']:.3f} s")
            if repeat > 0:
                rows = [row(samples[size], size, config, model) for size in batches]
                results |= {"rows": rows, "slope_ms_per_candidate": slope(rows)}
                if output is not None:
                    write_json(output, results)
    return results


def random_batch(model: Classifier, config: Config, negatives: int) -> Batch:
    """Uniform images of the model's shape, ten classes; those of the candidates take turns."""
    generator = torch.Generator().manual_seed(config.seed)

    def images(count: int) -> torch.Tensor:
        return torch.rand(count, *model.image_shape, generator=generator).to(config.device)

    labels = torch.randint(10, (config.batch,), generator=generator).to(config.device)
    candidate_labels = torch.arange(negatives, device=config.device) % 10
    return Batch(
        images(config.batch), labels, images(config.batch), images(negatives), candidate_labels
    )


def iteration(
    model: Classifier, optimizer: torch.optim.Optimizer, batch: Batch, attack_steps: int
) -> dict[str, float]:
    """One iteration of the paper's flow: seconds of its parts and in total; ``peak_mb`` on CUDA."""
    seconds: dict[str, float] = {}
    device = batch.images.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock = device_clock(device)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started = clock()
        yield
        seconds[part] = clock() - started

    with timed("total"):
        with timed("attack"):
            adversarial = pgd(
                model,
                batch.images,
                batch.labels,
                epsilon=EPSILON,
                step=STEP,
                steps=attack_steps,
            )
        if len(batch.candidates) == 1:
            seconds["pool_forward"] = seconds["mining"] = 0.0
            index = torch.zeros_like(batch.labels)
        else:
            with timed("pool_forward"):
                anchor, pool = pool_features(model, adversarial, batch.candidates)
            with timed("mining"):
                _, index = tla_ops.mine_negatives(
                    anchor, pool, batch.labels, batch.candidate_labels
                )
        with timed("training_step"):
            step = tla_loss(
                model,
                batch,
                adversarial,
                index,
                weight=WEIGHT,
                norm_weight=NORM_WEIGHT,
                margin=MARGIN,
            )
            optimizer.zero_grad()
            step.loss.backward()
            optimizer.step()
    if device.type == "cuda":
        seconds["peak_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return seconds


def device_clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that first waits for the device's work."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def row(
    samples: Sequence[dict[str, float]], negatives: int, config: Config, model: Classifier
) -> dict[str, Any]:
    """The repeat whose total is the median, so that its parts add up, in the fields that benchmark
    files share, and this table's own behind them.
    """
    typical = sorted(samples, key=lambda sample: sample["total"])[(len(samples) - 1) // 2]
    milliseconds = {part: 1e3 * typical[part] for part in PARTS}
    totals = [1e3 * sample["total"] for sample in samples]
    fifths = quantiles(totals, n=5, method="inclusive") if len(totals) > 1 else totals * 4
    total = 1e3 * typical["total"]
    paper = PAPER.get(negatives, (None, None))
    return {
        "bench": "table2",
        "impl": "tla_ops",
        "mode": "both",
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


def slope(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Milliseconds each further candidate adds to the columns, by least squares over rows with a
    pool; None below two.
    """
    rows = [entry for entry in rows if entry["M"] > 1]
    if len(rows) < 2:
        return None
    return {
        name: _fit([entry["M"] for entry in rows], [entry[f"{name}_ms"] for entry in rows])
        for name in ("mini_batch", "pool_forward", "mining")
    }


def _fit(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y over x."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    variance = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / variance


def render(results: dict[str, Any]) -> str:
    """The table that `tla-ops bench table2` prints."""
    config = results["configuration"]

    def cell(entry: dict[str, Any], key: str) -> str:
        if entry[key] is None:
            return "-"
        return f"{entry[key] / (1000 if key.endswith('_ms') else 1):.4g}"

    columns = {
        "Mini-Batch TT": "mini_batch_ms",
        "paper": "paper_mini_batch_s",
        "Total TT": "median_ms",
        "paper ": "paper_total_s",
        "pool forward": "pool_forward_ms",
        "mining": "mining_ms",
        "attack": "attack_ms",
        "training step": "training_step_ms",
    }
    table = [
        [str(entry["M"]), *(cell(entry, key) for key in columns.values())]
        for entry in results["rows"]
    ]
    lines = [
        f"Seconds an iteration, the median of {config['repeats']}: model {config['model']}, "
        f"batch {config['batch']}, PGD-{config['attack_steps']},",
        f"on {results['machine']} ({results['device']}).",
        "",
        text_table(["negatives", *columns], table),
        "",
        "Mini-Batch TT = pool forward + mining; Total TT = that + attack + training step,",
        "all of the one repeat whose total is the median.",
        "A negative size of 1 is a random negative: no pool is forwarded, nothing is mined.",
        "Paper: WRN-32-10, batch 50, one V100 (Table 2).",
    ]
    per_image = results["slope_ms_per_candidate"]
    if per_image is not None:
        share = per_image["mining"] / per_image["mini_batch"]
        paper = _fit(list(PAPER)[1:], [1e3 * PAPER[size][0] for size in list(PAPER)[1:]])
        if per_image["mini_batch"] > 0 and 0 <= share <= 1:
            measured = f"adds {per_image['mini_batch']:.4g} ms, {share:.1%} of it in mining"
        else:
            measured = "adds less than this run's noise: try more --repeats"
        lines.append(f"Each further candidate {measured} (paper: {paper:.2f} ms).")
    lines += [
        "The paper's timer measures the forward pass of the pool, not the search in it: a faster",
        "search cannot shorten that column; forwarding the pool faster, or not at all, does.",
    ]
    return "\n".join(lines)
