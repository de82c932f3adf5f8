"""Defense-GAN: Table 18's networks, WGAN-GP by its formula, the projection by descents."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from waiting import NoWaiting

from tla_ops.training import methods
from tla_ops.training.attacks import model_mode
from tla_ops.training.defences import behind
from tla_ops.training.defense_gan import (
    DefenseGAN,
    critic_loss,
    gan_optimizers,
    mnist_discriminator,
    mnist_generator,
    wgan_gp,
)
from tla_ops.training.models import build

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def parameters(model):
    return sum(value.numel() for value in model.parameters())


def tiny(latent_dim=3, dtype=torch.float32):
    """A network with dropout and batch normalisation, which differ between the modes."""
    torch.manual_seed(0)
    layers = [
        *(nn.Linear(latent_dim, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3)),
        *(nn.Linear(8, 12), nn.Sigmoid(), nn.Unflatten(1, (1, 3, 4))),
    ]
    network = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for layer in (network[0], network[4]):
            layer.weight.mul_(2)
    return network


def made(network, latent):
    with torch.no_grad(), model_mode(network, "eval"):
        return network(latent)


# the networks


@pytest.mark.parametrize(
    ("layout", "sides"),
    [
        ("printed", [(16, 16), (256, 20), (128, 24), (1, 28)]),
        ("source", [(256, 4), (128, 8), (64, 14), (1, 28)]),
    ],
)
def test_the_generator_by_hand(layout, sides):
    generator = mnist_generator(layout=layout)
    seen = []
    for layer in generator:
        if isinstance(layer, nn.Unflatten | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, inputs, out: seen.append(tuple(out.shape[1:3])))
    images = generator(randn(2, 128))
    assert images.shape == (2, 1, 28, 28)
    assert ((images > 0) & (images < 1)).all()
    assert seen == sides
    assert parameters(generator) == 129 * 4096 + sum(
        25 * inputs * outputs + outputs for (inputs, _), (outputs, _) in pairwise(sides)
    )
    kinds = [type(layer).__name__ for layer in generator]
    assert kinds[:3] == ["Linear", "ReLU", "Unflatten"]
    assert [kind for kind in kinds[3:] if kind != "ZeroPad2d"] == [
        *("ConvTranspose2d", "ReLU", "ConvTranspose2d", "ReLU", "ConvTranspose2d", "Sigmoid")
    ]


def test_the_source_keeps_7_of_8():
    generator = mnist_generator(layout="source").eval()
    with torch.no_grad():
        features = generator[:5](randn(1, 128))
        assert features.shape == (1, 128, 8, 8)
        assert torch.equal(generator[:6](randn(1, 128)), features[:, :, :7, :7])


def test_the_discriminator_by_hand():
    discriminator = mnist_discriminator()
    seen = []
    for layer in discriminator:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, out: seen.append(tuple(out.shape[1:])))
    images = torch.rand(4, 1, 28, 28)
    scores = discriminator(images)
    assert scores.shape == (4, 1)
    assert seen == [(64, 14, 14), (128, 7, 7), (256, 4, 4)]
    assert (
        parameters(discriminator) == (26 * 64) + (25 * 64 + 1) * 128 + (25 * 128 + 1) * 256 + 4097
    )
    assert [
        layer.negative_slope for layer in discriminator if hasattr(layer, "negative_slope")
    ] == [*(0.2, 0.2, 0.2)]
    bounded = mnist_discriminator(sigmoid=True)
    bounded.load_state_dict(discriminator.state_dict())
    torch.testing.assert_close(bounded(images), scores.sigmoid())


def test_other_layouts():
    assert mnist_generator(7)(randn(2, 7)).shape == (2, 1, 28, 28)
    default = gan_optimizers(mnist_generator(7, width=0.01), mnist_discriminator(width=0.01))
    assert {(group["lr"], group["betas"]) for each in default for group in each.param_groups} == {
        (1e-4, (0.5, 0.9))
    }
    with pytest.raises(ValueError, match="layout must be one of 'printed', 'source', got 'dcgan'"):
        mnist_generator(layout="dcgan")


@pytest.mark.parametrize(
    ("layout", "channels"), [("printed", (16, 256, 128)), ("source", (256, 128, 64))]
)
@pytest.mark.parametrize("width", [2.0, 0.25, 1e-3])
def test_width_of_every_layer(layout, channels, width):
    def convolutions(network):
        kinds = (nn.Conv2d, nn.ConvTranspose2d)
        return [layer for layer in network.modules() if isinstance(layer, kinds)]

    wide = [max(1, round(width * count)) for count in channels]
    generator = mnist_generator(5, layout, width)
    assert [layer.in_channels for layer in convolutions(generator)] == wide
    assert [layer.out_channels for layer in convolutions(generator)] == [*wide[1:], 1]
    discriminator = mnist_discriminator(width=width)
    assert [layer.out_channels for layer in convolutions(discriminator)] == [
        max(1, round(width * count)) for count in (64, 128, 256)
    ]
    images = generator(randn(2, 5))
    assert images.shape == (2, 1, 28, 28)
    assert discriminator(images).shape == (2, 1)


@pytest.mark.parametrize("width", [0.0, -1.0, 17.0, float("nan")])
def test_widths_there_are_not(width):
    for make in (mnist_generator, mnist_discriminator):
        with pytest.raises(ValueError, match=f"{make.__name__}: width must be above 0 and at most"):
            make(width=width)


# WGAN-GP


def test_the_critics_loss_by_hand():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    real, fake = (torch.rand(4, 2, 1, 3, dtype=torch.float64) for _ in range(2))
    loss = critic_loss(critic, real, fake, penalty=3.0, generator=seeded())

    share = torch.rand(4, dtype=torch.float64, generator=seeded())
    (_, first, _, last) = critic
    expected = (critic(fake).sum() - critic(real).sum()) / 4
    for r, f, u in zip(real, fake, share, strict=True):
        point = (1 - u) * r.flatten() + u * f.flatten()
        inner = 1 - (first.weight @ point + first.bias).tanh().square()
        slope = (last.weight[0] * inner) @ first.weight
        expected = expected + 3 / 4 * (slope.square().sum().sqrt() - 1) ** 2
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(expected, list(critic.parameters()), allow_unused=True)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted)
        assert got.abs().max() > 0 or got.numel() == 1  # the last bias cancels


def test_the_penalty_differentiates_through_table_18():
    critic = mnist_discriminator()
    loss = critic_loss(critic, torch.rand(2, 1, 28, 28), torch.rand(2, 1, 28, 28))
    loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in critic.parameters())
    assert critic[0].weight.grad.abs().max() > 0


def test_steps_by_hand():
    """Two steps of two updates of the critic and one of the network, by Adam."""
    images = torch.rand(20, 1, 3, 4, generator=seeded(1))
    network, critic = (
        tiny(),
        nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 1)),
    )
    other, other_critic = copy.deepcopy(network), copy.deepcopy(critic)
    for module in (network, other):
        module.eval()
    steps = wgan_gp(
        network, critic, images, latent_dim=3, batch=5, critic_steps=2,
        optimizers=gan_optimizers(network, critic, 0.01), penalty=4.0, generator=seeded(),
    )  # fmt: skip
    got = [next(steps) for _ in range(2)]

    g = seeded()
    optimizers = [
        torch.optim.Adam(module.parameters(), lr=0.01, betas=(0.5, 0.9))
        for module in (other, other_critic)
    ]
    for critics, losses in got:
        for _ in range(2):
            rows = torch.randint(20, (5,), generator=g)
            fake = other(torch.randn(5, 3, generator=g)).detach()
            worst = critic_loss(other_critic, images[rows], fake, penalty=4.0, generator=g)
            other_critic.zero_grad()
            worst.backward()
            optimizers[1].step()
        loss = -other_critic(other(torch.randn(5, 3, generator=g))).mean()
        other.zero_grad()
        loss.backward()
        optimizers[0].step()
        assert torch.equal(critics, worst)
        assert torch.equal(losses, loss)
        assert not critics.requires_grad
        assert not losses.requires_grad
    for ours, theirs in ((network, other), (critic, other_critic)):
        for value, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(value, expected)


def test_a_training_goes_on_where_another_one_ended():
    images = torch.rand(20, 1, 3, 4, generator=seeded(1))

    def new():
        torch.manual_seed(0)
        return tiny().eval(), nn.Sequential(nn.Flatten(), nn.Linear(12, 1))

    def trained(networks, optimizers, steps):
        g = seeded()
        training = wgan_gp(
            *networks, images, latent_dim=3, batch=5, critic_steps=2, optimizers=optimizers,
            generator=g,
        )  # fmt: skip
        for step in steps:
            g.manual_seed(step)
            next(training)
        return [*networks, *optimizers]

    whole = new()
    trained(whole, gan_optimizers(*whole, 0.01), range(4))
    first = new()
    half = trained(first, gan_optimizers(*first, 0.01), range(2))
    kept = copy.deepcopy([part.state_dict() for part in half])
    second = new()
    optimizers = gan_optimizers(*second, 0.01)
    for part, state in zip([*second, *optimizers], kept, strict=True):
        part.load_state_dict(state)
    trained(second, optimizers, range(2, 4))
    for one, other in zip(whole, second, strict=True):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


def test_training_finds_the_distribution():
    torch.manual_seed(0)
    images = 0.75 + 0.05 * randn(500, 1, 2, 2, seed=1)
    network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4), nn.Unflatten(1, (1, 2, 2)))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    error = [(made(network, randn(500, 2)).mean() - 0.75).abs()]
    optimizers = gan_optimizers(network, critic, 1e-2)
    training = wgan_gp(network, critic, images, latent_dim=2, critic_steps=3, optimizers=optimizers)
    for _ in zip(range(200), training, strict=False):
        pass
    error.append((made(network, randn(500, 2)).mean() - 0.75).abs())
    assert error[1] < 0.3 < 0.6 < error[0]


# the projection


def test_a_projection_is_the_best_descent():
    network = tiny(dtype=torch.float64)
    images = torch.rand(4, 1, 3, 4, dtype=torch.float64)
    options = {"iterations": 7, "restarts": 3, "learning_rate": 2.0, "momentum": 0.6}
    got = DefenseGAN(network, 3).project(images, **options, generator=seeded())

    starts = torch.randn(12, 3, dtype=torch.float64, generator=seeded()) / 3**0.5
    network.eval()
    picks = []
    for row, image in enumerate(images):
        ends = []
        for start in starts[3 * row : 3 * row + 3]:
            latent = start.clone().requires_grad_()
            optimizer = torch.optim.SGD([latent], lr=2.0, momentum=0.6)
            for _ in range(7):
                optimizer.zero_grad()
                (network(latent[None])[0] - image).square().mean().backward()
                optimizer.step()
            ends.append(network(latent[None])[0].detach())
        errors = [(end - image).square().mean().item() for end in ends]
        picks.append(min(range(3), key=errors.__getitem__))
        torch.testing.assert_close(got[row], ends[picks[-1]])
    assert len(set(picks)) > 1


def test_it_recovers_what_the_network_made():
    network = tiny()
    images = made(network, randn(20, 3, seed=1) / 3**0.5)
    defence = DefenseGAN(network, 3, learning_rate=10.0, generator=seeded())
    found = defence(images)
    assert found.dtype == images.dtype
    error = (found - images).square().flatten(1).mean(1)
    assert error.max() < 1e-8
    # Noise that the network does not make goes away.
    noisy = images + 0.1 * randn(*images.shape, seed=2).sign()
    assert (defence(noisy) - images).norm() < 0.7 * (noisy - images).norm()
    rough = defence.project(images, iterations=5)
    assert (rough - images).square().mean() > 1e-5


def test_table_18s_generator_projects():
    torch.manual_seed(0)
    network = mnist_generator(8, layout="source")
    with torch.no_grad():
        network[-2].weight.mul_(20)  # a new network makes all images alike
    images = made(network, randn(3, 8) / 8**0.5)
    found = DefenseGAN(network, 8).project(
        images, iterations=100, restarts=3, learning_rate=30.0, generator=seeded()
    )
    start = DefenseGAN(network, 8).project(images, iterations=0, restarts=3, generator=seeded())
    assert (found - images).square().mean() < 0.05 * (start - images).square().mean()


def test_a_descent_that_diverges_is_the_last_choice():
    class Diverging(nn.Module):
        """NaN where the first latent coordinate is positive."""

        def forward(self, latent):
            first = latent[:, :1]
            return torch.where(first > 0, torch.nan, first.sigmoid())[:, :, None, None]

    images = torch.full((30, 1, 1, 1), 0.3)
    found = DefenseGAN(Diverging(), 2).project(images, iterations=2, restarts=8, generator=seeded())
    assert torch.isfinite(found).float().mean() > 0.9  # all eight start at NaN in 1 of 256
    assert DefenseGAN(Diverging(), 2).project(images, 0, 1).isnan().any()


class WeightGradients(TorchDispatchMode):
    """Counts products that have the shape of a linear layer's weight, as its gradient has."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.found = shapes, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ == "mm":
            self.found += tuple(out.shape) in self.shapes
        return out


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_what_it_must_leave_alone(around):
    network = tiny().train()
    network[1].eval()
    before = [module.training for module in network.modules()]
    buffers = copy.deepcopy(dict(network.named_buffers()))
    seen = []
    network[3].register_forward_hook(lambda module, *_: seen.append(module.training))
    shapes = {(8, 3), (12, 8)}
    with around():
        images = torch.rand(5, 1, 3, 4).requires_grad_() * 1
        with NoWaiting(), WeightGradients(shapes) as gradients:
            found = DefenseGAN(network, 3).project(images, iterations=3, restarts=2)
    assert found.shape == images.shape
    assert not found.requires_grad
    assert not found.is_inference()
    assert not any(seen)
    assert len(seen) == 4
    assert [module.training for module in network.modules()] == before
    assert all(value.grad is None and value.requires_grad for value in network.parameters())
    assert all(torch.equal(value, buffers[key]) for key, value in network.named_buffers())
    assert gradients.found == 0
    with WeightGradients(shapes) as gradients:
        network(randn(5, 3)).sum().backward()
    assert gradients.found == 2


