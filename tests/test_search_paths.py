"""Each path of the CPU's search, reached on purpose, picks what its own distances say.

The screen lists what it cannot rule out and looks at it when a list is full or at the end; from
the 4097th candidate on it looks at crowded panels (of 32) at once; where all are crowded it hands
the rest to tiles. Every instruction set gets the same problems: without a screen there are the
tiles alone.
"""

import pytest
import torch
from helpers import METRICS, NEVER
from test_exactness import best

import tla_ops
from tla_ops import _build_info

AVAILABLE = _build_info.info()["cpu"]["available"]
SINGLE, DOUBLE, HALF = torch.float32, torch.float64, torch.float16


@pytest.fixture(params=AVAILABLE, autouse=True)
def instruction_set(request):
    before, threads = torch.ops.tla_ops.use_instruction_set(request.param), torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param
    torch.ops.tla_ops.use_instruction_set(before)
    torch.set_num_threads(threads)


def randn(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def check(a, c, metric, *, cy=None, exclude=None, positive=None):
    """Nearest, farthest, and (with the positives' rows among the candidates) semihard."""
    y = torch.zeros(len(a), dtype=torch.int64)
    cy = torch.ones(len(c), dtype=torch.int64) if cy is None else cy
    call = {"metric": metric, "exclude": exclude}
    d = tla_ops.cdist(a, c, metric=metric)
    there = (cy != NEVER).expand(d.shape)
    if exclude is not None:
        there = there & (torch.arange(len(c)) != exclude[:, None])
    wanted = {
        "nearest": (tla_ops.mine_negatives(a, c, y, cy, **call), best(d, there, False)),
        "farthest": (tla_ops.mine_positives(a, c, y + 1, cy, **call), best(d, there, True)),
    }
    if positive is not None:
        p = c[positive].to(a.dtype)
        bound = tla_ops.cdist(a[:, None], p[:, None], metric=metric)[:, 0]
        beyond = there & ((d > bound) | d.isnan() | bound.isnan())
        index = best(d, beyond, False)
        index = torch.where(index >= 0, index, best(d, there, True))
        found = tla_ops.mine_negatives(a, c, y, cy, mining="semihard", positive=p, **call)
        wanted["semihard"] = found, index
    for name, ((distance, index), expected) in wanted.items():
        wrong = (index != expected).nonzero()[:, 0]
        assert not len(wrong), (name, wrong.tolist(), index[wrong], expected[wrong])
        at = d.gather(1, index[:, None])[:, 0]
        assert torch.equal(distance.nan_to_num(-1), at.nan_to_num(-1)), name


def middle(a, c, metric, rank):
    """For each anchor the candidate of that rank, a positive amid the crowd."""
    return tla_ops.cdist(a, c, metric=metric).argsort(1)[:, rank]


def cluster(b, m, d, spread, seed=0):
    center = randn(1, d, seed=seed + 1)
    return center + spread * randn(b, d, seed=seed + 2), center + spread * randn(m, d, seed=seed)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE, HALF], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_lists_fill_and_are_flushed(metric, dtype):
    """400 candidates that no screen tells apart: too few for crowded panels."""
    a, c = (x.to(dtype) for x in cluster(40, 400, 70, 2e-3 if dtype == HALF else 1e-6))
    a[::2] = -a[::2]
    check(a, c, metric, positive=middle(a, c, metric, 150))
    # Nearer and nearer, so that each of a list is better than those before.
    steps = torch.linspace(2e-3, 1e-3, 400, dtype=torch.float64)[:, None]
    a, c = randn(1, 70).expand(40, 70), randn(1, 70) + steps * randn(1, 70, seed=1)
    check(a.to(dtype), c.to(dtype), metric)
    check(a.to(dtype), c.flip(0).to(dtype), metric)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE, HALF], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_crowded_panels_are_decided_at_once(metric, dtype):
    """Three panels of 200 hold the anchors' neighbours: too few to leave the screen.

    A candidate that hits more than 64 anchors is looked at in several steps.
    """
    a, near = cluster(100, 96, 70, 1e-2 if dtype == HALF else 1e-6)
    c = randn(6400, 70, seed=5)
    c[800:832], c[5216:5248], c[6336:6368] = near[:32], near[32:64], near[64:]
    c[6340] = c[5217] = c[805]  # copies
    a[0] = c[805]
    a, c = a.to(dtype), c.to(dtype)
    check(a, c, metric, positive=middle(a, c, metric, 40))
    check(-a, c, metric)


