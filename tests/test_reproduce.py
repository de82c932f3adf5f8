"""The verb `tla-ops reproduce`: what it writes, finds again and complains about."""

import json
import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra [train]")

from test_cli import EXTRAS

from tla_ops import cli
from tla_ops.commands import reproduce as reproduce_verb
from tla_ops.experiments.targets import TARGETS
from tla_ops.training import attacks, checkpoint, pretrained, trainer
from tla_ops.training.checkpoint import CheckpointError
from tla_ops.training.data import load
from tla_ops.training.image_set import hold_out

QUICK = [
    argument
    for key in ("max_steps=3", "attack_steps=1", "val_images=40", "val_steps=1", "batch=20",
                "candidates=20", "checkpoint_every=2", "model_options.dim=16", "eval_step=1/25")
    for argument in ("--set", key)
]  # fmt: skip
IMAGES, SLOW = 20, 10

pytestmark = pytest.mark.usefixtures("one_thread")


def reproduce(*arguments, output=None, quick=True):
    more = [*QUICK, "--images", str(IMAGES), "--slow-images", str(SLOW)] if quick else []
    place = [] if output is None else ["--output", str(output)]
    return cli.main(["reproduce", *map(str, arguments), *place, *more])


def refused(*arguments, output, status, message, capsys):
    """The command fails so, and leaves nothing."""
    assert reproduce(*arguments, output=output, quick=False) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "training" not in captured.err
    assert not output.exists()


def numbers(output):
    """What every metrics.json below a folder says, but for when and where."""
    return {
        plain_name(path.parent): without_times(json.loads(path.read_text()))
        for path in sorted(output.glob("*/*/metrics.json"))
    }


def plain_name(folder):
    """A result's name without what stands for the --set and --images of the run."""
    return re.sub("-[0-9a-f]{6}$", "", folder.name)


def place(output, budget, name):
    (found,) = (path for path in (output / budget).iterdir() if plain_name(path) == name)
    return found


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items()
                if key not in ("seconds", "date", "commit")}  # fmt: skip
    return [without_times(item) for item in value] if isinstance(value, list) else value


# Real runs.

REAL = ("tla/table5", "tla/table1", "tla/table3", "tla/table4", "tla/table6", "tla/supp-table3")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    pytest.importorskip("art", reason="adversarial-robustness-toolbox: extra [eval]")
    pytest.importorskip("multiprocess", reason="ART's AutoAttack imports it; extra [eval]")
    folder = tmp_path_factory.mktemp("reproduce") / "runs"
    assert reproduce(*REAL, output=folder) == 0
    return folder


@pytest.fixture(scope="module")
def made(output):
    return {plain_name(path.parent): json.loads(path.read_text())
            for path in output.glob("smoke/*/metrics.json")}  # fmt: skip


def test_what_is_written(output, made):
    assert {path.name for path in output.iterdir()} == {
        "smoke", "checkpoints", "evaluations", "adversarial",
    }  # fmt: skip
    assert set(made) == {name.replace("/", "-") for name in REAL}
    for name, metrics in made.items():
        assert (metrics["experiment"], metrics["budget"]) == (name.replace("-", "/", 1), "smoke")
        page = (place(output, "smoke", name) / "table.md").read_text()
        assert metrics["tables"][0]["title"] in page
        assert "paper " in page
        (part,) = metrics["parts"]
        assert (part["dataset"], part["stands_in_for"], part["images"]) == ("digits", "mnist", 20)
        assert {run["method"].replace("_", "-") for run in part["runs"]} == set(
            TARGETS[metrics["experiment"]].methods
        )
        for run in part["runs"]:
            assert run["steps"] == 3
            assert "max_steps: None in the recipe, 3 here" in run["changed"]
            assert "model_options: {} in the recipe, {'dim': 16} here" in run["changed"] or (
                name == "tla-table4" and "model: small in the recipe, mlp here" in run["changed"]
            )
        assert metrics["overrides"][-2:] == ["images=20", "slow_images=10"]
    assert "steps of 1/25." in str(made["tla-table1"]["tables"][0])
    assert {attack["step"] for attack in made["tla-table1"]["attacks"]} == {"0", "1/25"}
    auto, beside = made["tla-table1"]["tables"][0]["columns"][-2:]
    assert (auto["name"], beside["name"]) == ("AutoAttack", "PGD")
    assert "10 images" in auto["note"]
    assert beside["note"].endswith(", 10 images")  # the same
    names = [run["name"] for run in made["tla-table1"]["parts"][0]["runs"]]
    assert sorted(names) == sorted([*(f"digits-{m}" for m in TARGETS["tla/table1"].methods),
                                    "digits-um"])  # fmt: skip
    assert [run["seed"] for run in made["tla-table1"]["parts"][0]["runs"]].count(1000) == 1


