"""Under autocast: mixed dtypes in, the same float32 loss out as without it."""

import pytest
import torch
from helpers import HALVES, METRICS, make_problem, randn, same_bits
from torch import nn

import tla_ops


def dtypes(device):
    return HALVES if device.type == "cuda" else [torch.bfloat16]


@pytest.mark.parametrize("metric", METRICS)
def test_every_function_is_the_same_under_autocast(metric, device):
    problem = make_problem(40, 300, 33, device=device)
    calls = [
        lambda: tla_ops.triplet_adv_loss(*problem, metric=metric, norm_weight=0.01),
        lambda: tla_ops.triplet_loss(*problem[:2], problem.candidates[:40], metric=metric),
        lambda: tla_ops.mine_negatives(*problem.mine, metric=metric)[0],
        lambda: tla_ops.mine_positives(*problem.mine, metric=metric)[0],
        lambda: tla_ops.batch_hard_triplet_loss(
            problem.candidates, problem.candidate_labels, margin=0.1, metric=metric
        ),
        lambda: tla_ops.cdist(problem.anchor, problem.candidates, metric=metric),
    ]
    for call in calls:
        plain = call()
        for dtype in dtypes(device):
            with torch.autocast(device.type, dtype=dtype):
                cast = call()
            assert cast.dtype == torch.float32
            assert same_bits(cast, plain)


def test_a_network_trains_under_autocast(device):
    problem = make_problem(16, 200, 12, device=device)
    x, x2 = randn(16, 7, device=device), randn(16, 7, seed=1, device=device)
    for dtype in dtypes(device):
        layer = nn.Linear(7, 12).to(device)
        with torch.autocast(device.type, dtype=dtype):
            a, p = layer(x), layer(x2)
            assert a.dtype == dtype
            loss = tla_ops.triplet_adv_loss(
                a, p, problem.candidates, *problem[3:], margin=0.5, norm_weight=0.01
            )
        assert loss.dtype == torch.float32
        outside = tla_ops.triplet_adv_loss(
            a, p, problem.candidates, *problem[3:], margin=0.5, norm_weight=0.01
        )
        assert same_bits(loss, outside)
        loss.backward()
        assert layer.weight.grad.dtype == torch.float32
        assert layer.weight.grad.any()


def test_backward_under_autocast_gives_the_same_gradient(device):
    problem = make_problem(16, 200, 12, device=device)
    grads = []
    for enabled in (False, True):
        leaves = problem.leaves()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            loss = tla_ops.triplet_adv_loss(*leaves, margin=0.5)
            grads.append(torch.autograd.grad(loss, leaves.features))
    assert all(map(same_bits, *grads))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, device):
    problem = make_problem(16, 200, 12, device=device).leaves()
    plain = tla_ops.triplet_adv_loss(*problem)
    with mode():
        loss = tla_ops.triplet_adv_loss(*problem)
    assert not loss.requires_grad
    assert same_bits(loss, plain)
