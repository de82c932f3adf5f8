"""What reproductions share: data, checkpoints, adversarial images and accuracies, each made once.

Everything made is a file under one folder, named by what decides its numbers, so that a second run,
or another table that needs the same, finds it:

- ``checkpoints/RECIPE-KEY/``: a run of :mod:`tla_ops.training.trainer`; an interrupted one goes on;
- ``evaluations/KEY.json``: one model under one attack;
- ``adversarial/KEY.pt``: the images of one attack, where more than their accuracy is asked for.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tla_ops.experiments.budget import Budget
from tla_ops.experiments.targets import STAND_IN, stands_for
from tla_ops.experiments.threat import CODE, SLOW, Threat
from tla_ops.experiments.variants import changed, varied
from tla_ops.training import attacks, checkpoint, trainer
from tla_ops.training.attacks import model_mode
from tla_ops.training.data import Dataset, hold_out
from tla_ops.training.evaluate import accuracy
from tla_ops.training.files import plain, write_json
from tla_ops.training.image_set import ImageSet
from tla_ops.training.models import Classifier
from tla_ops.training.recipe import Recipe
from tla_ops.training.run_parts import fingerprint
from tla_ops.training.runlog import triplets

FINE_TUNED = {"tiny-imagenet": "at"}
"""TLA models that the paper fine-tunes, and the method whose model they start from."""

PIXELS = 64 * 64


class Setting(NamedTuple):
    """A data set to work on, and the paper's whose place it takes: mostly itself."""

    dataset: str
    paper: str


class Trained(NamedTuple):
    """A checkpoint, its model in eval mode on the lab's device, and the recipe it was made by;
    ``path`` is its file.
    """

    name: str
    model: Classifier
    recipe: Recipe
    digest: str
    path: Path | None = None


