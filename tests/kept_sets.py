"""Sets of adversarial images that a test chooses."""

import torch

from tla_ops.training.image_set import ImageSet
from tla_ops.training.set_builder import Wanted, build, only


def image_set(images, scale=None):
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), scale)


def keep(path, clean, adversarial, epsilon, batch=7):
    """The set of images (N, C, H, W) ``adversarial`` to the images of ``clean``."""
    if not isinstance(clean, ImageSet):
        clean = image_set(clean)
    left = iter(adversarial.split(batch))
    attack = only(lambda model, images, labels: next(left))
    wanted = [Wanted("any", path, {}, epsilon)]
    return build(wanted, attack, torch.nn.Identity(), clean, batch=batch, quiet=True)[0]
