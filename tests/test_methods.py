"""Training methods against their formulas, written out again with one forward call a stream."""

import copy
from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from waiting import NoWaiting

from tla_ops import FeatureBank, reference
from tla_ops.training import methods, steps
from tla_ops.training.attacks import model_mode, pgd
from tla_ops.training.methods import Batch
from tla_ops.training.models import small
from tla_ops.types import TripletLossDetails

TLA = {"weight": 2.0, "norm_weight": 0.01, "margin": 0.4}
AT2L = {"adversarial_weight": 0.3, "weight": 0.7, "margin": 1.5}
NOISE = Fraction(1, 10)


pytestmark = pytest.mark.usefixtures("one_thread")


def some_images(count, seed):
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


def twins(training=True, seed=0):
    """Two networks with the same weights, for the method and for the formula."""
    torch.manual_seed(seed)
    model = small().train(training)
    return copy.deepcopy(model), model


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def shifted(model, images, labels):
    return (images + 0.05).clamp(max=1)


def angular(x, y):
    return 1 - F.cosine_similarity(x, y).abs()


def smooth_cross_entropy(logits, labels, smoothing=0.0):
    target = (1 - smoothing) * F.one_hot(labels, logits.shape[1]) + smoothing / logits.shape[1]
    return -(target * logits.log_softmax(1)).sum(1).mean()


def length(features, norm="l2"):
    return features.norm(dim=1) if norm == "l2" else features.square().mean(1)


def equation_1(loss, anchor, positives, negative, norm="l2"):
    """The mean over the batch, where every row has a negative."""
    hinge = sum(F.relu(angular(anchor, p) - angular(anchor, negative) + 0.4) for p in positives)
    norms = sum(length(features, norm) for features in (anchor, *positives, negative))
    return loss + (2.0 * hinge + 0.01 * norms).mean()


def nearest(model, anchors, batch):
    with torch.no_grad(), model_mode(model, "eval"):
        anchor, pool = model.features(anchors), model.features(batch.candidates)
        distance = torch.stack([angular(row.expand_as(pool), pool) for row in anchor])
        distance[batch.labels[:, None] == batch.candidate_labels] = torch.inf
        return distance.argmin(1)


def assert_same(step, model, expected, other):
    """Loss, every parameter's gradient and every running statistic."""
    torch.testing.assert_close(step.loss, expected)
    step.loss.backward()
    expected.backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
    for (name, ours), theirs in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def counting(model):
    """Sizes of the batches that ``model`` forwards, in a list that grows."""
    sizes = []
    model.body.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


# without triplets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_um_and_at_are_cross_entropies(smoothing):
    batch = some_batch()
    for method, images in (
        (methods.um, batch.images),
        (partial(methods.at, attack=shifted), shifted(None, batch.images, None)),
    ):
        model, other = twins()
        step = method(model, batch, label_smoothing=smoothing)
        expected = smooth_cross_entropy(other(images), batch.labels, smoothing)
        assert_same(step, model, expected, other)
        assert set(step[1:]) == {None}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_alp_pairs_logits(smoothing):
    (model, other), batch = twins(), some_batch()
    step = methods.alp(model, batch, attack=shifted, weight=3.0, label_smoothing=smoothing)
    attacked = other(shifted(None, batch.images, None))
    clean = other(batch.images)
    pairs = sum(((a - c) ** 2).sum() for a, c in zip(attacked, clean, strict=True))
    expected = smooth_cross_entropy(attacked, batch.labels, smoothing) + 3 * pairs / (6 * 10)
    assert_same(step, model, expected, other)


def test_alps_weight_is_the_papers():
    batch = some_batch()
    one, other = twins()
    default = methods.alp(one, batch, attack=shifted).loss
    assert torch.equal(default, methods.alp(other, batch, attack=shifted, weight=0.5).loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_trades_adds_the_divergence_from_clean_to_adversarial(smoothing):
    (model, other), batch = twins(), some_batch()
    step = methods.trades(model, batch, attack=shifted, beta=5.0, label_smoothing=smoothing)
    clean = other(batch.images)
    p, q = clean.softmax(1), other(shifted(None, batch.images, None)).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = smooth_cross_entropy(clean, batch.labels, smoothing) + 5 * divergence
    assert_same(step, model, expected, other)


def test_trades_weight_is_the_papers():
    batch = some_batch()
    one, other = twins()
    default = methods.trades(one, batch, attack=shifted).loss
    assert torch.equal(default, methods.trades(other, batch, attack=shifted, beta=6.0).loss)


# tla: the pool


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["l2", "mean_square"])
def test_tla_equals_equation_1(training, norm):
    (model, other), batch = twins(training), some_batch()
    step = methods.tla(model, batch, attack=shifted, **TLA, norm=norm, label_smoothing=0.1)
    adversarial = shifted(None, batch.images, None)
    index = nearest(other, adversarial, batch)
    anchor = other.features(adversarial)
    positive = other.features(batch.positives)
    negative = other.features(batch.candidates[index])
    loss = smooth_cross_entropy(other.head(anchor), batch.labels, 0.1)
    expected = equation_1(loss, anchor, [positive], negative, norm)
    torch.testing.assert_close(step.positive_distance, angular(anchor, positive).detach())
    torch.testing.assert_close(step.negative_distance, angular(anchor, negative).detach())
    assert step.features is None
    assert_same(step, model, expected, other)
    assert model.training is training


