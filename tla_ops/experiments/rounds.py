"""Models trained in rounds against stored adversarial images: AT2L's Algorithms 1 and 2."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tla_ops.experiments.lab import Lab, Setting, Trained, digest, identified, read_json
from tla_ops.experiments.threat import CODE, Threat
from tla_ops.experiments.variants import changed
from tla_ops.training import family, set_builder
from tla_ops.training.adversarial_set import AdversarialSet
from tla_ops.training.data import Dataset
from tla_ops.training.files import write_json
from tla_ops.training.image_set import ImageSet, hold_out
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
    name: str = ""
    """What the models are called, a part of a file's name; the recipe's name if not given."""


def rounds(lab: Lab, setting: Setting, plan: Plan, count: int) -> list[Trained]:
    """f before the first round, and after each of ``count``: found, or trained."""
    data = plan.dataset or fewer(lab, setting)
    threats = [threat.within(lab.budget) for threat in plan.threats]
    lab.attacks += [numbers for one in threats if (numbers := one.as_dict()) not in lab.attacks]
    members = {one.path: one for one in (*plan.others, plan.start)}
    key = digest(
        CODE,
        plan.recipe.as_dict(),
        identified(data.train),
        plan.start.digest,
        [threat.as_dict() for threat in threats],
        [other.digest for other in plan.others],
        plan.own,
        lab.seed,
    )
    folder = lab.output / "rounds" / f"{plan.recipe.name}-{key[:12]}"

    rates: dict[str, dict[str, float]] = read_json(folder / "sets.json")

    def sets(path: Path, images: ImageSet) -> list[AdversarialSet]:
        # Those against networks that other plans meet, too, are kept beside all plans.
        own = path not in members
        member = lab.read(path, plan.recipe, keep=False) if own else members[path]
        place = folder / "sets" / path.stem if own else lab.output / "sets"
        for old in (folder / "sets").glob("*"):
            if own and old != place:  # of the round before
                shutil.rmtree(old)
        made = stored(lab, place, member, threats, images)
        named = "f" if path == _file(plan.start) or own else member.recipe.model
        rates.setdefault(named, {})
        for one in made:
            kind = one.about["threat"]["kind"]
            rates[named][kind] = round(one.images_per_second, 1)
        write_json(folder / "sets.json", rates)
        return made

    made = train_rounds(
        plan.recipe,
        data,
        folder,
        start=_file(plan.start),
        sets=sets,
        others=[_file(other) for other in plan.others],
        own=plan.own,
        rounds=count,
        device=str(lab.device),
    )
    shutil.rmtree(folder / "sets", ignore_errors=True)
    models, name = [plan.start], plan.name or plan.recipe.name
    for number, path in enumerate(made[1:], 1):
        # A full table has hundreds of them: they stay in memory as long as somebody has them.
        models.append(lab.read(path, plan.recipe, f"{name}-round{number}", keep=False))
    lab.record(
        setting,
        {
            "method": plan.recipe.method,
            "name": name,
            "rounds": count,
            "attacks": [threat.kind for threat in threats],
            "networks": ["f"] * plan.own + [other.recipe.model for other in plan.others],
            "images": len(learned(plan.recipe, data)[0]),
            "images_per_second": rates,
            "seed": plan.recipe.seed,
            "checkpoint": str(made[-1].relative_to(lab.output)),
            "recipe": plan.recipe.as_dict(),
            "changed": changed(plan.recipe),
        },
    )
    return models


def stored(
    lab: Lab, folder: Path, member: Trained, threats: Sequence[Threat], images: ImageSet
) -> list[AdversarialSet]:
    """The adversarial sets of images against a network: found in a folder, or made there."""
    made: dict[Threat, AdversarialSet] = {}
    for group in _groups(threats):
        wanted = [_wanted(lab, folder, member, threat, images) for threat in group]
        attack: set_builder.Family = set_builder.only(group[0].attack(lab.seed))
        if len(group) > 1:
            longest = max(group, key=lambda threat: threat.step)
            attack = partial(
                family.gradient_family,
                epsilon=longest.epsilon,
                step=longest.step,
                steps=longest.steps,
            )
        sets = set_builder.build(
            wanted, attack, member.model, images, batch=lab.at_a_time(images), seed=lab.seed
        )
        made |= zip(group, sets, strict=True)
    return [made[threat] for threat in threats]


def _groups(threats: Sequence[Threat]) -> list[list[Threat]]:
    """Gradient attacks that can share their passes, and others each alone."""
    shared = [threat for threat in threats if threat.kind in family.KINDS]
    balls = {threat.epsilon for threat in shared}
    iterated = {(threat.step, threat.steps) for threat in shared if threat.step}
    if len(balls) > 1 or len(iterated) > 1:
        shared = []
    return [*([shared] if shared else []), *([one] for one in threats if one not in shared)]


def _wanted(
    lab: Lab, folder: Path, member: Trained, threat: Threat, images: ImageSet
) -> set_builder.Wanted:
    about = {
        "code": CODE,
        "threat": threat.as_dict(),
        "network": member.recipe.model,
        "model": member.digest,
        "images": identified(images),
    }
    place = folder / f"{threat.kind}-{digest(about, lab.seed)[:16]}"
    return set_builder.Wanted(threat.kind, place, about, threat.epsilon or None)


def fewer(lab: Lab, setting: Setting) -> Dataset:
    """The setting's data set with at most the budget's training images, a stratified choice."""
    data, count = lab.dataset(setting.dataset), lab.budget.learned.get(setting.dataset)
    if count is None or count >= len(data.train):
        return data
    return data._replace(train=hold_out(data.train, count)[1])


def _file(trained: Trained) -> Path:
    if trained.path is None:
        raise ValueError(f"rounds: {trained.name} must have a checkpoint, got none")
    return trained.path
