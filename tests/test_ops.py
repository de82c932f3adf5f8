"""The low-level operators: opcheck, fake kernels, and what only their own arguments reach."""

import itertools

import pytest
import torch
from helpers import (
    METRICS,
    MININGS,
    NEVER,
    NORMS,
    REDUCTIONS,
    close,
    make_problem,
    randn,
    same_bits,
)
from torch.library import opcheck

import tla_ops  # noqa: F401  (registers the operators)
from tla_ops import reference

OPS = torch.ops.tla_ops
QUICK = ("test_schema", "test_faketensor")
FULL = (*QUICK, "test_autograd_registration", "test_aot_dispatch_dynamic")
HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def problem_of(dtype=SINGLE, candidate_dtype=None, B=5, M=9, D=4, K=2, device="cpu"):
    return make_problem(B, M, D, K, dtype=dtype, candidate_dtype=candidate_dtype, device=device)


def mine_args(
    problem, metric="angular", mining="hardest", same_class=False, masks=False, fast=False
):
    B, device = problem.anchor.shape[0], problem.anchor.device
    positive = problem.positive if mining == "semihard" else None
    target = (problem.labels + 1) % 5 if masks and not same_class else None
    exclude = torch.arange(B, device=device) - 1 if masks else None
    u = None
    if mining == "random":
        u = torch.linspace(0, 0.99, B, dtype=DOUBLE, device=device)
    screens = "blas mma" if masks else ""
    return (*problem.mine, positive, target, exclude, u, metric, mining, same_class, fast, screens)


def adv_args(problem, metric="angular", mining="hardest", norm="l2", reduction="mean", masks=False):
    *_, target, exclude, u, _, _, _, _, screens = mine_args(problem, metric, mining, masks=masks)
    options = (0.3, 1.5, 0.02, metric, mining, norm, reduction, False, screens)
    return (*problem, target, exclude, u, *options)


def loss_args(problem, form, metric="angular", norm="l2", reduction="mean"):
    """form: "given" triplets, "mined" negatives, or "batch": both from pools by index."""
    B, device = problem.anchor.shape[0], problem.anchor.device
    index = torch.arange(B, device=device) * 3 % max(1, problem.candidates.shape[0])
    index = torch.where(torch.arange(B, device=device) == 1, -1, index)
    tail = (0.3, 1.5, 0.02, metric, norm, reduction)
    a, p, c = problem.features
    if form == "given":
        return (a, p, a.flip(0).to(c.dtype) + 1, None, None, *tail)
    if form == "mined":
        return (a, p, c, None, index, *tail)
    return (a, c, c, index.flip(0), index, *tail)


def backward_args(problem, form, needs=(True, True, True), sparse=False, **options):
    args = loss_args(problem, form, **options)
    B = problem.anchor.shape[0]
    shape = (B,) if args[-1] == "none" else ()
    dtype = DOUBLE if problem.anchor.dtype == DOUBLE else SINGLE
    grad = randn(*shape, dtype=dtype, device=problem.anchor.device) + 2
    return (grad, *args, *needs, sparse)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", [*MININGS, "easiest"])
def test_mine(mining, metric, device):
    same_class = mining == "easiest"
    for dtype, other in itertools.product((SINGLE, DOUBLE, HALF), (SINGLE, HALF)):
        args = mine_args(problem_of(dtype, other, device=device), metric, mining, same_class, True)
        opcheck(OPS.mine.default, args, test_utils=QUICK)
    opcheck(OPS.mine.default, args, test_utils=FULL)
    for shape in ({"B": 0}, {"M": 0}, {"D": 1}, {"K": 0}):
        args = mine_args(problem_of(device=device, **shape), metric, mining, same_class)
        opcheck(OPS.mine.default, args, test_utils=QUICK)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", MININGS)
