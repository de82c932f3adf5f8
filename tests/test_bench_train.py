"""`tla-ops bench train` and the benchmarks of training, at a tiny size."""

import json
from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("lightning", reason="the trainer stands on Lightning Fabric: extra [train]")
pytest.importorskip("yaml", reason="recipes are YAML files: extra [train]")

from tla_ops import cli
from tla_ops.experiments import bench_train
from tla_ops.training.attacks import pgd
from tla_ops.training.models import small
from tla_ops.training.recipe import load_recipe

QUICK = ["batch=8", "attack_steps=2", "val_images=8", "candidates=8"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "train.json"
    return bench_train.run(load_recipe("digits-tla", QUICK), 2, "cpu", path), path


def test_rows(results):
    found, path = results
    stored = json.loads(path.read_text())
    assert [row["impl"] for row in stored["rows"]] == list(bench_train.TELLS)
    for row in found["rows"]:
        assert row["repeats"] == 2
        assert row["images_per_second"] == pytest.approx(8e3 / row["median_ms"])
        assert row["attacked_loss"] > row["clean_loss"]
    plain = next(row for row in found["rows"] if row["impl"] == "plain")
    assert plain["to_plain"] == 1
    for row in found["rows"]:
        assert row["to_plain"] == pytest.approx(plain["median_ms"] / row["median_ms"])


def test_table(results):
    text = bench_train.render(results[0])
    for name, said in bench_train.TELLS.items():
        assert f"{name}: {said}" in text
    assert "digits-tla: small, tla, batch 8, 8 candidates, pgd-2, epsilon 3/16" in text


@pytest.mark.parametrize("loop", [bench_train.plain_pgd, bench_train.backward_pgd])
def test_the_loops_beside_ours_are_pgd(loop):
    """A fair race: in the ball, and as strong as our attack with as many steps."""
    torch.manual_seed(1)
    model, images = small().eval(), torch.rand(100, 1, 8, 8)
    labels = model(images).argmax(1)
    theirs = loop(model, images, labels, epsilon=0.1, step=0.025, steps=7)
    ours = partial(pgd, epsilon=Fraction(1, 10), step=Fraction(1, 40), steps=7)(
        model, images, labels
    )
    assert (theirs - images).abs().max() <= 0.1 + 1e-6
    assert theirs.min() >= 0
    assert theirs.max() <= 1
    with torch.no_grad():
        losses = [F.cross_entropy(model(x), labels) for x in (images, theirs, ours)]
    assert losses[1] - losses[0] > 0.8 * (losses[2] - losses[0])
    assert losses[2] - losses[0] > 0.8 * (losses[1] - losses[0])


def test_the_verb(capsys, tmp_path):
    options = [argument for key in QUICK for argument in ("--set", key)]
    path = tmp_path / "train.json"
    arguments = ["bench", "train", "--recipe", "digits-at", "--repeats", "2", "--device", "cpu"]
    assert cli.main([*arguments, *options, "--json", "--output", str(path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == json.loads(path.read_text())["rows"]
    assert cli.main(["bench", "train", "--recipe", "nothing"]) == 2
    assert "recipe must be one of" in capsys.readouterr().err
