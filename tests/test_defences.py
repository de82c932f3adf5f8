"""Thermometer codes with the attack on them, and random resizing and padding."""

import copy
import math
from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from waiting import NoWaiting

from tla_ops.training import methods
from tla_ops.training.attacks import fgsm, model_mode, pgd
from tla_ops.training.defences import (
    RandomResizePad,
    ThermometerEncoding,
    behind,
    ls_pga,
    resize_and_pad,
)
from tla_ops.training.evaluate import accuracy
from tla_ops.training.models import build

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = 8
EPSILON = Fraction(3, 16)
LABELS = torch.arange(12) % 10
ATTACK = partial(ls_pga, epsilon=EPSILON, steps=4, levels=LEVELS)


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def some_images(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape or (12, 1, 8, 8), generator=seeded(seed), dtype=dtype)


def encoded(levels=LEVELS):
    network = build("small", 10, (levels, 8, 8))
    return behind(ThermometerEncoding(levels, 1), network, (1, 8, 8))


@pytest.fixture(scope="module")
def splits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from digits import digits

    return digits()


@pytest.fixture(scope="module")
def trained(splits):
    """One undefended epoch of a network on codes."""
    torch.manual_seed(0)
    model = encoded()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for batch in splits.train.batches(50, 0, seeded(0)):
        optimizer.zero_grad()
        methods.um(model, batch).loss.backward()
        optimizer.step()
    return model.eval()


# thermometer codes


def test_codes_of_the_papers_table_1():
    encoding = ThermometerEncoding(levels=10, channels=1)
    codes = encoding(torch.tensor([0.13, 0.66, 0.92]).view(3, 1, 1, 1)).flatten(1).int()
    assert ["".join(map(str, code)) for code in codes.tolist()] == [
        "0111111111",
        "0000001111",
        "0000000001",
    ]


@pytest.mark.parametrize("levels", [2, 3, 5, 15, 16, 17, 51, 255, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_of_every_grey_are_exact(levels, dtype):
    greys = torch.arange(256).to(dtype) / 255
    codes = ThermometerEncoding(levels, 1)(greys.view(1, 1, 16, 16))
    assert codes.shape == (1, levels, 16, 16)
    assert codes.dtype == dtype
    for grey, code in enumerate(codes.flatten(2)[0].T.tolist()):
        bucket = max(1, math.ceil(Fraction(grey, 255) * levels))
        assert code == [0] * (bucket - 1) + [1] * (levels - bucket + 1), grey


def test_a_channels_levels_are_side_by_side():
    images = some_images(2, 3, 4, 5)
    codes = ThermometerEncoding(7, 3)(images)
    assert codes.shape == (2, 21, 4, 5)
    for channel in range(3):
        alone = ThermometerEncoding(7, 1)(images[:, channel : channel + 1])
        assert torch.equal(codes[:, 7 * channel : 7 * channel + 7], alone)
    assert torch.equal(ThermometerEncoding(7, 3)(codes), codes)
    with pytest.raises(ValueError, match=r"must have 3 channels, or codes 21, got \(2, 20, 4, 5\)"):
        ThermometerEncoding(7, 3)(codes[:, :20])


def test_pixels_outside_the_range_have_the_buckets_at_its_ends():
    images = torch.tensor([-0.5, 0.0, 1.0, 1.5]).view(4, 1, 1, 1)
    low, zero, one, high = ThermometerEncoding(4, 1)(images)
    assert torch.equal(low, zero)
    assert torch.equal(high, one)


def test_backward_takes_levels_for_ramps_about_their_bounds():
    images = some_images(2, 2, 3, 3, dtype=torch.float64)
    images[0, 0, 0] = torch.tensor([0.0, 1.0, 0.999])
    images.requires_grad_()
    encoding = ThermometerEncoding(4, 2)
    codes = encoding(images)
    assert set(codes.unique().tolist()) == {0, 1}
    assert torch.equal(codes, encoding(images.detach()))
    wanted = some_images(*codes.shape, seed=1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((codes * wanted).sum(), images)
    expected = torch.zeros_like(images)
    for place in torch.cartesian_prod(*map(torch.arange, images.shape)).tolist():
        b, c, i, j = place
        for level in range(1, 4):
            if abs(images[b, c, i, j] - level / 4) <= 1 / 4:
                expected[b, c, i, j] -= 2 * wanted[b, 4 * c + level - 1, i, j]
    torch.testing.assert_close(gradient, expected)
    assert (gradient != 0).all()


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, step=Fraction(1, 16), steps=4)])
def test_ordinary_attacks_find_a_direction(trained, splits, attack):
    images, labels = splits.validation.images, splits.validation.labels
    clean = accuracy(trained, images, labels)
    assert clean > 0.8
    adversarial = attack(trained, images, labels, epsilon=EPSILON)
    assert accuracy(trained, adversarial, labels) < clean - 0.15


