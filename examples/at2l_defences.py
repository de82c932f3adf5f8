"""AT2L's triplet loss added to the losses of its paper's three defences (sections 3.4 and 4.4,
appendix B), on the digits: python examples/at2l_defences.py
"""

from fractions import Fraction

import torch
from torch import nn

from tla_ops.training.attacks import fgsm
from tla_ops.training.data import load
from tla_ops.training.defences import RandomResizePad, ThermometerEncoding, behind, ls_pga
from tla_ops.training.defense_gan import DefenseGAN, gan_optimizers, wgan_gp
from tla_ops.training.evaluate import accuracy
from tla_ops.training.models import build
from tla_ops.training.regularizer import TripletRegularizer

LAMBDA_1 = 0.3  # weight of the adversarial images, the paper's for all three
EPSILON = Fraction(1, 10)
SHAPE = (1, 8, 8)
dataset = load("digits")


def train(model, attack, regularizer, epochs=5):
    """Equation 2: the loss of adversarial training, which a defence keeps, and the regulariser."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in (batch for _ in range(epochs) for batch in dataset.train.batches(64)):
        clean, labels = batch.images, batch.labels
        logits_adversarial, logits_clean = model(attack(clean, labels)), model(clean)
        loss = nn.functional.cross_entropy(logits_clean, labels)
        loss = loss + LAMBDA_1 * nn.functional.cross_entropy(logits_adversarial, labels)
        loss = loss / (1 + LAMBDA_1) + regularizer(logits_adversarial, logits_clean, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def show(name, model, attack, attacked_by):
    images, labels = dataset.test.images, dataset.test.labels
    clean = accuracy(model, images, labels)
    adversarial = accuracy(model, attack(images, labels), labels)
    print(f"{name}: clean {clean:.1%}, {attacked_by} {adversarial:.1%}")


def thermometer(levels=16):
    """The codes have no useful gradient: LS-PGA climbs in the logits of the buckets instead."""
    network = build("small", 10, (levels, 8, 8))
    model = behind(ThermometerEncoding(levels, channels=1), network, SHAPE)

    def attack(images, labels):
        return ls_pga(model, images, labels, epsilon=EPSILON, steps=7, levels=levels)

    train(model, attack, TripletRegularizer(weight=0.7, margin=1.5))
    show("thermometer", model, attack, "LS-PGA")


def randomization():
    """Sizes and places are drawn at each call: FGSM's images meet others than FGSM did."""
    model = behind(RandomResizePad(8, 10), build("small", 10, (1, 10, 10)), SHAPE)

    def attack(images, labels):
        return fgsm(model, images, labels, epsilon=EPSILON)

    train(model, attack, TripletRegularizer(weight=1.0, margin=2.0))
    show("randomization", model, attack, "FGSM")


def defense_gan(latent_dim=16):
    """The projection has no gradient: FGSM attacks the network alone, and its images are
    projected, as the clean ones are.
    """
    hidden = (nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
    generator = nn.Sequential(*hidden, nn.Unflatten(1, SHAPE))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
    optimizers = gan_optimizers(generator, critic, learning_rate=1e-3)
    gan = wgan_gp(
        generator, critic, dataset.train.images, latent_dim=latent_dim, optimizers=optimizers
    )
    for _ in range(300):
        next(gan)
    projection = DefenseGAN(generator, latent_dim, iterations=30, restarts=2)
    network = build("small", 10, SHAPE)
    model = behind(projection, network, SHAPE)

    def attack(images, labels):
        return fgsm(network, images, labels, epsilon=EPSILON)

    train(model, attack, TripletRegularizer(weight=0.5, margin=2.0))
    show("Defense-GAN", model, attack, "FGSM")


torch.manual_seed(0)
thermometer()
randomization()
defense_gan()
