"""The search of large problems, run on the CPU: the tile search's very bits, whatever is screened.

All screens, several chunks, lists that run over, and everything that may stand in a row.
"""

import itertools

import pytest
import torch
from helpers import allowed_mask, check_pick, matrix64, randn, same_bits
from simt.operators import GPUS, mine, mine_large
from test_simt_search import KINDS, features, labels, share

METRICS = ("angular", "cosine", "euclidean")
SHAPES = [(20, 150, 70), (33, 130, 33), (5, 140, 516), (130, 40, 64), (9, 129, 257)]
CHUNKS = [{}, {"anchor_chunk": 16, "candidate_chunk": 64}, {"candidate_chunk": 100}]
SCREENS = ("mma", "blas", "wgmma")


def check(simt, case, *, seed, metric, plan, **call):
    """Equal to the search by tiles, bit for bit; returns how many candidates were rescored."""
    truth = mine(simt, *case, seed=seed, metric=metric, **call)
    answer = mine_large(simt, *case, seed=seed + 1, metric=metric, **plan, **call)
    assert torch.equal(answer["index"], truth["index"])
    there = ~truth["distance"].isnan()
    assert torch.equal(answer["distance"].isnan(), ~there)
    assert same_bits(answer["distance"][there], truth["distance"][there])
    return answer["rescored"]


