"""A GAN of a data set's images and what it makes of images, each made once.

Beside what a lab keeps, under its folder: ``gan/DATASET-KEY/last.pt``, a GAN, finished or to go on
with, and ``gan/DATASET-KEY/projected-KEY.pt``, the nearest images that it makes of given ones.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tla_ops.experiments.lab import Lab, Setting, digest, identified
from tla_ops.training import checkpoint
from tla_ops.training.classifier import Shape
from tla_ops.training.data import Dataset
from tla_ops.training.defense_gan import (
    LATENT_DIM,
    DefenseGAN,
    gan_optimizers,
    mnist_discriminator,
    mnist_generator,
    wgan_gp,
)
from tla_ops.training.files import plain
from tla_ops.training.image_set import ImageSet, hold_out
from tla_ops.training.interrupts import StopRequest
from tla_ops.training.progress import Progress
from tla_ops.training.trainer import RunError

SIDE = 28
"""Of the images that Table 18's networks are made for."""
SAVE_EVERY = 500
"""Steps of a GAN between two checkpoints."""


class GanSetup(NamedTuple):
    """A GAN and its projections, as a budget's ``gan`` has them; the defaults are the papers' and
    those of Defense-GAN's code.
    """

    steps: int = 200_000
    layout: str = "printed"
    """See `mnist_generator`."""
    width: float = 1.0
    """Of both networks."""
    latent_dim: int = LATENT_DIM
    batch: int = 50
    learning_rate: float = 1e-4
    iterations: int = 200
    """L of a projection."""
    restarts: int = 10
    """R of a projection."""
    images: int | None = None
    """Training images that are projected, a stratified choice; None: all."""


class Gan(NamedTuple):
    """A finished GAN: what makes images (N, C, H, W) of latent vectors, in eval mode."""

    network: nn.Module
    setup: GanSetup
    folder: Path
    digest: str
    facts: dict[str, Any]
    """Its steps, seconds, and losses at the end."""


class Projected(NamedTuple):
    """Images (N, C, H, W) float32, on the lab's device, and the seconds that they took."""

    images: Tensor
    seconds: float


def networks(image_shape: Shape, setup: GanSetup) -> tuple[nn.Sequential, nn.Sequential]:
    """Table 18's generator and discriminator, new, for images of one channel, of up to 28 x 28.

    Of smaller ones, such as scikit-learn's digits, the generator makes each pixel as the mean of
    those of its 28 x 28 that it covers, and the discriminator sees them enlarged (bilinear).

    Raises:
        ValueError: for images of other shapes.
    """
    channels, *sides = image_shape
    if channels != 1 or max(sides) > SIDE:
        raise ValueError(
            f"networks: image_shape must be one channel of at most {SIDE} x {SIDE}, "
            f"got {tuple(image_shape)}"
        )
    network = mnist_generator(setup.latent_dim, setup.layout, setup.width)
    critic = mnist_discriminator(width=setup.width)
    if sides != [SIDE, SIDE]:
        network.append(nn.AdaptiveAvgPool2d(tuple(sides)))
        critic.insert(0, nn.Upsample((SIDE, SIDE), mode="bilinear"))
    return network, critic


def trained_gan(lab: Lab, setting: Setting, setup: GanSetup) -> Gan:
    """A WGAN-GP of the setting's training images: found, gone on with, or trained.

    Raises:
        RunError: its loss is no longer finite.
        KeyboardInterrupt: after SIGINT or SIGTERM, once ``last.pt`` holds the step that was under
            way.
    """
    train = lab.dataset(setting.dataset).train
    about = plain(
        {
            "images": identified(train),
            "seed": lab.seed,
            "steps": setup.steps,
            "layout": setup.layout,
            "width": setup.width,
            "latent_dim": setup.latent_dim,
            "batch": setup.batch,
            "learning_rate": setup.learning_rate,
        }
    )
    folder = lab.output / "gan" / f"{setting.dataset}-{digest(about)[:12]}"
    run = _Training(lab, train, setup, folder / "last.pt")
    if run.step < setup.steps:
        lab.say(f"training a GAN of {setting.dataset} ({folder.name})")
        run.go_on(f"GAN of {setting.dataset}")
    content = hashlib.blake2b(run.path.read_bytes(), digest_size=16).hexdigest()
    facts = {"steps": run.step, "seconds": run.seconds, "losses": run.losses}
    return Gan(run.network.eval(), setup, folder, content, facts)


