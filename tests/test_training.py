"""Methods, models and data of the training layer."""

import copy
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from tla_ops.training import methods
from tla_ops.training.attacks import model_mode
from tla_ops.training.data import ImageSet
from tla_ops.training.evaluate import summary, triplet_statistics
from tla_ops.training.files import plain, write_atomically
from tla_ops.training.methods import Batch
from tla_ops.training.models import Classifier, lenet, small, wrn


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
