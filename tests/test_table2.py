"""`tla-ops bench table2` at a tiny size."""

import copy
import itertools
import json
import os
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch

from tla_ops import FeatureBank
from tla_ops.experiments import table2, table2_flows
from tla_ops.training.attacks import pgd
from tla_ops.training.methods import tla
from tla_ops.training.models import MODELS

SIZES = (1, 64, 4096)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("table2") / "rows.json"
    config = table2.Config("small", 10, SIZES, repeats=3, attack_steps=1, device="cpu", seed=0)
    return table2.run(config, path), path


def parts_of_an_iteration(count=10, negatives=64):
    torch.manual_seed(0)
    model = MODELS["small"]().train()
    batch = table2_flows.random_batch(model, count, negatives)
    return model, batch, torch.optim.SGD(model.parameters(), lr=1e-3)


def test_rows(finished):
    results, path = finished
    assert [(row["M"], row["flow"]) for row in results["rows"]] == [
        (1, "paper"), (64, "paper"), (64, "bank"), (4096, "paper"), (4096, "bank"),
    ]  # fmt: skip
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


@pytest.mark.parametrize("flow", table2.FLOWS)
def test_parts_sum_to_the_total(flow):
    model, batch, optimizer = parts_of_an_iteration()
    bank = table2_flows.full_bank(model, batch) if flow == "bank" else None
    for _ in range(3):
        seconds = table2_flows.iteration(model, optimizer, batch, 1, bank)
        total = seconds.pop("total")
        assert set(seconds) == set(table2_flows.PARTS)
        # What lies between the parts is a few assignments.
        assert sum(seconds.values()) == pytest.approx(total, abs=2e-3, rel=0.05)


