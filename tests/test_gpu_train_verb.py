"""`make gpu-train` as far as a machine without a GPU can try it."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"
FEW_FILES = 8
"""RESULTS holds no more."""
TIMED = ["time-mnist-at", "time-mnist-tla", "time-cifar10-at", "time-cifar10-tla"]
TRAINED = ["train-mnist-at", "train-mnist-tla"]


@pytest.fixture
def verb(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import gpu_train

    return gpu_train


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "mnist").mkdir(parents=True)
    (folder / "mnist" / "train-00000-of-00001.parquet").touch()
    return folder


@pytest.fixture
def listed(verb, monkeypatch, capsys):
    """What a dry run prints, by its lines."""
    monkeypatch.setattr(verb.gpu, "probe", lambda: {"error": ["no torch"]})

    def listed(*arguments, tla_data=""):
        monkeypatch.setenv("TLA_DATA", tla_data)
        assert verb.main(["--dry-run", *map(str, arguments)]) == 0
        return capsys.readouterr().out.splitlines()

    return listed


def names(lines):
    return [line.split(",")[0] for line in lines if line[0] != " "]


def test_dry_run(listed, data, tmp_path):
    out = tmp_path / "out"
    lines = listed("--results", out, "--data", data, "--commit", "abc")
    assert names(lines) == ["build", "tests", *TIMED, *TRAINED]
    words = [word for line in lines for word in line.split()]
    written = {word for word in words if word.startswith(str(out))}
    assert len(written) == len(TIMED + TRAINED)
    assert len(written) + 2 <= FEW_FILES  # and log.txt and summary.json
    assert not out.exists()
    tests = [Path(word) for word in words if "/test_" in word and word.endswith(".py")]
    assert len(tests) == 4
    assert all(path.exists() for path in tests)


def test_dry_run_of_some(listed):
    assert names(listed("--only", "train-mnist-tla,tests")) == ["tests", "train-mnist-tla"]


def test_no_such_step(listed):
    with pytest.raises(SystemExit, match="no step nothing; there are build, tests, time-mnist-at"):
        listed("--only", "tests,nothing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    command = [sys.executable, TOOLS / "gpu_train.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


def test_what_comes_before_the_training_fits(verb, tmp_path):
    limits = [step.limit for step in verb.first_steps(tmp_path, (9, 0), build=True)]
    assert sum(limits) <= verb.gpu.SECONDS < 540


@pytest.mark.parametrize("left", [520.0, 300.0, 200.0])
def test_the_training_fits_in_what_is_left(left, verb, data, tmp_path, monkeypatch):
    monkeypatch.setattr(verb.gpu, "not_installed", lambda packages: None)
    steps = verb.training_steps(tmp_path, str(data), None, verb.TRAINED, left)
    assert [step.name for step in steps] == TRAINED
    assert sum(step.limit for step in steps) <= left
    for step in steps:
        seconds = float(step.command[step.command.index("--seconds") + 1])
        assert verb.SHORTEST <= seconds <= verb.LONGEST
        assert seconds + verb.AROUND == step.limit
        assert step.missing is None


def test_too_little_time_to_train_in(verb, data, tmp_path, monkeypatch):
    monkeypatch.setattr(verb.gpu, "not_installed", lambda packages: None)
    for left in (150.0, -3.0):
        steps = verb.training_steps(tmp_path, str(data), None, verb.TRAINED, left)
        assert all("too few to train in" in step.missing for step in steps)
    assert verb.training_steps(tmp_path, str(data), None, [], 150.0) == []


@pytest.mark.parametrize("where", ["", "hub", "empty"])
def test_without_data_the_training_alone_is_skipped(where, listed, tmp_path):
    where = str(tmp_path) if where == "empty" else where
    for lines in (listed("--data", where), listed(tla_data=where)):
        assert names(line for line in lines if "(no data: " in line) == TRAINED


def test_where_data_is_found(listed, data, verb):
    for place in (data, data / "mnist"):
        assert verb.why_no_mnist(str(place)) is None
    assert not any("no data" in line for line in listed(tla_data=str(data)))
    (data / "mnist").rename(data / "cifar10")
    assert "holds no mnist" in verb.why_no_mnist(str(data))


def test_what_is_not_installed_is_named(verb, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "TRAINING", {"no_such_module": "no-such-package"})
    steps = verb.first_steps(tmp_path, (9, 0), build=False)
    steps += verb.training_steps(tmp_path, None, None, verb.TRAINED, 500.0)
    assert [step.name for step in steps] == ["tests", *TIMED, *TRAINED]
    assert all("no-such-package (make gpu-wheels)" in step.missing for step in steps)


def test_what_is_built_already(verb, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "ROOT", tmp_path)
    monkeypatch.setattr(verb, "WORK", tmp_path / "build" / "gpu")
    package = tmp_path / "build" / "gpu" / "venv" / "lib" / "python3.12" / "site-packages"
    record = package / "tla_ops-0.1.0.dist-info" / "RECORD"
    sources = ["csrc/cpu/a.cpp", "tla_ops/training/b.yaml", "setup.py", "CMakeLists.txt"]
    sources += ["pyproject.toml", "benchmarks/results/c/d.json", "tla_ops/e.pyc"]
    for path in (record, *(tmp_path / source for source in sources)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1000, 1000))
    os.utime(tmp_path / "tla_ops" / "e.pyc", (5000, 5000))
    assert verb.is_built()
    for source in sources[:-1]:
        os.utime(tmp_path / source, (2000, 2000))
        assert not verb.is_built(), source
        os.utime(tmp_path / source, (1000, 1000))
    record.unlink()
    assert not verb.is_built()


def test_the_checkout_is_not_on_the_path_of_steps(verb, tmp_path, monkeypatch):
    """Its tla_ops is not built. Wheels that lie elsewhere stay."""
    root = str(TOOLS.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, "/else", "", f"{root}/tools/.."]))
    monkeypatch.setattr(verb.gpu, "WORK", tmp_path / "work")
    args = Namespace(results=tmp_path / "out", seconds=9.0, commit=None)
    runner = verb.gpu.runner_of(args, {"capability": [9, 0]})
    code = "import os, sys; print(os.environ['PYTHONPATH'], os.getcwd() in sys.path)"
    from steps import Step

    assert runner.run([Step("path", [sys.executable, "-c", code], 20)])
    assert runner.outcomes[0].detail == "/else False"


@pytest.mark.parametrize("breaks", [False, True])
def test_the_steps_of_one_command(breaks, verb, tmp_path, monkeypatch):
    from steps import Step

    code = f"import time; time.sleep(1.5); raise SystemExit({int(breaks)})"
    build = Step("build", [sys.executable, "-c", code], 30, needed=True)
    seen = []

    def training(results, data, commit, recipes, left):
        seen.append((data, commit, left))
        return [Step(f"train-{recipe}", [sys.executable, "-c", ""], 30) for recipe in recipes]

    found = {"name": "fake", "torch": "2", "capability": [9, 0]}
    monkeypatch.setattr(verb.gpu, "probe", lambda: found)
    monkeypatch.setattr(verb.gpu, "prepare", lambda found, build: None)
    monkeypatch.setattr(verb.gpu, "WORK", tmp_path / "work")
    monkeypatch.setattr(verb, "stop_on_sigterm", lambda: None)
    monkeypatch.setattr(verb, "first_steps", lambda results, capability, build_it: [build])
    monkeypatch.setattr(verb, "training_steps", training)
    options = ["--results", str(tmp_path), "--data", "d", "--commit", "abc", "--seconds", "50"]
    assert verb.main(options) == int(breaks)
    summary = json.loads((tmp_path / "summary.json").read_text())
    after = "skipped" if breaks else "passed"
    assert [step["name"] for step in summary["steps"]] == ["build", *TRAINED]
    assert [step["status"] for step in summary["steps"][1:]] == [after] * 2
    assert summary["commit"] == "abc"
    assert seen[-1][:2] == ("d", "abc")
    assert 0 < seen[-1][2] < 48.5  # what the build left of 50 s


@pytest.fixture
def briefly(monkeypatch):
    for module in ("lightning", "yaml", "sklearn"):
        pytest.importorskip(module, reason="training needs the extra [train]")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(TOOLS)
    import train_briefly

    monkeypatch.setattr(train_briefly, "stop_on_sigterm", lambda: None)
    return train_briefly


def test_a_short_run_is_called_one_and_goes_on(briefly, tmp_path, capfd, monkeypatch):
    output, run = tmp_path / "out.json", tmp_path / "run"
    options = ["digits-at", "--seconds", "2", "--run", str(run), "--output", str(output)]
    options += ["--device", "cpu", "--attacks", "clean,fgsm", "--images", "40", "--commit", "abc"]
    for setting in ("attack_steps=1", "epochs=100000", "log_every=1", "val_images=40"):
        options += ["--set", setting]
    calls, run_for, patience = [], briefly.run_for, 300.0  # other tests may keep the processor busy
    monkeypatch.setattr(briefly, "START", patience)
    monkeypatch.setattr(
        briefly, "run_for", lambda *call: calls.append(call) or run_for(*call, patience)
    )
    assert briefly.main(options) == 0
    first = json.loads(output.read_text())
    assert first["steps_before"] == 0 < first["steps"] == first["rows"][-1]["step"]
    assert f"smoke run, not the recipe's training: {first['steps']} steps" in first["note"]
    assert first["note"].endswith("of 100000 epochs")
    assert first["whole"] is False
    assert 2 <= first["seconds"] < 30
    assert first["images_per_second"] > 0
    assert first["commit"] == "abc"
    assert set(first["evaluation"]["attacks"]) == {"clean", "fgsm"}
    assert "40 of 360 test images" in first["evaluation"]["notes"][-1]
    assert "digits-at: a smoke run" in capfd.readouterr().out.splitlines()[-1]
    status, seconds = run_for(*calls[0], patience)
    assert status == briefly.INTERRUPTED
    second = briefly.about(run, first["steps"], seconds, status)
    assert second["steps_before"] == first["steps"] < second["steps"]
    assert second["rows"][0]["step"] == first["steps"] + 1
    whole = briefly.about(run, 0, 2.0, briefly.DONE)
    assert whole["whole"] is True
    assert "smoke" not in whole["note"]


def test_a_run_that_cannot_start(briefly, tmp_path, capfd):
    options = ["no-such-recipe", "--seconds", "30", "--run", str(tmp_path / "run")]
    assert briefly.main([*options, "--output", str(tmp_path / "out.json"), "--device", "cpu"]) == 1
    assert "no-such-recipe: exit status 2" in capfd.readouterr().out
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("trains", [True, False])
def test_a_run_that_does_not_stop_or_start_is_ended(trains, briefly, tmp_path, monkeypatch):
    monkeypatch.setattr(briefly, "START", 3.0 if not trains else 30.0)
    metrics, pid = tmp_path / "metrics.csv", tmp_path / "pid"
    metrics.write_text("of an earlier run\n")
    code = "import os, pathlib, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
    if trains:
        code += f"pathlib.Path({str(tmp_path)!r}, 'new').touch()\n"
        code += f"os.replace({str(tmp_path / 'new')!r}, {str(metrics)!r})\n"
    command = [sys.executable, "-c", code + "time.sleep(60)"]
    status, seconds = briefly.run_for(command, metrics, 0.5, patience=0.5)
    assert status is None
    assert (seconds >= 1.0) == trains
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
