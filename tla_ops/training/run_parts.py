"""What a run is made of: device and processes, optimiser, averaged weights, the training attack."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tla_ops.training.attacks import Attack
from tla_ops.training.data import Dataset
from tla_ops.training.fast import FastAttack
from tla_ops.training.image_set import ImageSet, hold_out
from tla_ops.training.recipe import ATTACKS, Recipe


class RunError(ValueError):
    """A run that cannot start: what its folder holds or asks for does not fit."""


def fingerprint(images: ImageSet) -> str:
    """Of the labels and of about a thousand images: whether two runs learn from the same ones."""
    digest = hashlib.blake2b(digest_size=16)
    some = images.stored[:: max(1, len(images) // 1000)]
    for tensor in (images.labels, some):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def learned(recipe: Recipe, dataset: Dataset) -> tuple[ImageSet, ImageSet | None]:
    """A run's training images, of which some may be held out: (those learned from, the others).

    Raises:
        RunError: as many as there are, or more, are to be held out.
    """
    if not recipe.val_images:
        return dataset.train, None
    if recipe.val_images >= len(dataset.train):
        raise RunError(
            f"val_images must be below {len(dataset.train)} training images, "
            f"got {recipe.val_images}"
        )
    return hold_out(dataset.train, recipe.val_images, recipe.seed)


def length(recipe: Recipe, images: int) -> int:
    """Steps of a run that learns from ``images``.

    Raises:
        RunError: they are fewer than a batch.
    """
    if images < recipe.batch:
        raise RunError(f"batch must be at most {images} training images, got {recipe.batch}")
    limits = [(recipe.epochs or 0) * (images // recipe.batch), recipe.max_steps or 0]
    return min(limit for limit in limits if limit)


def training_attack(recipe: Recipe) -> Attack:
    """The attack that a recipe trains against, its options bound."""
    function = ATTACKS[recipe.attack]
    options: dict[str, Any] = {"epsilon": recipe.epsilon, "mode": recipe.attack_mode}
    if recipe.attack not in ("fgsm", "ll"):
        options |= {"step": recipe.attack_step, "steps": recipe.attack_steps}
    if recipe.attack in ("pgd", "bim"):
        options["norm"] = recipe.attack_norm
    attack = partial(function, **options)
    # A twin has its batch normalisations folded, which they can be in eval mode alone.
    if recipe.fast_attack == "off" or recipe.attack_mode != "eval":
        return attack
    return FastAttack(attack, dtype=getattr(torch, recipe.fast_attack), channels_last=True)


def make_fabric(recipe: Recipe, device: str) -> Fabric:
    kind, _, index = device.partition(":")
    accelerator = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(kind, kind)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    devices: Any = [int(index)] if index else local
    # Its notes on what it chose stand in the recipe already.
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=processes // local,
        strategy="ddp" if processes > 1 else "auto",
        precision=recipe.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **options)
    return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, **options)


def make_average(model: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    # It asks this counter for 0 at every update, which on the device would have to be waited for.
    average.n_averaged = average.n_averaged.cpu()
    return average
