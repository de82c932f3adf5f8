"""Attacks: balls, modes, gradients, restarts, early stops, and what each one's paper says."""

from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tla_ops.training import attacks, methods
from tla_ops.training.attacks import (
    bim,
    cw_linf,
    fgsm,
    ill,
    in_batches,
    ll,
    mim,
    model_mode,
    pgd,
    pgd_kl,
    transfer,
)
from tla_ops.training.evaluate import accuracy
from tla_ops.training.models import small

EPSILON, STEP = Fraction(3, 16), Fraction(1, 16)
BUDGET = {"epsilon": EPSILON, "step": STEP}
ATTACK = partial(pgd, **BUDGET)
LABELS = torch.arange(12) % 10

# Every attack, with the radius of its ball and the ball's norm.
EVERY = {
    "fgsm": partial(fgsm, epsilon=EPSILON),
    "ll": partial(ll, epsilon=EPSILON),
    "bim": partial(bim, **BUDGET, steps=3),
    "bim l2": partial(bim, epsilon=Fraction(1), step=Fraction(1, 3), steps=4, norm="l2"),
    "mim": partial(mim, **BUDGET, steps=3),
    "ill": partial(ill, **BUDGET, steps=3),
    "pgd": partial(pgd, **BUDGET, steps=3),
    "pgd restarts": partial(pgd, **BUDGET, steps=2, restarts=2),
    "pgd early stop": partial(pgd, **BUDGET, steps=2, restarts=2, early_stop=True),
    "pgd l2": partial(pgd, epsilon=Fraction(1), step=Fraction(1, 3), steps=4, norm="l2"),
    "cw_linf": partial(cw_linf, **BUDGET, steps=3),
    "pgd_kl": partial(pgd_kl, **BUDGET, steps=3),
}
DETERMINISTIC = ["fgsm", "ll", "bim", "bim l2", "mim", "ill"]
FIXED = [name for name in EVERY if name != "pgd early stop"]
every_attack = pytest.mark.parametrize("name", EVERY)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def splits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from digits import digits

    return digits()


