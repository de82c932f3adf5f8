"""TLA's pictures of feature space and of neighbours: which images are drawn, whose features they
have, and what is said of them.
"""

import math

import pytest
import torch
from scripted_lab import FOUR, MARKS, NAMES, THREE, Scripted, numbered
from sklearn.metrics import silhouette_score

from tla_ops.experiments import paper
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.lab import Setting, Trained
from tla_ops.experiments.tla import retrieval, tsne
from tla_ops.experiments.tla.names import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")


def shifted(method, number, label):
    """Right for every third image; UM takes all others for the next class but one."""
    if number % 3 == 0:
        return label
    return (label + 2) % 10 if method == "um" or number % 2 else (label + 3) % 10


@pytest.fixture
def drawn(monkeypatch):
    """What the figures are made of; t-SNE leaves number and mark. Few images are wanted."""
    figures, printed = [], paper.settings
    for module, name in ((tsne, "scatter_figure"), (retrieval, "retrieval_figure")):
        monkeypatch.setattr(module, name, lambda *given, footnote: figures.append(given))
        monkeypatch.setattr(module, "save", lambda figure, path: None)
    monkeypatch.setattr(tsne, "tsne", lambda features, seed: features[:, :2])
    few = {"adversarial": 5, "clean": 3}
    monkeypatch.setattr(
        tsne.paper, "settings",
        lambda target: {k: few.get(k, v) for k, v in printed(target).items()},
    )  # fmt: skip
    return figures


def numbers(cloud, mark=0.0):
    """Of a cloud's images, which must have the mark."""
    assert torch.allclose(cloud.points[:, 1], torch.tensor(mark).double())
    return cloud.points[:, 0].round().long().tolist()


