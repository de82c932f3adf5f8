"""Accuracy under attacks, and the geometry of triplets."""

import json

import pytest
import torch

from tla_ops.training.evaluate import evaluate, summary, triplet_statistics
from tla_ops.training.models import mlp, small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def splits():
    pytest.importorskip("sklearn")
    from digits import digits

    return digits()


def test_triplet_statistics(splits):
    data = splits.validation
    model = small().eval()
    result = triplet_statistics(model, data.images, data, 0.1, torch.Generator().manual_seed(0))
    assert 0 <= result.active <= 1
    assert 0 < result.negative_distance < result.positive_distance < 1
    distances = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.35, torch.inf, 0.45])
    found = summary(*distances, 0.1)
    assert found == pytest.approx((1 / 3, 0.2, 0.4))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of a few steps, its model, recipe and data set."""
    pytest.importorskip("lightning", reason="the trainer stands on Lightning Fabric: extra [train]")
    from tla_ops.training import checkpoint, trainer
    from tla_ops.training.data import load
    from tla_ops.training.recipe import load_recipe

    folder = tmp_path_factory.mktemp("evaluate") / "run"
    recipe = load_recipe("digits-um", ["max_steps=60", "val_every=60", "eval_steps.pgd=5",
                                       "eval_step=1/25"])  # fmt: skip
    data = load("digits")
    trainer.train(recipe, data, folder, device="cpu")
    return folder / "best.pt", *checkpoint.read_model(folder / "best.pt"), data


def test_rows_are_accuracies_on_the_images_given(run):
    _, model, recipe, data = run
    images, labels = data.test.images[:80], data.test.labels[:80]
    seen = []
    rows = evaluate(
        model, recipe, images, labels, ["clean", "fgsm", "bim", "pgd", "pgd20r", "mim", "cw"],
        size=30, report=lambda name, row: seen.append((name, row)),
    )  # fmt: skip
    assert seen == list(rows.items())
    clean = (model(images).argmax(1) == labels).double().mean().item()
    assert rows["clean"]["accuracy"] == pytest.approx(clean)
    assert clean > 0.8
    for name, row in rows.items():
        share = row["accuracy"]
        assert row["images"] == 80
        assert row["standard_error"] == pytest.approx((share * (1 - share) / 80) ** 0.5)
        assert name == "clean" or share < clean
    assert [rows[name]["steps"] for name in ("clean", "fgsm", "pgd", "mim")] == [None, None, 5, 20]
    for name in ("fgsm", "bim", "pgd", "pgd20r", "mim", "cw"):
        assert 0 < rows[name]["mean_linf"] <= 3 / 16 + 1e-6
        assert rows[name]["mean_linf"] <= rows[name]["mean_l2"] <= 8 * rows[name]["mean_linf"]
    assert rows["bim"]["accuracy"] <= rows["fgsm"]["accuracy"]
    assert rows["pgd20r"]["accuracy"] <= rows["pgd"]["accuracy"]


def test_equal_seeds_give_equal_rows_and_leave_the_stream_alone(run):
    _, model, recipe, data = run
    images, labels = data.test.images[:40], data.test.labels[:40]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = [evaluate(model, recipe, images, labels, ["pgd", "cw"], seed=1) for _ in range(2)]
    assert torch.equal(torch.rand(3), expected)
    for name in ("pgd", "cw"):
        assert found[0][name]["accuracy"] == found[1][name]["accuracy"]


def test_transfer_attacks_the_source(run):
    _, model, recipe, data = run
    images, labels = data.test.images[:80], data.test.labels[:80]
    torch.manual_seed(9)
    stranger = small().eval()
    rows = {
        name: evaluate(model, recipe, images, labels, ["transfer"], source=source)["transfer"]
        for name, source in (("itself", model), ("stranger", stranger))
    }
    assert rows["itself"]["accuracy"] < rows["stranger"]["accuracy"]


def test_bad_names(run):
    _, model, recipe, data = run
    some = data.test.images[:2], data.test.labels[:2]
    with pytest.raises(ValueError, match=r"attacks must be among clean, fgsm, .*got 'pdg'"):
        evaluate(model, recipe, *some, ["clean", "pdg"])
    with pytest.raises(ValueError, match="transfer needs source"):
        evaluate(model, recipe, *some, ["transfer"])


def test_the_verb(run, tmp_path, capsys):
    from tla_ops import cli

    path, model, _, data = run
    output = tmp_path / "rows.json"
    arguments = ["evaluate", str(path), "--attacks", "clean,fgsm", "--images", "50"]
    assert cli.main([*arguments, "--json", "--output", str(output)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["attacks"] == json.loads(output.read_text())["attacks"]
    images, labels = data.test.images[:50], data.test.labels[:50]
    clean = (model(images).argmax(1) == labels).double().mean().item()
    assert printed["attacks"]["clean"]["accuracy"] == pytest.approx(clean)
    assert "50 of 360 test images, the first" in printed["notes"]
    assert cli.main([*arguments[:2], "--attacks", "transfer", "--source", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "transfer" in printed
    assert "step 1/25" in printed


def test_the_verb_leaves_checkpoints_alone(run, tmp_path, capsys):
    from tla_ops import cli

    path = tmp_path / "copy.pt"
    path.write_bytes(run[0].read_bytes())
    assert cli.main(["evaluate", str(path), "--output", str(path)]) == 2
    assert "is a checkpoint to read" in capsys.readouterr().err
    assert path.read_bytes() == run[0].read_bytes()


def test_a_source_for_other_images(run, tmp_path, capsys):
    from tla_ops import cli
    from tla_ops.training import checkpoint

    content = checkpoint.read(run[0])
    content["recipe"]["model"], content["image_shape"] = "mlp", [1, 4, 4]
    content["recipe"]["model_options"] = {"hidden": [8]}
    content["model"] = mlp(10, (1, 4, 4), [8]).state_dict()
    del content["format"]
    checkpoint.save(tmp_path / "other.pt", content)
    arguments = ["evaluate", str(run[0]), "--attacks", "transfer", "--source"]
    assert cli.main([*arguments, str(tmp_path / "other.pt")]) == 1
    assert "must be ((1, 8, 8), 10)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--attacks", "clean,pdg"], 2, "--attacks must be among clean, fgsm"),
        (["--attacks", "transfer"], 2, "needs --source"),
        (["--source", "nowhere.pt"], 1, "nowhere.pt"),
        (["--device", "cpu:1"], 2, "--device"),
    ],
)
def test_the_verb_says_what_is_wrong(run, arguments, status, message, capsys):
    from tla_ops import cli

    assert cli.main(["evaluate", str(run[0]), *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
