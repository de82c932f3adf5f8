"""Memory beyond inputs and outputs: far below the B x M matrix.

On the CPU each job has a process of its own; on CUDA the allocator counts.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import DEVICES

LIMIT_MB = 128
"""The fixed part the design allows."""

PROGRAM = r"""
import json, sys
import torch, tla_ops
from tla_ops import reference

def start(device):
    # What is in use.
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    return peak_mb(device)

def peak_mb(device):
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    # Not ru_maxrss: a child starts with its parent's there.
    line = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

def call(job, B, M, D, device="cpu"):
    # The peak in MB beyond what is in use before.
    torch.manual_seed(0)
    a, p, c = (torch.randn(*shape, device=device) for shape in ((B, D), (B, 1, D), (M, D)))
    y, cy = (torch.arange(n, device=device) % 10 for n in (B, M))
    kind, option = job.split(":")
    base = start(device)
    if kind == "reference":
        reference.mine_negatives(a, c, y, cy)
    elif kind == "mine":
        metric = option if option in ("euclidean", "chebyshev") else "angular"
        mining = option if option in ("semihard", "random") else "hardest"
        tla_ops.mine_negatives(a, c, y, cy, metric=metric, mining=mining, positive=p)
    elif kind == "positives":
        tla_ops.mine_positives(a, c, y, cy, mining=option)
    elif kind == "batch_hard":
        tla_ops.batch_hard_triplet_loss(c.requires_grad_(), cy, margin=.1, mining=option).backward()
    else:
        a.requires_grad_(), p.requires_grad_()
        bank = tla_ops.FeatureBank(M, D, dtype=getattr(torch, option), device=device)
        bank.enqueue(c, cy)
        base = start(device)
        tla_ops.triplet_adv_loss(a, p, bank.features, y, bank.labels).backward()
    return peak_mb(device) - base

def warm_call(job, B, M, D, device="cpu"):
    # Without allocators, thread pools and what else a first call sets up.
    call(job, 8, 64 if job.startswith("batch") else 4096, D, device)
    return call(job, B, M, D, device)
"""

RUN = r"""
torch.set_num_threads(2)
print(json.dumps(warm_call(sys.argv[1], *map(int, sys.argv[2:]))))
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc"
)

needs_cuda = pytest.mark.skipif("cuda" not in DEVICES, reason="needs a CUDA device and kernels")


def cuda_extra_mb(job, B, M, D):
    names = {}
    exec(PROGRAM, names)
    return names["warm_call"](job, B, M, D, "cuda")


def extra_mb(job, B, M, D):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + RUN, job, str(B), str(M), str(D)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


JOBS = [
    ("mine:hardest", 1024, 1 << 18, 8),
    ("mine:semihard", 1024, 1 << 18, 8),
    ("mine:random", 1024, 1 << 18, 8),
    ("mine:euclidean", 512, 1 << 19, 4),
    ("mine:chebyshev", 512, 1 << 19, 4),
    ("positives:hardest", 1024, 1 << 18, 8),
    ("bank:float32", 1024, 1 << 18, 8),
    ("bank:bfloat16", 1024, 1 << 18, 8),
    ("batch_hard:hardest", 1 << 14, 1 << 14, 8),
]


@needs_proc
@pytest.mark.parametrize(("job", "B", "M", "D"), JOBS)
def test_the_matrix_is_never_stored(job, B, M, D):
    check(extra_mb(job, B, M, D), B, M, D)


@needs_cuda
@pytest.mark.parametrize(("job", "B", "M", "D"), JOBS)
def test_the_matrix_is_never_stored_on_cuda(job, B, M, D):
    check(cuda_extra_mb(job, B, M, D), B, M, D)


def check(extra, B, M, D):
    assert B * M * 4 / 2**20 >= 8 * LIMIT_MB
    packed_mb = (B + M) * max(D, 32) * 2 / 2**20  # one 16-bit copy, rows padded
    assert extra < LIMIT_MB + packed_mb, f"{extra:.0f} MB beyond the inputs"


@needs_cuda
def test_the_measure_sees_a_stored_matrix_on_cuda():
    assert cuda_extra_mb("reference:mine", 256, 1 << 17, 8) > 256 * (1 << 17) * 4 / 2**20


@needs_proc
def test_the_measure_sees_a_stored_matrix():
    assert extra_mb("reference:mine", 256, 1 << 17, 8) > 256 * (1 << 17) * 4 / 2**20