def test_tla_with_two_positives():
    (model, other), batch = twins(), some_batch()
    options = {"source_positive": True, "noise": NOISE, "generator": seeded()}
    step = methods.tla(model, batch, attack=shifted, **TLA, **options)
    adversarial = shifted(None, batch.images, None)
    index = nearest(other, adversarial, batch)
    uniform = torch.rand(batch.images.shape, generator=seeded())
    anchor = other.features(adversarial)
    source = other.features((batch.images + 0.2 * uniform - 0.1).clamp(0, 1))
    positive = other.features(batch.positives)
    negative = other.features(batch.candidates[index])
    loss = F.cross_entropy(other.head(anchor), batch.labels)
    expected = equation_1(loss, anchor, [source, positive], negative)
    mean = (angular(anchor, source) + angular(anchor, positive)).detach() / 2
    torch.testing.assert_close(step.positive_distance, mean)
    assert_same(step, model, expected, other)


@pytest.mark.parametrize("method", ["tla", "tla_sa"])
def test_noise_is_uniform_on_the_source_alone(method):
    (model, _), batch = twins(), some_batch(labels=(0, 1) * 50)
    streams = []
    model.body.register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))
    options = {"source_positive": True} if method == "tla" else {}
    getattr(methods, method)(
        model, batch, attack=shifted, **TLA, **options, noise=NOISE, generator=seeded()
    )
    # In tla_sa the source is an anchor too, which is forwarded for mining before.
    noisy = streams[3] if method == "tla" else streams[0]
    change = noisy - batch.images
    inside = (batch.images > 0.1) & (batch.images < 0.9)
    assert 0.099 < change.abs().max() <= 0.1 + 1e-6
    assert abs(change[inside].mean()) < 0.004
    assert abs(change[inside].std() - 0.1 / 3**0.5) < 0.002
    assert noisy.min() == 0
    assert noisy.max() == 1
    grid = 255 * noisy[inside]
    assert (grid - grid.round()).abs().mean() > 0.2  # nothing is rounded to 0..255
    adversarial = shifted(None, batch.images, None)
    others = {"tla": (0, 2), "tla_sa": (2,)}[method]
    assert all(torch.equal(streams[at], adversarial) for at in others)
    if method == "tla":
        assert torch.equal(streams[4], batch.positives)


def test_no_noise_leaves_the_source_and_the_generator_alone():
    (model, _), batch, generator = twins(), some_batch(), seeded()
    streams = []
    model.body.register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))
    methods.tla(model, batch, attack=shifted, **TLA, source_positive=True, generator=generator)
    assert torch.equal(streams[3], batch.images)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_rows_without_a_candidate_of_another_class():
    model, batch = small().eval(), some_batch(labels=(3, 3, 1), candidate_labels=(3, 3))
    for method in (methods.tla, methods.tla_rn, methods.tla_sa):
        step = method(model, batch, attack=shifted, **TLA)
        assert torch.isinf(step.negative_distance).tolist() == [True, True, False]
        alone = Batch(*(part[:2] for part in batch))
        step = method(model, alone, attack=shifted, **TLA)
        adversarial = shifted(model, alone.images, None)
        torch.testing.assert_close(step.loss, F.cross_entropy(model(adversarial), alone.labels))
        model.zero_grad()
        step.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_pool_forward_leaves_no_trace():
    model, batch = small().train(), some_batch()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    anchor, pool = methods.pool_features(model, batch.images, batch.candidates)
    assert anchor.shape == (6, 128)
    assert pool.shape == (8, 128)
    assert not pool.requires_grad
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


# tla: the bank


