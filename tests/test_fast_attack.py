"""The twin that training attacks: the model's own function, and an attack as strong."""

from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tla_ops.training import fast
from tla_ops.training.attacks import pgd
from tla_ops.training.fast import FastAttack, Twin
from tla_ops.training.models import lenet, small, wrn

ATTACK = partial(pgd, epsilon=Fraction(3, 16), step=Fraction(1, 16), steps=4)


pytestmark = pytest.mark.usefixtures("one_thread")


def lived_in(model):
    """A model whose statistics and affine parameters are not those of its birth."""
    for module in model.modules():
        if isinstance(module, fast.NORMS):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    return model.train()


def in_eval(model, images):
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(images)
    model.train(training)
    return logits


class Reused(nn.Module):
    """One batch normalisation after two layers, which no folding fits."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.second(self.norm(self.first(x))))


class Branching(nn.Module):
    """What leaves the layer goes elsewhere, too."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        y = self.layer(x)
        return self.norm(y) + y


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


class ByName(nn.Module):
    """A layer's weight that the forward takes itself."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x):
        return self.norm(self.layer(x)) + F.linear(x, self.layer.weight)


class TwoModes(nn.Module):
    """Another function in eval mode, where the normalisation is not there."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        y = self.layer(x)
        return self.norm(y) if self.training else y


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        y = self.norm(self.layer(x))
        return y if y.sum() > 0 else 2 * y


MODELS = {
    "small": (lambda: small(), (1, 8, 8), 3),
    "lenet": (lambda: lenet(), (1, 28, 28), 5),
    "wrn": (lambda: wrn(units=1, widen=1), (3, 32, 32), 4),
    "reused": (Reused, (6,), 0),
    "branching": (Branching, (6,), 0),
    "untraceable": (Untraceable, (6,), 0),
    "tied": (Tied, (6,), 0),
    "by name": (ByName, (6,), 0),
    "two modes": (TwoModes, (6,), 0),
    "parametrized": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.BatchNorm1d(5)
        ),
        (6,),
        0,
    ),
    "plain": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (6,), 0),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_twin_is_the_model_in_eval_mode(name, channels_last):
    build, shape, folded = MODELS[name]
    model, images = lived_in(build()).double(), torch.rand(7, *shape, dtype=torch.float64)
    twin = Twin(model, channels_last=channels_last)
    assert len(twin._folded) == folded
    torch.testing.assert_close(twin(images), in_eval(model, images), rtol=1e-9, atol=1e-9)
    assert not any(p.requires_grad for p in twin.parameters())


@pytest.mark.parametrize("name", ["small", "wrn", "branching"])
def test_a_twin_follows_weights_and_statistics(name):
    build, shape, _ = MODELS[name]
    model, images = lived_in(build()), torch.rand(7, *shape)
    twin = Twin(model)
    before = twin(images)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.1)
    twin.refresh()
    assert not torch.allclose(twin(images), before)
    torch.testing.assert_close(twin(images), in_eval(model, images), rtol=1e-4, atol=1e-4)


def test_a_twin_in_bfloat16_gives_float32():
    model, images = lived_in(small()), torch.rand(7, 1, 8, 8)
    twin = Twin(model, dtype=torch.bfloat16, channels_last=True)
    exact = in_eval(model.double(), images.double())
    model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager = in_eval(model, images)
    ours, bound = twin(images), 2 * (eager.double() - exact).abs().max() + 1e-3
    assert ours.dtype == torch.float32
    assert (ours.double() - exact).abs().max() <= bound
    weights = [p for p in twin.parameters() if p.dim() > 1]
    assert all(p.dtype == torch.bfloat16 for p in weights)


def test_a_fast_attack_is_the_attack():
    """Equal draws, equal images, but for pixels whose gradient is 0 but for rounding."""
    model, images, labels = lived_in(small()), torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attacks = [ATTACK, FastAttack(ATTACK), FastAttack(ATTACK, channels_last=True)]
    results = []
    for attack in attacks:
        torch.manual_seed(1)
        results.append(attack(model, images, labels))
    for result in results[1:]:
        assert ((result - results[0]).abs() < 1e-5).double().mean() > 0.999
        assert not result.requires_grad
    assert model.training
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_fast_attack_in_bfloat16_is_as_strong():
    """On a model that learned something: the loss it reaches, within a tenth of what the exact
    attack adds to the clean images'."""
    model, images = small().train(), torch.rand(200, 1, 8, 8)
    labels = (images[:, 0, :4].mean((1, 2)) > images[:, 0, 4:].mean((1, 2))).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def loss(attack):
        torch.manual_seed(1)
        return F.cross_entropy(in_eval(model, attack(model, images, labels)), labels)

    clean, exact = loss(lambda model, images, labels: images), loss(ATTACK)
    assert exact > clean + 0.5
    fast_loss = loss(FastAttack(ATTACK, dtype=torch.bfloat16, channels_last=True))
    assert (fast_loss - exact).abs() < 0.1 * (exact - clean)