@pytest.mark.parametrize("first", [3, 700, 4999])
@pytest.mark.parametrize("metric", METRICS)
def test_the_first_nan_wins_listed_or_decided_at_once(metric, first):
    """A NaN hits every anchor, so that its panel is crowded; an earlier one may be listed."""
    a, c = randn(40, 70).float(), randn(6400, 70, seed=1).float()
    c[first, 5] = c[1000] = c[5000] = c[6399, 0] = torch.nan
    check(a, c, metric)
    a[7, 0] = torch.nan
    a[8, 0] = torch.inf
    check(a, c, metric, exclude=torch.full((40,), first))


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_left_to_tiles_starts_from_the_picks_so_far(metric, spread):
    """All candidates crowd; the best is before, behind and near where the screen gives up."""
    a, c = cluster(40, 1800, 70, spread)
    where = torch.tensor([0, 1, 63, 511, 512, 543, 544, 575, 576, 607, 608, 700, 1000, 1799] * 3)
    a = c[where[:40]] + 1e-3 * spread * randn(40, 70, seed=9)
    for dtype in (SINGLE, DOUBLE):
        x, y = a.to(dtype), c.to(dtype)
        check(x, y, metric, positive=middle(x, y, metric, 30))
        y[900:] = y[:900].clone()
        check(x, y, metric, exclude=where[:40])


@pytest.mark.parametrize("cosine", [0.5, 0.9, 0.999, 0.99999])
@pytest.mark.parametrize("metric", METRICS[:3])
def test_what_rows_have_in_common_is_put_back(metric, cosine):
    """Centers are taken from rows, whose anchors and limits have to know; semihard, and |cos|."""
    d = 96
    center = randn(1, d, seed=3)
    center *= d**0.5 / center.norm()
    t = ((1 - cosine) / cosine) ** 0.5
    a, c = center + t * randn(40, d), center + t * randn(1500, d, seed=1)
    a[::4] *= -1  # angular: the sum's sign is that of the center
    a[3], c[7], c[1400] = 0, 0, -c[1399]
    for dtype in (SINGLE, DOUBLE, HALF):
        x, y = a.to(dtype), c.to(dtype)
        check(x, y, metric, positive=middle(x, y, metric, 100))
        check(x, y, metric, positive=middle(x, y, metric, 1400))


def test_what_float32_takes_from_float64_candidates():
    """Euclidean less a center: of |c|^2 / 2, too, the conversion takes something.

    The anchor and one candidate lie where rounding moves them together, another candidate and they
    where it moves them apart; the center is exact, and 0 is left of the anchor.
    """
    base, ulp, m, d = 1 + 2.0**-10, 2.0**-23, 256, 64
    a = torch.full((24, d), base - 0.49 * ulp, dtype=DOUBLE)
    c = torch.full((4096, d), base + (m + 3) * ulp, dtype=DOUBLE)
    c[::128], c[64::128] = base + 2 * m * ulp, base - 2 * m * ulp  # the center's sample
    c[40] = base + (m + 0.49) * ulp
    c[104] = base - (m + 1.51) * ulp
    c[104, :4] += ulp
    check(a, c, "euclidean")


