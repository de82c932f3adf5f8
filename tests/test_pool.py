"""A bank's packed rows, kept between searches, change nothing but the time a search takes."""

import copy

import pytest
import torch
from torch.library import opcheck

import tla_ops
from tla_ops import _dispatch, _pool, ops

ROWS, DIM = 1500, 48
amx = pytest.mark.skipif(
    tla_ops.build_info()["cpu"]["in_use"] != "amx", reason="this processor has no AMX unit"
)


def filled(dtype=torch.float32, rows=ROWS, filled_rows=None):
    g = torch.Generator().manual_seed(3)
    bank = tla_ops.FeatureBank(rows, DIM, dtype=dtype)
    count = rows if filled_rows is None else filled_rows
    shared = 2 * torch.randn(DIM, generator=g)
    bank.enqueue(torch.randn(count, DIM, generator=g) + shared, torch.randint(5, (count,)))
    return bank, torch.randn(40, DIM, generator=g) + shared, torch.randint(5, (40,), generator=g)


def check(bank, a, y, metric="angular", searches=3):
    """Searches of the bank find what one of a tensor that nobody follows finds."""
    plain = bank.features.clone()
    expected = tla_ops.mine_negatives(a, plain, y, bank.labels, metric=metric)
    for _ in range(searches):
        found = tla_ops.mine_negatives(a, bank.features, y, bank.labels, metric=metric)
        assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    loss = tla_ops.triplet_adv_loss(a, a, bank.features, y, bank.labels, metric=metric)
    assert loss == tla_ops.triplet_adv_loss(a, a, plain, y, bank.labels, metric=metric)


def packed_of(bank):
    return getattr(bank.features, _dispatch.POOL)._packed


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
        check(bank, a, y, metric, searches=2)
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


@pytest.mark.parametrize(
    "change", [overwritten, loaded, cleared, copy.deepcopy, lambda bank: bank.double()]
)
def test_other_changes_are_noticed(change):
    bank, a, y = filled()
    check(bank, a, y)
    bank = change(bank)
    check(bank, a, y)
    bank.enqueue(a + 0.01, (y + 1) % 5)
    check(bank, a, y)


def test_forget_packed():
    """Autograd does not know of writes through `.data`, nor of another process's."""
    bank, a, y = filled()
    check(bank, a, y)
    bank.features.data.copy_(bank.features.flip(0))
    bank.forget_packed()
    check(bank, a, y)
    bank.features.share_memory_()
    check(bank, a, y)
    assert not packed_of(bank)


@amx
def test_rows_are_packed_once(monkeypatch):
    """From the second search on, and after that panels that were written to alone."""
    calls = []
    for name in ("pack_pool", "repack_pool"):
        operator = getattr(ops, name)
        monkeypatch.setattr(
            ops, name, lambda *args, n=name, o=operator: calls.append((n, *args[2:])) or o(*args)
        )
    bank, a, y = filled()
    bank.enqueue(a[:10], y[:10])

    def search(metric):
        return tla_ops.mine_negatives(a, bank.features, y, bank.labels, metric=metric)

    search("angular")
    assert not calls
    search("angular"), search("cosine")
    assert calls == [("pack_pool",)]
    search("euclidean"), search("chebyshev")
    assert calls == [("pack_pool",)] * 2
    bank.enqueue(a, y)
    assert calls[2:] == [("repack_pool", 10, 40), ("repack_pool", 0, 0)] * 2
    # The search reads them: rows that are made to point away are not found.
    for packed in packed_of(bank).values():
        packed[1:, : 2 * 32 * 64].view(torch.int16).bitwise_xor_(-(2**15))
    assert not torch.equal(search("euclidean")[1], search_plain(bank, a, y))


def search_plain(bank, a, y):
    return tla_ops.mine_negatives(a, bank.features.clone(), y, bank.labels, metric="euclidean")[1]


def test_small_banks_and_plain_tensors_keep_nothing():
    bank, a, y = filled(rows=200)
    check(bank, a, y)
    assert not packed_of(bank)
    plain = torch.randn(ROWS, DIM)
    for _ in range(3):
        tla_ops.mine_negatives(a, plain, y, torch.randint(5, (ROWS,)))
    assert not hasattr(plain, _dispatch.POOL)


def test_nothing_of_it_is_saved(tmp_path):
    bank, a, y = filled()
    check(bank, a, y)
    torch.save(bank.state_dict(), tmp_path / "bank.pt")
    assert (tmp_path / "bank.pt").stat().st_size < 1.2 * bank.features.nbytes + 100_000
    state = torch.load(tmp_path / "bank.pt", weights_only=True)
    other = tla_ops.FeatureBank(ROWS, DIM)
    other.load_state_dict(state)
    check(other, a, y)


def test_inference_mode():
    with torch.inference_mode():
        bank, a, y = filled()
        check(bank, a, y)


@amx
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
    assert _pool.PackedPool().of(bank.features[:0], "angular") is None


def test_operators():
    bank, _, _ = filled()
    schema = ("test_schema",)
    opcheck(ops.pack_pool, (bank.features, "angular"), test_utils=schema)
    packed = ops.pack_pool(bank.features, "angular")
    if packed.numel() > 0:
        opcheck(ops.repack_pool, (packed, bank.features, 7, 40), test_utils=schema)
    assert ops.pack_pool(bank.features, "chebyshev").shape == (0,)