def test_one_training_for_each_model(output):
    """Six of Table 1, its source, and four of Table 4 on another network."""
    names = sorted(path.name[:-13] for path in (output / "checkpoints").iterdir())
    four = ["digits-alp", "digits-at", "digits-tla", "digits-um"]
    assert names == sorted([*four, *four, "digits-tla-rn", "digits-tla-sa", "digits-um"])


def column(table, name, place=0):
    places = [index for index, column in enumerate(table["columns"]) if column["name"] == name]
    return places[place]


@pytest.mark.parametrize(
    ("target", "row", "name", "printed"),
    [
        ("tla-table1", "TLA", "20PGD", 0.9679),
        ("tla-table1", "UM", "BB", 0.8181),
        ("tla-table1", "TLA-SA", "C&W", 0.9745),
        ("tla-table3", "ALP", "DeepFool (l2)", 0.9895),
        ("tla-table3", "TLA", "PGD (l2)", 0.9738),
        ("tla-table4", "ALP", "C&W", 0.6346),
        ("tla-table5", "AT", "ε = 3/16", 1.308),
        ("tla-table6", "TLA", "Natural", 0.9947),
    ],
)
def test_the_papers_numbers_beside_ours(target, row, name, printed, made, output):
    (table,) = made[target]["tables"]
    cell = table["rows"][row][column(table, name)]
    assert cell["paper"] == pytest.approx(printed)
    assert cell["value"] is not None
    lines = (place(output, "smoke", target) / "table.md").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"| {row} |"))
    shown = f"{100 * printed:.2f}%" if target != "tla-table5" else str(printed)
    assert f"paper {shown}" in line.split(" | ")[1 + column(table, name)]


def of(made, output, target, method, seed=0):
    (run,) = [run for run in made[target]["parts"][0]["runs"]
              if (run["method"], run["seed"]) == (method, seed)]  # fmt: skip
    return checkpoint.read_model(output / run["checkpoint"])[0]


def test_accuracies_are_those_of_the_checkpoints(made, output):
    """Recomputed by hand for Table 1, on test images alone."""
    _, test = hold_out(load("digits").test, IMAGES)
    images, labels = test.images, test.labels
    (table,) = made["tla-table1"]["tables"]
    radius, step = Fraction(3, 16), Fraction(1, 25)
    source = of(made, output, "tla-table1", "um", seed=1000)
    for row, method in (("UM", "um"), ("ALP", "alp"), ("TLA-RN", "tla_rn"), ("TLA", "tla")):
        model = of(made, output, "tla-table1", method)
        ball = {"epsilon": radius, "step": step, "steps": 5}
        by_hand = {
            "Clean": lambda model=model: images,
            "FGSM": lambda model=model: attacks.fgsm(model, images, labels, epsilon=radius),
            "20PGD": lambda model=model, ball=ball: attacks.pgd(
                model, images, labels, **ball, restarts=2, early_stop=True
            ),
            "MIM": lambda model=model, ball=ball: attacks.mim(model, images, labels, **ball),
            "BB": lambda ball=ball: attacks.pgd(source, images, labels, **ball),
        }
        for name, attack in by_hand.items():
            torch.manual_seed(0)
            right = model(attack()).argmax(1) == labels
            found = table["rows"][row][column(table, name)]["value"]
            assert found == pytest.approx(right.double().mean().item()), (row, name)
    assert len({json.dumps(line) for line in table["rows"].values()}) > 1