@pytest.mark.parametrize(
    ("figure", "classes"),
    [
        ("fig1", ["deer"]), ("supp-fig1", ["airplane", "automobile", "bird"]),
        ("supp-fig2", ["cat", "dog", "frog"]), ("supp-fig3", ["horse", "ship", "truck"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_one_class(figure, classes, dataset, drawn, tmp_path):
    lab = Scripted(tmp_path, shifted, dataset, budget=Budget("full" if dataset == "cifar10" else
                                                             "smoke"))  # fmt: skip
    result = tsne.run(lab, figure)
    (drawing,), (table,) = result.figures, result.tables
    drawing.draw(tmp_path, "")
    ((rows,),) = drawn
    wanted = [NAMES.index(name) for name in classes]
    names = NAMES if dataset == "cifar10" else [f"digit {label}" for label in range(10)]
    assert list(rows) == [names[label] for label in wanted]
    assert drawing.name == f"{figure}-{dataset}"
    assert ", ".join(rows) in drawing.caption
    for place, label in enumerate(wanted):
        five = [label + 10 * k for k in range(5)]
        for method in FOUR:
            clean, *others, right = rows[names[label]][METHODS[method]].clouds
            assert numbers(clean) == five[:3]
            for false, cloud in enumerate(others):
                ours = [n for n in five if shifted(method, n, label) == false != label]
                assert cloud.name == f"taken for {names[false]}"
                assert numbers(cloud, MARKS[method]) == ours
            still = [n for n in five if n % 3 == 0]
            assert numbers(right, MARKS[method]) == still
            share, spread = table.rows[METHODS[method]][2 * place : 2 * place + 2]
            assert share.value == pytest.approx(1 - len(still) / 5)
            wrong = [n for n in five if n % 3]
            images = numbered([label] * 5).images
            images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.tensor(five) / 1000, MARKS[method]
            features = lab.features(Trained(method, None, None, ""), images)
            groups = [shifted(method, n, label) for n in wrong]
            if 1 < len(set(groups)) < len(wrong):
                truth = silhouette_score(
                    features[[five.index(n) for n in wrong]].float().numpy(), groups,
                    metric="cosine",
                )  # fmt: skip
                assert spread.value == pytest.approx(truth, abs=1e-5)
            else:
                assert math.isnan(spread.value)
    assert {(threat.kind, threat.early_stop, threat.steps) for _, threat, _ in lab.attacks} == {
        ("pgd", False, 20 if dataset == "cifar10" else 50)
    }


def test_all_nine_other_classes_are_in_the_supplement():
    shown = [name for k in (1, 2, 3) for name in tsne.classes_of(f"supp-fig{k}")]
    assert sorted([*shown, *tsne.classes_of("fig1")]) == NAMES


@pytest.mark.parametrize(
    ("figure", "true", "false"),
    [
        ("fig2", "truck", "bird"), ("supp-fig4", "frog", "horse"),
        ("supp-fig5", "horse", "airplane"), ("supp-fig6", "airplane", "horse"),
    ],
)  # fmt: skip
def test_a_pair_of_classes(figure, true, false, drawn, tmp_path):
    """fig2's caption: natural images blue and green, and only those mistaken for the one class."""
    true_label, false_label = NAMES.index(true), NAMES.index(false)

    def confused(method, number, label):
        steps = {"um": 1, "at": 2, "alp": 3, "tla": 7}[method]
        if (number // 10) % steps == 0:
            return false_label
        return label if number % 20 < 10 else (false_label + 1) % 10

    lab = Scripted(tmp_path, confused)
    result = tsne.run(lab, figure)
    result.figures[0].draw(tmp_path, "")
    (((_, row),),) = (given[0].items() for given in drawn)
    for method in FOUR:
        blue, green, red = row[METHODS[method]].clouds
        assert numbers(blue) == [false_label + 10 * k for k in range(3)]
        assert numbers(green) == [true_label + 10 * k for k in range(3)]
        mistaken = [
            n for n in range(true_label, 60, 10) if confused(method, n, true_label) == false_label
        ]
        assert numbers(red, MARKS[method]) == mistaken
        assert (blue.colour, red.marker) == ("#4477AA", "^")
        assert [cloud.name for cloud in (blue, green, red)] == [
            f"natural {false}", f"natural {true}", f"{true} taken for {false}",
        ]  # fmt: skip
        (cell,) = result.tables[0].rows[METHODS[method]]
        assert cell.value == len(mistaken) / 6
        assert row[METHODS[method]].note == f"{len(mistaken)} of 6 mistaken"


@pytest.mark.parametrize(
    ("figure", "labels"),
    [("fig1", [0, 4, 4]), ("fig1", [0]), ("fig2", [2, 2, 9, 9]), ("fig2", [9]), ("fig2", [0]),
     ("supp-fig1", [0, 2])],
)  # fmt: skip
def test_nothing_to_show(figure, labels, tmp_path):
    """No adversarial image misclassified, and classes without images: no number, and a picture."""
    lab = Scripted(tmp_path, lambda method, number, label: label, labels=labels)
    result = tsne.run(lab, figure)
    path = tmp_path / "figure.png"
    result.figures[0].draw(path, "")
    assert path.stat().st_size > 1000
    for cells in result.tables[0].as_dict()["rows"].values():
        assert {cell["value"] for cell in cells} <= {0.0, None}
    assert "nan" not in str(result.numbers)


# Figure 4 and the supplement's Figure 7.


@pytest.mark.parametrize(
    ("figure", "methods", "name"),
    [("fig4", ("at", "tla"), "airplane"), ("supp-fig7", THREE, "deer")],
)
def test_retrieval(figure, methods, name, drawn, tmp_path):
    lab = Scripted(tmp_path, lambda method, number, label: 9 if number >= 20 else label)
    result = retrieval.run(lab, figure)
    result.figures[0].draw(tmp_path, "")
    ((shown,),) = drawn
    assert list(shown) == [METHODS[method] for method in methods]
    setting = Setting("cifar10", "cifar10")
    test, pool, label = lab.test(setting), lab.pool(setting), NAMES.index(name)
    query = 20 + label
    assert name in result.figures[0].caption
    for method in methods:
        model = lab.trained(setting, method)
        known = lab.features(model, pool)
        for half, images in enumerate((test.images, lab.adversarial(model, None, test))):
            cosine = torch.nn.functional.cosine_similarity(
                lab.features(model, images)[:, None], known[None], dim=2
            )
            nearest = (1 - cosine.abs()).argsort(1)[:, :5]
            right = (pool.labels[nearest] == test.labels[:, None]).double().mean().item()
            assert result.tables[0].rows[METHODS[method]][half].value == pytest.approx(right)
            found = shown[METHODS[method]][half]
            assert torch.equal(found.query, images[query])
            assert found.query_class == name
            assert torch.equal(found.neighbours, pool.images[nearest[query]])
            assert found.neighbour_classes == [NAMES[k] for k in pool.labels[nearest[query]]]
    assert 0 < right < 1


@pytest.mark.parametrize(
    ("taken_for", "labels", "row", "note"),
    [
        (
            {10: 3, 20: 9, 30: 9},
            None,
            20,
            "of airplane whose adversarial version AT takes for truck, as in the paper",
        ),
        ({10: 3, 30: 4, 1: 9}, None, 10, "of airplane whose adversarial version AT misclassifies"),
        ({1: 9}, None, 0, "of airplane: AT misclassifies none"),
        ({0: 4}, [5, 6, 7], 0, "of any class: none is of airplane"),
    ],
)
def test_the_query(taken_for, labels, row, note, drawn, tmp_path):
    def mistaken(method, number, label):
        return taken_for.get(number, label) if method == "at" else (label + 1) % 10

    lab = Scripted(tmp_path, mistaken, labels=labels)
    result = retrieval.run(lab, "fig4")
    result.figures[0].draw(tmp_path, "")
    image = drawn[0][0]["TLA"][0].query
    assert round(1000 * image[0, 0, 0].item()) == row
    assert note in result.tables[0].notes[0]


def test_fewer_training_images_than_neighbours(drawn, tmp_path):
    result = retrieval.run(Scripted(tmp_path, shifted, budget=Budget("full", pool=3)), "fig4")
    result.figures[0].draw(tmp_path, "")
    assert len(drawn[0][0]["AT"][0].neighbours) == 3
    assert "the 3 nearest" in result.tables[0].notes[0]
