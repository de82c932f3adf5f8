"""One iteration of TLA's Table 2, timed in parts: the paper's flow, and a feature bank's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from typing import Any

import torch

import tla_ops
from tla_ops.training.attacks import pgd
from tla_ops.training.methods import Batch, pool_features, tla_loss
from tla_ops.training.models import Classifier

PARTS = ("attack", "pool_forward", "mining", "training_step")
EPSILON, STEP = Fraction(8, 255), Fraction(2, 255)
WEIGHT, NORM_WEIGHT, MARGIN = 2.0, 1e-3, 0.03  # the paper's values for CIFAR-10


def random_batch(model: Classifier, count: int, negatives: int, *, seed: int = 0) -> Batch:
    """Uniform images of the model's shape, on its device: ``count`` anchors, as many positives and
    ``negatives`` candidates, of ten classes; those of the candidates take turns.
    """
    generator, device = torch.Generator().manual_seed(seed), model.head.weight.device

    def images(count: int) -> torch.Tensor:
        return torch.rand(count, *model.image_shape, generator=generator).to(device)

    labels = torch.randint(10, (count,), generator=generator).to(device)
    candidate_labels = torch.arange(negatives, device=device) % 10
    return Batch(images(count), labels, images(count), images(negatives), candidate_labels)


class TimedBank(tla_ops.FeatureBank):
    """Says how long its search takes, where a training step runs it."""

    timed: Callable[[str], AbstractContextManager[None]]

    def triplet_adv_loss(self, *tensors: Any, **options: Any) -> Any:
        with self.timed("mining"):
            return super().triplet_adv_loss(*tensors, **options)


def full_bank(model: Classifier, batch: Batch) -> TimedBank:
    """A bank of the candidates' features (M, D) as training leaves them, of a batch at a time in
    train mode; the model and its statistics stay as they are.
    """
    count = len(batch.candidates)
    bank = TimedBank(count, model.head.in_features, device=batch.images.device)
    parts = max(1, count // len(batch.images))  # of two images or more, for batch normalisation
    model = copy.deepcopy(model).train()
    with torch.no_grad():
        for images, labels in zip(
            batch.candidates.tensor_split(parts),
            batch.candidate_labels.tensor_split(parts),
            strict=True,
        ):
            bank.enqueue(model.features(images), labels)
    return bank


def iteration(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    attack_steps: int,
    bank: TimedBank | None = None,
) -> dict[str, float]:
    """One iteration of the paper's flow, or of a bank's: seconds of its parts and in total;
    ``peak_mb`` on CUDA, which holds all sizes' images and banks.

    A bank mines within the training step, in one operator with the triplets' loss: that is its
    "mining", and the step is what is left.
    """
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
        index: torch.Tensor | None = None
        if bank is not None:
            seconds["pool_forward"], bank.timed = 0.0, timed
        elif len(batch.candidates) == 1:
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
                bank=bank,
            )
            optimizer.zero_grad()
            step.loss.backward()
            optimizer.step()
            if bank is not None and step.features is not None:
                bank.enqueue(*step.features)
        if bank is not None:
            seconds["training_step"] -= seconds["mining"]
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
