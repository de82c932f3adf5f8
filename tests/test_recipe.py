"""Recipes: what comes with the package, overrides, and what a bad one is told."""

from fractions import Fraction

import pytest

pytest.importorskip("yaml", reason="recipes are YAML files: extra [train]")

from tla_ops.training import methods
from tla_ops.training.augment import AUGMENT
from tla_ops.training.data import DATASETS
from tla_ops.training.models import MODELS
from tla_ops.training.recipe import (
    METHODS,
    RecipeError,
    from_dict,
    load_recipe,
    method_options,
    recipe_names,
)

SETS = ("mnist", "cifar10", "tiny-imagenet", "digits")
AT2L = ("mnist", "cifar10", "digits", "cats-vs-dogs", "cifar10-cats-dogs")
OF_ROUNDS = {
    *(f"{data}-at2l-{part}" for data in AT2L for part in ("pretrain", "round")),
    "imagenet-at2l-round",  # of pretrained networks
}


def test_every_method_on_every_data_set():
    wanted = {f"{data}-{method.replace('_', '-')}" for data in SETS for method in METHODS}
    assert wanted | OF_ROUNDS == set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.dataset in DATASETS
    assert recipe.model in MODELS
    assert recipe.augment in AUGMENT
    if name in OF_ROUNDS:
        assert recipe.method == ("um" if name.endswith("pretrain") else "at2l")
        assert name.startswith(f"{recipe.dataset}-at2l-")
        assert recipe.method == "um" or recipe.augment == "none"  # images are stored
    else:
        assert name == f"{recipe.dataset}-{recipe.method.replace('_', '-')}"
    assert from_dict(recipe.as_dict()) == recipe
    assert set(recipe.eval_steps) >= {"bim", "cw", "pgd", "mim"}
    if recipe.method.startswith("tla"):
        assert recipe.candidates > 0


# FACTS the papers print; where the authors' code differs, the file says so in a comment.
@pytest.mark.parametrize(
    ("name", "options", "rest"),
    [
        ("mnist-tla", (0.5, 1e-3, 0.05), (50, 50, Fraction(3, 10), Fraction(1, 100), 40)),
        ("cifar10-tla", (2.0, 1e-3, 0.03), (50, 500, Fraction(8, 255), Fraction(2, 255), 7)),
        ("tiny-imagenet-tla", (0.2, 1e-3, 0.01), (20, 50, Fraction(8, 255), Fraction(2, 255), 7)),
    ],
)
def test_the_papers_values(name, options, rest):
    recipe = load_recipe(name)
    own = recipe.options
    assert (own["weight"], own["norm_weight"], own["margin"]) == options
    assert rest == (
        recipe.batch, recipe.candidates, recipe.epsilon, recipe.attack_step, recipe.attack_steps
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "weight"),
    [
        ("mnist", 0.3), ("cifar10", 0.6), ("digits", 0.3), ("cats-vs-dogs", 0.3),
        ("cifar10-cats-dogs", 0.3),
    ],
)  # fmt: skip
def test_a_round_has_at2ls_values(dataset, weight):
    """Appendix A: lambda 1, lambda 2, alpha, k = 32, and the same network as before the rounds."""
    before, made = (load_recipe(f"{dataset}-at2l-{part}") for part in ("pretrain", "round"))
    own = made.options
    assert (own["adversarial_weight"], own["weight"], own["margin"]) == (weight, 1, 1)
    assert own["confused_class"] is False  # Algorithm 2, line 13
    assert made.batch == before.batch == 32
    assert (made.model, made.model_options) == (before.model, before.model_options)
    assert made.model == ("mnist_a" if dataset in ("mnist", "digits") else "vgg16")
    assert (made.optimizer, before.optimizer, made.schedule) == ("adam", "adam", {})
    assert own.get("label_smoothing") == before.options.get("label_smoothing")
    if dataset != "digits":  # a stand-in has its own ball
        assert made.epsilon == Fraction(3, 10)
        assert (made.attack, made.attack_steps, made.attack_step) == ("bim", 10, Fraction(3, 100))


def test_schedules():
    assert load_recipe("cifar10-at").schedule == {50000: 0.01}
    assert load_recipe("tiny-imagenet-at").schedule == {110: 0.01, 130: 0.001}
    assert load_recipe("mnist-at").learning_rate == 1e-4


def test_overrides_take_the_keys_type():
    recipe = load_recipe(
        "mnist-tla",
        ["epsilon=8/255", "margin=1", "max_steps=7", "grad_clip=1e-1", "eval_steps.pgd=3",
         "model_options={width: 0.25}", "init_from=a.pt", "schedule.5=.1", "attack_step=.1",
         "eval_step=1/20"],
    )  # fmt: skip
    assert recipe.eval_step == recipe.evaluation_step == Fraction(1, 20)
    assert recipe.epsilon == Fraction(8, 255)
    assert recipe.attack_step == Fraction(1, 10)
    assert recipe.options["margin"] == 1.0
    assert isinstance(recipe.options["margin"], float)
    assert (recipe.max_steps, recipe.grad_clip, recipe.init_from) == (7, 0.1, "a.pt")
    assert recipe.eval_steps["pgd"] == 3
    assert recipe.eval_steps["mim"] == 200
    assert recipe.schedule == {5: 0.1}
    assert recipe.model_options == {"width": 0.25}
    assert load_recipe("mnist-tla", ["epochs=null", "max_steps=5"]).epochs is None


