"""Table 3: models trained within l-infinity balls, under l0 and l2 attacks."""

from __future__ import annotations

from fractions import Fraction

from tla_ops.experiments import paper
from tla_ops.experiments.lab import Lab, Setting
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import THREE
from tla_ops.experiments.threat import Threat
from tla_ops.experiments.tla.blocks import accuracy_block, joined, named, radius

NAME = "tla/table3"
NOTES = (
    "JSMA may change the share of pixels that the paper calls its l0 bound, each to its extreme.",
    "C&W is Carlini and Wagner's l2 attack (ART), at most as many iterations at each constant as "
    "the paper's steps; it succeeds where its change is within the paper's l2 bound. The paper "
    "prints a bound and a step size for it: its own may be PGD on their loss.",
    "DeepFool takes two steps and has no bound.",
)


def run(lab: Lab) -> Result:
    blocks = []
    for setting in lab.settings(("mnist", "cifar10")):
        models = {method: lab.trained(setting, method) for method in lab.rows(THREE)}
        blocks.append(
            accuracy_block(lab, NAME, setting, models, threats(lab, setting), group=named(setting))
        )
    return Result([joined("Unseen types of attacks", blocks, notes=NOTES)])


def threats(lab: Lab, setting: Setting) -> dict[str, Threat]:
    """The paper's attacks by column; lengths are scaled where another data set stands in."""
    printed = paper.settings(NAME)[setting.paper]
    pgd, cw = printed["pgd_l2"], printed["cw_l2"]
    return {
        "jsma": Threat("jsma", Fraction(printed["jsma"]["l0"])),
        "pgd_l2": Threat(
            "pgd", radius(lab, setting, pgd["radius"]), radius(lab, setting, pgd["step"]),
            pgd["steps"], norm="l2",
        ),
        "cw_l2": Threat("cw_l2", radius(lab, setting, cw["radius"]), steps=cw["steps"], norm="l2"),
        "deepfool": Threat("deepfool", steps=printed["deepfool"]["steps"], norm="l2"),
    }  # fmt: skip