def test_columns_that_are_left_out(output, made, tmp_path, capsys):
    shutil.copytree(output, tmp_path / "runs")
    arguments = ["tla/table1", "--without", "autoattack, mim"]
    assert reproduce(*arguments, output=tmp_path / "runs") == 0
    assert "training" not in capsys.readouterr().err
    pages = (tmp_path / "runs").glob("smoke/tla-table1-*/metrics.json")
    found, whole = sorted(map(json.loads, map(Path.read_text, pages)),
                          key=lambda page: len(page["tables"][0]["columns"]))  # fmt: skip
    assert whole["tables"] == made["tla-table1"]["tables"]
    assert found["overrides"][-1] == "without=autoattack,mim"
    auto = column(whole["tables"][0], "AutoAttack")
    out = [auto, auto + 1, column(whole["tables"][0], "MIM")]  # with PGD on AutoAttack's images
    for row, cells in whole["tables"][0]["rows"].items():
        left = [cell["value"] for place, cell in enumerate(cells) if place not in out]
        assert [cell["value"] for cell in found["tables"][0]["rows"][row]] == left
    assert "AutoAttack" in str(whole["tables"])
    assert "AutoAttack" not in str(found["tables"])


def test_rows_that_are_chosen(output, made, tmp_path, capsys):
    shutil.copytree(output, tmp_path / "runs")
    arguments = ["tla/table1", "tla/table3", "--methods", "tla, at"]
    assert reproduce(*arguments, output=tmp_path / "runs") == 0
    assert "training" not in capsys.readouterr().err
    for name in ("tla-table1", "tla-table3"):
        pages = (tmp_path / "runs").glob(f"smoke/{name}-*/metrics.json")
        found = map(json.loads, map(Path.read_text, pages))
        (page,) = (page for page in found if page["overrides"][-1:] == ["methods=tla,at"])
        (table,), (whole,) = page["tables"], made[name]["tables"]
        assert table["columns"] == whole["columns"]
        assert list(table["rows"]) == ["AT", "TLA"]
        for row, cells in table["rows"].items():
            kept = [[cell[key] for key in ("value", "paper", "error")] for cell in cells]
            expected = whole["rows"][row]  # whose marks are among more rows
            assert kept == [[cell[key] for key in ("value", "paper", "error")] for cell in expected]
        assert table["notes"] == whole["notes"]


def test_a_second_run_finds_everything(output, made, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr("tla_ops.experiments.lab.Lab._attacked", lambda *_: pytest.fail("attacked"))
    before = {path: path.stat().st_mtime_ns for path in output.glob("[cea]*/**/*")}
    assert reproduce(*REAL[:3], "--json", output=output) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert list(printed) == ["tla/table1", "tla/table3", "tla/table5"]  # the list's order
    for name, metrics in printed.items():
        folder = place(output, "smoke", name.replace("/", "-"))
        assert metrics == json.loads((folder / "metrics.json").read_text())
        assert without_times(metrics) == without_times(made[plain_name(folder)])
    assert {path: path.stat().st_mtime_ns for path in output.glob("[cea]*/**/*")} == before
    assert re.search(r"^tla/table1: done in [\d.]+ s$", captured.err, re.MULTILINE)


def test_another_budget_uses_the_models_that_it_shares(output, capsys):
    """Another seed, on the other hand, has models of its own."""
    count = len(list((output / "checkpoints").iterdir()))
    same = ["epochs=1", "learning_rate=4e-3", "val_every=1000"]
    more = [argument for key in same for argument in ("--set", key)]
    arguments = ["tla/table6", "--budget", "full", "--datasets", "digits"]
    assert reproduce(*arguments, *more, output=output) == 0
    captured = capsys.readouterr()
    assert "training" not in captured.err
    assert "20 images under pgd 50 steps" in captured.err
    assert (
        "50 nearest neighbours"
        in (place(output, "full", "tla-table6-digits") / "table.md").read_text()
    )
    assert f"written to {output / 'full' / 'tla-table6'}" in captured.out
    assert len(list((output / "checkpoints").iterdir())) == count
    assert reproduce("tla/table6", "--seed", 1, output=output) == 0
    assert capsys.readouterr().err.count("training ") == 3
    assert len(list((output / "checkpoints").iterdir())) == count + 3


# Interruptions.


def test_an_interrupted_run_is_finished_by_the_next(tmp_path, monkeypatch, capsys):
    target = "tla/table5"
    assert reproduce(target, output=tmp_path / "whole") == 0
    step, taken = trainer.Trainer.train_step, []

    def interrupted(self):
        taken.append(self.step)
        if len(taken) == 5:  # the second step of the second model
            signal.raise_signal(signal.SIGINT)
        step(self)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "train_step", interrupted)
        assert reproduce(target, output=tmp_path / "cut") == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"interrupted, what was finished is in {tmp_path / 'cut'}" in captured.err
    assert "Traceback" not in captured.err
    assert taken == [0, 1, 2, 0, 1]
    assert numbers(tmp_path / "cut") == {}
    monkeypatch.setattr(trainer.Trainer, "train_step", lambda self: (taken.append(self.step),
                                                                     step(self)))  # fmt: skip
    assert reproduce(target, output=tmp_path / "cut") == 0
    assert taken[5:] == [2, 0, 1, 2]
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")


