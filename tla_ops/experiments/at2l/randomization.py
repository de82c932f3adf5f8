"""Table 2, and 15 and 16 of the appendix: random resizing and padding in front of a network (Xie et
al. 2018), and the network fine-tuned behind it with the triplets.

The attacker knows a target without randomness: in the vanilla scenario the network alone, in the
ensemble-pattern scenario the network over fixed patterns. What it makes of the images, the network
behind the random layers then sees. Since "the target models and the defense models are exactly the
same" but for that, images for the fine-tuned network are made on its own weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

import torch

from tla_ops.experiments import paper
from tla_ops.experiments.at2l.ensemble import named
from tla_ops.experiments.at2l.names import ATTACKS
from tla_ops.experiments.at2l.random_layers import (
    STAND_INS,
    attacked,
    defended,
    fine_tuned,
    original,
    random_layers,
    round_recipe,
)
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import WEIGHTS
from tla_ops.experiments.threat import SLOW, Threat
from tla_ops.experiments.tla.blocks import left_to_the_target
from tla_ops.training.image_set import ImageSet, hold_out
from tla_ops.training.patterns import predefined
from tla_ops.training.pretrained import NETWORKS

PAPER = "imagenet"
DEEPFOOL_STEPS, CW_STEPS = 50, 100
ROWS = {"um": "original", "rand": "random layers", "rand-tr": "random layers + triplets"}
SCENARIOS = {
    "vanilla": "Images are made on the network without the random layers: for the fine-tuned one, "
    "on its own weights.",
    "ensemble-pattern": "Images are made on the network over {} fixed patterns of the random "
    "layers, on the mean of their logits: for the fine-tuned one, on its own weights. The "
    "original's row is that target's own.",
}
LAYERS = (
    "Random layers resize an image to {} pixels, and pad it with {:g} to {} (Xie et al. 2018). "
    "The original network is behind them without more training. With triplets it is fine-tuned "
    "there by equation 2, λ1 = {}, λ2 = {}, α = {}, in one round on FGSM images of itself, "
    "negatives being of the class of the mistake; the paper prints no number of rounds."
)
NUMBERS = (
    "The paper prints no numbers of attacks. FGSM has ε = {} here; DeepFool and C&W, both l2, have "
    "no bound on the change."
)
RIGHT = (
    "Of {:,} test images, those that all original networks classify correctly, as Xie et al. have "
    "them; clean ones show what the layers cost alone."
)


def run(lab: Lab, table: str) -> Result:
    """``table``: "table2", "app-table15" or "app-table16".

    Raises:
        WeightsError: the weights of one of the paper's networks are not there.
    """
    left_to_the_target(lab, *WEIGHTS)
    settings = lab.settings((PAPER,))
    tables = [errors(lab, setting, f"at2l/{table}") for setting in settings]
    return Result(tables, notes=[note for setting in settings for note in stand_ins(lab, setting)])


def errors(lab: Lab, setting: Setting, target: str) -> Table:
    """Shares of test images that each network's models get wrong, clean and under the attacks."""
    said, layers = paper.settings(target), random_layers(lab, setting)
    originals = {name: original(lab, setting, name) for name in NETWORKS}
    images = right(lab, setting, list(originals.values()))
    few = at_most(images, lab.budget.slow_images)
    printed = paper.panel(target, setting.paper)
    names = ("clean", *(printed.columns if printed else ()))
    attacks: dict[str, Threat] = {}
    rows: dict[str, list[Cell]] = {}
    for name, trained in originals.items():
        recipe = round_recipe(lab, setting, trained, layers, said)
        attacks = {column: threat(lab, column, recipe.epsilon, images) for column in names}
        tuned = fine_tuned(lab, setting, trained, recipe)
        for row, weights in (("um", trained), ("rand", trained), ("rand-tr", tuned)):
            known = attacked(setting, weights, layers, said["scenario"])
            cells = rows[f"{called(setting, name, trained)}: {ROWS[row]}"] = []
            for column, attack in attacks.items():
                model = known if row == "um" else defended(lab, weights, layers)
                number = paper.value(target, setting.paper, f"{name}/{row}", column)
                some = few if attack.kind in SLOW else images
                cells.append(cell(lab, model, attack, some, known, number))
    columns = []
    for column, attack in attacks.items():
        head = [attack.within(lab.budget).effort()]
        if attack.kind in SLOW and len(few) < len(images):
            head.append(f"{len(few)} images")
        note = ", ".join(filter(None, head))
        columns.append(Column(ATTACKS[column], note=note, kind="error", best=""))
    patterns = len(predefined(layers.smallest, layers.side))
    sizes = " to ".join(map(str, sorted({layers.smallest, layers.side - 1})))
    notes = [
        LAYERS.format(sizes, layers.value, layers.side,
                      said["adversarial_weight"], said["weight"], said["margin"]),
        SCENARIOS[said["scenario"]].format(patterns),
        NUMBERS.format(attacks["fgsm"].epsilon),
        RIGHT.format(len(lab.test(setting))),
    ]  # fmt: skip
    title = f"{said['scenario'].capitalize()} attack: {named(setting)}, {len(images):,} test images"
    return Table(title, "Network", columns, rows, notes=notes)


