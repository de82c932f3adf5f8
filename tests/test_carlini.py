"""Carlini and Wagner's l-infinity attack: a plain loop of it, closed forms, ART's; its batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tla_ops.training.attacks import model_mode
from tla_ops.training.carlini import ROUND, carlini_linf
from tla_ops.training.models import small

QUICK = {"steps": 15, "learning_rate": 0.05, "constant": 0.1}
pytestmark = pytest.mark.usefixtures("one_thread")


class Watched(nn.Module):
    """A small network of images (B, 1, 2, 3), and the sizes of the batches that it has met."""

    def __init__(self, classes=4, seed=0, dtype=torch.float64, scale=3.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.one, self.two = (
            nn.Parameter(scale * torch.randn(*shape, dtype=dtype, generator=generator))
            for shape in ((6, 16), (16, classes))
        )
        self.sizes, self.modes = [], []

    def forward(self, images):
        self.sizes.append(len(images))
        self.modes.append(self.training)
        return ((images - 0.5).flatten(1) @ self.one).tanh() @ self.two


class Fixed(nn.Module):
    """The same logits whatever the image."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.calls = torch.tensor(logits), 0

    def forward(self, images):
        self.calls += 1
        return self.logits + 0 * images.flatten(1).sum(1, keepdim=True)


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def some_images(count, dtype=torch.float64, seed=0):
    """With pixels at both ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, 1, 2, 3, dtype=dtype, generator=generator)
    return (1.2 * uniform - 0.1).clamp(0, 1)


def said(model, images):
    with torch.no_grad(), model_mode(model, "eval"):
        return model(images).argmax(1)


def distances(adversarial, images):
    return (adversarial - images).flatten(1).abs().amax(1)


def by_hand(
    model, image, label, *, steps, learning_rate, constant, confidence=0.0, largest_constant=2.0,
    constant_factor=2.0, shrink=0.9,
):  # fmt: skip
    """The attack on one image, and what ended each of its runs: one bound after the other."""
    ends = []
    if said(model, image[None]) != label:
        return image, ends
    w = torch.atanh((2 * image - 1) * 0.9999995).requires_grad_()

    def adversarial_loss_and_class():
        adversarial = (w.tanh() + 1) / 2
        logits = model(adversarial[None])[0]
        wrong = max(logits[k] for k in range(len(logits)) if k != label)
        hinge = torch.clamp(logits[label] - wrong + confidence, min=0)
        excess = torch.clamp((adversarial - image).abs() - tau, min=0).sum()
        return adversarial, constant * hinge + excess, logits.argmax()

    tau, best, smallest = 1.0, image, float("inf")
    while tau > 1 / 256:
        adam = torch.optim.Adam([w], lr=learning_rate)
        found = None
        while found is None and constant < largest_constant:
            for _ in range(steps):
                adam.zero_grad()
                adversarial_loss_and_class()[1].backward()
                adam.step()
                adversarial, loss, kind = adversarial_loss_and_class()
                if loss < 1e-4 * constant and kind != label:
                    found = adversarial.detach()
                    ends.append("success")
                    break
            else:
                constant *= constant_factor
                ends.append("failure")
        if found is None:
            break
        distance = (found - image).abs().max().item()
        if distance < smallest:
            best, smallest = found, distance
        tau = shrink * min(tau, distance)
    model.zero_grad()
    return best, ends


# what it finds


@pytest.mark.parametrize(
    "options",
    [
        QUICK,
        QUICK | {"confidence": 0.7},
        QUICK | {"shrink": 0.5, "constant_factor": 3.0, "largest_constant": 9.0},
        # The slack of 1e-4 c lets later runs end farther away.
        QUICK | {"constant": 2000.0, "largest_constant": 3e4},
    ],
    ids=["quick", "confidence", "factors", "large constants"],
)
def test_each_image_gets_what_a_plain_loop_finds(options):
    model, images = Watched(), some_images(10)
    labels = said(model, images)
    labels[3] = (labels[3] + 1) % 4
    expected, ends = zip(
        *(by_hand(model, *pair, **options) for pair in zip(images, labels, strict=True)),
        strict=True,
    )
    adversarial = carlini_linf(model, images, labels, **options, batch_size=4)
    torch.testing.assert_close(adversarial, torch.stack(expected), rtol=0, atol=1e-9)
    # The searches have all that a search can have, and take unlike numbers of runs.
    flat = [end for search in ends for end in search]
    assert flat.count("success") > 8
    assert flat.count("failure") > 5 or options["constant"] > 1
    assert len({len(search) for search in ends}) > 2


@pytest.mark.parametrize(("shrink", "most"), [(0.9, 1 / 0.9), (0.97, 1.05)])
def test_a_linear_model_falls_at_its_distance(shrink, most, device):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 6, generator=generator).to(device)
    images = (0.35 + 0.3 * torch.rand(16, 6, generator=generator)).to(device)

    def model(x):
        return (x - 0.5) @ weight.T

    network = Wrapped(model)
    logits = model(images)
    labels = logits.argmax(1)
    # To the boundary with a class: the logits' difference over the weights' l1 distance.
    away = (weight[labels][:, None] - weight).abs().sum(2)
    gaps = (logits.gather(1, labels[:, None]) - logits) / away
    nearest = gaps.scatter(1, labels[:, None], torch.inf).amin(1)
    adversarial = carlini_linf(
        network, images, labels, steps=200, learning_rate=0.003, constant=0.05, shrink=shrink
    )
    assert adversarial.device == images.device
    assert (model(adversarial).argmax(1) != labels).all()
    ratio = distances(adversarial, images) / nearest
    assert ratio.min() >= 1 - 1e-5
    far = nearest > 0.02  # in units of what Adam moves a pixel at once, 0.0015
    assert far.sum() > 8
    assert ratio[far].max() <= most


def test_it_is_no_weaker_than_that_of_art():
    evasion = pytest.importorskip(
        "art.attacks.evasion", reason="adversarial-robustness-toolbox comes with the extra [eval]"
    )
    from art.estimators.classification import PyTorchClassifier

    model, images = Watched(dtype=torch.float32), some_images(6, torch.float32)
    labels = said(model, images)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 2, 3), 4, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = evasion.CarliniLInfMethod(
        classifier, learning_rate=0.05, max_iter=20, initial_const=0.1, largest_const=2.0,
        const_factor=4.0, verbose=False,
    )  # fmt: skip
    theirs = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
    model.zero_grad()
    options = QUICK | {"steps": 20, "constant_factor": 4.0}
    ours = carlini_linf(model, images, labels, **options)
    fooled = [said(model, adversarial) != labels for adversarial in (ours, theirs)]
    assert fooled[1].sum() > 3
    assert fooled[0].sum() >= fooled[1].sum()
    both = fooled[0] & fooled[1]
    medians = [distances(x, images)[both].median() for x in (ours, theirs)]
    assert medians[0] <= medians[1]


def test_confidence_is_the_lead_of_the_wrong_class():
    model, images = Watched(), some_images(12)
    labels = said(model, images)
    leads, sizes = [], []
    for confidence in (0.0, 1.5):
        adversarial = carlini_linf(model, images, labels, **QUICK, confidence=confidence)
        with torch.no_grad():
            logits = model(adversarial)
        right = F.one_hot(labels, 4).bool()
        lead = logits.masked_fill(right, -torch.inf).amax(1) - logits[right]
        moved = lead > 0
        assert moved.sum() > 8
        assert (lead[moved] >= confidence - 1e-4).all()
        leads.append(lead[moved].min())
        sizes.append(distances(adversarial, images)[moved].mean())
    assert leads[0] < 0.5
    assert sizes[0] < sizes[1]


def test_images_of_a_network(device):
    torch.manual_seed(0)
    model = small().to(device)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    labels = said(model, images)
    adversarial = carlini_linf(model, images, labels, steps=30, learning_rate=0.05, constant=0.1)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == torch.float32
    assert adversarial.device == images.device
    assert not adversarial.requires_grad
    assert not adversarial.is_inference()
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    assert (said(model, adversarial) != labels).all()
    assert (distances(adversarial, images) < 0.2).all()
    again = carlini_linf(model, images, labels, steps=30, learning_rate=0.05, constant=0.1)
    assert torch.equal(again, adversarial)


# the batch


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_an_image_does_not_depend_on_the_others(batch_size):
    model, images = Watched(), some_images(9)
    labels = said(model, images)
    expected = carlini_linf(model, images, labels, **QUICK)
    assert (expected != images).flatten(1).any(1).sum() > 6
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    adversarial = carlini_linf(model, images[order], labels[order], **QUICK, batch_size=batch_size)
    torch.testing.assert_close(adversarial, expected[order], rtol=0, atol=1e-9)


def test_waiting_images_take_the_places_of_finished_ones():
    model, images = Watched(), some_images(12)
    labels = said(model, images)
    model.sizes.clear()
    carlini_linf(model, images, labels, **QUICK, batch_size=3)
    assert model.sizes[:4] == [3] * 4  # who is right
    sizes = model.sizes[4:]
    assert sizes == sorted(sizes, reverse=True)
    # Once the batch is not full nobody waits.
    full = sizes.count(3)
    alone = []
    for pair in zip(images.split(1), labels.split(1), strict=True):
        model.sizes.clear()
        carlini_linf(model, *pair, **QUICK)
        alone.append(len(model.sizes) - 1)
    assert sum(sizes) <= sum(alone) + ROUND * len(images)
    assert full > max(alone)
    groups = sum(max(alone[i : i + 3]) for i in range(0, 12, 3))
    assert len(sizes) < groups


def test_a_search_takes_its_steps_and_no_more():
    images = some_images(3)
    model = Fixed([2.0, 0.0])
    labels = torch.tensor([0, 0, 0])
    adversarial = carlini_linf(model, images, labels, steps=7, constant=0.5, learning_rate=0.1)
    assert torch.equal(adversarial, images)
    # c is 0.5 and 1; what ends the search is looked at after the fourteenth update.
    passes = 2 * 7 + 1
    assert model.calls == 1 + -(-passes // ROUND) * ROUND


def test_nothing_is_larger_than_the_batch():
    model, images = Watched(), some_images(9)
    carlini_linf(model, images, said(model, images[:9]), **QUICK, batch_size=2)
    assert max(model.sizes[1:]) == 2


# what stays as it is


def test_what_is_wrong_already_and_what_never_falls_come_back():
    model, images = Watched(), some_images(8)
    labels = said(model, images)
    wrong = (labels + 1) % 4
    assert torch.equal(carlini_linf(model, images, wrong, **QUICK), images)
    held = carlini_linf(model, images, labels, steps=1, learning_rate=1e-6)
    assert torch.equal(held, images)
    one_class = Fixed([1.0])
    assert torch.equal(carlini_linf(one_class, images, 0 * labels, **QUICK), images)
    assert one_class.calls < 30


@pytest.mark.parametrize("more", [{"steps": 0}, {"constant": 2.0}, {"largest_constant": 0.01}])
def test_no_steps_and_no_constants(more):
    model, images = Watched(), some_images(8)
    labels = said(model, images)
    assert torch.equal(carlini_linf(model, images, labels, **QUICK | more), images)


def test_an_empty_batch():
    model = Watched()
    nothing = carlini_linf(model, some_images(0), torch.zeros(0, dtype=torch.long), **QUICK)
    assert nothing.shape == (0, 1, 2, 3)
    assert not model.sizes  # not every network takes none


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_end_a_search(value):
    images, calls = some_images(5), []
    inner = Watched()
    labels = said(inner, images)

    def model(x):
        """The network fails once, on two images, as the search begins."""
        calls.append(len(x))
        logits = inner(x)
        sick = torch.tensor([False, True, True, False, False])
        return logits if len(calls) != 2 else logits.masked_fill(sick[:, None], value)

    well = torch.tensor([0, 3, 4])
    expected = carlini_linf(inner, images[well], labels[well], **QUICK)
    assert (expected != images[well]).flatten(1).any(1).all()
    adversarial = carlini_linf(Wrapped(model), images, labels, **QUICK)
    assert torch.equal(adversarial[1:3], images[1:3])
    torch.testing.assert_close(adversarial[well], expected, rtol=0, atol=1e-9)
    assert calls[1 : 1 + ROUND] == [5] * ROUND
    assert set(calls[1 + ROUND :]) <= {1, 2, 3}


def test_only_nan_does_not_hang():
    images = some_images(3)
    model = Fixed([torch.nan, torch.nan])
    labels = torch.zeros(3, dtype=torch.long)
    assert torch.equal(carlini_linf(model, images, labels), images)
    assert model.calls <= 1 + ROUND


# types, modes, gradients


def test_types():
    model, images = Watched(), some_images(5)
    labels = said(model, images)
    double = carlini_linf(model, images, labels.to(torch.int32), **QUICK)
    assert double.dtype == torch.float64
    single = carlini_linf(model.float(), images.float(), labels, **QUICK)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)
    assert (double != images).flatten(1).any(1).all()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = carlini_linf(model, images.float(), labels, **QUICK)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, single)
    assert (distances(rounded, images.float()) > 0).all()


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_modes_gradients_and_random_streams_are_left_alone(mode, around):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), Watched(dtype=torch.float32), nn.Dropout(0.0))
    model.train()
    model[2].eval()
    kept = torch.full_like(model[1].two, 7.0)
    model[1].two.grad = kept
    model[1].one.requires_grad_(False)
    images = some_images(5, torch.float32)
    labels = said(model, images)
    model[1].modes.clear()
    values = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    stream = torch.get_rng_state()
    with around():
        adversarial = carlini_linf(model, images + 0, labels + 0, **QUICK, mode=mode)
    assert not adversarial.is_inference()
    assert not adversarial.requires_grad
    assert not torch.equal(adversarial, images)
    assert set(model[1].modes) == {mode == "train"}
    assert [module.training for module in model.modules()] == modes
    assert model[1].two.grad is kept
    assert (kept == 7).all()
    assert model[1].one.grad is None
    assert not model[1].one.requires_grad
    assert model[0].weight.grad is None
    assert torch.equal(torch.get_rng_state(), stream)
    same = [torch.equal(value, values[key]) for key, value in model.state_dict().items()]
    assert all(same) == (mode == "eval")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": -0.1}, "confidence must be at least 0, got -0.1"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"constant": 0}, "constant must be above 0, got 0"),
        ({"constant_factor": 1.0}, "constant_factor must be above 1, got 1.0"),
        ({"shrink": 0.0}, "shrink must be above 0, got 0.0"),
        ({"shrink": 1.0}, "shrink must be below 1, got 1.0"),
        ({"largest_constant": float("inf")}, "largest_constant must be finite, got inf"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite, got nan"),
    ],
)
def test_bad_options(options, message):
    images, labels = some_images(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError) as raised:
        carlini_linf(Watched(), images, labels, **options)
    assert str(raised.value) == f"carlini_linf: {message}"


def test_bad_images_and_modes():
    images, labels = some_images(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="images must be float32 or float64, got "):
        carlini_linf(Watched(), images.bfloat16(), labels)
    with pytest.raises(ValueError, match="mode must be 'train' or 'eval', got 'test'"):
        carlini_linf(Watched(), images, labels, mode="test")
    with pytest.raises(TypeError, match="steps must be a number, got str"):
        carlini_linf(Watched(), images, labels, steps="10")
