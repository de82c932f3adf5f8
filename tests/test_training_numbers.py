"""Every number of a recipe does what it says, in training, in validation and in evaluation."""

import csv
import itertools
import signal
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lightning", reason="the trainer stands on Lightning Fabric: extra [train]")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra [train]")
pytest.importorskip("yaml", reason="recipes are YAML files: extra [train]")

from lightning.fabric import Fabric

from tla_ops.training import attacks, evaluate, trainer
from tla_ops.training.augment import crop_flip
from tla_ops.training.data import load
from tla_ops.training.fast import FastAttack
from tla_ops.training.interrupts import StopRequest
from tla_ops.training.models import small
from tla_ops.training.recipe import STEPPED, load_recipe
from tla_ops.training.run_parts import make_fabric, training_attack

SMALL = (
    "max_steps=12", "attack_steps=2", "log_every=4", "val_every=6", "checkpoint_every=5",
    "batch=20", "val_images=40", "val_steps=2",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture
def start(digits, tmp_path):
    """start(recipe's name, overrides...): a run that has taken no step, in a folder of its own."""
    folders = map(str, itertools.count())

    def started(name, *overrides):
        recipe = load_recipe(name, [*SMALL, *overrides])
        output = tmp_path / next(folders)
        output.mkdir()
        run = trainer.Trainer(make_fabric(recipe, "cpu"), recipe, digits, output, False)
        run.training_step.train()
        return run

    return started


def calls_of(model):
    """A list that grows by the images of each call."""
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


# validation


def validated(run, monkeypatch, seed):
    """What a validation measures accuracies on, and its row: 1 on clean images, 0.25 on others."""
    seen, clean = [], run.held_out.images

    def watched(model, images, labels, *more):
        assert torch.equal(labels, run.held_out.labels)
        seen.append(images)
        return 1.0 if torch.equal(images, clean) else 0.25

    monkeypatch.setattr(trainer, "accuracy", watched)
    torch.manual_seed(seed)
    return seen, run._validate()


@pytest.mark.parametrize("name", ["digits-at", "digits-um"])
def test_robust_accuracy_is_that_of_adversarial_images(name, start, monkeypatch):
    run = start(name)
    (first, second), row = validated(run, monkeypatch, 0)
    clean = run.held_out.images
    assert row == {"val_clean": 1.0, "val_adversarial": 0.25}
    change = (first - clean).abs().amax() + (second - clean).abs().amax()  # one of them is clean
    assert change == pytest.approx(float(run.recipe.epsilon))


def test_validations_of_one_model_are_equal_whatever_was_drawn_before(start, monkeypatch):
    run = start("digits-at")
    first, second = (validated(run, monkeypatch, seed)[0] for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_val_steps_are_the_steps_of_validation(start):
    calls = []
    for steps in (2, 5):
        run = start("digits-at", f"val_steps={steps}")
        seen = calls_of(run.model)
        run._validate()
        calls.append(len(seen))
    assert calls[1] - calls[0] == 3


# the step


def test_weight_decay_pulls_on_the_weights(start):
    for optimizer in ("optimizer=sgd", "optimizer=adam"):
        plain, decayed = (
            start(
                "digits-um", optimizer, "momentum=0", "learning_rate=0.1", f"weight_decay={decay}"
            )
            for decay in (0, 0.5)
        )
        before = weights(plain)
        assert torch.equal(before, weights(decayed))
        plain.train_step()
        decayed.train_step()
        difference = weights(decayed) - weights(plain)
        if optimizer == "optimizer=sgd":
            torch.testing.assert_close(difference, -0.1 * 0.5 * before, rtol=1e-3, atol=1e-6)
        else:
            assert difference.abs().amax() > 0.1


def test_momentum_repeats_a_share_of_the_step_before(start):
    options = "optimizer=sgd", "learning_rate=0.1"
    plain, heavy = (start("digits-um", *options, f"momentum={share}") for share in (0, 0.7))
    before = weights(plain)
    for run in (plain, heavy):
        run.train_step()
    assert torch.equal(weights(plain), weights(heavy))
    first = weights(plain) - before
    for run in (plain, heavy):
        run.train_step()
    torch.testing.assert_close(weights(heavy) - weights(plain), 0.7 * first, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "augment"), [("none", None), ("crop_flip", crop_flip)])
def test_augmentation_is_the_recipes(name, augment, start):
    run = start("digits-tla", f"augment={name}", "candidates=30")
    seen = calls_of(run.training_step)
    rows, _ = run._rows()
    run.train_step()
    torch.manual_seed(run._stream("step", 0, 0))
    expected = run.images.batch(rows, 30, augment=augment)
    assert all(torch.equal(a, b) for a, b in zip(seen[0].batch, expected, strict=True))
    assert torch.equal(seen[0].batch.images, run.images.take(rows)) == (augment is None)


def test_every_step_of_every_process_draws_its_own_numbers(start, monkeypatch):
    seeds = {}
    for rank in (0, 1):
        monkeypatch.setattr(Fabric, "global_rank", property(lambda _, rank=rank: rank))
        run = start("digits-um")
        taken = []
        run.training_step.register_forward_pre_hook(
            lambda *_, t=taken: t.append(torch.initial_seed())
        )
        for step in (0, 1):
            run.train_step()
            seeds[step, rank] = taken[step]
            assert taken[step] == run._stream("step", step, rank)
    assert len(set(seeds.values())) == 4


def test_streams_have_a_seed_for_each_name_and_each_recipes_seed(start):
    names = [
        ("model",),
        ("validation",),
        ("epoch", 0),
        ("epoch", 1),
        ("step", 1, 0),
        ("step", 0, 1),
    ]
    seeds = [start("digits-um", f"seed={seed}")._stream(*n) for seed in (0, 1) for n in names]
    assert len(set(seeds)) == len(seeds)
    assert seeds[: len(names)] == [start("digits-um")._stream(*n) for n in names]


def test_the_training_attack_has_the_recipes_numbers():
    recipe = load_recipe("digits-at", ["attack_norm=l2", "fast_attack=off"])
    attack = training_attack(recipe)
    assert isinstance(attack, partial)
    assert attack.func is attacks.pgd
    assert attack.keywords == {
        "epsilon": recipe.epsilon, "step": recipe.attack_step, "steps": 7, "norm": "l2",
        "mode": "eval",
    }  # fmt: skip


@pytest.mark.parametrize("fast", ["off", "float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_twin_is_attacked_in_eval_mode_alone(mode, fast):
    attack = training_attack(
        load_recipe("digits-at", [f"attack_mode={mode}", f"fast_attack={fast}"])
    )
    if mode == "eval" and fast != "off":
        assert isinstance(attack, FastAttack)
        return
    assert isinstance(attack, partial)
    assert attack.func is attacks.pgd
    assert attack.keywords["mode"] == mode


# resuming, and stopping


def test_a_run_that_stops_between_two_rows_writes_what_an_uninterrupted_one_does(
    digits, tmp_path, monkeypatch
):
    """Stopped in step 11: the checkpoint is of step 10, two steps after a row, four after the first
    validation, which is the best one.
    """
    recipe = load_recipe("digits-tla", SMALL)
    step = trainer.Trainer.train_step
    scores = []

    def falling(*_):
        scores.append(1 / (1 + len(scores)))
        return scores[-1]

    def stops(self):
        if self.step == 10:
            raise InterruptedError
        step(self)

    def written(folder):
        with (folder / "metrics.csv").open(newline="") as file:
            return [{**row, "images_per_second": ""} for row in csv.DictReader(file)]

    monkeypatch.setattr(trainer, "accuracy", falling)
    whole = trainer.train(recipe, digits, tmp_path / "whole", device="cpu")
    scores.clear()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "train_step", stops)
        with pytest.raises(InterruptedError):
            trainer.train(recipe, digits, tmp_path / "parts", device="cpu")
    assert [row["step"] for row in written(tmp_path / "parts")] == ["4", "6", "8"]
    parts = trainer.train(recipe, digits, tmp_path / "parts", resume=True, device="cpu")
    assert written(tmp_path / "parts") == written(tmp_path / "whole")
    assert parts["best"] == whole["best"]
    assert whole["best"]["step"] == 6


class Pair:
    """Two processes' fabric, as one of them sees it: ``sums`` are what all_reduce comes to."""

    world_size, device = 2, torch.device("cpu")

    def __init__(self, *sums):
        self.sums, self.told = list(sums), []

    def all_reduce(self, value, reduce_op):
        self.told.append((float(value), reduce_op))
        return torch.tensor(self.sums.pop(0))


def test_the_other_process_is_asked_to_stop():
    fabric = Pair(0.0, 1.0, 1.0)
    with StopRequest(fabric) as stop:
        assert [stop.requested() for _ in range(3)] == [False, False, True]
    assert fabric.told == [(0.0, "sum")] * 3


def test_a_request_waits_until_every_process_has_been_told():
    fabric = Pair(0.0, 1.0, 1.0)
    with StopRequest(fabric) as stop:
        answers = [stop.requested()]
        signal.raise_signal(signal.SIGTERM)
        answers += [stop.requested(), stop.requested()]
    assert answers == [False, False, True]
    assert fabric.told == [(0.0, "sum"), (1.0, "sum"), (1.0, "sum")]


@pytest.mark.parametrize("fabric", [SimpleNamespace(world_size=1), None])
def test_one_process_stops_at_once(fabric):
    with StopRequest(fabric) as stop:
        assert not stop.requested()
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested()


# evaluation


@pytest.fixture(scope="module")
def some(digits):
    return digits.test.images[:30], digits.test.labels[:30]


def test_20pgd_has_20_restarts():
    recipe = load_recipe("mnist-tla")
    bound = evaluate.ATTACKS["pgd20r"](recipe, 3)
    assert evaluate.RESTARTS == 20
    assert bound.func is attacks.pgd
    assert bound.keywords == {
        "epsilon": recipe.epsilon, "step": recipe.attack_step, "steps": 3, "norm": "linf",
        "restarts": 20, "early_stop": True,
    }  # fmt: skip
    other = load_recipe("mnist-tla", ["eval_step=1/9"])
    for name in STEPPED:
        assert evaluate.ATTACKS[name](other, 3).keywords["step"] == Fraction(1, 9)


@pytest.mark.parametrize("name", STEPPED)
def test_eval_steps_are_an_attacks_steps(name, some, monkeypatch):
    recipe = load_recipe("digits-um", ["eval_steps={}", f"eval_steps.{name}=7"])
    made = evaluate.ATTACKS[name]
    asked = []

    def watched(recipe, steps):
        bound = made(recipe, steps)
        asked.append(bound.keywords["steps"])
        return lambda model, images, labels: images

    monkeypatch.setitem(evaluate.ATTACKS, name, watched)
    model = small()
    row = evaluate.evaluate(model, recipe, *some, [name], source=model)[name]
    without = load_recipe("digits-um", ["eval_steps={}"])
    evaluate.evaluate(model, without, *some, [name], source=model)
    assert asked == [7, 20]
    assert row["steps"] == 7


def test_transfer_is_crafted_on_the_source_alone(some):
    recipe = load_recipe("digits-um", ["eval_steps.transfer=4"])
    victim, source = small(), small()
    asked, crafted = calls_of(victim), calls_of(source)
    evaluate.evaluate(victim, recipe, *some, ["transfer"], source=source)
    assert len(crafted) == 4
    assert len(asked) == 1  # for the accuracy
    assert not torch.equal(asked[0], some[0])
    torch.testing.assert_close(
        (asked[0] - some[0]).abs().amax().item(), float(recipe.epsilon), rtol=1e-5, atol=0
    )


def test_starts_are_those_of_the_seed(some):
    recipe = load_recipe("digits-um", ["eval_steps.transfer=1", "attack_step=1/1000"])
    source = small()
    images = []
    for before, seed in ((1, 5), (2, 5), (1, 6)):
        victim = small()
        asked = calls_of(victim)
        torch.manual_seed(before)
        evaluate.evaluate(victim, recipe, *some, ["transfer"], source=source, seed=seed)
        images.append(asked[0])
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
