"""What the tables and figures of Algorithms 1 and 2 share: networks, attacks and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from tla_ops.experiments import paper
from tla_ops.experiments.at2l.names import DATASETS, GREY, LARGE, NETWORKS, SMALL
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.rounds import Plan, fewer, rounds
from tla_ops.experiments.threat import Threat
from tla_ops.training.recipe import Recipe
from tla_ops.training.run_parts import length

CW = Threat("carlini", step=Fraction(5, 1000), steps=1000)
"""The paper's C&W, appendix A; its constants are the attack's defaults."""
KNOWN = "Attacks are on the trained network {0} itself."
UNKNOWN = (
    "The trained network is {0}. Attacks are made on a network {1}, whose structure is not in M, "
    "trained on clean images alone: C&W's error is the share that these images mislead."
)
CLASS = {
    False: "Negatives are of any other class (Algorithm 2, line 13)",
    True: "Negatives are of the class of the mistake (section 3.2)",
}
PACE = " (1000 and 0.005 in the paper: fewer steps are longer ones)"
SATURATED = (
    "C&W's error is the share of images for which it finds a change of any size: without a bound "
    "that can be all of them, whatever the model; how far it has to go says more."
)
CONFUSED = "confused_class=true"
"""Of the recipes' rounds, for Algorithm 1."""
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
    confused_class: bool = False
    """Whether negatives are of the class of the mistake, as in section 3.2, or, as in Algorithm 2,
    of any other."""


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
    if setup.confused_class:
        variation.append(CONFUSED)
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


class Found(NamedTuple):
    """What a column's attack finds: the share of test images that the model gets wrong, its
    standard error, the mean largest change of a pixel, and the attack, within the budget.
    """

    error: float
    spread: float
    change: float
    threat: Threat


def errors(lab: Lab, setting: Setting, setup: Ensemble, model: Trained, column: str) -> Found:
    """A model under a column's attack: on the model itself where that is known, else on the
    attacked network's own model.
    """
    recipe = lab.recipe(setting.dataset, "at2l-round")
    attack = threat(recipe, column)
    source = None
    if column != "clean" and not setup.known:
        source = pretrained(lab, setting, setup.attacked)
    row = lab.accuracy(model, attack, lab.test(setting, slow=column == "cw"), source)
    return Found(
        1 - row["accuracy"], row["standard_error"], row["mean_linf"], attack.within(lab.budget)
    )


def numbers_of_rounds(lab: Lab, printed: Sequence[int]) -> list[int]:
    """The rounds whose models are looked at: those printed, the last as many as the budget has."""
    most = max(printed) if lab.budget.rounds is None else lab.budget.rounds
    return sorted({min(number, most) for number in printed})


def printed_before(setting: Setting, attack: str) -> float | None:
    """The paper's error of a network before the first round, under a known attack: it has
    CIFAR-10's alone.
    """
    return paper.value("at2l/fig1", setting.paper, "um", attack)


def named(setting: Setting) -> str:
    """The data set and what it stands in for."""
    name = DATASETS[setting.dataset]
    return name if setting.paper == setting.dataset else f"{name} for {DATASETS[setting.paper]}"


def heading(lab: Lab, setting: Setting, attacks: Sequence[str] = ("cw",)) -> str:
    """The data set, and how many of its test images are looked at under attacks."""
    few, count = len(lab.test(setting, slow=True)), len(lab.test(setting))
    text = f"{named(setting)}, {count:,} test images"
    return text if few == count or "cw" not in attacks else f"{text}, {few:,} under C&W"


def stand_ins(setting: Setting, setup: Ensemble) -> list[str]:
    """A note where other networks take the places of the paper's."""
    names = dict.fromkeys((setup.network, setup.attacked, *setup.members))
    if setting.dataset not in GREY or not set(names) & set(LARGE):
        return []
    pairs = ", ".join(f"{SMALL[LARGE.index(name)]} for {name}" for name in names)
    return [f"the networks are those of the paper's Table 6: {pairs}"]


def how(lab: Lab, setting: Setting, setup: Ensemble, attacks: Sequence[str]) -> list[str]:
    """Notes: who is attacked, what training meets, and what is chosen where the paper is silent."""
    recipe = lab.recipe(setting.dataset, "at2l-round", *setup.weights)
    notes = [(KNOWN if setup.known else UNKNOWN).format(setup.network, setup.attacked)]
    images = len(fewer(lab, setting).train) - recipe.val_images
    steps = length(recipe, images)
    notes.append(
        f"M = {', '.join(setup.members)}. A round: adversarial images of {images:,} training "
        f"images, {steps:,} steps of {recipe.batch}, from where the round before ended. "
        f"{', '.join(setup.weights).replace('_', ' ')}; ε = {recipe.epsilon}, iter FGSM and iter "
        f"LL take {recipe.attack_steps} steps of {Fraction(recipe.attack_step)}. "
        f"{CLASS[setup.confused_class]}. The paper prints neither how long a round is nor the "
        "optimiser."
    )
    if "cw" in attacks or len(setup.trained_with) > 1:
        cw = CW.within(lab.budget)
        notes.append(
            f"C&W is the l∞ attack without a bound on the change: {cw.steps} steps of Adam at each "
            f"constant, learning rate {float(cw.step):g}{'' if cw == CW else PACE}."
        )
    if "cw" in attacks and setup.known:
        notes.append(SATURATED)
    return notes
