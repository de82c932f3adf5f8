"""A bank's own searches, which keep its rows packed, find what the functions find."""

import copy
import pickle

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import tla_ops
from tla_ops import ops

ROWS, DIM = 1500, 48
CPU = tla_ops.build_info()["cpu"]
screened = pytest.mark.skipif(
    CPU["in_use"] not in ("amx", "avx512_vnni", "avx2_int16"),
    reason="this processor has nothing to screen with",
)


def filled(dtype=torch.float32, rows=ROWS, filled_rows=None):
    g = torch.Generator().manual_seed(3)
    bank = tla_ops.FeatureBank(rows, DIM, dtype=dtype)
    count = rows if filled_rows is None else filled_rows
    shared = 2 * torch.randn(DIM, generator=g)
    bank.enqueue(torch.randn(count, DIM, generator=g) + shared, torch.randint(5, (count,)))
    return bank, torch.randn(40, DIM, generator=g) + shared, torch.randint(5, (40,), generator=g)


def check(bank, a, y, metric="angular"):
    expected = tla_ops.mine_negatives(a, bank.features, y, bank.labels, metric=metric)
    for _ in range(2):
        found = bank.mine_negatives(a, y, metric=metric)
        assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    loss = bank.triplet_adv_loss(a, a + 1, y, metric=metric, margin=0.2)
    same = tla_ops.triplet_adv_loss(
        a, a + 1, bank.features, y, bank.labels, metric=metric, margin=0.2
    )
    assert loss == same


