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
    text = render.page(tmp_path)
    assert text.startswith(render.INTRO)
    assert "| yes |" not in text
    rows = grid(text)
    assert len(rows) == 2 + 3 * 4 * 2
    for row in rows.values():
        times = [cell for name, cell in row.items() if name in TIMES]
        assert set(times) == {"not run"} or set(times) == {"not run", "–"}
        assert row["met"] == ("not run" if row["target"] else "")


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
    assert "12.0" not in render.page(tmp_path)


# --- mining

TIMES = (
    *("exact", "fast", "wgmma", "mma", "blas", "bank", "tiles", "mm", "mm_float16"),
    *("of mm", "TFLOP/s", "regret"),
)


def grid(text):
    """The rows of shapes by paths: {(B, M, D and dtype): {column: cell}}."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| B, M, D | dtype | exact"))
    head, *body = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines[start:])
    found = {}
    for cells in body[1:]:
        if len(cells) != len(head):
            break
        found[cells[0], cells[1]] = dict(zip(head, cells, strict=True))
    return found


def mined(shape, dtype, times, mode="mine_exact", data="gaussian", **more):
    """Rows; one without a time failed."""
    problem = dict(zip("BMD", shape, strict=True)) | {"dtype": dtype, "data": data}
    return [
        {"bench": "mine_negatives", "impl": impl, "mode": mode, **problem, **more}
        | ({} if t is None else {"median_ms": t, "p20_ms": t, "p80_ms": t})
        for impl, t in times.items()
    ]


def mining_page(render, tmp_path, rows, **head):
    path = tmp_path / "some-gpu" / "mine_negatives.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**HEAD, **head, "rows": rows}))
    return render.page(tmp_path)


SQUARE, BANK = (65536, 65536, 1024), (50, 10**6, 640)


@pytest.mark.parametrize(
    ("shape", "dtype", "times", "met"),
    [
        (SQUARE, "bfloat16", {"tla_ops": 13.9}, "yes"),
        (SQUARE, "bfloat16", {"tla_ops": 14.1}, "no"),
        (SQUARE, "bfloat16", {"mm": 13.0}, "not run"),
        (SQUARE, "float32", {"tla_ops": 19.0, "mm": 160.0}, "yes"),
        (SQUARE, "float32", {"tla_ops": 21.0, "mm": 160.0}, "no"),
        (SQUARE, "float32", {"tla_ops": 19.0}, "not run"),
        (BANK, "bfloat16", {"tla_ops": 0.37, "copy": 0.6}, "yes"),
        (BANK, "bfloat16", {"tla_ops": 0.38, "copy": 0.6}, "no"),
        ((65536, 65536, 640), "float32", {"tla_ops": 1.0, "mm": 160.0}, ""),
        ((4096, 4096, 1024), "bfloat16", {"tla_ops": 1.0, "mm": 160.0}, ""),
    ],
)
def test_targets_of_mining(render, tmp_path, shape, dtype, times, met):
    rows = grid(mining_page(render, tmp_path, mined(shape, dtype, times)))
    assert rows[", ".join(map(str, shape)), dtype]["met"] == met
    assert [row["met"] for row in rows.values()].count("yes") == (met == "yes")


def test_a_row_of_paths(render, tmp_path):
    more = {"of_mm": 0.875, "tflops": 700.4, "peak_mb": 333.0, "regret": 1e-7}
    rows = mined(SQUARE, "float32", {"tla_ops": 12.34}, path="wgmma", **more)
    rows += mined(SQUARE, "float32", {"tla_ops": 11.0}, mode="mine_fast")
    rows += mined(SQUARE, "float32", {"tla_ops_wgmma": 12.3, "mm": 160.0, "mm_float16": 10.0})
    rows += mined(SQUARE, "float32", {"tla_ops_mma": 1.0}, correct=False)
    rows += mined(SQUARE, "float32", {"tla_ops_bank": None}, error="the plan takes wgmma here")
    rows += mined(SQUARE, "float32", {"tla_ops_blas": None}, error="out of memory")
    rows += mined(SQUARE, "float32", {"tla_ops": 0.001}, data="relu")
    row = grid(mining_page(render, tmp_path, rows))["65536, 65536, 1024", "float32"]
    assert row == {
        **{"B, M, D": "65536, 65536, 1024", "dtype": "float32", "exact": "12.3 wgmma"},
        **{"fast": "11.0", "wgmma": "12.3", "mma": "wrong", "blas": "failed", "bank": "–"},
        **{"tiles": "not run", "mm": "160", "mm_float16": "10.0", "of mm": "88%"},
        **{"TFLOP/s": "700", "extra MB": "333 (≤ 384)", "regret": "1e-07"},
        **{"target": "≤ 1/8 × mm", "met": "yes"},
    }


def test_a_wrong_pick_meets_no_target(render, tmp_path):
    rows = mined(SQUARE, "bfloat16", {"tla_ops": 1.0}, correct=False, not_allowed=3)
    text = mining_page(render, tmp_path, rows, wrong=["tla_ops: off by one"])
    row = grid(text)["65536, 65536, 1024", "bfloat16"]
    assert (row["exact"], row["met"]) == ("wrong", "no")
    assert "wrong; 3 picks of the own class or none |" in text
    assert "- tla_ops: off by one" in text


def test_every_row_is_listed(render, tmp_path):
    more = {"tflops": 3.0, "peak_mb": 4.0, "process_mb": 300.0}
    rows = mined((9, 80, 8), "float32", {"faiss": 2.0}, times_float32_mm=2.0, **more)
    rows += mined((9, 80, 8), "float32", {"mm": 1.0}, times_float32_mm=1.0, **more)
    more = {"error": "not installed: cuvs", "memory_error": "out of memory"}
    broken = mined((9, 80, 8), "float32", {"cuvs": None}, **more)
    head = {"capability": None, "instruction_sets": ["avx2"]}
    text = mining_page(render, tmp_path, broken + rows, **head)
    one = "| 9, 80, 8 | float32 | gaussian | mine_exact |"
    listed = [line.removeprefix(one) for line in text.splitlines() if line.startswith(one)]
    assert listed == [
        " mm | 1.000 | 1.000–1.000 | 3 | 100% | 1.000 | 4 | 300 |  |  |",
        " faiss | 2.000 | 2.000–2.000 | 3 | 50% | 2.000 | 4 | 300 |  |  |",
        " cuvs | – |  |  |  |  |  |  |  | memory: out of memory; not installed: cuvs |",
    ]


def test_the_page_in_docs_is_what_the_results_render_to(render):
    document = BENCHMARKS.parent / "docs" / "performance.md"
    assert document.read_text() == render.page(BENCHMARKS / "results")
