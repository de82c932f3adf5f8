"""Table 3, and Table 17 of the appendix: Defense-GAN with and without triplets, under FGSM and C&W.

Defense-GAN is what Samangouei et al. (2018) call Defense-GAN-Rec: the classifier learns from what
the GAN makes of the training images, and classifies what it makes of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tla_ops.experiments import paper
from tla_ops.experiments.at2l.ensemble import CONFUSED, WEIGHTS, heading, threat
from tla_ops.experiments.at2l.gan_data import (
    Gan,
    GanSetup,
    Projected,
    projected,
    reconstructed,
    trained_gan,
)
from tla_ops.experiments.at2l.names import ATTACKS
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.rounds import Plan, rounds
from tla_ops.experiments.tables import Cell, Column, Table
from tla_ops.experiments.target import Result
from tla_ops.experiments.threat import SLOW, Threat
from tla_ops.training.data import Dataset
from tla_ops.training.image_set import ImageSet

NETWORKS = {"A": "gan_a", "B": "gan_b", "C": "gan_c", "D": "gan_d"}
"""Of the paper's Table 18."""
METHODS = {
    "um": "no defense",
    "defense-gan": "Defense-GAN",
    "at": "adv. train",
    "at2l": "AT2L",
    "defense-gan-tr": "Defense-GAN + triplets",
}
PROJECTING = ("defense-gan", "defense-gan-tr")
COLUMNS = ("clean", "fgsm", "cw")
LOSS = ("adversarial_weight", "weight", "margin")
ALONE = (
    "Attacks are on the classifier alone. With Defense-GAN what they find is projected before it "
    "is classified, by {iterations} steps from {restarts} starts, and the classifier learns from "
    "{images:,} projected training images, for as many steps as others do from all."
)
ROUND = (
    "Adv. train, AT2L and the triplets: one round of Algorithm 1 against FGSM; λ1 = {}, λ2 = {}, "
    "α = {}, and λ2 = 0 for adv. train. The paper prints neither what AT and AT2L are trained "
    "against nor AT2L's weights; the triplets' are taken. Negatives are of the class of the "
    "mistake. With Defense-GAN the round is of projected images and FGSM on them, which is not "
    "projected again."
)
CW = (
    "C&W is the l∞ attack without a bound on the change: without a defense its error is the share "
    "of images for which it finds one. FGSM: ε = {}. The paper prints neither radius nor norm."
)
GAN = (
    "The GAN is a WGAN-GP, after {steps:,} steps of {batch} images: {layout} layout, {width:g} "
    "times the channels, {latent_dim} latent dimensions. How the paper's is trained is not printed."
)


def run(lab: Lab, table: str) -> Result:
    """``table``: "table3" or "app-table17"."""
    target = f"at2l/{table}"
    tables, numbers = [], {}
    for setting in lab.settings(("mnist",)):
        defended = defend(lab, setting, paper.settings(target))
        tables.append(errors(defended, target))
        numbers[setting.dataset] = defended.numbers()
    return Result(tables, numbers=numbers)


