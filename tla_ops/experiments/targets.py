"""The list of targets, in the order of the papers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tla_ops.experiments.target import Target

ALL = ("mnist", "cifar10", "tiny-imagenet")
WEIGHTS = ("model", "model_options", "adversarial_weight", "weight", "margin")
STAND_IN = "digits"
"""Embedded in scikit-learn; takes the place of a target's first data set where none is given."""
STAND_INS = {"cifar10-cats-dogs": "cats-vs-dogs", "cifar10": "imagenet"}
"""Data sets that take the place of one where a user chooses them."""
TABLE1 = ("um", "at", "alp", "tla-rn", "tla-sa", "tla")
FOUR = ("um", "at", "alp", "tla")
THREE = ("at", "alp", "tla")
ROUNDS = ("at2l-pretrain", "at2l-round")
AT2L = ("cats-vs-dogs", "mnist", "cifar10")
TORCHVISION = dict.fromkeys(("cats-vs-dogs", "cifar10-cats-dogs", "cifar10"), "torchvision")
"""Data sets that AT2L has torchvision's networks for."""
ATTACKED = {"tla/table1", "tla/table3", "tla/table4"}
"""Tables of methods by attacks, of which `--methods` and `--without` choose rows and columns."""
ORIGINALS = {"imagenet": "timm", "cifar10": "torchvision"}
"""What the networks behind random layers, and those in their place, are made with."""


def _thermometer(*tables: tuple[str, str, str]) -> list[Target]:
    return [
        Target(
            f"at2l/{table}", f"Thermometer codes with triplets, {how} attack", "at2l.thermometer",
            (dataset,), ROUNDS, arguments={"table": table}, sets=WEIGHTS,
        )
        for table, how, dataset in tables
    ]  # fmt: skip


