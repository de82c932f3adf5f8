"""Gradients of the losses: gradcheck, subgradients, dtypes, sparse gradients, odd upstreams."""

import pytest
import torch
from helpers import (
    DTYPES,
    HALVES,
    METRICS,
    MININGS,
    NORMS,
    SIZES,
    TWICE,
    bits,
    close,
    close_half,
    differentiate_twice,
    generator,
    make_problem,
    randn,
    same_bits,
)

import tla_ops
from tla_ops import reference

CALL = {"margin": 0.3, "weight": 1.7, "norm_weight": 0.02}


def grads(loss_fn, problem, upstream=None, **call):
    leaves = problem.leaves()
    loss = loss_fn(*leaves, **call)
    return torch.autograd.grad(loss, leaves.features, upstream)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck(norm, mining, metric, device):
    problem = make_problem(4, 9, 5, K=2, dtype=torch.float64, device=device, seed=3)
    for reduction in ("mean", "none"):

        def loss(*features, reduction=reduction):
            return tla_ops.triplet_adv_loss(
                *features, *problem[3:], **CALL, metric=metric, mining=mining, norm=norm,
                reduction=reduction, generator=generator(2, device),
            )  # fmt: skip

        assert torch.autograd.gradcheck(loss, problem.leaves().features)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("B", "M", "D"), SIZES)
