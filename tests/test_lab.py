"""What reproductions keep: found again when nothing has changed, and never when something has."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from labs import TINY, Watched, fake_training, made_up

from tla_ops.experiments import lab as labs
from tla_ops.experiments.budget import Budget, load_budget
from tla_ops.experiments.lab import Setting
from tla_ops.experiments.threat import Threat
from tla_ops.experiments.variants import changed
from tla_ops.training import attacks, checkpoint, trainer
from tla_ops.training.image_set import ImageSet
from tla_ops.training.recipe import RecipeError
from tla_ops.training.runlog import curves

DIGITS = Setting("digits", "mnist")
PGD = Threat("pgd", Fraction(3, 16), Fraction(1, 16), steps=2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data():
    sets = {name: made_up(name) for name in ("digits", "mnist", "cifar10")}
    return sets | {"tiny-imagenet": made_up("tiny-imagenet", shape=(3, 8, 8))}


@pytest.fixture
def trained(monkeypatch):
    return fake_training(monkeypatch)


@pytest.fixture
def untrainable(monkeypatch):
    """Call it where nothing may be trained from there on."""

    def forbid():
        monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained again"))

    return forbid


def with_train(data, images):
    return {"digits": data["digits"]._replace(train=images)}


def one_pixel(images):
    stored = images.stored.clone()
    stored[7, 0, 3, 3] ^= 1
    return ImageSet(stored, images.labels)


def other_labels(images):
    labels = images.labels.clone()
    labels[0] = 9
    return ImageSet(images.stored, labels)


def other_scale(images):
    return ImageSet(images.stored, images.labels, scale=250)


# What decides the weights.


def test_a_model_is_trained_once(data, tmp_path, trained):
    first = Watched(tmp_path, data)
    made = first.trained(DIGITS, "at")
    assert first.trained(DIGITS, "at") is made
    again = Watched(tmp_path, data, replace(first.budget, images=5, steps=1)).trained(DIGITS, "at")
    assert [recipe.name for recipe in trained] == ["digits-at"]
    assert made.digest == again.digest
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert not again.model.training


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"overrides": (*TINY, "learning_rate=0.5")},
        {"overrides": (*TINY, "epsilon=1/16")},
        {"overrides": (*TINY, "epsilon=0.18750000001")},
        {"overrides": (*TINY, "noise=1/16")},
        {"overrides": (*TINY, "val_images=21")},
        {"overrides": (*TINY, "model_options={hidden: [9]}")},
        {"budget": Budget("smoke", recipes={"digits": {"weight_decay": 0.1}})},
    ],
    ids=str,
)
def test_another_recipe_is_another_run(options, data, tmp_path, trained):
    usual = Watched(tmp_path, data).folder(DIGITS, "tla")
    assert Watched(tmp_path, data, **options).folder(DIGITS, "tla") != usual
    assert Watched(tmp_path, data).folder(DIGITS, "tla") == usual
    assert len(trained) == 2


@pytest.mark.parametrize("change", [one_pixel, other_labels, other_scale])
def test_other_training_images_are_another_run(change, data, tmp_path, trained):
    usual = Watched(tmp_path, data).folder(DIGITS, "at")
    other = with_train(data, change(data["digits"].train))
    assert Watched(tmp_path, other).folder(DIGITS, "at") != usual
    same = data["digits"]._replace(test=data["digits"].train)
    assert Watched(tmp_path, {"digits": same}).folder(DIGITS, "at") == usual


def test_methods_and_variations_are_other_runs(data, tmp_path, trained):
    lab = Watched(tmp_path, data)
    folders = {
        lab.folder(DIGITS, "at"), lab.folder(DIGITS, "um"), lab.folder(DIGITS, "tla"),
        lab.folder(DIGITS, "tla", "margin=1"), lab.folder(DIGITS, "tla", "margin=2"),
        lab.folder(DIGITS, "um", "seed=1000"), lab.folder(Setting("mnist", "mnist"), "at"),
    }  # fmt: skip
    assert len(folders) == len(trained) == 7


# Recipes.


def test_the_users_keys_are_over_the_targets_over_the_budgets(data, tmp_path):
    budget = Budget(
        "smoke", recipes={"digits": {"learning_rate": 0.1, "batch": 20, "weight_decay": 0.1}}
    )
    lab = Watched(tmp_path, data, budget, overrides=["batch=40", "seed=9"], seed=3)
    recipe = lab.recipe("digits", "at", "batch=30", "weight_decay=0.2", "seed=4")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch) == (0.1, 0.2, 40)
    assert lab.recipe("digits", "at").seed == 9
    assert Watched(tmp_path, data, overrides=(), seed=3).recipe("digits", "at").seed == 3
    assert Watched(tmp_path, data, overrides=()).recipe("digits", "at", "seed=4").seed == 4


def test_keys_go_to_the_methods_that_take_them(data, tmp_path):
    keys = ["margin=0.7", "beta=2", "candidates=77", "bank=64", "noise=1/16", "label_smoothing=.2"]
    lab = Watched(tmp_path, data, overrides=keys)
    made = {name: lab.recipe("digits", name) for name in ("um", "at", "alp", "tla", "tla-rn")}
    for name, recipe in made.items():
        tla = name.startswith("tla")
        assert recipe.options.get("margin") == (0.7 if tla else None)
        assert recipe.candidates == (77 if tla else 0)
        assert recipe.bank == (64 if name == "tla" else 0)
        assert recipe.options["label_smoothing"] == 0.2
        assert recipe.options.get("noise") == (Fraction(1, 16) if tla else None)
        assert "beta" not in recipe.options
    with pytest.raises(RecipeError, match="noise must be a number or a fraction"):
        Watched(tmp_path, data, overrides=["noise=loud"]).recipe("digits", "tla")


def test_a_networks_options_come_with_its_name(data, tmp_path):
    budget = load_budget("smoke")  # MNIST's LeNet gets a width there
    lab = Watched(tmp_path, data, budget, overrides=["model_options.width=0.5"])
    assert lab.recipe("mnist", "at").model_options == {"width": 0.5}
    assert lab.recipe("mnist", "at", "model=mlp").model_options == {}
    own = lab.recipe("mnist", "at", "model=mlp", "model_options.hidden=[8]")
    assert own.model_options == {"hidden": [8]}
    lab = Watched(tmp_path, data, budget, overrides=["model=mlp", "model_options={hidden: [9]}"])
    assert lab.recipe("mnist", "at").model_options == {"hidden": [9]}
    other = lab.recipe("mnist", "at", "model=convnet", "model_options.width=2")
    assert (other.model, other.model_options) == ("mlp", {"hidden": [9]})
    assert lab.recipe("cifar10", "at").model_options == {"hidden": [9]}  # not {units: 6}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("val_images=0", "val_images must be at least 1"),
        ("epsilon=0", "epsilon must be above 0"),
        ("eval_steps={pgd: 3}", "eval_steps must have steps for bim, cw, mim, pgd20r, pgd_long"),
        ("learning_rate=fast", "learning_rate must be float, got 'fast'"),
    ],
)
def test_recipes_that_leave_nothing_to_measure(override, message, data, tmp_path):
    with pytest.raises(RecipeError, match=message):
        Watched(tmp_path, data, overrides=[override]).recipe("digits", "at")


def test_changed_is_what_differs_from_the_package(data, tmp_path):
    lab = Watched(tmp_path, data, overrides=["margin=0.7", "noise=1/16", "batch=50"], seed=5)
    assert changed(lab.recipe("digits", "tla")) == [
        "margin: 0.05 in the recipe, 0.7 here", "noise: None in the recipe, 1/16 here",
    ]  # fmt: skip
    assert changed(lab.recipe("mnist", "um", "schedule={5: .1}")) == [
        "schedule: {} in the recipe, {5: 0.1} here"
    ]
    assert changed(lab.recipe("cifar10", "at")) == []


# What is written of a run.


def test_a_run_is_recorded_once_for_a_target(data, tmp_path, trained):
    lab = Watched(tmp_path, data, overrides=[*TINY, "schedule={1: 0.01}"])
    for _ in range(2):
        lab.trained(DIGITS, "at")
    lab.trained(DIGITS, "um")
    (part,) = lab.parts.values()
    assert [run["name"] for run in part["runs"]] == ["digits-at", "digits-um"]
    assert (part["dataset"], part["stands_in_for"], part["images"]) == ("digits", "mnist", 60)
    assert part["notes"] == ["made up"]
    assert json.loads(json.dumps(part, allow_nan=False)) == part
    run = part["runs"][0]
    assert run["changed"] == changed(lab.recipe("digits", "at"))
    assert run["recipe"]["epsilon"] == "3/16"
    assert (tmp_path / run["checkpoint"]).exists()
    lab.begin()
    assert lab.parts == {}
    lab.trained(Setting("mnist", "mnist"), "um")
    (part,) = lab.parts.values()
    assert (part["dataset"], part["stands_in_for"]) == ("mnist", None)


# Real trainings.


def test_a_killed_training_goes_on_to_the_same_numbers(data, tmp_path, monkeypatch):
    overrides = [*TINY, "max_steps=4", "checkpoint_every=1", "val_every=1"]
    whole = Watched(tmp_path / "a", data, overrides=overrides)
    expected = whole.trained(DIGITS, "tla")
    taken, step = [], trainer.Trainer.train_step

    def killed(self):
        if self.step == 2 and len(taken) == 2:
            raise SystemExit("killed")
        taken.append(self.step)
        step(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", killed)
    with pytest.raises(SystemExit, match="killed"):
        Watched(tmp_path / "b", data, overrides=overrides).trained(DIGITS, "tla")
    taken.append("again")
    lab = Watched(tmp_path / "b", data, overrides=overrides)
    found = lab.trained(DIGITS, "tla")
    assert taken == [0, 1, "again", 2, 3]
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name])
    seconds = [next(iter(some.parts.values()))["runs"][0]["seconds"] for some in (whole, lab)]
    assert min(seconds) > 0


def test_how_a_trainings_triplets_went(data, tmp_path):
    lab = Watched(tmp_path, data, overrides=[*TINY, "max_steps=4", "log_every=2"])
    folders = [lab.trained(DIGITS, method).path.parent for method in ("tla", "um")]
    with_triplets, without = next(iter(lab.parts.values()))["runs"]
    assert without["triplets"] == {}
    logged = [row for row in curves(folders[0] / "metrics.csv") if "active" in row]
    assert [row["step"] for row in logged] == [2, 4]
    assert with_triplets["triplets"] == {
        key: [row[key] for row in logged]
        for key in ("active", "positive_distance", "negative_distance")
    }


def test_an_evaluations_step_trains_nothing_again(data, tmp_path):
    places = [
        Watched(tmp_path, data, overrides=[*TINY, *more]).trained(DIGITS, "um").path
        for more in ([], ["eval_step=1/9"], ["attack_step=1/9"])
    ]
    assert places[0] == places[1] != places[2]
    (places[0].parent / "metrics.csv").write_text("damaged")
    lab = Watched(tmp_path, data)
    assert lab.trained(DIGITS, "um").path == places[0]
    assert next(iter(lab.parts.values()))["runs"][0]["triplets"] == {}


class Untouched:
    """Images that nobody may look at."""

    def __len__(self):
        return 60

    def __getattr__(self, name):
        pytest.fail(f"the test images' {name} was asked for")


def test_models_are_chosen_without_the_test_images(data, tmp_path):
    hidden = {"digits": data["digits"]._replace(test=Untouched())}
    lab = Watched(tmp_path, hidden, overrides=[*TINY, "val_every=1"])
    made = lab.trained(DIGITS, "at")
    folder = lab.folder(DIGITS, "at")
    best, last = (checkpoint.read(folder / name) for name in ("best.pt", "last.pt"))
    assert made.recipe.val_images == 20
    last["model"] = {name: value + 1 for name, value in last["model"].items()}
    checkpoint.save(folder / "last.pt", last)
    again = Watched(tmp_path, hidden, overrides=[*TINY, "val_every=1"]).trained(DIGITS, "at")
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, best["model"][name])


def test_tla_of_tiny_imagenet_starts_from_the_at_model(data, tmp_path):
    tiny = Setting("tiny-imagenet", "tiny-imagenet")
    lab = Watched(tmp_path, data, overrides=[*TINY, "learning_rate=0"])
    made = lab.trained(tiny, "tla")
    at = lab.trained(tiny, "at")
    for name, value in at.model.state_dict().items():
        assert torch.equal(value, made.model.state_dict()[name])
    (part,) = lab.parts.values()
    assert [run["method"] for run in part["runs"]] == ["at", "tla"]
    assert all("init_from" not in line for run in part["runs"] for line in run["changed"])
    fresh = lab.trained(Setting("mnist", "mnist"), "tla")
    assert fresh.recipe.init_from is None
    assert made.recipe.init_from == str(lab.folder(tiny, "at") / "best.pt")


def test_a_fine_tuned_models_key_has_what_it_started_from(data, tmp_path, trained, monkeypatch):
    tiny = Setting("tiny-imagenet", "tiny-imagenet")
    folders = []
    for start in ({"tiny-imagenet": "at"}, {"tiny-imagenet": "alp"}, {}):
        monkeypatch.setattr(labs, "FINE_TUNED", start)
        folders.append(Watched(tmp_path, data).folder(tiny, "tla"))
    assert len(set(folders)) == 3
    assert [recipe.method for recipe in trained] == ["at", "tla", "alp", "tla", "tla"]


def test_a_fine_tuning_resumes_though_its_folder_is_called_otherwise(data, tmp_path, monkeypatch):
    tiny, overrides = Setting("tiny-imagenet", "tiny-imagenet"), [*TINY, "checkpoint_every=1"]
    step = trainer.Trainer.train_step

    def killed(self):
        if self.recipe.method == "tla" and self.step == 1:
            raise SystemExit("killed")
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "train_step", killed)
        with pytest.raises(SystemExit):
            Watched(tmp_path / "a", data, overrides=overrides).trained(tiny, "tla")
    (tmp_path / "a").rename(tmp_path / "b")
    lab = Watched(tmp_path / "b", data, overrides=overrides)
    assert lab.trained(tiny, "tla").recipe.init_from.startswith(str(tmp_path / "b"))
    assert not (tmp_path / "a").exists()


# Damage.


@pytest.mark.parametrize("content", ["", '{"step": 2, "be', "[]", "\x00" * 20])
def test_a_damaged_result_is_written_again(content, data, tmp_path, monkeypatch):
    lab = Watched(tmp_path, data)
    folder = lab.folder(DIGITS, "at")
    kept = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(content)
    monkeypatch.setattr(trainer.Trainer, "train_step", lambda _: pytest.fail("trained again"))
    again = Watched(tmp_path, data)
    assert again.folder(DIGITS, "at") == folder
    (part,) = again.parts.values()
    assert part["runs"][0]["steps"] == 2
    assert part["runs"][0]["seconds"] == kept["seconds"]
    found = json.loads((folder / "result.json").read_text())
    assert {**found, "environment": 0} == {**kept, "environment": 0}


def test_a_damaged_checkpoint_is_named(data, tmp_path, trained):
    path = Watched(tmp_path, data).folder(DIGITS, "at") / "best.pt"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"data/0") + 200] ^= 1  # among the first layer's weights
    for content in (whole[: len(whole) // 2], b"", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=r"best\.pt: damaged"):
            Watched(tmp_path, data).trained(DIGITS, "at")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"best\.pt"):
        Watched(tmp_path, data).trained(DIGITS, "at")


def measured(output, data, *, threat=PGD, method="at", **options):
    """An accuracy, and whether it was measured rather than found."""
    lab = Watched(output, data, **options)
    made = lab.trained(DIGITS, method)
    lab.said.clear()
    row = lab.accuracy(made, threat, lab.test(DIGITS))
    return row, lab.said


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1, 2]", '{"found": {"accuracy": 0.5}}', '{"about": {}, "found": {}}', "\x00\xff"],
)
def test_a_damaged_evaluation_is_made_again(content, data, tmp_path, trained):
    row, said = measured(tmp_path, data)
    assert said == ["digits-at: pgd 2 steps"]
    assert measured(tmp_path, data) == (row, [])
    (path,) = (tmp_path / "evaluations").iterdir()
    whole = json.loads(path.read_text())
    path.write_text(content)
    again, said = measured(tmp_path, data)
    assert said == ["digits-at: pgd 2 steps"]
    assert {**again, "seconds": 0} == {**row, "seconds": 0}
    whole["about"]["seed"] = 1  # another evaluation's content
    path.write_text(json.dumps(whole))
    assert measured(tmp_path, data)[1] == ["digits-at: pgd 2 steps"]


def test_damaged_adversarial_images_are_made_again(data, tmp_path, trained):
    def made():
        lab = Watched(tmp_path, data)
        at = lab.trained(DIGITS, "at")
        lab.said.clear()
        return lab.adversarial(at, PGD, lab.test(DIGITS)), lab.said

    images, said = made()
    assert said == ["digits-at: 60 images under pgd 2 steps"]
    found, said = made()
    assert torch.equal(found, images)
    assert said == []
    (path,) = (tmp_path / "adversarial").iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = {"format": 1, "nothing": 0}
    for content in (whole[:1000], b"", b"\x00" * 99, bytes(flipped), other):
        path.write_bytes(b"") if content is other else path.write_bytes(content)
        if content is other:
            torch.save(other, path)
        found, said = made()
        assert torch.equal(found, images)
        assert len(said) == 1


# What decides what an attack finds.


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"seed": 1, "overrides": (*TINY, "seed=0")},  # the same model
        {"images": 20},
        {"method": "alp"},
        {"threat": replace(PGD, kind="mim")},
        {"threat": replace(PGD, epsilon=Fraction(3, 17))},
        {"threat": replace(PGD, step=Fraction(1, 17))},
        {"threat": replace(PGD, steps=1)},
        {"threat": replace(PGD, restarts=2)},
        {"threat": replace(PGD, norm="l2")},
        {"threat": replace(PGD, early_stop=False)},
        {"budget": Budget("smoke", steps=1)},
    ],
    ids=str,
)
def test_another_attack_is_measured_anew(options, data, tmp_path, trained):
    usual, said = measured(tmp_path, data)
    assert len(said) == 1
    _, said = measured(tmp_path, data, **options)
    assert len(said) == 1
    row, said = measured(tmp_path, data, budget=Budget("full", steps=50))
    assert (row, said) == (usual, [])


@pytest.mark.parametrize("change", [one_pixel, other_labels, other_scale])
def test_other_test_images_are_measured_anew(change, data, tmp_path, trained):
    measured(tmp_path, data)
    other = {"digits": data["digits"]._replace(test=change(data["digits"].test))}
    assert len(measured(tmp_path, other)[1]) == 1
    assert measured(tmp_path, data)[1] == []
    assert len(trained) == 1


def test_another_checkpoint_is_measured_anew(data, tmp_path, trained):
    measured(tmp_path, data, threat=Threat("clean"))
    path = Watched(tmp_path, data).folder(DIGITS, "at") / "best.pt"
    content = checkpoint.read(path)
    head = content["model"]["head.bias"]
    head[:] = 0
    head[3] = 1000  # a class that a tenth of the images has
    checkpoint.save(path, content)
    again, said = measured(tmp_path, data, threat=Threat("clean"))
    assert len(said) == 1
    assert again["accuracy"] == pytest.approx(0.1)


def test_another_source_is_measured_anew(data, tmp_path, trained):
    threat = replace(PGD, kind="transfer", early_stop=False)
    lab = Watched(tmp_path, data)
    victim = lab.trained(DIGITS, "at")
    sources = [lab.trained(DIGITS, "um"), lab.trained(DIGITS, "um", "seed=1000")]
    lab.said.clear()
    rows = [lab.accuracy(victim, threat, lab.test(DIGITS), source) for source in sources]
    assert len(lab.said) == 2
    test = data["digits"].test
    for row, source in zip(rows, sources, strict=True):
        torch.manual_seed(0)
        found = attacks.pgd(
            source.model, test.images, test.labels, epsilon=PGD.epsilon, step=PGD.step, steps=2
        )
        right = victim.model(found).argmax(1) == test.labels
        assert row["accuracy"] == pytest.approx(right.double().mean().item())
        assert row["mean_l2"] == pytest.approx(
            (found - test.images).flatten(1).norm(dim=1).mean().item(), rel=1e-5
        )
    assert rows[0]["mean_l2"] != rows[1]["mean_l2"]


def test_the_same_numbers_without_what_was_kept(data, tmp_path, trained):
    """And the caller's random stream goes on as if nothing had been attacked."""
    row, _ = measured(tmp_path, data)
    shutil.rmtree(tmp_path / "evaluations")
    lab = Watched(tmp_path, data)
    made = lab.trained(DIGITS, "at")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = lab.accuracy(made, PGD, lab.test(DIGITS))
    assert torch.equal(torch.rand(3), expected)
    assert {**again, "seconds": 0} == {**row, "seconds": 0}
    share = row["accuracy"]
    assert row["standard_error"] == pytest.approx((share * (1 - share) / 60) ** 0.5)
    assert row["images"] == 60
    assert row["threat"] == PGD.as_dict()


