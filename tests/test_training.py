"""Attacks, evaluation, data and files of the training layer."""

from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tla_ops.training import methods
from tla_ops.training.attacks import model_mode, pgd
from tla_ops.training.data import ImageSet
from tla_ops.training.evaluate import accuracy, summary, triplet_statistics
from tla_ops.training.files import plain, write_atomically
from tla_ops.training.models import small

EPSILON, STEP = Fraction(3, 16), Fraction(1, 16)
ATTACK = partial(pgd, epsilon=EPSILON, step=STEP)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small work on few cores: threads that wait for each other would cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits():
    pytest.importorskip("sklearn")
    from tla_ops.training.data import digits

    return digits(seed=0)


@pytest.fixture(scope="module")
def trained(splits):
    """A small network after one undefended epoch."""
    torch.manual_seed(0)
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for batch in splits.train.batches(50, 0, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        methods.um(model, batch).loss.backward()
        optimizer.step()
    return model


def some_images(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=generator)


# attacks


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_stays_in_the_ball_and_in_range(restarts, random_start):
    images = torch.cat([some_images(), torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)])
    labels = torch.arange(14) % 10
    adversarial = ATTACK(
        small(), images, labels, steps=4, restarts=restarts, random_start=random_start
    )
    assert adversarial.shape == images.shape
    assert not adversarial.requires_grad
    assert (adversarial - images).abs().max() <= float(EPSILON) + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not torch.equal(adversarial, images)


def test_pgd_first_step_is_the_signed_gradient():
    model, images, labels = small().eval(), some_images() * 0.5 + 0.25, torch.arange(12) % 10
    leaf = images.clone().requires_grad_()
    F.cross_entropy(model(leaf), labels).backward()
    expected = images + float(STEP) * leaf.grad.sign()
    adversarial = ATTACK(model, images, labels, steps=1, random_start=False)
    torch.testing.assert_close(adversarial, expected)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_pgd_restores_each_modules_mode(mode):
    model = small().train()
    model.body[1].eval()
    before = [module.training for module in model.modules()]
    seen = []
    handle = model.body[4].register_forward_hook(lambda module, *_: seen.append(module.training))
    ATTACK(model, some_images(), torch.arange(12) % 10, steps=2, mode=mode)
    handle.remove()
    assert set(seen) == {mode == "train"}
    assert [module.training for module in model.modules()] == before


def test_pgd_leaves_gradients_and_statistics_alone():
    model = small().train()
    kept = torch.full_like(model.head.weight, 7.0)
    model.head.weight.grad = kept
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        ATTACK(model, some_images(), torch.arange(12) % 10, steps=2)
    assert model.head.weight.grad is kept
    assert (kept == 7).all()
    others = [value for name, value in model.named_parameters() if name != "head.weight"]
    assert all(value.grad is None and value.requires_grad for value in others)
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name])


def test_pgd_repeats_with_its_generator():
    model, labels = small(), torch.arange(12) % 10

    def attack(seed):
        generator = torch.Generator().manual_seed(seed)
        return ATTACK(model, some_images(), labels, steps=2, restarts=2, generator=generator)

    assert torch.equal(attack(1), attack(1))
    assert not torch.equal(attack(1), attack(2))


def test_pgd_lowers_accuracy_and_restarts_lower_it_further(trained, splits):
    images, labels = splits.validation.images, splits.validation.labels

    def attacked(**options):
        generator = torch.Generator().manual_seed(0)
        adversarial = ATTACK(trained, images, labels, generator=generator, **options)
        return accuracy(trained, adversarial, labels)

    clean = accuracy(trained, images, labels)
    assert clean > 0.8
    assert attacked(steps=5) < clean - 0.3
    # The first of four restarts draws what the only one draws.
    assert attacked(steps=1, restarts=4) <= attacked(steps=1)


@pytest.mark.parametrize(
    "options", [{"steps": -1}, {"steps": 1, "restarts": 0}, {"steps": 1, "step": Fraction(-1, 8)}]
)
def test_pgd_bad_options(options):
    with pytest.raises(ValueError, match="pgd"):
        ATTACK(small(), some_images(), torch.zeros(12, dtype=torch.long), **options)


