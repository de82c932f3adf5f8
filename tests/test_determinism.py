"""The same bits whatever the run, the threads, B, M, tile or order; ties go to the lowest index."""

import pytest
import torch
from helpers import METRICS, allowed_mask, make_problem, randn, random_state, same_bits

import tla_ops


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def everything(problem, metric, mining="hardest"):
    """Loss, details and gradients of one call."""
    leaves = problem.leaves()
    out = tla_ops.triplet_adv_loss(
        *leaves, metric=metric, mining=mining, margin=0.4, norm_weight=0.01, return_details=True
    )
    return [*out, *torch.autograd.grad(out.loss, leaves.features)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", ["hardest", "semihard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_and_thread_counts(dtype, mining, metric, device, threads):
    problem = make_problem(130, 1500, 70, K=2, dtype=dtype, device=device)
    first = everything(problem, metric, mining)
    for count in (1, 2, 3, 1):
        threads(count)
        assert all(map(same_bits, everything(problem, metric, mining), first))


@pytest.mark.parametrize("metric", METRICS)
def test_cdist_and_batch_hard_over_thread_counts(metric, device, threads):
    x, y = randn(150, 40, device=device), torch.arange(150, device=device) % 7
    runs = []
    for count in (1, 2, 1, 2):
        threads(count)
        z = x.clone().requires_grad_()
        d = tla_ops.cdist(z, z, metric=metric)
        loss = tla_ops.batch_hard_triplet_loss(z, y, margin=0.2, metric=metric)
        runs.append([d, loss, *torch.autograd.grad(d.square().sum() + loss, z)])
    assert all(all(map(same_bits, run, runs[0])) for run in runs)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("D", [1, 7, 33, 640])
def test_a_row_alone_and_in_a_batch(D, dtype, metric, device):
    problem = make_problem(67, 333, D, dtype=dtype, device=device)
    distance, index = tla_ops.mine_negatives(*problem.mine, metric=metric)
    for i in (0, 1, 15, 16, 31, 64, 66):
        row = slice(i, i + 1)
        alone = tla_ops.mine_negatives(
            problem.anchor[row], problem.candidates, problem.labels[row], problem[4], metric=metric
        )
        assert same_bits(alone[0], distance[row])
        assert torch.equal(alone[1], index[row])
        pick = index[row]
        single = tla_ops.mine_negatives(
            problem.anchor[row], problem.candidates[pick], problem.labels[row],
            problem.candidate_labels[pick], metric=metric,
        )  # fmt: skip
        assert same_bits(single[0], distance[row])


@pytest.mark.parametrize("metric", METRICS)
def test_a_permuted_pool(metric, device):
    problem = make_problem(40, 700, 37, device=device)
    distance, index = tla_ops.mine_negatives(*problem.mine, metric=metric)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(4)).to(device)
    moved = tla_ops.mine_negatives(
        problem.anchor, problem.candidates[order], problem.labels, problem[4][order], metric=metric
    )
    assert same_bits(moved[0], distance)
    assert torch.equal(order[moved[1]], index)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("extra", [1, 15, 64, 1000])
def test_an_extended_pool(extra, metric, device):
    problem = make_problem(40, 300, 37, device=device)
    distance, index = tla_ops.mine_negatives(*problem.mine, metric=metric)
    # The same rows again: never before the first.
    again = torch.arange(extra, device=device) % 300
    pool = torch.cat([problem.candidates, problem.candidates[again]])
    labels = torch.cat([problem.candidate_labels, problem.candidate_labels[again]])
    longer = tla_ops.mine_negatives(problem.anchor, pool, problem.labels, labels, metric=metric)
    assert same_bits(longer[0], distance)
    assert torch.equal(longer[1], index)
    # In front: always before.
    pool = torch.cat([problem.candidates[again], problem.candidates])
    labels = torch.cat([problem.candidate_labels[again], problem.candidate_labels])
    longer = tla_ops.mine_negatives(problem.anchor, pool, problem.labels, labels, metric=metric)
    assert same_bits(longer[0], distance)
    assert torch.equal(longer[1], torch.where(index < extra, index, index + extra))


PLACES = [(0, 1), (15, 16), (31, 32), (63, 64), (64, 1000), (127, 128), (255, 256), (3, 511, 512),
          (1023, 1024), (1500, 2047), (2047, 2048), (7, 2498, 2499)]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_rows_tie_to_the_lowest_index(dtype, metric, device):
    a = randn(5, 45, device=device, dtype=dtype)
    y, cy = torch.zeros(5, device=device).long(), torch.ones(2500, device=device).long()
    base = 100 + 9 * randn(2500, 45, seed=1, device=device).abs()
    if metric in ("angular", "cosine"):
        base = base - base @ (u := torch.linalg.qr(a.float().T).Q) @ u.T  # far from every anchor
    for places in PLACES:
        c = base.to(dtype, copy=True)
        c[list(places)] = a[2] + 0.1 * randn(45, seed=3, device=device, dtype=dtype)
        distance, index = tla_ops.mine_negatives(a, c, y, cy, metric=metric)
        assert index[2] == places[0]
        masked = cy.clone()
        masked[places[0]] = 0
        other = tla_ops.mine_negatives(a, c, y, masked, metric=metric)
        assert other[1][2] == places[1]
        assert same_bits(other[0][2:3], distance[2:3])


@pytest.mark.parametrize("metric", METRICS)
def test_each_row_ties_to_its_own_lowest(metric, device):
    """A pool of nine distinct rows, over and over, under every class mask."""
    c = randn(9, 33, device=device)[torch.arange(1200, device=device) * 5 % 9]
    a = randn(24, 33, seed=1, device=device)
    y, cy = torch.arange(24, device=device) % 7, torch.arange(1200, device=device) % 7
    for mining in ("hardest", "semihard"):
        positive = randn(24, 33, seed=2, device=device)
        _, index = tla_ops.mine_negatives(
            a, c, y, cy, metric=metric, mining=mining, positive=positive
        )
        allowed = allowed_mask(y, cy)
        for i, j in enumerate(index.tolist()):
            twins = (c == c[j]).all(1).cpu() & allowed[i]
            assert j == int(twins.nonzero()[0])


@pytest.mark.parametrize("metric", METRICS)
def test_a_rows_loss_does_not_depend_on_the_batch(metric, device):
    problem = make_problem(33, 200, 21, K=2, device=device)
    call = {"metric": metric, "norm_weight": 0.01, "reduction": "none"}
    losses = tla_ops.triplet_adv_loss(*problem, **call)
    for i in (0, 16, 32):
        row = slice(i, i + 1)
        alone = tla_ops.triplet_adv_loss(
            *(problem.anchor[row], problem.positive[row], problem.candidates),
            *(problem.labels[row], problem.candidate_labels), **call,
        )  # fmt: skip
        assert same_bits(alone, losses[row])


def test_the_global_random_stream_is_used_by_random_mining_alone(device):
    problem = make_problem(9, 30, 4, device=device)
    for mining, moves in [("hardest", False), ("semihard", False), ("random", True)]:
        before = random_state(device)
        tla_ops.triplet_adv_loss(*problem, mining=mining)
        assert torch.equal(before, random_state(device)) != moves


def test_inputs_are_left_alone(device):
    problem = make_problem(9, 30, 4, device=device)
    copies = [x.clone() for x in problem]
    everything(problem, "angular")
    tla_ops.mine_positives(*problem.mine)
    assert all(map(torch.equal, problem, copies))
