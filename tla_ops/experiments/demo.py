"""`tla-ops demo`: a small network learns the UCI digits three ways and is attacked.

Undefended (UM), PGD adversarial training (AT) and triplet loss adversarial training (TLA) share the
network's initial weights, the optimiser and the number of epochs: the recipes `digits-um`,
`digits-at` and `digits-tla`. Each method's checkpoint is an epoch chosen on images held out of the
training split: the best adversarial accuracy for AT and TLA, the best clean accuracy for UM, which
nobody trains for attacks. The test split is only reported.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tla_ops.experiments.demo_figure import Panel, draw
from tla_ops.training import checkpoint, runlog, trainer
from tla_ops.training.attacks import pgd
from tla_ops.training.data import Dataset, load
from tla_ops.training.evaluate import accuracy, triplet_statistics
from tla_ops.training.files import write_json
from tla_ops.training.image_set import ImageSet
from tla_ops.training.models import Classifier
from tla_ops.training.recipe import Recipe, load_recipe
from tla_ops.training.report import environment, text_table

NAMES = {
    "um": "undefended (UM)",
    "at": "adversarial training (AT)",
    "tla": "triplet loss (TLA)",
}
STATISTICS_MARGIN = 0.05
"""Of the triplets that the table counts, the same for all methods: TLA's."""


@dataclass(frozen=True)
class Config:
    """What a user chooses; the recipes and the test attack decide the rest."""

    seed: int
    epochs: int
    test_attack_steps: int = 20
    test_attack_restarts: int = 5

    def recipe(self, key: str) -> Recipe:
        return load_recipe(f"digits-{key}", [f"seed={self.seed}", f"epochs={self.epochs}"])


def run(config: Config, output: Path) -> dict[str, Any]:
    """Train, evaluate and draw; returns what it writes to ``output/metrics.json``.

    ``output`` receives ``metrics.json`` (rewritten after each method, so that an interrupted run
    keeps what it finished), a folder of `tla_ops.training.trainer.train` for each method, and
    ``demo.png``. What an earlier run left of them is removed first.
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
    dataset = load("digits")
    recipes = {key: config.recipe(key) for key in NAMES}
    count = recipes["at"].val_images
    metrics: dict[str, Any] = {
        "experiment": "demo",
        "complete": False,
        "seed": config.seed,
        "configuration": {
            "seed": config.seed,
            "test_attack_steps": config.test_attack_steps,
            "test_attack_restarts": config.test_attack_restarts,
            "epochs": config.epochs,
            "epsilon": recipes["at"].epsilon,
        },
        "images": {
            "train": len(dataset.train) - count, "held_out": count, "test": len(dataset.test)
        },
        "environment": environment(torch.device("cpu")),
        "methods": {},
    }  # fmt: skip
    for name in ("metrics.json", "demo.png"):
        (output / name).unlink(missing_ok=True)
    for key in NAMES:
        trainer.clear(output / key)
    output.mkdir(parents=True, exist_ok=True)
    panels = []
    for key, recipe in recipes.items():
        result = train(key, recipe, dataset, output / key)
        model, _ = checkpoint.read_model(output / key / "best.pt")
        adversarial = attacked(model, dataset.test, recipe, config)
        result |= evaluate(model, adversarial, dataset.test, config)
        metrics["methods"][key] = result
        metrics["seconds"] = time.perf_counter() - started
        write_json(output / "metrics.json", metrics)
        panels.append(panel(key, result, model, adversarial, dataset.test))
    draw(panels, footnote(metrics), output / "demo.png")
    metrics["complete"] = True
    metrics["seconds"] = time.perf_counter() - started
    write_json(output / "metrics.json", metrics)
    return metrics


def train(key: str, recipe: Recipe, dataset: Dataset, output: Path) -> dict[str, Any]:
    """Train one method; returns its best epoch and its curves."""
    started = time.perf_counter()
    result = trainer.train(recipe, dataset, output, device="cpu")
    rows = runlog.curves(output / "metrics.csv")
    names = [name for name in rows[0] if name != "images_per_second"]
    per_epoch = result["images"]["train"] // recipe.batch
    return {
        "name": NAMES[key],
        "best_epoch": result["best"]["step"] // per_epoch,
        "checkpoint": f"{key}/best.pt",
        "seconds": time.perf_counter() - started,
        "curves": {name: [row[name] for row in rows] for name in names},
    }


def attacked(model: Classifier, test: ImageSet, recipe: Recipe, config: Config) -> Tensor:
    """The test images under PGD, every image's worst of several restarts."""
    attack = partial(
        pgd,
        epsilon=recipe.epsilon,
        step=recipe.attack_step,
        steps=config.test_attack_steps,
        restarts=config.test_attack_restarts,
        generator=torch.Generator().manual_seed(config.seed),
    )
    return attack(model, test.images, test.labels)


def evaluate(
    model: Classifier, adversarial: Tensor, test: ImageSet, config: Config
) -> dict[str, float]:
    """Accuracy and triplet statistics on the test split."""
    generator = torch.Generator().manual_seed(config.seed)
    margin = STATISTICS_MARGIN
    return {
        "clean": accuracy(model, test.images, test.labels),
        "pgd": accuracy(model, adversarial, test.labels),
        **triplet_statistics(model, adversarial, test, margin, generator)._asdict(),
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
            "epoch: the one chosen on images held out of the training split",
            f"TLA against AT under PGD: {100 * gain:+.1f} points; on {count} images, differences",
            f"below about {200 * error:.0f} points (two standard errors) are noise.",
            f"{metrics['seconds']:.0f} s on {metrics['environment']['machine']}, one thread",
        ]
    )
