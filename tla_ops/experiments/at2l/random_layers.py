"""Networks for the tables of random resizing and padding: the originals, what an attacker knows of
one, the same network behind the random layers, and fine-tuned there.
"""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tla_ops.experiments.at2l.ensemble import CONFUSED
from tla_ops.experiments.lab import Lab, Setting, Trained, digest
from tla_ops.experiments.rounds import Plan, rounds
from tla_ops.experiments.threat import Threat
from tla_ops.training import checkpoint, pretrained
from tla_ops.training.classifier import Classifier
from tla_ops.training.defences import RandomResizePad, behind
from tla_ops.training.defended import ENLARGED
from tla_ops.training.models import build
from tla_ops.training.patterns import Patterns
from tla_ops.training.recipe import Recipe

ROUND = "at2l-round"
"""The recipe of fine-tuning, one round of Algorithm 1."""
SIDE = 16
"""That digits are enlarged to: at their own 8 x 8 pixels the layers' least change is an eighth."""


def _on_digits(method: str, network: str, **options: Any) -> tuple[str, ...]:
    shown = {"network": network, "smallest": SIDE, "side": SIDE, "options": options}
    return method, "model=randomized", f"model_options={json.dumps(shown)}"


STAND_INS: dict[str, dict[str, tuple[str, ...]]] = {
    "digits": {
        "Inception-v3": _on_digits("um", "small", dim=64),
        "ResNet-v2-101": _on_digits("um", "mlp", hidden=[256]),
        "Inception-ResNet-v2": _on_digits("um", "mlp", hidden=[128, 128]),
        "Ens-adv-Inception-ResNet-v2": _on_digits("at", "mlp", hidden=[128, 128]),
    },
    "cifar10": {
        "Inception-v3": ("at2l-pretrain", "model=vgg16", "model_options={}"),
        "ResNet-v2-101": ("at2l-pretrain", "model=at2l_resnet50", "model_options={}"),
        "Inception-ResNet-v2": ("um",),
        "Ens-adv-Inception-ResNet-v2": ("at",),
    },
}
"""What is trained in the places of the paper's networks: a recipe, and overrides of it. Those on
CIFAR-10 end in a global pooling and so take larger images, as the paper's do."""
RADIUS, RADII = Fraction(2, 255), {"digits": Fraction(3, 64)}
"""Of FGSM: the least of Xie et al. (2018), who have 2, 5 and 10 of 255; on digits the part of their
recipes' ball that it is of 8/255."""
GREY, PADDING = 0.5, {"digits": 0.0}
"""Xie et al. pad with zero where pixels are scaled to [-1, 1]."""


class Layers(NamedTuple):
    """Random layers, as the arguments of ``defences.RandomResizePad``."""

    smallest: int
    side: int
    value: float


def random_layers(lab: Lab, setting: Setting) -> Layers:
    """In proportion to the 299 to 331 pixels of Xie et al.; digits fill what they are enlarged to
    at most, since their networks take one size alone.
    """
    value = PADDING.get(setting.dataset, GREY)
    if setting.dataset == "digits":
        return Layers(ceil(SIDE / ENLARGED), SIDE, value)
    smallest = max(lab.dataset(setting.dataset).train.image_shape[1:])
    return Layers(smallest, ceil(smallest * ENLARGED), value)


def original(lab: Lab, setting: Setting, name: str) -> Trained:
    """A network by the paper's name: with timm's weights, or what is trained in its place.

    Raises:
        WeightsError: timm's weights are not there.
    """
    if setting.dataset in STAND_INS:
        return lab.trained(setting, *STAND_INS[setting.dataset][name])
    published = pretrained.NETWORKS[name]
    options = json.dumps({"name": published})
    recipe = lab.recipe(setting.dataset, ROUND, "model=timm", f"model_options={options}")
    content = pretrained.weights(published).read_bytes()
    key = hashlib.blake2b(content, digest_size=16).hexdigest()
    path = lab.output / "checkpoints" / f"{published}-{key[:12]}" / "best.pt"
    if not path.exists():
        classes, shape = _sizes(lab, setting)
        _save(
            lab,
            setting,
            path,
            recipe,
            build("timm", classes, shape, name=published, pretrained=True),
        )
    made = lab.read(path, recipe, published)
    run = {"method": "um", "name": published, "checkpoint": str(path.relative_to(lab.output))}
    lab.record(setting, run)
    return made


