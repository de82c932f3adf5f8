"""Every search picks what its own distances say: cdist's bits, the lowest index of equals.

Random problems of awkward scale (norms from 1e-18 to 1e25, clusters, copies, offsets, NaN, unfilled
slots) on every device and instruction set, in sizes that are scored by the sums themselves and by
a screen.
"""

import pytest
import torch
from helpers import DEVICES, NEVER

import tla_ops
from tla_ops import _build_info

METRICS = ["angular", "cosine", "euclidean", "chebyshev"]
KINDS = ["plain", "scales", "cluster", "copies", "offset", "nan", "huge"]
SIZES = [(9, 257, 33), (130, 300, 17), (97, 1100, 64)]


@pytest.fixture(params=[*_build_info.info()["cpu"]["available"], *DEVICES[1:]])
def device(request):
    """The CPU with each of its instruction sets, and every other device."""
    if request.param in DEVICES:
        yield torch.device(request.param)
        return
    before = torch.ops.tla_ops.use_instruction_set(request.param)
    yield torch.device("cpu")
    torch.ops.tla_ops.use_instruction_set(before)


def features(kind, b, m, d, g):
    a = torch.randn(b, d, generator=g, dtype=torch.float64)
    c = torch.randn(m, d, generator=g, dtype=torch.float64)
    if kind == "scales":
        a, c = (x * 10 ** (24 * torch.rand(len(x), 1, generator=g) - 12) for x in (a, c))
    elif kind == "cluster":
        center = torch.randn(1, d, generator=g, dtype=torch.float64)
        a, c = center + 1e-4 * a, 3 * center + 1e-5 * c
    elif kind == "copies":
        c = c[torch.randint(m // 3, (m,), generator=g)]
    elif kind == "offset":
        a, c = a + 1e3, c + 1e3
    elif kind == "nan":
        for x in (a, c):
            x[torch.randint(len(x), (2,), generator=g), 0] = torch.tensor(
                [torch.nan, torch.inf]
            ).double()
    elif kind == "huge":
        a, c = a.abs() * 1e25, c.abs() * 10 ** (40 * torch.rand(m, 1, generator=g) - 18)
    return a, c


def best(d, allowed, farthest):
    """NaN first, then the smallest (largest), then the lowest index; -1 where none is allowed."""
    key = -d if farthest else d
    largest = torch.finfo(d.dtype).max
    key = torch.where(d.isnan(), -torch.inf, key.clamp(-largest, largest))
    index = torch.where(allowed, key, torch.inf).argmin(1)
    return torch.where(allowed.any(1), index, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_picks(metric, kind, size, dtype, device):
    b, m, dim = size
    g = torch.Generator().manual_seed(hash((b, m)) % 1000 + len(kind))
    a, c = (x.to(dtype) for x in features(kind, b, m, dim, g))
    y, cy = torch.randint(3, (b,), generator=g), torch.randint(4, (m,), generator=g)
    cy[torch.rand(m, generator=g) < 0.2] = NEVER
    exclude = torch.randint(-1, m, (b,), generator=g)
    on_device = [x.to(device) for x in (a, c, y, cy)]
    d = tla_ops.cdist(*on_device[:2], metric=metric).cpu()
    there = (cy != NEVER) & (torch.arange(m) != exclude[:, None])
    other, same = there & (y[:, None] != cy), there & (y[:, None] == cy)
    call = {"metric": metric, "exclude": exclude.to(device), "precision": "exact"}

    def check(found, expected):
        distance, index = (x.cpu() for x in found)
        wrong = index != expected
        assert not wrong.any(), (wrong.nonzero()[:, 0].tolist(), index[wrong], expected[wrong])
        at = d.gather(1, index.clamp(min=0)[:, None])[:, 0].where(index >= 0, torch.inf)
        assert torch.equal(distance.view(torch.int32), at.view(torch.int32)) or (
            torch.equal(distance.isnan(), at.isnan())
            and torch.equal(distance.nan_to_num(), at.nan_to_num())
        )

    check(tla_ops.mine_negatives(*on_device, **call), best(d, other, False))
    check(tla_ops.mine_positives(*on_device, **call), best(d, same, True))
    check(tla_ops.mine_positives(*on_device, mining="easiest", **call), best(d, same, False))

    p = c[torch.randint(m, (b,), generator=g)].to(device)
    bound = tla_ops.cdist(on_device[0][:, None], p[:, None], metric=metric)[:, 0].cpu()
    beyond = other & ((d > bound) | d.isnan() | bound.isnan())
    nearest, farthest = best(d, beyond, False), best(d, other, True)
    found = tla_ops.mine_negatives(*on_device, mining="semihard", positive=p, **call)
    check(found, torch.where(nearest >= 0, nearest, farthest))


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_a_product_in_bfloat16_is_known_to_be_one(setting, device):
    """Roundings that all point the same way, so that a product is off by nearly the whole bound.

    One candidate shares the coordinates that round down, another, a little farther away, those that
    round up.
    """
    b, m, dim = 128, 128, 512
    down, up = 1 + 2.0**-8, 1 + 3 * 2.0**-8
    a = torch.full((b, dim), down)
    a[:, 256:] = up
    c = -a.clone()
    c[3], c[70] = 0, 0
    c[3, 256:507] = up
    c[70, :256] = down
    y, cy = torch.zeros(b, dtype=torch.int64), torch.ones(m, dtype=torch.int64)
    a, c, y, cy = (x.to(device) for x in (a, c, y, cy))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        _, index = tla_ops.mine_negatives(a, c, y, cy, metric="cosine", precision="exact")
    finally:
        torch.set_float32_matmul_precision(before)
    d = tla_ops.cdist(a, c, metric="cosine").cpu()
    assert 1e-3 < d[0, 3] - d[0, 70] < 2e-3
    assert torch.equal(index.cpu(), d.argmin(1))


@pytest.mark.parametrize("metric", METRICS)
def test_long_rows_keep_their_digits(metric, device):
    """Rounding does not grow with D."""
    g = torch.Generator().manual_seed(1)
    a = 0.1 + 1e-3 * torch.rand(3, 200_003, generator=g)
    c = 0.1 + 1e-3 * torch.rand(5, 200_003, generator=g)
    a, c = a.to(device), c.to(device)
    d = tla_ops.cdist(a, c, metric=metric)
    truth = tla_ops.cdist(a.double(), c.double(), metric=metric)
    torch.testing.assert_close(d.double(), truth, rtol=2e-5, atol=2e-5)