def test_behind_is_one_classifier():
    network = build("small", 7, (24, 8, 8))
    model = behind(ThermometerEncoding(8, 3), network, [3, 8, 8]).eval()
    network.eval()
    images = some_images(2, 3, 8, 8)
    codes = model.body[0](images)
    assert model.image_shape == (3, 8, 8)
    assert model.head is network.head
    assert torch.equal(model.features(images), network.features(codes))
    assert torch.equal(model(images), network(codes))
    assert torch.equal(model(codes), network(codes))
    assert len(list(model.parameters())) == len(list(network.parameters()))


# LS-PGA


def linear_on_codes(channels, levels, pixels, dtype, seed=0):
    """Logits that are linear in the codes of images of that many pixels."""
    layer = nn.Linear(channels * levels * pixels, 4, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=seeded(seed)))
    return nn.Sequential(ThermometerEncoding(levels, channels), nn.Flatten(), layer)


@settings(max_examples=30)
@given(data=st.data())
def test_the_ball_and_the_codes_are_exact(data):
    levels = data.draw(st.sampled_from([2, 3, 8, 15, 16, 17]), label="levels")
    channels = data.draw(st.integers(1, 3), label="channels")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), label="dtype")
    epsilon = data.draw(st.sampled_from(["0", "1/255", "8/255", "1/15", "3/10", "1"]))
    seed = data.draw(st.integers(0, 999), label="seed")
    random_start = data.draw(st.booleans(), label="random_start")
    # Greys and bounds of buckets, where rounding would show.
    greys = torch.randint(256, (3, channels, 2, 3), generator=seeded(seed)).to(dtype) / 255
    edges = torch.randint(levels + 1, greys.shape, generator=seeded(seed)).to(dtype) / levels
    images = torch.where(some_images(*greys.shape, seed=seed) < 0.5, greys, edges)
    seen = []
    model = linear_on_codes(channels, levels, 6, dtype, seed)
    model[0].register_forward_hook(lambda _, inputs, out: seen.append(out))
    found = ls_pga(
        model, images, torch.tensor([0, 1, 3]), epsilon=Fraction(epsilon), steps=3, levels=levels,
        random_start=random_start, generator=seeded(seed),
    )  # fmt: skip
    assert found.dtype == dtype
    assert not found.requires_grad
    radius = float(Fraction(epsilon))
    low, high = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    assert ((found >= low) & (found <= high)).all()
    if epsilon == "0":
        assert torch.equal(found, images)
    # Every mixture the model saw has mass in buckets of the ball alone.
    encoding = ThermometerEncoding(levels, channels)
    least, most = encoding(high), encoding(low)
    assert len(seen) == 3
    for codes in seen:
        assert ((codes >= least - 1e-6) & (codes <= most + 1e-6)).all()
    # A pixel stays in its own bucket, or is in the middle of what the ball has of another.
    codes = encoding(found)
    same = (codes == encoding(images)).unflatten(1, (channels, levels)).all(2)
    assert torch.equal(found[same], images[same])
    moved = codes.unflatten(1, (channels, levels)).sum(2)
    top = ((levels + 1 - moved) / levels).to(dtype).minimum(high)
    bottom = ((levels - moved) / levels).to(dtype).maximum(low)
    torch.testing.assert_close(found[~same], ((bottom + top) / 2)[~same])