def test_what_is_kept_is_measured_once(data, tmp_path):
    lab, count = Watched(tmp_path, data), []

    def measure():
        count.append(1)
        return {"number": 0.1, "fraction": Fraction(1, 3), "none": float("nan"), "by": {1: 2}}

    about = {"what": "this", "radius": Fraction(1, 3), "sizes": (1, 2), "by": {1: 2}}
    found = [lab.kept("digits-at: counting", about, measure) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] == {"number": 0.1, "fraction": "1/3", "none": None, "by": {"1": 2}}
    assert len(count) == 1
    lab.kept("digits-at: counting", about | {"what": "that"}, measure)
    assert len(count) == 2


def test_the_labs_seed_is_the_attacks(data, tmp_path, trained):
    test, found = data["digits"].test, []
    for seed in (0, 1):
        lab = Watched(tmp_path, data, overrides=[*TINY, "seed=0"], seed=seed)
        made = lab.trained(DIGITS, "at")
        torch.manual_seed(seed)
        by_hand = attacks.pgd(
            made.model, test.images, test.labels, epsilon=PGD.epsilon, step=PGD.step, steps=2,
            early_stop=True,
        )  # fmt: skip
        found.append(lab.adversarial(made, PGD, lab.test(DIGITS)))
        assert torch.equal(found[seed], by_hand)
    assert len(trained) == 1
    assert not torch.equal(*found)


