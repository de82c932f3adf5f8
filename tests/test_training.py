"""Attacks, methods, models and data of the training layer."""

import copy
from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tla_ops.training import methods
from tla_ops.training.attacks import model_mode, pgd
from tla_ops.training.evaluate import accuracy, summary, triplet_statistics
from tla_ops.training.files import plain, write_atomically
from tla_ops.training.methods import Batch
from tla_ops.training.models import Classifier, lenet, small, wrn

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


def some_batch(labels=(0, 1, 2, 3, 0, 1), candidate_labels=(0, 1, 2, 3, 4, 4, 1, 0)):
    return Batch(
        some_images(len(labels), 1),
        torch.tensor(labels),
        some_images(len(labels), 2),
        some_images(len(candidate_labels), 3),
        torch.tensor(candidate_labels),
    )


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


# methods


def angular(x, y):
    return 1 - F.cosine_similarity(x, y).abs()


def shifted(model, images, labels):
    return (images + 0.05).clamp(max=1)


def test_um_and_at_are_cross_entropies():
    model, batch = small().eval(), some_batch()
    expected = F.cross_entropy(model(batch.images), batch.labels)
    torch.testing.assert_close(methods.um(model, batch).loss, expected)
    expected = F.cross_entropy(model(shifted(model, batch.images, None)), batch.labels)
    torch.testing.assert_close(methods.at(model, batch, attack=shifted).loss, expected)


@pytest.mark.parametrize("training", [True, False])
def test_tla_equals_equation_1(training):
    torch.manual_seed(0)
    model, batch = small().train(training), some_batch()
    copied = copy.deepcopy(model)  # a forward pass in train mode moves batch statistics
    options = {"attack": shifted, "weight": 2.0, "norm_weight": 0.01, "margin": 0.4}
    step = methods.tla(copied, batch, **options)
    adversarial = shifted(model, batch.images, None)
    with torch.no_grad(), model_mode(model, "eval"):
        anchor, pool = model.features(adversarial), model.features(batch.candidates)
        distance = torch.stack([angular(row.expand_as(pool), pool) for row in anchor])
        distance[batch.labels[:, None] == batch.candidate_labels] = torch.inf
        index = distance.argmin(1)
    anchor, positive, negative = (
        model.features(images) for images in (adversarial, batch.positives, batch.candidates[index])
    )
    triplet = F.relu(angular(anchor, positive) - angular(anchor, negative) + 0.4)
    norms = anchor.norm(dim=1) + positive.norm(dim=1) + negative.norm(dim=1)
    expected = F.cross_entropy(model.head(anchor), batch.labels)
    expected = expected + (2.0 * triplet + 0.01 * norms).mean()
    torch.testing.assert_close(step.loss, expected)
    torch.testing.assert_close(step.positive_distance, angular(anchor, positive).detach())
    torch.testing.assert_close(step.negative_distance, angular(anchor, negative).detach())
    assert copied.training is training
    ours = torch.autograd.grad(step.loss, list(copied.parameters()))
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_tla_without_a_candidate_of_another_class():
    model, batch = small().eval(), some_batch(labels=(3, 3, 1), candidate_labels=(3, 3))
    options = {"attack": shifted, "weight": 1.0, "norm_weight": 0.1, "margin": 0.1}
    step = methods.tla(model, batch, **options)
    assert torch.isinf(step.negative_distance).tolist() == [True, True, False]
    alone = Batch(*(part[:2] for part in batch))
    step = methods.tla(model, alone, **options)
    adversarial = shifted(model, alone.images, None)
    torch.testing.assert_close(step.loss, F.cross_entropy(model(adversarial), alone.labels))
    step.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_pool_forward_leaves_no_trace():
    model, batch = small().train(), some_batch()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    anchor, pool = methods.pool_features(model, batch.images, batch.candidates)
    assert anchor.shape == (6, 128)
    assert pool.shape == (8, 128)
    assert not pool.requires_grad
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_triplet_statistics(splits):
    data = splits.validation
    model = small().eval()
    result = triplet_statistics(model, data.images, data, 0.1, torch.Generator().manual_seed(0))
    assert 0 <= result.active <= 1
    assert 0 < result.negative_distance < result.positive_distance < 1
    distances = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.35, torch.inf, 0.45])
    found = summary(*distances, 0.1)
    assert found == pytest.approx((1 / 3, 0.2, 0.4))


# models


@pytest.mark.parametrize(
    ("model", "dim"), [(small(), 128), (lenet(), 1024), (wrn(units=1, widen=1), 64)]
)
def test_models_are_a_head_on_features(model: Classifier, dim):
    images = torch.rand(2, *model.image_shape)
    features = model.eval().features(images)
    assert features.shape == (2, dim)
    torch.testing.assert_close(model(images), model.head(features))
    assert model(images).shape == (2, 10)


def test_wrn_is_the_papers_size():
    with torch.device("meta"):
        model = wrn()
    assert model.head.in_features == 640
    # 46.2 million weights in w32-10 with five units a stage.
    assert sum(value.numel() for value in model.parameters()) == pytest.approx(46.2e6, rel=0.01)


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
