"""Losses around an image against one forward pass a point."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tla_ops.experiments.landscape import loss_surface, random_directions, roughness

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 4, 4)


@pytest.fixture(scope="module")
def model():
    """In train mode its batch norm and dropout would give other losses."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5),
            nn.Linear(16, 5),
        )  # fmt: skip
        network.train()(torch.rand(50, *SHAPE))
    return network


def expected(model, image, label, directions, steps, clamp):
    model.eval()
    rows = []
    for a in steps:
        for b in steps:
            moved = image + a * directions[0] + b * directions[1]
            logits = model((moved.clamp(0, 1) if clamp else moved)[None])
            rows.append(F.cross_entropy(logits, torch.tensor([label])).item())
    model.train()
    return torch.tensor(rows).reshape(len(steps), len(steps))


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("size", [7, 256])
def test_every_point_is_a_forward_pass(model, clamp, size):
    image, directions = torch.rand(SHAPE), random_directions(SHAPE, 0)
    surface = loss_surface(model, image, 3, directions, Fraction(3, 10), 5, size=size, clamp=clamp)
    truth = expected(model, image, 3, directions, [-0.3, -0.15, 0.0, 0.15, 0.3], clamp)
    torch.testing.assert_close(surface, truth)
    assert surface.std() > 0.01
    if not clamp:
        assert not torch.allclose(surface, surface.T)


def test_clamping_is_the_default(model):
    image, directions = torch.rand(SHAPE).round(), random_directions(SHAPE, 0)
    surfaces = [
        loss_surface(model, image, 0, directions, 0.3, 3, **options)
        for options in ({}, {"clamp": True}, {"clamp": False})
    ]
    assert torch.equal(surfaces[0], surfaces[1])
    assert not torch.allclose(surfaces[0], surfaces[2])


def test_modes_come_back_and_nothing_is_learned(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    surface = loss_surface(model, torch.rand(SHAPE), 0, random_directions(SHAPE, 0), 0.1, 3)
    assert all(module.training for module in model.modules())
    assert not surface.requires_grad
    assert surface.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_single_point_is_the_image(model):
    image, directions = torch.rand(SHAPE), random_directions(SHAPE, 0)
    middle = loss_surface(model, image, 2, directions, 0.2, 1)
    torch.testing.assert_close(middle, expected(model, image, 2, directions, [0.0], True))
    assert middle[0, 0] == pytest.approx(
        loss_surface(model, image, 2, directions, 0.2, 3)[1, 1].item(), rel=1e-5
    )


def test_directions_are_signs_and_the_same_for_a_seed():
    before = torch.random.get_rng_state()
    first, second = random_directions((3, 32, 32), 5)
    assert torch.equal(torch.random.get_rng_state(), before)
    for direction in (first, second):
        assert direction.shape == (3, 32, 32)
        assert direction.dtype == torch.float32
        assert (direction.abs() == 1).all()
        assert abs(direction.mean()) < 0.06
    assert abs((first * second).mean()) < 0.06
    again, _ = random_directions(torch.Size([3, 32, 32]), 5)
    assert torch.equal(again, first)
    assert not torch.equal(random_directions((3, 32, 32), 6)[0], first)


def test_roughness_is_the_mean_bend():
    x = torch.arange(6.0)
    plane = 3 * x[:, None] - 2 * x + 7
    assert roughness(plane) == 0
    # A second difference of 2 along the rows, of 1 along the columns, as many of each.
    assert roughness(plane + x[:, None] ** 2 - 0.5 * x**2) == pytest.approx(1.5)
    spike = torch.zeros(5, 5)
    spike[2, 2] = 1
    assert roughness(spike) == pytest.approx((1 + 2 + 1) * 2 / 30)
    assert math.isnan(roughness(plane[:2, :2]))


def test_errors(model):
    image, directions = torch.rand(SHAPE), random_directions(SHAPE, 0)
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        loss_surface(model, image, 0, directions, 0.1, 0)
    with pytest.raises(ValueError, match=r"directions must be \(3, 4, 4\) .* got \(4, 4\)"):
        loss_surface(model, image, 0, (directions[0], directions[1][0]), 0.1, 3)