def test_every_bucket_of_the_ball_is_found():
    """A start without steps is a uniform bucket."""
    images = torch.full((4000, 1, 1, 1), 0.5)
    model = linear_on_codes(1, 10, 1, torch.float32)
    found = ls_pga(
        model, images, torch.zeros(4000).long(), epsilon=Fraction(1, 4), steps=0, levels=10
    )
    # Buckets 3 to 8 of 10: (.2, .3] has .25, and (.7, .8] .75.
    values, counts = found.unique(return_counts=True)
    middles = [0.275, 0.35, 0.5, 0.55, 0.65, 0.725]
    assert values.tolist() == pytest.approx(middles)
    assert (counts / 4000 - 1 / 6).abs().max() < 0.03  # five standard errors


@pytest.mark.parametrize("random_start", [True, False])
def test_steps_by_hand(random_start):
    """The algorithm pixel by pixel, in another form: one-hot mixtures, then their sums."""
    levels, dtype = 6, torch.float64
    images, labels = some_images(3, 2, 2, 2, dtype=dtype), torch.tensor([2, 0, 1])
    model = linear_on_codes(2, levels, 4, dtype)
    got = ls_pga(
        model, images, labels, epsilon=Fraction(1, 4), steps=5, levels=levels, step=0.4, anneal=1.5,
        random_start=random_start, generator=seeded(),
    )  # fmt: skip

    u = torch.zeros(3, 2, levels, 2, 2, dtype=dtype)
    if random_start:
        u = torch.randn(u.shape, dtype=dtype, generator=seeded())
    bucket = [(level / levels, (level + 1) / levels) for level in range(levels)]
    places = torch.cartesian_prod(*map(torch.arange, images.shape)).tolist()
    allowed = torch.zeros_like(u, dtype=torch.bool)
    for b, c, i, j in places:
        x = images[b, c, i, j].item()
        for level, (bottom, top) in enumerate(bucket):
            allowed[b, c, level, i, j] = max(x - 0.25, 0) <= top and min(x + 0.25, 1) > bottom
    temperature = 1.0
    for _ in range(5):
        u = u.requires_grad_()
        share = (u / temperature).exp() * allowed
        share = share / share.sum(2, keepdim=True)
        codes = torch.stack([share[:, :, : level + 1].sum(2) for level in range(levels)], 2)
        logits = model[2](codes.flatten(1))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), u)
        u = u.detach() + 0.4 * gradient.sign() * (gradient.abs() > 1e-15)
        temperature /= 1.5
    for b, c, i, j in places:
        choices = [level for level in range(levels) if allowed[b, c, level, i, j]]
        largest = max(u[b, c, level, i, j].item() for level in choices)
        best = [level for level in choices if u[b, c, level, i, j] == largest]
        x = images[b, c, i, j].item()
        own = math.ceil(x * levels) - 1
        picked = own if own in best else best[0]
        bottom, top = max(bucket[picked][0], x - 0.25, 0), min(bucket[picked][1], x + 0.25, 1)
        expected = x if picked == own else (bottom + top) / 2
        assert got[b, c, i, j].item() == pytest.approx(expected, abs=1e-12)


def cross_entropy_of(model, images, labels):
    with torch.no_grad(), model_mode(model, "eval"):
        return F.cross_entropy(model(images), labels).item()


def test_it_raises_the_loss_and_beats_random_buckets(trained, splits):
    images, labels = splits.validation.images, splits.validation.labels
    attack = partial(ATTACK, trained, images, labels, generator=seeded())
    clean = cross_entropy_of(trained, images, labels)
    random = cross_entropy_of(trained, attack(steps=0), labels)
    losses = [cross_entropy_of(trained, attack(steps=steps), labels) for steps in (1, 4, 10)]
    assert random > clean
    assert losses[0] > 1.5 * random
    assert losses[2] > losses[1] > losses[0]
    straight = attack(steps=10, random_start=False)
    assert cross_entropy_of(trained, straight, labels) > 2 * random
    found = accuracy(trained, attack(steps=10), labels)
    assert found < accuracy(trained, attack(steps=0), labels) - 0.15


def test_what_is_stored_in_bytes_has_the_codes_that_were_found():
    """As changes in units of a part of the radius, and as grey levels."""
    images = (some_images(6, 1, 8, 8) * 255).round() / 255
    model = linear_on_codes(1, 16, 64, torch.float32)
    found = ls_pga(model, images, LABELS[:6] % 4, epsilon=Fraction(3, 10), steps=10, levels=16)
    codes = ThermometerEncoding(16, 1)(found)
    unit = 0.3 / 120
    for stored in ((found * 255).round() / 255, images + ((found - images) / unit).round() * unit):
        differ = (ThermometerEncoding(16, 1)(stored) != codes).any(1)
        assert differ.double().mean() < 0.03
    assert (codes != ThermometerEncoding(16, 1)(images)).any(1).double().mean() > 0.5


