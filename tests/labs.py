"""Laboratories for the tests of reproductions: made-up data, and training without training."""

import json
from zlib import crc32

import torch

from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab
from tla_ops.training import checkpoint, trainer
from tla_ops.training.data import DATASETS, Dataset
from tla_ops.training.files import write_json
from tla_ops.training.image_set import ImageSet
from tla_ops.training.models import build

TINY = ("model=mlp", "model_options={hidden: [8]}", "val_images=20", "val_steps=1", "batch=10",
        "candidates=10", "attack_steps=1", "max_steps=2", "schedule={}")  # fmt: skip
"""Recipes that train in no time, whatever the images."""


def made_up(name, *, train=80, test=60, seed=0, classes=10, shape=None):
    """A data set in the shape of ``name``: a bright row for each class, and noise. Images lie
    sorted by their class, as in no published set, so that the first ones are no sample.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = shape or DATASETS[name].shape

    def part(count):
        labels = (torch.arange(count) * classes // count).long()
        images = torch.randint(0, 150, (count, *shape), generator=generator, dtype=torch.uint8)
        images[torch.arange(count), :, labels % shape[1]] += 100
        return ImageSet(images, labels)

    return Dataset(name, part(train), part(test), classes, ("made up",))


class Watched(Lab):
    """A lab that says what it does into a list, ``said``, and whose data sets are a dictionary."""

    def __init__(self, output, data, budget=None, **options):
        self.data, self.said = data, []
        options.setdefault("overrides", TINY)
        super().__init__(
            budget or Budget("smoke", steps=2, restarts=2, queries=5), output,
            lambda name: self.data[name], say=self.said.append, **options,
        )  # fmt: skip

    def folder(self, setting, method, *variation):
        """Where the checkpoint of a model is, trained if it must be."""
        self.begin()
        self.trained(setting, method, *variation)
        (part,) = self.parts.values()
        return (self.output / part["runs"][-1]["checkpoint"]).parent


def fake_training(monkeypatch):
    """Training leaves a new network, whose weights the recipe's text decides; returns the list of
    what was trained.
    """
    trained = []

    def train(recipe, dataset, output, *, resume=False, device="auto"):
        trained.append(recipe)
        values = recipe.as_dict() | {"init_from": None}
        with torch.random.fork_rng():
            torch.manual_seed(crc32(json.dumps(values).encode()))
            shape = dataset.train.image_shape
            model = build(recipe.model, dataset.classes, shape, **recipe.model_options)
        about = {"recipe": recipe.as_dict(), "classes": dataset.classes, "image_shape": list(shape)}
        checkpoint.save(output / "best.pt", about | {"model": model.state_dict()})
        result = {"step": 2, "best": {"step": 2, "score": [0.0, 0.0]}}
        write_json(output / "result.json", result)
        return result

    monkeypatch.setattr(trainer, "train", train)
    return trained