@pytest.mark.parametrize(("count", "negatives"), [(10, 64), (10, 3), (2, 5)])
def test_a_bank_is_full_and_the_model_untouched(count, negatives):
    model, batch, _ = parts_of_an_iteration(count, negatives)
    before = copy.deepcopy(model.state_dict())
    bank = table2_flows.full_bank(model, batch)
    assert bank.features.shape == (negatives, 128)
    assert len(bank) == negatives
    assert torch.equal(bank.labels, batch.candidate_labels)
    assert bank.features.abs().sum(1).min() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_banks_flow_is_the_trainers():
    """No candidate is forwarded, and what a step leaves is what `tla` with a bank leaves."""
    model, batch, optimizer = parts_of_an_iteration()
    bank = table2_flows.full_bank(model, batch)
    other, rows = copy.deepcopy(model), FeatureBank(64, 128)
    rows.load_state_dict(bank.state_dict())
    sizes = []
    model.body.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    random = torch.get_rng_state()
    seconds = table2_flows.iteration(model, optimizer, batch, 1, bank)
    assert sizes == [10, 10, 10]  # the attack's step, the anchors, the positives
    assert seconds["pool_forward"] == 0 < seconds["mining"] < seconds["total"]
    assert seconds["training_step"] > 0
    torch.set_rng_state(random)
    attack = partial(pgd, epsilon=Fraction(8, 255), step=Fraction(2, 255), steps=1)
    step = tla(other, batch, attack=attack, weight=2.0, norm_weight=1e-3, margin=0.03, bank=rows)
    step.loss.backward()
    torch.optim.SGD(other.parameters(), lr=1e-3).step()
    rows.enqueue(*step.features)
    for ours, theirs in ((model, other), (bank, rows)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def test_a_banks_mining_is_not_counted_twice(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(table2_flows, "device_clock", lambda device: lambda: next(ticks))
    model, batch, optimizer = parts_of_an_iteration()
    bank = table2_flows.full_bank(model, batch)
    # The training step takes three ticks, of which the search in it is one.
    expected = {"attack": 1, "pool_forward": 0, "mining": 1, "training_step": 2, "total": 7}
    assert table2_flows.iteration(model, optimizer, batch, 1, bank) == expected


def test_the_papers_values_stand_beside_its_flow():
    config = table2.Config("small", 10, (500,), 1, 1, "cpu", 0)
    sample = dict.fromkeys((*table2_flows.PARTS, "total"), 1.0)
    for flow, paper in (("paper", (0.908, 2.688)), ("bank", (None, None))):
        row = table2.row([sample], 500, flow, config, MODELS["small"]())
        assert (row["paper_mini_batch_s"], row["paper_total_s"]) == paper
        assert (row["M"], row["flow"]) == (500, flow)


def test_flows_take_turns():
    config = table2.Config("small", 10, (1, 5, 9), 1, 1, "cpu", 0)
    first, second = (table2.in_turn(config.cases, repeat) for repeat in (1, 2))
    paper, bank = "paper", "bank"
    assert first == [(1, paper), (5, paper), (5, bank), (9, bank), (9, paper)]
    assert second == [(1, paper), (5, bank), (5, paper), (9, paper), (9, bank)]


@pytest.mark.parametrize(
    ("flows", "negatives", "message"),
    [
        (("pool",), (5,), "flows must be some of paper, bank, got pool"),
        ((), (5,), "flows must be some of paper, bank"),
        (("bank",), (1,), r"negatives must have a size above 1 for a bank, got \(1,\)"),
    ],
)
def test_what_cannot_be_timed(flows, negatives, message):
    with pytest.raises(ValueError, match=message):
        table2.Config("small", 10, negatives, 1, 1, "cpu", 0, flows=flows)


def test_a_size_of_one_forwards_no_pool(finished):
    alone, small, large = (row for row in finished[0]["rows"] if row["flow"] == "paper")
    assert alone["mini_batch_ms"] == alone["pool_forward_ms"] == alone["mining_ms"] == 0
    assert small["mining_ms"] > 0
    assert 0 < small["pool_forward_ms"] < large["pool_forward_ms"]
    for row in finished[0]["rows"]:
        if row["flow"] == "bank":
            assert row["pool_forward_ms"] == 0 < row["mining_ms"] == row["mini_batch_ms"]


def test_slope():
    rows = [
        {"M": size, "mini_batch_ms": 5 + 2.0 * size, "pool_forward_ms": 1.5 * size, "mining_ms": 3}
        for size in (250, 500, 2000)
    ]
    expected = {"mini_batch": 2.0, "pool_forward": 1.5, "mining": 0.0}
    assert table2.slope(rows) == pytest.approx(expected)
    assert table2.slope([{**rows[0], "M": 1}, rows[1]]) is None
    flows = [row | {"flow": "paper"} for row in rows] + [
        row | {"flow": "bank", "mini_batch_ms": 0.25 * row["M"]} for row in rows[:2]
    ]
    found = table2.slopes(flows)
    assert found["paper"] == pytest.approx(expected)
    assert found["bank"] == pytest.approx(expected | {"mini_batch": 0.25})
    assert table2.slopes(flows[-1:]) == {"bank": None}


def test_slope_of_a_run_is_that_of_the_forward_pass(finished):
    slope = finished[0]["slope_ms_per_candidate"]["paper"]
    bank = finished[0]["slope_ms_per_candidate"]["bank"]
    assert bank["pool_forward"] == 0
    assert bank["mini_batch"] == bank["mining"] < slope["pool_forward"]
    assert 0 < slope["pool_forward"] < 5
    assert slope["mini_batch"] == pytest.approx(slope["pool_forward"] + slope["mining"])


def made(*flows):
    """Results of a run with every size of the paper and one more, of easy numbers."""
    parts = {f"{part}_ms": 1.0 for part in table2_flows.PARTS}
    none = {"paper_mini_batch_s": None, "paper_total_s": None}
    rows = []
    for size, paper in {**table2.PAPER, 7: (None, None)}.items():
        own = {"M": size, "flow": "paper", "mini_batch_ms": 0.5 * size, "median_ms": 900.0}
        rows.append(parts | own | {"paper_mini_batch_s": paper[0], "paper_total_s": paper[1]})
        if size > 1:
            own = {"M": size, "flow": "bank", "mini_batch_ms": size / 128, "median_ms": 400.0}
            rows.append(parts | own | none | {"pool_forward_ms": 0.0, "mining_ms": size / 128})
    rows = [row for row in rows if row["flow"] in flows]
    config = {"model": "wrn", "batch": 50, "repeats": 3, "attack_steps": 7}
    results = {"configuration": config, "machine": "m", "device": "cpu", "rows": rows}
    return table2.render(results | {"slope_ms_per_candidate": table2.slopes(rows)})


def test_table_shows_the_papers_values():
    text = made("paper", "bank")
    for value in (".467", ".908", "1.832", "3.548", "1.802", "2.259", "2.688", "3.621", "5.992"):
        assert value in text
    assert "adds 0.5 ms, 0.0% of it in mining (paper: 1.76 ms)" in text
    assert "measures the forward pass of the pool, not the search" in text


def test_table_shows_the_flows_side_by_side():
    lines = made("paper", "bank").splitlines()
    table = {line.split()[0]: line.split()[1:] for line in reversed(lines[3:12]) if line}
    assert lines[3].endswith("bank Mini-Batch TT  bank Total TT  ratio")
    assert table["500"] == ["0.25", "0.908", "0.9", "2.688", "0.003906", "0.4", "2.25"]
    assert table["1"] == ["0.0005", "0", "0.9", "1.802", "-", "-", "-"]
    assert table["7"] == ["0.0035", "-", "0.9", "-", "5.469e-05", "0.4", "2.25"]
    assert ["500", "bank", "0.001", "0", "0.003906", "0.001"] in [line.split() for line in lines]
    assert "Each further row of a bank adds 0.007812 ms." in lines
    assert max(map(len, lines)) < 100


def test_table_of_one_flow():
    for flow, other in (table2.FLOWS, reversed(table2.FLOWS)):
        text = made(flow)
        header = text.splitlines()[3]
        assert "ratio" not in header
        assert ("bank Total TT" in header) == (flow == "bank")
        assert ("  Mini-Batch TT" in header) == (flow == "paper")
        assert other not in {line.split()[1] for line in text.splitlines() if line[:3] == "500"}
        assert ("row of a bank" in text) == (flow == "bank")


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "tla_ops", "bench", "table2", "--model", "small", "--json"]
    command += ["--batch", "4", "--negatives", "1,20", "--repeats", "1", "--attack-steps", "1"]
    command += ["--flows", "bank"]
    path = tmp_path / "rows.json"
    done = subprocess.run(
        [*command, "--output", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text())
    assert json.loads(done.stdout) == written
    assert [row["flow"] for row in written["rows"]] == ["bank"]
    assert written["configuration"]["flows"] == ["bank"]


def test_script_is_the_same_command():
    script = Path(__file__).parents[1] / "benchmarks" / "table2.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "tla-ops bench table2" in done.stdout
