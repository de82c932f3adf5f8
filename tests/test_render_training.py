"""benchmarks/render_training.py on made-up results: what is claimed, and that nothing else is."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HEAD = {
    "machine": "some-cpu", "device": "Some CPU, 2 threads", "threads": 2, "torch": "2.13.0",
    "commit": "abc", "date": "2030-01-02T03:04:05+00:00",
}  # fmt: skip
RECIPE = {
    "dataset": "mnist", "method": "tla", "epsilon": "3/10", "attack_step": "1/20", "val_steps": 5,
}  # fmt: skip
RUN = {
    "recipe": RECIPE, "changed": ["max_steps=2"], "smoke": False, "steps": 2, "train_seconds": 61.4,
    "notes": ["1 of 4 shards"], "best": {"step": 2},
    "attacks": {
        "clean": {"accuracy": 0.97, "standard_error": 0.005, "steps": None},
        "pgd": {"accuracy": 0.81, "standard_error": 0.012, "steps": 40},
    },
    "curves": [
        {"step": 1.0, "active": 0.5, "positive_distance": 0.2, "negative_distance": 0.1},
        {"step": 2.0, "active": 0.4, "val_clean": 0.97, "val_adversarial": 0.8},
    ],
}  # fmt: skip


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import render_training

    return render_training


def test_nothing_is_claimed_without_results(render):
    text = render.training_page([], [], [], [])
    assert text == render.INTRO
    assert not [line for line in text.splitlines() if line.startswith("|")]


def test_throughput(render):
    row = {
        "recipe": "mnist-at", "impl": "tla_ops", "images_per_second": 123.4, "median_ms": 405.2,
        "p20_ms": 400.0, "p80_ms": 410.0, "to_plain": 1.5, "to_backward_loop": 2.25,
        "attacked_loss": 3.4, "clean_loss": 2.1,
    }  # fmt: skip
    document = HEAD | {"tells": {"tla_ops": "ours"}, "changed": ["batch=2"], "rows": [row]}
    text = render.training_page([document], [], [], [])
    expected = "| mnist-at | tla_ops | 123.4 | 405.2 | 400–410 | 1.50 × | 2.25 × | 3.400 "
    assert expected + "(clean 2.100) |" in text
    assert "Changed in the recipes: batch=2." in text


def test_attacks(render):
    rows = [
        {
            "attack": "fgsm", "accuracy": 0.5, "accuracy_art": 0.5, "apart": 0,
            "equal_pixels": 0.9999, "seconds": 1.0, "seconds_art": 2.0, "agrees": True,
        },
        {
            "attack": "pgd", "accuracy": 0.4, "accuracy_art": 0.9, "apart": 50,
            "seconds": 1.0, "seconds_art": 2.0, "agrees": False,
        },
    ]  # fmt: skip
    ball = {"epsilon": "1/10", "step": "1/40"}
    document = HEAD | {"images": 100, "clean": 0.95, "linf": ball, "l2": ball, "rows": rows}
    text = render.training_page([], [document], [], [])
    assert "| fgsm | 50.0% | 50.0% | 0 | 99.99% | 1.00 | 2.00 | yes |" in text
    assert "| pgd | 40.0% | 90.0% | 50 | – | 1.00 | 2.00 | no |" in text


def test_carlini(render):
    row = {
        "setting": "coarse", "arguments": {"steps": 50, "constant": 1e-3}, "repeats": 3,
        "images": 128, "images_per_second": 20.0, "success": 1.0, "mean_linf": 0.1239,
        "median_linf": 0.1111, "images_alone": 4, "images_per_second_alone": 1.0,
        "success_alone": 1.0, "mean_linf_alone": 0.125, "median_linf_alone": 0.112,
        "images_art": 4, "images_per_second_art": 0.1, "success_art": 0.0, "mean_linf_art": None,
        "median_linf_art": None,
    }  # fmt: skip
    text = render.training_page([], [], [HEAD | {"rows": [row]}], [])
    assert "Some CPU, 2 threads, torch 2.13.0, commit abc, 2030-01-02." in text
    assert "- coarse: steps 50, constant 0.001; runs: 3" in text
    assert "| coarse | tla_ops | 128 | 20 | 200 × | 100% | 0.124 | 0.111 |" in text
    assert "| coarse | tla_ops, one by one | 4 | 1 | 10 × | 100% | 0.125 | 0.112 |" in text
    assert "| coarse | ART | 4 | 0.1 | 1 × | 0% | – | – |" in text


def test_runs(render, tmp_path):
    smoke = RUN | {"smoke": True, "recipe": RECIPE | {"dataset": "cifar10"}}
    runs = {"mnist-tla": RUN, "cifar10-tla": smoke, "mnist-at": {"error": "no data"}}
    document = HEAD | {"runs": runs}
    text = render.training_page([], [], [], [document])
    assert "| mnist-tla | 2 | 61 | 97.0% ± 0.5% | 81.0% ± 1.2% |" in text
    assert "### cifar10 (a smoke run: steps are taken, nothing is learned)" in text
    assert "1 of 4 shards." in text
    figures = list(render.training_figures([document], tmp_path))
    assert [path.name for path in figures] == ["training-some-cpu-mnist.svg"]
    assert f"]({figures[0].name})" in text
    assert "mnist-tla, PGD-5" in figures[0].read_text()


def test_the_page_in_docs_is_what_the_results_render_to(render):
    results = BENCHMARKS / "results"

    def every(name):
        return [json.loads(path.read_text()) for path in sorted(results.glob(f"*/{name}.json"))]

    document = BENCHMARKS.parent / "docs" / "training.md"
    pages = (every(name) for name in ("train", "attacks", "carlini", "short_runs"))
    assert document.read_text() == render.training_page(*pages)
