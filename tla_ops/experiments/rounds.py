"""Models trained in rounds against stored adversarial images: AT2L's Algorithms 1 and 2."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tla_ops.experiments.lab import Lab, Setting, Trained, digest, identified, read_json
from tla_ops.experiments.threat import CODE, Threat
from tla_ops.experiments.variants import changed
from tla_ops.training import adversarial_set
from tla_ops.training.adversarial_set import AdversarialSet
from tla_ops.training.classifier import Classifier
from tla_ops.training.data import Dataset
from tla_ops.training.image_set import ImageSet
from tla_ops.training.recipe import Recipe
from tla_ops.training.rounds import train_rounds
from tla_ops.training.run_parts import learned


class Plan(NamedTuple):
    """What a model f is trained against, and how, in each round."""

    recipe: Recipe
    """Of one round: f's network, the loss' weights, the steps."""
    start: Trained
    """f before the first round."""
    threats: tuple[Threat, ...]
    """The paper's A."""
    others: tuple[Trained, ...] = ()
    """Networks of the paper's M whose weights stay as they are."""
    own: bool = True
    """Whether f, as it is when a round begins, is in M."""
    dataset: Dataset | None = None
    """Images in place of the setting's."""


def rounds(lab: Lab, setting: Setting, plan: Plan, count: int) -> list[Trained]:
    """f before the first round, and after each of ``count``: found, or trained."""
    data = plan.dataset or fewer(lab, setting)
    threats = [threat.within(lab.budget) for threat in plan.threats]
    members = [*plan.others, *([plan.start] * plan.own)]
    key = digest(
        CODE,
        plan.recipe.as_dict(),
        identified(data.train),
        plan.start.digest,
        [threat.as_dict() for threat in threats],
        sorted(other.digest for other in plan.others),
        plan.own,
    )
    folder = lab.output / "rounds" / f"{plan.recipe.name}-{key[:12]}"
    known = {member.path: member for member in members}

    def sets(path: Path, images: ImageSet) -> list[AdversarialSet]:
        """Those against networks that other plans meet, too, are kept beside all plans."""
        member = known.get(path) or lab.read(path, plan.recipe)
        return stored(lab, member, threats, images, keep=path in known or folder)
