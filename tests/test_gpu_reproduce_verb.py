"""`make gpu-reproduce` as far as a machine without a GPU can try it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"


@pytest.fixture
def verb(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import gpu_reproduce

    return gpu_reproduce


@pytest.fixture(autouse=True)
def nothing_is_built(verb, monkeypatch):
    monkeypatch.setattr(verb, "is_built", lambda: False)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "mnist" / "mnist").mkdir(parents=True)
    (folder / "mnist" / "mnist" / "train-00000-of-00001.parquet").touch()
    return folder


@pytest.fixture
def listed(verb, monkeypatch, capsys):
    """What a dry run prints, by its lines."""
    monkeypatch.setattr(verb.gpu, "probe", lambda: {"error": ["no torch"]})
    monkeypatch.setattr(verb.gpu, "not_installed", lambda packages: None)

    def listed(*arguments, tla_data=""):
        monkeypatch.setenv("TLA_DATA", tla_data)
        assert verb.main(["--dry-run", *map(str, arguments)]) == 0
        return capsys.readouterr().out.splitlines()

    return listed


def names(lines):
    return [line.split(",")[0] for line in lines if line[0] != " "]


def test_dry_run(listed, data):
    lines = listed("--data", data, "--set", "max_steps=3", "--set", "attack_step=1/20")
    assert names(lines) == ["build", "parts-mnist", "seed-0", "seed-1", "keep"]
    assert not any("no data" in line for line in lines)
    (command,) = (line for line in lines if " reproduce " in line and "--seed 1" in line)
    assert "reproduce tla/table1 --budget short --datasets mnist" in command
    assert "--set max_steps=3 --set attack_step=1/20" in command
    assert f"--data {data}" in command


def test_what_is_asked_for(listed, data):
    options = ["--targets", "tla/table1,tla/table5", "--datasets", "mnist,cifar10", "--seeds", "7"]
    lines = listed(*options, "--budget", "full", "--commit", "abc", tla_data=str(data))
    assert names(lines) == ["build", "parts-mnist", "parts-cifar10", "seed-7", "keep"]
    text = "\n".join(lines)
    assert "reproduce tla/table1 tla/table5 --budget full --datasets mnist,cifar10 --seed 7" in text
    assert "--commit abc" in text
    assert "images" not in text
    more = "--images 10000 --slow-images 1000 --without autoattack,mim --methods at,tla"
    lines = listed(*more.split(), tla_data=str(data))
    assert sum(more in line for line in lines) == 2
    assert names(listed("--only", "seed-1,keep")) == ["seed-1", "keep"]


def test_commands_parse(verb, monkeypatch, data):
    """The options are those that the verbs have."""
    from tla_ops.cli import _parser

    monkeypatch.setattr(verb.gpu, "not_installed", lambda packages: None)
    monkeypatch.setattr(verb, "stop_on_sigterm", lambda: None)
    steps = []
    monkeypatch.setattr(verb.gpu, "probe", lambda: {"error": ["no torch"]})
    monkeypatch.setattr(verb.gpu, "show", steps.extend)
    options = ["--data", str(data), "--set", "max_steps=3", "--images", "20", "--methods", "at,tla"]
    assert verb.main(["--dry-run", *options]) == 0
    commands = [list(map(str, step.command)) for step in steps]
    parsed = [c[c.index("tla_ops") + 1 :] for c in commands if "tla_ops" in c]
    assert len(parsed) == 3
    for arguments in parsed:
        _parser().parse_args(arguments)


def test_without_data(listed):
    missing = names(line for line in listed() if "(no data: " in line)
    assert missing == ["seed-0", "seed-1", "keep"]


def test_parts_are_timed_once(listed, data, tmp_path):
    (tmp_path / "parts_mnist.json").touch()
    assert "parts-mnist" not in names(listed("--data", data, "--results", tmp_path))


def test_what_is_finished_is_kept_where_the_time_is_up(verb, tmp_path, monkeypatch):
    from steps import Step

    def step(name, code, limit=30):
        return Step(name, [sys.executable, "-c", code], limit)

    steps = [step("seed-0", "import time; time.sleep(60)"), step("seed-1", ""), step("keep", "")]
    found = {"name": "fake", "torch": "2", "capability": [9, 0]}
    monkeypatch.setattr(verb.gpu, "probe", lambda: found)
    monkeypatch.setattr(verb.gpu, "prepare", lambda found, build: None)
    monkeypatch.setattr(verb.gpu, "WORK", tmp_path / "work")
    monkeypatch.setattr(verb, "stop_on_sigterm", lambda: None)
    monkeypatch.setattr(verb, "steps_of", lambda *_: steps)
    monkeypatch.setattr(verb, "KEEPING", 10)
    assert verb.main(["--results", str(tmp_path), "--seconds", "12"]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = {step["name"]: step["status"] for step in summary["steps"]}
    assert found == {"seed-0": "cut short", "seed-1": "skipped", "keep": "passed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    done = subprocess.run(
        [sys.executable, TOOLS / "gpu_reproduce.py"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


def test_make_hands_everything_on():
    command = ["make", "-n", "gpu-reproduce", "TARGETS=tla/table2", "DATASETS=cifar10", "SEEDS=3"]
    command += ["SET=max_steps=3 batch=4", "DATA=d", "RESULTS=r", "COMMIT=c", "BUDGET=full"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    for expected in (
        '--targets "tla/table2"', '--datasets "cifar10"', '--seeds "3"',
        "--set max_steps=3 --set batch=4",
        '--data "d"', '--results "r"', "--commit c", "--budget full",
    ):  # fmt: skip
        assert expected in done.stdout
