"""Memory beyond inputs and outputs: far below the B x M matrix; measured in its own process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_MB = 128
"""The fixed part the design allows."""

PROGRAM = r"""
import json, sys
import torch, tla_ops
from tla_ops import reference

def peak_mb():
    # Not ru_maxrss: a child starts with its parent's there.
    line = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

def call(job, B, M, D):
    torch.manual_seed(0)
    torch.set_num_threads(2)
    a, p, c = torch.randn(B, D), torch.randn(B, 1, D), torch.randn(M, D)
    y, cy = torch.arange(B) % 10, torch.arange(M) % 10
    kind, option = job.split(":")
    base = peak_mb()
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
        bank = tla_ops.FeatureBank(M, D, dtype=getattr(torch, option))
        bank.enqueue(c, cy)
        base = peak_mb()
        tla_ops.triplet_adv_loss(a, p, bank.features, y, bank.labels).backward()
    return peak_mb() - base

job, B, M, D = sys.argv[1], *map(int, sys.argv[2:])
call(job, 8, 64 if job.startswith("batch") else 4096, D)  # allocators, thread pools, first calls
print(json.dumps(call(job, B, M, D)))
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc"
)


def extra_mb(job, B, M, D):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, job, str(B), str(M), str(D)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_proc
@pytest.mark.parametrize(
    ("job", "B", "M", "D"),
    [
        ("mine:hardest", 1024, 1 << 18, 8),
        ("mine:semihard", 1024, 1 << 18, 8),
        ("mine:random", 1024, 1 << 18, 8),
        ("mine:euclidean", 512, 1 << 19, 4),
        ("mine:chebyshev", 512, 1 << 19, 4),
        ("positives:hardest", 1024, 1 << 18, 8),
        ("bank:float32", 1024, 1 << 18, 8),
        ("bank:bfloat16", 1024, 1 << 18, 8),
        ("batch_hard:hardest", 1 << 14, 1 << 14, 8),
    ],
)
def test_the_matrix_is_never_stored(job, B, M, D):
    matrix_mb = B * M * 4 / 2**20
    assert matrix_mb >= 8 * LIMIT_MB
    extra = extra_mb(job, B, M, D)
    packed_mb = (B + M) * max(D, 32) * 2 / 2**20  # one 16-bit copy, rows padded
    assert extra < LIMIT_MB + packed_mb, f"{extra:.0f} MB beyond the inputs"


@needs_proc
def test_the_measure_sees_a_stored_matrix():
    assert extra_mb("reference:mine", 256, 1 << 17, 8) > 256 * (1 << 17) * 4 / 2**20
