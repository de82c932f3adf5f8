"""TLA's Figure 5 and the supplement's Figure 8: what detectors are fitted on and asked about, and
the loss around the same images in the same directions for every model.
"""

import math
from fractions import Fraction

import pytest
import torch
from scripted_lab import MARKS, THREE, Scripted

from tla_ops.experiments import detection
from tla_ops.experiments.budget import Budget
from tla_ops.experiments.detection import Curve
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.landscape import loss_surface, random_directions, roughness
from tla_ops.experiments.tla import fig5, landscape
from tla_ops.experiments.tla.names import METHODS
from tla_ops.training.data import DATASETS, Dataset
from tla_ops.training.image_set import ImageSet
from tla_ops.training.models import build

pytestmark = pytest.mark.usefixtures("one_thread")

CAPTION = {  # of Figure 5: radius and steps on the training images, then on the test images
    "mnist": ("3/100", 40, "3/10", 100), "cifar10": ("8/255", 7, "25/255", 20),
    "tiny-imagenet": ("8/255", 7, "25/255", 30), "digits": ("3/160", 40, "3/16", 100),
}  # fmt: skip
GAINS = {"mnist": 0.0369, "cifar10": 0.0645, "tiny-imagenet": 0.0137, "digits": 0.0369}


def missed(method, number, label):
    return (label + 1) % 10 if number % 4 else label


@pytest.mark.parametrize("dataset", CAPTION)
def test_what_detectors_are_fitted_on_and_asked_about(dataset, tmp_path, monkeypatch):
    fitted, asked = [], []

    def fit(features, labels):
        fitted.append((features, labels))
        return detection.fit(features, labels)

    def roc(confidence, misclassified):
        asked.append((confidence, misclassified))
        return detection.roc(confidence, misclassified)

    monkeypatch.setattr(fig5, "fit", fit)
    monkeypatch.setattr(fig5, "roc", roc)
    lab = Scripted(tmp_path, missed, dataset, budget=Budget("smoke"))
    result = fig5.run(lab)
    for method, (features, labels), (confidence, wrong) in zip(THREE, fitted, asked, strict=True):
        number, mark = features[:, 0].tolist(), features[:, 1]
        assert sorted(number) == list(range(500, 560))  # each training image once
        assert torch.equal(labels, features[:, 3].long() - 1)
        clean = labels[mark == 0]
        assert torch.bincount(clean).tolist() == [3] * 10  # half of each class's six
        assert torch.allclose(mark[mark > 0].float(), torch.tensor(MARKS[method]))
        setting = lab.settings(("mnist", "cifar10", "tiny-imagenet"))[0]
        model, test = lab.trained(setting, method), lab.test(setting)
        halves = [test.images, lab.adversarial(model, None, test)]
        seen = torch.cat([lab.features(model, images) for images in halves])
        detector = detection.fit(features, labels)
        assert torch.allclose(confidence, detector.confidence(seen)[0])
        assert wrong.tolist() == [False] * 60 + [n % 4 > 0 for n in range(60)]
        found = result.numbers[fig5.DATASETS[dataset]][METHODS[method]]
        assert found["auc"] == pytest.approx(detection.roc(confidence, wrong).auc)
        (cell,) = result.tables[0].rows[METHODS[method]]
        assert cell.value == found["auc"]
        assert cell.paper is None
    near, few, far, many = CAPTION[dataset]
    attacks = [(name, threat, count) for name, threat, count in lab.attacks if threat]
    assert [name for name, _, _ in attacks] == [name for name in THREE for _ in "ab"]
    for place, (_, threat, count) in enumerate(attacks):
        radius, steps, images = ((near, few, 30), (far, many, 60))[place % 2]
        assert (threat.kind, threat.epsilon) == ("pgd", Fraction(radius))
        assert (threat.steps, threat.restarts, threat.early_stop) == (steps, 1, False)
        usual = lab.recipe(dataset, "at").attack_step
        assert threat.step == (Fraction(radius) / 3 if usual * 3 > Fraction(radius) else usual)
        assert dataset == "digits" or threat.step == usual  # the paper's own are short enough
        assert count == images
    values = [result.tables[0].rows[METHODS[method]][0].value for method in THREE]
    (gain,) = result.tables[0].rows[fig5.GAIN]
    assert gain.value == pytest.approx(values[2] - max(values[:2]))
    assert gain.paper == GAINS[dataset]