def test_pixels_without_a_gradient_stay():
    images = some_images(2, 1, 4, 4)

    class Constant(nn.Module):
        def forward(self, codes):
            return codes.flatten(1)[:, :3] * 0

    found = ATTACK(Constant(), images, LABELS[:2], random_start=False)
    assert torch.equal(found, images)


def test_a_long_run_stays_in_the_ball():
    """1.2 to the power of its steps is more than float32 holds."""
    images, model = torch.full((2, 1, 2, 2), 0.5), linear_on_codes(1, LEVELS, 4, torch.float32)
    found = ATTACK(model, images, LABELS[:2], steps=600, random_start=False)
    assert (found != images).any()
    assert ((found - images).abs() <= float(EPSILON)).all()


def test_it_repeats_with_its_generator():
    model, images = encoded(), some_images()
    first = ATTACK(model, images, LABELS, generator=seeded(1))
    assert torch.equal(first, ATTACK(model, images, LABELS, generator=seeded(1)))
    assert not torch.equal(first, ATTACK(model, images, LABELS, generator=seeded(2)))
    turned = images.mT.contiguous().mT
    assert turned.stride() != images.stride()
    assert torch.equal(first, ATTACK(model, turned, LABELS, generator=seeded(1)))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_what_it_must_leave_alone(mode, around):
    model = encoded().train()
    model.body[1][1].eval()
    before = [module.training for module in model.modules()]
    buffers = copy.deepcopy(dict(model.named_buffers()))
    seen = []
    model.body[1][4].register_forward_hook(lambda module, *_: seen.append(module.training))
    with around():
        images = some_images() + 0
        with NoWaiting():
            found = ATTACK(model, images, LABELS + 0, mode=mode)
    assert not found.is_inference()
    assert set(seen) == {mode == "train"}
    assert [module.training for module in model.modules()] == before
    assert all(value.grad is None and value.requires_grad for value in model.parameters())
    same = [torch.equal(value, buffers[key]) for key, value in model.named_buffers()]
    assert all(same) == (mode == "eval")


def test_it_trains_a_method():
    model = encoded()
    batch = methods.Batch(some_images(), LABELS, some_images(), some_images(), LABELS)
    step = methods.at2l(model, batch, attack=ATTACK, adversarial_weight=0.3, weight=0.7, margin=1.5)
    step.loss.backward()
    assert all(value.grad.abs().sum() > 0 for value in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": Fraction(-1, 8)}, "ls_pga: epsilon must be at least 0, got -1/8"),
        ({"steps": -1}, "ls_pga: steps must be at least 0, got -1"),
        ({"levels": 1}, "ls_pga: levels must be at least 2, got 1"),
        ({"step": -0.5}, "ls_pga: step must be at least 0, got -0.5"),
        ({"anneal": 0}, "ls_pga: anneal must be positive, got 0"),
        ({"levels": 9}, r"images must have 1 channels, or codes 8, got \(12, 9, 8, 8\)"),
        ({"mode": "test"}, "mode must be 'train' or 'eval', got 'test'"),
    ],
)
def test_bad_options_of_the_attack(options, message):
    with pytest.raises(ValueError, match=message):
        ATTACK(encoded(), some_images(), LABELS, **options)


def test_bad_options_of_the_modules():
    with pytest.raises(ValueError, match="ThermometerEncoding: levels must be at least 2, got 1"):
        ThermometerEncoding(1)
    with pytest.raises(ValueError, match="ThermometerEncoding: channels must be at least 1, got 0"):
        ThermometerEncoding(4, 0)
    for smallest, side in ((0, 5), (5, 5)):
        with pytest.raises(ValueError, match=f"below side, got {smallest} and {side}"):
            RandomResizePad(smallest, side)
    with pytest.raises(TypeError, match="RandomResizePad: value must be a number, got str"):
        RandomResizePad(2, 5, "0")


