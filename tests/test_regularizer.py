"""AT2L's triplet loss as a regulariser: by hand, and as the method adds it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import expected_draw, randn, same_bits

import tla_ops
from tla_ops.training import methods
from tla_ops.training.methods import Batch
from tla_ops.training.models import small
from tla_ops.training.regularizer import TripletRegularizer

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 0])


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def some_logits(dtype=torch.float32):
    """(10, 5) of adversarial images, a few of them right, and of their clean sources."""
    adversarial, clean = randn(10, 5, seed=1, dtype=dtype), randn(10, 5, seed=2, dtype=dtype)
    adversarial[:3] += 9 * F.one_hot(LABELS[:3], 5)
    return adversarial.requires_grad_(), clean.requires_grad_()


def allowed(adversarial, confused_class):
    """(10, 10) mask of the negatives of each row, by the paper's sentences."""
    mask = torch.zeros(10, 10, dtype=torch.bool)
    for i, taken_for in enumerate(adversarial.argmax(1).tolist()):
        others = [j for j in range(10) if LABELS[j] != LABELS[i]]
        same = [j for j in others if LABELS[j] == taken_for]
        mask[i, (same or others) if confused_class else others] = True
    return mask


def distance(x, y, metric):
    if metric == "linf":
        return (x - y).abs().max()
    return (x - y).square().sum().sqrt()


@pytest.mark.parametrize("metric", ["linf", "euclidean"])
@pytest.mark.parametrize("mining", ["random", "hardest"])
@pytest.mark.parametrize("confused_class", [True, False])
def test_by_hand(metric, mining, confused_class):
    adversarial, clean = some_logits(torch.float64)
    regularizer = TripletRegularizer(
        weight=0.7, margin=1.5, metric=metric, mining=mining, confused_class=confused_class,
        generator=seeded(),
    )  # fmt: skip
    details = regularizer.details(adversarial, clean, LABELS)
    mask = allowed(adversarial, confused_class)
    assert not torch.equal(mask, allowed(adversarial, not confused_class))
    if mining == "random":
        index = expected_draw(mask, seeded())
    else:
        table = [[distance(a, c, metric).item() for c in clean] for a in adversarial]
        index = torch.tensor(table).masked_fill(~mask, torch.inf).argmin(1)
    assert torch.equal(details.negative_index, index)
    expected = 0.0
    for a, p, n in zip(adversarial, clean, clean[index], strict=True):
        expected = expected + 0.7 / 10 * F.relu(
            distance(a, p, metric) - distance(a, n, metric) + 1.5
        )
    torch.testing.assert_close(details.loss, expected)
    ours = torch.autograd.grad(details.loss, (adversarial, clean))
    theirs = torch.autograd.grad(expected, (adversarial, clean))
    for got, wanted in zip(ours, theirs, strict=True):
        assert got.abs().max() > 0
        torch.testing.assert_close(got, wanted)


def test_the_defaults_are_the_papers_and_the_draw_is_uniform():
    adversarial, clean = some_logits()
    mask = allowed(adversarial, True)
    assert mask.sum(1).min() < 3
    assert mask.sum(1).max() == 8
    regularizer = TripletRegularizer()
    counts = torch.zeros(10, 10)
    for _ in range(2000):
        index = regularizer.details(adversarial, clean, LABELS).negative_index
        counts[torch.arange(10), index] += 1
    share = mask / mask.sum(1, keepdim=True)
    assert (counts / 2000 - share).abs().max() < 0.05  # five standard errors
    explicit = TripletRegularizer(weight=1, margin=1, metric="linf", generator=seeded())
    torch.manual_seed(3)
    explicit.generator.set_state(torch.default_generator.get_state())
    assert regularizer(adversarial, clean, LABELS) == explicit(adversarial, clean, LABELS)