@pytest.mark.parametrize("metric", ["angular", "cosine", "euclidean", "chebyshev"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_same_picks(dtype, metric):
    bank, a, y = filled(dtype)
    check(bank, a, y, metric)


@pytest.mark.parametrize("count", [1, 70, ROWS, ROWS + 33])
@pytest.mark.parametrize("metric", ["angular", "euclidean"])
def test_what_is_enqueued_is_found(count, metric):
    """Around the end of the ring, too: cursor and rows do not divide each other."""
    bank, a, y = filled(filled_rows=ROWS - 40)
    for _ in range(3):
        check(bank, a, y, metric)
        nearest = a[torch.arange(count) % len(a)] + 0.01 * torch.randn(count, DIM)
        bank.enqueue(nearest, torch.randint(5, (count,)))
    check(bank, a, y, metric)


def overwritten(bank):
    bank.features[3:700] = -bank.features[3:700].flip(0)
    return bank


def loaded(bank):
    bank.load_state_dict({**bank.state_dict(), "features": torch.randn(ROWS, DIM)})
    return bank


def cleared(bank):
    bank.clear()
    bank.enqueue(torch.randn(90, DIM), torch.randint(5, (90,)))
    return bank


def shared(bank):
    bank.features.share_memory_()
    bank.features.data.neg_()
    return bank


def behind_its_back(bank):
    bank.features.data.copy_(bank.features.flip(0))
    bank.forget_packed()
    return bank


@pytest.mark.parametrize(
    "change",
    [overwritten, loaded, cleared, shared, behind_its_back, copy.deepcopy, lambda b: b.double()],
)
def test_other_changes_are_noticed(change):
    bank, a, y = filled()
    check(bank, a, y)
    bank = change(bank)
    check(bank, a, y)
    bank.enqueue(a + 0.01, (y + 1) % 5)
    check(bank, a, y)


@pytest.fixture
def calls(monkeypatch):
    """What is packed: (operator, first row, rows)."""
    seen = []
    for name in ("pack_pool", "repack_pool"):
        operator = getattr(ops, name)
        monkeypatch.setattr(
            ops, name, lambda *args, n=name, o=operator: seen.append((n, *args[2:])) or o(*args)
        )
    return seen


@screened
def test_rows_are_packed_once(calls):
    bank, a, y = filled()
    for metric in ("angular", "cosine", "angular", "euclidean", "chebyshev"):
        bank.mine_negatives(a, y, metric=metric)
    bank.mine_negatives(a, y, mining="random")
    assert calls == [("pack_pool",)] * 2
    bank.enqueue(a, y)
    assert calls[2:] == [("repack_pool", 0, 40), ("repack_pool", 0, 0)] * 2
    # The search reads them: elements that are lost are missed.
    for kept in bank._pool._kept.values():
        kept.rows[1:, : 32 * 64].zero_()
    assert not torch.equal(
        bank.mine_negatives(a, y, metric="euclidean")[1],
        tla_ops.mine_negatives(a, bank.features, y, bank.labels, metric="euclidean")[1],
    )


@screened
def test_what_rows_have_in_common_is_found_again(calls):
    """Once half of the bank is there, and when all of it was replaced."""
    bank, a, y = filled(filled_rows=ROWS // 2 - 1)
    bank.mine_negatives(a, y)
    assert not calls
    bank.enqueue(a, y)
    bank.mine_negatives(a, y)
    assert calls == [("pack_pool",)]
    for _ in range(ROWS // len(a) + 1):
        bank.enqueue(a, y)
        bank.mine_negatives(a, y)
    assert calls.count(("pack_pool",)) == 2


@screened
@pytest.mark.parametrize("way", ["few anchors", "few rows", "traced", "make_fx"])
def test_nothing_is_packed_where_it_is_not_used(way, calls):
    bank, a, y = filled(rows=1000 if way == "few rows" else ROWS)

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bank = bank

        def forward(self, x):
            return self.bank.mine_negatives(x, y[: x.shape[0]])[1]

    step = Step()
    x = a[:7] if way == "few anchors" else a
    if way == "traced":
        traced = torch.jit.trace(step, (x,), check_trace=False)  # which would call it, too
    elif way == "make_fx":
        traced = make_fx(step)(x)
    else:
        traced = step
    bank.features.neg_().add_(torch.randn(bank.features.shape))
    assert torch.equal(
        traced(x), tla_ops.mine_negatives(x, bank.features, y[: len(x)], bank.labels)[1]
    )
    assert not calls


def test_a_write_while_rows_are_packed(monkeypatch):
    """Another thread's: what was packed is not kept."""
    bank, a, y = filled()
    packing = ops.pack_pool

    def slow(features, metric):
        packed = packing(features, metric)
        bank.enqueue(a + 0.01, (y + 1) % 5)
        return packed

    monkeypatch.setattr(ops, "pack_pool", slow)
    bank.mine_negatives(a, y)
    monkeypatch.undo()
    check(bank, a, y)


@pytest.mark.parametrize("meanwhile", CPU["available"])
def test_another_instruction_set_meanwhile(meanwhile):
    """Which cannot read these rows, and finds what it finds without."""
    bank, a, y = filled()
    check(bank, a, y)
    before = torch.ops.tla_ops.use_instruction_set(meanwhile)
    try:
        bank.enqueue(a + 0.01, (y + 1) % 5)
        check(bank, a, y)
    finally:
        torch.ops.tla_ops.use_instruction_set(before)
    bank.enqueue(a + 0.02, (y + 2) % 5)
    check(bank, a, y)


def test_nothing_of_it_is_saved(tmp_path):
    bank, a, y = filled()
    check(bank, a, y)
    torch.save({"state": bank.state_dict(), "features": bank.features}, tmp_path / "bank.pt")
    state = torch.load(tmp_path / "bank.pt", weights_only=True)
    other = tla_ops.FeatureBank(ROWS, DIM)
    other.load_state_dict(state["state"])
    check(other, a, y)
    check(pickle.loads(pickle.dumps(bank)), a, y)


def test_inference_mode():
    with torch.inference_mode():
        bank, a, y = filled()
        check(bank, a, y)


def test_gradients_and_errors():
    bank, a, y = filled()
    leaves = [x.clone().requires_grad_() for x in (a, a + 1)]
    bank.triplet_adv_loss(*leaves, y, margin=1.0).backward()
    twins = [x.clone().requires_grad_() for x in (a, a + 1)]
    tla_ops.triplet_adv_loss(*twins, bank.features, y, bank.labels, margin=1.0).backward()
    assert all(torch.equal(x.grad, t.grad) for x, t in zip(leaves, twins, strict=True))
    with pytest.raises(ValueError, match="mine_negatives: metric must be one of"):
        bank.mine_negatives(a, y, metric="cosinus")
    with pytest.raises(TypeError, match="triplet_adv_loss: anchor must be a tensor"):
        bank.triplet_adv_loss(3, a, y)


@screened
def test_packed_rows_of_another_pool_are_refused():
    bank, a, y = filled()
    rest = (a, bank.features, y, bank.labels, None, None, None, None)
    packed = ops.pack_pool(bank.features, "euclidean")
    with pytest.raises((ValueError, RuntimeError), match="metric"):
        ops.mine(*rest, "angular", "hardest", False, False, "", packed)
    with pytest.raises((ValueError, RuntimeError), match="shape"):
        ops.mine(*rest, "euclidean", "hardest", False, False, "", packed[:-1])
    with pytest.raises((ValueError, RuntimeError), match="beyond"):
        ops.repack_pool(packed, bank.features, ROWS - 1, 2)
    with pytest.raises((ValueError, RuntimeError), match="shape"):
        ops.repack_pool(packed, bank.features[:, 20:], 0, 1)


def test_operators():
    bank, _, _ = filled()
    schema = ("test_schema",)
    opcheck(ops.pack_pool, (bank.features, "angular"), test_utils=schema)
    packed = ops.pack_pool(bank.features, "angular")
    if packed.numel() > 0:
        opcheck(ops.repack_pool, (packed, bank.features, 7, 40), test_utils=schema)
    assert ops.pack_pool(bank.features, "chebyshev").shape == (0,)
