"""Networks over fixed patterns of the random layers in front of them."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from tla_ops.training import attacks
from tla_ops.training.defences import behind, resize_and_pad
from tla_ops.training.models import build
from tla_ops.training.patterns import Pattern, Patterns, predefined

SHAPE = (2, 8, 8)

pytestmark = pytest.mark.usefixtures("one_thread")


def network(side=11, **options):
    torch.manual_seed(0)
    return build("small", 5, (2, side, side), dim=8, **options).eval()


def over(model, **options):
    return Patterns(model, SHAPE, **({"smallest": 8, "side": 11, "value": 0.3} | options)).eval()


@pytest.mark.parametrize("count", [1, 4, 30, 70])
def test_logits_are_their_mean_over_the_patterns(count, device):
    model = network().to(device)
    target = over(model)
    assert len(target.patterns) > 10
    images = torch.rand(count, *SHAPE, device=device)
    logits = []
    for size, top, left in target.patterns:
        numbers = [torch.full((count,), number, device=device) for number in (size, top, left)]
        logits.append(model(resize_and_pad(images, *numbers, side=11, value=0.3)))
    expected = torch.stack(logits).mean(0)
    torch.testing.assert_close(target(images), expected)
    with torch.no_grad():
        torch.testing.assert_close(target(images), expected)
    torch.testing.assert_close(target.head(target.features(images)), target(images))
    assert target.image_shape == SHAPE


def test_gradients_are_the_means(device):
    model = network().to(device)
    target = over(model, count=4)
    images = torch.rand(3, *SHAPE, device=device, requires_grad=True)
    weight = torch.rand(3, 5, device=device)
    (found,) = torch.autograd.grad((target(images) * weight).sum(), images, retain_graph=True)
    expected = torch.zeros_like(images)
    for pattern in target.patterns:
        numbers = [torch.full((3,), number, device=device) for number in pattern]
        seen = model(resize_and_pad(images, *numbers, side=11, value=0.3))
        expected += torch.autograd.grad((seen * weight).sum(), images)[0] / 4
    torch.testing.assert_close(found, expected)


def test_it_shares_the_networks_weights():
    model = network()
    target = over(model)
    assert target.head is model.head
    assert target.body is model.body
    assert target.state_dict().keys() == model.state_dict().keys()


def kept_for_backward(model, images):
    """Numbers that a forward pass keeps."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images.requires_grad_())
    return total


@pytest.mark.parametrize(("count", "most"), [(16, 64), (80, 80)])
def test_memory_does_not_grow_with_the_patterns(count, most):
    model, images, seen = network(), torch.rand(count, *SHAPE), []
    target = over(model)
    model.body.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    kept = kept_for_backward(target, images)
    assert max(seen) == most
    assert sum(seen) == count * len(target.patterns)
    assert kept < kept_for_backward(model, torch.rand(count, 2, 11, 11))


def test_an_attack_is_on_all_patterns():
    target = over(network())
    images, labels = torch.rand(20, *SHAPE), torch.arange(20) % 5
    found = attacks.fgsm(target, images, labels, epsilon=Fraction(1, 8))
    alone = attacks.fgsm(over(target, count=1), images, labels, epsilon=Fraction(1, 8))
    losses = [
        F.cross_entropy(target(tried), labels, reduction="none") for tried in (images, alone, found)
    ]
    assert (losses[2] > losses[0]).all()
    assert losses[2].mean() > losses[1].mean()


def test_predefined_patterns_of_imagenet():
    patterns = predefined(299, 331)
    assert len(set(patterns)) == 21
    assert {pattern.side for pattern in patterns} >= {299, 330}
    assert len({pattern.side for pattern in patterns}) == 21
    for side, top, left in patterns:
        spare = 331 - side
        corners = {(0, 0), (0, spare), (spare, 0), (spare, spare)}
        assert (top, left) in corners | {(spare // 2, spare // 2)}
    assert patterns[:2] == [(299, 0, 0), (301, 0, 30)]
    assert {(p.top > 0, p.left > 0) for p in patterns} == {
        (False, False), (False, True), (True, False), (True, True),
    }  # fmt: skip


@pytest.mark.parametrize(("smallest", "side"), [(8, 9), (7, 8), (32, 36), (1, 2)])
def test_few_sizes_have_few_patterns(smallest, side):
    patterns = predefined(smallest, side)
    assert len(set(patterns)) == len(patterns) <= 21
    assert all(isinstance(pattern, Pattern) for pattern in patterns)
    assert {pattern.side for pattern in patterns} == set(range(smallest, side))
    for size, top, left in patterns:
        assert 0 <= top <= side - size
        assert 0 <= left <= side - size
    if side - smallest == 1:  # all there are
        assert len(patterns) == 4
    assert predefined(smallest, side, 1) == [(smallest, 0, 0)]


def test_it_is_among_what_the_random_layers_show():
    """A pattern is one of theirs, and a defence that always shows it is the same classifier."""
    model = network()
    images = torch.rand(3, *SHAPE)

    class Fixed(torch.nn.Module):
        def forward(self, images):
            numbers = (torch.full((len(images),), number) for number in (8, 0, 0))
            return resize_and_pad(images, *numbers, side=11, value=0.3)

    target = over(model, count=1)
    torch.testing.assert_close(target(images), behind(Fixed(), model, SHAPE)(images))


def test_bad_arguments():
    with pytest.raises(ValueError, match="smallest must be at least 1 and below side, got 9 and 9"):
        predefined(9, 9)
    with pytest.raises(ValueError, match="smallest must be at least 1 and below side, got 0 and 9"):
        over(network(), smallest=0, side=9)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        over(network(), count=0)
