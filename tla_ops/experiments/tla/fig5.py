"""Figure 5: misclassified images detected by the density of Gaussians in feature space."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch

from tla_ops.experiments import paper
from tla_ops.experiments.detection import Curve, fit, roc
from tla_ops.experiments.figures import roc_figure
from tla_ops.experiments.lab import Lab, Setting
from tla_ops.experiments.style import save
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Drawing, Result
from tla_ops.experiments.targets import ALL, THREE
from tla_ops.experiments.threat import Threat
from tla_ops.experiments.tla.blocks import level, named, step_within
from tla_ops.experiments.tla.names import DATASETS, METHODS
from tla_ops.training.image_set import hold_out

NAME = "tla/fig5"
NOTE = (
    "Area under the ROC curve of rejecting images of low density, clean and adversarial test "
    "images together; right to reject are those that the model misclassifies. The paper prints the "
    "areas in its figure alone, and in its text the gain of TLA over the better of AT and ALP."
)
GAIN = "TLA's gain"


def run(lab: Lab) -> Result:
    curves: dict[str, dict[str, Curve]] = {}
    columns: list[Column] = []
    rows: dict[str, list[Cell]] = {name: [] for name in (*(METHODS[m] for m in THREE), GAIN)}
    for setting in lab.settings(ALL):
        own = {METHODS[method]: detected(lab, setting, method) for method in THREE}
        curves[DATASETS[setting.dataset]] = own
        columns.append(Column("AUC", named(setting), best=""))
        for name, curve in own.items():
            rows[name].append(Cell(_or_none(curve.auc)))
        baselines = [own["AT"].auc, own["ALP"].auc]
        # Python's max takes NaN for the better or the worse, by its place.
        best = math.nan if any(map(math.isnan, baselines)) else max(baselines)
        printed = paper.value(NAME, setting.paper, "tla", "auc_gain")
        rows[GAIN].append(Cell(_or_none(own["TLA"].auc - best), printed))
    notes = [NOTE, *dict.fromkeys(_attacks(lab, setting) for setting in lab.settings(ALL))]
    table = Table("Detection of misclassified images", "Method", columns, rows, notes=notes)
    drawing = Drawing(
        "roc",
        "ROC curves of detecting misclassified images, clean and adversarial ones together.",
        f"ROC curves of {', '.join(METHODS[method] for method in THREE)} for {', '.join(curves)}.",
        lambda path, footnote: save(roc_figure(curves, footnote=footnote), path),
    )
    numbers = {
        name: {method: curve._asdict() for method, curve in own.items()}
        for name, own in curves.items()
    }
    return Result([table], [drawing], numbers)


def detected(lab: Lab, setting: Setting, method: str) -> Curve:
    """The ROC curve of one model's features."""
    trained = lab.trained(setting, method)
    pool, test = lab.pool(setting), lab.test(setting)
    # Half of each class as it is, the other half adversarial: a class has a Gaussian of its own.
    clean, attacked = hold_out(pool, len(pool) // 2)
    fitted = lab.adversarial(trained, threat(lab, setting, "train"), attacked)
    features = torch.cat([lab.features(trained, clean), lab.features(trained, fitted)])
    detector = fit(features, torch.cat([clean.labels, attacked.labels]))
    adversarial = lab.adversarial(trained, threat(lab, setting, "test"), test)
    confidences, wrong = [], []
    for images in (test.images, adversarial):
        confidences.append(detector.confidence(lab.features(trained, images))[0])
        wrong.append((lab.predictions(trained, images) != test.labels).cpu())
    return roc(torch.cat(confidences), torch.cat(wrong))


def threat(lab: Lab, setting: Setting, split: str) -> Threat:
    """The paper's attack on the "train" or the "test" images of the detector."""
    printed: dict[str, Any] = paper.settings(NAME)[setting.paper][split]
    recipe = lab.recipe(setting.dataset, "at")
    epsilon = level(setting, recipe, Fraction(printed["epsilon"]))
    step = step_within(recipe, epsilon)
    return Threat("pgd", epsilon, step, printed["steps"], early_stop=False)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _attacks(lab: Lab, setting: Setting) -> str:
    fitted, tested = (threat(lab, setting, name).within(lab.budget) for name in ("train", "test"))
    return (
        f"{DATASETS[setting.dataset]}: fitted on half clean, half adversarial training images "
        f"(PGD, {fitted.effort()}, ε = {fitted.epsilon}), tested with {tested.effort()}, "
        f"ε = {tested.epsilon}."
    )
