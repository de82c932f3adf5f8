"""Which of a model's representations the triplets are of: one of its layers, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tla_ops.training.attacks import model_mode
from tla_ops.training.models import Classifier

PENULTIMATE, LOGITS = "penultimate", "logits"


def represent(model: Classifier, images: Tensor, layer: str = PENULTIMATE) -> Tensor:
    """The representation (B, D) of images (B, C, H, W) in a layer.

    Args:
        layer: "penultimate", the model's ``features``; "logits"; or the dotted name of a submodule
            such as "body.6", whose output is flattened from dimension 1. Where that output is
            later changed in place, as by a ReLU, it is taken as it was before.

    Raises:
        ValueError: no submodule of that name, with those there are; one that a forward pass runs
            never or more than once; one whose output is no tensor (B, D, ...).
    """
    if layer == PENULTIMATE:
        return model.features(images)
    return represent_with_logits(model, images, layer)[0]


def represent_with_logits(
    model: Classifier, images: Tensor, layer: str = PENULTIMATE
) -> tuple[Tensor, Tensor]:
    """What :func:`represent` gives and the logits (B, classes), of one forward pass."""
    if layer == PENULTIMATE:
        features = model.features(images)
        return features, model.head(features)
    if layer == LOGITS:
        logits = model(images)
        return logits, logits
    with _outputs_of(_submodule(model, layer)) as outputs:
        logits = model(images)
    if len(outputs) != 1:
        raise ValueError(
            "tla: layer must be a submodule that a forward pass runs once, "
            f"got {layer!r}, which it ran {len(outputs)} times"
        )
    output = outputs[0]
    if not isinstance(output, Tensor) or output.dim() < 2 or len(output) != len(images):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"tla: layer must give ({len(images)}, D, ...) for {len(images)} images, "
            f"got {layer!r}, which gives {found}"
        )
    return output.flatten(1), logits


def width(model: Classifier, layer: str = PENULTIMATE) -> int:
    """D of :func:`represent`; two images are forwarded in eval mode unless it is ``head``'s.

    Raises:
        ValueError: as there.
    """
    if layer == PENULTIMATE:
        return model.head.in_features
    images = model.head.weight.new_zeros(2, *model.image_shape)
    with torch.no_grad(), model_mode(model, "eval"):
        return represent(model, images, layer).shape[1]


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[object]]:
    """What the module returns within the block, in a list that grows."""
    outputs: list[object] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        # A copy: the layer that follows may work in place, and would take this one with it.
        outputs.append(output.clone() if isinstance(output, Tensor) else output)

    hook = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


def _submodule(model: nn.Module, layer: str) -> nn.Module:
    modules = {name: module for name, module in model.named_modules() if name}
    if layer in modules:
        return modules[layer]
    names = [PENULTIMATE, LOGITS, *modules]
    near = difflib.get_close_matches(layer, names, 1)
    hint = f", did you mean {near[0]}?" if near else ";"
    raise ValueError(
        f"tla: layer must be one of the model's, got {layer!r}{hint} its layers: {', '.join(names)}"
    )
