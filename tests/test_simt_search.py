"""The searches' kernels, run on the CPU: picks to the bit, losses against float64.

Every test runs in three builds. The plain one sees most; the others, which find bad addresses and
races, see a share of each list, which moves on from test to test.
"""

import itertools

import pytest
import torch
from helpers import (
    DTYPES,
    METRICS,
    MININGS,
    NEVER,
    NORMS,
    REDUCTIONS,
    SIZES,
    allowed_mask,
    check_pick,
    close,
    distance64,
    loss64,
    make_problem,
    matrix64,
    randn,
    reduced,
    same_bits,
)
from simt.operators import GPUS, adv_loss, best, cdist, drawn, mine, odd_step, share

KINDS = ["normal", "scales", "cluster", "copies", "nan", "huge", "tiny"]
# Both shapes of a tile; teams of 8 and 4 from 512 and 256 features on; whole packs and not.
SHAPES = [(9, 130, 33), (40, 70, 516), (33, 65, 300), (5, 97, 641), (70, 40, 16), (20, 129, 256)]
NAMES = list(GPUS)


def uniform(n, seed=0):
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def features(kind, b, m, d, seed):
    a, c = (randn(n, d, seed=seed + k, dtype=torch.float64) for k, n in enumerate((b, m)))
    size = uniform(b + m, seed).unsqueeze(1)
    if kind == "scales":
        a, c = a * 10 ** (24 * size[:b] - 12), c * 10 ** (24 * size[b:] - 12)
    elif kind == "cluster":
        a, c = c[:1] + 1e-4 * a, 3 * c[:1] + 1e-5 * c
    elif kind == "copies":
        c = c[torch.arange(m) * 7 % (m // 3)]
        a[:] = a[torch.arange(b) % 3]
    elif kind == "nan":
        a[1, d // 2], a[2, 0], c[m // 2, -1], c[3, 0] = torch.nan, torch.inf, torch.nan, -torch.inf
        c[5] = 0
    elif kind == "huge":
        a, c = a.abs() * 1e25, c.abs() * 10 ** (40 * size[b:] - 18)
    elif kind == "tiny":
        a, c = a * 10 ** (20 * size[:b] - 32), c * 10 ** (20 * size[b:] - 32)
        a[0], c[0] = 0, 0
    return a, c


def labels(b, m, seed, classes=3):
    g = torch.Generator().manual_seed(seed)
    y, cy = torch.randint(classes, (b,), generator=g), torch.randint(classes + 1, (m,), generator=g)
    cy[torch.rand(m, generator=g) < 0.2] = NEVER
    exclude = torch.randint(-1, m, (b,), generator=g)
    target = torch.randint(classes + 2, (b,), generator=g)  # its own, too, and one that is missing
    return y, cy, {"exclude": exclude}, {"exclude": exclude, "target_labels": target}


def check_bits(answer, d, expected):
    assert torch.equal(answer["index"], expected)
    at = d.gather(1, expected.clamp(min=0).unsqueeze(1)).squeeze(1)
    at = torch.where(expected >= 0, at, torch.inf)
    there = ~at.isnan()
    assert torch.equal(answer["distance"].isnan(), ~there)
    assert same_bits(answer["distance"][there], at[there])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_picks_are_what_cdist_says(simt, kind, metric):
    """Whoever shares a tile, in whatever order: cdist's bits, and the lowest index of equals."""
    first = 3 * KINDS.index(kind) + METRICS.index(metric)
    for n, (b, m, d) in share(simt, SHAPES, of=11, plain=3, first=first):
        gpu = GPUS[NAMES[(n + first) % 4]]
        wide = (n + first) % 5 == 4
        a, c = features(kind, b, m, d, seed=first)
        a, c = (x.to(torch.float64 if wide else torch.float32) for x in (a, c))
        y, cy, exclude, targets = labels(b, m, n)
        distances = cdist(simt, a, c, metric, seed=n)
        if kind not in ("nan", "huge", "tiny", "scales"):
            close(distances, matrix64(a, c, metric))
        other = allowed_mask(y, cy, **exclude)
        wanted = allowed_mask(y, cy, **targets)
        same = allowed_mask(y, cy, **exclude, same_class=True)
        call = {"metric": metric, "gpu": gpu}

        def check(expected, *, seed, case=(a, c, y, cy), d=distances, call=call, **more):
            check_bits(mine(simt, *case, **call, seed=seed, **more), d, expected)

        check(best(distances, other), seed=n, **exclude)
        check(best(distances, wanted), seed=n + 1, **targets)
        check(best(distances, same, True), seed=n + 2, same_class=True, **exclude)
        check(best(distances, same), seed=n + 3, same_class=True, mining="easiest", **exclude)
        u = uniform(b, n)
        for allowed, more in ((wanted, targets), (same, {"same_class": True, **exclude})):
            check(drawn(allowed, u), seed=n + 4, mining="random", uniform=u, **more)

        positive = c[torch.arange(b * 2) * 5 % m].view(b, 2, d)
        bound = cdist(simt, a.unsqueeze(1), positive, metric, seed=n).squeeze(1)
        bound = torch.where(bound.isnan().any(1), torch.nan, bound.amin(1)).unsqueeze(1)
        farther = (distances > bound) | distances.isnan() | bound.isnan()
        for allowed, more in ((other, exclude), (wanted, targets)):
            # Among the wanted class none may be farther: then its farthest, not another class's.
            nearest = best(distances, allowed & farther)
            expected = torch.where(nearest >= 0, nearest, best(distances, allowed, True))
            check(expected, seed=n + 5, mining="semihard", positive=positive, **more)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("metric", METRICS)
def test_losses(simt, metric, mining):
    """Picks, distances and losses of any size and number of positives, in both precisions."""
    cases = itertools.product(SIZES, (torch.float32, torch.float64))
    first = 3 * METRICS.index(metric) + MININGS.index(mining)
    for n, ((b, m, d), dtype) in share(simt, cases, of=11, plain=3, first=first):
        problem = make_problem(b, m, d, n % 4, dtype=dtype, seed=n)
        u = uniform(b, n) if mining == "random" else None
        norm, reduction = NORMS[n % 2], REDUCTIONS[n % 3]
        norm_weight = 0.02 * (n % 5 != 4)
        out = adv_loss(
            simt, problem, metric=metric, mining=mining, uniform=u, norm=norm, seed=n,
            norm_weight=norm_weight, reduction=reduction, gpu=GPUS[NAMES[n // 2 % 4]],
        )  # fmt: skip
        near = distance64(problem.anchor.unsqueeze(1), problem.positive, metric)
        close(out["positive_distance"], near)
        bound = near.amin(1) if n % 4 else torch.full((b,), -torch.inf)
        d64 = matrix64(problem.anchor, problem.candidates, metric)
        allowed = allowed_mask(problem.labels, problem.candidate_labels)
        want = {"hardest": "nearest", "semihard": "semihard", "random": "any"}[mining]
        check_pick(out["negative_distance"], out["index"], d64, allowed, want, bound=bound)
        if mining == "random":
            assert torch.equal(out["index"], drawn(allowed, u))
        truth = loss64(
            problem, out["index"], margin=0.3, weight=1.7, norm_weight=norm_weight, metric=metric,
            norm=norm,
        )  # fmt: skip
        assert out["loss"].dtype == dtype
        close(out["loss"], reduced(truth, reduction), 2e-5)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_strides(simt, dtype, mining):
    """Each argument of its own type and layout; elements that no load of four may touch."""
    layouts = {
        "packed": lambda x: x,
        "transposed": lambda x: x.mT.contiguous().mT,
        "odd step": odd_step,
        "padded": lambda x: torch.cat([x, x[..., :4]], -1)[..., : x.shape[-1]],
        "unaligned": lambda x: torch.cat([x[..., :1], x, x[..., :3]], -1)[..., 1:-3],
        "every other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
        "later rows": lambda x: torch.cat([x[:1], x])[1:],
        "one row": lambda x: x[:1].expand_as(x),
        "one column": lambda x: x[..., :1].expand_as(x),
    }
    others = list(itertools.product(DTYPES, DTYPES))
    first = DTYPES.index(dtype) + 2 * MININGS.index(mining)
    for n, name in share(simt, layouts, of=8, plain=2, first=first):
        types = dict(zip(("positive", "candidates"), others[(5 * n + first) % 16], strict=True))
        for k, (b, m, d) in enumerate([(6, 70, 20), (35, 33, 68), (3, 40, 515)]):
            problem = make_problem(b, m, d, 2, seed=n, dtype=torch.float64)
            laid = {
                "anchor": layouts[name](problem.anchor.to(dtype)),
                "positive": layouts[[*layouts][n - 1]](problem.positive.to(types["positive"])),
                "candidates": layouts[[*layouts][n - 2]](
                    problem.candidates.to(types["candidates"])
                ),
            }
            laid = problem._replace(**laid)
            u = uniform(b, n) if mining == "random" else None
            gpu = GPUS[NAMES[(n + k) % 4]]
            out = adv_loss(simt, laid, mining=mining, uniform=u, seed=n, gpu=gpu, metric="cosine")
            plain = problem._replace(
                **{
                    key: getattr(laid, key).to(dtype if dtype == torch.float64 else torch.float32)
                    for key in ("anchor", "positive", "candidates")
                }
            )
            again = adv_loss(simt, plain, mining=mining, uniform=u, seed=n + 1, metric="cosine")
            for key, value in out.items():
                assert same_bits(value, again[key]), (name, key)
            close(out["loss"], loss64(plain, out["index"], margin=0.3, weight=1.7,
                  norm_weight=0.02, metric="cosine").mean(), 2e-5)  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
def test_whatever_shares_a_tile(simt, metric):
    """A pair's bits: whatever team sums it, whatever stands beside it, whenever threads run."""
    sizes = [1, 63, 66, 255, 256, 512, 513, 640, 1028, 4096]
    for n, d in share(simt, sizes, of=10, plain=2, first=METRICS.index(metric)):
        b = 40 if n % 2 else 5
        a, c = features("normal", b, 70, d, seed=n)
        a, c = a.float(), c.float()
        c[60] = c[3]
        y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(70, dtype=torch.int64)
        d64 = matrix64(a, c, metric)
        first = None
        for k, gpu in enumerate(GPUS.values()):
            for seed in (n, n + 100) if simt.flavour == "plain" else (n + k,):
                out = mine(simt, a, c, y, cy, metric=metric, gpu=gpu, seed=seed)
                first = first or out
                assert torch.equal(out["index"], first["index"])
                assert same_bits(out["distance"], first["distance"])
        check_pick(first["distance"], first["index"], d64, allowed_mask(y, cy), "nearest")
        full = cdist(simt, a, c, metric, seed=n)
        close(full, d64)
        assert same_bits(full[:, 60], full[:, 3])
        # Elsewhere in the batch, in a tile of the other shape, by a warp, and in double's company.
        rows = torch.arange(b * 2) % b
        alone = cdist(simt, a[:1], c[69:], metric)
        assert same_bits(alone, full[:1, 69:])
        assert same_bits(cdist(simt, a[rows], c.flip(0), metric)[b:].flip(1), full)
        positive = c[:3].expand(b, 3, d)
        near = adv_loss(simt, make_problem(b, 70, d)._replace(anchor=a, positive=positive),
                        metric=metric, seed=n)["positive_distance"]  # fmt: skip
        assert same_bits(near, full[:, :3])


def test_every_team_is_met(simt):
    """The plans these tests rely on: tile, team, where it meets, and how many tiles it has."""
    met = {}
    for gpu, d in itertools.product(GPUS, (64, 300, 640)):
        for b in (5, 40):
            y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(150, dtype=torch.int64)
            a, c = randn(b, d), randn(150, d, seed=1)
            tile, team, cluster, teams, tiles = mine(simt, a, c, y, cy, gpu=GPUS[gpu], seed=b)[
                "plan"
            ].tolist()
            met[tile, team, cluster, teams < tiles] = gpu, d
    for tile in (32, 64):
        for team, cluster in ((8, 1), (4, 1), (8, 0), (4, 0), (1, 0)):
            assert (tile, team, cluster, False) in met, (tile, team, cluster)
        assert (tile, 1, 0, True) in met


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_there(simt, reduction, mining):
    for n, (b, m, k) in enumerate([(0, 5, 1), (0, 0, 0), (3, 0, 2), (40, 0, 1), (3, 7, 0)]):
        for metric, dtype in (("angular", torch.float32), ("chebyshev", torch.float64)):
            problem = make_problem(b, m, 9, k, seed=n, dtype=dtype)
            u = uniform(b) if mining == "random" else None
            out = adv_loss(
                simt, problem, mining=mining, uniform=u, reduction=reduction, metric=metric, seed=n
            )
            allowed = allowed_mask(problem.labels, problem.candidate_labels)
            assert torch.equal(out["index"] < 0, ~allowed.any(1))
            assert out["negative_distance"][out["index"] < 0].eq(torch.inf).all()
            truth = loss64(problem, out["index"], margin=0.3, weight=1.7, norm_weight=0.02,
                           metric=metric)  # fmt: skip
            close(out["loss"], reduced(truth, reduction), 2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", MININGS)
def test_values_at_the_edge_reach_the_loss(simt, mining, metric):
    """NaN and infinity surface; rows of zeros, huge and tiny rows have the norms they have."""
    kinds = ["nan", "scales", "huge", "tiny"]
    for n, kind in share(simt, kinds, of=4, first=METRICS.index(metric)):
        a, c = (x.float() for x in features(kind, 37, 50, 21, seed=n))
        positive = c[torch.arange(37) * 3 % 50].unsqueeze(1)
        problem = make_problem(37, 50, 21, seed=n)
        problem = problem._replace(anchor=a, positive=positive, candidates=c)
        u = uniform(37) if mining == "random" else None
        out = adv_loss(
            simt, problem, mining=mining, uniform=u, reduction="none", metric=metric, seed=n
        )
        index = out["index"]
        if kind != "nan":
            close(out["positive_distance"][:, 0], distance64(a, positive[:, 0], metric))
            truth = loss64(problem, index, margin=0.3, weight=1.7, norm_weight=0.02, metric=metric)
            close(out["loss"], truth, 2e-5)
            continue
        bad = ~c.isfinite().all(1)
        hit = ~a.isfinite().all(1) | bad[index] | ~positive.isfinite().all(2).all(1)
        assert not out["loss"][hit].isfinite().any()
        assert out["loss"][~hit].isfinite().all()
        nan = a.isnan().any(1) | c.isnan().any(1)[index] | positive.isnan().any(2).any(1)
        assert out["loss"][nan].isnan().all()