def test_an_evaluation_takes_trainings_steps_unless_it_has_its_own():
    recipe = load_recipe("mnist-at", ["attack_step=1/7"])
    assert recipe.as_dict()["eval_step"] is None
    assert recipe.evaluation_step == Fraction(1, 7)
    assert load_recipe("mnist-at", ["attack_step=1/7", "eval_step=0"]).evaluation_step == 0


def test_an_unknown_key_lists_the_known_ones():
    with pytest.raises(RecipeError, match="unknown key margn, did you mean margin") as caught:
        load_recipe("mnist-tla", ["margn=1"])
    for key in ("margin", "batch", "epsilon", "norm_weight"):
        assert key in str(caught.value)


def test_a_method_takes_its_own_options_alone():
    with pytest.raises(RecipeError, match="unknown key margin"):
        load_recipe("mnist-at", ["margin=1"])
    assert method_options("at").keys() == {"label_smoothing"}
    assert all(getattr(methods, name) is method for name, method in METHODS.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch=1", "batch must be at least 2"),
        ("batch=x", "batch must be int, got 'x'"),
        ("batch=2.5", "batch must be int, got 2.5"),
        ("batch=true", "batch must be int, got True"),
        ("batch=null", "recipe lacks batch"),
        ("epsilon=-1/255", "epsilon must be at least 0"),
        ("eval_step=-1/9", "eval_step must be at least 0"),
        ("epsilon=1/0", "epsilon must be a number or a fraction such as 8/255"),
        ("learning_rate=.nan", "learning_rate must be at least 0"),
        ("grad_clip=0", "grad_clip must be at least 1e-12, got 0"),
        ("momentum=2", "momentum must be at least 0 and at most 0.9999"),
        ("seed=99999999999999999999999", "seed must be at least 0"),
        ("weight=.nan", "weight must be at least 0, got nan"),
        ("margin=.inf", "margin must be at least"),
        ("label_smoothing=2", "label_smoothing must be at least 0 and at most 1, got 2"),
        ("noise=-1/255", "noise must be at least 0 and at most 1"),
        ("norm=l1", "norm must be one of l2, mean_square, got 'l1'"),
        ("dataset=svhn", "dataset must be one of digits, mnist, "),
        ("model=vgg", "model must be one of small, lenet, "),
        ("augment=mixup", "augment must be one of none, "),
        ("batch.size=3", "--set batch.size=3: batch is not a mapping"),
        ("eval_steps.pdg=3", "eval_steps must be numbers of steps for bim, "),
        ("eval_steps.pgd=0", "got pgd: 0"),
        ("name=../x", "name must be a file's name, got '../x'"),
        ("candidates=0", "candidates must be at least 1 for tla without a bank"),
        ("attack_steps=0", "attack_steps must be at least 1 for pgd"),
        ("learning_rate=fast", "learning_rate must be float"),
        ("schedule=3", "schedule must be a mapping"),
        ("schedule={a: 1}", "schedule must be int, got 'a'"),
        ("optimizer=lion", "optimizer must be one of adam, sgd, got 'lion'"),
        ("attack=jsma", "attack must be one of pgd, "),
        ("method=nca", "method must be one of um, at, "),
        ("precision=16", "precision must be "),
        ("ema=1", "ema must be at least 0 and at most 0.999999, got 1"),
        ("source_positive=1", "source_positive must be bool, got 1"),
        ("nonsense", "--set must be key=value, got 'nonsense'"),
        ("=3", "--set must be key=value"),
        ("batch={", "--set batch={"),
    ],
)
def test_bad_values_name_their_key(override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe("mnist-tla", [override])
    assert message in str(caught.value)


def test_off_is_a_word():
    """YAML 1.1 reads it as false."""
    assert load_recipe("mnist-tla", ["fast_attack=off"]).fast_attack == "off"


def test_a_norm_needs_an_attack_that_has_it():
    assert load_recipe("mnist-at", ["attack_norm=l2"]).attack_norm == "l2"
    with pytest.raises(RecipeError, match="attack_norm must be linf for mim, got l2"):
        load_recipe("mnist-at", ["attack=mim", "attack_norm=l2"])


def test_a_bank_needs_a_method_that_takes_one():
    assert load_recipe("mnist-tla", ["bank=500"]).bank == 500
    with pytest.raises(RecipeError, match="bank must be 0: method at takes none"):
        load_recipe("mnist-at", ["bank=500"])


def test_no_end():
    with pytest.raises(RecipeError, match="needs epochs or max_steps"):
        load_recipe("mnist-at", ["epochs=null"])


def test_a_method_without_its_weights():
    with pytest.raises(RecipeError, match="method tla needs weight, norm_weight, margin"):
        load_recipe("mnist-at", ["method=tla"])


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(
        RecipeError, match=r"must be one of cats-vs-dogs-at2l-pretrain, .*got 'mnist'"
    ):
        load_recipe("mnist")


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "own.yaml").write_text("base: digits-tla\nmargin: 0.1\n")
    (tmp_path / "further.yaml").write_text("base: own\nseed: 4\n")
    recipe = load_recipe(tmp_path / "further.yaml")
    assert (recipe.name, recipe.seed, recipe.options["margin"]) == ("further", 4, 0.1)
    assert recipe.options["weight"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("- a\n- b\n", "must be keys and values, got list"),
        ("a: [", "own.yaml: "),
        ("base: own\n", "own.yaml: is its own base"),
        ("base: nowhere\n", "No such file"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value)