def test_a_fast_attack_sees_every_update_and_a_new_model():
    first, second = lived_in(small()), lived_in(small())
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    attack = FastAttack(partial(ATTACK, random_start=False))
    for model in (first, second, first):
        expected = ATTACK(model, images, labels, random_start=False)
        got = attack(model, images, labels)
        assert ((got - expected).abs() < 1e-5).double().mean() > 0.99
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.neg_()
        expected = ATTACK(model, images, labels, random_start=False)
        got = attack(model, images, labels)
        assert ((got - expected).abs() < 1e-5).double().mean() > 0.99


def close(first, second):
    return ((first - second).abs() < 1e-5).double().mean() > 0.99


def test_a_hooked_layer_is_not_folded():
    model, images = lived_in(small()), torch.rand(7, 1, 8, 8)
    model.body[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    twin = Twin(model)
    assert len(twin._folded) == 2
    torch.testing.assert_close(twin(images), in_eval(model, images), rtol=1e-4, atol=1e-4)


class Inverted(nn.Module):
    """Another function of the same weights."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return -self.inner(x)


def test_another_function_of_the_same_weights_has_another_twin():
    model, images, labels = lived_in(small()), torch.rand(8, 1, 8, 8), torch.arange(8)
    plain = partial(ATTACK, random_start=False)
    attack = FastAttack(plain)
    for each in (model, Inverted(model), model):
        assert close(attack(each, images, labels), plain(each, images, labels))
    model.body[2] = nn.Softplus()
    assert close(attack(model, images, labels), plain(model, images, labels))


class Sequence3d(nn.Module):
    """A batch normalisation over positions, as many as the linear layer has features."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.norm(self.layer(x[:, 0])).flatten(1))


def test_folding_that_changes_the_function_is_left_out():
    model, images, labels = lived_in(Sequence3d()), torch.rand(8, 1, 8, 8), torch.arange(8)
    plain = partial(ATTACK, random_start=False)
    attack = FastAttack(plain)
    assert close(attack(model, images, labels), plain(model, images, labels))
    assert attack._twin._folded == []


class NoTwin(nn.Module):
    """What cannot be copied."""

    def __init__(self):
        super().__init__()
        self.inner = small()

    def __deepcopy__(self, memo):
        raise RuntimeError("not to be copied")

    def forward(self, x):
        return self.inner(x)


def test_a_model_without_a_twin_is_attacked_itself():
    model, images, labels = lived_in(NoTwin()), torch.rand(8, 1, 8, 8), torch.arange(8)
    plain = partial(ATTACK, random_start=False)
    attack = FastAttack(plain)
    with pytest.warns(UserWarning, match="attacks the model itself: not to be copied"):
        result = attack(model, images, labels)
    assert torch.equal(result, plain(model, images, labels))
    assert torch.equal(attack(model, images, labels), result)  # and warns once


def test_inference_mode_neither_breaks_nor_stays():
    model, images, labels = lived_in(small()), torch.rand(8, 1, 8, 8), torch.arange(8)
    plain = partial(ATTACK, random_start=False)
    attack = FastAttack(plain)
    with torch.inference_mode():
        assert close(attack(model, images.clone(), labels), plain(model, images, labels))
    assert close(attack(model, images, labels), plain(model, images, labels))


def test_autocast_is_not_taken_for_another_function():
    model, images, labels = lived_in(small()), torch.rand(8, 1, 8, 8), torch.arange(8)
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    attack = FastAttack(ATTACK, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attack(model, images, labels)
    assert seen[0] == torch.float32  # the model's own logits, which the twin's are compared with
    assert attack._twin is not None


def test_a_twin_stays_in_eval_mode():
    twin = Twin(small())
    with pytest.raises(ValueError, match="stays in eval mode"):
        twin.train()
    with pytest.raises(ValueError, match="stays in eval mode"):
        FastAttack(partial(ATTACK, mode="train"))(small(), torch.rand(2, 1, 8, 8), torch.arange(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
def test_a_fresh_capture_draws_what_a_used_one_draws():
    model = lived_in(small()).cuda()
    images, labels = torch.rand(40, 1, 8, 8, device="cuda"), torch.arange(40, device="cuda") % 10
    used = FastAttack(ATTACK)
    used(model, images, labels)
    results = []
    for attack in (used, FastAttack(ATTACK)):
        torch.manual_seed(3)
        results += [attack(model, images, labels), torch.rand(4, device="cuda")]
    assert torch.equal(results[1], results[3])
    assert ((results[0] - results[2]).abs() < 1e-5).double().mean() > fast.AGREEMENT


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_attack_is_the_attack(dtype):
    model = lived_in(small()).cuda()
    images, labels = torch.rand(40, 1, 8, 8, device="cuda"), torch.arange(40, device="cuda") % 10
    eager = FastAttack(ATTACK, dtype=dtype, channels_last=True, graph=False)
    captured = FastAttack(ATTACK, dtype=dtype, channels_last=True)
    for seed in range(3):
        results = []
        for attack in (eager, captured):
            torch.manual_seed(seed)
            results.append(attack(model, images, labels))
        assert ((results[0] - results[1]).abs() < 1e-5).double().mean() > fast.AGREEMENT
        with torch.no_grad():  # a replay reads the weights as they are now
            for parameter in model.parameters():
                parameter.mul_(1.05)
    assert [graph is not None for graph in captured._graphs.values()] == [True]
