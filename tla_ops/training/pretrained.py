"""Networks of timm, and where their weights for ImageNet are looked for.

AT2L's Tables 2, 15 and 16 (IJCAI 2019) are of four of TensorFlow's; `NETWORKS` has them by timm's
names. Making one needs timm, which no extra of this package installs.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tla_ops.training.classifier import Classifier, Shape, wrap
from tla_ops.training.parquet import DataError

NETWORKS = {
    "Inception-v3": "inception_v3.tf_in1k",
    "ResNet-v2-101": "resnetv2_101.a1h_in1k",
    "Inception-ResNet-v2": "inception_resnet_v2.tf_in1k",
    "Ens-adv-Inception-ResNet-v2": "inception_resnet_v2.tf_ens_adv_in1k",
}
"""By the paper's names. Its ResNet-v2-101 is TensorFlow's, too; timm has that network with weights
of another training alone."""
FOLDER = Path("imagenet") / "weights"
SUFFIXES = (".safetensors", ".pth", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_DATA: ContextVar[Path | str | None] = ContextVar("data", default=None)


class WeightsError(DataError):
    """A network's weights that are not there, or are not its own."""


class Normalize(nn.Module):
    """Images (B, C, H, W) in [0, 1] less ``mean``, over ``std``, a channel each."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def timm_network(
    classes: int = 1000,
    image_shape: Shape = (3, 299, 299),
    name: str = NETWORKS["Inception-v3"],
    pretrained: bool = False,
) -> Classifier:
    """A network of timm as a classifier of images in [0, 1], which it normalises as it is used to.

    Args:
        classes: a number that differs from the network's own gives it a new last layer.
        image_shape: (3, height, width); what ends in a global pooling takes any.
        name: timm's, as "inception_v3.tf_in1k".
        pretrained: with the weights that :func:`weights` finds; otherwise they are random.

    Raises:
        ModuleNotFoundError: without timm.
        ValueError: for a name that timm does not know, or images of other than 3 channels.
        WeightsError: for weights that are asked for and not there, or not of this network.
    """
    if image_shape[0] != 3:
        raise ValueError(f"timm: image_shape must have 3 channels, got {tuple(image_shape)}")
    timm = _timm()
    try:
        network = timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise ValueError(f"timm: name must be one of timm's models, got {name!r}") from error
    facts = network.pretrained_cfg
    if pretrained:
        path = weights(name)
        try:
            timm.models.load_checkpoint(network, str(path))
        # What a damaged file raises is as diverse as its formats.
        except Exception as error:
            raise WeightsError(f"timm: {path} must hold the weights of {name}: {error}") from error
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        normalize=Normalize(facts["mean"], facts["std"]), network=network
    )
    layer = f"network.{facts['classifier']}"
    return wrap(nn.Sequential(parts), layer, image_shape=image_shape, classes=classes)


@contextmanager
def looked_in(folder: Path | str | None) -> Iterator[None]:
    """Within it :func:`weights` takes this folder where it is given none, and so does whatever
    makes a network; None leaves that to the environment variable TLA_DATA.
    """
    before = _DATA.set(folder)
    try:
        yield
    finally:
        _DATA.reset(before)


def weights(name: str, folder: Path | str | None = None) -> Path:
    """The file with timm's weights for ImageNet of a network by timm's name.

    ``folder`` is that of `data.load`; None takes that of :func:`looked_in`, outside of it the
    environment variable TLA_DATA. Looked at are ``imagenet/weights/NAME.safetensors``, ``.pth`` and
    ``.bin`` in it, then the local cache of the Hugging Face hub; where the folder is "hub" they are
    downloaded into that.

    Raises WeightsError where there is no such file.
    """
    folder = _DATA.get() if folder is None else folder
    folder = os.environ.get("TLA_DATA") if folder is None else folder
    looked = []
    if folder and folder != "hub":
        place = Path(folder).expanduser() / FOLDER
        for suffix in SUFFIXES:
            if (path := place / f"{name}{suffix}").is_file():
                return path
        looked.append(f"{place} as {name}{' or '.join(SUFFIXES)}")
    repository = f"timm/{name}"
    found = _of_the_hub(repository, download=folder == "hub")
    if found is not None:
        return found
    looked.append(f"the local cache of the Hugging Face hub as {repository}")
    where = "in the folder of the data, which the environment variable TLA_DATA or --data names,"
    raise WeightsError(
        f"timm: weights of {name} must be in {', or in '.join(looked)}, got none: put the file "
        f"{HUB_FILES[0]} of https://huggingface.co/{repository} {where} as "
        f"{FOLDER / name}{SUFFIXES[0]}, or give hub in its place to download it"
    )


def _of_the_hub(repository: str, *, download: bool) -> Path | None:
    try:
        import huggingface_hub as hub
    except ImportError:  # nor has anything been downloaded by it
        return None
    for file in HUB_FILES:
        found = hub.try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    if not download:
        return None
    try:
        return Path(hub.hf_hub_download(repository, HUB_FILES[0]))
    # Being offline has as many exceptions as the hub's client had HTTP libraries.
    except Exception as error:
        raise WeightsError(
            f"timm: {repository} must be on the Hugging Face hub and within reach, or in its local "
            f"cache, got {type(error).__name__}: {error}"
        ) from error


def _timm() -> Any:
    try:
        return import_module("timm")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("timm: needs timm: pip install timm", name=error.name) from error


MODELS: dict[str, Callable[..., Classifier]] = {"timm": timm_network}
