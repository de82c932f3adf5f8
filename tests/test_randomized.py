"""`defended.randomized`: networks behind random layers, by name."""

import pytest
import torch

from tla_ops.training.defences import RandomResizePad
from tla_ops.training.defended import randomized
from tla_ops.training.models import build

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("shape", "smallest", "side"),
    [((1, 8, 8), 8, 9), ((1, 28, 28), 28, 31), ((3, 32, 32), 32, 36), ((3, 20, 32), 32, 36)],
)
def test_sizes_are_in_proportion_to_those_of_imagenet(shape, smallest, side):
    layers = build("randomized", 10, shape, network="mlp", options={"hidden": [4]}).body[0]
    assert (layers.smallest, layers.side, layers.value) == (smallest, side, 0)


def test_sizes_of_imagenet_are_the_papers():
    with torch.device("meta"):
        layers = randomized(10, (3, 299, 299), "mlp", options={"hidden": [1]}).body[0]
    assert (layers.smallest, layers.side) == (299, 331)


def test_a_network_behind_random_layers():
    torch.manual_seed(0)
    model = build(
        "randomized", 5, (1, 8, 8), network="small", smallest=6, side=10, value=0.25,
        options={"dim": 16},
    ).eval()  # fmt: skip
    network = build("small", 5, (1, 10, 10), dim=16).eval()
    network.body.load_state_dict(model.body[1].state_dict())
    network.head.load_state_dict(model.head.state_dict())
    assert model.image_shape == (1, 8, 8)
    assert model.head.in_features == 16
    images = torch.rand(30, 1, 8, 8)
    torch.manual_seed(4)
    found = model(images)
    torch.manual_seed(4)
    torch.testing.assert_close(found, network(RandomResizePad(6, 10, 0.25)(images)))
    assert not torch.allclose(found, model(images))  # in evaluation, too


def test_nothing_is_random_of_one_size():
    torch.manual_seed(0)
    sizes = {"smallest": 20, "side": 20}
    model = randomized(5, (1, 8, 10), options={"dim": 16}, **sizes).eval()
    network = build("small", 5, (1, 20, 20), dim=16).eval()
    network.body.load_state_dict(model.body[1].state_dict())
    network.head.load_state_dict(model.head.state_dict())
    images = torch.rand(4, 1, 8, 10)
    rows, columns = torch.arange(20) * 8 // 20, torch.arange(20) * 10 // 20
    torch.testing.assert_close(model(images), network(images[:, :, rows][..., columns]))
    behind_layers = randomized(5, (1, 8, 10), options={"dim": 16}, smallest=18, side=20)
    behind_layers.load_state_dict(model.state_dict())


def test_a_global_pooling_takes_weights_along():
    options = {"units": 1, "widen": 1}
    trained = build("wrn", 10, (3, 32, 32), **options)
    model = randomized(10, (3, 32, 32), "wrn", options=options)
    model.body[1].load_state_dict(trained.body.state_dict())
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_bad_arguments():
    with pytest.raises(ValueError, match="smallest must be at least 1 and below side, got 8 and 7"):
        randomized(10, (1, 8, 8), side=7)
    with pytest.raises(ValueError, match=r"name must be one of small, .*, got 'vgg'"):
        randomized(10, (1, 8, 8), network="vgg")
    with pytest.raises(ValueError, match="options of small must be one of dim, got 'width'"):
        randomized(10, (1, 8, 8), options={"width": 2})