def test_it_repeats_with_its_generator():
    network, images = tiny(), torch.rand(3, 1, 3, 4)
    project = DefenseGAN(network, 3).project
    first = project(images, 3, 2, generator=seeded(1))
    assert torch.equal(first, project(images, 3, 2, generator=seeded(1)))
    assert not torch.equal(first, project(images, 3, 2, generator=seeded(2)))
    assert project(images[:0], 3, 2).shape == (0, 1, 3, 4)


def test_a_classifier_behind_it():
    classifier = build("mlp", 10, (1, 3, 4), hidden=(8,))
    defence = DefenseGAN(tiny(), 3, iterations=2, restarts=2, generator=seeded())
    model = behind(defence, classifier, (1, 3, 4))
    images, labels = torch.rand(6, 1, 3, 4), torch.arange(6)
    logits = model(images)
    twin = DefenseGAN(defence.network, 3)
    found = twin.project(images, iterations=2, restarts=2, generator=seeded())
    torch.testing.assert_close(logits, classifier(found))
    batch = methods.Batch(images, labels, images, images, labels)
    methods.um(model, batch).loss.backward()
    assert all(value.grad.abs().sum() > 0 for value in classifier.parameters())
    assert all(value.grad is None for value in defence.network.parameters())
    assert repr(defence).startswith("DefenseGAN(\n  iterations=2, restarts=2, generator=")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": -1}, "project: iterations must be at least 0, got -1"),
        ({"restarts": 0}, "project: restarts must be at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DefenseGAN(tiny(), 3).project(torch.rand(2, 1, 3, 4), **options)


@pytest.mark.parametrize("iterations", [0, 1])
def test_images_of_another_shape(iterations):
    with pytest.raises(ValueError, match=r"images must be \(B, 1, 3, 4\) .* got \(B, 1, 4, 4\)"):
        DefenseGAN(tiny(), 3).project(torch.rand(2, 1, 4, 4), iterations)