def test_ctrl_c_in_an_attack(tmp_path, monkeypatch, capsys):
    from tla_ops.experiments.lab import Lab

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lab, "_attacked", interrupted)
        assert reproduce("tla/table6", output=tmp_path) == 130
    assert "what was finished is in" in capsys.readouterr().err
    assert not list(tmp_path.glob("adversarial/*"))
    assert reproduce("tla/table6", output=tmp_path) == 0


# The list.


def test_the_list(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    text = capsys.readouterr().out
    for name, target in TARGETS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        for word in (target.title, ", ".join(target.datasets), ", ".join(target.methods)):
            assert word in line
        assert line.endswith("[eval]" if target.extras else "-")
    for budget in ("smoke", "short", "full"):
        assert f"--budget {budget}: " in text
    assert cli.main(["reproduce", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == list(TARGETS)
    assert listed["tla/table1"]["extras"] == ["eval"]
    assert listed["tla/table4"] == {
        "title": "Other networks: MLP and ConvNet", "datasets": ["mnist", "cifar10"],
        "methods": ["um", "at", "alp", "tla"], "extras": [], "packages": {},
    }  # fmt: skip


def test_the_list_has_packages_that_no_extra_brings(capsys):
    assert cli.main(["reproduce", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    needing = {name: about["packages"] for name, about in listed.items() if about["packages"]}
    cats = {"cats-vs-dogs": "torchvision", "cifar10-cats-dogs": "torchvision"}
    cifar, originals = {"cifar10": "torchvision"}, {"imagenet": "timm", "cifar10": "torchvision"}
    assert needing == {
        **dict.fromkeys(("at2l/fig1", "at2l/fig2"), cats | cifar),
        **dict.fromkeys(("at2l/app-table4", "at2l/app-table5"), cats),
        **dict.fromkeys(("at2l/app-table9", "at2l/app-table10"), cifar),
        **dict.fromkeys(("at2l/table2", "at2l/app-table15", "at2l/app-table16"), originals),
    }
    assert cli.main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("timm, ")]
    assert line.endswith("on imagenet: at2l/table2, at2l/app-table15, at2l/app-table16")
    assert [line.split(":")[0].split()[-1] for line in lines if line.startswith("torchvision")] == [
        "cats-vs-dogs", "cifar10", "cifar10-cats-dogs"
    ]  # fmt: skip


BLOCKED = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from tla_ops.cli import main
print(main(["reproduce", "--list"]))
print(main(["reproduce", "tla/table5", "--output", "nowhere"]))
print(main(["reproduce", "tla/tabel5"]))
sys.modules.update(dict.fromkeys({extra!r}, sys))
print(main(["reproduce", "tla/table1", "--output", "nowhere"]))
"""


def test_the_list_and_errors_need_no_extra(tmp_path):
    """Piped to somebody with a narrow terminal; a missing extra is named."""
    train = ("yaml", "lightning", "sklearn", "matplotlib")
    script = BLOCKED.format(names=EXTRAS, extra=train)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={"COLUMNS": "20", "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *listing, missing, unknown, art = done.stdout.splitlines()
    assert (listing.pop(), missing, unknown, art) == ("0", "1", "2", "1")
    assert "\x1b" not in done.stdout
    assert len([line for line in listing if line.startswith(("tla/", "at2l/"))]) == len(TARGETS)
    assert max(map(len, listing)) > 120
    errors = [line for line in done.stderr.splitlines() if line.startswith("tla-ops")]
    assert errors[0].startswith("tla-ops reproduce: needs pyyaml and lightning and scikit-learn")
    assert "did you mean tla/table5?" in errors[1]
    assert errors[2].endswith("pip install 'tla_ops[eval]'")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a TARGET"),
        (["tla/tabel1"], "did you mean tla/table1?"),
        (["tla/table1", "nonsense"], "got 'nonsense'"),
        (["tla/table1", "--datasets", "mnits"], "--datasets must have one of digits, mnist,"),
        (["tla/table1", "--datasets", "mnist,mnits"], "--datasets must be among"),
        (["tla/table2", "--datasets", "mnist"], "digits, cifar10 for tla/table2, got mnist"),
        (["tla/table5", "--set", "colour=red"], "--set must be KEY=VALUE"),
        (["tla/table5", "--set", "batch"], "--set must be KEY=VALUE"),
        (["tla/table5", "--set", "seed=3"], "--set must be KEY=VALUE"),
        (["tla/table5", "--set", "dataset=mnist"], "--set must be KEY=VALUE"),
        (["tla/table5", "--set", "init_from=x.pt"], "--set must be KEY=VALUE"),
        (["tla/table5", "--set", "learning_rate=fast"], "--set learning_rate must be float"),
        (["tla/table5", "--set", "candidates=many"], "--set candidates must be int"),
        (["tla/table5", "--set", "noise=loud"], "--set noise must be a number or a fraction"),
        (["tla/table5", "--set", "optimizer=sdg"], "--set optimizer must be one of adam, sgd"),
        (["tla/table5", "--set", "val_images=0"], "--set val_images must be at least 1"),
        (["tla/table1", "--set", "epsilon=0"], "--set epsilon must be above 0"),
        (["tla/table5", "--set", "eval_steps={}"], "--set eval_steps must have steps for bim"),
        (["tla/table5", "--set", "max_steps=["], "--set max_steps=["),
        (["tla/table5", "--budget", "tiny"], "--budget"),
        (["tla/table5", "--images", "9"], "--images"),
        (["tla/table5", "--images", "many"], "--images"),
        (["tla/table5", "--slow-images", "9"], "--slow-images"),
        (["tla/table1", "--without", "clean"], "--without: must be of fgsm, bim, "),
        (["tla/table1", "--without", "autoattack,mimm"], "--without: must be of fgsm, bim, "),
        (["tla/table5", "--without", "mim"], "--without: only tla/table1, tla/table3, "),
        (["tla/table1", "--methods", "at,tl"], "--methods: must be of um, at, alp, "),
        (["tla/table5", "--methods", "at"], "--methods: only tla/table1, tla/table3, "),
        (
            ["tla/table1", "tla/table3", "--methods", "um,tla-rn"],
            "--methods must have one of at, alp, tla for tla/table3, got um,tla-rn",
        ),
        (["tla/table5", "--seed", "-1"], "--seed"),
        (["tla/table5", "--seed", str(2**64)], "--seed"),
        (["tla/table5", "--device", "abacus"], "--device"),
        (["tla/table5", "--bugdet", "smoke"], "--bugdet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_2(arguments, message, tmp_path, capsys):
    output = tmp_path / "runs"
    refused(*arguments, output=output, status=2, message=message, capsys=capsys)


def test_missing_data_is_1_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TLA_DATA", raising=False)
    output = tmp_path / "runs"
    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained"))
    arguments = ("tla/table5", "--datasets", "digits,mnist")
    refused(*arguments, output=output, status=1, message="TLA_DATA", capsys=capsys)
    arguments = (*arguments, "--data", tmp_path)
    message = f"--data: {tmp_path} must hold train-00000-of-….parquet of mnist"
    refused(*arguments, output=output, status=1, message=message, capsys=capsys)
    monkeypatch.setenv("TLA_DATA", str(tmp_path / "nowhere"))
    arguments = ("tla/table5", "--budget", "short")
    refused(*arguments, output=output, status=1, message="--data: ", capsys=capsys)


@pytest.fixture
def undecoded(monkeypatch):
    monkeypatch.delenv("TLA_DATA", raising=False)
    monkeypatch.setattr(reproduce_verb, "load_data", lambda *_: pytest.fail("decoded"))
    monkeypatch.setitem(sys.modules, "art", sys)  # which is asked for first


@pytest.mark.parametrize(
    ("target", "dataset", "package"),
    [("table2", "imagenet", "timm"), ("table2", "cifar10", "torchvision"),
     ("fig1", "cats-vs-dogs", "torchvision"), ("app-table4", "cifar10-cats-dogs", "torchvision")],
)  # fmt: skip
def test_a_missing_package_is_1_before_data_are_read(
    target, dataset, package, undecoded, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    arguments = (f"at2l/{target}", "--datasets", f"digits,{dataset}", "--data", tmp_path)
    message = f"needs {package}: pip install {package}\n"
    refused(*arguments, output=tmp_path / "runs", status=1, message=message, capsys=capsys)


def test_missing_weights_are_1_before_data_are_read(undecoded, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", sys)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    place = tmp_path / "imagenet" / "weights"
    place.mkdir(parents=True)
    *found, last = pretrained.NETWORKS.values()
    for name in found:
        (place / f"{name}.pth").touch()
    arguments = ("at2l/table2", "--datasets", "imagenet", "--data", tmp_path)
    message = f"weights of {last} must be in {place} as"
    refused(*arguments, output=tmp_path / "runs", status=1, message=message, capsys=capsys)


def test_networks_look_for_weights_where_the_data_are(tmp_path, monkeypatch):
    def make(target, lab):
        made.append(pretrained.weights("own"))
        raise CheckpointError("seen")

    made = []
    path = tmp_path / "imagenet" / "weights" / "own.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setenv("TLA_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("tla_ops.experiments.target.make", make)
    assert reproduce("tla/table6", "--data", tmp_path, output=tmp_path / "runs") == 1
    assert made == [path]


def test_failures_are_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    output = tmp_path / "runs"
    refused("tla/table5", "--device", "cuda", output=output, status=1, message="--device cuda",
            capsys=capsys)  # fmt: skip
    file = tmp_path / "file"
    file.write_text("mine")
    assert reproduce("tla/table5", output=file) == 1
    assert f"--output {file}: {file} is a file" in capsys.readouterr().err
    assert file.read_text() == "mine"
    for override, message in (("val_images=5000", "val_images must be below 1437"),
                              ("model_options.depth=3", "options of small must be one of dim"),
                              ("learning_rate=1e18", "loss is")):  # fmt: skip
        assert reproduce("tla/table5", "--set", "log_every=1", "--set", override,
                         output=output, quick=False) == 1  # fmt: skip
        captured = capsys.readouterr()
        assert message in captured.err.splitlines()[-1]
        assert captured.out == ""


def test_a_damaged_checkpoint_is_1(tmp_path, capsys):
    assert reproduce("tla/table6", output=tmp_path) == 0
    for path in Path(tmp_path).glob("checkpoints/digits-alp-*/best.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    assert reproduce("tla/table6", output=tmp_path) == 1
    assert "best.pt: damaged, or not a checkpoint" in capsys.readouterr().err