def filled_bank(model, batch, dtype=torch.float32):
    """A bank that holds the candidates' features, in the model's own mode, and nothing else."""
    with torch.no_grad():
        features = model.features(batch.candidates)
    bank = FeatureBank(16, features.shape[1], dtype=dtype)
    bank.enqueue(features, batch.candidate_labels)
    return bank


@pytest.mark.parametrize("source_positive", [False, True])
def test_bank_and_pool_agree_where_batch_statistics_play_no_part(source_positive):
    (model, other), batch = twins(training=False), some_batch()
    options = {"attack": shifted, **TLA, "source_positive": source_positive}
    pool = methods.tla(other, batch, **options)
    bank = filled_bank(model, batch)
    sizes = counting(model)
    step = methods.tla(model, batch, bank=bank, **options)
    assert sizes == [6] * (3 if source_positive else 2)  # neither pool nor picks
    for ours, theirs in zip(step[:3], pool[:3], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_bank_negatives_carry_no_gradient(training):
    (model, other), batch = twins(training), some_batch()
    bank = filled_bank(copy.deepcopy(model), batch)
    step = methods.tla(model, batch, attack=shifted, **TLA, bank=bank)
    anchor = other.features(shifted(None, batch.images, None))
    positive = other.features(batch.positives)
    distance = reference.cdist(anchor.detach(), bank.features[:8])
    distance[batch.labels[:, None] == batch.candidate_labels] = torch.inf
    negative = bank.features[distance.argmin(1)]
    loss = F.cross_entropy(other.head(anchor), batch.labels)
    expected = equation_1(loss, anchor, [positive], negative)
    torch.testing.assert_close(step.negative_distance, angular(anchor, negative).detach())
    features, labels = step.features
    assert not features.requires_grad
    torch.testing.assert_close(features, positive.detach())
    assert torch.equal(labels, batch.labels)
    assert_same(step, model, expected, other)


def test_an_empty_bank_adds_nothing_and_fills_up():
    (model, other), batch = twins(), some_batch()
    bank = FeatureBank(12, 128)
    options = {"attack": shifted, **TLA, "source_positive": True, "bank": bank}
    step = methods.tla(model, batch, **options)
    assert torch.isinf(step.negative_distance).all()
    assert torch.isfinite(step.positive_distance).all()
    anchor = other.features(shifted(None, batch.images, None))
    other.features(batch.images)
    other.features(batch.positives)
    assert_same(step, model, F.cross_entropy(other.head(anchor), batch.labels), other)
    bank.enqueue(*step.features)
    assert len(bank) == 6
    step = methods.tla(model, batch, **options)
    assert torch.isfinite(step.negative_distance).all()


# tla's variants


def test_tla_rn_draws_from_other_classes_and_forwards_no_pool():
    (model, other), batch = twins(), some_batch()
    sizes = counting(model)
    options = {"source_positive": True, "noise": NOISE, "generator": seeded()}
    step = methods.tla_rn(model, batch, attack=shifted, **TLA, **options)
    assert sizes == [6, 6, 6, 6]
    again = seeded()
    nothing = torch.zeros(6, 1), torch.zeros(8, 1), batch.labels, batch.candidate_labels
    index = reference.mine_negatives(*nothing, mining="random", generator=again)[1]
    uniform = torch.rand(batch.images.shape, generator=again)
    anchor = other.features(shifted(None, batch.images, None))
    source = other.features((batch.images + 0.2 * uniform - 0.1).clamp(0, 1))
    positive = other.features(batch.positives)
    negative = other.features(batch.candidates[index])
    loss = F.cross_entropy(other.head(anchor), batch.labels)
    expected = equation_1(loss, anchor, [source, positive], negative)
    assert_same(step, model, expected, other)


def test_tla_rn_picks_every_candidate_of_another_class():
    (model, _), batch = twins(training=False), some_batch()
    streams = []
    model.body.register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))
    generator = seeded()
    for _ in range(100):
        methods.tla_rn(model, batch, attack=shifted, **TLA, generator=generator)
    picks = torch.stack(streams[2::3])  # (100, B, C, H, W)
    same = (picks[:, :, None] == batch.candidates).flatten(3).all(3)
    assert (same.sum(2) == 1).all()
    other_class = batch.labels[:, None] != batch.candidate_labels
    assert torch.equal(same.any(0), other_class)