def train(model, splits):
    """One undefended epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for batch in splits.train.batches(50, 0, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        methods.um(model, batch).loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def trained(splits):
    torch.manual_seed(0)
    return train(small(), splits)


def some_images(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=generator)


def linear(features, classes, dtype=torch.float32, seed=0):
    """Logits that are linear in the pixels, of images of any shape."""
    layer = nn.Linear(features, classes, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, features, generator=generator))
    return nn.Sequential(nn.Flatten(), layer)


def mistaken(model, images, labels):
    with torch.no_grad(), model_mode(model, "eval"):
        return model(images).argmax(1) != labels


def assert_within(adversarial, images, name):
    """Range exactly; the ball up to the rounding of one addition a pixel."""
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    assert not adversarial.requires_grad
    assert not adversarial.is_inference()
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    moved = (adversarial.double() - images.double()).flatten(1)
    rounding = torch.finfo(images.dtype).eps
    if name.endswith("l2"):
        assert (moved.norm(dim=1) <= 1 + rounding * (2 + moved.shape[1])).all()
    else:
        assert (moved.abs() <= float(EPSILON) + rounding).all()


# the ball


@every_attack
@settings(max_examples=12)
@given(data=st.data())
def test_the_ball_and_the_range_hold(name, data):
    batch = data.draw(st.integers(1, 5), label="batch")
    shape = data.draw(st.sampled_from([(1,), (7,), (3, 2), (1, 8, 8), (3, 5, 1)]), label="shape")
    classes = data.draw(st.integers(1, 4), label="classes")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), label="dtype")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999), label="seed"))
    images = torch.rand(batch, *shape, dtype=dtype, generator=generator)
    edges = torch.rand(images.shape, generator=generator)
    images[edges < 0.2], images[edges > 0.8] = 0, 1
    labels = torch.randint(classes, (batch,), generator=generator)
    model = linear(images[0].numel(), classes, dtype)
    assert_within(EVERY[name](model, images, labels), images, name)


@every_attack
def test_a_network_is_attacked_within_the_ball(name):
    images = torch.cat([some_images(), torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)])
    model = small().eval()
    labels = model(images).argmax(1)  # all of them right, so that early stops move them too
    adversarial = EVERY[name](model, images, labels)
    assert_within(adversarial, images, name)
    # No gradient reaches a black image through ReLUs that stand at zero.
    assert ((adversarial != images).flatten(1).any(1))[:12].all()


@every_attack
def test_nothing_moves_without_a_budget(name):
    options = {"epsilon": Fraction(0)}
    images = some_images()
    assert torch.equal(EVERY[name](small(), images, LABELS, **options), images)


@pytest.mark.parametrize("name", ["bim l2", "pgd l2"])
def test_a_zero_gradient_moves_nothing_and_a_tiny_one_a_whole_step(name):
    images = some_images() * 0.5 + 0.25
    attack = partial(bim, epsilon=Fraction(1), step=Fraction(1, 4), steps=1, norm="l2")

    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.layer, self.scale = linear(64, 10), scale

        def forward(self, images):
            return self.layer(images) * self.scale

    torch.testing.assert_close(attack(Scaled(0.0), images, LABELS), images, rtol=0, atol=0)
    # Squares of 1e-30 are zero in float32.
    moved = attack(Scaled(1e-30), images, LABELS) - images
    assert moved.flatten(1).norm(dim=1) == pytest.approx(torch.full((12,), 0.25), rel=1e-5)
    assert torch.isfinite(EVERY[name](Scaled(0.0), images, LABELS)).all()


def test_random_starts_are_uniform_in_the_ball():
    inside = torch.full((4000, 3), 0.5)
    model, labels = linear(3, 2), torch.zeros(4000, dtype=torch.long)

    def starts(norm):
        options = {"epsilon": Fraction(1, 4), "step": Fraction(0), "steps": 0, "norm": norm}
        return (pgd(model, inside, labels, **options) - inside) * 4

    # Standard errors of the shares below are at most 0.008.
    for radius in (0.3, 0.5, 0.8):
        share = (starts("l2").norm(dim=1) <= radius).double().mean().item()
        assert share == pytest.approx(radius**3, abs=0.03)
        share = (starts("linf").abs() <= radius).double().mean().item()
        assert share == pytest.approx(radius, abs=0.03)
    assert starts("l2").mean(0).abs().max() < 0.03


# what each attack does, on its paper's own terms


def gradient_of(loss, images):
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


@pytest.mark.parametrize("name", ["fgsm", "ll", "pgd", "mim", "cw_linf", "pgd_kl"])
def test_the_first_step_is_along_its_own_gradient(name):
    # float64: of a gradient that is nearly zero, float32's sign is a matter of the order of sums.
    model, images = small().double().eval(), some_images().double() * 0.5 + 0.25
    clean = model(images).detach()
    options = {"fgsm": {}, "ll": {}, "pgd_kl": {"generator": torch.Generator().manual_seed(3)}}
    if name in ("pgd", "cw_linf"):
        options[name] = {"random_start": False}
    start, length = images, EPSILON
    if name not in ("fgsm", "ll"):
        options.setdefault(name, {})
        options[name] |= {"step": STEP, "steps": 1}
        length = STEP
    if name == "pgd_kl":
        generator = torch.Generator().manual_seed(3)
        start = images + 0.001 * torch.randn(images.shape, dtype=images.dtype, generator=generator)

    def loss(leaf):
        logits = model(leaf)
        if name == "ll":
            return -F.cross_entropy(logits, clean.argmin(1))
        if name == "pgd_kl":
            wanted = clean.log_softmax(1)
            return (wanted.exp() * (wanted - logits.log_softmax(1))).sum()
        if name == "cw_linf":
            correct = logits[torch.arange(12), LABELS]
            wrong = (logits - 1e4 * F.one_hot(LABELS, 10)).amax(1)
            return -F.relu(correct - wrong + 50).sum()
        return F.cross_entropy(logits, LABELS)

    expected = start + float(length) * gradient_of(loss, start).sign()
    adversarial = getattr(attacks, name)(model, images, LABELS, epsilon=EPSILON, **options[name])
    torch.testing.assert_close(adversarial, expected)


def test_cw_linf_leaves_images_alone_that_are_wrong_by_more_than_the_confidence():
    model, images = linear(64, 10), some_images()
    margin = model(images).detach()
    labels = margin.argmin(1)
    lead = margin.amax(1) - margin.amin(1)
    threshold = lead.median().item()
    adversarial = cw_linf(
        *(model, images, labels), **BUDGET, steps=1, random_start=False, confidence=threshold - 1e-3
    )
    moved = (adversarial != images).flatten(1).any(1)
    assert torch.equal(moved, lead < threshold - 1e-3)
    assert 0 < moved.sum() < 12


def test_mim_follows_the_velocity():
    model, images = small().double().eval(), some_images().double() * 0.5 + 0.25
    velocity, expected = torch.zeros_like(images), images
    for _ in range(4):
        gradient = gradient_of(lambda leaf: F.cross_entropy(model(leaf), LABELS), expected)
        velocity = 0.7 * velocity + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        expected = expected + float(STEP) * velocity.sign()
        expected = expected.clamp(images - float(EPSILON), images + float(EPSILON)).clamp(0, 1)
    torch.testing.assert_close(mim(model, images, LABELS, **BUDGET, steps=4, decay=0.7), expected)
    without = mim(model, images, LABELS, **BUDGET, steps=4, decay=0)
    assert torch.equal(without, bim(model, images, LABELS, **BUDGET, steps=4))
    assert not torch.equal(without, expected)


def test_least_likely_class_gains_and_labels_do_not_matter(trained, splits):
    images, labels = splits.validation.images[:100], splits.validation.labels[:100]
    with torch.no_grad(), model_mode(trained, "eval"):
        target = trained(images).argmin(1)
        before = F.cross_entropy(trained(images), target)
        for attack in (EVERY["ll"], EVERY["ill"]):
            adversarial = attack(trained, images, labels)
            assert F.cross_entropy(trained(adversarial), target) < before - 1
            assert torch.equal(adversarial, attack(trained, images, labels.flip(0)))


def test_pgd_kl_increases_the_divergence(trained, splits):
    images, labels = splits.validation.images[:100], splits.validation.labels[:100]
    adversarial = EVERY["pgd_kl"](trained, images, labels)
    noise = float(EPSILON) * torch.rand(images.shape).sub(0.5).sign()
    with torch.no_grad(), model_mode(trained, "eval"):
        clean = trained(images).softmax(1)
        found, other = (
            F.kl_div(trained(x.clamp(0, 1)).log_softmax(1), clean, reduction="batchmean")
            for x in (adversarial, images + noise)
        )
    assert found > 3 * other


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("ll", "ill")])
def test_every_attack_lowers_accuracy(trained, splits, name):
    images, labels = splits.validation.images, splits.validation.labels
    clean = accuracy(trained, images, labels)
    assert clean > 0.8
    attacked = accuracy(trained, EVERY[name](trained, images, labels), labels)
    assert attacked < clean - 0.15


# restarts and early stops


@settings(max_examples=20)
@given(seed=st.integers(0, 999), restarts=st.integers(2, 4), norm=st.sampled_from(["linf", "l2"]))
def test_restarts_are_never_weaker_for_any_image(seed, restarts, norm):
    images = some_images(40, seed).double()
    model = small().double().eval()
    labels = model(images).argmax(1)
    options = {"norm": norm, "steps": 1, "epsilon": Fraction(1, 16)}

    def margins(count):
        generator = torch.Generator().manual_seed(seed)
        adversarial = ATTACK(
            *(model, images, labels), **options, restarts=count, generator=generator
        )
        with torch.no_grad():
            logits = model(adversarial)
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        return others - logits.gather(1, labels[:, None])[:, 0]

    # The first of several restarts draws what the only one draws.
    assert (margins(restarts) >= margins(1)).all()


@pytest.mark.parametrize("attack", [pgd, cw_linf])
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("random_start", [True, False])
def test_early_stop_fools_the_model_wherever_the_whole_run_does(
    trained, splits, attack, restarts, random_start
):
    # In float64 the batch's size, which early stops change, rounds no sign over.
    images, labels = splits.validation.images.double(), splits.validation.labels
    model = small().double()
    model.load_state_dict(trained.state_dict())
    clean = mistaken(model, images, labels)

    def run(early_stop):
        return attack(
            *(model, images, labels),
            **{"epsilon": Fraction(1, 12), "step": Fraction(1, 40), "steps": 4},
            **{"restarts": restarts, "random_start": random_start, "early_stop": early_stop},
            generator=torch.Generator().manual_seed(5),
        )

    early, whole = run(True), run(False)
    fooled, needed = mistaken(model, early, labels), mistaken(model, whole, labels)
    assert (fooled | ~needed).all()
    assert clean.sum() < needed.sum() < len(labels)
    assert clean.any()
    assert torch.equal(early[clean], images[clean])
    assert (early != images).flatten(1).any(1)[~clean].all()
    assert not torch.equal(early[fooled], whole[fooled])


def test_early_stop_forwards_only_what_still_stands(trained, splits):
    images, labels = splits.validation.images, splits.validation.labels
    sizes = []
    handle = trained.register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    ATTACK(trained, images, labels, steps=5, restarts=2, early_stop=True)
    handle.remove()
    # The clean images; five steps; whom the first run fooled; and so on for those it did not.
    first, steps, check, second = sizes[0], sizes[1:6], sizes[6], sizes[7]
    assert first == len(labels)
    assert steps == sorted(steps, reverse=True)
    assert len(labels) > steps[0] == check > steps[-1] >= second > 0


def test_early_stop_with_nobody_standing():
    model, images = small().eval(), some_images()
    labels = model(images).argmin(1)
    assert torch.equal(ATTACK(model, images, labels, steps=3, early_stop=True), images)
    labels = model(images).argmax(1)
    sizes = []
    handle = model.register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    adversarial = ATTACK(
        *(model, images, labels), epsilon=Fraction(1), step=Fraction(1), steps=50, early_stop=True
    )
    handle.remove()
    assert mistaken(model, adversarial, labels).all()
    assert len(sizes) < 50
    assert min(sizes) > 0


def test_pgd_repeats_with_its_generator():
    model = small()

    def attack(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return ATTACK(model, some_images(), LABELS, steps=2, generator=generator, **options)

    for options in ({"restarts": 2}, {"norm": "l2"}, {"early_stop": True}):
        assert torch.equal(attack(1, **options), attack(1, **options))
    assert not torch.equal(attack(1), attack(2))


# what an attack must leave alone


@pytest.mark.parametrize(
    ("name", "mode"), [(name, "eval") for name in EVERY] + [(name, "train") for name in FIXED]
)
def test_each_modules_mode_is_explicit_and_restored(name, mode):
    model = small().train()
    model.body[1].eval()
    before = [module.training for module in model.modules()]
    seen = []
    handle = model.body[4].register_forward_hook(lambda module, *_: seen.append(module.training))
    EVERY[name](model, some_images(), LABELS, mode=mode)
    handle.remove()
    assert set(seen) == {mode == "train"}
    assert [module.training for module in model.modules()] == before


class Recorder(TorchDispatchMode):
    """What runs below autograd: each operator's name, its first tensor's types, and the outputs
    asked of convolutions' backwards.
    """

    def __init__(self):
        super().__init__()
        self.names, self.dtypes, self.masks = set(), {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        if args and isinstance(args[0], torch.Tensor):
            self.dtypes.setdefault(function.name(), set()).add(args[0].dtype)
        if function is torch.ops.aten.convolution_backward.default:
            self.masks.add(tuple(args[-1]))
        masks = [part for part in args[1] if part is not None] if "index" in function.name() else []
        if any(part.dtype is torch.bool for part in masks):
            self.names.add("boolean index")
        return function(*args, **(kwargs or {}))


HOST_WAITS = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select"),
    *("aten::equal", "boolean index"),
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_attack_never_waits_and_computes_no_weights_gradient(name, mode):
    model = small()
    with Recorder() as record:
        EVERY[name](model, some_images(), LABELS, mode=mode)
    assert not record.names & HOST_WAITS
    assert record.masks == {(True, False, False)}
    assert all(value.requires_grad and value.grad is None for value in model.parameters())


def test_the_recorder_sees_waits_and_weights_gradients():
    model = small()
    with Recorder() as record:
        EVERY["pgd early stop"](model, some_images(), model.eval()(some_images()).argmax(1))
        model(some_images()).sum().backward()
        assert some_images()[some_images() > 0.5].numel()
        assert some_images().sum().item() > 0
    assert {"aten::nonzero", "aten::_local_scalar_dense", "boolean index"} <= record.names
    assert any(mask[1] for mask in record.masks)


@every_attack
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_and_statistics_are_left_alone_whatever_the_caller_is_under(name, around):
    model = small().train()
    kept = torch.full_like(model.head.weight, 7.0)
    model.head.weight.grad = kept
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    with around():
        images, labels = some_images() + 0, LABELS + 0
        inside = EVERY[name](model, images, labels)
        assert torch.is_grad_enabled() is False
    assert_within(inside, some_images(), name)
    if name in DETERMINISTIC:
        assert torch.equal(inside, EVERY[name](model, some_images(), LABELS))
    assert model.head.weight.grad is kept
    assert (kept == 7).all()
    others = [value for key, value in model.named_parameters() if key != "head.weight"]
    assert all(value.grad is None and value.requires_grad for value in others)
    for key, value in model.named_buffers():
        assert torch.equal(value, buffers[key])


def test_a_model_of_frozen_parameters_and_images_with_a_graph():
    model = small().requires_grad_(False)
    images = some_images().requires_grad_()
    adversarial = EVERY["bim"](model, images * 1, LABELS.int())
    assert torch.equal(adversarial, EVERY["bim"](model, some_images(), LABELS))


@every_attack
def test_autocast_keeps_images_in_float32(trained, splits, name):
    images, labels = splits.validation.images[:100], splits.validation.labels[:100]
    seen = set()
    handle = trained.head.register_forward_hook(lambda module, _, out: seen.add(out.dtype))
    trained.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        adversarial = EVERY[name](trained, images, labels)
        # A weight that autocast rounded inside the attack still learns outside.
        F.cross_entropy(trained.eval()(adversarial), labels).backward()
    handle.remove()
    assert seen == {torch.bfloat16}
    assert_within(adversarial, images, name)
    assert all(value.grad.abs().sum() > 0 for value in trained.parameters())
    trained.zero_grad()
    if name not in ("ll", "ill"):
        assert accuracy(trained, adversarial, labels) < accuracy(trained, images, labels) - 0.1


@pytest.mark.parametrize("name", [name for name in EVERY if "l2" not in name])
def test_losses_are_taken_in_float32(name):
    """A network of bfloat16 logits: what differentiates them gets them as float32."""

    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear(64, 10)

        def forward(self, images):
            return self.inner(images).bfloat16()

    model, images = Rounded(), some_images()
    labels = model(images).argmax(1)
    with Recorder() as record:
        EVERY[name](model, images, labels)
    losses = {"aten::_log_softmax", "aten::amax"} & set(record.dtypes)
    assert losses
    assert all(record.dtypes[loss] == {torch.float32} for loss in losses)


# other models, and slices


def test_transfer_attacks_the_source(trained, splits):
    """A victim whose gradient is masked moves by nothing itself, and falls for another's images."""
    images, labels = splits.validation.images, splits.validation.labels
    torch.manual_seed(1)
    source = train(small(), splits)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = trained

        def forward(self, images):
            return self.inner((images * 16).round() / 16)

    victim, attack = Masked(), EVERY["bim"]
    assert torch.equal(attack(victim, images, labels), images)
    adversarial = transfer(victim, images, labels, source=source, attack=attack)
    assert torch.equal(adversarial, attack(source, images, labels))
    assert accuracy(victim, adversarial, labels) < accuracy(victim, images, labels) - 0.2


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_in_batches_equals_the_whole(name, size):
    images, model = some_images().double(), small().double()
    sizes = []
    handle = model.register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    adversarial = in_batches(EVERY[name], size)(model, images, LABELS)
    handle.remove()
    torch.testing.assert_close(adversarial, EVERY[name](model, images, LABELS))
    assert max(sizes) == min(size, 12)


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": Fraction(-1, 8)}, "pgd: epsilon must be at least 0, got -1/8"),
        ({"step": Fraction(-1, 8)}, "pgd: step must be at least 0, got -1/8"),
        ({"epsilon": float("nan")}, "pgd: epsilon must be at least 0, got nan"),
        ({"steps": -1}, "pgd: steps must be at least 0, got -1"),
        ({"restarts": 0}, "pgd: restarts must be at least 1, got 0"),
        ({"norm": "l1"}, "pgd: norm must be one of 'linf', 'l2', got 'l1'"),
        ({"mode": "test"}, "model_mode: mode must be 'train' or 'eval', got 'test'"),
        (
            {"mode": "train", "early_stop": True},
            "pgd: mode must be 'eval' with early_stop, got 'train'",
        ),
    ],
)
def test_pgd_bad_options(options, message):
    with pytest.raises(ValueError) as raised:
        pgd(small(), some_images(), LABELS, **(BUDGET | {"steps": 1} | options))
    assert str(raised.value) == message


@every_attack
def test_each_attack_names_itself(name):
    with pytest.raises(ValueError, match=f"^{name.split()[0]}: epsilon must be at least 0"):
        EVERY[name](small(), some_images(), LABELS, epsilon=Fraction(-1))


def test_other_bad_options():
    with pytest.raises(ValueError, match="in_batches: size must be at least 1, got 0"):
        in_batches(EVERY["fgsm"], 0)
    with pytest.raises(ValueError, match="cw_linf: confidence must be finite, got inf"):
        EVERY["cw_linf"](small(), some_images(), LABELS, confidence=float("inf"))
    with pytest.raises(TypeError, match="mim: decay must be a number, got NoneType"):
        EVERY["mim"](small(), some_images(), LABELS, decay=None)
    with pytest.raises(ValueError, match="'train' or 'eval'"), model_mode(small(), "test"):
        pass
