"""How much work a reproduction does, and over which recipes."""

from fractions import Fraction

import pytest

pytest.importorskip("yaml", reason="budgets and recipes are YAML: extra [train]")
pytest.importorskip("lightning", reason="a lab trains with Lightning Fabric: extra [train]")

from tla_ops.experiments.budget import NAMES, Budget, load_budget
from tla_ops.experiments.lab import Lab
from tla_ops.experiments.targets import TABLE1
from tla_ops.experiments.variants import changed
from tla_ops.training.recipe import load_recipe, method_options

SETS = ("digits", "mnist", "cifar10", "tiny-imagenet")
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
    for name in ("images", "slow_images", "pool", "steps", "restarts", "queries", "negatives"):
        assert getattr(budget, name) is None
    assert budget.repeats == 10


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
            elif key in ("attack_step", "epsilon"):
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


def test_budgets_grow():
    smoke, short = load_budget("smoke"), load_budget("short")
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
