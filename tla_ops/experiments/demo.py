"""`tla-ops demo`: a small network learns the UCI digits three ways and is attacked.

Undefended (UM), PGD adversarial training (AT) and triplet loss adversarial training (TLA) share the
network's initial weights, the optimiser and the number of epochs. Each method's checkpoint is an
epoch chosen on the validation split: the best adversarial accuracy for AT and TLA, the best clean
accuracy for UM, which nobody trains for attacks. The test split is only reported.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tla_ops.experiments.demo_figure import Panel, draw
from tla_ops.experiments.progress import Progress
from tla_ops.experiments.report import environment, text_table
from tla_ops.training import methods
from tla_ops.training.attacks import Attack, pgd
from tla_ops.training.data import ImageSet, Splits, digits
from tla_ops.training.evaluate import accuracy, summary, triplet_statistics
from tla_ops.training.files import save_weights, write_json
from tla_ops.training.methods import Batch, Step
from tla_ops.training.models import Classifier, small

NAMES = {
    "um": "undefended (UM)",
    "at": "adversarial training (AT)",
    "tla": "triplet loss (TLA)",
}


@dataclass(frozen=True)
class Config:
    """Everything that decides the demo's numbers; distances in pixel space are shares of the [0, 1]
    range.
    """

    seed: int
    epochs: int
    batch: int = 50
    learning_rate: float = 2e-3
    epsilon: Fraction = Fraction(3, 16)
    attack_step: Fraction = Fraction(1, 16)
    train_attack_steps: int = 7
    validation_attack_steps: int = 10
    test_attack_steps: int = 20
    test_attack_restarts: int = 5
    candidates: int = 250
    # The paper's weight and margin for MNIST, and its authors' code's norm weight there.
    weight: float = 0.5
    norm_weight: float = 1e-4
    margin: float = 0.05


def run(config: Config, output: Path) -> dict[str, Any]:
    """Train, evaluate and draw; returns what it writes to ``output/metrics.json``.

    ``output`` receives ``metrics.json`` (rewritten after each method, so that an interrupted run
    keeps what it finished), the weights ``um.pt``, ``at.pt``, ``tla.pt`` and ``demo.png``.
    """
    # Layers this small gain nothing from threads, and one gives the same numbers on any number of
    # cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(config, output)
    finally:
        torch.set_num_threads(threads)


def _run(config: Config, output: Path) -> dict[str, Any]:
    started = time.perf_counter()
    splits = digits(config.seed)
    metrics: dict[str, Any] = {
        "experiment": "demo",
        "complete": False,
        "seed": config.seed,
        "configuration": asdict(config),
        "images": {name: len(part) for name, part in splits._asdict().items()},
        "environment": environment(torch.device("cpu")),
        "methods": {},
    }
    # What an earlier run left would be taken for this one's where this one is interrupted.
    for name in ("metrics.json", "demo.png", *(f"{key}.pt" for key in NAMES)):
        (output / name).unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    panels = []
    for key in NAMES:
        model, result = train(key, splits, config)
        adversarial = test_attack(config)(model, splits.test.images, splits.test.labels)
        result |= evaluate(model, adversarial, splits.test, config)
        save_weights(output / f"{key}.pt", model)
        metrics["methods"][key] = result
        metrics["seconds"] = time.perf_counter() - started
        write_json(output / "metrics.json", metrics)
        panels.append(panel(key, result, model, adversarial, splits.test))
    draw(panels, footnote(metrics), output / "demo.png")
    metrics["complete"] = True
    metrics["seconds"] = time.perf_counter() - started
    write_json(output / "metrics.json", metrics)
    return metrics


def train(key: str, splits: Splits, config: Config) -> tuple[Classifier, dict[str, Any]]:
    """Train one method; returns the model of its best validation epoch, and its curves."""
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = small()
    generator = torch.Generator().manual_seed(config.seed)
    step = method(key, config, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    best, best_epoch, best_weights = (-1.0, -1.0), 0, model.state_dict()
    curves: list[dict[str, float]] = []
    with Progress(key, config.epochs) as progress:
        for epoch in range(1, config.epochs + 1):
            curves.append(train_epoch(model, step, optimizer, splits.train, config, generator))
            clean, robust = validate(model, splits.validation, config)
            curves[-1] |= {"validation_clean": clean, "validation_pgd": robust}
            # Where epochs are equal the other accuracy decides, then the earlier one stays.
            score = (clean, robust) if key == "um" else (robust, clean)
            if score > best:
                best, best_epoch = score, epoch
                best_weights = copy.deepcopy(model.state_dict())
            progress.update(f"validation: clean {clean:.1%}, PGD {robust:.1%}")
    model.load_state_dict(best_weights)
    return model, {
        "name": NAMES[key],
        "best_epoch": best_epoch,
        "checkpoint": f"{key}.pt",
        "seconds": time.perf_counter() - started,
        "curves": {name: [epoch[name] for epoch in curves] for name in curves[0]},
    }


def method(key: str, config: Config, generator: torch.Generator) -> Callable[..., Step]:
    """The method's function of (model, batch), its options bound."""
    attack = attack_of(config, config.train_attack_steps, 1, generator)
    if key == "um":
        return methods.um
    if key == "at":
        return partial(methods.at, attack=attack)
    return partial(
        methods.tla,
        attack=attack,
        weight=config.weight,
        norm_weight=config.norm_weight,
        margin=config.margin,
    )


