"""benchmarks/latency.py: what it writes, and that it sees a wrong result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def impls(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import latency_impls

    return latency_impls


def problem(impls, M=30, dtype=torch.float32):
    return impls.random_problem((7, M, 16), dtype, torch.Generator().manual_seed(3))


def test_a_quick_run_on_the_cpu(tmp_path):
    output = tmp_path / "deep" / "latency.json"
    command = [
        *(sys.executable, BENCHMARKS / "latency.py", "--device", "cpu", "--quick"),
        *("--compile", "none", "--seed", "5", "--commit", "abc", "--output", output),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(output.read_text())
    assert (document["seed"], document["commit"], document["wrong"]) == (5, "abc", [])
    assert {"machine", "device", "driver", "torch", "cuda", "date", "warnings"} <= set(document)
    keys = [(r["impl"], r["mode"], r["B"], r["M"], r["D"], r["dtype"]) for r in document["rows"]]
    assert len(keys) == len(set(keys)) == 2 * 3 * 2 * 2  # impls, modes, sizes, dtypes
    for row in document["rows"]:
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["correct"] is True
        assert row["regret"] <= 2e-5
        assert ("loss_error" in row) == (row["mode"] != "backward")
        assert ("grad_error" in row) == (row["mode"] != "forward")


def test_a_run_out_of_time_says_what_it_left_out(tmp_path):
    output = tmp_path / "latency.json"
    command = [
        *(sys.executable, BENCHMARKS / "latency.py", "--device", "cpu", "--quick"),
        *("--compile", "none", "--seconds", "1e-9", "--output", output),
    ]
    subprocess.run(command, capture_output=True, check=True)
    document = json.loads(output.read_text())
    assert document["rows"] == []
    assert len(document["left_out"]) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("M", [1, 30])
@pytest.mark.parametrize("impl", ["tla_ops", "eager"])
def test_right_results_are_acceptable(impls, impl, M, dtype):
    p = problem(impls, M, dtype)
    module = impls.EAGER[impl]
    index = impls.picks(module, p)
    true = impls.truth(p, index)
    for mode in impls.MODES:
        outputs = impls.eager_run(module, p, mode).call()
        found = impls.errors(outputs, true, mode) | {"regret": impls.regret(p, index)}
        assert impls.acceptable(found, dtype), found


@pytest.mark.parametrize("wrong", [1.01, torch.nan])
@pytest.mark.parametrize("which", range(4))
def test_wrong_results_are_not(impls, which, wrong):
    p = problem(impls)
    true = impls.truth(p, impls.picks(impls.EAGER["eager"], p))
    outputs = [x.float() for x in true]
    outputs[which] = outputs[which] * wrong
    assert not impls.acceptable(impls.errors(tuple(outputs), true, "both"), torch.float32)


def test_regret_of_wrong_picks(impls):
    p = problem(impls)
    index = impls.picks(impls.EAGER["eager"], p)
    assert impls.regret(p, index) <= 1e-6
    own_class = (p.labels[0] == p.candidate_labels).nonzero()
    for bad in ((index[0] + 1) % 30, torch.tensor(-1), own_class[0, 0]):
        picked = torch.cat([bad[None], index[1:]])
        assert impls.regret(p, picked) > 2e-5
