"""One training loop with the TLA loss: python examples/quickstart.py"""

import torch
from torch import nn

import tla_ops

torch.manual_seed(0)
features = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
head = nn.Linear(32, 4)
optimizer = torch.optim.Adam([*features.parameters(), *head.parameters()], lr=1e-3)
centers = torch.randn(4, 20)


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.randint(0, 4, (n,))
    return centers[y] + 0.5 * torch.randn(n, 20), y


def attack(x: torch.Tensor, y: torch.Tensor, epsilon: float = 0.3) -> torch.Tensor:
    """One signed gradient step, to keep the example short; use PGD for real training."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(head(features(x)), y), x)
    return (x + epsilon * grad.sign()).detach()


for step in range(201):
    x, y = batch(50)
    pool, pool_labels = batch(250)
    same_class = centers[y] + 0.5 * torch.randn(50, 20)
    adversarial = features(attack(x, y))
    details = tla_ops.triplet_adv_loss(
        adversarial, features(same_class), features(pool), y, pool_labels,
        margin=0.03, weight=2.0, norm_weight=1e-3, return_details=True,
    )  # fmt: skip
    loss = nn.functional.cross_entropy(head(adversarial), y) + details.loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        active = details.positive_distance[:, 0] - details.negative_distance + 0.03 > 0
        print(f"step {step:3d}  loss {loss.item():.4f}  active hinges {active.float().mean():.0%}")