@pytest.mark.parametrize("confused_class", [True, False])
def test_it_is_what_at2l_adds_bit_for_bit(confused_class):
    torch.manual_seed(1)
    model = small().train()
    other = copy.deepcopy(model)
    images = torch.rand(len(LABELS), 1, 8, 8, generator=seeded(1))
    adversarial = (images + 0.2 * torch.rand(images.shape, generator=seeded(2))).clamp(0, 1)
    batch = Batch(images, LABELS, images[:0], images[:0], LABELS[:0])
    options = {"weight": 0.7, "margin": 1.5, "confused_class": confused_class}

    step = methods.at2l(
        model, batch, attack=lambda *_: adversarial, adversarial_weight=0.3, generator=seeded(),
        **options,
    )  # fmt: skip
    step.loss.backward()

    logits_clean, logits_adversarial = other(images), other(adversarial)
    # Backward adds up the logits' gradients in the reverse order of their uses: as in the method.
    added = TripletRegularizer(**options, generator=seeded())(
        logits_adversarial, logits_clean, LABELS
    )
    loss = F.cross_entropy(logits_clean, LABELS)
    loss = (loss + 0.3 * F.cross_entropy(logits_adversarial, LABELS)) / 1.3
    assert added > 0
    assert same_bits(step.loss, loss + added)
    operator = tla_ops.triplet_adv_loss(
        logits_adversarial, logits_clean, logits_clean, LABELS, LABELS,
        margin=1.5, weight=0.7, metric="linf", mining="random", generator=seeded(),
        target_labels=logits_adversarial.argmax(1) if confused_class else None,
    )  # fmt: skip
    assert same_bits(added, operator)
    (loss + added).backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert same_bits(ours.grad, theirs.grad)


def test_it_goes_with_any_loss():
    adversarial, clean = some_logits()
    regularizer = TripletRegularizer(generator=seeded())
    assert list(regularizer.parameters()) == []
    assert regularizer.state_dict() == {}
    loss = F.mse_loss(adversarial, clean) + regularizer(adversarial, clean.detach(), LABELS.int())
    loss.backward()
    alone = torch.autograd.grad(F.mse_loss(adversarial, clean), adversarial)[0]
    assert not torch.allclose(adversarial.grad, alone)
    assert torch.equal(clean.grad, -alone)  # the negatives were detached
    assert repr(regularizer) == (
        "TripletRegularizer(weight=1.0, margin=1.0, metric='linf', mining='random', "
        "confused_class=True)"
    )


def test_half_precision_logits_give_a_loss_in_float32():
    adversarial, clean = some_logits(torch.bfloat16)
    loss = TripletRegularizer()(adversarial, clean, LABELS)
    assert loss.dtype == torch.float32
    loss.backward()
    assert adversarial.grad.dtype == torch.bfloat16


def test_a_batch_of_one_class_adds_nothing():
    adversarial, clean = some_logits()
    loss = TripletRegularizer()(adversarial, clean, torch.full((10,), 2))
    assert loss == 0
    loss.backward()
    assert (adversarial.grad == 0).all()


def test_it_compiles_in_one_piece(fresh_compiler):
    adversarial, clean = some_logits()
    regularizer = TripletRegularizer(mining="hardest")
    compiled = torch.compile(regularizer, backend="eager", fullgraph=True)
    assert same_bits(compiled(adversarial, clean, LABELS), regularizer(adversarial, clean, LABELS))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "l1"}, ValueError, "metric must be one of .*'linf', got 'l1'"),
        ({"mining": "easiest"}, ValueError, "mining must be one of 'hardest', .*got 'easiest'"),
        ({"weight": "1"}, TypeError, "weight must be a number, got str"),
        ({"margin": float("nan")}, ValueError, "margin must be finite, got nan"),
    ],
)
def test_options_are_checked_when_it_is_made(options, error, message):
    with pytest.raises(error, match=f"TripletRegularizer: {message}"):
        TripletRegularizer(**options)


def test_what_comes_in_is_checked_by_its_own_name():
    adversarial, clean = some_logits()
    regularizer = TripletRegularizer()
    with pytest.raises(ValueError, match=r"logits_adversarial must be \(B, D\), got \(10,\)"):
        regularizer(adversarial[:, 0], clean, LABELS)
    with pytest.raises(ValueError, match=r"logits_clean must be \(10, 5\) .* got \(9, 5\)"):
        regularizer(adversarial, clean[1:], LABELS)
    with pytest.raises(ValueError, match=r"labels must be \(10,\) to match logits_adv"):
        regularizer(adversarial, clean, LABELS[1:])