def test_triplet_adv_loss(mining, metric, device):
    for norm, reduction in itertools.product(NORMS, REDUCTIONS):
        args = adv_args(problem_of(HALF, SINGLE, device=device), metric, mining, norm, reduction)
        opcheck(OPS.triplet_adv_loss.default, args, test_utils=QUICK)
    for dtype in (SINGLE, DOUBLE):
        args = adv_args(problem_of(dtype, device=device), metric, mining, masks=True)
        opcheck(OPS.triplet_adv_loss.default, args, test_utils=FULL)
    for shape in ({"B": 0}, {"M": 0}, {"D": 1}, {"K": 0}):
        args = adv_args(problem_of(device=device, **shape), metric, mining, reduction="none")
        opcheck(OPS.triplet_adv_loss.default, args, test_utils=QUICK)


FORMS = ("given", "mined", "batch")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", FORMS)
def test_triplet_loss(form, metric, device):
    for norm, reduction in itertools.product(NORMS, REDUCTIONS):
        args = loss_args(problem_of(SINGLE, HALF, device=device), form, metric, norm, reduction)
        opcheck(OPS.triplet_loss.default, args, test_utils=QUICK)
    opcheck(OPS.triplet_loss.default, loss_args(problem_of(DOUBLE, device=device), form, metric))
    for shape in ({"B": 0}, {"D": 1}, {"K": 0}):
        args = loss_args(problem_of(device=device, **shape), form, metric)
        opcheck(OPS.triplet_loss.default, args, test_utils=QUICK)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", FORMS)
def test_triplet_loss_backward(form, metric, device):
    op = OPS.triplet_loss_backward.default
    for needs in itertools.product((True, False), repeat=3):
        args = backward_args(problem_of(SINGLE, HALF, device=device), form, needs, metric=metric)
        opcheck(op, args, test_utils=QUICK)
    for norm, reduction in itertools.product(NORMS, REDUCTIONS):
        args = backward_args(
            problem_of(DOUBLE, device=device), form, metric=metric, norm=norm, reduction=reduction
        )
        opcheck(op, args, test_utils=QUICK)
    opcheck(op, args, test_utils=FULL)
    if form == "mined":
        args = backward_args(problem_of(HALF, device=device), form, sparse=True, metric=metric)
        opcheck(op, args, test_utils=FULL)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("N", "B", "M", "D"), [(1, 3, 4, 5), (2, 3, 4, 1), (0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)]
)
def test_cdist_and_backward(N, B, M, D, metric, device):
    for dtype, other in itertools.product((SINGLE, DOUBLE, HALF), (SINGLE, HALF)):
        x1, x2 = (
            randn(N, B, D, dtype=dtype, device=device),
            randn(N, M, D, seed=1, dtype=other, device=device),
        )
        opcheck(OPS.cdist.default, (x1, x2, metric), test_utils=QUICK)
        grad = randn(N, B, M, seed=2, dtype=DOUBLE if dtype == DOUBLE else SINGLE, device=device)
        for needs in ((True, True), (True, False), (False, True)):
            opcheck(OPS.cdist_backward.default, (grad, x1, x2, metric, *needs), test_utils=QUICK)
    opcheck(OPS.cdist.default, (x1, x2, metric))
    opcheck(OPS.cdist_backward.default, (grad, x1, x2, metric, True, True))


@pytest.mark.parametrize("form", FORMS)
def test_strided_arguments(form, device):
    a, p, c = problem_of(device=device).features
    problem = problem_of(device=device)
    odd = problem._replace(
        anchor=a.t().contiguous().t(), candidates=torch.stack([c, c], 2)[..., 0],
        positive=p.transpose(0, 1).contiguous().transpose(0, 1),
    )  # fmt: skip
    for op, make in ((OPS.triplet_loss.default, loss_args),
                     (OPS.triplet_loss_backward.default, backward_args)):  # fmt: skip
        opcheck(op, make(odd, form), test_utils=QUICK)
        assert all(map(same_bits, op(*make(odd, form)), op(*make(problem, form))))
    expanded = torch.ones((), device=device).expand(5)
    _, *rest = backward_args(problem, form, reduction="none")
    opcheck(OPS.triplet_loss_backward.default, (expanded, *rest), test_utils=QUICK)


