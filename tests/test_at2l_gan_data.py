"""A GAN and its projections: made once, gone on with where they were stopped, to the same numbers,
and made anew when anything that decides them is another.
"""

import math
import signal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import Watched, made_up

from tla_ops.experiments.at2l import gan_data
from tla_ops.experiments.at2l.gan_data import (
    GanSetup,
    networks,
    projected,
    reconstructed,
    trained_gan,
)
from tla_ops.experiments.lab import Setting
from tla_ops.training import checkpoint
from tla_ops.training.defense_gan import DefenseGAN
from tla_ops.training.image_set import ImageSet
from tla_ops.training.trainer import RunError

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = Setting("digits", "mnist")
TINY = GanSetup(
    steps=5, layout="source", width=0.02, latent_dim=4, batch=4, learning_rate=1e-2,
    iterations=2, restarts=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return {"digits": made_up("digits")}


@pytest.fixture
def steps(monkeypatch):
    """The numbers of trained steps, counted over all trainings; ``at`` has what happens after
    which.
    """
    train, counted, at = gan_data.wgan_gp, [], {}

    def watched(*arguments, **options):
        for losses in train(*arguments, **options):
            counted.append(len(counted))
            at.pop(len(counted), lambda: None)()
            yield losses

    monkeypatch.setattr(gan_data, "wgan_gp", watched)
    return counted, at


@pytest.fixture
def projections(monkeypatch):
    """The sizes of what is projected at a time; ``at`` has what happens after which."""
    project, counted, at = DefenseGAN.project, [], {}

    def watched(self, images, **options):
        counted.append(len(images))
        at.pop(len(counted), lambda: None)()
        return project(self, images, **options)

    monkeypatch.setattr(DefenseGAN, "project", watched)
    return counted, at


def weights(gan):
    return nn.utils.parameters_to_vector(gan.network.parameters()).detach()


def killed():
    raise MemoryError


def interrupted():
    signal.raise_signal(signal.SIGINT)


# The networks.


def test_large_images_have_table_18s_networks():
    network, critic = networks((1, 28, 28), GanSetup(width=0.05, latent_dim=3))
    assert [type(layer).__name__ for layer in network[-2:]] == ["ConvTranspose2d", "Sigmoid"]
    assert isinstance(critic[0], nn.Conv2d)
    assert network[0].in_features == 3
    assert critic[0].out_channels == 3
    assert network[3].in_channels == 1  # of 16 in the printed layout
    source = networks((1, 28, 28), GanSetup(layout="source", width=0.05))[0]
    assert source[3].in_channels == 13  # of 256


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 14, 28), (1, 7, 5)])
def test_small_images_are_means_and_seen_enlarged(shape):
    network, critic = networks(shape, TINY)
    latent, images = torch.randn(2, 4), torch.rand(2, *shape)
    with torch.no_grad():
        made = network(latent)
        assert made.shape == (2, *shape)
        large = network[:-1](latent)
        torch.testing.assert_close(made, F.adaptive_avg_pool2d(large, shape[1:]))
        enlarged = F.interpolate(images, (28, 28), mode="bilinear")
        torch.testing.assert_close(critic(images), critic[1:](enlarged))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 29, 8), (1, 8, 32)])
def test_images_that_it_does_not_make(shape):
    with pytest.raises(ValueError, match=r"networks: image_shape must be one channel .* got \("):
        networks(shape, TINY)


def test_the_defaults_are_the_papers():
    assert GanSetup()[:9] == (200_000, "printed", 1.0, 128, 50, 1e-4, 200, 10, None)


# The GAN.


def test_a_gan_is_trained_once(data, tmp_path, steps):
    lab = Watched(tmp_path, data)
    gan = trained_gan(lab, DIGITS, TINY)
    assert len(steps[0]) == 5
    assert not gan.network.training
    assert gan.setup is TINY
    assert gan.folder.parent == tmp_path / "gan"
    assert gan.facts["steps"] == 5
    assert gan.facts["seconds"] > 0
    assert all(map(math.isfinite, gan.facts["losses"]))
    fresh = networks((1, 8, 8), TINY)[0]
    assert gan.network(torch.randn(3, 4)).shape == fresh(torch.randn(3, 4)).shape
    again = trained_gan(Watched(tmp_path, data), DIGITS, TINY)
    assert len(steps[0]) == 5
    assert (again.digest, again.folder, again.facts) == (gan.digest, gan.folder, gan.facts)
    assert torch.equal(weights(again), weights(gan))
    assert len([text for text in lab.said if "GAN" in text]) == 1


def test_it_learns_from_the_training_images(data, tmp_path, monkeypatch):
    seen = []

    def watched(network, critic, images, **options):
        seen.append((images, options["latent_dim"], options["batch"]))
        (group,) = options["optimizers"][0].param_groups
        seen.append(group["lr"])
        while True:
            yield torch.tensor(1.0), torch.tensor(2.0)

    monkeypatch.setattr(gan_data, "wgan_gp", watched)
    gan = trained_gan(Watched(tmp_path, data), DIGITS, TINY)
    (images, *options), rate = seen
    assert torch.equal(images, data["digits"].train.images)
    assert options == [4, 4]
    assert rate == 1e-2
    assert gan.facts["losses"] == [1.0, 2.0]


