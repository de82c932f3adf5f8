"""Table 4: TLA on other networks, an MLP for MNIST and a ConvNet for CIFAR-10."""

from __future__ import annotations

from tla_ops.experiments import paper
from tla_ops.experiments.lab import Lab
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import FOUR
from tla_ops.experiments.threat import from_recipe
from tla_ops.experiments.tla.blocks import accuracy_block, joined, named

NAME = "tla/table4"
VARIATIONS = {
    "mnist": ("model=mlp",),
    # Without batch normalisation the recipe's first learning rate of 0.1 does not converge.
    "cifar10": ("model=convnet", "learning_rate=0.01", "schedule={50000: 0.001}"),
}
NOTE = (
    "The paper prints neither network's architecture: see tla_ops.training.models for ours. The "
    "ConvNet has a learning rate of its own, 0.01."
)


def run(lab: Lab) -> Result:
    blocks = []
    for setting in lab.settings(("mnist", "cifar10")):
        variation = VARIATIONS[setting.paper]
        models = {method: lab.trained(setting, method, *variation) for method in lab.rows(FOUR)}
        recipe = lab.recipe(setting.dataset, "at", *variation)
        printed = paper.panel(NAME, setting.paper)
        columns = printed.columns if printed else ()
        # Its one PGD has the steps of Table 1's longer one.
        threats = {
            name: from_recipe(recipe, "pgd_long" if name == "pgd" else name) for name in columns
        }
        group = f"{recipe.model}, {named(setting)}"
        blocks.append(accuracy_block(lab, NAME, setting, models, threats, group=group))
    return Result([joined("Other network architectures", blocks, notes=[NOTE])])