def round_recipe(
    lab: Lab, setting: Setting, trained: Trained, layers: Layers, said: dict[str, Any]
) -> Recipe:
    """Of fine-tuning a network behind random layers, with the weights that the paper prints."""
    network, options = trained.recipe.model, trained.recipe.model_options
    if network == "randomized":
        network, options = options["network"], options["options"]
    shown = {"network": network, "options": options, **layers._asdict()}
    radius = RADII.get(setting.dataset, RADIUS)
    return lab.recipe(
        setting.dataset, ROUND, "model=randomized", f"model_options={json.dumps(shown)}",
        *(f"{key}={said[key]}" for key in ("adversarial_weight", "weight", "margin")),
        CONFUSED,
        # The step is that of the attack on held-out images.
        "attack=fgsm", f"epsilon={radius}", f"attack_step={radius / 4}",
    )  # fmt: skip


def fine_tuned(lab: Lab, setting: Setting, trained: Trained, recipe: Recipe) -> Trained:
    """A network after one round of Algorithm 1 behind the random layers, which it is attacked
    through by FGSM: A = {FGSM}, M = {f}.
    """
    key = digest(trained.digest, recipe.model, recipe.model_options)
    path = lab.output / "checkpoints" / f"{recipe.name}-{key[:12]}" / "start.pt"
    if not path.exists():
        front = behind(nn.Identity(), network_of(trained), trained.model.image_shape)
        _save(lab, setting, path, recipe, front)
    name = f"{trained.name}-{recipe.model_options['network']}-rand-tr"
    threat = Threat("fgsm", recipe.epsilon, steps=1)
    plan = Plan(recipe, lab.read(path, recipe, name), (threat,), name=name)
    return rounds(lab, setting, plan, 1)[-1]


def attacked(setting: Setting, weights: Trained, layers: Layers, scenario: str) -> Trained:
    """What the attacker knows of a network: itself, or its mean over patterns of the layers."""
    network, shape = network_of(weights), weights.model.image_shape
    if scenario == "vanilla":
        alone = nn.Upsample((SIDE, SIDE)) if setting.dataset == "digits" else nn.Identity()
        model = behind(alone, network, shape).eval()
        made = digest(weights.digest, "alone", str(alone))
        return Trained(f"{weights.name}-alone", model, weights.recipe, made)
    over = Patterns(network, shape, **layers._asdict()).eval()
    made = digest(weights.digest, "patterns", layers, over.patterns)
    return Trained(f"{weights.name}-patterns", over, weights.recipe, made)


def defended(lab: Lab, weights: Trained, layers: Layers) -> Trained:
    """A network behind random layers, which draw from the lab's seed on."""
    generator = torch.Generator(lab.device).manual_seed(lab.seed)
    front = RandomResizePad(*layers, generator=generator)
    model = behind(front, network_of(weights), weights.model.image_shape).eval()
    made = digest(weights.digest, "random", layers, lab.seed)
    return Trained(f"{weights.name}-random", model, weights.recipe, made)


def network_of(trained: Trained) -> Classifier:
    """What a "randomized" model has behind the layers; another model itself."""
    model = trained.model
    if trained.recipe.model != "randomized":
        return model
    dim, classes = model.head.in_features, model.head.out_features
    body = model.body.get_submodule("1")
    return Classifier(body, dim, classes, model.image_shape, model.head)


def _sizes(lab: Lab, setting: Setting) -> tuple[int, tuple[int, int, int]]:
    data = lab.dataset(setting.dataset)
    return data.classes, data.train.image_shape


def _save(lab: Lab, setting: Setting, path: Path, recipe: Recipe, model: Classifier) -> None:
    """A checkpoint of weights that no run here has made."""
    classes, shape = _sizes(lab, setting)
    about = {"recipe": recipe.as_dict(), "classes": classes, "image_shape": list(shape), "step": 0}
    checkpoint.save(path, about | {"model": model.state_dict()})