def test_what_float32_takes_from_float64_anchors_and_their_limits():
    """The same of |a|^2 / 2, by which a positive's distance becomes a limit of scores."""
    base, ulp, d = 1 + 2.0**-10, 2.0**-23, 64
    for sign in (1, -1):
        a = torch.full((24, d), base + sign * 20.49 * ulp, dtype=DOUBLE)
        c = torch.full((4096, d), base)
        c[40] += sign * ulp
        c[104, :48] += sign * ulp
        check(a, c, "euclidean", positive=torch.full((24,), 40))
        check(a, c, "euclidean", positive=torch.full((24,), 104))


@pytest.mark.parametrize("rounded", ["anchors", "candidates"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("most", [127, 2047])
def test_steps_that_add_up_to_the_bound(most, rounded, swap):
    """Integers take half a step from each of some elements and give as much to others: those of 8
    bits and those of which products of 512 columns fit into 32 bits.
    """
    down, up, step = 10.499, 10.501, 2
    a, c = torch.full((24, 512), float(most)), torch.zeros(128, 512)  # rows of zeros have no center
    first, second = (70, 3) if swap else (3, 70)
    if rounded == "anchors":
        a[:, 1:256], a[:, 256:511], a[:, 511] = down, up, 0
        c[first, 1:256], c[first, 256:511] = step, -step
        c[second, 1:256], c[second, 256:510] = -step, step
        c[first, 255] = 2 * step
        # Nearer than zeros, in steps of which 16 are 2.
        c[first, 0] = c[second, 0] = 127 / 16 * step
    else:
        c[first, 1:509], c[second, 1:509] = step * down, step * up
        c[first, 509] = 2 * step
        c[first, 0] = c[second, 0] = most * step
    d = tla_ops.cdist(a, c, metric="euclidean")[0]
    assert d[first] < d[second] < d[1]
    check(a, c, "euclidean")


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("dim", [16, 17, 31, 33, 4095, 4096, 4097, 4113, 8200])
@pytest.mark.parametrize("metric", METRICS)
def test_sums_in_pieces_and_blocks_of_few_anchors(metric, dim, dtype):
    """Sums longer than 4096 are joined; of 8200 columns the screen's blocks have 64 anchors."""
    a, c = cluster(70 if dim == 8200 else 26, 100, dim, 1e-3)
    a, c = a.to(dtype), c.to(dtype)
    check(a, c, metric, positive=middle(a, c, metric, 50))
    check(a, torch.cat([c[:40], randn(40, dim).to(dtype), -c[50:]]), metric)


@pytest.mark.parametrize("dim", [16, 17, 640, 65536])
@pytest.mark.parametrize("metric", METRICS[:3])
def test_the_largest_sums_of_the_longest_rows_that_are_screened(metric, dim):
    """Each column has the largest step there is; 65536 are the most that are screened."""
    signs = 2 * torch.randint(2, (88, dim), generator=torch.Generator().manual_seed(0)) - 1
    a, c = signs[:24].float(), signs[24:].float()
    c[::32] = 0  # the rows that have a say in the center
    c[7], c[40], c[41], c[50] = a[3], -a[3], a[5], 1
    a[8], a[9], a[3, :5], a[5, ::2] = 1, -1, -a[3, :5], -1
    check(a, c, metric, exclude=torch.full((24,), 7))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("metric", METRICS)
def test_copies_in_other_panels_blocks_and_splits(metric, threads):
    """The lowest index of 37 vectors that come again and again, and of their multiples."""
    torch.set_num_threads(threads)
    base = randn(37, 32)
    for b, m in ((8, 64), (24, 64), (33, 65), (1025, 310), (40, 1001), (31, 3000)):
        c = base[torch.arange(m) % 37]
        c = torch.cat([c[: m // 2], 2 * c[m // 2 :]]) if metric in METRICS[:2] else c
        plan = _build_info.plan_search(b, m, 32, 4, threads, False)
        assert (plan["splits"] > 1) == (threads > 1 and b * m * 32 >= 2**18)
        a = randn(b, 32, seed=2).float()
        cy = torch.ones(m, dtype=torch.int64)
        cy[:20] = cy[31:34] = cy[-3:] = NEVER
        check(a, c.float(), metric, positive=middle(a, c.float(), metric, m // 2))
        check(a, c.float(), metric, cy=cy, exclude=torch.full((b,), 41))


@pytest.mark.parametrize("metric", METRICS)
def test_equal_sums_of_unequal_rows_are_no_copies(metric):
    """The anchors do not see the columns in which candidates differ; their norms do."""
    a, c = torch.randint(-3, 4, (40, 64)).float(), torch.randint(-3, 4, (400, 64)).float()
    a[:, 32:] = 0
    c[:, :32] = c[torch.arange(400) % 10, :32]
    c[:, 32:] *= torch.linspace(2, 0, 400).round(decimals=1)[:, None]
    check(a, c, metric, positive=middle(a, c, metric, 200))


@pytest.mark.parametrize("b", [9, 17, 31, 33, 63])
@pytest.mark.parametrize("m", [65, 95, 97, 545])
@pytest.mark.parametrize("metric", METRICS)
def test_what_may_not_be_picked_sets_no_limit(metric, m, b):
    """Padding, unfilled slots and excluded candidates score better than all there is."""
    a = randn(1, 40).expand(b, 40) + 1e-3 * randn(b, 40, seed=1)
    c = -randn(1, 40) + 0.3 * randn(m, 40, seed=2)
    c[5], c[m - 2] = a[0], 1e-3 * a[0]
    cy = torch.ones(m, dtype=torch.int64)
    cy[m - 2] = NEVER
    exclude = torch.full((b,), 5)
    for x, y in ((a, c), (1e-6 * a, 1e-6 * c), (a, 1e3 * c)):
        x, y = x.float(), y.float()
        check(x, y, metric, cy=cy, exclude=exclude, positive=middle(x, y, metric, m // 3))


@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_any_size_beyond_what_the_screen_knows(metric):
    """Underflow, norms near those of no direction, overflow, and limits that float32 has not."""
    u = randn(1, 64)
    u /= u.norm()
    line = torch.linspace(0.5, -0.99, 2048, dtype=torch.float64)[:, None] * u
    for scale in (1e-20, 1e-12, 1e16, 1e18, 2e18, 1e25):
        a = (0.95 * scale * u).expand(24, 64).float()
        c = (scale * line).float()
        check(a, c, metric, positive=torch.full((24,), 1900))
        c = (scale * randn(700, 64) * 10 ** randn(700, 1, seed=1)).float()
        check(a, c, metric, positive=torch.arange(24))


@pytest.mark.parametrize("metric", ["angular", "cosine"])
def test_rows_that_barely_have_a_direction(metric):
    """Whether a squared norm reaches 1e-24 is for the sums that decide to say."""
    u = randn(1, 640)
    u /= u.norm()
    c = randn(128, 640, seed=1)
    c -= c @ u.T * u
    # Without a direction a row is farther than these, with u's it is nearer.
    c = c / c.norm(dim=1, keepdim=True) + u
    for k in range(-24, 24):
        c[70] = 1e-12 * (1 + k * 2.0**-25) * u
        check(u.expand(24, 640).float(), c.float(), metric)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE, HALF, torch.bfloat16], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_lie_apart_across_or_on_each_other(metric, dtype):
    """Candidates by column, every other column, out of a wider matrix, and all the same memory."""
    a, c = (x.to(dtype) for x in cluster(40, 700, 50, 0.2))
    wide, other = torch.full((2, 700, 150), torch.nan, dtype=dtype)
    wide[:, 50::2] = other[:, 7:57] = c
    positive = middle(a, c, metric, 300)
    for x in (c.t().contiguous().t(), wide[:, 50::2], other[:, 7:57]):
        check(a, x, metric, positive=positive)
        check(a.t().contiguous().t(), x, metric)
    check(a, c[:1].expand(700, 50), metric)
    check(a[:1].expand(40, 50), c, metric)