@pytest.mark.parametrize("training", [True, False])
def test_tla_sa_switches_anchor_and_positive(training):
    (model, other), batch = twins(training), some_batch()
    options = {"noise": NOISE, "generator": seeded(), "label_smoothing": 0.1}
    step = methods.tla_sa(model, batch, attack=shifted, **TLA, **options)
    uniform = torch.rand(batch.images.shape, generator=seeded())
    source = (batch.images + 0.2 * uniform - 0.1).clamp(0, 1)
    index = nearest(other, source, batch)
    positive = other.features(shifted(None, batch.images, None))
    anchor = other.features(source)
    negative = other.features(batch.candidates[index])
    loss = smooth_cross_entropy(other.head(positive), batch.labels, 0.1)
    expected = equation_1(loss, anchor, [positive], negative)
    torch.testing.assert_close(step.positive_distance, angular(anchor, positive).detach())
    torch.testing.assert_close(step.negative_distance, angular(anchor, negative).detach())
    assert_same(step, model, expected, other)


def test_tla_sa_enqueues_its_anchors():
    (model, other), batch = twins(training=False), some_batch()
    pool = methods.tla_sa(other, batch, attack=shifted, **TLA)
    bank = filled_bank(model, batch)
    step = methods.tla_sa(model, batch, attack=shifted, **TLA, bank=bank)
    torch.testing.assert_close(step.loss, pool.loss)
    torch.testing.assert_close(step.negative_distance, pool.negative_distance)
    features, labels = step.features
    torch.testing.assert_close(features, model.features(batch.images).detach())
    assert not features.requires_grad
    assert torch.equal(labels, batch.labels)


# at2l