def minings(c, b, exclude, targets):
    """Everything that is searched for."""
    positive = c[torch.arange(b * 2) * 5 % len(c)].view(b, 2, -1)
    yield exclude
    yield targets
    yield {"same_class": True, **exclude}
    yield {"same_class": True, "mining": "easiest", **exclude}
    yield {"mining": "semihard", "positive": positive}
    yield {"mining": "semihard", "positive": positive, **targets}


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_the_tile_search(simt, kind, metric, screen):
    first = KINDS.index(kind) + METRICS.index(metric)
    b, m, d = SHAPES[first % 5]
    a, c = (x.float() for x in features(kind, b, m, d, seed=first))
    y, cy, exclude, targets = labels(b, m, first)
    plan = {"screen": screen, **CHUNKS[first % 3]}
    # Half of the searches here, half with the other screen; one of them in the slower builds.
    half = list(enumerate(minings(c, b, exclude, targets)))[
        (first + SCREENS.index(screen)) % 2 :: 2
    ]
    for n, more in half if simt.flavour == "plain" else half[first % 3 :: 3]:
        gpu = GPUS["few" if n % 2 else "cluster"]
        check(simt, (a, c, y, cy), seed=n, metric=metric, plan=plan, gpu=gpu, **more)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_near_ties(simt, metric, screen):
    """Candidates nearer to each other than half precision tells, the best of them anywhere."""
    b, m, d = 20, 256, 96
    for n, step in share(simt, [1e-2, 1e-3, 1e-5, 0.0], of=4):
        a, c = randn(b, d, seed=n), randn(m, d, seed=n + 50)
        # Groups of 16 about one direction, of any length; rows look for their own group's.
        c = c[::16].repeat(16, 1)[torch.randperm(m)] + step * randn(m, d, seed=n + 9)
        a = c[:b] + 0.3 * a
        scale = 10 ** (4 * torch.rand(m, 1) - 2)
        if metric != "euclidean":
            c = c * scale
        a[5], c[7] = 0, 0
        y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64)
        call = {"metric": metric, "plan": {"screen": screen}}
        rescored = check(simt, (a, c, y, cy), seed=n, **call)
        d64 = matrix64(a, c, metric)
        answer = mine_large(simt, a, c, y, cy, metric=metric, screen=screen, seed=n)
        check_pick(answer["distance"], answer["index"], d64, allowed_mask(y, cy), "nearest")
        if step <= 1e-5:  # every one of the group may be the best
            looked = rescored[rescored >= 0]
            assert looked.float().mean() >= 14
        check(simt, (a, c, y, cy), seed=n, mining="semihard", positive=c[:b].unsqueeze(1), **call)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_rounding_that_adds_up(simt, metric, screen):
    """Rows of eight values each: what rounding takes from one element it takes from sixteen."""
    b, m, d = 24, 512, 128
    c = 1 + torch.rand(m, 8, generator=torch.Generator().manual_seed(1)) / 32
    a = c.mean(0) + 0.5 * randn(b, 8, seed=1)
    # In eight directions, or what they have in common would be taken from them.
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    signs = torch.kron(pair, torch.kron(pair, pair))
    a, c = a * signs.repeat(b // 8, 1), c * signs.repeat(m // 8, 1)
    a, c = a.repeat_interleave(d // 8, 1), c.repeat_interleave(d // 8, 1)
    case = (a, c, torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64))
    rescored = check(simt, case, seed=1, metric=metric, plan={"screen": screen})
    assert rescored.float().mean() > 2
    assert rescored.min() > 0
    # The screen alone is wrong about some.
    call = {"metric": metric, "screen": screen}
    index = mine_large(simt, *case, **call)["index"]
    assert not torch.equal(mine_large(simt, *case, fast=True, **call)["index"], index)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_few_are_rescored(simt, metric, screen):
    """Where nothing is close a row looks at a candidate or two; no list runs over."""
    for b, m, d in ((64, 512, 768),) if simt.flavour == "plain" else ((20, 200, 128),):
        a, c = randn(b, d), randn(m, d, seed=1)
        y, cy = torch.arange(b) % 5, torch.arange(m) % 5
        rescored = check(simt, (a, c, y, cy), seed=3, metric=metric, plan={"screen": screen})
        assert rescored.min() >= 1
        assert rescored.float().mean() < 1.5
        assert rescored.max() <= 6


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_collapsed_features(simt, metric, screen):
    """What all rows have in common is taken from them before they are rounded."""
    b, m, d = (64, 512, 256) if simt.flavour == "plain" else (20, 200, 128)
    common = randn(1, d, seed=9)
    a, c = (common + 0.1 * randn(n, d, seed=n) for n in (b, m))
    y, cy = torch.arange(b) % 5, torch.arange(m) % 5
    plan = {"screen": screen}
    rescored = check(simt, (a, c, y, cy), seed=3, metric=metric, plan=plan)
    assert rescored.min() >= 1
    assert rescored.float().mean() < 1.5
    # Some lie the other way, some are short, some are nothing.
    c[::7] *= -1
    a[3], c[5] = 0, 0
    check(simt, (a, c, y, cy), seed=4, metric=metric, plan=plan)
    check(simt, (a, c, y, cy), seed=4, metric=metric, plan=plan, same_class=True)
    positive = a.unsqueeze(1) + 0.05 * randn(b, 1, d, seed=8)
    check(
        simt, (a, c, y, cy), seed=5, metric=metric, plan=plan, mining="semihard", positive=positive
    )
    c[::3] *= 1e-3
    check(simt, (a, c, y, cy), seed=6, metric=metric, plan=plan)


@pytest.mark.parametrize("screen", SCREENS)
def test_lists_that_run_over(simt, screen):
    """Rows whose list is too short, or that floats cannot compare, are searched whole."""
    b, m, d = 12, 150, 40
    a, c = randn(b, d), randn(m, d, seed=1)
    a[4], c[30:] = c[0], c[0]  # the first row's copies
    a[8, 3] = torch.nan
    y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64)
    for n, (capacity, metric) in share(simt, itertools.product((1, 64, 128), METRICS), of=9):
        plan = {"screen": screen, "capacity": capacity}
        rescored = check(simt, (a, c, y, cy), seed=n, metric=metric, plan=plan)
        assert rescored[8] == -1
        assert (rescored[4] == -1) == (capacity < 120)
        if capacity == 128:
            assert (rescored >= 0).sum() == b - 1
    # Candidates that nothing is known of stand in every list.
    c[:, 0] = torch.where(torch.arange(m) % 10 == 3, torch.inf, c[:, 0])
    for metric in METRICS:
        plan = {"screen": screen}
        check(simt, (a, c, y, cy), seed=1, metric=metric, plan=plan)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_fast_takes_the_screen_at_its_word(simt, metric, screen):
    """One candidate of each row is looked at; it is the nearest but for half precision."""
    b, m, d = 20, 200, 128
    a, c = randn(b, d), randn(m, d, seed=1)
    y, cy, exclude, _ = labels(b, m, 0)
    d64 = matrix64(a, c, metric)
    call = {"metric": metric, "fast": True, "screen": screen}
    for more, want in (({}, "nearest"), ({"same_class": True}, "farthest")):
        answer = mine_large(simt, a, c, y, cy, **call, **exclude, **more)
        allowed = allowed_mask(y, cy, **exclude, same_class=bool(more))
        assert answer["rescored"].max() <= 1 + b // 10
        check_pick(answer["distance"], answer["index"], d64, allowed, want, tol=4e-3)
    positive = a + 0.5 * randn(b, d, seed=5)
    answer = mine_large(
        simt, a, c, y, cy, mining="semihard", positive=positive.unsqueeze(1), **call
    )
    bound = matrix64(a, positive, metric).diagonal()
    check_pick(
        answer["distance"], answer["index"], d64, allowed_mask(y, cy), "semihard", bound=bound,
        tol=4e-3,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types(simt, dtype):
    """Candidates of any type, packs of four and not."""
    for metric, d in zip(METRICS, (64, 70, 131), strict=True):
        a, c = randn(30, d), randn(140, d, seed=1)
        if metric != "euclidean":
            c = c * 10 ** (6 * torch.rand(140, 1) - 3)
        y, cy, exclude, _ = labels(30, 140, d)
        a = a.to(dtype) if dtype != torch.float64 else a
        check(simt, (a, c.to(dtype), y, cy), seed=d, metric=metric, plan={}, **exclude)
