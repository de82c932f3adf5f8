"""What the tables and figures of Algorithms 1 and 2 share: networks, attacks and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from tla_ops.experiments import paper
from tla_ops.experiments.at2l.names import DATASETS, GREY, LARGE, NETWORKS, SMALL
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.rounds import Plan, rounds
from tla_ops.experiments.threat import Threat
from tla_ops.training.recipe import Recipe

CW = Threat("carlini", step=Fraction(5, 1000), steps=1000)
"""The paper's C&W, appendix A; its constants are the attack's defaults."""
WEIGHTS = {"at": ("weight",), "at2l": (), "tr": ("adversarial_weight",)}
"""Of equation 2, what a method has at 0: adversarial training is without the triplets, the
regulariser alone without the adversarial images' cross entropy."""


class Ensemble(NamedTuple):
    """What the paper says of one of its experiments with Algorithm 2."""

    members: tuple[str, ...]
    """M, networks by the paper's names."""
    network: str
    """f's."""
    attacked: str
    """The network that adversarial test images are made on: f itself where the attack is known."""
    known: bool
    trained_with: dict[str, list[str]]
    weights: tuple[str, ...]
    """λ1, λ2 and α as overrides of a recipe."""


def ensemble(target: str, dataset: str) -> Ensemble:
    """The paper's settings of a target for one of its data sets.

    Where it does not print f's network, f's is the attacked one of a known attack, and the first
    of M of an unknown one.
    """
    said: dict[str, Any] = paper.settings(target)
    said |= said.get(dataset, {})
    known = said["attack_type"] == "known"
    members = tuple(said["ensemble"])
    return Ensemble(
        members,
        said.get("network") or (said["attacked"] if known else members[0]),
        said["attacked"],
        known,
        said["trained_with"],
        tuple(f"{key}={said[key]}" for key in ("adversarial_weight", "weight", "margin")),
    )


def network(lab: Lab, setting: Setting, name: str) -> tuple[str, ...]:
    """A network by the paper's name, as overrides of a recipe."""
    if setting.dataset in GREY and name in LARGE:
        name = SMALL[LARGE.index(name)]
    options = f"{{width: {lab.budget.width}}}" if name in SMALL and lab.budget.width != 1 else "{}"
    return f"model={NETWORKS[name]}", f"model_options={options}"


def pretrained(lab: Lab, setting: Setting, name: str) -> Trained:
    """A network by the paper's name, trained on clean images: step 1 of the algorithms."""
    return lab.trained(setting, "at2l-pretrain", *network(lab, setting, name))


def threat(recipe: Recipe, kind: str) -> Threat:
    """An attack of A or of a table's columns, with the recipe's ball and steps."""
    if kind == "clean":
        return Threat("clean")
    if kind == "cw":
        return CW
    if kind in ("fgsm", "ll"):
        return Threat(kind, recipe.epsilon, steps=1)
    return Threat(kind, recipe.epsilon, recipe.attack_step, recipe.attack_steps, early_stop=False)


def trained_in_rounds(
    lab: Lab, setting: Setting, setup: Ensemble, method: str, against: str, count: int
) -> list[Trained]:
    """f before the first round, and after each of ``count``: by ``method``, a key of `WEIGHTS`, on
    adversarial images of ``against``, a set of the paper's attacks by its name, or one attack.
    """
    variation = [*network(lab, setting, setup.network), *setup.weights]
    variation += [f"{key}=0" for key in WEIGHTS[method]]
    recipe = lab.recipe(setting.dataset, "at2l-round", *variation)
    others = [pretrained(lab, setting, name) for name in setup.members if name != setup.network]
    plan = Plan(
        recipe,
        pretrained(lab, setting, setup.network),
        tuple(threat(recipe, kind) for kind in setup.trained_with.get(against, [against])),
        tuple(others),
        setup.network in setup.members,
        name=f"{setting.dataset}-{setup.network}-{method}-{against}",
    )
    return rounds(lab, setting, plan, count)


def errors(
    lab: Lab, setting: Setting, setup: Ensemble, model: Trained, column: str
) -> tuple[float, float, Threat]:
    """Share of test images that a model gets wrong under a column's attack, its standard error, and
    the attack: on the model itself where it is known, else on the attacked network's own model.
    """
    recipe = lab.recipe(setting.dataset, "at2l-round")
    attack = threat(recipe, column)
    source = None
    if column != "clean" and not setup.known:
        source = pretrained(lab, setting, setup.attacked)
    row = lab.accuracy(model, attack, lab.test(setting, slow=column == "cw"), source)
    return 1 - row["accuracy"], row["standard_error"], attack


def numbers_of_rounds(lab: Lab, printed: Sequence[int]) -> list[int]:
    """The rounds whose models are looked at: those printed, the last as many as the budget has."""
    most = max(printed) if lab.budget.rounds is None else lab.budget.rounds
    return sorted({min(number, most) for number in printed})


def named(setting: Setting) -> str:
    """The data set and what it stands in for."""
    name = DATASETS[setting.dataset]
    return name if setting.paper == setting.dataset else f"{name} for {DATASETS[setting.paper]}"


def heading(lab: Lab, setting: Setting) -> str:
    """The data set, and how many of its test images are looked at."""
    few, count = len(lab.test(setting, slow=True)), len(lab.test(setting))
    text = f"{named(setting)}, {count:,} test images"
    return text if few == count else f"{text}, {few:,} under C&W"


def stand_ins(setting: Setting, setup: Ensemble) -> list[str]:
    """A note where other networks take the places of the paper's."""
    names = dict.fromkeys((setup.network, setup.attacked, *setup.members))
    if setting.dataset not in GREY or not set(names) & set(LARGE):
        return []
    pairs = ", ".join(f"{SMALL[LARGE.index(name)]} for {name}" for name in names)
    return [f"the networks are those of the paper's Table 6: {pairs}"]


def ball(recipe: Recipe) -> str:
    """The attacks' numbers, in words."""
    steps = f"{recipe.attack_steps} steps of {Fraction(recipe.attack_step)}"
    return f"ε = {recipe.epsilon}; iter FGSM and iter LL take {steps}"
