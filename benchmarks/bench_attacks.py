"""Our attacks beside those of adversarial-robustness-toolbox: equal steps, one model, one data set.

A small network learns the digits; both attack the same images of it. Deterministic attacks have to
give the same perturbation, those with a random start the same accuracy within its sampling error.
One JSON file under benchmarks/results/<machine>/. Exit status 1: they disagree.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from harness import RESULTS, environment, machine, write_json
from torch import Tensor, nn

from tla_ops.training import attacks
from tla_ops.training.data import Dataset, load
from tla_ops.training.models import Classifier, small

LINF = {"epsilon": Fraction(1, 10), "step": Fraction(1, 40)}
L2 = {"epsilon": Fraction(3, 4), "step": Fraction(1, 4)}
EQUAL = 1e-5
SHARE = 0.999
"""Of pixels that a deterministic attack must have in common with ART's. Where a gradient is near 0
its sign, and in l2 late steps' directions, depend on the order of sums."""
ERRORS = 3.0
"""Standard errors by which accuracies under random starts may differ."""


class Pair:
    """One attack, ours and theirs."""

    def __init__(
        self, name: str, ours: attacks.Attack, theirs: Callable[..., Any], random: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        self.name, self.ours, self.random = name, ours, random
        self.theirs = partial(theirs, **options)


def pairs() -> list[Pair]:
    fgsm, bim = evasion.FastGradientMethod, evasion.BasicIterativeMethod
    pgd, mim = evasion.ProjectedGradientDescentPyTorch, evasion.MomentumIterativeMethod
    ball = {"eps": float(LINF["epsilon"]), "eps_step": float(LINF["step"])}
    round_ball = {"norm": 2, "eps": float(L2["epsilon"]), "eps_step": float(L2["step"])}
    quiet = {"verbose": False}
    found = [
        Pair("fgsm", partial(attacks.fgsm, epsilon=LINF["epsilon"]), fgsm, eps=ball["eps"]),
        Pair("bim-7", partial(attacks.bim, steps=7, **LINF), bim, max_iter=7, **ball, **quiet),
        Pair("mim-7", partial(attacks.mim, steps=7, **LINF), mim, max_iter=7, **ball, **quiet),
        Pair(
            "pgd-5 l2, no random start",
            partial(attacks.pgd, steps=5, norm="l2", random_start=False, **L2),
            pgd, max_iter=5, num_random_init=0, **round_ball, **quiet,
        ),
    ]  # fmt: skip
    for restarts in (1, 3):
        found += [
            Pair(
                f"pgd-7, random starts: {restarts}",
                partial(attacks.pgd, steps=7, restarts=restarts, **LINF),
                pgd, True, max_iter=7, num_random_init=restarts, **ball, **quiet,
            ),
            Pair(
                f"pgd-8 l2, random starts: {restarts}",
                partial(attacks.pgd, steps=8, norm="l2", restarts=restarts, **L2),
                pgd, True, max_iter=8, num_random_init=restarts, **round_ball, **quiet,
            ),
        ]  # fmt: skip
    return found


def trained(data: Dataset, epochs: int = 12) -> Classifier:
    torch.manual_seed(0)
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in data.train.batches(50, 0):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()
    return model.eval()


def compared(pair: Pair, model: Classifier, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """One row: accuracies, where they part, pixels in common, seconds."""
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), 10, clip_values=(0.0, 1.0)
    )
    torch.manual_seed(0)
    np.random.seed(0)
    started = time.perf_counter()
    ours = pair.ours(model, images, labels)
    middle = time.perf_counter()
    theirs = torch.from_numpy(
        pair.theirs(estimator, batch_size=len(images)).generate(images.numpy(), labels.numpy())
    )
    finished = time.perf_counter()
    with torch.no_grad():
        right = [model(x).argmax(1) == labels for x in (ours, theirs)]
    apart = int((right[0] != right[1]).sum())
    accuracy = [r.double().mean().item() for r in right]
    error = max(apart, 1) ** 0.5 / len(labels)
    equal = ((ours - theirs).abs() <= EQUAL).double().mean().item()
    agrees = abs(accuracy[0] - accuracy[1]) <= ERRORS * error if pair.random else equal >= SHARE
    return {
        "bench": "attacks",
        "attack": pair.name,
        "accuracy": accuracy[0],
        "accuracy_art": accuracy[1],
        "apart": apart,
        "standard_error": error,
        "equal_pixels": None if pair.random else equal,
        "agrees": bool(agrees),
        "seconds": middle - started,
        "seconds_art": finished - middle,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/...)")
    parser.add_argument("--quick", action="store_true", help="fewer images and epochs")
    args = parser.parse_args(arguments)
    data = load("digits")
    model = trained(data, 3 if args.quick else 12)
    count = 60 if args.quick else len(data.test)
    images, labels = data.test.images[:count], data.test.labels[:count]
    with torch.no_grad():
        clean = (model(images).argmax(1) == labels).double().mean().item()
    rows = [compared(pair, model, images, labels) for pair in pairs()]
    document: dict[str, Any] = environment() | {
        "images": count,
        "clean": clean,
        "linf": {key: str(value) for key, value in LINF.items()},
        "l2": {key: str(value) for key, value in L2.items()},
        "rows": rows,
    }
    path = args.output or RESULTS / machine() / "attacks.json"
    write_json(path, document)
    for row in rows:
        print({key: value for key, value in row.items() if key != "bench"})
    print(f"written to {path}")
    return 0 if all(row["agrees"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
