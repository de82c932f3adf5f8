"""`tla-ops demo` at a tiny size."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("lightning")

from tla_ops import cli
from tla_ops.experiments import demo, demo_figure
from tla_ops.training import checkpoint
from tla_ops.training.data import load
from tla_ops.training.evaluate import accuracy

METHODS = ["um", "at", "tla"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return demo.run(demo.Config(seed=3, epochs=1), folder), folder


def numbers(metrics):
    """The metrics without what differs between two equal runs."""
    results = {name: dict(result) for name, result in metrics["methods"].items()}
    for result in results.values():
        result.pop("seconds")
    return results


def test_metrics(finished):
    metrics, folder = finished
    written = json.loads((folder / "metrics.json").read_text())
    assert written["complete"] is True
    assert written["seed"] == 3
    assert written["configuration"]["epsilon"] == "3/16"
    assert written["images"] == {"train": 1078, "held_out": 359, "test": 360}
    assert written["environment"]["torch"] == torch.__version__
    assert written["environment"]["machine"]
    assert written["seconds"] > 0
    assert list(written["methods"]) == METHODS
    for result in written["methods"].values():
        for key in ("clean", "pgd", "active", "positive_distance", "negative_distance"):
            assert 0 <= result[key] <= 1
        assert result["pgd"] <= result["clean"]
        assert result["best_epoch"] == 1
        curves = result["curves"]
        assert {"loss", "val_clean", "val_adversarial"} <= set(curves)
        assert all(len(curve) == 1 for curve in curves.values())
    tla = {"active", "positive_distance", "negative_distance"}
    assert tla <= set(written["methods"]["tla"]["curves"])
    assert numbers(written) == json.loads(json.dumps(numbers(metrics)))


def test_weights_give_the_accuracy(finished):
    metrics, folder = finished
    model, recipe = checkpoint.read_model(folder / metrics["methods"]["at"]["checkpoint"])
    assert recipe.name == "digits-at"
    test = load("digits").test
    assert accuracy(model, test.images, test.labels) == metrics["methods"]["at"]["clean"]


def test_figure_is_a_png_of_a_readable_size(finished):
    content = (finished[1] / "demo.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content[-8:-4] == b"IEND"
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    assert 1000 <= width <= 2500
    assert 600 <= height <= 2000
    assert 50_000 < len(content) < 2_000_000


def test_table(finished):
    text = demo.render(finished[0])
    for name in demo.NAMES.values():
        assert name in text
    assert "held out" in text
    assert "360 test images" in text
    assert "AT" in text


def test_only_files_that_were_promised(finished):
    names = sorted(path.name for path in finished[1].iterdir())
    assert names == ["at", "demo.png", "metrics.json", "tla", "um"]


def test_same_seed_same_numbers_through_the_command_line(finished, tmp_path, capsys):
    options = ["--seed", "3", "--epochs", "1", "--output", str(tmp_path)]
    assert cli.main(["demo", "--json", *options]) == 0
    captured = capsys.readouterr()
    metrics = json.loads(captured.out)
    assert numbers(metrics) == json.loads(json.dumps(numbers(finished[0])))
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert "digits-tla: 21/21  loss" in captured.err


def test_an_earlier_run_is_replaced_and_nothing_else(finished, tmp_path):
    (tmp_path / "at").mkdir()
    (tmp_path / "at" / "notes.txt").write_text("mine")
    (tmp_path / "at" / "last.pt").write_text("of another run")
    metrics = demo.run(demo.Config(seed=3, epochs=1), tmp_path)
    assert (tmp_path / "at" / "notes.txt").read_text() == "mine"
    assert numbers(metrics) == numbers(finished[0])


def test_projection_has_the_clean_variance():
    clean = torch.randn(40, 5).abs()
    first, second = demo_figure.project(clean, clean)
    torch.testing.assert_close(first, second)
    assert first.shape == (40, 2)
    torch.testing.assert_close(first.mean(0), torch.zeros(2, dtype=torch.float64))
    assert first[:, 0].var() >= first[:, 1].var()


def test_an_output_that_cannot_be_written_fails(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["demo", "--epochs", "1", "--output", str(tmp_path / "file")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tla-ops demo: ")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_keeps_what_was_finished(tmp_path):
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tla_ops.experiments import demo\n"
        "train = demo.train\n"
        "def stop_at_the_second(key, *rest):\n"
        "    if key == 'at': signal.raise_signal(signal.SIGINT)\n"
        "    return train(key, *rest)\n"
        "demo.train = stop_at_the_second\n"
        "from tla_ops.cli import main; sys.exit(main())\n"
    )
    command = [sys.executable, "-c", script, "demo", "--epochs", "1", "--json"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[-1] == f"tla-ops demo: interrupted, what was finished is in {tmp_path}"
    assert "Traceback" not in done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["complete"] is False
    assert list(metrics["methods"]) == ["um"]
    assert (tmp_path / "um" / "best.pt").exists()
