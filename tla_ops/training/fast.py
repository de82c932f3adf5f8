"""Attacks on a twin of the model, made for being attacked: the bulk of adversarial training's time.

A training step runs the network forward and backward once to learn and 7 to 40 times to attack. The
attack needs the gradient of the images alone, in eval mode, so that its copy of the network can be
cheaper than the network itself: batch normalisations are folded into the layers before them,
weights lie in the precision and memory format that the hardware likes best, and on CUDA the whole
attack is one graph, launched once. Weights are copied before every attack.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from tla_ops.training.attacks import Attack

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AGREEMENT = 0.98
"""Share of pixels that a captured attack must have in common with the same attack run eagerly. Some
differ: where a gradient is near 0 its sign depends on the algorithm a library picks."""


class Twin(nn.Module):
    """A copy of a classifier in eval mode, for gradients of its images alone.

    Args:
        model: maps images to logits; stays as it is, and has to outlive the twin.
        dtype: of the twin's weights and products; batch normalisations that cannot be folded keep
            theirs. Images and logits are float32 (the model's dtype) whatever this is.
        channels_last: lay four-dimensional weights and images out with the channels last.

    :meth:`refresh` copies the model's weights and statistics. Batch normalisations are folded where
    torch.fx can trace the model and one follows a convolution or linear layer directly.
    """

    def __init__(
        self, model: nn.Module, *, dtype: torch.dtype | None = None, channels_last: bool = False
    ) -> None:
        super().__init__()
        first = next(model.parameters())
        self.outer_dtype, self.dtype = first.dtype, dtype or first.dtype
        self.format = torch.channels_last if channels_last else torch.preserve_format
        self.body: Any = copy.deepcopy(model).requires_grad_(False).eval()
        self._folded = _foldable(model)
        for layer, norm in self._folded:
            own = self.body.get_submodule(layer)
            if own.bias is None:
                own.bias = nn.Parameter(
                    torch.zeros(own.weight.shape[0], dtype=first.dtype, device=first.device),
                    requires_grad=False,
                )
            self.body.set_submodule(norm, nn.Identity())
        for module in self.body.modules():
            if not isinstance(module, NORMS):
                _convert(module, self.dtype, channels_last)
        self._copies = self._pairs_of(model)
        self.refresh()

    def _pairs_of(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """What is copied as it is: (the twin's tensor, the model's) for all that is not folded."""
        folded = {f"{layer}.{kind}" for layer, _ in self._folded for kind in ("weight", "bias")}
        live = dict(model.named_parameters()) | dict(model.named_buffers())
        own = dict(self.body.named_parameters()) | dict(self.body.named_buffers())
        self._fusions = [
            (self.body.get_submodule(layer), model.get_submodule(layer), model.get_submodule(norm))
            for layer, norm in self._folded
        ]
        return [(own[name], live[name]) for name in own if name not in folded]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's weights and statistics as they are now."""
        for own, live in self._copies:
            own.copy_(live)
        for own_layer, layer, norm in self._fusions:
            linear = isinstance(layer, nn.Linear)
            fuse: Any = fuse_linear_bn_weights if linear else fuse_conv_bn_weights
            weight, bias = fuse(
                layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip
            own_layer.weight.copy_(weight)
            own_layer.bias.copy_(bias)

    def forward(self, images: Tensor) -> Tensor:
        # Weights have their precision already: autocast would only convert them again.
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(self.dtype)
            if images.dim() == 4:
                images = images.contiguous(memory_format=self.format)
            return self.body(images).to(self.outer_dtype)


class FastAttack:
    """An attack that runs on a :class:`Twin` of the model it is given.

    ``FastAttack(partial(pgd, ...))(model, images, labels)`` is the attack's result for the twin:
    the same images as for the model but for rounding, which bfloat16 has more of.

    Args:
        attack: as in :mod:`tla_ops.training.attacks`, for a model in eval mode.
        dtype, channels_last: of the twin.
        graph: on CUDA, capture the attack as one graph for each shape of images. The first use
            compares it with the attack run eagerly; where they disagree it warns and stays eager.
            Wants an attack without host synchronisation (no ``early_stop``, no ``generator``).

    One instance serves one model at a time: another one makes it start over.
    """

    def __init__(
        self,
        attack: Attack,
        *,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        graph: bool = True,
    ) -> None:
        self.attack = attack
        self.options: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last}
        self.graph = graph
        self._addresses: list[int] = []
        self._twin: Twin | None = None
        self._graphs: dict[Any, _Graph | None] = {}

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        twin = self._twin_of(model)
        if not (self.graph and images.is_cuda):
            twin.refresh()
            return self.attack(twin, images, labels)
        key = images.shape, images.dtype, images.device, labels.dtype
        if key not in self._graphs:
            self._graphs[key] = _captured(self.attack, twin, images, labels)
        captured = self._graphs[key]
        if captured is None:
            twin.refresh()
            return self.attack(twin, images, labels)
        return captured(images, labels)

    def _twin_of(self, model: nn.Module) -> Twin:
        """The model's twin. Where the weights lie elsewhere than they did, a new one: a graph
        reads addresses."""
        addresses = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
        if self._twin is None or addresses != self._addresses:
            self._graphs.clear()
            self._twin = Twin(model, **self.options)
            self._addresses = addresses
        return self._twin


class _Graph:
    """A captured refresh and attack."""

    def __init__(self, attack: Attack, twin: Twin, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            twin.refresh()
            self.result = attack(twin, self.images, self.labels)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.result.clone()


def _captured(attack: Attack, twin: Twin, images: Tensor, labels: Tensor) -> _Graph | None:
    """The graph, if it gives what the attack gives from the same random numbers."""
    device = images.device
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # libraries choose their algorithms before the capture
        twin.refresh()
        attack(twin, images, labels)
    torch.cuda.current_stream(device).wait_stream(side)
    state = torch.cuda.get_rng_state(device)
    eager = attack(twin, images, labels)
    try:
        graph = _Graph(attack, twin, images, labels)
        torch.cuda.set_rng_state(state, device)
        replayed = graph(images, labels)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
    else:
        same = (replayed - eager).abs() <= 1e-5
        if same.double().mean() >= AGREEMENT:
            return graph
        reason = "the graph's images differ from those of the attack run eagerly"
    finally:
        torch.cuda.set_rng_state(state, device)
    warnings.warn(f"FastAttack: no CUDA graph: {reason}", stacklevel=3)
    return None


def _foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Names of (convolution or linear layer, batch normalisation that alone reads its output)."""
    try:
        traced = fx.symbolic_trace(model)
    except Exception:  # whatever a foreign model's forward makes of a tracer
        return []
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    uses = [str(node.target) for node in nodes]
    pairs = []
    for node in nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        names = str(before.target), str(node.target)
        layer, norm = map(model.get_submodule, names)
        if not (isinstance(layer, (*CONVOLUTIONS, nn.Linear)) and isinstance(norm, NORMS)):
            continue
        once = all(uses.count(name) == 1 for name in names)
        fits = norm.num_features == layer.weight.shape[0]
        if once and fits and norm.track_running_stats and norm.affine:
            pairs.append(names)
    return pairs


def _convert(module: nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
    """The module's own floating point tensors, not those of its children."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            last = channels_last and tensor.dim() == 4
            tensor.data = tensor.data.to(
                dtype, memory_format=torch.channels_last if last else torch.preserve_format
            )