def train_epoch(
    model: Classifier,
    step: Callable[[Classifier, Batch], Step],
    optimizer: torch.optim.Optimizer,
    data: ImageSet,
    config: Config,
    generator: torch.Generator,
) -> dict[str, float]:
    """One pass over ``data``; the mean loss and, where there were triplets, their statistics."""
    model.train()
    losses, positive, negative = [], [], []
    for batch in data.batches(config.batch, config.candidates, generator):
        result = step(model, batch)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.detach())
        if result.positive_distance is not None and result.negative_distance is not None:
            positive.append(result.positive_distance)
            negative.append(result.negative_distance)
    record = {"loss": torch.stack(losses).mean().item()}
    if positive:
        record |= summary(torch.cat(positive), torch.cat(negative), config.margin)._asdict()
    return record


def attack_of(config: Config, steps: int, restarts: int, generator: torch.Generator) -> Attack:
    return partial(
        pgd,
        epsilon=config.epsilon,
        step=config.attack_step,
        steps=steps,
        restarts=restarts,
        generator=generator,
    )


def test_attack(config: Config) -> Attack:
    generator = torch.Generator().manual_seed(config.seed)
    return attack_of(config, config.test_attack_steps, config.test_attack_restarts, generator)


def validate(model: Classifier, data: ImageSet, config: Config) -> tuple[float, float]:
    """Clean and PGD accuracy; the same random starts every time, so that epochs compare."""
    generator = torch.Generator().manual_seed(config.seed)
    attack = attack_of(config, config.validation_attack_steps, 1, generator)
    adversarial = attack(model, data.images, data.labels)
    return accuracy(model, data.images, data.labels), accuracy(model, adversarial, data.labels)


def evaluate(
    model: Classifier, adversarial: Tensor, test: ImageSet, config: Config
) -> dict[str, float]:
    """Accuracy and triplet statistics on the test split."""
    generator = torch.Generator().manual_seed(config.seed)
    return {
        "clean": accuracy(model, test.images, test.labels),
        "pgd": accuracy(model, adversarial, test.labels),
        **triplet_statistics(model, adversarial, test, config.margin, generator)._asdict(),
    }


@torch.no_grad()
def panel(
    key: str, result: dict[str, Any], model: Classifier, adversarial: Tensor, test: ImageSet
) -> Panel:
    """What the figure shows of one method."""
    model.eval()
    return Panel(
        NAMES[key],
        result["clean"],
        result["pgd"],
        model.features(test.images),
        model.features(adversarial),
        test.labels,
    )


def footnote(metrics: dict[str, Any]) -> str:
    """The settings, and how far the accuracies can be trusted."""
    config, count = metrics["configuration"], metrics["images"]["test"]
    error = (0.7 * 0.3 / count) ** 0.5
    attack = f"{config['test_attack_steps']} steps, {config['test_attack_restarts']} restarts"
    return (
        f"PGD: l∞, ε = {config['epsilon']} of the pixel range, {attack}. {count} test images\n"
        f"(standard error near 70%: {error:.1%}), one run, seed {config['seed']}, "
        f"{config['epochs']} epochs."
    )


def render(metrics: dict[str, Any]) -> str:
    """The table that `tla-ops demo` prints."""
    rows = [
        [
            result["name"],
            f"{result['clean']:.1%}",
            f"{result['pgd']:.1%}",
            f"{result['active']:.1%}",
            f"{result['positive_distance']:.3f}",
            f"{result['negative_distance']:.3f}",
            str(result["best_epoch"]),
        ]
        for result in metrics["methods"].values()
    ]
    header = ["test split", "clean", "PGD", "active", "d(positive)", "d(negative)", "epoch"]
    at, tla = (metrics["methods"][key]["pgd"] for key in ("at", "tla"))
    gain, count = tla - at, metrics["images"]["test"]
    error = ((at * (1 - at) + tla * (1 - tla)) / count) ** 0.5
    return "\n".join(
        [
            text_table(header, rows),
            "",
            footnote(metrics),
            "active: share of attacked images with d(positive) - d(nearest negative) + margin > 0",
            "d: mean angular distance, 1 - |cos|, of penultimate features",
            "epoch: the one chosen on the validation split",
            f"TLA against AT under PGD: {100 * gain:+.1f} points; on {count} images, differences",
            f"below about {200 * error:.0f} points (two standard errors) are noise.",
            f"{metrics['seconds']:.0f} s on {metrics['environment']['machine']}, one thread",
        ]
    )
