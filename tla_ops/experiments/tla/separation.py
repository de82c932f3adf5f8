"""Table 5 and the supplement's Table 3: how far adversarial images are from the natural images of
their false class (r) and of their true class (r′), over the distance within that class.
"""

from __future__ import annotations

from typing import Any

from tla_ops.experiments import paper
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.separation import Ratio, ratio
from tla_ops.experiments.tables import Column
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import ALL, FOUR, THREE
from tla_ops.experiments.threat import Threat
from tla_ops.experiments.tla.blocks import Block, joined, level, named, step_within, value_block

TABLES = {"false": "tla/table5", "true": "tla/supp-table3"}
TITLES = {
    "false": "Ratio r: distance to the false class over the distance within it",
    "true": "Ratio r′: distance to the true class over the distance within it",
}
NOTES = {
    "false": "Higher is better: misclassified adversarial images, away from the class they are "
    "taken for.",
    "true": "Lower is better: all adversarial images, close to the class they are of.",
}
STEPS = (
    "PGD with as many steps as Table 1's longer one, of at most a third of the radius, without "
    "stopping where it succeeds; the paper prints neither steps nor step size. Natural images are "
    "those test images."
)


def run(lab: Lab, toward: str) -> Result:
    """``toward``: the "false" class (r) or the "true" one (r′)."""
    target, numbers = TABLES[toward], {}
    blocks = []
    for setting in lab.settings(ALL):
        block, found = _block(lab, target, setting, toward)
        blocks.append(block)
        numbers[setting.dataset] = found
    table = joined(TITLES[toward], blocks, notes=[NOTES[toward], STEPS])
    return Result([table], numbers=numbers)


def _block(lab: Lab, target: str, setting: Setting, toward: str) -> tuple[Block, dict[str, Any]]:
    recipe = lab.recipe(setting.dataset, "at")
    printed = paper.panel(target, setting.paper)
    levels = {name: level(setting, recipe, name) for name in (printed.columns if printed else ())}
    best = "max" if toward == "false" else "min"
    columns = {
        name: Column(f"ε = {epsilon}", named(setting), kind="ratio", best=best)
        for name, epsilon in levels.items()
    }
    numbers: dict[str, Any] = {}

    def measure(trained: Trained, name: str) -> float:
        threat = Threat(
            "pgd", levels[name], step_within(recipe, levels[name]), recipe.eval_steps["pgd_long"],
            early_stop=False,
        )  # fmt: skip
        found = measured(lab, setting, trained, threat, toward)
        numbers.setdefault(trained.recipe.method, {})[str(levels[name])] = found._asdict()
        return found.ratio

    methods = THREE if toward == "false" else FOUR
    return value_block(lab, target, setting, methods, columns, measure), numbers


def measured(lab: Lab, setting: Setting, trained: Trained, threat: Threat, toward: str) -> Ratio:
    """r of the images that an attack has misclassified, or r′ of all that it makes."""
    test = lab.test(setting)
    adversarial = lab.adversarial(trained, threat, test)
    groups, natural = test.labels, lab.features(trained, test.images)
    features = lab.features(trained, adversarial)
    if toward == "false":
        groups = lab.predictions(trained, adversarial)
        wrong = groups != test.labels
        features, groups = features[wrong], groups[wrong]
    return ratio(features, groups, natural, test.labels)
