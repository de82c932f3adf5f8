"""The gradient attacks together: what they share, and that they are those of attacks.py."""

from fractions import Fraction
from functools import partial
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from waiting import NoWaiting

from tla_ops.training import attacks
from tla_ops.training.family import KINDS, gradient_family
from tla_ops.training.models import build, small

EPSILON, STEP = Fraction(3, 10), Fraction(3, 100)
LABELS = torch.arange(12) % 10
SUBSETS = [kinds for count in range(5) for kinds in combinations(KINDS, count)]

pytestmark = pytest.mark.usefixtures("one_thread")


def some_images(shape=(1, 8, 8), count=12):
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 1
    return images


def alone(kind, model, images, labels, *, steps, epsilon=EPSILON, step=STEP, mode="eval"):
    options = {"epsilon": epsilon, "mode": mode}
    if kind in ("bim", "ill"):
        options |= {"step": step, "steps": steps}
    return getattr(attacks, kind)(model, images, labels, **options)


def together(model, images, labels, *, steps, **options):
    options = {"epsilon": EPSILON, "step": STEP} | options
    return gradient_family(model, images, labels, steps=steps, **options)


def passes(model, call):
    """Sizes of the batches that the model forwards."""
    sizes = []
    handle = model.register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    call()
    handle.remove()
    return sizes


def same(ours, theirs):
    if ours.is_cuda:  # where a gradient near 0 need not repeat
        return (ours != theirs).double().mean() < 0.02
    return torch.equal(ours, theirs)


# the attacks' own images


@pytest.mark.parametrize("steps", [0, 1, 2, 10])
@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_each_kind_is_the_attack_alone(kinds, steps, device):
    model = small().to(device)
    images, labels = some_images().to(device), LABELS.to(device)
    made = together(model, images, labels, kinds=kinds, steps=steps)
    assert tuple(made) == kinds
    for kind, adversarial in made.items():
        assert same(adversarial, alone(kind, model, images, labels, steps=steps))


@pytest.mark.parametrize("name", ["mnist_a", "mnist_c", "mnist_d"])
def test_the_papers_networks(name):
    model, images = build(name, 10, (1, 28, 28)), some_images((1, 28, 28), 4)
    made = together(model, images, LABELS[:4], steps=2)
    for kind in KINDS:
        assert torch.equal(made[kind], alone(kind, model, images, LABELS[:4], steps=2))
    assert len({made[kind].sum().item() for kind in KINDS}) == 4


@pytest.mark.parametrize(
    "options", [{"epsilon": Fraction(0)}, {"step": Fraction(0)}, {"step": Fraction(1)}]
)
def test_any_radius_and_step(options):
    model, images = small(), some_images()
    for kind, adversarial in together(model, images, LABELS, steps=3, **options).items():
        expected = alone(kind, model, images, LABELS, steps=3, **options)
        assert torch.equal(adversarial, expected)


def test_the_ball_and_the_range_hold():
    images = some_images()
    for adversarial in together(small(), images, LABELS, steps=12).values():
        assert ((adversarial >= 0) & (adversarial <= 1)).all()
        assert (adversarial - images).abs().max() <= float(EPSILON) + 1e-7
        assert not adversarial.requires_grad


def test_double_precision_and_small_labels():
    model, images = small().double(), some_images().double()
    made = together(model, images, LABELS.to(torch.int32), steps=3)
    for kind in KINDS:
        assert made[kind].dtype == torch.float64
        assert torch.equal(made[kind], alone(kind, model, images, LABELS, steps=3))


def test_train_mode_has_the_batchs_own_statistics():
    model, other = small(), small()
    other.load_state_dict(model.state_dict())
    model.body[1].eval()
    made = together(model, some_images(), LABELS, steps=3, mode="train")
    for kind in KINDS:
        expected = alone(kind, other, some_images(), LABELS, steps=3, mode="train")
        assert torch.equal(made[kind], expected)
    counts = [int(module.body[1].num_batches_tracked) for module in (model, other)]
    assert counts == [5, 10]
    assert not model.body[1].training
    assert model.body[2].training