@pytest.mark.parametrize(
    ("areas", "gain"),
    [
        ((0.7, 0.8, 0.85), 0.05), ((0.8, 0.7, 0.75), -0.05), ((math.nan, 0.8, 0.9), None),
        ((0.8, math.nan, 0.9), None), ((0.8, 0.7, math.nan), None),
    ],
)  # fmt: skip
def test_the_gain_is_over_the_better_baseline(areas, gain, tmp_path, monkeypatch):
    own = dict(zip(THREE, areas, strict=True))
    monkeypatch.setattr(
        fig5, "detected", lambda lab, setting, method: Curve([0, 1], [0, 1], own[method])
    )
    result = fig5.run(Scripted(tmp_path, missed))
    rows = result.tables[0].as_dict()["rows"]
    assert rows[fig5.GAIN][0]["value"] == (None if gain is None else pytest.approx(gain))
    result.figures[0].draw(tmp_path / "roc.png", "")
    assert (tmp_path / "roc.png").stat().st_size > 1000


def test_nothing_misclassified_has_no_area(tmp_path):
    lab = Scripted(tmp_path, lambda method, number, label: label)
    result = fig5.run(lab)
    rows = result.tables[0].as_dict()["rows"]
    assert [row[0]["value"] for row in rows.values()] == [None] * 4
    result.figures[0].draw(tmp_path / "roc.png", "")


# The supplement's Figure 8.


class Untrained(Lab):
    """Networks as they are made, one for each method."""

    def __init__(self, output, count, **options):
        shape = DATASETS["digits"].shape
        images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
        self.images = ImageSet(images, torch.arange(count) * 10 // count)
        data = Dataset("digits", self.images, self.images, 10)
        super().__init__(Budget("smoke"), output, lambda name: data, **options)

    def trained(self, setting, method, *variation):
        torch.manual_seed(sum(map(ord, method)))
        recipe = self.recipe(setting.dataset, method)
        return Trained(method, build("small", 10, (1, 8, 8), dim=8), recipe, method)


def surfaces_of(lab, monkeypatch, path):
    """What is drawn, and the result."""
    drawn = []
    monkeypatch.setattr(landscape, "heatmap_figure", lambda *given, footnote: drawn.append(given))
    monkeypatch.setattr(landscape, "save", lambda figure, path: None)
    result = landscape.run(lab)
    result.figures[0].draw(path, "")
    return drawn[0], result


def test_the_loss_around_the_same_images_in_the_same_directions(tmp_path, monkeypatch):
    lab = Untrained(tmp_path, 40, seed=3)
    (surfaces, radius, notes), result = surfaces_of(lab, monkeypatch, tmp_path)
    assert list(surfaces) == ["AT", "ALP", "TLA"]
    assert radius == Fraction(3, 16)
    setting = Setting("digits", "tiny-imagenet")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:3].tolist()
    assert len({int(lab.images.labels[row]) for row in order}) > 1
    pairs = [random_directions((1, 8, 8), 3 + place) for place in range(3)]
    assert not any(torch.equal(pairs[0][0], other[0]) for other in pairs[1:])
    for method in THREE:
        name, model = METHODS[method], lab.trained(setting, method).model
        assert list(surfaces[name]) == ["Image 1", "Image 2", "Image 3"]
        for place, row in enumerate(order):
            image, label = lab.images.images[row], int(lab.images.labels[row])
            truth = loss_surface(model, image, label, pairs[place], 3 / 16, 9)
            surface = surfaces[name][f"Image {place + 1}"]
            torch.testing.assert_close(surface, truth)
            assert result.tables[0].rows[name][place].value == roughness(surface)
            assert f"{roughness(surface):.2g}" in notes[name][f"Image {place + 1}"]
    assert "9 × 9 points within ±3/16" in result.tables[0].notes[0]


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_test_images(count, tmp_path, monkeypatch):
    (surfaces, _, _), result = surfaces_of(Untrained(tmp_path, count), monkeypatch, tmp_path)
    assert {len(row) for row in surfaces.values()} == {count} == {len(result.tables[0].columns)}
    assert f"{count} image" in result.figures[0].alt


def test_other_seeds_have_other_images_and_directions(tmp_path, monkeypatch):
    found = [
        surfaces_of(Untrained(tmp_path, 40, seed=seed), monkeypatch, tmp_path)[0][0]["AT"]
        for seed in (0, 1, 0)
    ]
    assert torch.equal(found[0]["Image 1"], found[2]["Image 1"])
    assert not torch.equal(found[0]["Image 1"], found[1]["Image 1"])