class Lab:
    """Where reproductions are made.

    Args:
        budget: how much work.
        output: the folder.
        datasets: names in `tla_ops.training.data.DATASETS`; None: the stand-in for "smoke", the
            paper's own otherwise.
        load: gives a data set by its name.
        device: cpu, cuda or cuda:N.
        overrides: ``key=value``, for every recipe; a key that a recipe's method lacks is left out.
        images: test images that are attacked, over the budget's; ``slow_images``, of those, how
            many meet the slow attacks, over the budget's.
        without: attacks whose columns accuracy tables leave out, by their names there.
        methods: the rows that accuracy tables have of theirs; None: all.
        seed: of trainings and attacks.
        say: is told what is being done, a line each.
    """

    def __init__(
        self,
        budget: Budget,
        output: Path,
        load: Callable[[str], Dataset],
        *,
        datasets: Sequence[str] | None = None,
        device: str = "cpu",
        overrides: Iterable[str] = (),
        images: int | None = None,
        slow_images: int | None = None,
        without: Sequence[str] = (),
        methods: Sequence[str] | None = None,
        seed: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        counts: dict[str, Any] = {"images": images, "slow_images": slow_images}
        given = {name: count for name, count in counts.items() if count is not None}
        self.budget = replace(budget, **given)
        self.output = output
        self.datasets = datasets
        self.device = torch.device(device)
        self.overrides = tuple(overrides)
        self.changes = [*self.overrides, *(f"{name}={count}" for name, count in given.items())]
        self.without = tuple(without)
        self.changes += [f"without={','.join(self.without)}"] if self.without else []
        self.methods = methods
        self.changes += [f"methods={','.join(methods)}"] if methods is not None else []
        self.seed = seed
        self.say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._load = load
        self._datasets: dict[str, Dataset] = {}
        self._trained: dict[Path, Trained] = {}
        self._recipes: dict[tuple[str, tuple[str, ...]], Recipe] = {}
        self.parts: dict[str, dict[str, Any]] = {}
        self.attacks: list[dict[str, Any]] = []
        self.attack_seconds = 0.0

    def begin(self) -> None:
        """Forget what was asked for: data and runs, :attr:`parts`, :attr:`attacks` and
        :attr:`attack_seconds`, what accuracies took when they were measured, are a target's own.
        """
        self.parts, self.attacks, self.attack_seconds = {}, [], 0.0

    def place(self, name: str) -> Path:
        """The folder of a target's results; what was chosen beside the budget is in its name, so
        that other choices are kept beside it.
        """
        chosen = [*(self.datasets or ()), *([f"seed{self.seed}"] if self.seed else [])]
        if self.changes:
            chosen.append(digest(self.changes)[:6])
        return self.output / self.budget.name / "-".join([name, *chosen])

    @contextmanager
    def threads(self) -> Iterator[None]:
        """One thread where all that is worked on is the stand-in: its layers are too small to gain
        from more, and one gives the same numbers on any number of cores.
        """
        before = torch.get_num_threads()
        datasets = self.datasets or ([STAND_IN] if self.budget.name == "smoke" else [])
        torch.set_num_threads(1 if list(datasets) == [STAND_IN] else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def settings(self, papers: Sequence[str]) -> list[Setting]:
        """The data sets to work on, of the paper's ones for a target."""
        chosen = self.datasets
        if chosen is None:
            chosen = [STAND_IN] if self.budget.name == "smoke" else papers
        return [
            Setting(name, name if name in papers else stands_for(name, papers))
            for name in chosen
            if name in papers or stands_for(name, papers)
        ]

    def rows(self, methods: Sequence[str]) -> list[str]:
        """The methods that an accuracy table has, of its own ones."""
        return [name for name in methods if self.methods is None or name in self.methods]

    def dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            self._datasets[name] = self._load(name)
        return self._datasets[name]

    def recipe(self, dataset: str, method: str, *variation: str) -> Recipe:
        """The recipe ``DATASET-METHOD`` as this lab runs it: the budget's keys, then the target's
        ``variation``, then the user's over it.

        Raises:
            RecipeError: an override that does not make sense, or leaves nothing to measure.
        """
        name = f"{dataset}-{method}"
        if (name, variation) not in self._recipes:
            layers = (self.budget.overrides(dataset, name), variation, self.overrides)
            self._recipes[name, variation] = varied(name, self.seed, *layers)
        return self._recipes[name, variation]

    def trained(
        self, setting: Setting, method: str, *variation: str, data: Dataset | None = None
    ) -> Trained:
        """The model of ``DATASET-METHOD`` and a ``variation`` of its recipe: found, or trained, on
        ``data`` in place of the setting's where given.
        """
        data = data or self.dataset(setting.dataset)
        start = _start(setting.dataset, method)
        if start is not None:
            self.trained(setting, start)
        recipe, folder = self._place(setting.dataset, method, *variation, data=data)
        if not read_json(folder / "result.json"):
            (folder / "result.json").unlink(missing_ok=True)  # damaged: last.pt has what it said
            self.say(f"training {recipe.name} ({folder.name})")
            trainer.train(recipe, data, folder, resume=True, device=str(self.device))
        made = self.read(folder / "best.pt", recipe)
        self._record(setting, made, folder)
        return made

    def read(self, path: Path, recipe: Recipe, name: str = "", *, keep: bool = True) -> Trained:
        """A checkpoint's model, called ``name``, or as the recipe. ``keep`` keeps it in memory as
        long as the lab is, and its first name for whoever gives none.
        """
        made = self._trained.get(path)
        if made is None:
            model, _ = checkpoint.read_model(path)
            content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            made = Trained(name or recipe.name, model.to(self.device), recipe, content, path)
            if keep:
                self._trained[path] = made
        return made if name in ("", made.name) else made._replace(name=name)

    def test(self, setting: Setting, slow: bool = False) -> ImageSet:
        """Test images that are attacked, on the lab's device: a fixed, stratified choice."""
        count = self.budget.images
        if slow and self.budget.slow_images is not None:
            count = min(self.budget.slow_images, count or self.budget.slow_images)
        return self._some(setting, self.dataset(setting.dataset).test, count)

    def of_class(self, setting: Setting, label: int, count: int | None) -> ImageSet:
        """Test images of one class, at most ``count`` and the budget's ``images``, on the lab's
        device: the first.
        """
        test = self.dataset(setting.dataset).test
        rows = (test.labels == label).nonzero()[:, 0]
        for limit in (count, self.budget.images):
            rows = rows[:limit]
        return test.subset(rows).to(self.device)

    def pool(self, setting: Setting) -> ImageSet:
        """Training images whose features others are compared with, on the lab's device."""
        return self._some(setting, self.dataset(setting.dataset).train, self.budget.pool)

    def accuracy(
        self,
        trained: Trained,
        threat: Threat,
        images: ImageSet,
        source: Trained | None = None,
    ) -> dict[str, Any]:
        """Accuracy under an attack, as `tla_ops.training.evaluate.evaluate` has its rows, and
        ``threat``, the attack's numbers within the budget.
        """
        threat = threat.within(self.budget)
        about = self._about(trained, threat, images, source)

        def measure() -> dict[str, Any]:
            started = time.perf_counter()
            adversarial = self._attacked(trained, threat, images, source)
            size = self.at_a_time(images)
            share = accuracy(trained.model, adversarial, images.labels, size)
            change = (adversarial - images.images).flatten(1)
            return {
                "accuracy": share,
                "standard_error": (share * (1 - share) / len(images)) ** 0.5,
                "mean_linf": change.abs().amax(1).mean().item(),
                "mean_l2": change.norm(dim=1).mean().item(),
                "seconds": time.perf_counter() - started,
            }

        row = self.kept(f"{trained.name}: {threat.kind} {threat.effort()}".rstrip(), about, measure)
        self.attack_seconds += row["seconds"]
        return row | {"images": len(images), "threat": threat.as_dict()}

    def kept(
        self, name: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """What ``measure`` finds, which ``about`` decides: plain values, measured once."""
        stem = name.partition(":")[0]
        path = self.output / "evaluations" / f"{stem}-{digest(about)[:16]}.json"
        kept = read_json(path)
        if kept.get("about") != plain(about) or not isinstance(kept.get("found"), dict):
            self.say(name)
            write_json(path, {"name": name, "about": about, "found": measure()})
            kept = read_json(path)
        found: dict[str, Any] = kept["found"]
        return found

    def adversarial(self, trained: Trained, threat: Threat, images: ImageSet) -> Tensor:
        """Adversarial images (N, C, H, W) on the lab's device."""
        threat = threat.within(self.budget)
        key = digest(self._about(trained, threat, images, None))
        path = self.output / "adversarial" / f"{trained.name}-{threat.kind}-{key[:16]}.pt"
        with suppress(FileNotFoundError, checkpoint.CheckpointError, KeyError):
            kept: Tensor = checkpoint.read(path)["images"]
            return kept.to(self.device)
        self.say(f"{trained.name}: {len(images)} images under {threat.kind} {threat.effort()}")
        adversarial = self._attacked(trained, threat, images, None)
        checkpoint.save(path, {"images": adversarial.cpu()})
        return adversarial

    def features(self, trained: Trained, images: Tensor | ImageSet) -> Tensor:
        """Penultimate features (N, D) in eval mode."""
        return self._forwarded(trained, images, trained.model.features)

    def predictions(self, trained: Trained, images: Tensor | ImageSet) -> Tensor:
        """Classes (N,) in eval mode."""
        return self._forwarded(trained, images, trained.model).argmax(1)

    @torch.no_grad()
    def _forwarded(
        self, trained: Trained, images: Tensor | ImageSet, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        take = images.take if isinstance(images, ImageSet) else images.__getitem__
        rows = torch.arange(len(images), device=self.device).split(self.at_a_time(images))
        with model_mode(trained.model, "eval"):
            return torch.cat([function(take(part)) for part in rows])

    @cached_property
    def batch(self) -> int:
        """Images at a time, of 64 x 64 pixels or less."""
        return 1000 if self.device.type == "cuda" else 200

    def at_a_time(self, images: Tensor | ImageSet) -> int:
        """Of these images: fewer where they are larger."""
        shape = images.image_shape if isinstance(images, ImageSet) else images.shape[1:]
        return max(1, self.batch * PIXELS // max(PIXELS, shape[-2] * shape[-1]))

    def _attacked(
        self, trained: Trained, threat: Threat, images: ImageSet, source: Trained | None
    ) -> Tensor:
        if source is not None and threat.kind in SLOW:  # for all models that meet these images
            return self.adversarial(source, threat, images)
        attack = threat.attack(self.seed, None if source is None else source.model)
        if threat.kind not in SLOW:  # which take batches of their own
            attack = attacks.in_batches(attack, self.at_a_time(images))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            return attack(trained.model, images.images, images.labels)

    def _some(self, setting: Setting, images: ImageSet, count: int | None) -> ImageSet:
        if count is not None and count < len(images):
            images = hold_out(images, count)[1]
        return images.to(self.device)

    def _about(
        self, trained: Trained, threat: Threat, images: ImageSet, source: Trained | None
    ) -> dict[str, Any]:
        """All that decides what an attack finds."""
        if (numbers := threat.as_dict()) not in self.attacks:
            self.attacks.append(numbers)
        return {
            "code": CODE,
            "threat": threat.as_dict(),
            "model": trained.digest,
            "source": None if source is None else source.digest,
            "images": identified(images),
            "seed": self.seed,
        }

    def _place(
        self, dataset: str, method: str, *variation: str, data: Dataset
    ) -> tuple[Recipe, Path]:
        """The recipe and the folder of its run, named by all that decides the weights."""
        recipe, before = self.recipe(dataset, method, *variation), None
        start = _start(dataset, method)
        if start is not None:
            before = self._place(dataset, start, data=self.dataset(dataset))[1]
        weights = recipe.as_dict()
        del weights["eval_step"]  # an evaluation's alone
        key = digest(
            weights,
            identified(data.train),
            None if before is None else before.name,
        )
        if before is not None:
            recipe = replace(recipe, init_from=str(before / "best.pt"))
        return recipe, self.output / "checkpoints" / f"{recipe.name}-{key[:12]}"

    def _record(self, setting: Setting, made: Trained, folder: Path) -> None:
        result = read_json(folder / "result.json")
        self.record(
            setting,
            {
                "method": made.recipe.method,
                "name": made.name,
                "steps": result["step"],
                "best_step": result["best"]["step"],
                "seconds": result.get("seconds"),
                "triplets": _triplets(folder / "metrics.csv"),
                "seed": made.recipe.seed,
                "checkpoint": str((folder / "best.pt").relative_to(self.output)),
                "recipe": made.recipe.as_dict(),
                "changed": changed(made.recipe),
            },
        )

    def record(self, setting: Setting, run: dict[str, Any]) -> None:
        """Count a run among those that a target stands on."""
        dataset = self.dataset(setting.dataset)
        part = self.parts.setdefault(
            setting.dataset,
            {
                "dataset": setting.dataset,
                "stands_in_for": None if setting.paper == setting.dataset else setting.paper,
                "images": min(self.budget.images or len(dataset.test), len(dataset.test)),
                "notes": list(dataset.notes),
                "runs": [],
            },
        )
        run = plain(run)
        if run not in part["runs"]:
            part["runs"].append(run)


def _triplets(path: Path) -> dict[str, list[float]]:
    with suppress(ValueError):  # damaged: the model is whole without its curves
        return triplets(path)
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object's content; nothing where the file is missing or damaged."""
    with suppress(FileNotFoundError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def identified(images: ImageSet) -> str:
    """Of the pixels that a model sees, which the stored bytes and their scale decide."""
    return f"{fingerprint(images)}/{images.scale:g}"


def _start(dataset: str, method: str) -> str | None:
    return FINE_TUNED.get(dataset) if method.startswith("tla") else None


def digest(*content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
