"""A processor's targets and docs/scaling.md on made-up results."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DOCS = BENCHMARKS.parent / "docs"
HEAD = {
    "machine": "some-cpu", "device": "Some CPU, 2 threads", "instruction_sets": ["avx2"],
    "driver": None, "torch": "2.13.0", "cuda": None, "commit": "abc",
    "date": "2030-01-02T03:04:05+00:00",
}  # fmt: skip
LARGE = (1024, 65536, 640)


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import render

    return render


@pytest.fixture
def render_scaling(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import render_scaling

    return render_scaling


def rows_of(bench, shape, times, mode="mine_exact", dtype="float32", **more):
    """Rows; one without a time failed."""
    problem = dict(zip("BMD", shape, strict=True)) | {"dtype": dtype}
    return [
        {"bench": bench, "impl": impl, "mode": mode, **problem, **more}
        | ({} if t is None else {"median_ms": t, "p20_ms": t, "p80_ms": t})
        for impl, t in times.items()
    ]


def mined(times, data="gaussian", **more):
    return rows_of("mine_negatives", LARGE, times, data=data, **more)


def targets(render, tmp_path, name, rows, **head):
    """{what: (asked, measured, met)} of the table."""
    path = tmp_path / "some-cpu" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**HEAD, **head, "rows": rows}))
    lines = render.page(tmp_path).splitlines()
    start = lines.index("| what | asked | measured | met | what limits it |") + 2
    found = {}
    for text in lines[start:]:
        if not text.startswith("|"):
            break
        what, asked, measured, met, limits = (cell.strip() for cell in text[1:-1].split("|"))
        assert limits
        found[what, asked] = measured, met
    return found


def test_no_target_is_met_by_nothing(render, tmp_path):
    found = targets(render, tmp_path, "mine_negatives", [])
    assert len(found) == 7 + 4 + 1
    assert set(found.values()) == {("–", "not measured")}


FLOAT32_PATH = (
    "the float32 path by itself (avx512, or avx2 where there is none), gaussian",
    "≤ 1.05 × float32 `mm`",
)


@pytest.mark.parametrize(
    ("rows", "what", "measured", "met"),
    [
        ({"tla_ops": 15.0, "mm": 100.0}, "exact, gaussian", "0.150 × (15 ms, 100 ms)", "yes"),
        ({"tla_ops": 15.1, "mm": 100.0}, "exact, gaussian", "0.151 × (15.1 ms, 100 ms)", "no"),
        ({"tla_ops": 15.0}, "exact, gaussian", "–", "not measured"),
        ({"mm": 100.0}, "exact, gaussian", "–", "not measured"),
        ({"tla_ops": None, "mm": 100.0}, "exact, gaussian", "–", "not measured"),
        ({"tla_ops_avx512": 105.0, "mm": 100.0}, "the float32", "1.050 × (105 ms, 100 ms)", "yes"),
        ({"tla_ops_avx512": 106.0, "mm": 100.0}, "the float32", "1.060 × (106 ms, 100 ms)", "no"),
    ],
)
def test_a_target_of_mining(render, tmp_path, rows, what, measured, met):
    found = targets(render, tmp_path, "mine_negatives", mined(rows))
    told = [value for (said, _), value in found.items() if said.startswith(what)]
    assert told == [(measured, met)]


@pytest.mark.parametrize(
    ("data", "ms", "met"),
    [
        ("relu", 15.0, "yes"), ("relu", 16.0, "no"),
        ("collapsed", 20.0, "yes"), ("collapsed", 21.0, "no"),
        ("duplicates", 120.0, "yes"), ("duplicates", 121.0, "no"),
        ("copies", 120.0, "yes"), ("copies", 121.0, "no"),
    ],
)  # fmt: skip
def test_features_have_targets_of_their_own(render, tmp_path, data, ms, met):
    rows = mined({"tla_ops": ms, "mm": 100.0}, data)
    found = targets(render, tmp_path, "mine_negatives", rows)
    told = {what: met for (what, _), (_, met) in found.items() if met != "not measured"}
    ((what, said),) = told.items()
    assert data in what
    assert said == met


def test_bfloat16_is_held_against_a_float32_product(render, tmp_path):
    times = {"tla_ops": 11.0, "mm": 12.0, "mm_float32": 100.0}
    found = targets(render, tmp_path, "mine_negatives", mined(times, dtype="bfloat16"))
    told = found["bfloat16 features, gaussian", "≤ 0.11 × float32 `mm`"]
    assert told == ("0.110 × (11 ms, 100 ms)", "yes")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"correct": False}, ("wrong", "no")),
        ({"error": "RuntimeError: no"}, ("failed", "no")),
        ({"error": "this machine has no avx512"}, ("–", "not measured")),
    ],
)
def test_a_wrong_or_failed_row_meets_nothing(render, tmp_path, more, told):
    rows = mined({"mm": 100.0}) + mined(
        {"tla_ops_avx512": None if "error" in more else 1.0}, **more
    )
    found = targets(render, tmp_path, "mine_negatives", rows)
    assert found[FLOAT32_PATH] == told


def test_a_machine_without_avx512_is_judged_by_avx2(render, tmp_path):
    rows = mined({"tla_ops_avx512": None}, error="this machine has no avx512")
    rows += mined({"mm": 100.0, "tla_ops_avx2": 90.0})
    found = targets(render, tmp_path, "mine_negatives", rows)
    assert found[FLOAT32_PATH] == ("0.900 × (90 ms, 100 ms)", "yes")
    rows = mined({"mm": 100.0, "tla_ops_avx2": 90.0, "tla_ops_avx512": 110.0})
    found = targets(render, tmp_path, "mine_negatives", rows)
    assert found[FLOAT32_PATH] == ("1.100 × (110 ms, 100 ms)", "no")


@pytest.mark.parametrize(("eager", "met"), [(8.0, "yes"), (7.9, "no")])
def test_targets_of_the_loss(render, tmp_path, eager, met):
    times = {"tla_ops": 1.0, "eager": eager, "pytorch_metric_learning": 14.0}
    rows = rows_of("triplet_adv_loss", (50, 500, 640), times, mode="both")
    found = targets(render, tmp_path, "triplet_adv_loss", rows)
    what = "forward and backward, (50, 500, 640)"
    assert found[what, "≥ 8 × faster than `eager`"] == (f"{eager:.1f} × (1 ms, {eager:g} ms)", met)
    assert found[what, "≥ 15 × faster than `pytorch_metric_learning`"][1] == "no"
    assert [met for _, met in found.values()].count("not measured") == 7 + 2 + 1


@pytest.mark.parametrize(("grows", "met"), [(0.25, "yes"), (0.3, "no")])
def test_memory_is_flat(render, tmp_path, grows, met):
    targets(render, tmp_path, "mine_negatives", [])
    head = {"bytes_a_pair": {"tla_ops": grows, "eager": 16.0}}
    found = targets(render, tmp_path, "scaling", [], **head)
    told = found["peak memory flat in B × M", "≤ 0.25 bytes for another pair"]
    assert told == (f"{grows:.2f} bytes (`eager`: 16.0)", met)


def point(axis, value, times, **more):
    shape = {"M": (50, value, 8), "B": (value, 100, 8), "threads": (50, 100, 8)}[axis]
    more = {"axis": axis, "value": value, "threads": 2, **more}
    return rows_of("scaling", shape, times, **more)


def document(**more):
    rows = point("M", 1, {"tla_ops": 0.0123, "eager": 0.5})
    rows += point("M", 1000, {"tla_ops": 1.5, "eager": 1234.5})
    rows += point("M", 10**4, {"tla_ops": 2.0}) + point(
        "M", 10**4, {"eager": None}, error="no room"
    )
    rows += point("threads", 1, {"tla_ops": 2.0}) + point("threads", 2, {"tla_ops": 1.25})
    laws = {
        "M": {
            "tla_ops": {"a_ms": 0.01, "b_ms": 0.0015, "exponent": 0.987},
            "eager": {"a_ms": 0.4, "b_ms": 1.2, "exponent": 1.02},
            "crossover": {"eager": 12.4},
        },
        "threads": {"tla_ops": {"efficiency": {"1": 1.0, "2": 0.8}}},
    }
    return {**HEAD, "rows": rows, "laws": laws, **more}


def test_nothing_is_said_without_results(render_scaling, tmp_path):
    assert "Not run yet." in render_scaling.scaling_page([])
    assert list(render_scaling.figures([], tmp_path)) == []


def test_tables_of_an_axis(render_scaling):
    text = render_scaling.scaling_page([document()])
    assert "### Candidates: B = 50, D = 8, 2 threads" in text
    assert "| candidates M | tla_ops, ms | eager, ms |" in text
    assert "| 1 | 0.0123 | 0.5 |" in text
    assert "| 1000 | 1.5 | 1234 |" in text
    assert "| 10000 | 2 | no room |" in text
    assert "| tla_ops | 10 | 1.5 | 0.99 | – |" in text
    assert "| eager | 400 | 1200 | 1.02 | M = 12 |" in text
    assert "### Threads: B = 50, M = 100, D = 8" in text
    assert "| tla_ops | 100% | 80% |" in text
    assert "Anchors" not in text


def test_where_ours_is_never_the_faster(render_scaling):
    made = document()
    made["laws"]["M"]["crossover"]["eager"] = None
    assert "| nowhere here |" in render_scaling.scaling_page([made])


def test_a_wrong_pick_has_no_time(render_scaling):
    made = document(wrong=["M = 1: off by one"])
    made["rows"][0]["correct"] = False
    text = render_scaling.scaling_page([made])
    assert "| 1 | wrong | 0.5 |" in text
    assert "- M = 1: off by one" in text


def test_where_memory_ends(render_scaling):
    proof = [
        {"impl": impl, "B": 4096, "M": 10, "D": 16, "filled": 1.4, "room_mb": 64.0, "memory": said}
        for impl, said in (("tla_ops", "enough"), ("eager", "out of memory"))
    ]
    text = render_scaling.scaling_page([
        document(
            bytes_a_pair={"tla_ops": 0.01, "eager": 16.0}, memory_mb=24 * 1024.0, proof=proof,
            largest=[{"B": 50, "D": 8, "M_eager": 123, "M_features": 456}],
        )
    ])  # fmt: skip
    assert "`tla_ops` 0.01 bytes, `eager` 16.00 bytes" in text
    assert "machine's 24.0 GB" in text
    assert "| 50 | 8 | 123 | 456 |" in text
    assert "| 4096, 10, 16 | 64 | 1.4 × | enough | out of memory |" in text


def test_figures_are_drawn(render_scaling, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    paths = list(render_scaling.figures([document()], tmp_path))
    assert [path.name for path in paths] == [
        "scaling-some-cpu-m.svg",
        "scaling-some-cpu-threads.svg",
    ]
    page = render_scaling.scaling_page([document()])
    for path in paths:
        text = path.read_text()
        assert f"]({path.name})" in page
        assert all(said in text for said in ("tla_ops", "time, ms"))
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in render_scaling.figures([document()], tmp_path)] == before


def test_the_page_in_docs_is_what_the_results_render_to(render, render_scaling):
    results = sorted((BENCHMARKS / "results").glob("*/scaling.json"))
    documents = [json.loads(path.read_text()) for path in results]
    assert (DOCS / "scaling.md").read_text() == render_scaling.scaling_page(documents)
    named = {
        render_scaling.figure_name(document, row["axis"])
        for document in documents
        for row in document["rows"]
    }
    assert named == {path.name for path in DOCS.glob("scaling-*.svg")}