def cell(
    lab: Lab,
    model: Trained,
    attack: Threat,
    images: ImageSet,
    known: Trained,
    printed: float | None,
) -> Cell:
    """A model's error on what the attack makes on ``known``; without images there is none."""
    if len(images) == 0:
        return Cell(None, printed)
    if attack.kind in SLOW:  # kept for other rows; of many images that would fill a disk
        made = lab.adversarial(known, attack, images)
        hit = (lab.predictions(model, made) == images.labels).double().mean().item()
        return Cell(1 - hit, printed, (hit * (1 - hit) / len(images)) ** 0.5)
    source = None if model is known or attack.kind == "clean" else known
    found = lab.accuracy(model, attack, images, source)
    return Cell(1 - found["accuracy"], printed, found["standard_error"])


def threat(lab: Lab, column: str, epsilon: Fraction, images: ImageSet) -> Threat:
    """A column's attack; C&W may change an image by as much as any image differs from it."""
    if column == "cw":
        steps = CW_STEPS if lab.budget.cw_steps is None else min(CW_STEPS, lab.budget.cw_steps)
        return Threat("cw_l2", Fraction(prod(images.image_shape)), steps=steps, norm="l2")
    if column == "deepfool":
        return Threat("deepfool", steps=DEEPFOOL_STEPS, norm="l2")
    return Threat("fgsm", epsilon, steps=1) if column == "fgsm" else Threat(column)


def right(lab: Lab, setting: Setting, networks: Sequence[Trained]) -> ImageSet:
    """Test images that all networks classify correctly."""
    test = lab.test(setting)
    hits = torch.stack([lab.predictions(network, test) == test.labels for network in networks])
    return test.subset(hits.all(0).nonzero()[:, 0])


def at_most(images: ImageSet, count: int | None) -> ImageSet:
    """A stratified choice, where there are more."""
    return hold_out(images, count)[1] if count is not None and count < len(images) else images


def called(setting: Setting, name: str, trained: Trained) -> str:
    """A network by the paper's name, or what is in its place."""
    if setting.dataset not in STAND_INS:
        return name
    recipe = trained.recipe
    own = recipe.model_options["network"] if recipe.model == "randomized" else recipe.model
    how = "adversarially trained " if recipe.method == "at" else ""
    return f"{how}{own} for {name}"


def stand_ins(lab: Lab, setting: Setting) -> list[str]:
    """A note where other networks take the places of the paper's."""
    if setting.dataset not in STAND_INS:
        return []
    pairs = [called(setting, name, original(lab, setting, name)) for name in NETWORKS]
    return [f"networks trained here stand in for pretrained ones: {', '.join(pairs)}"]
