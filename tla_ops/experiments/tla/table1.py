"""Table 1: accuracy of six methods, clean and under l-infinity attacks; and under AutoAttack, which
the paper did not have.
"""

from __future__ import annotations

from tla_ops.experiments import paper
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import ALL, TABLE1
from tla_ops.experiments.threat import from_recipe
from tla_ops.experiments.tla.blocks import accuracy_block, heading, joined

NAME = "tla/table1"
SOURCE_SEED = 1000
"""Added to the seed of the undefended model that transfer attacks. The paper does not say which
model its black box attack has images from: another one of the same architecture, here."""
NOTE = "l∞ ball of radius {}, steps of {}."
TRANSFER = " BB: images made on another undefended model."
OURS = (
    " ALP and TLA's three are trained with statistics: adversarial, which the paper does not "
    "print: it was chosen on training images, see docs/ablation.md."
)
AUTOATTACK = (
    " AutoAttack is ART's, whose accuracies do not compare with RobustBench's; the paper has none."
)


def run(lab: Lab) -> Result:
    tables = []
    for setting in lab.settings(ALL):
        models = {method: lab.trained(setting, method) for method in lab.rows(TABLE1)}
        recipe = lab.recipe(setting.dataset, "at")
        printed = paper.panel(NAME, setting.paper)
        columns = [*(printed.columns if printed else ()), "autoattack"]
        threats = {name: from_recipe(recipe, name) for name in columns}
        source = None if "transfer" in lab.without else transfer_source(lab, setting)
        block = accuracy_block(
            lab, NAME, setting, models, threats, source=source, beside={"autoattack": "pgd"}
        )
        note = NOTE.format(recipe.epsilon, recipe.evaluation_step)
        note += "" if source is None else TRANSFER
        statistics = [model.recipe.options.get("statistics", "all") for model in models.values()]
        note += OURS if "adversarial" in statistics else ""
        note += "" if "autoattack" in lab.without else AUTOATTACK
        tables.append(joined(heading(lab, setting), [block], worst=True, notes=[note]))
    return Result(tables)


def transfer_source(lab: Lab, setting: Setting) -> Trained:
    """An undefended model with weights of its own."""
    return lab.trained(setting, "um", f"seed={lab.seed + SOURCE_SEED}")
