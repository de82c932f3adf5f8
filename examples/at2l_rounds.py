"""AT2L's Algorithm 2 on the digits, two networks and four attacks: python examples/at2l_rounds.py

Run it again after Ctrl-C, or with more rounds: it goes on from what runs/at2l-rounds/ has.
"""

import hashlib
from functools import partial
from pathlib import Path

from tla_ops.training import checkpoint, trainer
from tla_ops.training.attacks import fgsm
from tla_ops.training.data import load
from tla_ops.training.evaluate import accuracy
from tla_ops.training.family import KINDS, gradient_family
from tla_ops.training.recipe import load_recipe
from tla_ops.training.rounds import train_rounds
from tla_ops.training.set_builder import Wanted, build

ROUNDS = 2
FOLDER = Path("runs/at2l-rounds")
dataset = load("digits")
small = ["model_options={width: 0.125}", "val_images=137"]
one_round = load_recipe("digits-at2l-round", [*small, "epochs=2"])


def pretrained(network: str) -> Path:
    """Step 1: a network on clean images."""
    recipe = load_recipe("digits-at2l-pretrain", [*small, f"model={network}", "epochs=6"])
    trainer.train(recipe, dataset, FOLDER / network, resume=True)
    return FOLDER / network / "best.pt"


def sets(path, images):
    """Steps 3 to 7: adversarial images of the training images, by every attack on one network."""
    model, recipe = checkpoint.read_model(path)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    attack = partial(
        gradient_family,
        epsilon=one_round.epsilon,
        step=one_round.attack_step,
        steps=one_round.attack_steps,
    )
    about = {"network": recipe.model, "weights": digest}
    wanted = [
        Wanted(kind, FOLDER / "sets" / f"{kind}-{digest}", about, one_round.epsilon)
        for kind in KINDS
    ]
    return build(wanted, attack, model, images, batch=256)


start, other = pretrained("mnist_a"), pretrained("mnist_d")
models = train_rounds(
    one_round, dataset, FOLDER / "rounds", start=start, others=[other], sets=sets, rounds=ROUNDS
)
images, labels = dataset.test.images, dataset.test.labels
for number, path in enumerate(models):
    model, _ = checkpoint.read_model(path)
    adversarial = fgsm(model, images, labels, epsilon=one_round.epsilon)
    print(
        f"round {number}: clean {accuracy(model, images, labels):.1%}, "
        f"FGSM {accuracy(model, adversarial, labels):.1%}"
    )