# Images.


def test_test_images_are_a_fixed_stratified_choice(data, tmp_path):
    budget = Budget("smoke", images=30, slow_images=20, pool=40)
    lab = Watched(tmp_path, data, budget)
    for images, each in ((lab.test(DIGITS), 3), (lab.test(DIGITS, slow=True), 2),
                         (lab.pool(DIGITS), 4)):  # fmt: skip
        assert images.labels.bincount().tolist() == [each] * 10
    again = Watched(tmp_path, data, budget, seed=7)
    assert torch.equal(again.test(DIGITS).stored, lab.test(DIGITS).stored)
    kept = {row.numpy().tobytes() for row in data["digits"].test.stored}
    assert {row.numpy().tobytes() for row in lab.test(DIGITS).stored} <= kept
    learned = {row.numpy().tobytes() for row in data["digits"].train.stored}
    assert {row.numpy().tobytes() for row in lab.pool(DIGITS).stored} <= learned


@pytest.mark.parametrize(
    ("budget", "images", "fast", "slow"),
    [
        (Budget("full"), None, 60, 60),
        (Budget("smoke", images=30), None, 30, 30),
        (Budget("smoke", images=30, slow_images=20), None, 30, 20),
        (Budget("smoke", images=10, slow_images=20), None, 10, 10),
        (Budget("smoke", images=30, slow_images=20), 40, 40, 20),
        (Budget("smoke", images=30, slow_images=20), 10, 10, 10),
        (Budget("full"), 20, 20, 20),
        (Budget("smoke", slow_images=20), None, 60, 20),
        (Budget("smoke", images=500, slow_images=400), None, 60, 60),
    ],
)
def test_numbers_of_images(budget, images, fast, slow, data, tmp_path):
    lab = Watched(tmp_path, data, budget, images=images)
    assert len(lab.test(DIGITS)) == fast
    assert len(lab.test(DIGITS, slow=True)) == slow
    assert len(lab.pool(DIGITS)) == 80


