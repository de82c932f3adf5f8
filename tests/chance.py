"""How likely a draw is."""

import torch


def chi_square(counts):
    """Probability of counts at least as uneven as these, were all outcomes equally likely."""
    counts = counts.double()
    expected = counts.sum() / len(counts)
    statistic = ((counts - expected) ** 2 / expected).sum()
    half = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(half, statistic / 2).item()
