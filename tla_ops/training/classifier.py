"""The form of a network here, model(x) = head(features(x)), and how any module takes it."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tla_ops.training.attacks import model_mode

Shape = Sequence[int]
"""(channels, height, width) of an image."""


class Classifier(nn.Module):
    """A network in two parts.

    ``features(images)`` gives the penultimate activations (B, D), after the last activation
    function; ``head(features)`` the logits (B, classes). ``image_shape`` is the (channels, height,
    width) it was made for. ``head`` is a new linear layer from ``dim`` to ``classes`` where none is
    given.
    """

    def __init__(
        self,
        body: nn.Module,
        dim: int,
        classes: int,
        image_shape: Shape,
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(dim, classes) if head is None else head
        self.image_shape = tuple(image_shape)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def wrap(
    module: nn.Module, layer: str, *, image_shape: Shape, classes: int | None = None
) -> Classifier:
    """Any network as a :class:`Classifier`: ``features`` is what enters its last layer.

    Args:
        module: maps images (B, C, H, W) to logits (B, classes), such as a torchvision or timm
            model.
        layer: dotted name of its last layer, linear or a convolution that acts as one: "fc",
            "classifier.6", "head.fc".
        image_shape: (channels, height, width); two random images of it are forwarded, in eval mode.
        classes: a number that differs from the layer's gives the result a new linear head.

    Returns:
        A classifier whose ``body`` is the module with an identity in the layer's place and whose
        ``head`` is the layer, as ``nn.Linear``. Its state_dict has the module's keys behind
        ``body.``, and ``head.weight`` and ``head.bias`` in place of the layer's own: load a
        checkpoint of the module before the module is wrapped. It shares the module's parameters;
        the module itself still works.

    Raises:
        ValueError: no layer of that name, one that is not linear, or one that is not the last:
            head(features(x)) differs from module(x).

    A module that returns more than logits in train mode, such as Inception with its auxiliary
    classifier, has to be made without (``aux_logits=False``).
    """
    head = _linear(module, layer)
    weight = head.weight
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, *image_shape, generator=generator).to(weight.device, weight.dtype)
    body = _without(module, layer)
    with torch.no_grad(), model_mode(module, "eval"), model_mode(body, "eval"):
        expected = module(images)
        same = False
        reason: Exception | None = None
        try:
            logits = head(body(images))
            shapes = logits.shape == expected.shape == (len(images), head.out_features)
            same = shapes and torch.allclose(logits, expected, rtol=1e-3, atol=1e-5)
        except (AttributeError, RuntimeError, TypeError) as error:  # what the rest cannot take
            reason = error
    if not same:
        raise ValueError(
            f"wrap: layer must be the last of the module, whose output is the logits, got {layer!r}"
            + _linear_layers(module)
        ) from reason
    if classes not in (None, head.out_features):
        head = nn.Linear(head.in_features, classes, device=weight.device, dtype=weight.dtype)
    return Classifier(body, head.in_features, head.out_features, image_shape, head)


def _linear(module: nn.Module, name: str) -> nn.Linear:
    """The layer of that name; a 1 x 1 convolution as the linear layer it is at one pixel."""
    modules = dict(module.named_modules())
    if not name or name not in modules:
        near = difflib.get_close_matches(name, modules, n=3)
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise ValueError(
            f"wrap: layer must name a layer of the module, got {name!r}{hint}"
            + _linear_layers(module)
        )
    layer = modules[name]
    if isinstance(layer, nn.Linear):
        return layer
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        linear = nn.Linear(layer.in_channels, layer.out_channels, bias=False, device="meta")
        linear.weight = nn.Parameter(layer.weight.detach().flatten(1))
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach())
        return linear
    raise ValueError(
        f"wrap: layer must be linear, got {name!r}, a {type(layer).__name__}"
        + _linear_layers(module)
    )


def _linear_layers(module: nn.Module) -> str:
    """The end of a message: the last of the module's linear layers, by name."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return f"; its last linear layers: {', '.join(names[-5:]) or 'none'}"


def _without(module: nn.Module, name: str) -> nn.Module:
    """The module with an identity in place of a layer: new modules along the layer's path, all
    else shared with the original, which is left as it is.
    """
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    child, _, rest = name.partition(".")
    clone._modules[child] = _without(module.get_submodule(child), rest) if rest else nn.Identity()
    return clone