@dataclass
class Defended:
    """A data set with its GAN, and the classifiers that the paper has for it."""

    lab: Lab
    setting: Setting
    said: Mapping[str, Any]
    """The paper's settings."""
    gan: Gan
    dataset: Dataset
    """With the GAN's images in place of the training images."""
    made: dict[str, Projected] = field(default_factory=dict)
    """Projections, by what they are of."""

    def classifier(self, network: str, method: str) -> Trained:
        """A network by the paper's name, trained by one of `METHODS`."""
        lab, setting = self.lab, self.setting
        options = f"{{width: {lab.budget.width}}}" if lab.budget.width != 1 else "{}"
        variation = [f"model={NETWORKS[network]}", f"model_options={options}"]
        data = self.dataset if method in PROJECTING else None
        length = [] if data is None else self.epochs(variation)
        start = lab.trained(setting, "at2l-pretrain", *variation, *length, data=data)
        if method in ("um", "defense-gan"):
            return start
        variation += [f"{key}={self.said[key]}" for key in LOSS]
        variation += [*(f"{key}=0" for key in WEIGHTS.get(method, ())), CONFUSED]
        recipe = lab.recipe(setting.dataset, "at2l-round", *variation)
        plan = Plan(recipe, start, (threat(recipe, "fgsm"),), dataset=data)
        return rounds(lab, setting, plan, 1)[1]

    def epochs(self, variation: Sequence[str]) -> list[str]:
        """An override by which a network learns from the GAN's images for as many steps as from all
        training images.
        """
        recipe = self.lab.recipe(self.setting.dataset, "at2l-pretrain", *variation)
        if recipe.epochs is None:
            return []
        whole = len(self.lab.dataset(self.setting.dataset).train)
        return [f"epochs={round(recipe.epochs * whole / len(self.dataset.train))}"]

    def error(self, network: str, method: str, column: str) -> tuple[float, float]:
        """Share of test images that are misclassified under a column's attack, and its standard
        error.
        """
        model, attack = self.classifier(network, method), self.attack(column)
        images = self.images(column)
        if method not in PROJECTING:
            row = self.lab.accuracy(model, attack, images)
            return 1 - row["accuracy"], row["standard_error"]
        name = "clean" if column == "clean" else f"{network}/{method}/{column}"
        if column != "clean":
            found = self.lab.adversarial(model, attack, images)
            images = ImageSet(found, images.labels)
        if name not in self.made:
            self.made[name] = projected(self.lab, self.gan, images, f"test images, {name}")
        classes = self.lab.predictions(model, self.made[name].images)
        share = (classes != images.labels).double().mean().item()
        return share, (share * (1 - share) / len(images)) ** 0.5

    def attack(self, column: str) -> Threat:
        return threat(self.lab.recipe(self.setting.dataset, "at2l-round"), column)

    def images(self, column: str) -> ImageSet:
        return self.lab.test(self.setting, slow=self.attack(column).kind in SLOW)

    def numbers(self) -> dict[str, Any]:
        """Plain values: of the GAN, of all projections, and how far they move clean test images."""
        count = sum(len(each.images) for each in self.made.values())
        seconds = sum(each.seconds for each in self.made.values())
        moved = self.made["clean"].images - self.images("clean").images
        return {
            "gan": self.gan.setup._asdict() | self.gan.facts,
            "projection": {
                "images": count,
                "seconds": seconds,
                "images_per_second": count / seconds,
                "clean_mean_squared_error": moved.square().mean().item(),
            },
        }


def defend(lab: Lab, setting: Setting, said: Mapping[str, Any]) -> Defended:
    """The GAN of a data set and its images of the training images, as the paper says and the budget
    limits.
    """
    projection = said["projection"]
    own = {"iterations": projection["steps"], "restarts": projection["restarts"]}
    gan = trained_gan(lab, setting, GanSetup(**own | lab.budget.gan))
    dataset, training = reconstructed(lab, setting, gan)
    return Defended(lab, setting, said, gan, dataset, {"training": training})


def errors(defended: Defended, target: str) -> Table:
    """The paper's rows; its columns, and clean test images."""
    lab, setting, said = defended.lab, defended.setting, defended.said
    printed = paper.panel(target, setting.paper)
    rows = {}
    for name in printed.rows if printed else ():
        network, method = name.split("/")
        cells = []
        for column in COLUMNS:
            share, spread = defended.error(network, method, column)
            cells.append(Cell(share, paper.value(target, setting.paper, name, column), spread))
        rows[f"{network}: {METHODS[method]}"] = cells
    columns = []
    for column in COLUMNS:
        head = [defended.attack(column).within(lab.budget).effort()]
        if len(defended.images(column)) < len(lab.test(setting)):
            head.append(f"{len(defended.images(column))} images")
        columns.append(Column(ATTACKS[column], "", ", ".join(filter(None, head)), "error", "min"))
    setup = defended.gan.setup
    notes = [
        ALONE.format(**setup._asdict() | {"images": len(defended.dataset.train)}),
        ROUND.format(*(said[key] for key in LOSS)),
        CW.format(defended.attack("fgsm").epsilon),
        GAN.format(**setup._asdict()),
    ]
    title = f"Error with Defense-GAN: {heading(lab, setting)}"
    return Table(title, "Network: method", columns, rows, notes=notes)
