"""benchmarks/ablation.py and its page: runs that differ in one thing, and what is said of them."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

pytest.importorskip("lightning", reason="the trainer: extra [train]")
pytest.importorskip("yaml", reason="recipes are YAML files: extra [train]")
pytest.importorskip("sklearn", reason="the digits: extra [train]")

from tla_ops.training.recipe import load_recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import ablation

    return ablation


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import render_ablation

    return render_ablation


@pytest.fixture
def seeds(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import seeds

    return seeds


def document(variant, seed, pgd, changed=(), base=("max_steps=800",), **more):
    curves = [{"step": 50.0, "val_adversarial": pgd, "val_clean": 0.9}]
    if variant.startswith("tla"):
        curves[0] |= {"active": 0.46, "positive_distance": 0.325, "negative_distance": 0.375}
    return {
        "variant": variant, "seed": seed, "changed": list(changed), "base": list(base),
        "machine": "some-cpu", "device": "Some CPU", "torch": "2.13.0", "commit": "abc",
        "threads": 1, "images": 1000, "seconds": 90.0, "steps": 800, "best_step": 600,
        "attack": {"epsilon": "3/10", "step": "1/20", "steps": "40"},
        "best": {"clean": 0.975, "pgd": pgd}, "last": {"clean": 0.97, "pgd": pgd - 0.05},
        "curves": curves, "recipe": {"dataset": "mnist", "method": variant.partition("-")[0]},
    } | more  # fmt: skip


def rows(text):
    cells = [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for row in text.splitlines()
        if row.startswith("|")
    ]
    head, _, *body = cells
    return {row[0]: dict(zip(head, row, strict=True)) for row in body}


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_every_run_differs_in_what_its_name_says(bench, dataset):
    for name in bench.NAMES[dataset]:
        changed = bench.VARIANTS[name]
        recipe = bench.recipe_of(dataset, name, 7)
        method = recipe.method.replace("_", "-")
        assert name == method or name.startswith(f"{method}-")
        assert (recipe.seed, recipe.epsilon) == (7, bench.ATTACKS[dataset]["epsilon"])
        printed = f"{dataset}-{method}"
        base = [*bench.BASES[dataset], f"seed={recipe.seed}"]
        plain = load_recipe(printed, base).as_dict()
        if not method.startswith("tla"):
            assert recipe.candidates == 0
            plain["candidates"] = 0
        values = recipe.as_dict()
        apart = {key for key in values if values[key] != plain.get(key)}
        named = {override.partition("=")[0] for override in changed}
        assert apart - {"name", "statistics"} == named - {"statistics", "train_images"}
        if method != "at":
            which = "adversarial" if "statistics" in name else "all"
            assert values["statistics"] == which
            assert f"statistics={which}" in changed


def test_development_images_are_neither_learned_from_nor_choose(bench, monkeypatch, tmp_path):
    from tla_ops.training.data import hold_out, load

    dataset = load("digits", None)
    monkeypatch.setattr(bench, "DEVELOPMENT", 100)
    monkeypatch.setitem(bench.BASES, "digits", ("max_steps=9",))
    monkeypatch.setitem(bench.ATTACKS, "digits", {"epsilon": 0.1, "step": 0.1, "steps": 1})
    given = []
    train = bench.trainer.train
    monkeypatch.setattr(
        bench.trainer, "train", lambda r, d, *a, **k: given.append(d) or train(r, d, *a, **k)
    )
    recipe = load_recipe("digits-tla", ["max_steps=2", "attack_steps=1", "val_steps=1"])
    found = bench.measured("tla", recipe, dataset, tmp_path)
    rest, development = hold_out(dataset.train, 100)
    assert len(given[0].train) == len(rest) == len(dataset.train) - 100
    assert (given[0].train.stored == rest.stored).all()
    assert found["images"] == len(development) == 100
    assert found["best"].keys() == found["last"].keys() == {"clean", "pgd"}
    assert found["steps"] == 2
    assert found["seconds"] > 0
    again = bench.measured("tla", recipe, dataset, tmp_path, ["max_steps=2"])
    assert again["seconds"] == found["seconds"]  # the training's, not this call's
    assert again["base"] == ["max_steps=9", "max_steps=2"]
    assert found["curves"][-1]["step"] == 2
    assert 0 <= found["curves"][-1]["active"] <= 1
    json.dumps(found)
    bench.measured("at-few", replace(recipe, val_images=50), dataset, tmp_path / "few")
    assert len(given[-1].train) == 1050


def test_a_run_that_learns_from_few_images(bench):
    from tla_ops.training.data import load

    train = load("digits", None).train
    recipe = bench.recipe_of("mnist", "at-few", 0, ["val_images=50"])
    assert "train_images" not in recipe.as_dict()
    assert bench.given("at", recipe, train) is train
    few = bench.given("at-few", recipe, train)
    assert len(few) == len(bench.given("tla-statistics-few", recipe, train)) == 1050
    assert few.labels.bincount().min() > 95


def test_a_run_that_is_there_is_not_made_again(bench, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(bench, "load", lambda *_: None)
    monkeypatch.setattr(
        bench, "measured",
        lambda name, recipe, *_: made.append((name, recipe.seed)) or document(name, recipe.seed, 1),
    )  # fmt: skip
    arguments = ["--only", "at,tla", "--seeds", "0,1", "--output", str(tmp_path)]
    assert bench.main(arguments) == 0
    assert made == [("at", 0), ("tla", 0), ("at", 1), ("tla", 1)]
    (tmp_path / "mnist-tla-seed0.json").unlink()
    assert bench.main(arguments) == 0
    assert made[4:] == [("tla", 0)]


def test_another_experiment_has_a_folder_of_its_own(bench, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "at", "--set", "max_steps=2"])
    assert "--set needs --output" in capsys.readouterr().err
    seen = []
    monkeypatch.setattr(bench, "load", lambda *_: None)
    monkeypatch.setattr(
        bench, "measured", lambda *given: seen.append(given) or document("at", 0, 1)
    )
    arguments = ["--only", "at", "--seeds", "0", "--set", "max_steps=2", "--output", str(tmp_path)]
    assert bench.main(arguments) == 0
    name, recipe, _, folder, overrides = seen[0]
    assert (name, recipe.max_steps, overrides) == ("at", 2, ["max_steps=2"])
    assert folder == tmp_path / "runs" / "mnist-at-seed0"


def test_errors_have_no_traceback(bench, capsys, tmp_path):
    missing = str(tmp_path / "none")
    assert bench.main(["--only", "at", "--data", missing, "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("ablation: ")


def test_an_unknown_run(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "at,tlb"])
    assert "got tlb" in capsys.readouterr().err


def test_nothing_is_claimed_without_results(render):
    assert render.ablation_page([]) == render.INTRO
    assert "|" not in render.INTRO


def test_intervals(seeds):
    assert seeds.interval([0.5]) is None
    # 1, 2, 3: standard deviation 1, t of two degrees of freedom.
    assert seeds.interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    assert seeds.interval([2.0] * 5) == 0
    assert seeds.interval([0.0, 1.0] * 50) == pytest.approx(1.96 * 0.0502519, rel=1e-4)


def test_student_quantiles(seeds):
    scipy = pytest.importorskip("scipy.stats", reason="scipy comes with scikit-learn")
    expected = scipy.t.ppf(0.975, range(1, len(seeds.STUDENT) + 1))
    assert pytest.approx(expected, abs=6e-4) == seeds.STUDENT
    assert pytest.approx(scipy.norm.ppf(0.975), abs=1e-3) == seeds.NORMAL


def test_one_seed_has_the_images_standard_error(render):
    row = rows(render.ablation_page([document("at", 0, 0.9)]))["at"]
    assert row["PGD"] == "90.0% ± 1.9"
    assert (row["to its baseline"], row["active"], row["changed"]) == ("–", "–", "–")
    assert row["minutes a run"] == "1.5"


def test_seeds_are_paired(render, seeds):
    at, tla = (0.9, 0.8, 0.7), (0.91, 0.83, 0.72)
    documents = [document("tla", seed, value) for seed, value in enumerate(tla)]
    documents += [document("at", seed, value) for seed, value in reversed(list(enumerate(at)))]
    documents.append(document("at", 9, 0.1))  # without a partner
    found = rows(render.ablation_page(documents))
    half = seeds.interval([1.0, 3.0, 2.0])
    assert found["tla"]["to its baseline"] == f"+2.0 ± {half:.1f} (at, n = 3)"
    assert found["at"]["seeds"] == "0, 1, 2, 9"
    assert found["tla"]["to all"] == "–"
    documents.append(document("tla-statistics", 1, 0.85))
    found = rows(render.ablation_page(documents))
    assert found["tla-statistics"]["to all"] == "+2.0 (tla, n = 1)"
    assert found["tla"]["PGD"].startswith(f"{mean(tla):.1%} ± ")
    assert found["tla"]["active"] == "46%"
    assert (found["tla"]["d+"], found["tla"]["d−"]) == ("0.325", "0.375")


def test_the_answer(render):
    documents = [document("at", seed, 0.8 + seed / 100) for seed in range(3)]
    for name, gain in (("tla", -0.2), ("tla-statistics", 0.03), ("tla-odd", 0.0), ("alp", 0.2)):
        documents += [
            document(name, seed, 0.8 + gain + (seed + seed % 2 / 5) / 100) for seed in range(3)
        ]
    documents.append(document("tla-once", 0, 0.99))
    said = "or more (3), above their baselines beyond the interval: tla-statistics; below: tla."
    assert said in render.ablation_page(documents)
    assert "interval: none; below: none." in render.ablation_page(documents[:3])


def test_a_change_is_compared_with_adversarial_training_under_the_same(render):
    documents = [
        document("at", 0, 0.8), document("at-longer", 0, 0.9, ["max_steps=2400"]),
        document("tla-longer", 0, 0.95, ["max_steps=2400"]), document("tla-odd", 0, 0.85),
        document("tla-rn-statistics-longer", 0, 0.97), document("tla-statistics", 0, 0.79),
    ]  # fmt: skip
    found = rows(render.ablation_page(documents))
    assert found["tla-longer"]["to its baseline"] == "+5.0 (at-longer, n = 1)"
    assert found["tla-odd"]["to its baseline"] == "+5.0 (at, n = 1)"
    assert found["tla-rn-statistics-longer"]["to its baseline"] == "+7.0 (at-longer, n = 1)"
    assert found["tla-statistics"]["to its baseline"] == "-1.0 (at, n = 1)"
    assert found["at-longer"]["to its baseline"] == "+10.0 (at, n = 1)"
    assert found["tla-longer"]["changed"] == "max_steps=2400"


def test_whose_statistics(render):
    recipe = {"dataset": "mnist", "method": "tla", "statistics": "adversarial"}
    changed = ["statistics=adversarial", "weight=2"]
    documents = [
        document("at", 0, 0.8), document("tla", 0, 0.8, ["statistics=all"]),
        document("tla-statistics-weight-2", 0, 0.9, changed, recipe=recipe),
    ]  # fmt: skip
    found = rows(render.ablation_page(documents))
    said = {name: (row["statistics"], row["changed"]) for name, row in found.items()}
    assert said == {
        "at": ("–", "–"), "tla": ("all", "–"),
        "tla-statistics-weight-2": ("adversarial", "weight=2"),
    }  # fmt: skip


def test_other_bases_are_not_mixed(render, tmp_path):
    pytest.importorskip("matplotlib")
    documents = [document("at", 0, 0.8), document("tla", 0, 0.9, base=("max_steps=9",))]
    text = render.ablation_page(documents)
    assert "+10.0" not in text
    recipe = {"dataset": "cifar10", "method": "at"}
    documents.append(document("at", 0, 0.3, recipe=recipe))
    text = render.ablation_page(documents)
    assert "## MNIST, Some CPU" in text
    assert "## CIFAR-10, Some CPU" in text
    names = [f"ablation-{name}.svg" for name in ("mnist-some-cpu", "mnist-some-cpu-2",
                                                 "cifar10-some-cpu")]  # fmt: skip
    assert all(f"({name})" in text for name in names)
    assert [path.name for path in render.ablation_figures(documents, tmp_path)] == names


def test_figures_are_reproducible(render, tmp_path):
    pytest.importorskip("matplotlib")
    documents = [document(name, seed, 0.8) for name in ("at", "tla") for seed in (0, 1)]
    (path,) = render.ablation_figures(documents, tmp_path)
    first = path.read_bytes()
    (path,) = render.ablation_figures(documents, tmp_path)
    assert path.read_bytes() == first
    assert b"tla, to the negative" in first
    assert b"share of active triplets" in first
