"""pytest benchmarks/bench_mine_negatives.py: the search beside eager and a bare matrix product."""

import pytest
import torch
from cases import MINING_PEERS, mining_problem


@pytest.mark.parametrize("impl", MINING_PEERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(50, 2000, 640), (256, 8192, 640)], ids=str)
def bench_mine_negatives(benchmark, shape, dtype, impl):
    benchmark.group = f"mine_negatives {shape} {dtype}"
    benchmark(MINING_PEERS[impl](mining_problem(*shape, dtype)))