_TARGETS = [
    Target(
        "tla/table1", "Accuracy under l∞ attacks", "tla.table1", ALL, TABLE1,
        extras=("art", "multiprocess"),
    ),
    Target(
        "tla/table2", "Size of the mini-batch that negatives come from", "tla.table2",
        ("cifar10",), ("tla", "tla-rn"), sets=("candidates", "bank"),
    ),
    Target(
        "tla/table3", "Attacks that no model was trained against", "tla.table3",
        ("mnist", "cifar10"), THREE, extras=("art",),
    ),
    Target(
        "tla/table4", "Other networks: MLP and ConvNet", "tla.table4", ("mnist", "cifar10"), FOUR
    ),
    Target(
        "tla/table5", "Distance of adversarial images to their false class (r)", "tla.separation",
        ALL, THREE, arguments={"toward": "false"},
    ),
    Target("tla/table6", "K nearest neighbours in feature space", "tla.table6", ALL, THREE),
    Target(
        "tla/fig1", "Adversarial images of deer, t-SNE", "tla.tsne", ("cifar10",), FOUR,
        arguments={"figure": "fig1"},
    ),
    Target(
        "tla/fig2", "Adversarial trucks and natural birds, t-SNE", "tla.tsne", ("cifar10",),
        FOUR, arguments={"figure": "fig2"},
    ),
    Target(
        "tla/fig4", "Nearest neighbours of a clean and an adversarial image", "tla.retrieval",
        ("cifar10",), ("at", "tla"), arguments={"figure": "fig4"},
    ),
    Target("tla/fig5", "Detection of misclassified images: ROC", "tla.fig5", ALL, THREE),
    Target(
        "tla/supp-table3", "Distance of adversarial images to their true class (r′)",
        "tla.separation", ALL, FOUR, arguments={"toward": "true"},
    ),
    Target(
        "tla/supp-table4", "Weight of the triplet loss", "tla.sweeps", ("mnist",), ("tla",),
        arguments={"table": "supp-table4"}, sets=("weight",),
    ),
    Target(
        "tla/supp-table5", "Margin of the triplet loss", "tla.sweeps", ("mnist",), ("tla",),
        arguments={"table": "supp-table5"}, sets=("weight", "margin"),
    ),
    Target(
        "tla/supp-table6", "Layer of the triplet loss", "tla.sweeps", ("mnist",), ("tla",),
        arguments={"table": "supp-table6"}, sets=("weight", "layer"),
    ),
    *(
        Target(
            f"tla/supp-fig{number}", f"Adversarial {what}, t-SNE", "tla.tsne", ("cifar10",), FOUR,
            arguments={"figure": f"supp-fig{number}"},
        )
        for number, what in enumerate(
            (
                "images of airplane, automobile, bird", "images of cat, dog, frog",
                "images of horse, ship, truck", "frogs and natural horses",
                "horses and natural airplanes", "airplanes and natural horses",
            ),
            1,
        )
    ),
    Target(
        "tla/supp-fig7", "Nearest neighbours by AT, ALP and TLA", "tla.retrieval", ("cifar10",),
        THREE, arguments={"figure": "supp-fig7"},
    ),
    Target(
        "tla/supp-fig8", "Loss along two random directions", "tla.landscape", ("tiny-imagenet",),
        THREE,
    ),
    Target(
        "at2l/fig1", "Rounds of AT2L against attacks on the network itself", "at2l.curves", AT2L,
        ROUNDS, arguments={"figure": "fig1"}, sets=WEIGHTS, packages=TORCHVISION,
    ),
    Target(
        "at2l/fig2", "Rounds of AT2L against images made on another network", "at2l.curves", AT2L,
        ROUNDS, arguments={"figure": "fig2"}, sets=WEIGHTS, packages=TORCHVISION,
    ),
    Target(
        "at2l/fig3", "Triplet regularisation alone", "at2l.curves", ("mnist",), ROUNDS,
        arguments={"figure": "fig3"}, sets=WEIGHTS,
    ),
    *_thermometer(("table1", "known", "cifar10")),
    Target(
        "at2l/table2", "Random resizing and padding, unknown to the attacker",
        "at2l.randomization", ("imagenet",), ("at2l-round",), extras=("art",),
        arguments={"table": "table2"}, sets=WEIGHTS, packages=ORIGINALS,
    ),
    Target(
        "at2l/table3", "Defense-GAN with triplets", "at2l.defense_gan", ("mnist",), ROUNDS,
        arguments={"table": "table3"}, sets=WEIGHTS,
    ),
    *(
        Target(
            f"at2l/app-table{number}", f"Rounds of AT2L, {how} attack", "at2l.rounds_table",
            (dataset,), ROUNDS, arguments={"table": f"app-table{number}"}, sets=WEIGHTS,
            packages=TORCHVISION,
        )
        for number, how, dataset in (
            (4, "known", "cats-vs-dogs"), (5, "unknown", "cats-vs-dogs"), (7, "known", "mnist"),
            (8, "unknown", "mnist"), (9, "known", "cifar10"), (10, "unknown", "cifar10"),
        )
    ),
    *_thermometer(
        ("app-table11", "known", "mnist"), ("app-table12", "known", "cifar10"),
        ("app-table13", "unknown", "mnist"), ("app-table14", "unknown", "cifar10"),
    ),
    *(
        Target(
            f"at2l/app-table{number}", f"Random resizing and padding, {how}",
            "at2l.randomization", ("imagenet",), ("at2l-round",), extras=("art",),
            arguments={"table": f"app-table{number}"}, sets=WEIGHTS, packages=ORIGINALS,
        )
        for number, how in (
            (15, "unknown to the attacker"), (16, "attacked over fixed patterns")
        )
    ),
    Target(
        "at2l/app-table17", "Defense-GAN, adversarial training and AT2L", "at2l.defense_gan",
        ("mnist",), ROUNDS, arguments={"table": "app-table17"}, sets=WEIGHTS,
    ),
]  # fmt: skip
TARGETS: dict[str, Target] = {target.name: target for target in _TARGETS}


def stands_for(dataset: str, papers: Sequence[str]) -> str:
    """Which of the paper's data sets for a target another one takes the place of; "" for none."""
    if dataset == STAND_IN:
        return papers[0]
    return STAND_INS[dataset] if STAND_INS.get(dataset) in papers else ""


def chosen(names: Sequence[str]) -> list[Target]:
    """Targets by name, or all of a paper by its ("tla"), in the list's order.

    Raises:
        ValueError: for an unknown name, with what is near it.
    """
    papers = {name.partition("/")[0] for name in TARGETS}
    for name in names:
        if name not in TARGETS and name not in papers:
            near = difflib.get_close_matches(name, TARGETS, 1, 0.5)
            hint = f", did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"TARGET must be one of {', '.join((*sorted(papers), *TARGETS))}, "
                f"got {name!r}{hint}"
            )
    return [
        target
        for name, target in TARGETS.items()
        if name in names or name.partition("/")[0] in names
    ]
