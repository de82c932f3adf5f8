"""Networks of timm: what they see, and where their weights come from. Nothing is downloaded."""

import sys

import pytest
import torch
from torch import nn

from tla_ops.training import pretrained
from tla_ops.training.models import build
from tla_ops.training.parquet import DataError
from tla_ops.training.pretrained import (
    NETWORKS,
    WeightsError,
    looked_in,
    timm_network,
    weights,
)

NAME = "test_resnet.r160_in1k"
SHAPE = (3, 40, 32)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def timm():
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # it imports torchvision
        pytest.skip(f"timm cannot be imported: {error}")
    return timm


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's client with an empty cache, and nothing to reach; has what was asked for."""
    hub = pytest.importorskip("huggingface_hub")
    constants = pytest.importorskip("huggingface_hub.constants")  # which hub need not have loaded
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.asked = []

    def download(repository, file):
        hub.asked.append((repository, file))
        raise OSError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.delenv("TLA_DATA", raising=False)
    return hub


def saved(timm, path, seed):
    """Weights that the seed decides, in a file; returns the module with them."""
    torch.manual_seed(seed)
    module = timm.create_model(NAME, pretrained=False).eval()
    for value in module.parameters():
        nn.init.normal_(value, std=0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        file = pytest.importorskip("safetensors.torch")
        file.save_file(module.state_dict(), path)
    else:
        torch.save(module.state_dict(), path)
    return module


def cached(folder, repository, file="model.safetensors"):
    """Where the hub's cache has a file of a repository."""
    place = folder / "cache" / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    return place / "snapshots" / "abc" / file


def same(network, module):
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        expected = module((images - 0.5) / 0.5)
        torch.testing.assert_close(network.eval()(images), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(network.head(network.features(images)), network(images))
    return True


def test_images_are_normalized_within(timm, monkeypatch):
    made = timm.create_model

    def create(name, **options):
        module = made(name, **options)
        module.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
        modules.append(module)
        return module

    modules = []
    monkeypatch.setattr(timm, "create_model", create)
    network = build("timm", 1000, SHAPE, name="test_resnet").eval()
    images = torch.rand(2, *SHAPE)
    seen = torch.stack([(images[:, c] - (c + 1) / 10) / (0.5 + c / 10) for c in range(3)], dim=1)
    torch.testing.assert_close(network(images), modules[0].eval()(seen), rtol=1e-4, atol=1e-5)
    assert network.image_shape == SHAPE
    assert "normalize" not in " ".join(network.state_dict())


def test_another_number_of_classes_is_another_head(timm, monkeypatch, tmp_path):
    monkeypatch.setenv("TLA_DATA", str(tmp_path))
    module = saved(timm, tmp_path / "imagenet" / "weights" / f"{NAME}.pth", 3)
    network = timm_network(7, SHAPE, NAME, pretrained=True).eval()
    assert network.head.out_features == 7
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(
            network.features(images),
            module.forward_head(module.forward_features(images * 2 - 1), pre_logits=True),
        )


@pytest.mark.parametrize("network", NETWORKS.values())
def test_the_papers_networks_exist(timm, network):
    facts = timm.get_pretrained_cfg(network)
    assert facts.num_classes == 1000
    assert f"{facts.architecture}.{facts.tag}" == network
    assert (facts.mean, facts.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_weights_are_read_from_the_data_folder(timm, hub, tmp_path, monkeypatch, suffix):
    path = tmp_path / "data" / "imagenet" / "weights" / f"{NAME}{suffix}"
    module = saved(timm, path, 1)
    saved(timm, cached(tmp_path, f"timm/{NAME}"), 2)
    assert weights(NAME, tmp_path / "data") == path
    monkeypatch.setenv("TLA_DATA", str(tmp_path / "data"))
    assert same(timm_network(1000, SHAPE, NAME, pretrained=True), module)
    assert not hub.asked


def test_the_folder_that_is_looked_in(hub, tmp_path, monkeypatch):
    def place(folder):
        path = tmp_path / folder / "imagenet" / "weights" / f"{NAME}.pth"
        path.parent.mkdir(parents=True)
        path.touch()
        return path

    given, within, named = map(place, ("given", "within", "named"))
    monkeypatch.setenv("TLA_DATA", str(tmp_path / "named"))
    with looked_in(str(tmp_path / "within")):
        assert weights(NAME) == within
        assert weights(NAME, tmp_path / "given") == given
        with looked_in(None):
            assert weights(NAME) == named
        assert weights(NAME) == within
    with pytest.raises(WeightsError, match=r"within reach.*no connection"), looked_in("hub"):
        weights(NAME)
    assert hub.asked
    assert weights(NAME) == named


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("folder", [None, "hub", "empty"])
def test_weights_are_read_from_the_hubs_cache(timm, hub, tmp_path, monkeypatch, file, folder):
    module = saved(timm, cached(tmp_path, f"timm/{NAME}", file), 2)
    if folder:
        monkeypatch.setenv("TLA_DATA", str(tmp_path) if folder == "empty" else folder)
    assert same(timm_network(1000, SHAPE, NAME, pretrained=True), module)
    assert not hub.asked


def test_weights_are_random_unless_asked_for(timm, hub):
    one, other = (timm_network(1000, SHAPE, NAME) for _ in range(2))
    assert not torch.equal(one.head.weight, other.head.weight)
    assert not hub.asked


def test_what_is_said_where_weights_are_not(hub, tmp_path):
    with pytest.raises(WeightsError) as caught:
        weights(NAME, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"timm: weights of {NAME} must be in {tmp_path}/imagenet/weights as ")
    assert f"{NAME}.safetensors or .pth or .bin" in message
    assert f"local cache of the Hugging Face hub as timm/{NAME}" in message
    assert f"https://huggingface.co/timm/{NAME}" in message
    assert "TLA_DATA" in message
    assert isinstance(caught.value, DataError)
    with pytest.raises(WeightsError) as caught:
        weights(NAME)
    assert "imagenet/weights as" not in str(caught.value).partition("got none")[0]
    assert not hub.asked


def test_the_hub_is_asked_where_it_is_the_folder(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("TLA_DATA", "hub")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hub" / "imagenet" / "weights" / f"{NAME}.pth"
    path.parent.mkdir(parents=True)
    path.touch()  # a folder of that name is not meant
    with pytest.raises(WeightsError, match=rf"timm/{NAME} must be .* within reach.*no connection"):
        weights(NAME)
    assert hub.asked == [(f"timm/{NAME}", "model.safetensors")]
    monkeypatch.setattr(hub, "hf_hub_download", lambda repository, file: f"/x/{repository}/{file}")
    assert str(weights(NAME)) == f"/x/timm/{NAME}/model.safetensors"


def test_without_the_hubs_client(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=f"weights of {NAME} must be in"):
        weights(NAME, tmp_path)


def test_files_that_are_not_its_weights(timm, tmp_path, monkeypatch):
    monkeypatch.setenv("TLA_DATA", str(tmp_path))
    path = tmp_path / "imagenet" / "weights" / f"{NAME}.pth"
    path.parent.mkdir(parents=True)
    for content in ({"fc.weight": torch.zeros(3)}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(WeightsError, match=f"{path} must hold the weights of {NAME}: "):
            timm_network(1000, SHAPE, NAME, pretrained=True)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=f"{path} must hold the weights of {NAME}: "):
        timm_network(1000, SHAPE, NAME, pretrained=True)


def test_bad_arguments(timm, monkeypatch):
    with pytest.raises(ValueError, match=r"image_shape must have 3 channels, got \(1, 28, 28\)"):
        timm_network(10, (1, 28, 28), NAME)
    for name in ("no_network", "test_resnet.no_tag"):
        with pytest.raises(ValueError, match=f"name must be one of timm's models, got '{name}'"):
            timm_network(10, SHAPE, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match="timm: needs timm: pip install timm"):
        pretrained.timm_network()
