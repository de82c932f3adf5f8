"""Table 1, and 11 to 14 of the appendix: thermometer encoding with adversarial training in rounds,
without the triplets and with them, under attacks on the model itself or made on another network.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, NamedTuple

from tla_ops.experiments import paper
from tla_ops.experiments.at2l.ensemble import CONFUSED
from tla_ops.experiments.at2l.names import ATTACKS
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.rounds import Plan, rounds
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import WEIGHTS
from tla_ops.experiments.threat import Threat
from tla_ops.experiments.tla.blocks import heading, left_to_the_target, level

PRETRAIN, ROUND = "at2l-pretrain", "at2l-round"
"""Recipes of training on clean images, and of one round of Algorithm 1."""
NETWORKS = {
    "digits": ("small", "mlp"),
    "mnist": ("mnist_a", "mnist_c"),
    "cifar10": ("wrn", "convnet"),
}
"""The network that is trained, and the other one that unknown attacks are made on. The paper names
none; Buckman et al. (2018) have a wide residual network for CIFAR-10."""
LEVELS = 16
LOGIT_STEP = Fraction(1)


class Ball(NamedTuple):
    """An l-infinity ball, PGD's step in it, and the number of steps of PGD and of LS-PGA."""

    epsilon: str
    step: str
    steps: int


BALLS = {"mnist": Ball("3/10", "1/100", 40), "cifar10": Ball("8/255", "2/255", 7)}
"""Buckman et al. (2018), who have 0.031 for 8/255; the step on CIFAR-10 is Madry et al.'s."""
ROWS = {"thermometer": "Thermometer", "thermometer-tr": "Thermometer + triplets"}
CHOSEN = (
    "The paper follows Buckman et al. (2018), and prints neither networks nor numbers of attacks. "
    "Chosen here: network {}, {} levels, an l∞ ball of radius {}. LS-PGA, in training and in test, "
    "has steps of {} in its logits and divides its temperature by 1.2 after each. The original has "
    "no codes: its number there is PGD's, with steps of {}. FGSM takes codes for ramps."
)
LOSS = (
    "In brackets: rounds of adversarial training, from a model trained on clean images. The loss "
    "is equation 1, and with the triplets equation 2; λ1 = {}, λ2 = {}, α = {}. Anchors are "
    "LS-PGA's images, negatives of the class of the mistake; the paper leaves both open."
)
UNKNOWN = (
    "Adversarial images are made on another network, {}, trained on clean images alone: on codes "
    "as the thermometer models are, and for the original without."
)


class Network(NamedTuple):
    """A network, as overrides of a recipe: without codes, and on them."""

    name: str
    plain: tuple[str, ...]
    coded: tuple[str, ...]


class Row(NamedTuple):
    """A model, its name in the paper's table, and whether it is on codes."""

    name: str
    model: Trained
    coded: bool


def run(lab: Lab, table: str) -> Result:
    """``table``: "table1", or "app-table11" to "app-table14"."""
    left_to_the_target(lab, *WEIGHTS)
    target = f"at2l/{table}"
    settings = lab.settings((paper.settings(target)["dataset"],))
    return Result([errors(lab, setting, target) for setting in settings])


def errors(lab: Lab, setting: Setting, target: str) -> Table:
    """Shares of test images that each model gets wrong, clean and under the attacks."""
    said, test = paper.settings(target), lab.test(setting)
    known = said["attack_type"] == "known"
    own, other = (network(lab, setting, name) for name in NETWORKS[setting.dataset])
    attacks = {coded: threats(lab, setting, coded) for coded in (False, True)}
    rows: dict[str, list[Cell]] = {}
    for title, row in models(lab, setting, own, said).items():
        rows[title] = []
        for column, threat in attacks[row.coded].items():
            source = None
            if not known and column != "clean":
                variation = other.coded if row.coded else other.plain
                source, threat = lab.trained(setting, PRETRAIN, *variation), threat.to_the_end()
            found = lab.accuracy(row.model, threat, test, source)
            printed = paper.value(target, setting.paper, row.name, column)
            rows[title].append(Cell(1 - found["accuracy"], printed, found["standard_error"]))
    columns = [
        Column(ATTACKS[column], note=threat.within(lab.budget).effort(), kind="error", best="min")
        for column, threat in attacks[True].items()
    ]
    pgd = attacks[False]["ls_pga"]
    notes = [
        CHOSEN.format(own.name, LEVELS, pgd.epsilon, LOGIT_STEP, pgd.step),
        LOSS.format(said["adversarial_weight"], said["weight"], said["margin"]),
        *([] if known else [UNKNOWN.format(other.name)]),
    ]
    title = f"{'Known' if known else 'Unknown'} attacks: {heading(lab, setting)}"
    return Table(title, "Model", columns, rows, notes=notes)


def models(lab: Lab, setting: Setting, own: Network, said: dict[str, Any]) -> dict[str, Row]:
    """The original, and both ways of training on codes after the paper's numbers of rounds, or as
    many as the budget has: by title.
    """
    rows = {"Original": Row("um", lab.trained(setting, PRETRAIN, *own.plain), False)}
    start = lab.trained(setting, PRETRAIN, *own.coded)
    pgd, ls_pga = (threats(lab, setting, coded)["ls_pga"] for coded in (False, True))
    most = max(said["rounds"])
    count = most if lab.budget.rounds is None else min(most, lab.budget.rounds)
    for name, title in ROWS.items():
        weight = said["weight"] if name == "thermometer-tr" else 0
        recipe = lab.recipe(
            setting.dataset, ROUND, *own.coded,
            f"adversarial_weight={said['adversarial_weight']}", f"weight={weight}",
            f"margin={said['margin']}", CONFUSED,
            # Of the attack on images that are held out.
            f"epsilon={pgd.epsilon}", f"attack_step={pgd.step}",
        )  # fmt: skip
        plan = Plan(recipe, start, (ls_pga,), name=f"{setting.dataset}-{name}")
        made = rounds(lab, setting, plan, count)
        for printed in said["rounds"]:
            number = min(printed, count)
            instead = "" if number == printed else f" for the paper's {printed}"
            rows[f"{title} ({number}{instead})"] = Row(f"{name}/{printed}", made[number], True)
    return rows


def threats(lab: Lab, setting: Setting, coded: bool) -> dict[str, Threat]:
    """The attacks by the paper's columns, for networks on codes or without."""
    ball, recipe = BALLS[setting.paper], lab.recipe(setting.dataset, "at")
    epsilon, step = (level(setting, recipe, printed) for printed in (ball.epsilon, ball.step))
    if coded:
        long = Threat("ls_pga", epsilon, LOGIT_STEP, ball.steps, levels=LEVELS)
    else:
        long = Threat("pgd", epsilon, step, ball.steps)
    return {"clean": Threat("clean"), "fgsm": Threat("fgsm", epsilon, steps=1), "ls_pga": long}


def network(lab: Lab, setting: Setting, name: str) -> Network:
    """A network by its name in ``models.MODELS``: as the data set's own recipes have it where it
    is theirs, and AT2L's as wide as the budget has them.
    """
    recipe, options = lab.recipe(setting.dataset, "um"), {}
    if recipe.model == name:
        options = dict(recipe.model_options)
    elif name.startswith("mnist_") and lab.budget.width != 1:
        options = {"width": lab.budget.width}
    coded = {"network": name, "levels": LEVELS, "options": options}
    return Network(
        name,
        (f"model={name}", f"model_options={json.dumps(options)}"),
        ("model=thermometer", f"model_options={json.dumps(coded)}"),
    )
