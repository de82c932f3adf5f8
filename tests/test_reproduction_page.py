"""docs/reproduction.md: what is kept of runs, and the page that is rendered from it."""

import json
from pathlib import Path

import pytest
from sample_results import metrics, put

from tla_ops.experiments.tables import Cell, Column, Table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def keep(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import keep_reproduction

    return keep_reproduction


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from render_reproduction import reproduction_page

    return reproduction_page


def test_finished_results_beyond_smoke_are_kept(keep, tmp_path, capsys):
    runs, place = tmp_path / "runs", tmp_path / "kept"
    put(runs, metrics())
    assert keep.main([str(runs), "--output", str(place)]) == 1
    assert "nothing beyond smoke runs found" in capsys.readouterr().out
    wanted = [metrics("tla/fig5", budget="short"), metrics("tla/supp-fig8", budget="full")]
    for content in (*wanted, metrics("tla/table2", budget="full", complete=False)):
        put(runs, content)
    assert keep.main([str(runs), "--output", str(place)]) == 0
    names = ["full-tla-supp-fig8.json", "short-tla-fig5.json"]
    kept = {
        path.name: json.loads(path.read_text()) for path in place.glob("**/*") if path.is_file()
    }
    assert sorted(kept) == names
    assert kept == dict(zip(names, reversed(wanted), strict=True))
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_two_results_for_one_place_are_refused(keep, tmp_path):
    runs = tmp_path / "runs"
    put(runs, metrics("tla/fig5", budget="short"))
    put(runs / "again", metrics("tla/fig5", budget="short"))
    with pytest.raises(SystemExit, match=r"two results would be .*short-tla-fig5\.json"):
        keep.main([str(runs), "--output", str(tmp_path / "kept")])


def test_a_commit_is_named_where_there_was_none(keep, tmp_path):
    for name, commit in (("known", "abc"), ("unknown", None)):
        content = metrics("tla/fig5", budget="short")
        content["environment"] = content["environment"] | {"commit": commit}
        put(tmp_path / name, content)
        place = tmp_path / f"kept-{name}"
        keep.main([str(tmp_path / name), "--output", str(place), "--commit", "def"])
        (path,) = place.glob("**/*.json")
        assert json.loads(path.read_text())["environment"]["commit"] == (commit or "def")


def test_a_result_of_other_options_is_not_written_over(keep, tmp_path):
    for name, options in (("all", []), ("again", []), ("fewer", ["images=20"])):
        put(tmp_path / name, metrics("tla/fig5", budget="short", overrides=options))
    place = ["--output", str(tmp_path / "kept")]
    assert keep.main([str(tmp_path / "all"), *place]) == keep.main(
        [str(tmp_path / "again"), *place]
    )
    with pytest.raises(SystemExit, match=r"short-tla-fig5\.json was made with other options"):
        keep.main([str(tmp_path / "fewer"), *place])


def test_results_of_other_seeds_are_kept_beside_the_first(keep, tmp_path):
    for seed in (0, 3):
        put(tmp_path / f"runs{seed}", metrics("tla/fig5", budget="short", seed=seed))
        keep.main([str(tmp_path / f"runs{seed}"), "--output", str(tmp_path / "kept")])
    found = {path.name for path in (tmp_path / "kept").glob("**/*.json")}
    assert found == {"short-tla-fig5.json", "short-tla-fig5-seed3.json"}


def test_the_page(render):
    picture = {"file": "roc.png", "caption": "Curves.", "alt": "Lines"}
    page = render([
        metrics("tla/supp-fig8", title="Landscape", budget="full"),
        metrics("tla/table1", title="Of smoke"),
        metrics("tla/fig5", title="Detection", budget="short", figures=[picture]),
        metrics("tla/fig5", title="Detection", budget="short", seed=3),
        metrics("tla/table1", title="Accuracy", budget="full"),
    ])  # fmt: skip
    heads = [line for line in page.splitlines() if line.startswith("#")]
    what, older = "### What ran", ", by an older recipe"  # the samples' lack keys
    assert heads == [
        "# Reproduction", f"## Accuracy{older}", what, "## Detection: means over the seeds 0, 3",
        f"## Detection{older}", what, f"## Detection, seed 3{older}", what,
        f"## Landscape{older}", what,
    ]  # fmt: skip
    assert "roc.png" not in page
    assert "Of smoke" not in page
    assert page.count("Full run") == 2
    assert page.count("Short run") == 3  # over the seeds' means, too
    assert "Nothing has been made" not in page


def test_a_page_of_nothing(render):
    assert render([]) == render([metrics()])
    assert render([]).endswith("Nothing has been made beyond smoke runs.\n")


def with_values(seed, at, tla, **more):
    """Table 1 of two columns with the accuracies of AT and TLA under the second."""
    table = Table(
        "MNIST", "Method", [Column("Clean"), Column("PGD", note="40 steps")],
        {"AT": [Cell(0.98, 0.99), Cell(at, 0.9658)], "TLA": [Cell(0.98), Cell(tla, 0.9764)]},
    )  # fmt: skip
    return metrics(
        "tla/table1", title="Accuracy", budget="short", seed=seed, tables=[table.as_dict()], **more
    )


def test_seeds_have_their_means_first(render):
    made = [with_values(0, 0.90, 0.93), with_values(1, 0.80, 0.81), with_values(2, 0.70, 0.72)]
    text = render(made)
    means, first = (
        text.index("## Accuracy: means over the seeds 0, 1, 2"),
        text.index("seed 1, by an"),
    )
    assert means < first
    # Of .9, .8, .7 and of 3, 1, 2 points the standard deviations are .1 and 1 point.
    at = "98.00% (paper 99.00%, -1.00; all seeds equal) | 80.00% (paper 96.58%, -16.58; ± 24.84) |"
    assert f"| AT | {at}" in text.replace("**", "")
    assert "| TLA | 0.00 (all seeds equal) | +2.00 (paper +1.06, +0.94; ± 2.48) |" in text
    assert text.count("means over the seeds") == 1
    said = "Beyond that interval, TLA is above AT in {} of 2 columns, and below it in {}."
    assert said.format(0, 0) in text
    for gain, counts in ((0.02, (1, 0)), (-0.02, (0, 1))):
        apart = [with_values(seed, 0.9, 0.9 + gain + seed / 1e4) for seed in range(3)]
        text = render(apart)
        assert said.format(*counts) in text
        above, below = (0, 1) if gain > 0.0106 else (1, 0)
        paper = f"The paper's difference is above the interval in {above} of 1 columns and below it"
        assert f"{paper} in {below}" in text


def test_other_runs_are_no_seeds_of_this_one(render):
    others = [
        [with_values(0, 0.9, 0.9)],
        [with_values(0, 0.9, 0.9), with_values(1, 0.9, 0.9, overrides=["max_steps=9"])],
    ]
    first = with_values(0, 0.9, 0.9)
    recipe_of_another = with_values(1, 0.9, 0.9)
    runs = recipe_of_another["parts"][0]["runs"]
    runs[0] = runs[0] | {"recipe": runs[0]["recipe"] | {"statistics": "adversarial"}}
    rows_of_another = with_values(1, 0.9, 0.9)
    rows_of_another["tables"][0]["rows"].pop("TLA")
    more_tables = with_values(1, 0.9, 0.9)
    more_tables["tables"] *= 2
    title_of_another = with_values(1, 0.9, 0.9)
    title_of_another["tables"][0]["title"] = "CIFAR-10"
    for other in (recipe_of_another, rows_of_another, more_tables, title_of_another, first):
        others.append([first, other])
    for made in others:
        assert "means over" not in render(made)


def test_a_value_that_one_seed_lacks(render):
    text = render([with_values(0, 0.9, 0.9), with_values(1, 0.9, None)])
    assert "| TLA | 0.00 (all seeds equal) | – |" in text


def test_runs_of_a_recipe_that_has_changed_since(render):
    from tla_ops.training.recipe import load_recipe

    document = metrics("tla/table1", title="Accuracy", budget="short")
    recipe = load_recipe("mnist-tla").as_dict()
    document["parts"][0]["runs"] = [document["parts"][0]["runs"][0] | {"recipe": recipe}] * 2
    assert "made before" not in render([document])
    unset = {key for key, value in recipe.items() if value is None}
    assert "eval_step" in unset
    older = {key: recipe[key] for key in recipe.keys() - {"statistics"} - unset}
    document["parts"][0]["runs"] = [document["parts"][0]["runs"][0] | {"recipe": older}] * 2
    text = "made before statistics=adversarial came into the recipes mnist-tla"
    document["budget"] = "full"
    assert render([document]).count("made before") == render([document]).count(text) == 1
    document["budget"] = "short"
    assert "made before eval_step=1/100 came into the recipes mnist-tla" in render([document])
    newer = metrics("tla/table1", title="Later", budget="full", seed=3)
    newer["parts"][0]["runs"] = [newer["parts"][0]["runs"][0] | {"recipe": recipe}]
    page = render([document, newer])
    assert page.index("## Later, seed 3") < page.index("## Accuracy")