# random resizing and padding


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(3, 6, 6), (1, 5, 9)])
def test_resize_and_pad_are_torchs(shape, value):
    side = 11
    patterns = [(s, t, x) for s in range(1, side + 1) for t in (0, side - s) for x in (0, side - s)]
    images = some_images(len(patterns), *shape)
    got = resize_and_pad(images, *torch.tensor(patterns).T, side=side, value=value)
    assert got.shape == (len(patterns), shape[0], side, side)
    for image, result, (size, top, left) in zip(images, got, patterns, strict=True):
        resized = F.interpolate(image[None], (size, size), mode="nearest")
        edges = (left, side - size - left, top, side - size - top)
        assert torch.equal(result, F.pad(resized, edges, value=value)[0]), (size, top, left)


def pattern_of(result):
    """Side and corner of what is not padding."""
    rows = result.any(1).nonzero()[:, 0]
    columns = result.any(0).nonzero()[:, 0]
    assert rows[-1] - rows[0] == columns[-1] - columns[0] == len(rows) - 1
    return len(rows), int(rows[0]), int(columns[0])


@pytest.mark.parametrize("training", [True, False])
def test_patterns_are_uniform_in_training_and_evaluation(training):
    count = 9000
    defence = RandomResizePad(3, 6, generator=seeded()).train(training)
    results = defence(torch.ones(count, 1, 4, 4))
    assert results.shape == (count, 1, 6, 6)
    counts = {}
    for result in results[:, 0]:
        pattern = pattern_of(result)
        counts[pattern] = counts.get(pattern, 0) + 1
    # 16, 9 and 4 places for the sides 3, 4 and 5, which are equally likely.
    assert set(counts) == {
        (size, top, left)
        for size in (3, 4, 5)
        for top in range(7 - size)
        for left in range(7 - size)
    }
    for (size, _, _), seen in counts.items():
        share = 1 / 3 / (7 - size) ** 2
        deviation = math.sqrt(share * (1 - share) / count)
        assert seen / count == pytest.approx(share, abs=4.5 * deviation)


def test_every_call_draws_anew_and_repeats_with_its_generator():
    images = some_images(4, 2, 7, 7)
    defence = RandomResizePad(8, 12, generator=seeded(1)).eval()
    twin = copy.deepcopy(defence)
    first = defence(images)
    assert not torch.equal(first, defence(images))
    assert torch.equal(first, twin(images))
    torch.manual_seed(3)
    default = RandomResizePad(8, 12)
    first = default(images)
    torch.manual_seed(3)
    assert torch.equal(first, default(images))
    torch.manual_seed(3)
    grey = RandomResizePad(8, 12, value=0.5)(images)
    assert torch.equal(grey, torch.where(first == 0, 0.5, first))


def test_gradients_go_to_the_pixels_that_are_shown():
    images = some_images(2, 1, 3, 3).requires_grad_()
    result = resize_and_pad(
        images, torch.tensor([6, 2]), torch.tensor([0, 3]), torch.tensor([1, 4]), side=7
    )
    result.sum().backward()
    assert torch.equal(images.grad[0, 0], torch.full((3, 3), 4.0))
    assert torch.equal(images.grad[1, 0], torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]))


def test_what_does_not_fit_is_cut_off():
    images = some_images(1, 1, 2, 2)
    result = resize_and_pad(
        images, torch.tensor([2]), torch.tensor([-1]), torch.tensor([2]), side=3, value=9.0
    )
    expected = torch.full((3, 3), 9.0)
    expected[0, 2] = images[0, 0, 1, 0]
    assert torch.equal(result[0, 0], expected)


def test_a_classifier_behind_it_is_attacked_and_trained():
    network = build("small", 10, (1, 10, 10))
    model = behind(RandomResizePad(8, 10, generator=seeded()), network, (1, 8, 8))
    images = some_images()
    with NoWaiting():
        found = pgd(model, images, LABELS, epsilon=EPSILON, step=EPSILON / 2, steps=3)
    assert found.shape == images.shape
    assert (found != images).any()
    model.eval()
    assert not torch.equal(model(images), model(images))
    methods.um(model, methods.Batch(images, LABELS, images, images, LABELS)).loss.backward()
    assert all(value.grad is not None for value in model.parameters())
