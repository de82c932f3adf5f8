"""The wgmma screen, run on the CPU: TMA, barriers and a warpgroup's products emulated.

test_simt_large.py has it beside the other screens; here is what it alone has: pairs of tiles of
anchors, strips of candidates, and clusters that take several of both.
"""

import pytest
import torch
from helpers import randn
from simt.operators import mine_large
from test_simt_large import METRICS, check, minings
from test_simt_search import features, labels, share

# Row pairs that end in either block or in neither; fewer and more tiles than stages, of one step
# (64 columns) and of several; strips of one tile and of more.
SHAPES = [(257, 260, 40), (70, 1300, 64), (1, 257, 200), (130, 300, 260), (20, 1700, 20)]


@pytest.mark.parametrize("clusters", [1, 2, 5])
def test_bits_of_the_tile_search(simt, clusters):
    for n, (b, m, d) in share(simt, SHAPES, of=5, first=clusters):
        a, c = (x.float() for x in features(("normal", "nan")[n % 2], b, m, d, seed=n))
        y, cy, exclude, targets = labels(b, m, n)
        plan = {"screen": "wgmma", "clusters": clusters}
        for k, more in list(enumerate(minings(c, b, exclude, targets)))[n % 3 :: 3]:
            if simt.flavour == "plain" or k > 2:
                metric = METRICS[(n + k) % 3]
                check(simt, (a, c, y, cy), seed=n + k, metric=metric, plan=plan, **more)


@pytest.mark.parametrize("metric", METRICS)
def test_classes_of_any_extent(simt, metric):
    """A class that is a tile, a part of one, or all but one candidate; rows that may pick none."""
    m, d = 600, 24
    a, c = randn(40, d), randn(m, d, seed=1)
    edges = torch.tensor([0, 1, 255, 256, 258, 264, 512, 513, 599, 600])
    cy = torch.bucketize(torch.arange(m), edges, right=True)
    y = torch.arange(40) % 12
    exclude = torch.arange(40) * 15
    plan = {"screen": "wgmma", "clusters": 2}
    for n, more in share(simt, [{}, {"same_class": True}, {"target_labels": (y + 1) % 12}], of=3):
        call = {"metric": metric, "plan": plan, "exclude": exclude, **more}
        check(simt, (a, c, y, cy), seed=n, **call)
    one = torch.zeros(m, dtype=torch.int64)
    check(simt, (a, c, one[:40], one), seed=1, metric=metric, plan=plan)


def test_every_schedule(simt):
    """Whatever comes first, and however late copies and products end."""
    a, c = randn(140, 300), randn(520, 300, seed=1)
    y, cy = torch.arange(140) % 3, torch.arange(520) % 3
    for seed in range(8 if simt.flavour == "plain" else 3):
        plan = {"screen": "wgmma", "clusters": 1 + seed % 2}
        check(simt, (a, c, y, cy), seed=seed, metric=METRICS[seed % 3], plan=plan)


def test_lists_are_as_short_as_with_mma(simt):
    """What the strips know of each other keeps lists short."""
    a, c = randn(64, 64), randn(1500, 64, seed=1)
    y, cy = torch.zeros(64, dtype=torch.int64), torch.ones(1500, dtype=torch.int64)
    counts = [
        mine_large(simt, a, c, y, cy, screen=screen, clusters=3)["rescored"]
        for screen in ("mma", "wgmma")
    ]
    assert counts[1].min() >= 1
    assert counts[1].float().mean() < counts[0].float().mean() + 0.2