def test_a_number_of_images_for_slow_attacks(data, tmp_path):
    budget = Budget("smoke", images=30, slow_images=20)
    lab = Watched(tmp_path, data, budget, slow_images=10)
    assert len(lab.test(DIGITS)) == 30
    assert len(lab.test(DIGITS, slow=True)) == 10
    assert lab.changes[-1] == "slow_images=10"
    assert lab.place("a") != Watched(tmp_path, data, budget).place("a")
    both = Watched(tmp_path, data, budget, images=20, slow_images=40)
    assert len(both.test(DIGITS)) == len(both.test(DIGITS, slow=True)) == 20
    assert both.changes[-2:] == ["images=20", "slow_images=40"]


def test_features_and_predictions(data, tmp_path, trained):
    lab = Watched(tmp_path, {"digits": made_up("digits", test=450)})
    lab.overrides = (*TINY[2:], "model=small")
    made = lab.trained(DIGITS, "at")
    images = lab.test(DIGITS).images
    with torch.no_grad():
        features, logits = made.model.features(images), made.model(images)
    for given in (images, lab.test(DIGITS)):
        torch.testing.assert_close(lab.features(made, given), features)
        assert torch.equal(lab.predictions(made, given), logits.argmax(1))
    made.model.train()
    torch.testing.assert_close(lab.features(made, images), features)
    assert made.model.training
    assert lab.features(made, images[:0]).shape == (0, 128)


