"""The loss on any model, by a hook on its last linear layer: python examples/own_model.py"""

import torch
from torch import nn

import tla_ops

torch.manual_seed(0)
# Stands for a model that somebody else wrote: nothing but its layers is known.
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10)),
)
last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
seen = {}
last.register_forward_pre_hook(lambda layer, inputs: seen.update(features=inputs[0]))


def features_and_logits(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The input of the last layer is the penultimate representation."""
    logits = model(x)
    return seen["features"], logits


optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
prototypes = torch.rand(10, 1, 28, 28)
for step in range(201):
    labels, pool_labels = torch.randint(0, 10, (20,)), torch.randint(0, 10, (100,))
    clean = (prototypes[labels] + 0.1 * torch.randn(20, 1, 28, 28)).clamp(0, 1)
    noisy = (clean + 0.1 * torch.randn_like(clean).sign()).clamp(0, 1)  # an attack in real use
    with torch.no_grad():  # the pool is forwarded for mining alone
        pool, _ = features_and_logits(prototypes[pool_labels])
    anchor, logits = features_and_logits(noisy)
    positive, _ = features_and_logits(clean)
    loss = nn.functional.cross_entropy(logits, labels)
    loss = loss + tla_ops.triplet_adv_loss(anchor, positive, pool, labels, pool_labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3d}  loss {loss.item():.4f}")
