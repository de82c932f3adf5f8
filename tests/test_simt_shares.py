"""Gradients of pools whose picks are sorted: the bits of the one launch that looks through them."""

import pytest
import torch
from helpers import DTYPES, METRICS, REDUCTIONS, make_problem, randn, same_bits
from simt.operators import GPUS, backward, share
from test_simt_gradients import FEW, autograd64, check, picks

CALL = {"norm_weight": 0.02, "margin": 0.4}


def alike(sorted, scanned):
    assert set(sorted) == set(scanned)
    for name in scanned:
        assert same_bits(sorted[name], scanned[name]), name


def runs(lengths, seed, none=0):
    """Picks of row 0, 1, ... so many times each, and of none, in any order."""
    index = [row for row, n in enumerate(lengths) for _ in range(n)] + [-1] * none
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(index)[order]


SIZES = [(1, 1, 1), (5, 3, 7), (33, 40, 20), (40, 9, 515), (9, 200, 66)]


@pytest.mark.parametrize("metric", METRICS)
def test_sorted_picks(simt, metric):
    first = METRICS.index(metric)
    for n, (b, m, d) in share(simt, SIZES, of=3, first=first):
        dtype = DTYPES[(n + first) % 4]
        reduction = REDUCTIONS[(n + first) % 3]
        problem = make_problem(b, m, d, (n + first) % 3, dtype=dtype, seed=n)
        upstream = randn(b, seed=n) if reduction == "none" else torch.tensor(0.7)
        everywhere = [torch.full((b,), row) for row in (-1, m - 1)]
        for k, index in enumerate([picks(b, m, n), picks(b, m, n, none=0), *everywhere]):
            call = {**CALL, "metric": metric, "reduction": reduction, "negative_index": index}
            scanned = backward(simt, upstream, *problem.features, **call, seed=n)
            gpu = list(GPUS.values())[(n + k) % 4] if k % 2 else FEW
            rows = {**call, "gpu": gpu, "seed": n + k}
            got = backward(simt, upstream, *problem.features, **rows, sorted=True)
            alike(got, scanned)
            plain = {key: call[key] for key in (*CALL, "metric", "reduction")}
            *_, truth = autograd64(*problem.features, upstream, n=index, **plain)
            check(got, truth)
            for sparse in (False, True):
                needed = [(0, 0, 1), (1, 0, 0), (0, 1, 1)][(n + k) % 3]
                how = {"needed": needed, "sparse": sparse}
                alike(
                    backward(simt, upstream, *problem.features, **rows, **how, sorted=True),
                    backward(simt, upstream, *problem.features, **rows, **how),
                )


@pytest.mark.parametrize("metric", METRICS)
def test_sorted_picks_of_one_batch(simt, metric):
    """Both pools, and anchors that are left out."""
    for n, (b, d) in share(simt, [(1, 4), (7, 20), (40, 33), (20, 516)], of=2, first=len(metric)):
        e = randn(b, d, seed=n)
        index = {"positive_index": picks(b, b, n), "negative_index": picks(b, b, n + 1)}
        call = {**CALL, **index, "metric": metric}
        upstream = torch.tensor(0.7)
        scanned = backward(simt, upstream, e, e, e, **call, seed=n)
        alike(backward(simt, upstream, e, e, e, **call, sorted=True, gpu=FEW, seed=n), scanned)
        # Of a row of its own as negative, one pool is left.
        call["negative_index"] = None
        scanned = backward(simt, upstream, e, e, e, **call, seed=n)
        alike(backward(simt, upstream, e, e, e, **call, sorted=True, gpu=FEW, seed=n), scanned)


PILES = {
    "all pick one": ([700], 0),
    "just a piece": ([256], 0),
    "pieces and one": ([513], 3),
    "none but a piece": ([1, 255, 256, 1], 255),
    "no two at the same place": ([257, 511, 0, 256, 3], 1),
    "side by side": ([300, 300, 300], 0),
}


@pytest.mark.parametrize("pile", PILES)
def test_rows_that_many_pick(simt, pile):
    """Shares add up in pieces of 256, here and there, and to what float64 says."""
    n = list(PILES).index(pile)
    if not share(simt, [pile], of=2, first=n):
        pytest.skip("another flavour's")
    lengths, none = PILES[pile]
    index = runs(lengths, n, none)
    b, d = len(index), (5, 4)[n % 2]
    a, p, c = (
        randn(b, d, seed=n),
        randn(b, 1, d, seed=n + 1),
        randn(len(lengths) + 1, d, seed=n + 2),
    )
    upstream = 1 + randn(b, seed=n).abs()
    call = {**CALL, "metric": METRICS[n % 4], "reduction": "none"}
    *_, truth = autograd64(a, p, c, upstream, n=index, **call)
    for sparse in (False, True):
        sent = {**call, "negative_index": index, "sparse": sparse, "seed": n}
        scanned = backward(simt, upstream, a, p, c, **sent)
        got = backward(simt, upstream, a, p, c, **sent, sorted=True, gpu=FEW)
        alike(got, scanned)
        if not sparse:
            check(got, truth)
    if simt.flavour != "plain":
        return
    # The order shows in the bits of sums in float64, which rounding to float32 hides.
    wide = [x.double() for x in (a, p, c)]
    sent = {**call, "negative_index": index}
    alike(
        backward(simt, upstream.double(), *wide, **sent, sorted=True),
        backward(simt, upstream.double(), *wide, **sent),
    )


def test_nothing_to_sort(simt):
    for b, m in [(0, 0), (0, 5), (4, 0)]:
        problem = make_problem(b, m, 6, 1)
        index = torch.full((b,), -1)
        for sparse in (False, True):
            call = {**CALL, "negative_index": index, "sparse": sparse}
            got = backward(simt, torch.tensor(1.0), *problem.features, **call, sorted=True)
            assert got["negative"].shape == (b if sparse else m, 6)
            assert not got["negative"].any()
