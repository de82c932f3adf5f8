"""Every CPU path gives the same answers: each instruction set, and the screens."""

import pytest
import torch
from helpers import make_problem, matrix64

import tla_ops
from tla_ops import _build_info, reference

METRICS = ["angular", "cosine", "euclidean", "chebyshev"]
AVAILABLE = _build_info.info()["cpu"]["available"]


@pytest.fixture(params=AVAILABLE)
def instruction_set(request):
    before = torch.ops.tla_ops.use_instruction_set(request.param)
    yield request.param
    torch.ops.tla_ops.use_instruction_set(before)


def test_the_best_is_in_use_and_unknown_ones_are_refused():
    before = torch.ops.tla_ops.use_instruction_set("")
    assert before == AVAILABLE[0] == tla_ops.build_info()["cpu"]["in_use"]
    # Which of the two depends on how this version of torch carries an operator's exception.
    with pytest.raises((ValueError, RuntimeError), match="sse9"):
        torch.ops.tla_ops.use_instruction_set("sse9")
    assert torch.ops.tla_ops.use_instruction_set("") == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(5, 33, 1), (9, 70, 17), (3, 130, 257)])
def test_cdist(shape, metric, dtype, instruction_set):
    b, m, d = shape
    g = torch.Generator().manual_seed(1)
    x1, x2 = (torch.randn(n, d, generator=g).to(dtype) for n in (b, m))
    ours = tla_ops.cdist(x1, x2, metric=metric)
    truth = reference.cdist(x1.double(), x2.double(), metric=metric)
    tol = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(ours.double(), truth, rtol=tol, atol=tol)


@pytest.mark.parametrize("mining", ["hardest", "semihard"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("batch", [4, 20, 130])
def test_mining(batch, metric, mining, instruction_set):
    """4 anchors are summed row by row, 130 in tiles; screens begin at 20 or before."""
    problem = make_problem(batch, 700, 45)
    distance, index = tla_ops.mine_negatives(
        *problem.mine, mining=mining, metric=metric, positive=problem.positive
    )
    expected, _ = reference.mine_negatives(
        problem.anchor.double(), problem.candidates.double(), *problem.mine[2:],
        mining=mining, metric=metric, positive=problem.positive.double(),
    )  # fmt: skip
    assert (index >= 0).all()
    torch.testing.assert_close(distance.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_gradients(metric, instruction_set):
    problem = make_problem(7, 40, 19, K=2)
    results = []
    for module in (tla_ops, reference):
        leaves = problem.leaves()
        module.triplet_adv_loss(*leaves, metric=metric, norm_weight=0.1, margin=0.5).backward()
        results.append([x.grad for x in leaves.features])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_a_pair_has_one_distance(metric, instruction_set):
    """The same bits alone, in a tile, behind the screen, and in cdist."""
    g = torch.Generator().manual_seed(3)
    a, c = torch.randn(200, 77, generator=g), torch.randn(900, 77, generator=g)
    y, cy = torch.zeros(200, dtype=torch.int64), torch.ones(900, dtype=torch.int64)
    distance, index = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
    alone, _ = tla_ops.mine_negatives(a[7:8], c, y[:1], cy, metric=metric)
    assert distance[7] == alone
    matrix = tla_ops.cdist(a, c, metric=metric)
    assert torch.equal(matrix.gather(1, index[:, None])[:, 0], distance)
    assert torch.equal(matrix.min(1).values, distance)


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
@pytest.mark.parametrize("metric", METRICS[:3])
def test_exact_whatever_torch_does_to_float32_products(setting, metric):
    """A search makes no product by torch, which may round its operands to bfloat16."""
    problem = make_problem(300, 4000, 96)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        _, index = tla_ops.mine_negatives(*problem.mine, metric=metric, precision="exact")
    finally:
        torch.set_float32_matmul_precision(before)
    d = matrix64(problem.anchor, problem.candidates, metric)
    d[problem.labels[:, None] == problem.candidate_labels] = torch.inf
    regret = d.gather(1, index[:, None])[:, 0] - d.min(1).values
    assert (regret <= 2e-5 * d.min(1).values.clamp(min=1)).all()


@pytest.mark.parametrize("metric", METRICS[:3])
def test_crowded_candidates_leave_the_screen(metric):
    """Hundreds of anchors, all candidates within the screen's bounds: tiles take over, exactly."""
    g = torch.Generator().manual_seed(5)
    center = torch.randn(1, 64, generator=g)
    a = center + 1e-4 * torch.randn(300, 64, generator=g)
    c = center + 1e-6 * torch.randn(3000, 64, generator=g)
    c[1000:2000] = c[0]
    y, cy = torch.zeros(300, dtype=torch.int64), torch.ones(3000, dtype=torch.int64)
    distance, index = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
    matrix = tla_ops.cdist(a, c, metric=metric)
    assert torch.equal(distance, matrix.min(1).values)
    assert torch.equal(index, matrix.min(1).indices)
