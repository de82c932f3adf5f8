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
import weakref
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from tla_ops.training.attacks import Attack, model_mode

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

    :meth:`refresh` copies the model's weights and statistics. With ``fold`` batch normalisations
    are folded where torch.fx can trace the model and one follows a convolution or linear layer
    directly.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        fold: bool = True,
    ) -> None:
        super().__init__()
        first = next(model.parameters())
        self.outer_dtype, self.dtype = first.dtype, dtype or first.dtype
        self.format = torch.channels_last if channels_last else torch.preserve_format
        self.body: Any = copy.deepcopy(model).requires_grad_(False).eval()
        self._folded = _foldable(model) if fold else []
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

    def train(self, mode: bool = True) -> Twin:
        if mode:
            raise ValueError("Twin: stays in eval mode, got train(True)")
        return super().train(False)

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

    One instance serves one model at a time: another one, or one whose modules or tensors are not
    those they were, makes it start over. A new twin is compared with the model on the images at
    hand; a model that has no twin that agrees is attacked itself, with a warning.
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
        self._of: tuple[Any, ...] = ()
        self._twin: Twin | None = None
        self._graphs: dict[Any, _Graph | None] = {}

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        # Not even under inference_mode are the twin's weights inference tensors.
        with torch.inference_mode(False):
            twin = self._twin_of(model, images)
            if twin is None:
                return self.attack(model, images, labels)
            key = images.shape, images.dtype, images.device, labels.dtype
            captures = self.graph and images.is_cuda
            if captures and key not in self._graphs:
                self._graphs[key] = _captured(self.attack, twin, images, labels)
            captured = self._graphs[key] if captures else None
            if captured is not None:
                return captured(images, labels)
            twin.refresh()
            return self.attack(twin, images, labels)

    def _twin_of(self, model: nn.Module, images: Tensor) -> Twin | None:
        """The model's twin, or None if it has none."""
        modules = [(name, id(module)) for name, module in model.named_modules()]
        # A graph reads addresses.
        places = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
        if self._of and self._of[0]() is model and self._of[1:] == (modules, places):
            return self._twin
        self._graphs.clear()
        self._twin = _agreeing(model, images, self.options)
        self._of = weakref.ref(model), modules, places
        return self._twin


@torch.no_grad()
def _agreeing(model: nn.Module, images: Tensor, options: dict[str, Any]) -> Twin | None:
    """A twin that gives the model's logits, folded if that one does."""
    some = images[:8].clone()
    reason = "its logits are not the model's"
    with (
        model_mode(model, "eval"),
        torch.random.fork_rng(devices=_devices(images)),
        # Whose rounding would be taken for another function.
        torch.autocast(images.device.type, enabled=False),
    ):
        expected = model(some).float()
        for fold in (True, False):
            try:
                # In the model's own precision: what is asked is whether it is the same function.
                logits = Twin(model, fold=fold)(some).float()
                if torch.allclose(logits, expected, rtol=1e-2, atol=1e-2 * _scale(expected)):
                    return Twin(model, fold=fold, **options)
            except (RuntimeError, TypeError, AttributeError, StopIteration) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    warnings.warn(f"FastAttack: attacks the model itself: {reason}", stacklevel=4)
    return None


def _scale(logits: Tensor) -> float:
    return logits.abs().max().item() if logits.numel() else 0.0


def _devices(images: Tensor) -> list[torch.device]:
    return [images.device] if images.is_cuda else []


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
    """The graph, if it gives what the attack gives from the same random numbers, for other images
    than it was captured with. The random stream is left where it was."""
    device = images.device
    state = torch.cuda.get_rng_state(device)
    others = images.flip(0), labels.flip(0)
    try:
        with torch.cuda.device(device):
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):  # libraries choose their algorithms before the capture
                twin.refresh()
                attack(twin, images, labels)
            torch.cuda.current_stream(device).wait_stream(side)
            torch.cuda.set_rng_state(state, device)
            eager = attack(twin, *others)
            graph = _Graph(attack, twin, images, labels)
            torch.cuda.set_rng_state(state, device)
            same = (graph(*others) - eager).abs() <= 1e-5
        if same.double().mean() >= AGREEMENT:
            return graph
        reason = "the graph's images differ from those of the attack run eagerly"
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
    finally:
        torch.cuda.set_rng_state(state, device)
    warnings.warn(f"FastAttack: no CUDA graph: {reason}", stacklevel=3)
    return None


class _Tracer(fx.Tracer):
    """Looks into modules that have others in them; what the others do, such as coding an image,
    decides nothing here.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or not any(m.children())


def _foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Names of (convolution or linear layer, batch normalisation that alone reads its output)."""
    try:
        with model_mode(model, "eval"):
            graph = _Tracer().trace(model)
    except Exception:  # whatever a foreign model's forward makes of a tracer
        return []
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    uses = [str(node.target) for node in nodes]
    # Tensors that the forward takes by name are not to change.
    taken = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    owners = [id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False)]
    pairs = []
    for node in nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        names = str(before.target), str(node.target)
        layer: Any = model.get_submodule(names[0])
        norm: Any = model.get_submodule(names[1])
        # Not their subclasses, which parametrisations make of them.
        if type(layer) not in (*CONVOLUTIONS, nn.Linear) or type(norm) not in NORMS:
            continue
        own = [id(p) for module in (layer, norm) for p in module.parameters()]
        if (
            all(uses.count(name) == 1 for name in names)
            and all(owners.count(parameter) == 1 for parameter in own)
            and not any(target.startswith(f"{name}.") for target in taken for name in names)
            and not any(_hooks(module) for module in (layer, norm))
            and norm.num_features == layer.weight.shape[0]
            and norm.track_running_stats
            and norm.affine
        ):
            pairs.append(names)
    return pairs


def _hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)


def _convert(module: nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
    """The module's own floating point tensors, not those of its children."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            last = channels_last and tensor.dim() == 4
            tensor.data = tensor.data.to(
                dtype, memory_format=torch.channels_last if last else torch.preserve_format
            )
