"""Table 6: classification of test images by their nearest neighbours in feature space."""

from __future__ import annotations

from tla_ops.experiments import paper
from tla_ops.experiments.lab import Lab, Setting, Trained
from tla_ops.experiments.neighbours import knn_accuracy
from tla_ops.experiments.tables import Column
from tla_ops.experiments.target import Result
from tla_ops.experiments.targets import ALL, THREE
from tla_ops.experiments.tla.blocks import Block, joined, long_pgd, named, value_block

NAME = "tla/table6"
NOTE = (
    "{} nearest neighbours by the cosine among {} clean training images. Adversarial: PGD, {}, "
    "ε = {}, without stopping where it succeeds; the paper does not print which attack, nor the "
    "neighbours' metric."
)
COLUMNS = {"adversarial": "Adv", "natural": "Natural"}


def run(lab: Lab) -> Result:
    blocks, notes = [], []
    k = paper.settings(NAME)["k"]
    for setting in lab.settings(ALL):
        blocks.append(_block(lab, setting, k))
        count = len(lab.pool(setting))
        attack = long_pgd(lab, setting).within(lab.budget)
        notes.append(NOTE.format(min(k, count), f"{count:,}", attack.effort(), attack.epsilon))
    return Result([joined("K nearest neighbours", blocks, notes=list(dict.fromkeys(notes)))])


def _block(lab: Lab, setting: Setting, k: int) -> Block:
    pool, test = lab.pool(setting), lab.test(setting)

    def measure(trained: Trained, name: str) -> float:
        queries = test.images
        if name == "adversarial":
            queries = lab.adversarial(trained, long_pgd(lab, setting), test)
        known, asked = lab.features(trained, pool), lab.features(trained, queries)
        return knn_accuracy(known, pool.labels, asked, test.labels, k)

    columns = {name: Column(title, named(setting)) for name, title in COLUMNS.items()}
    return value_block(lab, NAME, setting, THREE, columns, measure)