def test_what_decides_its_weights(data, tmp_path, steps):
    lab = Watched(tmp_path, data)
    usual = trained_gan(lab, DIGITS, TINY)
    for other in ({"iterations": 1}, {"restarts": 1}, {"images": 20}):
        assert trained_gan(lab, DIGITS, TINY._replace(**other)).folder == usual.folder
    assert len(steps[0]) == 5
    changes = (
        *({"steps": 4}, {"layout": "printed"}, {"width": 0.03}, {"latent_dim": 5}),
        *({"batch": 5}, {"learning_rate": 1e-3}),
    )
    folders = {trained_gan(lab, DIGITS, TINY._replace(**change)).folder for change in changes}
    folders.add(trained_gan(Watched(tmp_path, data, seed=1), DIGITS, TINY).folder)
    stored = data["digits"].train.stored.clone()
    stored[0, 0, 0, 0] ^= 1
    other = data["digits"]._replace(train=ImageSet(stored, data["digits"].train.labels))
    folders.add(trained_gan(Watched(tmp_path, {"digits": other}), DIGITS, TINY).folder)
    assert len(folders | {usual.folder}) == 9
    seeded = trained_gan(Watched(tmp_path, data, seed=1), DIGITS, TINY)
    assert not torch.equal(weights(seeded), weights(usual))


@pytest.mark.parametrize(
    ("event", "error", "kept"), [(interrupted, KeyboardInterrupt, 3), (killed, MemoryError, 2)]
)
def test_a_training_that_is_stopped_goes_on(event, error, kept, data, tmp_path, steps, monkeypatch):
    monkeypatch.setattr(gan_data, "SAVE_EVERY", 2)
    counted, at = steps
    whole = trained_gan(Watched(tmp_path / "whole", data), DIGITS, TINY)
    counted.clear()
    at[3] = event
    torch.rand(7)  # another stream of the global generator decides nothing
    state = torch.get_rng_state()
    with pytest.raises(error):
        trained_gan(Watched(tmp_path / "part", data), DIGITS, TINY)
    assert torch.equal(torch.get_rng_state(), state)
    (path,) = (tmp_path / "part" / "gan").glob("*/last.pt")
    assert checkpoint.read(path)["step"] == kept
    spent = checkpoint.read(path)["seconds"]
    torch.rand(7)
    counted.clear()
    gan = trained_gan(Watched(tmp_path / "part", data), DIGITS, TINY)
    assert len(counted) == 5 - kept
    assert torch.equal(weights(gan), weights(whole))
    assert gan.facts["losses"] == whole.facts["losses"]
    assert gan.facts["seconds"] > spent


def test_an_interrupt_in_the_last_step_is_not_lost(data, tmp_path, steps):
    steps[1][5] = interrupted
    with pytest.raises(KeyboardInterrupt):
        trained_gan(Watched(tmp_path, data), DIGITS, TINY)
    assert trained_gan(Watched(tmp_path, data), DIGITS, TINY).facts["steps"] == 5
    assert len(steps[0]) == 5


def test_a_gan_that_is_lost(data, tmp_path, monkeypatch):
    def lost(*arguments, **options):
        while True:
            yield torch.tensor(1.0), torch.tensor(math.nan)

    monkeypatch.setattr(gan_data, "wgan_gp", lost)
    with pytest.raises(RunError, match=r"losses are \[1.0, nan\] by step 5: try a lower learning_"):
        trained_gan(Watched(tmp_path, data), DIGITS, TINY)
    assert not list(tmp_path.rglob("*.pt"))


# Projections.


@pytest.fixture
def lab(data, tmp_path):
    """Six images at a time, which are two with three restarts."""
    lab = Watched(tmp_path, data)
    lab.__dict__["batch"] = 6
    return lab


def few(data, count=5):
    return data["digits"].test.subset(torch.arange(count))


def test_a_projection_is_made_once(lab, data, projections):
    gan, images = trained_gan(lab, DIGITS, TINY), few(data)
    made = projected(lab, gan, images, "images")
    assert projections[0] == [2, 2, 1]
    assert made.images.shape == (5, 1, 8, 8)
    assert made.images.dtype == torch.float32
    assert made.seconds > 0
    assert made.images.unique(dim=0).shape[0] > 1
    again = projected(lab, gan, images, "images")
    assert projections[0] == [2, 2, 1]
    assert torch.equal(again.images, made.images)
    assert again.seconds == made.seconds
    files = [path.name for path in gan.folder.iterdir()]
    assert len(files) == 2
    assert "last.pt" in files
    assert len([text for text in lab.said if "projecting 5 images" in text]) == 1