class Logits(nn.Module):
    """Images that are their own logits, times a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * images.flatten(1)


def test_at2l_on_paper():
    clean = torch.tensor([[4.0, 0, 1], [0, 3, 0], [1, 2, 6]])
    attacked = torch.tensor([[2.0, 3, 1], [0, 2, 1], [4, 2, 3]])  # taken for 1, 1 (rightly), 0
    labels = torch.tensor([0, 1, 2])
    unused = torch.zeros(3, 3)
    batch = Batch(clean, labels, unused, unused, labels)

    def step(**options):
        return methods.at2l(Logits(), batch, attack=lambda *_: attacked, **AT2L, **options)

    # ‖f(x') - f(x)‖∞ is 3, 1, 3; rows 0 and 2 draw images 1 and 0: 2 and 2; row 1 either: 4 or 5.
    found = {tuple(step(generator=seeded(s)).negative_distance.tolist()) for s in range(20)}
    assert found == {(2, 4, 2), (2, 5, 2)}
    for seed in range(20):
        got = step(generator=seeded(seed), label_smoothing=0.1)
        assert got.positive_distance.tolist() == [3, 1, 3]
        hinge = F.relu(got.positive_distance - got.negative_distance + 1.5).mean()
        losses = [smooth_cross_entropy(logits, labels, 0.1) for logits in (clean, attacked)]
        expected = (losses[0] + 0.3 * losses[1]) / 1.3 + 0.7 * hinge
        torch.testing.assert_close(got.loss, expected)
    # Any other class: image 2 for row 0 (5) and image 1 for row 2 (4) are possible too.
    found = {
        tuple(step(generator=seeded(s), confused_class=False).negative_distance.tolist())
        for s in range(100)
    }
    assert found == {(a, b, c) for a in (2, 5) for b in (4, 5) for c in (2, 4)}


@pytest.mark.parametrize("confused_class", [True, False])
def test_at2l_equals_equation_2(confused_class):
    (model, other), batch = twins(seed=1), some_batch(labels=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1))
    options = {**AT2L, "confused_class": confused_class, "label_smoothing": 0.1}
    step = methods.at2l(model, batch, attack=shifted, **options, generator=seeded())
    clean = other(batch.images)
    attacked = other(shifted(None, batch.images, None))
    target = attacked.argmax(1) if confused_class else None
    index = reference.mine_negatives(
        attacked, clean, batch.labels, batch.labels,
        mining="random", target_labels=target, generator=seeded(),
    )[1]  # fmt: skip
    if confused_class:
        mistaken = target != batch.labels
        assert mistaken.sum() > 6
        assert torch.equal(batch.labels[index][mistaken], target[mistaken])
    near = (attacked - clean).abs().max(1).values
    far = (attacked - clean[index]).abs().max(1).values
    loss = smooth_cross_entropy(clean, batch.labels, 0.1)
    loss = (loss + 0.3 * smooth_cross_entropy(attacked, batch.labels, 0.1)) / 1.3
    torch.testing.assert_close(step.positive_distance, near.detach())
    torch.testing.assert_close(step.negative_distance, far.detach())
    assert_same(step, model, loss + 0.7 * F.relu(near - far + 1.5).mean(), other)


def test_at2l_in_a_batch_of_one_class():
    model, batch = small().eval(), some_batch(labels=(2, 2))
    step = methods.at2l(model, batch, attack=shifted, **AT2L)
    clean = F.cross_entropy(model(batch.images), batch.labels)
    attacked = F.cross_entropy(model(shifted(None, batch.images, None)), batch.labels)
    torch.testing.assert_close(step.loss, (clean + 0.3 * attacked) / 1.3)
    assert torch.isinf(step.negative_distance).all()


# all of them

ATTACK = partial(pgd, epsilon=Fraction(3, 16), step=Fraction(1, 16), steps=2)
ALL = {
    "um": {},
    "at": {"attack": ATTACK},
    "alp": {"attack": ATTACK},
    "trades": {"attack": ATTACK},
    "tla": {"attack": ATTACK, **TLA, "source_positive": True, "noise": NOISE},
    "tla_rn": {"attack": ATTACK, **TLA, "source_positive": True, "noise": NOISE},
    "tla_sa": {"attack": ATTACK, **TLA, "noise": NOISE},
    "at2l": {"attack": ATTACK, **AT2L},
    "tla with a bank": {"attack": ATTACK, **TLA, "source_positive": True, "noise": NOISE},
    "tla_sa with a bank": {"attack": ATTACK, **TLA, "noise": NOISE},
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_two_images_train(name, autocast):
    (model, before), batch = twins(), some_batch(labels=(0, 1))
    options = dict(ALL[name])
    if "bank" in name:
        options["bank"] = filled_bank(copy.deepcopy(model), batch, torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            step = getattr(methods, name.split()[0])(model, batch, **options, label_smoothing=0.1)
        assert step.loss.dtype == torch.float32
        assert step.loss.ndim == 0
        for distance in step[1:3]:
            assert distance is None or (distance.shape == (2,) and not distance.requires_grad)
        step.loss.backward()
        if step.features is not None:
            options["bank"].enqueue(*step.features)
        optimizer.step()
        assert torch.isfinite(step.loss)
        for parameter, (key, old) in zip(
            model.parameters(), before.named_parameters(), strict=True
        ):
            assert torch.isfinite(parameter.grad).all(), key
            assert not torch.equal(parameter, old), key
    assert model.training


@pytest.mark.parametrize("name", ALL)
def test_autocast_changes_the_loss_by_its_rounding_alone(name):
    batch = some_batch()
    losses = []
    for autocast in (False, True):
        model, _ = twins()
        options = dict(ALL[name])
        if "attack" in options:  # sign steps on rounded gradients would be other images
            options["attack"] = shifted
        if "tla_rn" in name or "at2l" in name or "noise" in options:
            options["generator"] = seeded()
        if name == "at2l":
            options["confused_class"] = False  # a prediction that flips draws another image
        if "bank" in name:
            options["bank"] = filled_bank(copy.deepcopy(model), batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses.append(getattr(methods, name.split()[0])(model, batch, **options).loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("name", ALL)
def test_nothing_waits_for_the_device(name):
    (model, _), batch = twins(), some_batch()
    options = dict(ALL[name])
    if "bank" in name:
        options["bank"] = filled_bank(copy.deepcopy(model), batch)
    with NoWaiting():
        getattr(methods, name.split()[0])(model, batch, **options).loss.backward()


def test_bad_arguments():
    (model, _), batch = twins(), some_batch()
    tla = partial(methods.tla, model, attack=shifted, **TLA)
    with pytest.raises(ValueError, match="noise must be 0 where source_positive is False"):
        tla(batch, noise=NOISE)
    with pytest.raises(ValueError, match="noise must not be negative, got -1/10"):
        tla(batch, source_positive=True, noise=-NOISE)
    empty = batch._replace(candidates=batch.candidates[:0], candidate_labels=batch.labels[:0])
    for method in (methods.tla, methods.tla_rn, methods.tla_sa):
        with pytest.raises(ValueError, match="batch must have candidates"):
            method(model, empty, attack=shifted, **TLA)
    assert torch.isfinite(tla(empty, bank=FeatureBank(4, 128)).loss)


def test_an_anchor_is_active_if_any_of_its_hinges_is():
    details = TripletLossDetails(
        torch.tensor(0.0),
        torch.tensor([0, 1, -1]),
        torch.tensor([[0.5, 0.0], [0.1, 0.0], [0.5, 0.5]]),
        torch.tensor([0.3, 0.3, torch.inf]),
    )
    assert steps.active_hinges(details, 0.03).tolist() == [True, False, False]
