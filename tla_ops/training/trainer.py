"""The training loop: a recipe, a data set and a folder in; checkpoints and curves out.

Lightning Fabric brings device, precision and DDP (under ``torchrun``). A step's random numbers come
from the seed, the step and the rank alone, so that a run that was killed resumes to the same
numbers from the last checkpoint, whatever happened after it.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

import tla_ops
from tla_ops.training import checkpoint, runlog
from tla_ops.training.attacks import in_batches, pgd
from tla_ops.training.augment import AUGMENT
from tla_ops.training.data import Dataset
from tla_ops.training.evaluate import accuracy
from tla_ops.training.files import write_json
from tla_ops.training.interrupts import StopRequest
from tla_ops.training.layers import PENULTIMATE, width
from tla_ops.training.methods import Batch, Step
from tla_ops.training.models import Classifier, build
from tla_ops.training.progress import Progress
from tla_ops.training.recipe import METHODS, Recipe
from tla_ops.training.report import environment
from tla_ops.training.run_parts import RunError as RunError
from tla_ops.training.run_parts import (
    fingerprint,
    learned,
    length,
    make_average,
    make_fabric,
    make_optimizer,
    training_attack,
)

if TYPE_CHECKING:
    from tla_ops.training.adversarial_set import Stored

FILES = ("last.pt", "best.pt", "metrics.csv", "result.json")
RESUMABLE = (
    *("max_steps", "epochs", "val_every", "checkpoint_every", "log_every", "name"),
    *("eval_steps", "eval_step", "init_from"),
)
"""Keys that may differ between a run and its continuation, which needs its start no more."""


class Whole:
    """A batch that Fabric hands on as it is: it would round the images to the step's precision,
    where 8/255 is no longer 8/255.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class TrainingStep(nn.Module):
    """Model and method as one module, whose forward is a step's loss: DDP sees one call a step."""

    def __init__(self, model: Classifier, method: Callable[..., Step]) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, whole: Whole) -> Step:
        return self.method(self.model, whole.batch)


def train(
    recipe: Recipe,
    dataset: Dataset,
    output: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    stored: Stored | None = None,
) -> dict[str, Any]:
    """Train a model; returns what it writes to ``output/result.json``.

    Args:
        recipe: see :mod:`tla_ops.training.recipe`.
        dataset: images for ``recipe.dataset``; ``recipe.val_images`` of its training images choose
            the best checkpoint, its test images are not looked at.
        output: receives ``last.pt`` and ``best.pt`` (read by `tla_ops.training.checkpoint`),
            ``metrics.csv``, ``tensorboard/`` and ``result.json``.
        resume: go on from ``last.pt``; without one the run starts afresh, and a finished one is
            left as it is.
        device: auto, cpu, cuda or cuda:N. Under ``torchrun`` each process takes its own.
        stored: adversarial images of those learned from (`run_parts.learned`), in their order, in
            place of the recipe's attack.

    Raises:
        RunError: ``output`` holds a run and ``resume`` is not set, or one of another recipe or of
            other images; the recipe or ``stored`` does not fit the images; the loss is no longer
            finite.
        KeyboardInterrupt: after SIGINT or SIGTERM, once ``last.pt`` holds the step that was under
            way.
    """
    fabric = make_fabric(recipe, device)
    on_gpu = fabric.device.type == "cuda"
    with torch.random.fork_rng(devices=[fabric.device] if on_gpu else []):
        return Trainer(fabric, recipe, dataset, output, resume, stored).run()


def clear(output: Path) -> None:
    """Remove what a run has written to its folder, and the folder if nothing else is in it."""
    for name in FILES:
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / "tensorboard", ignore_errors=True)
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()


def _tidy(output: Path, step: int) -> None:
    """Remove what a run that was killed in the midst of writing left, and, where there was no
    checkpoint to go on from, what it had found before."""
    for name in FILES:
        for part in output.glob(f".{name}.*"):
            part.unlink()
        if step == 0 and name in ("best.pt", "result.json"):
            (output / name).unlink(missing_ok=True)