# Data sets and threads.


PAPERS = ("mnist", "cifar10", "tiny-imagenet")


@pytest.mark.parametrize(
    ("budget", "datasets", "found"),
    [
        ("smoke", None, [("digits", "mnist")]),
        ("short", None, [(name, name) for name in PAPERS]),
        ("full", None, [(name, name) for name in PAPERS]),
        ("smoke", ["cifar10"], [("cifar10", "cifar10")]),
        ("full", ["digits"], [("digits", "mnist")]),
        ("full", ["tiny-imagenet", "digits"], [("tiny-imagenet",) * 2, ("digits", "mnist")]),
        ("smoke", ["cats-vs-dogs"], []),
    ],
)
def test_settings(budget, datasets, found, data, tmp_path):
    lab = Watched(tmp_path, data, Budget(budget), datasets=datasets)
    assert lab.settings(PAPERS) == found


@pytest.mark.parametrize(
    ("budget", "datasets", "threads"),
    [("smoke", None, 1), ("full", None, 3), ("full", ["digits"], 1), ("smoke", ["mnist"], 3),
     ("smoke", ["digits", "mnist"], 3)],
)  # fmt: skip
def test_the_stand_in_has_one_thread_and_the_caller_its_own(
    budget, datasets, threads, data, tmp_path
):
    lab = Watched(tmp_path, data, Budget(budget), datasets=datasets)
    torch.set_num_threads(3)
    try:
        with lab.threads():
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), lab.threads():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_a_data_set_is_loaded_once(data, tmp_path):
    count = []
    lab = Watched(tmp_path, data)
    lab._load = lambda name: count.append(name) or data[name]
    assert lab.dataset("digits") is lab.dataset("digits")
    assert count == ["digits"]


def test_what_was_chosen_is_in_the_name_of_the_results(data, tmp_path):
    def place(**chosen):
        return Watched(tmp_path, data, **chosen).place("tla-table1").name

    usual = place()
    others = [place(seed=7), place(images=12), place(overrides=["epochs=2"]),
              place(overrides=["epochs=3"]), place(datasets=["mnist"])]  # fmt: skip
    assert len({usual, *others}) == 6
    assert all(name.startswith("tla-table1") for name in (usual, *others))
    assert place(seed=7) == others[0]
    assert "-seed7" in others[0]
    assert "mnist" in others[-1]


def test_larger_images_are_worked_on_in_smaller_batches(tmp_path):
    lab = Watched(tmp_path, {})
    small, photo = torch.empty(0, 3, 32, 32), torch.empty(0, 3, 299, 299)
    assert lab.at_a_time(small) == lab.at_a_time(torch.empty(0, 1, 64, 64)) == lab.batch
    assert lab.at_a_time(photo) == lab.batch * 64 * 64 // 299**2
    assert lab.at_a_time(made_up("digits").test) == lab.batch
