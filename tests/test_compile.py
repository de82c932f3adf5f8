"""torch.compile: whole graphs, dynamic B and M, the same numbers; clear errors where it cannot."""

import pytest
import torch
from helpers import HALVES, METRICS, MININGS, make_problem, same_bits

import tla_ops

pytestmark = pytest.mark.usefixtures("fresh_compiler")
SHAPES = [(6, 20), (9, 33), (4, 70), (13, 8)]


def compiled(function, backend="aot_eager", dynamic=True):
    return torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)


def run(function, problem, **call):
    """Outputs and gradients."""
    leaves = problem.leaves()
    loss = function(*leaves, **call)
    grads = torch.autograd.grad(loss.sum(), leaves.features, allow_unused=True)
    return [loss, *(g for g in grads if g is not None)]


def check_shapes(function, backend="aot_eager", K=2, **kwargs):
    """One graph serves every B and M."""
    fast = compiled(function, backend)
    for step, (B, M) in enumerate(SHAPES):
        problem = make_problem(B, M, 5, K, **kwargs)
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            got = run(fast, problem)
        expected = run(function, problem)
        for x, y in zip(got, expected, strict=True):
            if backend == "aot_eager":
                assert same_bits(x, y)
            else:
                torch.testing.assert_close(x, y)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", ["hardest", "semihard"])
def test_triplet_adv_loss(mining, metric, device):
    def step(*args):
        return tla_ops.triplet_adv_loss(
            *args, metric=metric, mining=mining, norm_weight=0.01, margin=0.4
        )

    check_shapes(step, device=device)


def test_triplet_adv_loss_with_every_argument(device):
    def step(a, p, c, y, cy):
        exclude = torch.arange(a.shape[0], device=a.device)
        out = tla_ops.triplet_adv_loss(
            a * 2, p.sin(), c + 1, y, cy, target_labels=y + 1, exclude=exclude, norm="mean_square",
            precision="exact", reduction="none", norm_weight=0.1, return_details=True,
        )  # fmt: skip
        return out.loss * 3 + out.negative_distance.nan_to_num(posinf=0) + out.negative_index

    check_shapes(step, device=device)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_triplet_adv_loss_between_other_operations(backend, device):
    def step(a, p, c, y, cy):
        a, p, c = a.tanh(), p * 0.5, torch.nn.functional.normalize(c, dim=1)
        return tla_ops.triplet_adv_loss(a, p, c, y, cy, margin=0.4).square()

    check_shapes(step, backend, device=device)


def test_random_mining_draws_inside_the_graph(device):
    def step(*args):
        return tla_ops.triplet_adv_loss(*args, mining="random", reduction="none", margin=1.0)

    problem = make_problem(20, 60, 5, device=device)
    fast = compiled(step)
    torch.manual_seed(5)
    first = fast(*problem)
    torch.manual_seed(5)
    assert same_bits(fast(*problem), first)
    assert not same_bits(fast(*problem), first)
    torch.manual_seed(5)
    assert same_bits(step(*problem), first)


def test_triplet_loss(device):
    def step(a, p, c, y, cy):
        negative = c[:1].expand(a.shape[0], -1)
        return tla_ops.triplet_loss(a, p, negative, margin=0.4, metric="euclidean", norm_weight=0.1)

    check_shapes(step, device=device)


@pytest.mark.parametrize("mining", MININGS)
def test_mining(mining, device):
    def step(a, p, c, y, cy):
        one = tla_ops.mine_negatives(a, c, y, cy, mining=mining, positive=p)
        two = tla_ops.mine_positives(a, c, y, cy, metric="euclidean")
        return *one, *two

    fast = compiled(step)
    for i, (B, M) in enumerate(SHAPES):
        problem = make_problem(B, M, 5, device=device)
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            torch.manual_seed(i)
            got = fast(*problem)
        torch.manual_seed(i)
        assert all(map(same_bits, got, step(*problem)))


@pytest.mark.parametrize("mining", ["hardest", "semihard"])
def test_batch_hard(mining, device):
    def step(a, p, c, y, cy):
        return tla_ops.batch_hard_triplet_loss(
            torch.cat([a, c]), torch.cat([y, cy]), margin=0.3, norm_weight=0.1, mining=mining
        )

    check_shapes(step, device=device)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_cdist(backend, device):
    def step(a, p, c, y, cy):
        flat = tla_ops.cdist(a, c, metric="euclidean").exp().sum()
        return flat + tla_ops.cdist(a.unsqueeze(1), p).mean()

    check_shapes(step, backend, device=device)


def test_half_precision_under_autocast(device):
    for dtype in HALVES if device.type == "cuda" else HALVES[:1]:

        def step(a, p, c, y, cy, dtype=dtype):
            with torch.autocast(a.device.type, dtype=dtype):
                a = a @ torch.ones(5, 5, device=a.device)
                return tla_ops.triplet_adv_loss(a, p, c, y, cy, margin=0.5)

        check_shapes(step, device=device)


def test_the_module(device):
    module = tla_ops.TripletAdvLoss(margin=0.4, metric="cosine")
    check_shapes(lambda *args: module(*args), device=device)


def test_static_shapes_and_matmul_precision(device):
    """precision=None reads a global that breaks graphs when read plainly."""
    problem = make_problem(6, 20, 5, device=device)
    before = torch.get_float32_matmul_precision()
    try:
        for name in ("high", "highest"):
            torch.set_float32_matmul_precision(name)
            torch._dynamo.reset()
            fast = compiled(tla_ops.triplet_adv_loss, dynamic=False)
            assert all(map(same_bits, run(fast, problem), run(tla_ops.triplet_adv_loss, problem)))
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("what", ["generator", "sparse_grad"])
def test_what_torch_cannot_trace_is_named(what, device):
    problem = make_problem(6, 20, 5, device=device).leaves()
    extra = {"generator": torch.Generator(device)} if what == "generator" else {"sparse_grad": True}

    def step(*args):
        return tla_ops.triplet_adv_loss(*args, mining="random", **extra)

    with pytest.raises(Exception, match=f"{what} must be"):
        compiled(step)(*problem)


def test_bad_input_is_named_under_compile(device):
    problem = make_problem(6, 20, 5, device=device)

    def step(*args):
        return tla_ops.triplet_adv_loss(*args, metric="manhattan")

    with pytest.raises(Exception, match="metric must be one of"):
        compiled(step)(*problem)