class Trainer:
    """One run's state. Everything that a continuation needs is in :meth:`state`."""

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        dataset: Dataset,
        output: Path,
        resume: bool,
        stored: Stored | None = None,
    ) -> None:
        self.fabric, self.recipe, self.dataset, self.output = fabric, recipe, dataset, output
        self.stored = stored
        if stored is not None and recipe.augment != "none":
            raise RunError(
                f"augment must be none for stored adversarial images, got {recipe.augment}"
            )
        if recipe.batch % fabric.world_size:
            raise RunError(
                f"batch must be a multiple of {fabric.world_size} processes, got {recipe.batch}"
            )
        rest, held_out = learned(recipe, dataset)
        if stored is not None and len(stored.mixture) != len(rest):
            raise RunError(
                f"stored must have {len(rest)} images as are learned from, "
                f"got {len(stored.mixture)}"
            )
        self.images = rest.to(fabric.device)
        self.held_out = held_out.to(fabric.device) if held_out is not None else None
        self.total = length(recipe, len(rest))
        self.steps_per_epoch = len(rest) // recipe.batch
        if recipe.candidates > len(rest):
            raise RunError(
                f"candidates must be at most {len(rest)} training images, got {recipe.candidates}"
            )

        torch.manual_seed(self._stream("model"))
        shape = dataset.train.image_shape
        try:
            model = build(recipe.model, dataset.classes, shape, **recipe.model_options)
        except (TypeError, ValueError) as error:
            raise RunError(f"model {recipe.model} for images {shape}: {error}") from error
        self.model = model.to(fabric.device)
        if recipe.augment == "crop_flip_colour" and shape[0] != 3:
            raise RunError(f"augment must not be crop_flip_colour for images {shape}")
        if recipe.init_from and not (resume and (output / "last.pt").exists()):
            path = Path(recipe.init_from)
            checkpoint.load_weights(self.model, checkpoint.read(path), path)
        self.bank = self._bank()
        self.average = make_average(self.model, recipe.ema)
        self.meter = runlog.Meter(fabric.device)
        self.step = 0
        self.best: dict[str, Any] = {"score": [-1.0, -1.0], "step": 0}
        self.row: dict[str, float] = {}
        self.seconds: float | None = 0.0
        optimizer = make_optimizer(self.model, recipe)
        self.optimizer: Any = optimizer
        self._restore(resume)
        training_step = TrainingStep(self.model, self._method())
        self.training_step, self.optimizer = fabric.setup(training_step, optimizer)
        self._epoch, self._orders = -1, (torch.empty(0), torch.empty(0))

    def run(self) -> dict[str, Any]:
        """Train to the end, or until somebody asks to stop."""
        path, done = self.output / "result.json", self.step >= self.total
        if not done:
            self._loop()
        result = self._result()
        if self.fabric.is_global_zero and not (done and path.exists()):
            write_json(path, result)
        return result

    def _loop(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        if self.fabric.is_global_zero:
            _tidy(self.output, self.step)
        main, every = self.fabric.is_global_zero, self.recipe.checkpoint_every
        log = runlog.RunLog(self.output, self.step) if main else None
        self._began = time.perf_counter()
        self._clock = self._began, self.step
        self.training_step.train()
        try:
            with (
                StopRequest(self.fabric) as stop,
                Progress(self.recipe.name, self.total, self.step, quiet=not main) as progress,
            ):
                while self.step < self.total:
                    self.train_step()
                    row = self._row()
                    if row:
                        self.row = row
                        if log is not None:
                            log.write(row)
                        if not math.isfinite(row.get("loss", 0.0)):
                            raise RunError(
                                f"the loss is {row['loss']} by step {self.step}: try a lower "
                                "learning_rate or grad_clip"
                            )
                    stopping = stop.requested()
                    if stopping or self.step == self.total or self.step % every == 0:
                        self._save()
                    progress.update(runlog.note(self.row))
                    if stopping:  # at the last step, too: of what would come next
                        raise KeyboardInterrupt
        finally:
            if log is not None:
                log.close()

    def train_step(self) -> None:
        recipe, rank = self.recipe, self.fabric.global_rank
        torch.manual_seed(self._stream("step", self.step, rank))
        rows, host_rows = self._rows()
        if self.stored is not None:
            self.stored.rows = host_rows
        candidates = 0 if recipe.bank else recipe.candidates
        batch = self.images.batch(rows, candidates, augment=AUGMENT[recipe.augment])
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        result = self.training_step(Whole(batch))
        self.optimizer.zero_grad()
        self.fabric.backward(result.loss)
        if recipe.grad_clip is not None:
            # Without a look at the norm, which would wait for the device: a lost loss is seen where
            # it is logged.
            self.fabric.clip_gradients(
                self.training_step,
                self.optimizer,
                max_norm=recipe.grad_clip,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        if self.bank is not None and result.features is not None:
            self.bank.enqueue(*result.features)  # after backward, which reads the bank
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.meter.add(result)
        self.step += 1

    def _rows(self) -> tuple[Tensor, Tensor]:
        """This process's share of the step's images, on the device and on the CPU: an epoch's order
        is shuffled by its number.
        """
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._stream("epoch", epoch))
            order = torch.randperm(len(self.images), generator=generator)
            self._epoch, self._orders = epoch, (order.to(self.fabric.device), order)
        share = self.recipe.batch // self.fabric.world_size
        first = position * self.recipe.batch + self.fabric.global_rank * share
        device, host = (order[first : first + share] for order in self._orders)
        return device, host

    def _learning_rate(self) -> float:
        unit = 1 if self.recipe.schedule_unit == "steps" else self.steps_per_epoch
        passed = [start for start in self.recipe.schedule if start * unit <= self.step]
        return self.recipe.schedule[max(passed)] if passed else self.recipe.learning_rate

    def _row(self) -> dict[str, float]:
        """What there is to log at this step, validation included; empty at most steps."""
        recipe, row, last = self.recipe, {}, self.step == self.total
        if last or self.step % recipe.log_every == 0:
            sums = self._of_all({"sums": self.meter.sums})["sums"].sum(0)
            row = runlog.means(sums)
            self.meter.sums.zero_()
            now, (then, before) = time.perf_counter(), self._clock
            row["images_per_second"] = (self.step - before) * recipe.batch / (now - then)
        if self.held_out is not None and (last or self.step % recipe.val_every == 0):
            row |= self._validate()
        if row:
            row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
            row |= {"step": self.step, "epoch": self.step / self.steps_per_epoch}
            self._clock = time.perf_counter(), self.step  # validation does not count
        return row

    def _validate(self) -> dict[str, float]:
        """Clean and adversarial accuracy on held-out training images, always the same attack; keeps
        the best model."""
        recipe, row = self.recipe, {}
        if self.fabric.is_global_zero and self.held_out is not None:
            torch.manual_seed(self._stream("validation"))
            model = self.model if self.average is None else self.average.module
            images, labels = self.held_out.images, self.held_out.labels
            norm: Any = recipe.attack_norm
            attack = partial(
                pgd, epsilon=recipe.epsilon, step=recipe.attack_step, steps=recipe.val_steps,
                norm=norm,
            )  # fmt: skip
            adversarial = in_batches(attack, 500)(model, images, labels)
            clean, robust = accuracy(model, images, labels), accuracy(model, adversarial, labels)
            # Nobody trains an undefended model for attacks. Where scores are equal the other
            # accuracy decides, then the earlier step stays.
            score = [clean, robust] if recipe.method == "um" else [robust, clean]
            if score > self.best["score"]:
                self.best = {"score": score, "step": self.step}
                checkpoint.save(
                    self.output / "best.pt",
                    self._about() | {"model": model.state_dict(), "score": score},
                )
            row = {"val_clean": clean, "val_adversarial": robust}
        self.fabric.barrier()
        return row

    def _about(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_dict(),
            "classes": self.dataset.classes,
            "image_shape": list(self.dataset.train.image_shape),
            "step": self.step,
        }

    def state(self) -> dict[str, Any]:
        """Everything that decides what the rest of the run does, and what it took so far; every
        process has to ask.
        """
        return self._about() | {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.average is None else self.average.module.state_dict(),
            "ema_count": None if self.average is None else self.average.n_averaged,
            "banks": None if self.bank is None else self._of_all(self.bank.state_dict()),
            "data": fingerprint(self.dataset.train),
            "meter": self._of_all({"sums": self.meter.sums})["sums"].sum(0),
            "best": self.best,
            "row": self.row,
            "seconds": self.seconds,
            "world_size": self.fabric.world_size,
        }

    def _of_all(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every process's tensors, stacked by rank."""
        if self.fabric.world_size == 1:
            return {name: tensor[None] for name, tensor in tensors.items()}
        gathered: dict[str, Tensor] = self.fabric.all_gather(tensors)  # type: ignore[assignment]
        return gathered

    def _save(self) -> None:
        if self.seconds is not None:
            now = time.perf_counter()
            self.seconds, self._began = self.seconds + now - self._began, now
        state = self.state()
        if self.fabric.is_global_zero:
            checkpoint.save(self.output / "last.pt", state)
        self.fabric.barrier()

    def _restore(self, resume: bool) -> None:
        path = self.output / "last.pt"
        if not resume:
            if any((self.output / name).exists() for name in FILES):
                raise RunError(
                    f"{self.output} holds a run: resume it, or choose another output folder"
                )
            return
        if not path.exists():
            return
        kept = checkpoint.read(path)
        if "optimizer" not in kept:
            raise checkpoint.CheckpointError(
                f"{path}: has weights alone, as best.pt: start from it by init_from"
            )
        now = self.recipe.as_dict()
        differ = [
            f"{key} was {kept['recipe'].get(key)!r}, is {now.get(key)!r}"
            for key in now.keys() | kept["recipe"].keys()
            if key not in RESUMABLE and now.get(key) != kept["recipe"].get(key)
        ]
        if kept["world_size"] != self.fabric.world_size:
            differ.append(f"{kept['world_size']} processes, are {self.fabric.world_size}")
        if kept["data"] != fingerprint(self.dataset.train):
            differ.append("the training images are others")
        if differ:
            raise RunError(f"{path} is of another recipe: {'; '.join(sorted(differ))}")
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(kept["ema"])
            self.average.n_averaged.copy_(kept["ema_count"])
        if self.bank is not None:
            rank = self.fabric.global_rank
            self.bank.load_state_dict({name: all_[rank] for name, all_ in kept["banks"].items()})
        if self.fabric.is_global_zero:
            self.meter.sums.copy_(kept["meter"])  # of all processes
        self.step, self.best, self.row = kept["step"], kept["best"], kept["row"]
        self.seconds = kept.get("seconds")  # not in every older checkpoint

    def _result(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "experiment": f"train {recipe.name}",
            "recipe": recipe.as_dict(),
            "step": self.step,
            "best": {"step": self.best["step"], "score": self.best["score"]},
            "images": {"train": len(self.images), "held_out": recipe.val_images},
            "notes": list(self.dataset.notes),
            "last": self.row,
            "seconds": self.seconds,
            "processes": self.fabric.world_size,
            "environment": environment(self.fabric.device),
        }

    def _method(self) -> Callable[..., Step]:
        recipe = self.recipe
        options: dict[str, Any] = dict(recipe.options)
        if recipe.method != "um":
            options["attack"] = training_attack(recipe) if self.stored is None else self.stored
        if self.bank is not None:
            options["bank"] = self.bank
        return partial(METHODS[recipe.method], **options)

    def _bank(self) -> tla_ops.FeatureBank | None:
        try:  # without a bank, too: a layer that the model lacks is known before there is a folder
            dim = width(self.model, self.recipe.options.get("layer", PENULTIMATE))
        except ValueError as error:
            raise RunError(str(error)) from error
        if not self.recipe.bank:
            return None
        return tla_ops.FeatureBank(self.recipe.bank, dim, device=self.fabric.device)

    def _stream(self, *name: object) -> int:
        """A seed for one purpose: from the recipe's, and what the purpose is called."""
        text = "/".join(map(str, (self.recipe.seed, *name)))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1
