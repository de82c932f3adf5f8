"""Training in rounds against stored adversarial images: AT2L's Algorithms 1 and 2 (IJCAI 2019).

A round makes the adversarial sets X_{a,m} of the training images, for every attack a and every
network m, and then trains on batches of clean images x and, for each, one of its adversarial
images. Algorithm 1 is the case of one attack and of the trained network f alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tla_ops.training import checkpoint, trainer
from tla_ops.training.adversarial_set import AdversarialSet, Mixture, Stored
from tla_ops.training.data import Dataset
from tla_ops.training.image_set import ImageSet
from tla_ops.training.recipe import Recipe
from tla_ops.training.run_parts import RunError, learned, length

Sets = Callable[[Path, ImageSet], Sequence[AdversarialSet]]
"""``sets(path, images)``: the adversarial sets of images against the network of a checkpoint, made,
or found where they were made before."""


def train_rounds(
    recipe: Recipe,
    dataset: Dataset,
    output: Path,
    *,
    start: Path,
    sets: Sets,
    others: Sequence[Path] = (),
    own: bool = True,
    rounds: int,
    device: str = "auto",
) -> list[Path]:
    """Train f for ``rounds`` rounds, or those of them that ``output`` does not hold yet.

    The rounds are one run of :mod:`tla_ops.training.trainer`, whose optimiser goes on from round to
    round; between rounds, and within one, it may be interrupted and called again.

    Args:
        recipe: of one round, which is as long as the recipe's run is. Its method is "at2l" for
            equation 2; with ``weight: 0`` that is equation 1.
        dataset: images; the recipe's ``val_images`` of the training images are held out.
        output: receives the run and, after each round, ``round-01.pt`` and so on, checkpoints.
        start: checkpoint of f, trained on clean images.
        sets: gives adversarial sets.
        others: checkpoints of the networks m beside f, whose weights stay.
        own: whether f itself, as it is at the beginning of a round, is among the m: its sets are
            made anew in each round.
        rounds: number of rounds, 0 or more.
        device: as for `trainer.train`.

    Returns:
        Checkpoints of f: ``start``, then one after each round.

    Raises:
        ValueError: negative ``rounds``; no network m.
        RunError: as `trainer.train`; several processes; ``output`` lacks a round that its run has
            passed, or the run's state, or has rounds of another length.
        KeyboardInterrupt: what was finished stays, and the next call goes on from it.
    """
    if rounds < 0:
        raise ValueError(f"train_rounds: rounds must be at least 0, got {rounds}")
    if not own and not others:
        raise ValueError("train_rounds: others must have one network or more without own, got none")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RunError("rounds run in one process, not under torchrun")
    images, _ = learned(recipe, dataset)
    steps = length(recipe, len(images))
    made = [start]
    for number in range(1, rounds + 1):
        path = output / f"round-{number:02}.pt"
        if not path.exists():
            _check(output / "last.pt", made[1:], path, steps)
            found = [one for member in (*others, *made[-1:] * own) for one in sets(member, images)]
            one_run = replace(recipe, epochs=None, max_steps=number * steps, init_from=str(start))
            stored = Stored(Mixture(found))
            trainer.train(one_run, dataset, output, resume=True, device=device, stored=stored)
            _keep(output / "last.pt", path)
        made.append(path)
    return made


def _check(last: Path, made: Sequence[Path], path: Path, steps: int) -> None:
    """That a run can go on to the round of ``path`` from those ``made`` before it."""
    first = len(made) * steps
    for before in made[-1:]:
        step = checkpoint.read(before)["step"]
        if step != first:
            raise RunError(f"{before} must be of step {first}, got step {step}")
    step = checkpoint.read(last)["step"] if last.exists() else 0
    if not first <= step <= first + steps:
        raise RunError(
            f"{last} must be of a step in {first}..{first + steps} to make {path.name}, "
            f"got step {step}"
        )


def _keep(last: Path, path: Path) -> None:
    """The weights of a run's last step, as a checkpoint of its own."""
    kept = checkpoint.read(last)
    names = ("recipe", "classes", "image_shape", "step", "model", "ema")
    checkpoint.save(path, {name: kept[name] for name in names})
