"""benchmarks/bench_mine_negatives.py: what it writes, and that it sees what is wrong or failed."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import tla_ops

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAM = BENCHMARKS / "bench_mine_negatives.py"
SHAPE, LARGE = (40, 90, 16), (1024, 65536, 640)
PEERS = (
    *(
        "eager",
        "eager_chunks",
        "compile",
        "pytorch_metric_learning",
        "flash_kmeans",
        "faiss",
        "cuvs",
    ),
    *("sklearn", "mm", "mm_float16", "mm_float32", "copy"),
)
DATA = ("gaussian", "relu", "collapsed", "clusters", "duplicates", "copies")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_mine_negatives

    return bench_mine_negatives


@pytest.fixture
def peers(bench):
    return sys.modules["peers"]


@pytest.fixture
def ours(bench):
    return sys.modules["ours"]


@pytest.fixture
def impls(bench):
    return sys.modules["mining_impls"]


@pytest.fixture
def cases(bench):
    return sys.modules["cases"]


def program(*arguments):
    command = [sys.executable, PROGRAM, "--device", "cpu", *arguments]
    # Threads of several processes that share the processor wait for each other.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def run_case(bench, tmp_path, *arguments, shape=SHAPE):
    """One problem in this process: the bench and what it wrote."""
    output = tmp_path / "mine.json"
    args = ["--device", "cpu", "--quick", "--no-memory", "--output", str(output), *arguments]
    made = bench.Bench(bench.parse(args))
    try:
        made.run(bench.Case(shape, "float32"))
    finally:
        document = json.loads(output.read_text()) if output.exists() else {"rows": []}
    return made, {(row["mode"], row["impl"]): row for row in document["rows"]}


def add_peer(monkeypatch, bench, make, name="planted"):
    peer = sys.modules["peers"].Peer(make, sys.modules["cases"].Task())
    monkeypatch.setitem(bench.MINING_PEERS, name, peer)


def truth(p, task):
    """Each row's distances in float64, infinite where its task allows no pick."""
    d = F.normalize(p.anchor.double()) @ F.normalize(p.candidates.double()).mT
    d = 1 - (d if task.signed else d.abs())
    return d.masked_fill(p.labels[:, None] == p.candidate_labels, torch.inf) if task.masked else d


def test_a_quick_run(tmp_path):
    output = tmp_path / "deep" / "mine.json"
    only = "tla_ops,tla_ops_plain,mm,mm_float32,eager,copy,pytorch_metric_learning,cuvs"
    said = ["--seed", "5", "--commit", "abc", "--only", only, "--output", output]
    done = program("--quick", "--no-memory", *said)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(output.read_text())
    assert (document["seed"], document["commit"]) == (5, "abc")
    assert (document["wrong"], document["left_out"]) == ([], [])
    assert {"machine", "device", "driver", "torch", "cuda", "date"} <= set(document)
    keys = [
        (r["impl"], r["mode"], r["B"], r["M"], r["D"], r["dtype"], r["data"])
        for r in document["rows"]
    ]
    # Two modes of ours; `copy` beside the bank, a float32 product beside bfloat16.
    assert len(set(keys)) == len(keys) == 8 * 7 + 2
    ours = [row for row in document["rows"] if row["impl"].startswith("tla_ops")]
    assert {row["data"] for row in ours} == set(DATA)
    for row in document["rows"]:
        assert row["bench"] == "mine_negatives"
        assert row["mode"] in ("mine_exact", "mine_fast")
        if row["impl"] == "cuvs":
            assert "median_ms" not in row
            assert row["error"]
        elif "error" not in row:
            assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
            assert row["repeats"] == 3
            assert (row["impl"] == "copy") or row["tflops"] > 0 < row["of_mm"]
            assert row["times_float32_mm"] > 0
    for row in ours:
        assert row["correct"]
        assert row["regret"] <= 2e-5


def test_peak_memory_is_a_whole_process_s(bench, tmp_path):
    output = tmp_path / "mine.json"
    args = ["--device", "cpu", "--quick", "--only", "tla_ops,mm,eager", "--output", str(output)]
    made = bench.Bench(bench.parse(args))
    with made.children:
        made.run(bench.Case((1024, 16384, 16), "float32"))
    rows = {row["impl"]: row for row in json.loads(output.read_text())["rows"]}
    if "process_mb" not in rows["mm"]:
        pytest.skip("the system does not tell a process's peak memory")
    assert len({row["problem_mb"] for row in rows.values()}) == 1
    for row in rows.values():
        assert row["peak_mb"] == max(0, row["process_mb"] - row["problem_mb"])
    assert 64 <= rows["mm"]["peak_mb"] < 128 < rows["eager"]["peak_mb"]  # 64 MB of products
    assert rows["tla_ops"]["peak_mb"] < 64


