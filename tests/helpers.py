"""Problems, and float64 truths that share no code with the package."""

from typing import NamedTuple

import torch
from torch import Tensor

from tla_ops import _library

METRICS = ("angular", "cosine", "euclidean", "chebyshev")
MININGS = ("hardest", "semihard", "random")
NORMS = ("l2", "mean_square")
REDUCTIONS = ("mean", "sum", "none")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)
NEVER = torch.iinfo(torch.int64).min
DEVICES = ["cpu", *(["cuda"] if _library.has_cuda_kernels() and torch.cuda.is_available() else [])]
SIZES = [
    (1, 1, 1), (1, 2, 3), (2, 1, 2), (2, 3, 1), (3, 15, 17), (15, 17, 33), (17, 63, 15),
    (33, 65, 64), (5, 64, 640), (63, 129, 5), (64, 257, 31), (65, 1025, 16), (129, 64, 63),
    (4, 2049, 129), (257, 33, 7),
]  # fmt: skip


class Problem(NamedTuple):
    """The five positional arguments of triplet_adv_loss."""

    anchor: Tensor
    positive: Tensor
    candidates: Tensor
    labels: Tensor
    candidate_labels: Tensor

    @property
    def mine(self):
        """The four positional arguments of the mining functions."""
        return self.anchor, self.candidates, self.labels, self.candidate_labels

    @property
    def features(self):
        return self.anchor, self.positive, self.candidates

    def double(self):
        return Problem(*(x.detach().double() for x in self.features), *self[3:])

    def leaves(self):
        """The same numbers in fresh tensors that require gradients."""
        return Problem(*(x.detach().clone().requires_grad_() for x in self.features), *self[3:])


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def random_state(device):
    """Of the stream that the device's draws come from."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def randn(*shape, seed=0, dtype=torch.float32, device="cpu"):
    """Normal numbers, the same on every device."""
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(device, dtype)


def make_problem(
    B, M, D, K=1, *, dtype=torch.float32, candidate_dtype=None, classes=5, seed=0, device="cpu"
):
    """Gaussian features; positives near their anchors; K=None gives (B, D) positives."""
    g = generator(1000 * seed + 7)
    anchor = torch.randn(B, D, generator=g, dtype=torch.float64)
    noise = torch.randn(B, *([] if K is None else [K]), D, generator=g, dtype=torch.float64)
    positive = 0.8 * noise + (anchor if K is None else anchor.unsqueeze(1))
    candidates = torch.randn(M, D, generator=g, dtype=torch.float64)
    labels = torch.randint(classes, (B,), generator=g)
    candidate_labels = torch.randint(classes, (M,), generator=g)
    return Problem(
        anchor.to(device, dtype),
        positive.to(device, dtype),
        candidates.to(device, candidate_dtype or dtype),
        labels.to(device),
        candidate_labels.to(device),
    )


def distance64(x, y, metric):
    """Distance over the last dimension, in float64 on the CPU, by the definitions in the papers."""
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    if metric == "euclidean":
        return (x - y).pow(2).sum(-1).sqrt()
    if metric in ("chebyshev", "linf"):
        return (x - y).abs().amax(-1)
    nx, ny = x.pow(2).sum(-1).sqrt(), y.pow(2).sum(-1).sqrt()
    cosine = (x * y).sum(-1) / (nx.clamp_min(1e-12) * ny.clamp_min(1e-12))
    cosine = torch.where((nx < 1e-12) | (ny < 1e-12), 0, cosine)
    return 1 - (cosine.abs() if metric == "angular" else cosine)


def matrix64(anchor, candidates, metric):
    """(B, M) distances in float64, a row at a time."""
    rows = [distance64(a.unsqueeze(0), candidates, metric) for a in anchor]
    return torch.stack(rows) if rows else torch.zeros(0, candidates.shape[0], dtype=torch.float64)


def allowed_mask(labels, candidate_labels, target_labels=None, exclude=None, same_class=False):
    """(B, M) mask by plain Python loops."""
    labels, pool = labels.tolist(), candidate_labels.tolist()
    mask = torch.zeros(len(labels), len(pool), dtype=torch.bool)
    for i, y in enumerate(labels):
        out = -1 if exclude is None else int(exclude[i])
        there = [j for j, c in enumerate(pool) if c != NEVER and j != out]
        picks = [j for j in there if (pool[j] == y) == same_class]
        if target_labels is not None and int(target_labels[i]) != y:
            wanted = [j for j in there if pool[j] == int(target_labels[i])]
            picks = wanted or picks
        mask[i, picks] = True
    return mask


def check_pick(distance, index, d64, allowed, want, bound=None, tol=2e-5):
    """Every row's pick is allowed, truly the hardest up to `tol`, and its distance is right.

    want: "nearest", "farthest", "any" or "semihard" (with `bound`: the nearest positive's
    distance).
    """
    distance, index = distance.detach().cpu().double(), index.cpu()
    assert index.dtype == torch.int64
    assert index.shape == distance.shape == allowed.shape[:1]
    assert not distance.requires_grad
    none = ~allowed.any(1)
    assert torch.equal(index == -1, none), (index, none)
    assert distance[none].eq(torch.inf).all()
    for i in (~none).nonzero().flatten().tolist():
        j = int(index[i])
        assert 0 <= j < allowed.shape[1], f"row {i} picked {j}"
        assert allowed[i, j], f"row {i} picked {j}: not allowed"
        picked, pool = d64[i, j], d64[i][allowed[i]]
        eps = tol * max(1.0, float(picked))
        assert abs(distance[i] - picked) <= eps, f"row {i}: {distance[i]} is not {picked}"
        if want == "nearest":
            assert picked <= pool.min() + eps, f"row {i}: regret {picked - pool.min()}"
        elif want == "farthest":
            assert picked >= pool.max() - eps, f"row {i}: regret {pool.max() - picked}"
        elif want == "semihard":
            farther = pool[pool > bound[i] + eps]
            if len(farther):
                assert bound[i] - eps < picked <= farther.min() + eps, f"row {i}: {picked}"
            else:
                assert picked > min(bound[i], pool.max()) - eps, f"row {i}: {picked}"


def uniform(rows, g):
    """The numbers that random mining draws from a generator, on the CPU."""
    return torch.rand(rows, dtype=torch.float64, device=g.device, generator=g).cpu()


def expected_draw(allowed, g):
    """The picks of mining="random" under this generator, by Python."""
    u = uniform(allowed.shape[0], g)
    picks = []
    for row, x in zip(allowed, u.tolist(), strict=True):
        js = row.nonzero().flatten().tolist()
        picks.append(js[min(int(x * len(js)), len(js) - 1)] if js else -1)
    return torch.tensor(picks, dtype=torch.int64)


def loss64(
    problem, index, *, margin=0.03, weight=1.0, norm_weight=0.0, metric="angular", norm="l2"
):
    """(B,) losses of given picks in float64, a row and a positive at a time."""
    a, p, c = (x.detach().cpu().double() for x in problem.features)
    p = p.unsqueeze(1) if p.ndim == 2 else p

    def size(x):
        return x.pow(2).sum().sqrt() if norm == "l2" else x.pow(2).mean()

    losses = []
    for i, j in enumerate(index.tolist()):
        triplet = norms = torch.zeros((), dtype=torch.float64)
        if norm_weight:
            norms = size(a[i]) + sum(size(x) for x in p[i]) + (size(c[j]) if j >= 0 else 0)
        for x in p[i] if j >= 0 else []:
            gap = distance64(a[i], x, metric) - distance64(a[i], c[j], metric) + margin
            triplet = triplet + (gap if not gap <= 0 else 0)
        losses.append(weight * triplet + norm_weight * norms)
    return torch.stack(losses) if losses else torch.zeros(0, dtype=torch.float64)


def reduced(losses, reduction):
    if reduction == "none":
        return losses
    return losses.sum() / (max(1, len(losses)) if reduction == "mean" else 1)


def close(ours, truth, tol=1e-5):
    """|ours - truth| <= tol * max(1, |truth|), NaN and infinity equal to themselves."""
    ours, truth = ours.detach().cpu().double(), truth.detach().cpu().double()
    torch.testing.assert_close(ours, truth, rtol=tol, atol=tol, equal_nan=True)


def close_half(ours, eager, truth, floor=1e-4):
    """The half-precision rule: no worse than twice eager PyTorch on the same inputs."""
    ours, eager, truth = (x.detach().cpu().double() for x in (ours, eager, truth))
    error, allowance = (ours - truth).norm(), 2 * (eager - truth).norm()
    assert error <= allowance + floor * max(1.0, float(truth.norm())), (error, allowance)


def bits(x):
    """A tensor's bits, so that equality means the same bits, NaN included."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.detach().contiguous().view(widths[x.element_size()]).cpu()


def same_bits(x, y):
    return x.dtype == y.dtype and x.shape == y.shape and torch.equal(bits(x), bits(y))


def differentiate_twice(loss, x):
    """What no operator here supports."""
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    grad.sum().backward()


TWICE = r"(?i)twice|double|second|differentia"
"""What the error of a second derivative says."""
