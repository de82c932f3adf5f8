"""A lab for the tests of figures that stands in for training and attacks.

Each image has its own number in its pixels, and an adversarial one the mark of the model that it is
made on: to forward it through another one is an error.
"""

import torch

from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Lab, Trained
from tla_ops.training.data import Dataset
from tla_ops.training.image_set import ImageSet

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FOUR, THREE = ("um", "at", "alp", "tla"), ("at", "alp", "tla")
MARKS = {"um": 0.1, "at": 0.2, "alp": 0.3, "tla": 0.4}


def numbered(labels, first=0):
    """Images whose first pixels are their number, no mark, and their label."""
    labels = torch.as_tensor(labels)
    images = torch.zeros(len(labels), 1, 2, 2)
    images[:, 0, 0, 0] = (first + torch.arange(len(labels))) / 1000
    images[:, 0, 1, 0] = labels / 10
    return ImageSet(images, labels)


class Scripted(Lab):
    """``taken_for(method, number, label)`` is what a model takes an adversarial image for; clean
    ones are right.
    """

    def __init__(self, output, taken_for, dataset="cifar10", *, train=60, labels=None, **options):
        test = numbered(torch.arange(60) % 10 if labels is None else labels)
        data = Dataset(dataset, numbered(torch.arange(train) % 10, 500), test, 10)
        super().__init__(
            options.pop("budget", Budget("full")), output, lambda name: data,
            datasets=[dataset], say=lambda text: None, **options,
        )  # fmt: skip
        self.taken_for, self.attacks = taken_for, []

    def trained(self, setting, method, *variation):
        return Trained(method, None, self.recipe(setting.dataset, method, *variation), method)

    def adversarial(self, trained, threat, images):
        self.attacks.append((trained.name, threat, len(images)))
        moved = images.images.clone()
        moved[:, 0, 0, 1] = MARKS[trained.name]
        return moved

    def features(self, trained, images):
        number, mark, label = self._read(trained, images)
        bend = torch.sin(7 * number + 30 * mark)
        return torch.stack([number, mark, bend, 1 + label], 1).double()

    def predictions(self, trained, images):
        rows = zip(*(x.tolist() for x in self._read(trained, images)), strict=True)
        return torch.tensor(
            [self.taken_for(trained.name, n, label) if mark else label for n, mark, label in rows],
            dtype=torch.int64,
        )

    def _read(self, trained, images):
        pixels = (images.images if isinstance(images, ImageSet) else images)[:, 0]
        assert torch.isin(pixels[:, 0, 1], torch.tensor([0, MARKS[trained.name]])).all()
        number, label = (1000 * pixels[:, 0, 0]).round().long(), (10 * pixels[:, 1, 0]).round()
        return number, pixels[:, 0, 1], label.long()
