"""The search of few anchors in a bank that is read as it is: the tile search's very bits."""

import itertools

import pytest
import torch
from helpers import allowed_mask, check_pick, matrix64, randn, same_bits
from simt.operators import GPUS, mine, mine_bank, share
from test_simt_large import METRICS, minings
from test_simt_search import KINDS, features, labels

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rows that end within 16 bytes, within 128, and on either's boundary; tiles of 256, whole or not.
SHAPES = [(20, 300, 70), (9, 520, 33), (5, 256, 129), (66, 270, 64), (3, 90, 257)]
# Anchors that stay or stream, through few stages and many; a block with several tiles.
PLANS = [{"resident": 1, "stages": 2}, {"resident": 0, "stages": 2}, {"resident": 0, "stages": 5},
         {"resident": 1, "stages": 3}]  # fmt: skip


def bank(c, dtype):
    """Rows on boundaries of 16 bytes, whatever their length; what lies between them is nobody's."""
    step = 16 // dtype.itemsize
    memory = torch.full((len(c), -(-c.shape[1] // step) * step), torch.nan, dtype=dtype)
    memory[:, : c.shape[1]] = c
    return memory[:, : c.shape[1]]


def check(simt, case, *, seed, metric, plan, **call):
    """Equal to the search by tiles, bit for bit; returns what was rescored, and listed."""
    truth = mine(simt, *case, seed=seed, metric=metric, **call)
    answer = mine_bank(simt, *case, seed=seed + 1, metric=metric, **plan, **call)
    assert torch.equal(answer["index"], truth["index"])
    there = ~truth["distance"].isnan()
    assert torch.equal(answer["distance"].isnan(), ~there)
    assert same_bits(answer["distance"][there], truth["distance"][there])
    return answer["rescored"], answer["listed"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_the_tile_search(simt, kind, metric):
    start = KINDS.index(kind) + METRICS.index(metric)
    for number, dtype in share(simt, DTYPES, of=3, first=start):
        first = start + number
        b, m, d = SHAPES[first % 5]
        a, c = (x.float() for x in features(kind, b, m, d, seed=first))
        c = bank(c, dtype)
        a = a if first % 2 else a.to(dtype)
        y, cy, exclude, targets = labels(b, m, first)
        every = list(enumerate(minings(c.contiguous(), b, exclude, targets)))
        for n, more in every[first % 4 :: 4]:
            gpu = GPUS["turns" if (n + first) % 2 else "cluster"]
            plan = PLANS[(n + first) % 4]
            check(simt, (a, c, y, cy), seed=n, metric=metric, plan=plan, gpu=gpu, **more)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_near_ties(simt, metric, dtype):
    """Candidates nearer to each other than the screen tells, the best of them anywhere."""
    b, m, d = 12, 272, 48
    for n, step in share(simt, [1e-3, 0.0], of=2):
        a, c = randn(b, d, seed=n), randn(m, d, seed=n + 50)
        c = c[::16].repeat(16, 1)[torch.randperm(m)] + step * randn(m, d, seed=n + 9)
        a = c[:b] + 0.3 * a
        if metric != "euclidean":
            c = c * 10 ** (4 * torch.rand(m, 1) - 2)
        a[5], c[7] = 0, 0
        c = bank(c, dtype)
        y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64)
        plan = PLANS[n]
        call = {"metric": metric, "plan": plan, "gpu": GPUS["turns"]}
        rescored, _ = check(simt, (a, c, y, cy), seed=n, **call)
        answer = mine_bank(simt, a, c, y, cy, metric=metric, seed=n, **plan)
        d64 = matrix64(a, c.float(), metric)
        check_pick(answer["distance"], answer["index"], d64, allowed_mask(y, cy), "nearest")
        if step == 0:  # every one of the group may be the best
            assert rescored[rescored >= 0].float().mean() >= (14 if metric == "euclidean" else 10)
        check(simt, (a, c, y, cy), seed=n, mining="semihard", positive=c[:b].unsqueeze(1), **call)


@pytest.mark.parametrize("metric", METRICS)
def test_rounding_that_adds_up(simt, metric):
    """Rows of eight values each: what rounding takes from one element it takes from sixteen."""
    b, m, d = 24, 512, 128
    for _, dtype in share(simt, DTYPES, of=3, first=METRICS.index(metric)):
        c = 1 + torch.rand(m, 8, generator=torch.Generator().manual_seed(1)) / 32
        # Where candidates have few values of their own, anchors near them tell what rounding does.
        a = c.mean(0) + (1 if dtype == torch.float32 else 0.02) * randn(b, 8, seed=1)
        a, c = a.repeat_interleave(d // 8, 1), bank(c.repeat_interleave(d // 8, 1), dtype)
        case = (a, c, torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64))
        rescored, _ = check(simt, case, seed=1, metric=metric, plan=PLANS[0])
        assert rescored.float().mean() > 1.5
        # The screen alone is wrong about some, where it rounds either side by much.
        index = mine_bank(simt, *case, metric=metric)["index"]
        fast = mine_bank(simt, *case, metric=metric, fast=True)["index"]
        assert dtype == torch.float16 or not torch.equal(fast, index)


@pytest.mark.parametrize("metric", ["angular", "cosine"])
def test_what_bfloat16_takes_from_anchors(simt, metric):
    """Half of an anchor loses the same from each element: it points at another candidate."""
    m, d = 300, 128
    a = torch.ones(4, d)
    a[:, : d // 2] += 2**-9  # half a step of bfloat16
    c = torch.ones(m, d)
    c[0::2, : d // 2] = 2  # nearer
    c[1::2, d // 2 :] = 2
    c[1::2, :8] += 2**-7  # nearer than that, but for what was lost
    case = (a, bank(c, torch.bfloat16))
    case = (*case, torch.zeros(4, dtype=torch.int64), torch.ones(m, dtype=torch.int64))
    check(simt, case, seed=1, metric=metric, plan=PLANS[0], gpu=GPUS["turns"])
    assert (mine_bank(simt, *case, metric=metric)["index"] == 0).all()
    assert (mine_bank(simt, *case, metric=metric, fast=True)["index"] == 1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_what_tf32_takes_from_candidates(simt, metric):
    """Half a row loses the same from each element, all of it along anchors that lose nothing."""
    m, d = 512, 128
    c = torch.ones(m, d)
    c[:, : d // 2] += 8e-7 * torch.arange(m).unsqueeze(1)  # at most half a step of tf32
    c[:, 1 + d // 2 :: 2] = -1
    a = torch.full((4, d), 2.0)
    case = (a, c, torch.zeros(4, dtype=torch.int64), torch.ones(m, dtype=torch.int64))
    check(simt, case, seed=1, metric=metric, plan=PLANS[0], gpu=GPUS["turns"])
    assert mine_bank(simt, *case, metric=metric, fast=True)["index"].max() < m - 64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_few_are_listed_and_rescored(simt, metric, dtype):
    b, m, d = (50, 1024, 131) if simt.flavour == "plain" else (20, 600, 67)
    a, c = randn(b, d), bank(randn(m, d, seed=1), dtype)
    y, cy = torch.arange(b) % 5, torch.arange(m) % 5
    rescored, listed = check(simt, (a, c, y, cy), seed=3, metric=metric, plan={})
    assert rescored.min() >= 1
    assert rescored.float().mean() < (3 if dtype == torch.bfloat16 else 1.6)
    # A block has 256 candidates, and lists what nobody it knows of beats.
    assert listed.float().mean() <= 3 * -(-m // 256)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lists_that_run_over(simt, dtype):
    """Rows whose list is too short, or that floats cannot compare, are searched whole."""
    b, m, d = 12, 300, 40
    a, c = randn(b, d).to(dtype).float(), randn(m, d, seed=1)
    a[4], c[30:] = c[0].to(dtype), c[0]  # the first row's copies
    a[8, 3] = torch.nan
    y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64)
    for n, (capacity, metric) in share(simt, itertools.product((1, 64, 512), METRICS), of=9):
        plan = {"capacity": capacity, **PLANS[n % 4]}
        case = (a, bank(c, dtype), y, cy)
        rescored, _ = check(simt, case, seed=n, metric=metric, plan=plan)
        assert rescored[8] == -1
        assert (rescored[4] == -1) == (capacity < 270)
        if capacity == 512:
            assert (rescored >= 0).sum() == b - 1
    # Candidates that nothing is known of stand in every list.
    c[:, 0] = torch.where(torch.arange(m) % 10 == 3, torch.inf, c[:, 0])
    for metric in METRICS:
        rescored, _ = check(simt, (a, bank(c, dtype), y, cy), seed=1, metric=metric, plan={})
        assert rescored[0] >= 30


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_fast_takes_the_screen_at_its_word(simt, metric, dtype):
    b, m, d = 20, 300, 128
    a, c = randn(b, d), bank(randn(m, d, seed=1), dtype)
    y, cy, exclude, _ = labels(b, m, 0)
    d64 = matrix64(a, c.float(), metric)
    tol = 3e-2 if dtype == torch.bfloat16 else 4e-3
    for more, want in (({}, "nearest"), ({"same_class": True}, "farthest")):
        answer = mine_bank(simt, a, c, y, cy, metric=metric, fast=True, **exclude, **more)
        allowed = allowed_mask(y, cy, **exclude, same_class=bool(more))
        assert answer["rescored"].max() <= 1 + b // 10
        check_pick(answer["distance"], answer["index"], d64, allowed, want, tol=tol)


def test_no_candidates_and_no_anchors(simt):
    for b, m in ((3, 0), (0, 300), (1, 1)):
        a, c = randn(b, 16), randn(m, 16, seed=1)
        y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64)
        check(simt, (a, c, y, cy), seed=1, metric="cosine", plan={})
