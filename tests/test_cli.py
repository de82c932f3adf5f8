"""The command line without its long verbs."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest

import tla_ops
from tla_ops import cli, ops
from tla_ops.commands.info import _lines

# Importing any of these fails, as it does where no extra is installed.
EXTRAS = (
    *("sklearn", "matplotlib", "rich", "typer", "lightning", "numpy", "yaml", "pyarrow", "PIL"),
    *("art", "tensorboard", "huggingface_hub"),
)
BLOCKED = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None
from tla_ops.cli import main
sys.exit(main())
"""


def run(*arguments, blocked=False, **options):
    start = ["-c", BLOCKED] if blocked else ["-m", "tla_ops"]
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tla-ops {importlib.metadata.version('tla_ops')}\n"


VERBS = [
    *([], ["demo"], ["train"], ["evaluate"], ["bench"], ["bench", "table2"], ["bench", "train"]),
    *(["report"], ["info"]),
]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb, capsys):
    assert cli.main([*verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:\n  tla-ops " in text
    if verb:
        assert f"  tla-ops {' '.join(verb)}" in text.partition("examples:")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["bench"],
        ["bench", "nonsense"],
        ["demo", "--seed", "-1"],
        ["demo", "--seed", "one"],
        ["demo", "--epochs", "0"],
        ["demo", "--jso"],
        ["info", "extra"],
        ["bench", "table2", "--model", "vgg"],
        ["bench", "table2", "--batch", "1"],
        ["bench", "table2", "--negatives", "1,,2"],
        ["bench", "table2", "--negatives", "0"],
        ["bench", "table2", "--repeats", "0"],
        ["bench", "table2", "--flows", ""],
        ["bench", "table2", "--flows", "pool"],
        ["bench", "table2", "--device", "abacus"],
        ["info", "--selftest", "--device", "abacus"],
        ["train", "digits-um", "--device", "abacus"],
        ["evaluate"],
        ["evaluate", "x.pt", "--images", "0"],
        ["bench", "train", "--repeats", "1"],
        ["report"],
    ],
)
def test_bad_usage_is_2(arguments, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: tla-ops")


def test_a_bank_has_no_part_in_a_random_negative(capsys):
    assert cli.main(["bench", "table2", "--flows", "bank", "--negatives", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tla-ops bench table2: negatives must have a size above 1 for a bank")


def test_models_and_flows_on_offer():
    from tla_ops.experiments.table2 import FLOWS
    from tla_ops.training.models import MODELS

    parser = cli._parser()
    assert parser.parse_args(["bench", "table2"]).flows == FLOWS
    for flow in FLOWS:
        assert parser.parse_args(["bench", "table2", "--flows", flow]).flows == (flow,)
    for name in MODELS:
        assert parser.parse_args(["bench", "table2", "--model", name]).model == name


def test_info_is_build_info(capsys):
    assert cli.main(["info", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == json.loads(json.dumps(tla_ops.build_info()))
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for key in tla_ops.build_info():
        assert key in text


def test_info_lines():
    info = {"version": "1", "cuda": {"built": False, "architectures": []}, "list": [1, 2]}
    assert _lines(info) == [
        "version  1",
        "cuda",
        "  built          no",
        "  architectures  none",
        "list     1, 2",
    ]


VERIFIED = [{"capability": "9.0", "device": "NVIDIA H200", "operators": ["cdist", "mine"]}]


@pytest.mark.parametrize(
    ("kernels", "verified", "line"),
    [
        (True, [], "verified   no hardware has verified the CUDA kernels of this version"),
        (False, [], "verified   none"),
        (True, VERIFIED, "verified   9.0 (NVIDIA H200): cdist, mine"),
    ],
)
def test_info_says_what_hardware_has_verified(kernels, verified, line, monkeypatch, capsys):
    info = tla_ops.build_info()
    info["verified"], info["cuda"]["kernels"] = verified, kernels
    monkeypatch.setattr(tla_ops, "build_info", lambda: info)
    assert cli.main(["info"]) == 0
    assert line in capsys.readouterr().out.splitlines()


def test_the_self_test(capsys):
    assert cli.main(["info", "--selftest", "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (report,) = result.pop("selftest")
    assert result == json.loads(json.dumps(tla_ops.build_info()))
    assert report["device"] == "cpu"
    assert all(found["passed"] for found in report["operators"].values())
    assert cli.main(["info", "--selftest"]) == 0
    text = capsys.readouterr().out
    assert "self-test on cpu (" in text
    for name in report["operators"]:
        assert re.search(rf"^  {name} +passed, \d+ problems", text, re.M)


def test_a_failing_self_test_is_1(monkeypatch, capsys):
    monkeypatch.setattr(ops, "cdist", lambda *args: 1 / 0)
    assert cli.main(["info", "--selftest", "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^  cdist +FAILED: ZeroDivisionError: division by zero \(", text, re.M)
    assert re.search(r"^  mine +passed", text, re.M)
    assert cli.main(["info", "--selftest", "--device", "cpu", "--json"]) == 1
    (report,) = json.loads(capsys.readouterr().out)["selftest"]
    assert not report["operators"]["cdist"]["passed"]


def test_a_device_without_a_self_test_is_bad_usage(capsys):
    assert cli.main(["info", "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "tla-ops info: --device needs --selftest\n"


def test_torch_alone_is_enough_for_info_and_help():
    done = run("info", "--json", blocked=True)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert run("demo", "--help", blocked=True).returncode == 0


def test_a_missing_extra_is_named(tmp_path):
    done = run("demo", "--json", blocked=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    # torch itself may warn about the blocked NumPy before.
    message = "tla-ops demo: needs scikit-learn and matplotlib: pip install 'tla_ops[train]'"
    assert done.stderr.splitlines()[-1] == message
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_device_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["bench", "table2", "--device", "cuda"]) == 1
    assert "no CUDA device" in capsys.readouterr().err
    assert cli.main(["info", "--selftest", "--device", "cuda"]) == 1
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe under the writer")
def test_a_reader_that_leaves_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tla_ops", "info"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