def test_it_is_the_nearest_of_its_descents(lab, data, monkeypatch):
    gan, images = trained_gan(lab, DIGITS, TINY), few(data)
    project, given = DefenseGAN.project, []

    def watched(self, images, **options):
        given.append((self, images, options["generator"].initial_seed()))
        return project(self, images, **options)

    monkeypatch.setattr(DefenseGAN, "project", watched)
    made = projected(lab, gan, images, "images").images
    parts = []
    for defence, part, seed in given:
        generator = torch.Generator().manual_seed(seed)
        twin = DefenseGAN(gan.network, 4)
        parts.append(project(twin, part, iterations=2, restarts=3, generator=generator))
        assert defence.latent_dim == 4
    assert torch.equal(made, torch.cat(parts))
    assert torch.equal(torch.cat([part for _, part, _ in given]), images.images)
    assert len({seed for _, _, seed in given}) == 3  # no two parts have the same starts


def test_what_decides_a_projection(lab, data, tmp_path, projections):
    lab.__dict__["batch"] = 1  # one image at a time, whatever the restarts
    gan, images = trained_gan(lab, DIGITS, TINY), few(data, 1)
    projected(lab, gan, images, "images")
    count = len(projections[0])
    moved = images.images.clone()
    moved[0, 0, 0, 0] += 0.1
    others = [
        (lab, gan._replace(setup=TINY._replace(iterations=1)), images),
        (lab, gan._replace(setup=TINY._replace(restarts=2)), images),
        (lab, gan._replace(digest="another"), images),
        (lab, gan, ImageSet(moved, images.labels)),
        (Watched(tmp_path, data, seed=1), gan, images),
    ]
    for number, (where, which, what) in enumerate(others, count + 1):
        where.__dict__["batch"] = 1
        projected(where, which, what, "images")
        assert len(projections[0]) == number
    projected(lab, gan, images, "the same by another name")
    assert len(projections[0]) == len(others) + count


@pytest.mark.parametrize(
    ("event", "error", "kept"), [(interrupted, KeyboardInterrupt, 2), (killed, MemoryError, 1)]
)
def test_projections_that_are_stopped_go_on(event, error, kept, lab, data, projections, tmp_path):
    gan, images = trained_gan(lab, DIGITS, TINY), few(data)
    whole = projected(lab, gan, images, "images")
    (path,) = gan.folder.glob("projected-*.pt")
    path.unlink()
    counted, at = projections
    counted.clear()
    at[2] = event
    with pytest.raises(error):
        projected(lab, gan, images, "images")
    assert len(list(path.with_suffix("").glob("*.pt"))) == kept
    (path.with_suffix("") / "0.pt").write_bytes(b"damaged")
    counted.clear()
    torch.rand(3)
    made = projected(lab, gan, images, "images")
    assert len(counted) == 3 - kept + 1
    assert torch.equal(made.images, whole.images)
    assert path.exists()
    assert not path.with_suffix("").exists()


def test_an_interrupt_in_the_last_projection_is_not_lost(lab, data, projections):
    gan, images = trained_gan(lab, DIGITS, TINY), few(data)
    projections[1][3] = interrupted
    with pytest.raises(KeyboardInterrupt):
        projected(lab, gan, images, "images")
    projected(lab, gan, images, "images")
    assert len(projections[0]) == 3


def test_more_restarts_than_images_at_a_time(lab, data, projections):
    gan = trained_gan(lab, DIGITS, TINY._replace(restarts=9))
    projected(lab, gan, few(data, 3), "images")
    assert projections[0] == [1, 1, 1]


# Training images.


@pytest.mark.parametrize(("count", "images"), [(None, 80), (20, 20), (80, 80), (500, 80)])
def test_training_images_are_replaced_one_by_one(count, images, lab, data, monkeypatch):
    def negative(lab, gan, given, name):
        return gan_data.Projected(1 - given.images, 2.0)

    monkeypatch.setattr(gan_data, "projected", negative)
    gan = trained_gan(lab, DIGITS, TINY)
    made, projections = reconstructed(lab, DIGITS, gan._replace(setup=TINY._replace(images=count)))
    assert len(made.train) == len(projections.images) == images
    assert projections.seconds == 2.0
    assert torch.bincount(made.train.labels).tolist() == [images // 10] * 10  # stratified
    theirs = {
        image.numpy().tobytes(): label
        for image, label in zip(
            1 - data["digits"].train.images, data["digits"].train.labels.tolist(), strict=True
        )
    }
    for image, label in zip(made.train.images, made.train.labels.tolist(), strict=True):
        assert theirs[image.numpy().tobytes()] == label
    assert made.test is data["digits"].test
    assert (made.name, made.classes) == ("digits", 10)
    assert made.notes == ("made up", f"{images} training images are a GAN's reconstructions")


def test_a_model_of_them_is_another(lab, data):
    """What a lab keys trainings by differs between images and what the GAN makes of them."""
    from tla_ops.experiments.lab import identified

    gan = trained_gan(lab, DIGITS, TINY)
    made, _ = reconstructed(lab, DIGITS, gan)
    assert identified(made.train) != identified(data["digits"].train)
    assert made.train.stored.dtype == torch.float32
    assert ((made.train.images > 0) & (made.train.images < 1)).all()