def test_against_the_reference(B, M, D, metric, device):
    """The float32 gradient of the picks taken, against autograd in float64."""
    problem = make_problem(B, M, D, K=2, device=device)
    call = {**CALL, "metric": metric}
    out = tla_ops.triplet_adv_loss(*problem, **call, return_details=True)
    ours = grads(tla_ops.triplet_adv_loss, problem, **call)
    leaves = problem.double().leaves()
    index = out.negative_index
    picked = reference._rows(leaves.candidates, index)
    loss = reference._triplets(
        leaves.anchor, leaves.positive, picked, index >= 0, CALL["margin"], CALL["weight"],
        CALL["norm_weight"], metric, "l2",
    )[0].mean()  # fmt: skip
    truth = torch.autograd.grad(loss, leaves.features)
    for x, y in zip(ours, truth, strict=True):
        assert x.dtype == torch.float32
        close(x, y, 2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rule(dtype, metric, device):
    problem = make_problem(33, 100, 40, K=2, dtype=dtype, device=device)
    call = {**CALL, "metric": metric}
    ours = grads(tla_ops.triplet_adv_loss, problem, **call)
    eager = grads(reference.triplet_adv_loss, problem, **call)
    truth = grads(reference.triplet_adv_loss, problem.double(), **call)
    for x, y, z in zip(ours, eager, truth, strict=True):
        assert x.dtype == dtype
        close_half(x, y, z)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("candidate_dtype", DTYPES)
def test_gradients_have_their_inputs_dtype(dtype, candidate_dtype, device):
    problem = make_problem(7, 30, 9, dtype=dtype, candidate_dtype=candidate_dtype, device=device)
    problem = problem._replace(positive=problem.positive.to(torch.float16))
    ours = grads(tla_ops.triplet_adv_loss, problem, **CALL)
    assert [g.dtype for g in ours] == [dtype, torch.float16, candidate_dtype]
    for x, y in zip(ours, grads(reference.triplet_adv_loss, problem.double(), **CALL), strict=True):
        close(x, y, 1e-2)


def test_candidates_gradient_is_dense_zeros_where_nothing_was_picked(device):
    problem = make_problem(5, 300, 9, device=device)
    index = tla_ops.mine_negatives(*problem.mine)[1]
    g = grads(tla_ops.triplet_adv_loss, problem, **CALL)[2]
    untouched = torch.ones(300, dtype=torch.bool, device=device)
    untouched[index] = False
    assert g.layout == torch.strided
    assert not g[untouched].any()
    assert g[index].any(1).all()
    far = tla_ops.triplet_adv_loss(*(leaves := problem.leaves()), margin=-9.0)
    far.backward()
    for x in leaves.features:
        assert x.grad is not None
        assert x.grad.shape == x.shape
        assert not x.grad.any()


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_do_not_depend_on_what_memory_held(sparse, device):
    """They are written in memory that was not cleared: no row is left as it was found."""
    problem = make_problem(9, 300, 40, device=device)
    problem.labels[2:5] = 99
    problem.candidate_labels[:] = 99  # rows 2 to 4 have no negative

    def soiled(fill):
        leaves = problem.leaves()
        loss = tla_ops.triplet_adv_loss(*leaves, sparse_grad=sparse)
        dirt = [torch.full(x.shape, fill, device=device) for x in problem.features for _ in "123"]
        del dirt
        return [g.to_dense() for g in torch.autograd.grad(loss, leaves.features)]

    for ours, again in zip(soiled(torch.nan), soiled(7.0), strict=True):
        assert ours.isfinite().all()
        assert same_bits(ours, again)


def test_only_what_requires_a_gradient_gets_one(device):
    problem = make_problem(5, 30, 9, device=device)
    for wanted in range(1, 8):
        inputs = [
            x.clone().requires_grad_(bool(wanted >> k & 1)) for k, x in enumerate(problem[:3])
        ]
        tla_ops.triplet_adv_loss(*inputs, *problem[3:], **CALL).backward()
        full = grads(tla_ops.triplet_adv_loss, problem, **CALL)
        for k, x in enumerate(inputs):
            assert (x.grad is not None) == x.requires_grad
            assert x.grad is None or same_bits(x.grad, full[k])
    assert not tla_ops.triplet_adv_loss(*problem).requires_grad


@pytest.mark.parametrize(("B", "M"), [(40, 3), (200, 2), (9, 60)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_picks_sum_to_the_same_bits(dtype, B, M, device):
    problem = make_problem(B, M, 65, dtype=dtype, device=device)
    runs = [grads(tla_ops.triplet_adv_loss, problem, **CALL) for _ in range(5)]
    for run in runs[1:]:
        assert all(same_bits(x, y) for x, y in zip(run, runs[0], strict=True))
    truth = grads(reference.triplet_adv_loss, problem.double(), **CALL)
    close(runs[0][2], truth[2], 1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize(
    ("B", "M", "D"), [(6, 50, 9), (40, 3, 17), (3, 0, 4), (0, 5, 4), (5, 40, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_sparse_gradient_equals_the_dense_one(B, M, D, dtype, device):
    problem = make_problem(B, M, D, dtype=dtype, device=device)
    dense = grads(tla_ops.triplet_adv_loss, problem, **CALL)
    sparse = grads(tla_ops.triplet_adv_loss, problem, **CALL, sparse_grad=True)
    assert sparse[2].is_sparse
    assert sparse[2].shape == (M, D)
    assert sparse[2].dtype == dtype
    assert torch.equal(bits(sparse[2].to_dense() + 0), bits(dense[2] + 0))
    assert same_bits(sparse[0], dense[0])
    assert same_bits(sparse[1], dense[1])
    assert sparse[2].coalesce().indices().shape[1] <= min(B, M)


def test_sparse_gradient_of_rows_without_a_negative(device):
    problem = make_problem(4, 30, 5, classes=1, device=device)
    g = grads(tla_ops.triplet_adv_loss, problem, sparse_grad=True)[2]
    assert g.is_sparse
    assert g.shape == (30, 5)
    assert not g.to_dense().any()


@pytest.mark.parametrize("optimizer", [torch.optim.SparseAdam, torch.optim.SGD])
def test_sparse_gradient_drives_an_optimizer(optimizer, device):
    problem = make_problem(6, 50, 9, device=device)
    results = []
    for sparse in (True, False):
        c = torch.nn.Parameter(problem.candidates.clone())
        kind = optimizer if sparse else {torch.optim.SparseAdam: torch.optim.Adam}.get(
            optimizer, optimizer)  # fmt: skip
        opt = kind([c], lr=0.1)
        loss = tla_ops.triplet_adv_loss(
            problem.anchor, problem.positive, c, *problem[3:], **CALL, sparse_grad=sparse
        )
        loss.backward()
        assert c.grad.is_sparse == sparse
        opt.step()
        results.append(c.detach())
    assert not torch.equal(results[0], problem.candidates)
    # Adam and SparseAdam place their epsilon differently.
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-3)


def test_a_bank_without_gradient_ignores_sparse_grad(device):
    problem = make_problem(6, 50, 9, device=device)
    a = problem.anchor.clone().requires_grad_()
    tla_ops.triplet_adv_loss(a, *problem[1:], sparse_grad=True).backward()
    assert a.grad.any()
    assert problem.candidates.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_upstream_gradients_of_any_strides(dtype, device):
    problem = make_problem(12, 50, 9, dtype=dtype, device=device)
    loss, call = tla_ops.triplet_adv_loss, {**CALL, "reduction": "none"}
    one = torch.ones(12, device=device)
    expected = grads(loss, problem, one, **call)
    expanded = torch.ones((), device=device).expand(12)
    assert all(map(same_bits, grads(loss, problem, expanded, **call), expected))
    w = randn(12, device=device)
    expected = grads(loss, problem, w, **call)
    every_second = torch.stack([w, -w], 1)[:, 0]
    assert all(map(same_bits, grads(loss, problem, every_second, **call), expected))
    leaves = problem.leaves()
    loss(*leaves, **call).sum().backward()
    ones = grads(loss, problem, one, **call)
    assert all(same_bits(x.grad, g) for x, g in zip(leaves.features, ones, strict=True))


@pytest.mark.parametrize("metric", METRICS)
def test_strided_inputs(metric, device):
    problem = make_problem(8, 30, 11, K=2, device=device)
    expected = grads(tla_ops.triplet_adv_loss, problem, **CALL, metric=metric)
    a, p, c = problem.leaves().features
    views = (
        a.t().contiguous().t(), p.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        torch.stack([c, c], 2)[..., 1],
    )  # fmt: skip
    loss = tla_ops.triplet_adv_loss(*views, *problem[3:], **CALL, metric=metric)
    got = torch.autograd.grad(loss, (a, p, c))
    assert all(map(same_bits, got, expected))


def test_expanded_inputs_accumulate(device):
    problem = make_problem(6, 30, 11, device=device)
    a = problem.anchor[:1].clone().requires_grad_()
    p = problem.positive[:, 0].clone().requires_grad_()
    loss = tla_ops.triplet_adv_loss(
        a.expand(6, 11), p.unsqueeze(1).expand(6, 3, 11), *problem[2:], **CALL
    )
    loss.backward()
    b, q = a.detach().double().requires_grad_(), p.detach().double().requires_grad_()
    loss = reference.triplet_adv_loss(
        b.expand(6, 11), q.unsqueeze(1).expand(6, 3, 11), *problem.double()[2:], **CALL
    )
    loss.backward()
    close(a.grad, b.grad)
    close(p.grad, q.grad)


def test_one_tensor_as_anchor_and_pool(device):
    x, y = randn(20, 8, device=device).requires_grad_(), torch.arange(20, device=device) % 4
    p = randn(20, 8, seed=1, device=device)
    own = torch.arange(20, device=device)
    tla_ops.triplet_adv_loss(x, p, x, y, y, exclude=own, **CALL).backward()
    z = x.detach().double().requires_grad_()
    reference.triplet_adv_loss(z, p.double(), z, y, y, exclude=own, **CALL).backward()
    close(x.grad, z.grad)


@pytest.mark.parametrize("which", range(3))
def test_double_backward_says_so(which, device):
    """Whichever of the features is the only one that requires a gradient."""
    problem = make_problem(5, 30, 9, dtype=torch.float64, device=device)
    problem.features[which].requires_grad_()
    loss = tla_ops.triplet_adv_loss(*problem, **CALL)
    with pytest.raises(RuntimeError, match=TWICE):
        differentiate_twice(loss, problem.features[which])


def test_a_pool_changed_before_backward_never_gives_a_wrong_gradient(device):
    """A bank may be fed between forward and backward: an error or the right gradient, no third."""
    problem = make_problem(5, 30, 9, device=device)
    expected = grads(tla_ops.triplet_adv_loss, problem)[0]
    a, c = problem.anchor.clone().requires_grad_(), problem.candidates.clone()
    loss = tla_ops.triplet_adv_loss(a, problem.positive, c, *problem[3:])
    c.fill_(3.0)
    failed = None
    try:
        loss.backward()
    except RuntimeError as error:
        failed = str(error)
    assert "inplace" in failed if failed else same_bits(a.grad, expected)
