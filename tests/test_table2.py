"""`tla-ops bench table2` at a tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tla_ops.experiments import table2
from tla_ops.training.models import MODELS

SIZES = (1, 64, 4096)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("table2") / "rows.json"
    config = table2.Config("small", 10, SIZES, repeats=3, attack_steps=1, device="cpu", seed=0)
    return table2.run(config, path), path


def test_rows(finished):
    results, path = finished
    assert [row["M"] for row in results["rows"]] == list(SIZES)
    for row in results["rows"]:
        assert row["bench"] == "table2"
        assert row["impl"] == "tla_ops"
        assert row["mode"] == "both"
        assert (row["B"], row["D"], row["dtype"]) == (10, 128, "float32")
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["mini_batch_ms"] == row["pool_forward_ms"] + row["mining_ms"]
    for key in ("machine", "device", "driver", "torch", "cuda", "commit", "date"):
        assert key in results
    written = json.loads(path.read_text())
    assert written["rows"] == results["rows"]


def test_parts_sum_to_the_total():
    config = table2.Config("small", 10, (64,), repeats=1, attack_steps=1, device="cpu", seed=0)
    model = MODELS["small"]()
    batch = table2.random_batch(model, config, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        seconds = table2.iteration(model, optimizer, batch, 1)
        total = seconds.pop("total")
        assert set(seconds) == set(table2.PARTS)
        # What lies between the parts is a few assignments.
        assert sum(seconds.values()) == pytest.approx(total, abs=2e-3, rel=0.05)


def test_a_size_of_one_forwards_no_pool(finished):
    alone, small, large = finished[0]["rows"]
    assert alone["mini_batch_ms"] == alone["pool_forward_ms"] == alone["mining_ms"] == 0
    assert small["mining_ms"] > 0
    assert 0 < small["pool_forward_ms"] < large["pool_forward_ms"]


def test_slope():
    rows = [
        {"M": size, "mini_batch_ms": 5 + 2.0 * size, "pool_forward_ms": 1.5 * size, "mining_ms": 3}
        for size in (250, 500, 2000)
    ]
    expected = {"mini_batch": 2.0, "pool_forward": 1.5, "mining": 0.0}
    assert table2.slope(rows) == pytest.approx(expected)
    assert table2.slope([{**rows[0], "M": 1}, rows[1]]) is None


def test_slope_of_a_run_is_that_of_the_forward_pass(finished):
    slope = finished[0]["slope_ms_per_candidate"]
    assert 0 < slope["pool_forward"] < 5
    assert slope["mini_batch"] == pytest.approx(slope["pool_forward"] + slope["mining"])


def test_table_shows_the_papers_values():
    parts = {f"{part}_ms": 1.0 for part in table2.PARTS}
    rows = [
        {"M": size, "mini_batch_ms": 0.5 * size, "median_ms": 900.0, **parts}
        | {"paper_mini_batch_s": paper[0], "paper_total_s": paper[1]}
        for size, paper in {**table2.PAPER, 7: (None, None)}.items()
    ]
    config = {"model": "wrn", "batch": 50, "repeats": 3, "attack_steps": 7}
    results = {"configuration": config, "machine": "m", "device": "cpu", "rows": rows}
    text = table2.render(results | {"slope_ms_per_candidate": table2.slope(rows)})
    for value in (".467", ".908", "1.832", "3.548", "1.802", "2.259", "2.688", "3.621", "5.992"):
        assert value in text
    assert "paper: 1.76 ms" in text
    assert "measures the forward pass of the pool, not the search" in text


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "tla_ops", "bench", "table2", "--model", "small", "--json"]
    command += ["--batch", "4", "--negatives", "1,20", "--repeats", "1", "--attack-steps", "1"]
    path = tmp_path / "rows.json"
    done = subprocess.run(
        [*command, "--output", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(path.read_text())


def test_script_is_the_same_command():
    script = Path(__file__).parents[1] / "benchmarks" / "table2.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "tla-ops bench table2" in done.stdout
