"""Attacks as values: what one column of a table does to a model, comparable and cacheable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tla_ops.experiments.budget import Budget
from tla_ops.training import art_attacks, attacks, defences
from tla_ops.training.attacks import Attack
from tla_ops.training.evaluate import RESTARTS
from tla_ops.training.recipe import Recipe

SLOW = ("autoattack", "deepfool", "cw_l2", "jsma", "carlini")
"""Kinds that take long, and take batches of their own."""
AUTOATTACK_STEPS, AUTOATTACK_RESTARTS, AUTOATTACK_QUERIES = 100, 5, 5000


@dataclass(frozen=True)
class Threat:
    """An attack with all its numbers.

    ``kind`` is "clean", "fgsm", "bim", "pgd", "mim", "cw", "ll", "ill", "transfer" (PGD on another
    model), "ls_pga", "carlini", "autoattack", "deepfool", "cw_l2" or "jsma". ``epsilon`` is the
    ball's radius; for "cw_l2" the largest l2 change that counts as a success, for "deepfool" the
    same, 0 being no limit, for "carlini" the largest l-infinity change, 0 being no limit, and for
    "jsma" the largest share of pixels that may change. The ``step`` of "ls_pga" is in units of its
    logits, that of "carlini" Adam's learning rate.
    """

    kind: str
    epsilon: Fraction = Fraction(0)
    step: Fraction = Fraction(0)
    steps: int = 0
    restarts: int = 1
    norm: str = "linf"
    queries: int = 0
    early_stop: bool = True
    """Of BIM and PGD: stop where the model is misled. Accuracy asks no more; where an attack takes
    an image, it does."""
    levels: int = 0
    """Of LS-PGA: those of the model's thermometer codes."""

    def within(self, budget: Budget) -> Threat:
        """The same attack with at most the budget's steps, restarts and queries; fewer steps of
        "carlini" are longer by as much, since its way is a long one.
        """

        def least(value: int, limit: int | None) -> int:
            return value if limit is None else min(value, limit)

        steps = least(self.steps, budget.cw_steps if self.kind == "carlini" else budget.steps)
        return replace(
            self,
            step=self.step * self.steps / steps if self.kind == "carlini" else self.step,
            steps=steps,
            restarts=least(self.restarts, budget.restarts),
            queries=least(self.queries, budget.queries),
        )

    def to_the_end(self) -> Threat:
        """The same attack without an early stop."""
        return replace(self, early_stop=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; fractions as text."""
        return {
            "kind": self.kind,
            "epsilon": str(self.epsilon),
            "step": str(self.step),
            "steps": self.steps,
            "restarts": self.restarts,
            "norm": self.norm,
            "queries": self.queries,
            "early_stop": self.early_stop,
            "levels": self.levels,
        }

    def effort(self) -> str:
        """Steps and restarts as a table's head has them; empty where the kind has none."""
        if not self.steps:
            return ""
        steps = f"{self.steps} step{'s' if self.steps != 1 else ''}"
        return steps if self.restarts == 1 else f"{steps} × {self.restarts} restarts"

    def attack(self, seed: int, source: nn.Module | None = None) -> Attack:
        """The attack as a function (model, images, labels) to adversarial images: those that it
        makes on ``source``, whatever the model, where one is given. "transfer" needs one; others
        that stop early stop where the source is misled.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "transfer" and source is None:
            raise ValueError("source must be a model for transfer, got None")
        made = KINDS[self.kind](self, seed)
        return made if source is None else partial(attacks.transfer, source=source, attack=made)


def from_recipe(recipe: Recipe, name: str) -> Threat:
    """A column of the papers' accuracy tables, as `tla-ops evaluate` calls it, with the recipe's
    ball, and its evaluation's steps.
    """
    if name == "clean":
        return Threat("clean")
    if name == "fgsm":
        return Threat("fgsm", recipe.epsilon, steps=1)
    if name == "autoattack":
        return Threat(
            "autoattack", recipe.epsilon, steps=AUTOATTACK_STEPS, restarts=AUTOATTACK_RESTARTS,
            norm=recipe.attack_norm, queries=AUTOATTACK_QUERIES,
        )  # fmt: skip
    kind = {"pgd_long": "pgd", "pgd20r": "pgd"}.get(name, name)
    return Threat(
        kind, recipe.epsilon, recipe.evaluation_step, recipe.eval_steps[name],
        restarts=RESTARTS if name == "pgd20r" else 1,
        norm="linf" if kind in ("mim", "cw") else recipe.attack_norm,
        early_stop=kind != "transfer",
    )  # fmt: skip


def _iterated(function: Callable[..., Tensor]) -> Callable[[Threat, int], Attack]:
    def make(threat: Threat, seed: int) -> Attack:
        options: dict[str, Any] = {
            "epsilon": threat.epsilon, "step": threat.step, "steps": threat.steps
        }  # fmt: skip
        if function is attacks.pgd:
            options["restarts"] = threat.restarts
        if function in (attacks.pgd, attacks.bim):
            options |= {"norm": threat.norm, "early_stop": threat.early_stop}
        return partial(function, **options)

    return make


def _ls_pga(threat: Threat, seed: int) -> Attack:
    return partial(
        defences.ls_pga, epsilon=threat.epsilon, steps=threat.steps, levels=threat.levels,
        step=float(threat.step),
    )  # fmt: skip


def _in_ball(attack: Attack, radius: Fraction, order: float = 2) -> Attack:
    """An attack without a ball of its own: what moved an image further than ``radius`` in the norm
    of that order is no success, and the clean image stands in for it.
    """

    def bounded(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        adversarial = attack(model, images, labels)
        moved = (adversarial - images).flatten(1).norm(order, dim=1)
        far = moved > float(radius) * (1 + 1e-6)
        return torch.where(far.view(-1, *[1] * (images.ndim - 1)), images, adversarial)

    return bounded


def _carlini(threat: Threat, seed: int) -> Attack:
    carlini = import_module("tla_ops.training.carlini")
    attack = partial(carlini.carlini_linf, steps=threat.steps, learning_rate=float(threat.step))
    return _in_ball(attack, threat.epsilon, torch.inf) if threat.epsilon else attack


def _deepfool(threat: Threat, seed: int) -> Attack:
    attack = partial(art_attacks.deepfool, steps=threat.steps)
    return _in_ball(attack, threat.epsilon) if threat.epsilon else attack


def _cw_l2(threat: Threat, seed: int) -> Attack:
    return _in_ball(partial(art_attacks.cw_l2, steps=threat.steps), threat.epsilon)


def _jsma(threat: Threat, seed: int) -> Attack:
    def bounded(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        size = images.shape[1:].numel()
        pairs = int(threat.epsilon * size) // 2
        if pairs == 0:
            return images
        # ART changes a further pair while the share that has changed is not above gamma.
        share = (2 * pairs - 1) / size
        return art_attacks.jsma(model, images, labels, theta=1.0, gamma=share)

    return bounded


def _autoattack(threat: Threat, seed: int) -> Attack:
    norm: Any = threat.norm
    return partial(
        art_attacks.autoattack, epsilon=threat.epsilon, norm=norm, steps=threat.steps,
        restarts=threat.restarts, queries=threat.queries, seed=seed,
    )  # fmt: skip


KINDS: dict[str, Callable[[Threat, int], Attack]] = {
    "clean": lambda threat, seed: lambda model, images, labels: images,
    "fgsm": lambda threat, seed: partial(attacks.fgsm, epsilon=threat.epsilon),
    "bim": _iterated(attacks.bim),
    "pgd": _iterated(attacks.pgd),
    "mim": _iterated(attacks.mim),
    "cw": _iterated(attacks.cw_linf),
    "ll": lambda threat, seed: partial(attacks.ll, epsilon=threat.epsilon),
    "ill": _iterated(attacks.ill),
    "transfer": _iterated(attacks.pgd),
    "ls_pga": _ls_pga,
    "carlini": _carlini,
    "autoattack": _autoattack,
    "deepfool": _deepfool,
    "cw_l2": _cw_l2,
    "jsma": _jsma,
}


SOURCES = ("_ascent", "attacks", "art_attacks", "carlini", "defences", "family")
"""Modules of :mod:`tla_ops.training` that attacks are in."""


def _code() -> str:
    digest = hashlib.blake2b(digest_size=8)
    beside = Path(attacks.__file__)
    for path in (*(beside.with_name(f"{name}.py") for name in SOURCES), Path(__file__)):
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()


CODE = _code()
"""Of the sources of all attacks: what another version of them found is not used again."""
