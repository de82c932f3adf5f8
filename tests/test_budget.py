"""How much work a reproduction does, and over which recipes."""

from fractions import Fraction

import pytest

pytest.importorskip("yaml", reason="budgets and recipes are YAML: extra [train]")
pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from tla_ops.experiments.budget import NAMES, Budget, load_budget
from tla_ops.experiments.lab import Lab
from tla_ops.experiments.targets import TABLE1
from tla_ops.experiments.variants import changed
from tla_ops.training.data import DATASETS
from tla_ops.training.recipe import load_recipe, method_options
from tla_ops.training.run_parts import length

SETS = ("digits", "mnist", "cifar10", "tiny-imagenet")
ROUNDS = ("digits", "mnist", "cifar10", "cats-vs-dogs", "cifar10-cats-dogs")
every_round = pytest.mark.parametrize("dataset", ROUNDS)
every_recipe = pytest.mark.parametrize("dataset", SETS)


def lab(budget, **options):
    return Lab(budget, "nowhere", None, **options)


def test_names():
    assert NAMES == ("smoke", "short", "full")
    with pytest.raises(ValueError, match="budget must be one of smoke, short, full, got 'tiny'"):
        load_budget("tiny")


@every_recipe
@pytest.mark.parametrize("method", TABLE1)
def test_full_is_the_papers_recipe(dataset, method):
    made = lab(load_budget("full")).recipe(dataset, method)
    assert made == load_recipe(f"{dataset}-{method}")
    assert changed(made) == []


def test_full_limits_nothing():
    budget = load_budget("full")
    for name in (
        "images", "slow_images", "pool", "steps", "restarts", "queries", "negatives", "rounds",
        "cw_steps",
    ):  # fmt: skip
        assert getattr(budget, name) is None
    assert budget.repeats == 10
    assert (budget.width, budget.learned, budget.gan) == (1, {}, {})


def test_short_mnist_is_attacked_by_the_papers_steps():
    for method in TABLE1:
        made, printed = (
            lab(load_budget(name)).recipe("mnist", method) for name in ("short", "full")
        )
        assert made.attack_step > printed.attack_step == made.evaluation_step
        assert made.eval_steps == printed.eval_steps
        assert not any("eval_step" in text for text in changed(made))
    recipe = lab(load_budget("short"), overrides=["eval_step=1/50"]).recipe("mnist", "at")
    assert "eval_step: None in the recipe, 1/50 here" in changed(recipe)


@every_recipe
@pytest.mark.parametrize("name", ["smoke", "short"])
def test_recipes_get_the_budgets_keys_and_nothing_else_changes(name, dataset):
    budget = load_budget(name)
    wanted = budget.recipes[dataset]
    for method in TABLE1:
        made = lab(budget).recipe(dataset, method)
        printed = load_recipe(f"{dataset}-{method}")
        for key, value in made.as_dict().items():
            asked = wanted.get(key)
            if asked is None or (key == "candidates" and not printed.candidates):
                assert value == printed.as_dict()[key], (method, key)
            elif key in ("attack_step", "epsilon", "eval_step"):
                assert Fraction(value) == Fraction(asked)
            elif isinstance(value, float):  # PyYAML reads 4e-3 as text
                assert value == float(asked)
            else:
                assert value == asked, (method, key)
        assert made.candidates <= printed.candidates


@every_recipe
@pytest.mark.parametrize("name", NAMES)
def test_a_budgets_keys_are_known(name, dataset):
    known = vars(load_recipe(f"{dataset}-tla")).keys() | method_options("tla")
    assert load_budget(name).recipes[dataset].keys() <= known


@every_round
@pytest.mark.parametrize("part", ["pretrain", "round"])
def test_full_is_the_recipe_of_rounds(dataset, part):
    made = lab(load_budget("full")).recipe(dataset, f"at2l-{part}")
    assert made == load_recipe(f"{dataset}-at2l-{part}")


@every_round
@pytest.mark.parametrize("part", ["pretrain", "round"])
@pytest.mark.parametrize("name", ["smoke", "short"])
def test_a_recipe_of_rounds_has_keys_of_its_own(name, part, dataset):
    """In place of its data set's, which are another network's."""
    budget, recipe = load_budget(name), f"{dataset}-at2l-{part}"
    wanted = budget.recipes[recipe]
    assert wanted.keys() <= vars(load_recipe(recipe)).keys()
    made, printed = lab(budget).recipe(dataset, f"at2l-{part}"), load_recipe(recipe)
    for key, value in vars(made).items():
        if key == "schedule" and wanted.get(key):
            assert value == {step: float(rate) for step, rate in wanted[key].items()}
        else:
            assert value == wanted.get(key, getattr(printed, key)), key
    assert (made.model, made.options) == (printed.model, printed.options)


def test_a_recipes_own_keys_are_in_place_of_its_data_sets():
    recipes = {"mnist": {"batch": 7, "seed": 1}, "mnist-at2l-round": {"epochs": 3}, "mnist-at": {}}
    budget = Budget("smoke", recipes=recipes)
    assert budget.overrides("mnist", "mnist-at2l-round") == ["epochs=3"]
    assert budget.overrides("mnist", "mnist-at") == []
    assert budget.overrides("mnist", "mnist-tla") == ["batch=7", "seed=1"]
    assert budget.overrides("mnist") == ["batch=7", "seed=1"]
    assert budget.overrides("cifar10", "cifar10-at") == []
    assert lab(budget).recipe("mnist", "at2l-round").epochs == 3
    assert lab(budget).recipe("mnist", "at2l-round").batch == 32
    assert lab(budget).recipe("mnist", "at2l-pretrain").batch == 7


@pytest.mark.parametrize("name", ["smoke", "short"])
def test_limits_of_rounds(name):
    budget = load_budget(name)
    assert 1 < budget.rounds < 10  # the paper's first and another one
    assert 0 < budget.width < 1
    assert budget.cw_steps < 1000
    assert budget.learned.keys() <= DATASETS.keys()
    assert budget.learned.keys() >= {d for d in ROUNDS if name == "smoke" or d != "digits"}
    for dataset in budget.learned.keys() & set(ROUNDS):
        made = lab(budget).recipe(dataset, "at2l-round")
        left = budget.learned[dataset] - made.val_images
        assert length(made, left) >= 1


def test_budgets_grow():
    smoke, short = load_budget("smoke"), load_budget("short")
    assert smoke.cw_steps < short.cw_steps
    for dataset, count in smoke.learned.items():
        assert count <= short.learned.get(dataset, count)
    for name in ("images", "slow_images", "pool"):
        assert getattr(smoke, name) < getattr(short, name)
    assert smoke.slow_images <= smoke.images
    assert short.slow_images <= short.images
    assert smoke.steps <= 5


@pytest.mark.parametrize(
    "value",
    [
        0.25, 3, True, None, "1/10", "8/255", "4e-3", 1e-07, "text", [1, 2], {}, {1500: 0.01},
        {"units": 1, "widen": 1}, {f"a_long_name_{i}": f"a long value {i}" for i in range(9)},
    ],
)  # fmt: skip
def test_overrides_say_what_the_file_says(value):
    import yaml

    budget = Budget("smoke", recipes={"mnist": {"key": value, "other": 1}})
    first, second = budget.overrides("mnist")
    assert second == "other=1"
    assert first.startswith("key=")
    assert yaml.safe_load(first.removeprefix("key=")) == value
    assert budget.overrides("cifar10") == []
