"""TripletAdvLoss and FeatureBank."""

import copy
import io

import pytest
import torch
from helpers import DTYPES, HALVES, NEVER, generator, make_problem, randn, same_bits
from torch import nn

import tla_ops


def test_triplet_adv_loss_is_the_function(device):
    problem = make_problem(9, 40, 6, K=2, device=device)
    call = {
        "margin": 0.2, "weight": 2.0, "norm_weight": 0.01, "metric": "cosine",
        "mining": "semihard", "norm": "mean_square", "reduction": "sum",
    }  # fmt: skip
    module = tla_ops.TripletAdvLoss(**call)
    assert isinstance(module, nn.Module)
    assert not list(module.parameters())
    assert not module.state_dict()
    assert same_bits(module(*problem), tla_ops.triplet_adv_loss(*problem, **call))
    masks = {
        "target_labels": (problem.labels + 1) % 5,
        "exclude": torch.arange(9, device=device),
    }
    ours = module(*problem, **masks)
    assert same_bits(ours, tla_ops.triplet_adv_loss(*problem, **call, **masks))
    defaults = tla_ops.TripletAdvLoss()(*problem)
    assert same_bits(defaults, tla_ops.triplet_adv_loss(*problem))


def test_triplet_adv_loss_trains(device):
    problem = make_problem(9, 40, 6, device=device)
    layer = nn.Linear(6, 4).to(device)
    a, p, c = (layer(x) for x in problem.features)
    tla_ops.TripletAdvLoss(margin=1.0)(a, p, c, *problem[3:]).backward()
    assert layer.weight.grad.any()


def rows(n, start=0, dim=3, device="cpu", dtype=torch.float32):
    """Row i is full of i and has label i: a bank's content can be read off."""
    y = torch.arange(start, start + n, device=device)
    return y.to(dtype).unsqueeze(1).expand(n, dim), y


def content(bank):
    filled = bank.labels != NEVER
    assert bank.features[filled].eq(bank.labels[filled].unsqueeze(1)).all()
    return sorted(bank.labels[filled].tolist())


def test_bank_fills_wraps_and_clears(device):
    bank = tla_ops.FeatureBank(5, 3, device=device)
    assert isinstance(bank, nn.Module)
    assert not list(bank.parameters())
    assert bank.features.shape == (5, 3)
    assert bank.features.dtype == torch.float32
    assert bank.labels.shape == (5,)
    assert bank.labels.dtype == torch.int64
    assert bank.cursor.shape == ()
    assert bank.cursor.dtype == torch.int64
    assert len(bank) == 0
    assert bank.labels.eq(NEVER).all()
    for n, start, expected in [(2, 0, 2), (0, 2, 2), (2, 2, 4), (3, 4, 5), (5, 7, 5), (1, 12, 5)]:
        bank.enqueue(*rows(n, start, device=device))
        stop = start + n
        assert len(bank) == expected
        assert content(bank) == list(range(max(0, stop - 5), stop))
    bank.clear()
    assert len(bank) == 0
    assert content(bank) == []
    bank.enqueue(*rows(3, device=device))
    assert content(bank) == [0, 1, 2]


@pytest.mark.parametrize("before", [0, 2, 5, 7])
@pytest.mark.parametrize("n", [5, 6, 10, 13])
def test_more_rows_than_capacity_keep_the_last(n, before, device):
    bank = tla_ops.FeatureBank(5, 3, device=device)
    bank.enqueue(*rows(before, device=device))
    bank.enqueue(*rows(n, 100, device=device))
    assert len(bank) == 5
    assert content(bank) == list(range(95 + n, 100 + n))
    bank.enqueue(*rows(2, 200, device=device))
    assert content(bank) == [*range(97 + n, 100 + n), 200, 201]


