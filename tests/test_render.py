"""benchmarks/render.py on made-up results: what is claimed, and that nothing else is."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HEAD = {
    "machine": "some-gpu", "device": "Some GPU", "capability": "9.0", "driver": "1.2",
    "torch": "2.13.0", "cuda": "13.0", "commit": "abc", "date": "2030-01-02T03:04:05+00:00",
}  # fmt: skip
FAST = {"tla_ops_graph": 0.012, "tla_ops": 0.05, "eager": 0.5, "compile": 0.04}


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import render

    return render


def rows_of(times, mode="both", M=500, **more):
    return [
        {
            **{"bench": "triplet_adv_loss", "impl": impl, "mode": mode, "B": 50, "M": M, "D": 640},
            **{"dtype": "float32", "median_ms": t, "p20_ms": t, "p80_ms": t, "correct": True},
            **more,
        }
        for impl, t in times.items()
    ]


def page(render, tmp_path, rows, **head):
    path = tmp_path / "some-gpu" / "latency.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**HEAD, **head, "rows": rows}))
    return render.page(tmp_path)


def test_nothing_is_claimed_without_results(render, tmp_path):
    assert render.page(tmp_path) == render.INTRO


def test_targets_met(render, tmp_path):
    text = page(render, tmp_path, rows_of(FAST))
    assert "| at most 13 µs | 12.0 µs | yes |" in text
    assert "| at least 10 × faster than eager | 41.7 × | yes |" in text
    assert "under CUDA graphs | 3.3 × | yes |" in text


def test_targets_missed(render, tmp_path):
    text = page(render, tmp_path, rows_of({**FAST, "tla_ops_graph": 0.06}))
    assert "| at most 13 µs | 60.0 µs | no |" in text
    assert "faster than eager | 8.3 × | no |" in text
    assert "under CUDA graphs | 0.7 × | no |" in text


@pytest.mark.parametrize("M", [500, 1000])
def test_targets_not_measured(render, tmp_path, M):
    times = FAST if M == 1000 else {"tla_ops": 0.05, "eager": 0.5}
    text = page(render, tmp_path, rows_of(times, M=M))
    assert text.count("not measured |") == 3
    assert "| yes |" not in text


def test_columns_and_ratios(render, tmp_path):
    times = {**FAST, "floor_launches": 0.004}
    rows = rows_of(times) + rows_of({"tla_ops_graph": 0.02, "eager": 0.6}, M=1)
    text = page(render, tmp_path, rows)
    assert (
        "| dtype | B, M, D | tla_ops_graph | tla_ops | compile | eager | floor_launches "
        "| × eager | × compile |"
    ) in text
    assert "| float32 | 50, 500, 640 | 12.0 | 50.0 | 40.0 | 500.0 | 4.0 | 41.7 | 3.3 |" in text
    assert "| float32 | 50, 1, 640 | 20.0 | – | – | 600.0 | – | 30.0 | – |" in text


def test_a_wrong_result_has_no_time(render, tmp_path):
    rows = rows_of(FAST, correct=False)
    text = page(render, tmp_path, rows, wrong=["tla_ops: off by one"])
    assert "12.0" not in text
    assert text.count("| – | not measured |") == 3
    assert "| wrong |" in text
    assert "- tla_ops: off by one" in text


def test_floor(render, tmp_path):
    kernel = rows_of({"empty_kernel": 0.0025}, mode="launch", M=0, chained_ms=0.0011)
    copy = rows_of({"copy": 0.5}, mode="launch", M=0, gb_per_s=4300.0)
    text = page(render, tmp_path, kernel + copy)
    assert "| empty_kernel | 2.50 | 1.10 |" in text
    assert "Copy on the device: 4.30 TB/s" in text


def test_a_processor_s_latency_is_no_gpu_table(render, tmp_path):
    path = tmp_path / "some-cpu" / "latency.json"
    path.parent.mkdir()
    head = {key: value for key, value in HEAD.items() if key != "capability"}
    path.write_text(json.dumps({**head, "rows": rows_of(FAST)}))
    assert render.page(tmp_path) == render.INTRO


def test_the_page_in_docs_is_what_the_results_render_to(render):
    document = BENCHMARKS.parent / "docs" / "performance.md"
    assert document.read_text() == render.page(BENCHMARKS / "results")