def test_model_mode_names_what_it_accepts():
    with pytest.raises(ValueError, match="'train' or 'eval'"), model_mode(small(), "test"):
        pass


# evaluation


def test_triplet_statistics(splits):
    data = splits.validation
    model = small().eval()
    result = triplet_statistics(model, data.images, data, 0.1, torch.Generator().manual_seed(0))
    assert 0 <= result.active <= 1
    assert 0 < result.negative_distance < result.positive_distance < 1
    distances = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.35, torch.inf, 0.45])
    found = summary(*distances, 0.1)
    assert found == pytest.approx((1 / 3, 0.2, 0.4))


# data


def test_digits_split_is_disjoint_stratified_and_seeded(splits):
    from tla_ops.training.data import digits

    assert [len(part) for part in splits] == [1077, 360, 360]
    assert splits.train.images.shape[1:] == (1, 8, 8)
    whole = torch.cat([part.images for part in splits])
    assert whole.min() == 0
    assert whole.max() == 1
    assert len(whole.flatten(1).unique(dim=0)) == 1797  # no two images of the set are equal
    for part in splits:
        share = torch.bincount(part.labels, minlength=10) / len(part)
        assert share.min() > 0.09
        assert share.max() < 0.11
    again, other = digits(seed=0), digits(seed=1)
    assert torch.equal(again.test.images, splits.test.images)
    assert not torch.equal(other.test.images, splits.test.images)


def test_positives_are_other_images_of_the_class(splits):
    data, generator = splits.train, torch.Generator().manual_seed(0)
    rows = torch.arange(len(data))
    drawn = torch.stack([data.positives(rows, generator) for _ in range(20)])
    assert (data.labels[drawn] == data.labels[rows]).all()
    assert (drawn != rows).all()


def test_positives_are_uniform_and_a_lone_image_is_its_own():
    data = ImageSet(some_images(6), torch.tensor([2, 0, 2, 2, 2, 5]))
    rows = torch.tensor([0, 1, 5]).repeat(4000)
    drawn = data.positives(rows, torch.Generator().manual_seed(0)).view(-1, 3)
    share = torch.bincount(drawn[:, 0], minlength=6) / 4000
    torch.testing.assert_close(share, torch.tensor([0, 0, 1, 1, 1, 0]) / 3, rtol=0, atol=0.03)
    assert (drawn[:, 1] == 1).all()
    assert (drawn[:, 2] == 5).all()


def test_batches_cover_an_epoch(splits):
    data = splits.validation
    batches = list(data.batches(50, 20, torch.Generator().manual_seed(0)))
    assert len(batches) == 7
    for batch in batches:
        assert batch.images.shape == batch.positives.shape == (50, 1, 8, 8)
        assert batch.candidates.shape == (20, 1, 8, 8)
        assert batch.candidate_labels.shape == (20,)
    images = torch.cat([batch.images for batch in batches]).flatten(1)
    assert len(images.unique(dim=0)) == 350
    again = next(iter(data.batches(50, 20, torch.Generator().manual_seed(0))))
    assert torch.equal(again.images, batches[0].images)


@pytest.mark.parametrize(("size", "candidates"), [(0, 1), (7, 1), (2, 7)])
def test_batches_bad_sizes(size, candidates):
    data = ImageSet(some_images(6), torch.arange(6))
    with pytest.raises(ValueError, match=r"ImageSet\.batches"):
        next(data.batches(size, candidates))


def test_image_set_needs_a_label_an_image():
    with pytest.raises(ValueError, match="labels must be"):
        ImageSet(some_images(6), torch.arange(5))


# files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_plain_is_strict_json():
    value = {"a": (1, float("nan"), Fraction(3, 16)), 2: {"b": None, "c": True}}
    assert plain(value) == {"a": [1, None, "3/16"], "2": {"b": None, "c": True}}
