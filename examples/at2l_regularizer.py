"""AT2L's triplet loss added to adversarial training: python examples/at2l_regularizer.py"""

from fractions import Fraction

import torch
from torch import nn

from tla_ops.training.attacks import fgsm
from tla_ops.training.regularizer import TripletRegularizer

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
regularizer = TripletRegularizer(weight=1.0, margin=1.0)
prototypes = torch.rand(10, 1, 8, 8)

for step in range(201):
    labels = torch.randint(0, 10, (32,))
    clean = (prototypes[labels] + 0.1 * torch.randn(32, 1, 8, 8)).clamp(0, 1)
    adversarial = fgsm(model, clean, labels, epsilon=Fraction(1, 10))
    logits_adversarial, logits_clean = model(adversarial), model(clean)
    loss = nn.functional.cross_entropy(logits_adversarial, labels)  # whatever a defence minimises
    loss = loss + regularizer(logits_adversarial, logits_clean, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        right = (logits_adversarial.argmax(1) == labels).float().mean()
        print(f"step {step:3d}  loss {loss.item():.4f}  right under attack {right:.0%}")
