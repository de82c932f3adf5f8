"""Our Carlini and Wagner l-infinity attack beside that of adversarial-robustness-toolbox: equal
arguments, one undefended model, the digits.

Ours attacks a batch, ART one by one the first few images of it; what they find is compared on
those. One JSON file under benchmarks/results/<machine>/. Exit status 1: ours fools the model on
fewer images, or the median of its distances is larger.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from art.attacks.evasion import CarliniLInfMethod
from art.estimators.classification import PyTorchClassifier
from bench_attacks import trained
from harness import RESULTS, environment, machine, write_json
from torch import Tensor, nn

from tla_ops.training.carlini import carlini_linf
from tla_ops.training.data import load
from tla_ops.training.models import Classifier

AT2L = {
    "steps": 1000, "learning_rate": 5e-3, "constant": 1e-3, "largest_constant": 2.0,
    "constant_factor": 2.0, "shrink": 0.9,
}  # fmt: skip
THEIRS = {
    "steps": "max_iter", "learning_rate": "learning_rate", "constant": "initial_const",
    "largest_constant": "largest_const", "constant_factor": "const_factor",
    "shrink": "decrease_factor",
}  # fmt: skip


class Setting(NamedTuple):
    arguments: dict[str, Any]
    few: int
    """Images of ART's, which takes 10 s and a minute for one."""
    repeats: int


SETTINGS = {
    "coarse": Setting(AT2L | {"steps": 50, "learning_rate": 0.05}, few=8, repeats=3),
    "AT2L": Setting(AT2L, few=4, repeats=1),
}


def found(model: Classifier, adversarial: Tensor, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Share of images that fool the model, and their l-infinity distances."""
    with torch.no_grad():
        fooled = model(adversarial).argmax(1) != labels
    distance = (adversarial - images).flatten(1).abs().amax(1)[fooled]
    return {
        "success": fooled.double().mean().item(),
        "mean_linf": distance.mean().item() if len(distance) else None,
        "median_linf": distance.quantile(0.5).item() if len(distance) else None,
    }


def compared(model: Classifier, images: Tensor, labels: Tensor, setting: Setting) -> dict[str, Any]:
    """One row: seconds are medians of repeats, in which implementations take turns."""
    arguments, few, repeats = setting
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), 10, clip_values=(0.0, 1.0)
    )
    options = {THEIRS[name]: value for name, value in arguments.items()}
    attack = CarliniLInfMethod(classifier, **options, verbose=False)

    def ours(images: Tensor, labels: Tensor) -> Tensor:
        return carlini_linf(model, images, labels, **arguments)

    def alone(images: Tensor, labels: Tensor) -> Tensor:
        return carlini_linf(model, images, labels, **arguments, batch_size=1)

    def theirs(images: Tensor, labels: Tensor) -> Tensor:
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    some = images[:few], labels[:few]
    calls: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]] = {
        "": (ours, (images, labels)), "_alone": (alone, some), "_art": (theirs, some),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    row: dict[str, Any] = {"bench": "carlini", "arguments": arguments, "repeats": repeats}
    for _ in range(repeats):
        for name, (call, batch) in calls.items():
            started = time.perf_counter()
            adversarial = call(*batch)
            seconds[name].append(time.perf_counter() - started)
            of_few = found(model, adversarial[:few], *some)
            row |= {f"{key}{name}": value for key, value in of_few.items()}
    for name, (_, batch) in calls.items():
        row[f"images{name}"] = len(batch[0])
        row[f"images_per_second{name}"] = len(batch[0]) / statistics.median(seconds[name])
    return row


def no_weaker(row: dict[str, Any]) -> bool:
    if row["success_art"] == 0:
        return True
    return row["success"] >= row["success_art"] and row["median_linf"] <= row["median_linf_art"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    parser.add_argument("--quick", action="store_true", help="one setting, once, on few images")
    args = parser.parse_args(arguments)
    data = load("digits")
    model = trained(data).requires_grad_(False)
    with torch.no_grad():
        right = model(data.test.images).argmax(1) == data.test.labels
    rows = right.nonzero()[: 16 if args.quick else 128, 0]
    images, labels = data.test.images[rows], data.test.labels[rows]
    document: dict[str, Any] = environment() | {"rows": []}
    path = args.output or RESULTS / machine() / "carlini.json"
    settings = SETTINGS
    if args.quick:
        settings = {"coarse": SETTINGS["coarse"]._replace(few=2, repeats=1)}
    for name, setting in settings.items():
        row = compared(model, images, labels, setting)
        document["rows"].append({"setting": name} | row)
        write_json(path, document)
        print(document["rows"][-1], flush=True)
    print(f"written to {path}")
    return 0 if all(map(no_weaker, document["rows"])) else 1


if __name__ == "__main__":
    sys.exit(main())