@pytest.mark.parametrize("mining", ["hardest", "semihard", "random"])
def test_a_partly_filled_bank_offers_only_what_it_holds(mining, device):
    problem = make_problem(9, 12, 6, device=device)
    bank = tla_ops.FeatureBank(100, 6, device=device)
    call = {"mining": mining, "return_details": True}
    empty = tla_ops.triplet_adv_loss(
        *problem[:2], bank.features, problem.labels, bank.labels, **call
    )
    assert empty.negative_index.eq(-1).all()
    assert empty.loss == 0
    bank.enqueue(problem.candidates, problem.candidate_labels)
    banked = tla_ops.triplet_adv_loss(
        *problem[:2], bank.features, problem.labels, bank.labels, **call,
        generator=generator(1, device),
    )  # fmt: skip
    plain = tla_ops.triplet_adv_loss(*problem, **call, generator=generator(1, device))
    assert same_bits(banked.loss, plain.loss)
    assert same_bits(banked.negative_distance, plain.negative_distance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bank_casts_and_detaches(dtype, device):
    bank = tla_ops.FeatureBank(6, 4, dtype=dtype, device=device)
    features = randn(3, 4, device=device).requires_grad_()
    bank.enqueue(features, torch.tensor([1, 2, 3], dtype=torch.uint8, device=device))
    assert bank.features.dtype == dtype
    assert not bank.features.requires_grad
    held = bank.features[bank.labels != NEVER]
    assert same_bits(held[held[:, 0].sort().indices],
                     (f := features.detach().to(dtype))[f[:, 0].sort().indices])  # fmt: skip
    problem = make_problem(5, 3, 4, device=device)
    a = problem.anchor.requires_grad_()
    loss = tla_ops.triplet_adv_loss(a, problem.positive, bank.features, problem.labels, bank.labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert a.grad.dtype == torch.float32


def test_state_dict_round_trip(device):
    bank = tla_ops.FeatureBank(5, 3, dtype=torch.bfloat16, device=device)
    bank.enqueue(*rows(7, device=device))
    assert set(bank.state_dict()) == {"features", "labels", "cursor"}
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other = tla_ops.FeatureBank(5, 3, dtype=torch.bfloat16, device=device)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert len(other) == 5
    assert content(other) == [2, 3, 4, 5, 6]
    for one in (bank, other):
        one.enqueue(*rows(2, 50, device=device))
    assert content(other) == content(bank) == [4, 5, 6, 50, 51]
    assert all(torch.equal(x, y) for x, y in zip(bank.buffers(), other.buffers(), strict=True))


def test_a_partly_filled_state_goes_on_where_it_was(device):
    bank = tla_ops.FeatureBank(5, 3, device=device)
    bank.enqueue(*rows(3, device=device))
    other = copy.deepcopy(bank)
    other.enqueue(*rows(3, 3, device=device))
    assert content(other) == [1, 2, 3, 4, 5]
    assert content(bank) == [0, 1, 2]


def test_bank_follows_to(device):
    model = nn.Sequential(nn.Linear(3, 3))
    model.bank = tla_ops.FeatureBank(5, 3)
    model.bank.enqueue(*rows(2))
    model.half().to(device)
    assert model.bank.features.dtype == torch.half
    assert model.bank.labels.dtype == torch.int64
    assert {x.device.type for x in model.bank.buffers()} == {device.type}
    model.bank.enqueue(*rows(2, 2, device=device))
    assert content(model.bank) == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_bank_under_compile(dtype, device, fresh_compiler):
    problem = make_problem(6, 9, 4, device=device)

    def step(bank, a, p, y):
        loss = tla_ops.triplet_adv_loss(a, p, bank.features, y, bank.labels, margin=0.5)
        (grad,) = torch.autograd.grad(loss, a)
        bank.enqueue(p, y)
        return loss.detach(), grad

    banks = [tla_ops.FeatureBank(16, 4, dtype=dtype, device=device) for _ in range(2)]
    compiled = torch.compile(step, backend="aot_eager")
    a, p = problem.anchor.requires_grad_(), problem.positive[:, 0].contiguous()
    for _ in range(4):
        eager, got = step(banks[0], a, p, problem.labels), compiled(banks[1], a, p, problem.labels)
        assert all(map(same_bits, got, eager))
        assert all(map(torch.equal, banks[1].buffers(), banks[0].buffers()))


@pytest.mark.parametrize(("capacity", "dim"), [(0, 3), (-1, 3), (3, 0), (3, -2)])
def test_bank_sizes_must_be_positive(capacity, dim):
    with pytest.raises(ValueError, match="capacity" if capacity <= 0 else "dim"):
        tla_ops.FeatureBank(capacity, dim)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (torch.zeros(2, 4), torch.zeros(2).long()),
        (torch.zeros(2), torch.zeros(2).long()),
        (torch.zeros(2, 3), torch.zeros(3).long()),
        (torch.zeros(2, 3), torch.zeros(2, 1).long()),
        (torch.zeros(2, 3), torch.zeros(2)),
        (torch.zeros(2, 3), torch.zeros(2).bool()),
        (torch.zeros(2, 3).long(), torch.zeros(2).long()),
    ],
)
def test_bank_refuses_what_does_not_fit(features, labels):
    bank = tla_ops.FeatureBank(5, 3)
    with pytest.raises((TypeError, ValueError), match=r"features|labels"):
        bank.enqueue(features, labels)
    assert len(bank) == 0