class _Training:
    """A GAN's training, and its state in a file."""

    def __init__(self, lab: Lab, images: ImageSet, setup: GanSetup, path: Path) -> None:
        self.lab, self.images, self.setup, self.path = lab, images, setup, path
        self.step, self.seconds, self.losses = 0, 0.0, [math.nan, math.nan]
        with torch.random.fork_rng(devices=[lab.device] if lab.device.type == "cuda" else []):
            torch.manual_seed(_number(lab, "networks"))
            network, critic = networks(images.image_shape, setup)
        self.network, self.critic = network.to(lab.device), critic.to(lab.device)
        self.optimizers = gan_optimizers(self.network, self.critic, setup.learning_rate)
        with suppress(FileNotFoundError, checkpoint.CheckpointError):
            kept = checkpoint.read(path)
            for part, state in zip(self._parts(), kept["parts"], strict=True):
                part.load_state_dict(state)
            self.step, self.seconds, self.losses = kept["step"], kept["seconds"], kept["losses"]

    def go_on(self, name: str) -> None:
        setup, device = self.setup, self.lab.device
        generator = torch.Generator(device)
        steps = wgan_gp(
            self.network, self.critic, self.images.to(device).images, latent_dim=setup.latent_dim,
            batch=setup.batch, optimizers=self.optimizers, generator=generator,
        )  # fmt: skip
        clock, note = time.perf_counter(), ""
        with StopRequest() as stop, Progress(name, setup.steps, self.step) as progress:
            while self.step < setup.steps:
                # Of the step alone: what is gone on with gets the numbers of what was not stopped.
                generator.manual_seed(_number(self.lab, "step", self.step))
                losses = next(steps)
                self.step += 1
                stopping = stop.requested()
                if stopping or self.step == setup.steps or self.step % SAVE_EVERY == 0:
                    self.losses = [loss.item() for loss in losses]
                    now = time.perf_counter()
                    self.seconds, clock = self.seconds + now - clock, now
                    self._save()
                    note = f"critic's loss {self.losses[0]:.3f}"
                progress.update(note)
                if stopping:
                    raise KeyboardInterrupt

    def _save(self) -> None:
        if not all(map(math.isfinite, self.losses)):
            raise RunError(
                f"the GAN's losses are {self.losses} by step {self.step}: try a lower learning_rate"
            )
        checkpoint.save(
            self.path,
            {
                "parts": [part.state_dict() for part in self._parts()],
                "step": self.step,
                "seconds": self.seconds,
                "losses": self.losses,
            },
        )

    def _parts(self) -> list[Any]:
        return [self.network, self.critic, *self.optimizers]


def projected(lab: Lab, gan: Gan, images: ImageSet, name: str) -> Projected:
    """For each image the nearest that the GAN makes (`DefenseGAN.project`): found, or made, as many
    at a time as with their restarts are a lab's batch, each of which is kept until all are there.

    Args:
        images: their labels decide nothing.
        name: what they are, for the progress.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM, once the batch that was under way is kept.
    """
    setup, device = gan.setup, lab.device
    size = max(1, lab.batch // setup.restarts)
    about = {
        "gan": gan.digest,
        "images": identified(images),
        "iterations": setup.iterations,
        "restarts": setup.restarts,
        "size": size,
        "seed": lab.seed,
    }
    path = gan.folder / f"projected-{digest(about)[:16]}.pt"

    def made(rows: Tensor, number: int) -> dict[str, Any]:
        began = time.perf_counter()
        defence = DefenseGAN(
            gan.network, setup.latent_dim, iterations=setup.iterations, restarts=setup.restarts,
            generator=torch.Generator(device).manual_seed(_number(lab, "projection", number)),
        )  # fmt: skip
        found = defence(images.take(rows).to(device)).cpu()
        return {"images": found, "seconds": time.perf_counter() - began}

    def joined() -> dict[str, Any]:
        lab.say(f"projecting {len(images):,} {name}")
        rows = torch.arange(len(images), device=images.labels.device).split(size)
        found = []
        with StopRequest() as stop, Progress(f"projecting {name}", len(images)) as progress:
            for number, part in enumerate(rows):
                place = path.with_suffix("") / f"{number}.pt"
                found.append(_kept(place, made, part, number))
                progress.update(steps=len(part))
                if stop.requested():
                    raise KeyboardInterrupt
        return {
            "images": torch.cat([each["images"] for each in found]),
            "seconds": sum(each["seconds"] for each in found),
        }

    kept = _kept(path, joined)
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return Projected(kept["images"].to(device), kept["seconds"])


def reconstructed(lab: Lab, setting: Setting, gan: Gan) -> tuple[Dataset, Projected]:
    """The setting's data set with what the GAN makes of its training images in their place, or of
    as many as `GanSetup.images` has.
    """
    data = lab.dataset(setting.dataset)
    train, count = data.train, gan.setup.images
    if count is not None and count < len(train):
        train = hold_out(train, count)[1]
    made = projected(lab, gan, train, f"training images of {setting.dataset}")
    note = f"{len(train):,} training images are a GAN's reconstructions"
    images = ImageSet(made.images.cpu(), train.labels.cpu())
    return data._replace(train=images, notes=(*data.notes, note)), made


def _kept(path: Path, make: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """A checkpoint's content, made where there is none."""
    with suppress(FileNotFoundError, checkpoint.CheckpointError):
        return checkpoint.read(path)
    content = make(*arguments)
    checkpoint.save(path, content)
    return content


def _number(lab: Lab, *name: object) -> int:
    """A seed for one purpose: from the lab's, and what the purpose is called."""
    return int(digest(lab.seed, *map(str, name))[:15], 16)