def test_help_has_examples():
    done = program("--help")
    assert done.returncode == 0
    assert "--seconds 100" in done.stdout


def test_what_is_installed_is_told():
    command = [sys.executable, BENCHMARKS / "peers.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ["pytorch_metric_learning", "sklearn", "flash_kmeans", "faiss", "cuvs"]
    assert [line.split()[0] for line in done.stdout.splitlines()] == names


def test_a_run_out_of_time_says_what_it_left_out(tmp_path):
    output = tmp_path / "mine.json"
    done = program("--quick", "--seconds", "1e-9", "--output", output)
    assert done.returncode == 0, done.stderr
    document = json.loads(output.read_text())
    assert document["rows"] == []
    assert len(document["left_out"]) == 8


def test_time_that_runs_out_within_a_problem_keeps_what_there_is(bench, tmp_path, monkeypatch):
    asked = iter([False] * 4 + [True] * 99)
    monkeypatch.setattr(bench.Bench, "time_is_up", lambda _: next(asked))
    only = ["--only", "tla_ops,mm,eager", "--seconds", "5"]
    made, rows = run_case(bench, tmp_path, *only)
    assert [impl for _, impl in rows] == ["tla_ops", "tla_ops", "mm"]
    assert all(row["repeats"] == 1 for row in rows.values())
    assert made.left_out == [f"{SHAPE} float32 gaussian mine_exact eager: after 5 s"]


def test_an_interrupted_run_has_written_its_rows(bench, tmp_path, monkeypatch):
    def interrupt(p):
        raise KeyboardInterrupt

    add_peer(monkeypatch, bench, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_case(bench, tmp_path, "--only", "tla_ops,mm,planted")
    rows = json.loads((tmp_path / "mine.json").read_text())["rows"]
    assert [row["impl"] for row in rows] == ["tla_ops", "tla_ops", "mm"]
    assert all(row["median_ms"] > 0 for row in rows)


def failing(error, calls):
    """A search that fails after so many calls."""

    def make(p):
        left = iter(range(calls))
        failed = []

        def search():
            if next(left, None) is None:
                assert not failed, "called again"
                failed.append(True)
                error()
            return truth(p, sys.modules["cases"].Task()).argmin(1)

        return search

    return make


def raise_int_max():
    raise RuntimeError("nonzero is not supported for\n tensors with more than INT_MAX elements")


def ask_for_too_much():
    torch.empty(1 << 60)


@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize(
    ("error", "said"), [(raise_int_max, "INT_MAX"), (ask_for_too_much, "out of memory")]
)
def test_what_fails_is_kept_and_stops_nothing(bench, tmp_path, monkeypatch, error, said, calls):
    add_peer(monkeypatch, bench, failing(error, calls))
    # Long enough for one call at a time.
    monkeypatch.setattr(bench, "QUEUE", 1)
    made, rows = run_case(bench, tmp_path, "--only", "tla_ops,mm,eager,planted")
    planted = rows.pop(("mine_exact", "planted"))
    assert said in planted["error"]
    assert "median_ms" not in planted
    assert len(rows) == 4
    assert all(row["repeats"] == 3 for row in rows.values())
    assert made.wrong == []


def test_ours_may_not_fail(bench, tmp_path, monkeypatch):
    def fail(p, fast=False):
        raise RuntimeError("launch failed")

    monkeypatch.setattr(sys.modules["mining_impls"], "tla_ops_search", fail)
    made, rows = run_case(bench, tmp_path, "--only", "tla_ops,mm")
    assert "launch failed" in rows["mine_exact", "tla_ops"]["error"]
    assert len(made.wrong) == 2  # exact and fast
    monkeypatch.setattr(bench, "limit_memory", lambda: None)  # of this process
    command = ["--device", "cpu", "--shape", "9,40,8", "--only", "tla_ops", "--dtype", "float32"]
    assert bench.main([*command, "--output", str(tmp_path / "other.json")]) == 1


def second_best(p):
    return lambda: truth(p, sys.modules["cases"].Task()).topk(2, 1, largest=False).indices[:, 1]


def own_class(p):
    own = p.labels[:, None] == p.candidate_labels
    return lambda: own.long().argmax(1)


def none_at_all(p):
    return lambda: torch.full((len(p.anchor),), -1)


@pytest.mark.parametrize("make", [second_best, own_class, none_at_all])
def test_a_wrong_search_is_seen(bench, tmp_path, monkeypatch, make):
    add_peer(monkeypatch, bench, make)
    monkeypatch.setattr(
        sys.modules["mining_impls"], "tla_ops_search", lambda p, fast=False: make(p)
    )
    made, rows = run_case(bench, tmp_path, "--only", "tla_ops,eager,planted")
    planted = rows["mine_exact", "planted"]
    if make is second_best:
        assert planted["regret"] > 1e-3
    else:
        assert planted["not_allowed"] > 0
    assert not rows["mine_exact", "tla_ops"]["correct"]
    assert any("mine_exact tla_ops" in line for line in made.wrong)
    assert not any("planted" in line for line in made.wrong)  # a peer's affair
    assert rows["mine_exact", "eager"]["regret"] <= 2e-5


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_judge(cases, monkeypatch, signed, masked):
    monkeypatch.setattr(cases, "CHUNK", 7)
    task = cases.Task(signed, masked)
    p = cases.mining_problem(SHAPE, torch.float32)
    d = truth(p, task)
    best, index = d.min(1)
    assert cases.judge(p, index, task)["regret"] < 1e-12
    worst = d.masked_fill(d.isinf(), -1).argmax(1)
    expected = (d.gather(1, worst[:, None])[:, 0] - best).max()
    assert cases.judge(p, worst, task)["regret"] == pytest.approx(float(expected))
    p.candidate_labels[:] = p.labels[3]
    alone = torch.where(p.labels == p.labels[3], -1, truth(p, task).argmin(1))
    found = cases.judge(p, alone, task)
    assert found.get("not_allowed", 0) == (0 if masked else (alone == -1).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PEERS)
def test_each_peer(bench, peers, cases, name, dtype):
    peer = bench.MINING_PEERS[name]
    p = cases.mining_problem((70, 300, 64), dtype)
    try:
        picks = peer.make(p)()
    except sys.modules["packages"].NotHere as reason:
        pytest.skip(str(reason))
    if peer.task is None:
        return
    found = cases.judge(p, picks, peer.task)
    assert "not_allowed" not in found
    # In bfloat16 pytorch-metric-learning compares rounded products.
    assert found["regret"] <= (1e-6 if dtype == torch.float32 else 2e-2)


def test_every_peer_is_tried(bench):
    assert set(bench.MINING_PEERS) == set(PEERS)


def test_paths_are_not_a_processor_s(bench, ours, cases, impls):
    with pytest.raises(sys.modules["packages"].NotHere):
        ours.tla_ops_path(cases.mining_problem(SHAPE, torch.float32), "wgmma")
    case = bench.Case(SHAPE, "float32")
    names = {impl for _, impl in impls.implementations(case, "cuda", None)}
    assert {f"tla_ops_{path}" for path in ("wgmma", "mma", "blas", "bank", "tiles")} <= names
    assert not names & {"tla_ops_amx", "sklearn", "compile"}


def test_instruction_sets_by_themselves(bench, ours, cases, impls):
    """Each in its row, and afterwards what was in use before, whatever happens."""
    use, used = torch.ops.tla_ops.use_instruction_set, []
    available = tla_ops.build_info()["cpu"]["available"]
    before = use("plain")
    found = impls.implementations(bench.Case(SHAPE, "float32"), "cpu", None)
    for name in impls.INSTRUCTION_SETS:
        impl = found["mine_exact", f"tla_ops_{name}"]
        assert impl.facts == {"instruction_set": name}
        if name not in available:
            with pytest.raises(sys.modules["packages"].NotHere), impl.within():
                pass
            continue

        def interrupted(impl=impl, name=name):
            with impl.within():
                used.append(use(name))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert use("plain") == "plain"
    use(before)
    assert used == available


def test_what_is_slow_by_one_instruction_set_is_left_out(bench, impls):
    names = {impl for _, impl in impls.implementations(bench.Case(LARGE, "float32"), "cpu", None)}
    assert "tla_ops_avx2" in names
    assert "tla_ops_plain" not in names


@pytest.mark.parametrize(
    ("shape", "path", "refused"),
    [
        ((4096, 4096, 640), "blas", None),
        ((4096, 4096, 640), "mma", None),
        ((4096, 4096, 640), "tiles", None),
        ((40, 90, 16), "blas", "the plan takes tiles here"),
        ((40, 90, 16), "unheard-of", "this version has no path unheard-of"),
    ],
)
def test_a_path_is_forced_or_refused(ours, monkeypatch, shape, path, refused):
    """Up to the call: no processor can make it."""
    b, m, d = shape
    gpu = types.SimpleNamespace(multi_processor_count=132, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(sys.modules["cases"].Problem, "device", "cuda")
    labels = [torch.zeros(n, dtype=torch.int64, device="meta") for n in (b, m)]
    a, c = (torch.empty(n, d, device="meta") for n in (b, m))
    p = sys.modules["cases"].Problem(a, a, c, *labels)
    if refused:
        with pytest.raises(sys.modules["packages"].NotHere, match=refused):
            ours.tla_ops_path(p, path)
        return
    index = ours.tla_ops_path(p, path)()
    assert index.shape == (b,)
    assert ours.planned(p, "blas mma") == "blas"


def test_the_cases_of_a_gpu(bench):
    told = bench.gpu_cases()
    grid = sys.modules["mining_cases"].GRID
    assert len(set(told)) == len(told)
    assert {(c.shape, c.dtype) for c in told if c.data == "gaussian"} == set(grid)
    assert [c.shape for c in told[:3]] == [(65536, 65536, 1024)] * 2 + [(50, 10**6, 640)]
    assert {c.data for c in told} == {"gaussian", "relu", "clusters", "duplicates"}
    # A slow peer's row stands beside those of the others.
    slow = [i for i, c in enumerate(told) if c.slow]
    assert slow
    assert all(told.index(told[i].problem) < i for i in slow)


def test_slow_peers_have_a_case_of_their_own_on_a_gpu(bench, impls):
    case = bench.Case(SHAPE, "float32")
    slow = {impl for _, impl in impls.implementations(case._replace(slow=True), "cuda", None)}
    assert slow == {"compile", "flash_kmeans"}
    assert not slow & {impl for _, impl in impls.implementations(case, "cuda", None)}
    assert slow < {impl for _, impl in impls.implementations(case, "cpu", None)}


def test_long_calls_sit_out_after_three_turns(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "LONG_MS", 150.0)
    add_peer(monkeypatch, bench, lambda p: lambda: time.sleep(0.2) or none_at_all(p)())
    _, rows = run_case(bench, tmp_path, "--only", "mm,planted", "--samples", "5")
    assert rows["mine_exact", "planted"]["repeats"] == 3
    assert rows["mine_exact", "mm"]["repeats"] == 5


def test_the_cases_of_a_processor(bench):
    told = bench.cpu_cases()
    assert len(set(told)) == len(told)
    assert {c.data for c in told if (c.shape, c.dtype) == (LARGE, "float32")} == set(DATA)
    assert bench.Case(LARGE, "bfloat16") in told
    shapes = {(50, 500, 640), (50, 2000, 640), (1024, 8192, 640), (50, 10**5, 640)}
    assert {c.shape for c in told} == {LARGE, *shapes}


@pytest.mark.parametrize("data", DATA)
def test_the_data_are_what_they_are_called(cases, data):
    p = cases.mining_problem((50, 400, 32), torch.float32, data, torch.Generator().manual_seed(2))
    nearest = truth(p, cases.Task()).min(1).values.median()
    assert (nearest < 1e-9) == (data == "duplicates")
    assert (nearest < 1e-3) == (data in ("clusters", "duplicates"))
    assert bool((p.candidates >= 0).all()) == (data == "relu")
    assert (len(p.candidates.unique(dim=0)) == 1) == (data == "copies")
    unit = F.normalize(torch.cat([p.anchor, p.candidates]))
    cosine = (unit @ unit.mT).triu(1)[torch.ones(450, 450).triu(1) > 0]
    # Of any two rows. Of 32 features, a mean of .92 has some width.
    assert (0.9 < cosine.mean() < 0.94 and cosine.min() > 0.7) == (data == "collapsed")
