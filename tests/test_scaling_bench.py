"""benchmarks/scaling.py, its laws, and benchmarks/bench_triplet_adv_loss.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
IMPLS = ("tla_ops", "eager", "eager_chunks")


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import scaling

    monkeypatch.setattr(scaling, "limit_memory", lambda: None)  # of this process
    return scaling


@pytest.fixture
def fits(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fits

    return fits


def test_a_line_is_found(fits):
    xs = [1, 10, 100, 10**4]
    a, b = fits.linear(xs, [0.5 + 0.02 * x for x in xs])
    assert (a, b) == (pytest.approx(0.5), pytest.approx(0.02))


def test_each_decade_counts_in_a_line(fits):
    """The smallest times are as exact, relatively, as the largest."""
    xs = [1, 10, 100, 10**6]
    a, _ = fits.linear(xs, [1, 1, 1.001, 10.3])
    assert a == pytest.approx(1, rel=0.01)


def test_an_exponent_is_of_the_upper_range(fits):
    xs = [1, 10, 100, 1000, 10**4]
    assert fits.exponent(xs, [7, 7, 3, 3 * 10**1.5, 3 * 10**3]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("ours", "other", "at"),
    [
        ([1, 1, 1], [2, 2, 2], 1),
        ([2, 1, 1], [1, 2, 4], 10**0.5),
        ([1, 2, 1], [2, 1, 2], 10**1.5),
        ([1, 1, 2], [2, 2, 1], None),
        ([2, 1, 1], [2, 2, 2], 1),
    ],
)
def test_where_ours_becomes_the_faster(fits, ours, other, at):
    found = fits.crossover([1, 10, 100], ours, other)
    assert found == (None if at is None else pytest.approx(at))


def test_laws_of_memory(scaling):
    memory = sys.modules["scaling_memory"]
    mb, m = 2**20, 1000
    # Copies of the candidates first, distances later: the larger of both is the peak.
    found = {
        ((b, m, 8), impl): max(64 * m, pair * b * m) / mb
        for b in (2, 50, 90)
        for impl, pair in (("tla_ops", 0), ("eager", 16))
    }
    told = memory.laws(found)
    assert told["eager"] == {"pair": pytest.approx(16), "candidate": pytest.approx(64)}
    assert told["tla_ops"]["pair"] == pytest.approx(0, abs=1e-9)
    rows = memory.largest(told, [2, 100], 8)
    room = memory.machine_bytes()
    assert [row["M_features"] for row in rows] == [room // 32] * 2
    assert [row["M_eager"] for row in rows] == [room // 96, room // (32 + 1600)]


def program(name, *arguments):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, BENCHMARKS / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_a_quick_run(tmp_path):
    output = tmp_path / "deep" / "scaling.json"
    done = program("scaling.py", "--quick", "--commit", "abc", "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(output.read_text())
    assert document["commit"] == "abc"
    assert (document["wrong"], document["left_out"]) == ([], [])
    for axis in ("M", "B", "D", "threads"):
        rows = [row for row in document["rows"] if row["axis"] == axis]
        assert {row["impl"] for row in rows} == set(IMPLS)
        for row in rows:
            assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
            assert row["value"] == row[axis]
        ours = [row for row in rows if row["impl"] == "tla_ops"]
        assert all(row["correct"] for row in ours)
    laws = document["laws"]
    assert set(laws["M"]["eager"]) == {"a_ms", "b_ms", "exponent"}
    assert set(laws["M"]["crossover"]) == {"eager", "eager_chunks"}
    memory = [row for row in document["rows"] if row["axis"] == "memory"]
    assert {row["impl"] for row in memory} == set(IMPLS)
    if any("peak_mb" not in row for row in memory):
        pytest.skip("the system does not tell a process's peak memory")
    grows = document["bytes_a_pair"]
    assert grows["tla_ops"] < 1 < 8 < grows["eager"]
    said = {(row["impl"], row["filled"]): row["memory"] for row in document["proof"]}
    assert said.pop(("eager", 1.4)) == "out of memory"
    assert set(said.values()) == {"enough"}


def test_a_run_out_of_time_says_what_it_left_out(scaling, tmp_path):
    output = tmp_path / "scaling.json"
    arguments = ["--quick", "--axis", "M", "--seconds", "1e-9", "--output", str(output)]
    assert scaling.main(arguments) == 0
    document = json.loads(output.read_text())
    assert document["rows"] == []
    assert len(document["left_out"]) == 4


def test_a_wrong_pick_is_seen(scaling, tmp_path, monkeypatch):
    impls = sys.modules["mining_impls"]
    monkeypatch.setattr(
        impls, "tla_ops_search", lambda p, fast=False: lambda: torch.zeros(len(p.anchor)).long()
    )
    output = tmp_path / "scaling.json"
    assert scaling.main(["--quick", "--axis", "M", "--output", str(output)]) == 1
    document = json.loads(output.read_text())
    assert document["wrong"]
    assert not all(row["correct"] for row in document["rows"] if row["impl"] == "tla_ops")


def test_what_fails_is_kept(scaling, tmp_path, monkeypatch):
    def fail(p):
        raise RuntimeError("no such luck")

    peers = sys.modules["peers"]
    monkeypatch.setitem(
        peers.MINING_PEERS, "eager", peers.MINING_PEERS["eager"]._replace(make=fail)
    )
    output = tmp_path / "scaling.json"
    assert scaling.main(["--quick", "--axis", "B", "--output", str(output)]) == 0
    document = json.loads(output.read_text())
    failed = [row for row in document["rows"] if row["impl"] == "eager"]
    assert {row["error"] for row in failed} == {"RuntimeError: no such luck"}
    assert "eager" not in document["laws"]["B"]


def test_threads_are_as_before(scaling, tmp_path):
    before = torch.get_num_threads()
    arguments = ["--quick", "--axis", "threads", "--output", str(tmp_path / "scaling.json")]
    assert scaling.main(arguments) == 0
    assert torch.get_num_threads() == before


def test_the_loss_beside_its_peers(tmp_path):
    output = tmp_path / "loss.json"
    only = "tla_ops,eager,mm,pytorch_metric_learning"
    done = program("bench_triplet_adv_loss.py", "--quick", "--only", only, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "≥ 8 × faster than `eager`" in done.stdout
    document = json.loads(output.read_text())
    assert document["wrong"] == []
    problems = {(row["M"], row["mode"]) for row in document["rows"]}
    assert problems == {(m, mode) for m in (500, 2000) for mode in ("forward", "both")}
    for row in document["rows"]:
        assert "error" in row or row["median_ms"] > 0
        assert row["impl"] != "tla_ops" or row["correct"]


def test_a_loss_that_picks_wrong_is_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_triplet_adv_loss as bench

    monkeypatch.setattr(bench, "picks", lambda module, p: torch.zeros(len(p.anchor)).long())
    arguments = ["--quick", "--only", "tla_ops", "--output", str(tmp_path / "loss.json")]
    assert bench.main(arguments) == 1


@pytest.mark.parametrize("name", ["scaling.py", "bench_triplet_adv_loss.py"])
def test_help_has_examples(name):
    done = program(name, "--help")
    assert done.returncode == 0
    assert f"python benchmarks/{name} --quick" in done.stdout
