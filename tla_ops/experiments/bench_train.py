"""`tla-ops bench train`: images a second of whole training steps, beside loops that people write.

Every implementation takes the same steps on the same images: attack, loss, backward, update. They
take turns, so that noise falls on all alike. What an attack is worth is measured beside its speed:
`attacked_loss` is the cross entropy of one and the same model on each implementation's images.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tla_ops.training.attacks import Attack, model_mode
from tla_ops.training.augment import AUGMENT
from tla_ops.training.data import Dataset
from tla_ops.training.files import write_json
from tla_ops.training.image_set import ImageSet
from tla_ops.training.methods import Batch, Step
from tla_ops.training.models import Classifier, build
from tla_ops.training.progress import Progress
from tla_ops.training.recipe import METHODS, Recipe
from tla_ops.training.report import environment, text_table
from tla_ops.training.run_parts import make_fabric, make_optimizer, training_attack
from tla_ops.training.trainer import RunError, Trainer

IMAGES = 2000
"""Random images that steps take theirs from: what they show does not change how long it takes."""
TELLS = {
    "tla_ops": "this package's trainer, the attack on a twin in float32",
    "tla_ops_bfloat16": "the same with the twin in bfloat16 and the step under bf16-mixed",
    "plain": "PGD by torch.autograd.grad on the model in eval mode, float32, as one writes it",
    "backward_loop": "the PGD training loop of Wong et al. 2020 and Rice et al. 2020, from its "
    "description: delta.backward() through the model in train mode, float32",
}


def plain_pgd(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, step: float, steps: int
) -> Tensor:
    """PGD as most tutorials have it."""
    with model_mode(model, "eval"):
        adversarial = images + torch.empty_like(images).uniform_(-epsilon, epsilon)
        adversarial = adversarial.clamp(0, 1)
        for _ in range(steps):
            adversarial.requires_grad_()
            loss = F.cross_entropy(model(adversarial), labels)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = adversarial.detach() + step * gradient.sign()
            adversarial = torch.min(torch.max(adversarial, images - epsilon), images + epsilon)
            adversarial = adversarial.clamp(0, 1)
    return adversarial.detach()


def backward_pgd(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, step: float, steps: int
) -> Tensor:
    """PGD on a perturbation whose gradient comes from backward(), which fills the parameters' too;
    the model stays in train mode.
    """
    delta = torch.zeros_like(images).uniform_(-epsilon, epsilon)
    delta.data = (images + delta).clamp(0, 1) - images
    delta.requires_grad_()
    for _ in range(steps):
        loss = F.cross_entropy(model(images + delta), labels)
        loss.backward()
        assert delta.grad is not None
        delta.data = (delta + step * delta.grad.sign()).clamp(-epsilon, epsilon)
        delta.data = (images + delta).clamp(0, 1) - images
        delta.grad.zero_()
    return (images + delta).detach()


def run(recipe: Recipe, repeats: int, device: str, output: Path | None = None) -> dict[str, Any]:
    """Time every implementation on the recipe's model, batch, attack and method.

    Rows are written to ``output`` after each repeat, once there are two.
    """
    if (recipe.attack, recipe.attack_norm, recipe.attack_mode) != ("pgd", "linf", "eval"):
        raise RunError(f"attack must be pgd, linf, in eval mode, as the others', of {recipe.name}")
    where = make_fabric(recipe, device).device
    dataset = random_dataset(recipe, repeats)
    results: dict[str, Any] = environment(where) | {"recipe": recipe.as_dict(), "tells": TELLS}
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        loops = {
            "tla_ops": ours(recipe, dataset, device, Path(folder) / "float32"),
            "tla_ops_bfloat16": ours(
                replace(recipe, fast_attack="bfloat16", precision="bf16-mixed"),
                dataset, device, Path(folder) / "bfloat16",
            ),
            "plain": loop(recipe, dataset, plain_pgd, where),
            "backward_loop": loop(recipe, dataset, backward_pgd, where),
        }  # fmt: skip
        strength = attack_strength(recipe, dataset, where)
        times: dict[str, list[float]] = {name: [] for name in loops}
        with Progress("bench train", len(loops) * (repeats + 1)) as progress:
            for repeat in range(repeats + 1):
                for name, step in loops.items():
                    seconds = timed(step, where)
                    if repeat > 0:  # the first round warms up
                        times[name].append(seconds)
                    progress.update(f"{name}: {recipe.batch / seconds:.0f} images/s")
                if repeat > 1:
                    results["rows"] = [
                        row(recipe, name, times, strength.get(name)) for name in loops
                    ]
                    if output is not None:
                        write_json(output, results)
    return results


def random_dataset(recipe: Recipe, repeats: int) -> Dataset:
    """Uniform images of the recipe's shape; no data set is read."""
    from tla_ops.training.data import DATASETS

    facts = DATASETS[recipe.dataset]
    generator = torch.Generator().manual_seed(recipe.seed)
    count = max(IMAGES, recipe.batch * 2 + recipe.val_images, recipe.candidates)
    images = torch.randint(256, (count, *facts.shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(facts.classes, (count,), generator=generator)
    part = ImageSet(images, labels)
    return Dataset(recipe.dataset, part, part, facts.classes)


def ours(recipe: Recipe, dataset: Dataset, device: str, output: Path) -> Callable[[], None]:
    trainer = Trainer(make_fabric(recipe, device), recipe, dataset, output, resume=False)
    trainer.training_step.train()
    return trainer.train_step


def loop(
    recipe: Recipe, dataset: Dataset, pgd: Callable[..., Tensor], device: torch.device
) -> Callable[[], None]:
    """A training loop around the same method and optimiser, with its own attack."""
    model = new_model(recipe, dataset, device).train()
    images = dataset.train.to(device)
    options: dict[str, Any] = dict(recipe.options)
    if recipe.method != "um":
        options["attack"] = bound(pgd, recipe)
    method: Callable[[Classifier, Batch], Step] = partial(METHODS[recipe.method], **options)
    optimizer, augment = make_optimizer(model, recipe), AUGMENT[recipe.augment]

    def step() -> None:
        rows = torch.randint(len(images), (recipe.batch,), device=device)
        batch = images.batch(rows, recipe.candidates, augment=augment)
        optimizer.zero_grad()
        method(model, batch).loss.backward()
        optimizer.step()

    return step


def bound(pgd: Callable[..., Tensor], recipe: Recipe) -> Attack:
    return partial(
        pgd,
        epsilon=float(recipe.epsilon),
        step=float(recipe.attack_step),
        steps=recipe.attack_steps,
    )


def new_model(recipe: Recipe, dataset: Dataset, device: torch.device) -> Classifier:
    torch.manual_seed(recipe.seed)
    shape = dataset.train.image_shape
    return build(recipe.model, dataset.classes, shape, **recipe.model_options).to(device)


def attack_strength(
    recipe: Recipe, dataset: Dataset, device: torch.device
) -> dict[str, dict[str, float]]:
    """Each implementation's attack on one and the same model, which learned for a few steps:
    cross entropy on its images, and on the clean ones as `clean_loss`."""
    model = new_model(recipe, dataset, device).train()
    images = dataset.train.to(device)
    rows = torch.arange(min(4 * recipe.batch, len(images)), device=device)
    batch = images.batch(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
    model.eval()
    attacks = {
        "tla_ops": training_attack(replace(recipe, fast_attack="float32")),
        "tla_ops_bfloat16": training_attack(replace(recipe, fast_attack="bfloat16")),
        "plain": bound(plain_pgd, recipe),
        # In eval mode here, so that all attack the same function.
        "backward_loop": bound(backward_pgd, recipe),
    }
    found = {}
    with torch.no_grad():
        clean = F.cross_entropy(model(batch.images), batch.labels).item()
    for name, attack in attacks.items():
        torch.manual_seed(recipe.seed)
        adversarial = attack(copy.deepcopy(model), batch.images, batch.labels)
        with torch.no_grad():
            loss = F.cross_entropy(model(adversarial), batch.labels).item()
        found[name] = {"attacked_loss": loss, "clean_loss": clean}
    return found


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def row(
    recipe: Recipe, name: str, times: dict[str, list[float]], strength: dict[str, float] | None
) -> dict[str, Any]:
    """One implementation, in the fields that benchmark files share, and this table's own."""
    fifths = quantiles(times[name], n=5, method="inclusive")
    typical = median(times[name])
    return {
        "bench": "train",
        "impl": name,
        "mode": "both",
        "B": recipe.batch,
        "M": recipe.candidates,
        "D": None,
        "dtype": "bfloat16" if name.endswith("bfloat16") else "float32",
        "median_ms": 1e3 * typical,
        "p20_ms": 1e3 * fifths[0],
        "p80_ms": 1e3 * fifths[-1],
        "peak_mb": None,
        "regret": None,
        "repeats": len(times[name]),
        "recipe": recipe.name,
        "images_per_second": recipe.batch / typical,
        "to_plain": median(times["plain"]) / typical,
        "to_backward_loop": median(times["backward_loop"]) / typical,
        **(strength or {}),
    }


def render(results: dict[str, Any]) -> str:
    """The table that `tla-ops bench train` prints."""
    recipe = results["recipe"]
    table = [
        [
            entry["impl"],
            f"{entry['images_per_second']:.4g}",
            f"{entry['median_ms']:.4g}",
            f"{entry['p20_ms']:.4g}-{entry['p80_ms']:.4g}",
            f"{entry['to_plain']:.2f} x",
            f"{entry['to_backward_loop']:.2f} x",
            f"{entry['attacked_loss']:.3f}",
        ]
        for entry in results["rows"]
    ]
    header = [
        "implementation", "images/s", "ms a step", "20-80%", "to plain", "to backward_loop",
        "attacked loss",
    ]  # fmt: skip
    attack = f"{recipe['attack']}-{recipe['attack_steps']}, epsilon {recipe['epsilon']}"
    lines = [
        f"{recipe['name']}: {recipe['model']}, {recipe['method']}, batch {recipe['batch']}, "
        f"{recipe['candidates']} candidates, {attack}",
        f"{results['machine']}, {results['threads']} threads, torch {results['torch']}",
        "",
        text_table(header, table),
        "",
        *(f"{name}: {text}" for name, text in results["tells"].items()),
        f"attacked loss: cross entropy of one model on each attack's images, "
        f"{results['rows'][0]['clean_loss']:.3f} on the clean ones.",
    ]
    return "\n".join(lines)