def test_autocast_is_that_of_the_attacks():
    model, images = small().eval(), some_images()
    with torch.autocast("cpu", torch.bfloat16):
        made = together(model, images, LABELS, steps=2)
        expected = {kind: alone(kind, model, images, LABELS, steps=2) for kind in KINDS}
        F.cross_entropy(model(images), LABELS).backward()
    for kind in KINDS:
        assert made[kind].dtype == torch.float32
        assert torch.equal(made[kind], expected[kind])
    assert all(value.grad.abs().sum() > 0 for value in model.parameters())


# what they share


@pytest.mark.parametrize(
    ("kinds", "steps", "forward", "backward"),
    [
        (KINDS, 10, 19, 20),
        (KINDS, 1, 1, 2),
        (("fgsm", "ll"), 10, 1, 2),
        (("fgsm", "bim"), 10, 10, 10),
        (("ll", "ill"), 10, 10, 10),
        (("fgsm",), 10, 1, 1),
        (("ll",), 10, 1, 1),
        (("ill",), 10, 10, 10),
    ],
)
def test_forward_and_backward_passes(kinds, steps, forward, backward, monkeypatch):
    model, images = small(), some_images()
    gradients, grad = [], torch.autograd.grad

    def counted(*arguments, **options):
        gradients.append(1)
        return grad(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    sizes = passes(model, lambda: together(model, images, LABELS, kinds=kinds, steps=steps))
    assert sizes == [12] * forward
    assert len(gradients) == backward


def test_alone_they_take_more():
    model, images = small(), some_images()
    sizes = [passes(model, partial(alone, kind, model, images, LABELS, steps=10)) for kind in KINDS]
    assert sum(map(len, sizes)) == 24


# what it must leave alone


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_and_statistics_are_left_alone_whatever_the_caller_is_under(around):
    model = small().train()
    kept = torch.full_like(model.head.weight, 7.0)
    model.head.weight.grad = kept
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    with around():
        made = together(model, some_images() + 0, LABELS + 0, steps=2)
    for kind in KINDS:
        assert torch.equal(made[kind], alone(kind, model, some_images(), LABELS, steps=2))
        assert not made[kind].is_inference()
    assert model.head.weight.grad is kept
    assert (kept == 7).all()
    assert all(module.training for module in model.modules())
    for key, value in model.named_buffers():
        assert torch.equal(value, buffers[key])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_it_never_waits(mode):
    with NoWaiting():
        together(small(), some_images(), LABELS, steps=3, mode=mode)


def test_images_with_a_graph():
    model, images = small(), some_images().requires_grad_()
    made = together(model, images * 1, LABELS, steps=2)
    for kind in KINDS:
        assert torch.equal(made[kind], alone(kind, model, some_images(), LABELS, steps=2))
    assert images.grad is None


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["fgsm", "pgd"]}, "kinds must be one of 'fgsm', 'll', 'bim', 'ill', got 'pgd'"),
        ({"epsilon": Fraction(-1, 8)}, "epsilon must be at least 0, got -1/8"),
        ({"step": Fraction(-1, 8)}, "step must be at least 0, got -1/8"),
        ({"step": float("nan")}, "step must be at least 0, got nan"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
    ],
)
def test_bad_options(options, message):
    forwarded = nn.Module()  # which has no forward: nothing may be launched
    options = {"epsilon": EPSILON, "step": STEP, "steps": 1} | options
    with pytest.raises(ValueError) as raised:
        gradient_family(forwarded, some_images(), LABELS, **options)
    assert str(raised.value) == f"gradient_family: {message}"


def test_a_bad_mode():
    with pytest.raises(ValueError, match="mode must be 'train' or 'eval', got 'test'"):
        together(small(), some_images(), LABELS, steps=1, mode="test")