@pytest.mark.parametrize("form", FORMS)
def test_needs_switch_gradients_off_one_by_one(form, device):
    op, problem = OPS.triplet_loss_backward.default, problem_of(device=device)
    full = op(*backward_args(problem, form))
    for needs in itertools.product((True, False), repeat=3):
        for grad, need, expected in zip(
            op(*backward_args(problem, form, needs)), needs, full, strict=True
        ):
            assert same_bits(grad, expected) if need else grad.shape == (0,)


def test_missing_indices(device):
    """-1 as negative takes the triplet and the negative's norm; in a batch, the whole row."""
    problem = problem_of(DOUBLE, device=device)
    a, p, c = problem.features
    mined = OPS.triplet_loss(*loss_args(problem, "mined", reduction="none"))
    close(mined[0][1], 0.02 * (a[1].norm() + p[1].norm(dim=1).sum()), 1e-12)
    assert mined[2][1] == torch.inf
    assert mined[1].isfinite().all()
    batch = OPS.triplet_loss(*loss_args(problem, "batch", reduction="none"))
    assert batch[0][1] == 0
    assert batch[0][3] == 0
    assert batch[0][[0, 2, 4]].gt(0).all()
    grads = OPS.triplet_loss_backward(*backward_args(problem, "batch", reduction="none"))
    assert not grads[0][[1, 3]].any()
    assert grads[0][[0, 2, 4]].any(1).all()
    assert grads[1].shape == c.shape
    assert grads[2].shape == c.shape


def test_sparse_rows_belong_to_the_lowest_anchor(device):
    problem = problem_of(DOUBLE, B=6, device=device)
    args = list(backward_args(problem, "mined", norm="mean_square", reduction="sum"))
    args[5] = torch.tensor([4, 2, 4, -1, 2, 4], device=device)
    dense = OPS.triplet_loss_backward(*args)[2]
    rows = OPS.triplet_loss_backward(*args[:-1], True)[2]
    assert rows.shape == (6, 4)
    assert dense[[2, 4]].any(1).all()
    assert torch.equal(rows[0], dense[4])
    assert torch.equal(rows[1], dense[2])
    assert not rows[2:].any()


@pytest.mark.parametrize("metric", METRICS)
def test_operators_agree_with_each_other(metric, device):
    problem = problem_of(B=40, M=60, D=9, device=device)
    problem.candidate_labels[::5] = NEVER
    loss, index, d_ap, d_an = OPS.triplet_adv_loss(*adv_args(problem, metric, reduction="none"))
    mined = OPS.mine(*mine_args(problem, metric))
    assert torch.equal(mined[1], index)
    assert same_bits(mined[0], d_an)
    given = OPS.triplet_loss(*problem.features, None, index, 0.3, 1.5, 0.02, metric, "l2", "none")
    assert all(map(same_bits, given, (loss, d_ap, d_an)))


def test_uniform_at_its_ends(device):
    problem = problem_of(B=4, M=50, device=device)
    allowed = problem.candidate_labels != problem.labels.unsqueeze(1)
    args = list(mine_args(problem, mining="random"))
    args[7] = torch.tensor([0.0, 1.0, 1 - 2**-53, 0.5], dtype=DOUBLE, device=device)
    index = OPS.mine(*args)[1].tolist()
    rows = [row.nonzero().flatten().tolist() for row in allowed]
    assert index == [rows[0][0], rows[1][-1], rows[2][-1], rows[3][len(rows[3]) // 2]]


@pytest.mark.parametrize("metric", METRICS)
def test_cdist_backward_against_autograd(metric, device):
    x1, x2 = (randn(2, n, 6, seed=n, dtype=DOUBLE, device=device) for n in (3, 5))
    grad = randn(2, 3, 5, dtype=DOUBLE, device=device)
    leaves = [x.clone().requires_grad_() for x in (x1, x2)]
    truth = torch.autograd.grad(reference.cdist(*leaves, metric=metric), leaves, grad)
    for x, y in zip(OPS.cdist_backward(grad, x1, x2, metric, True, True), truth, strict=True):
        close(x, y, 1e-12)
    assert OPS.cdist_backward(grad, x1, x2, metric, False, True)[0].shape == (0,)
