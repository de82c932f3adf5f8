"""Negatives from a bank of earlier features, no pool forwarded: python examples/memory_bank.py"""

import torch
from torch import nn

import tla_ops

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32))
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
bank = tla_ops.FeatureBank(capacity=4096, dim=32, dtype=torch.bfloat16)
criterion = tla_ops.TripletAdvLoss(margin=0.1)
centers = torch.randn(10, 20)

for step in range(201):
    y = torch.randint(0, 10, (64,))
    clean = centers[y] + 0.5 * torch.randn(64, 20)
    perturbed = clean + 0.3 * torch.randn(64, 20).sign()
    anchor, positive = encoder(perturbed), encoder(clean)
    loss = criterion(anchor, positive, bank.features, y, bank.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    bank.enqueue(positive.detach(), y)  # after backward, which still reads the bank
    if step % 50 == 0:
        print(f"step {step:3d}  loss {loss.item():.4f}  bank {len(bank)} of {bank.capacity}")
