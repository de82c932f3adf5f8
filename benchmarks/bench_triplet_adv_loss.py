"""pytest benchmarks/bench_triplet_adv_loss.py: the loss beside its peers at the papers' sizes."""

import pytest
from cases import LOSS_PEERS, loss_problem


@pytest.mark.parametrize("impl", LOSS_PEERS)
@pytest.mark.parametrize("mode", ["forward", "both"])
@pytest.mark.parametrize("m", [1, 250, 500, 1000, 2000])
def bench_triplet_adv_loss(benchmark, m, mode, impl):
    benchmark.group = f"triplet_adv_loss {mode} (50, {m}, 640)"
    benchmark(LOSS_PEERS[impl](loss_problem(50, m, 640), mode))
