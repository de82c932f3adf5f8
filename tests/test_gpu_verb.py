"""`make gpu` as far as a machine without a GPU can try it: its steps, limits, what they leave."""

import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tla_ops

TOOLS = Path(__file__).parents[1] / "tools"
FEW_FILES = 8
"""RESULTS holds no more."""


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import steps

    return steps


def python(code):
    return [sys.executable, "-c", code]


def runner(steps, tmp_path, seconds=60.0):
    return steps.Runner(tmp_path / "results", tmp_path / "work", {}, seconds, {"name": "fake"})


def summary(tmp_path):
    return json.loads((tmp_path / "results" / "summary.json").read_text())


def statuses(tmp_path):
    return {step["name"]: step["status"] for step in summary(tmp_path)["steps"]}


def test_a_failure_stops_nothing_and_what_was_written_stays(steps, tmp_path, capfd):
    kept = tmp_path / "results" / "first.json"
    many = [
        steps.Step("first", python(f"open({str(kept)!r}, 'w').write('{{}}'); print('3 rows')"), 20),
        steps.Step("second", python("print('about to fail'); raise SystemExit(3)"), 20),
        steps.Step("third", python("print('still here')"), 20),
    ]
    run = runner(steps, tmp_path)
    assert not run.run(many)
    assert statuses(tmp_path) == {"first": "passed", "second": "failed", "third": "passed"}
    details = [step["detail"] for step in summary(tmp_path)["steps"]]
    assert details == ["3 rows", "exit status 3; about to fail", "still here"]
    assert summary(tmp_path)["name"] == "fake"
    assert kept.read_text() == "{}"
    assert "about to fail" in capfd.readouterr().out
    assert "about to fail" in (tmp_path / "results" / "log.txt").read_text()
    assert [line.split()[1] for line in run.table().splitlines()] == ["passed", "failed", "passed"]


def test_all_passed(steps, tmp_path):
    assert runner(steps, tmp_path).run([steps.Step("only", python("pass"), 20)])


def test_a_step_over_its_limit_is_cut_with_what_it_started(steps, tmp_path):
    pid = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "print('sleeping', flush=True); time.sleep(60)"
    )
    started = time.monotonic()
    many = [steps.Step("slow", python(code), 3), steps.Step("next", python("pass"), 20)]
    assert not runner(steps, tmp_path).run(many)
    assert time.monotonic() - started < 30
    assert statuses(tmp_path) == {"slow": "cut short", "next": "passed"}
    assert summary(tmp_path)["steps"][0]["detail"] == "after 3 s; sleeping"
    assert not alive(int(pid.read_text()))


def alive(pid):
    """A zombie that nobody waits for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_time_left(steps, tmp_path):
    many = [steps.Step("long", python("import time; time.sleep(60)"), 50)]
    many += [steps.Step("late", python("pass"), 20)]
    assert not runner(steps, tmp_path, seconds=1.0).run(many)
    assert statuses(tmp_path) == {"long": "cut short", "late": "skipped"}


def test_nothing_runs_without_the_build(steps, tmp_path):
    many = [
        steps.Step("build", python("raise SystemExit(1)"), 20, needed=True),
        steps.Step("tests", python("pass"), 20),
    ]
    assert not runner(steps, tmp_path).run(many)
    assert statuses(tmp_path) == {"build": "failed", "tests": "skipped"}
    assert summary(tmp_path)["steps"][1]["detail"] == "build did not pass"


def test_what_cannot_run_counts_as_not_passed(steps, tmp_path):
    many = [
        steps.Step("a", python("pass"), 20, missing="no such tool"),
        steps.Step("b", ["/nonexistent/program"], 20),
    ]
    assert not runner(steps, tmp_path).run(many)
    assert statuses(tmp_path) == {"a": "skipped", "b": "failed"}


def test_an_outer_limit_leaves_a_summary(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(TOOLS)!r})\n"
        "from pathlib import Path\n"
        "from steps import Runner, Step, stop_on_sigterm\n"
        "stop_on_sigterm()\n"
        f"here = Path({str(tmp_path)!r})\n"
        "run = Runner(here / 'results', here / 'work', {}, 60.0, {})\n"
        "run.run([Step('one', ['true'], 9), Step('two', ['sleep', '60'], 60)])\n"
    )
    child = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if line.startswith("--- two"):
            break
    time.sleep(0.5)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(20) == 143
    assert statuses(tmp_path) == {"one": "passed", "two": "cut short"}


def gpu(*arguments):
    command = [sys.executable, TOOLS / "gpu.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_dry_run(tmp_path):
    done = gpu("--dry-run", "--results", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    names = [line.split(",")[0] for line in done.stdout.splitlines() if line[0] != " "]
    checks = ["memcheck", "racecheck", "initcheck", "synccheck"]
    assert names == ["build", "selftest", "tests", *checks[:2], "mining", "latency", *checks[2:]]
    assert "TORCH_CUDA_ARCH_LIST=" in done.stdout
    (left_out,) = (word for word in done.stdout.split() if word.startswith("--ignore-glob="))
    pattern = left_out.strip("'").removeprefix("--ignore-glob=")
    tests = [str(path) for path in (TOOLS.parent / "tests").glob("test_*.py")]
    kernels_on_a_cpu = fnmatch.filter(tests, pattern)
    assert kernels_on_a_cpu == [path for path in tests if "simt" in path] != []
    assert not (tmp_path / "out").exists()
    written = {word for word in done.stdout.split() if word.startswith(str(tmp_path))}
    assert len(written) + 2 <= FEW_FILES  # and log.txt and summary.json


def test_dry_run_of_some():
    done = gpu("--dry-run", "--only", "tests,memcheck")
    names = [line.split(",")[0] for line in done.stdout.splitlines() if line[0] != " "]
    assert names == ["tests", "memcheck"]


def test_no_such_step():
    done = gpu("--dry-run", "--only", "tests,nothing")
    assert done.returncode != 0
    assert "no step nothing" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    done = gpu()
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


def test_the_sanitizers_program_calls_every_operator():
    done = subprocess.run(
        [sys.executable, TOOLS / "sanitize_suite.py", "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "calls on cpu" in done.stdout


@pytest.mark.skipif(not hasattr(tla_ops, "selftest"), reason="this version has no self-test")
def test_the_selftest_s_file(tmp_path):
    output = tmp_path / "correctness.json"
    command = [sys.executable, TOOLS / "gpu_selftest.py", "--device", "cpu", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(output.read_text())
    assert document["operators"]
    assert all(found["passed"] for found in document["operators"].values())
    assert "kernels" not in document  # evidence is of a GPU
