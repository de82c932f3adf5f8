"""The self-test: every operator on a device against ``reference`` in float64 on the CPU.

A handful of small problems with what is easily got wrong: odd sizes, ties, rows without a negative,
NaN, several anchors that pick one candidate, half precision. Operators are called themselves,
without autograd or dispatch; everything runs in a thread of its own, where no autocast, grad mode,
stream or tracing of the caller's is in force.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _build_info, _dispatch, _library, ops, reference
from ._selftest_problems import METRICS, Problem, problems
from .types import OperatorCheck, SelfTestReport

NORMS = ("l2", "mean_square")
# Largest differences as a share of max(1, |truth|), by the dtype of what is compared.
TOLERANCES = {
    torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2
}  # fmt: skip
FAST = 0.1
"""How much farther than the nearest a pick of ``precision="fast"`` may be."""
TIE = 1e-9
"""Candidates whose float64 distances are nearer than this are copies of each other."""
OPTIONS = (0.3, 1.7, 0.02)
"""Margin, weight and norm weight."""


def selftest(device: torch.device | str | int | None = None) -> SelfTestReport:
    """Compare every operator on a device with plain PyTorch, on a handful of small problems.

    The first eager call with tensors on a CUDA device whose kernels no results file verifies does
    this by itself. Call it before ``torch.compile`` or CUDA graph capture, which cannot: until then
    they run plain PyTorch. On a CUDA device the outcome decides what runs from then on: operators
    that failed, and screens of large searches, are left out, with one warning. Takes some seconds,
    most of them float64 on the CPU, and waits for the device. A screen whose threads wait for what
    hardware signals ("wgmma") is tested by this function alone, and used after it.

    Args:
        device: a CPU or CUDA device. None: the current CUDA device where there is one and CUDA
            kernels were built, else the CPU.

    Returns:
        A :class:`SelfTestReport`; ``report.failed`` is empty where all is well.

    Raises:
        ValueError: a device of another type.
        RuntimeError: a CUDA device where no CUDA kernels were built; during CUDA graph capture.
    """
    if device is None:
        device = "cuda" if _library.has_cuda_kernels() and torch.cuda.is_available() else "cpu"
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"selftest: device must be a CPU or CUDA device, got {device}")
    if device.type == "cuda":
        if not _library.has_cuda_kernels():
            raise RuntimeError(_library.missing_cuda_message())
        if not torch.cuda.is_available():
            raise RuntimeError("selftest: torch finds no CUDA device on this machine")
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("selftest: cannot run during CUDA graph capture: call it before")
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    else:
        device = torch.device("cpu")
    report = run(device, _dispatch.OPERATORS + _dispatch.SCREENS)
    _dispatch.remember(report)
    return report


def run(device: torch.device, names: Iterable[str]) -> SelfTestReport:
    """Test these operators, and those of these screens that the device has use for.

    Nothing is remembered.
    """
    name, capability = platform.processor() or platform.machine(), None
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
    with ThreadPoolExecutor(1) as pool:
        checks = pool.submit(_run, device, tuple(names)).result()
    return SelfTestReport(str(device), name, capability, checks)


def evidence(report: SelfTestReport) -> dict[str, Any]:
    """The ``kernels`` entry of a results file, by which later builds know what passed where.

    ``setup.py`` reads ``benchmarks/results/*/*.json``; an entry counts for as long as the kernel
    sources are the ones it names.

    Args:
        report: of a CUDA device.

    Returns:
        A dict: ``sha256`` of the kernel sources, ``passed`` operators, ``device``, ``capability``.

    Raises:
        ValueError: a report of another device.
    """
    if report.capability is None:
        raise ValueError(f"evidence: report must be of a CUDA device, got {report.device}")
    return {
        "sha256": _library.build_info()["cuda"]["sources_sha256"],
        "passed": report.passed,
        "device": report.name,
        "capability": report.capability,
    }


class Disagreement(Exception):
    """What is wrong with an operator's answer."""


def _run(device: torch.device, names: tuple[str, ...]) -> dict[str, OperatorCheck]:
    tests: dict[str, Callable[[Problem, str, Operator], None]] = {
        "cdist": _cdist, "mine": _mine, "triplet_loss": _triplet_loss,
        "triplet_adv_loss": _triplet_adv_loss,
    }  # fmt: skip
    given = problems()
    with _on(device):
        checks = {name: _check(tests[name], given, device) for name in names if name in tests}
        searches = all(
            checks[name].passed for name in ("mine", "triplet_adv_loss") if name in checks
        )
        for name in names:
            if name in _dispatch.SCREENS and searches and _takes(device, name):
                found = _check_screen(name, device)
                if found is not None:
                    checks[name] = found
    return checks


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """The device current, and waiting for it allowed."""
    if device.type != "cuda":
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(0)
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _check(
    test: Callable[[Problem, str, Operator], None], given: list[Problem], device: torch.device
) -> OperatorCheck:
    operator, count = Operator(device), 0
    for metric in METRICS:
        for problem in (p for p in given if metric in p.metrics):
            operator.strided = problem.strided
            try:
                test(problem, metric, operator)
            # Whatever goes wrong in an operator must leave the caller with plain PyTorch.
            except Exception as error:
                what = str(error).strip().partition("\n")[0]
                if not isinstance(error, Disagreement):
                    what = f"{type(error).__name__}: {what}"
                reason = f"{what} ({problem.name}, {metric})"
                return OperatorCheck(False, count, operator.worst, reason)
            count += 1
    return OperatorCheck(True, count, operator.worst, None)


SCREENED = {
    **dict.fromkeys(("blas", "mma", "wgmma"), (261, 8200, 1033)), "bank": (50, 65000, 264)
}  # fmt: skip
"""The size of a problem that a screen is tested by: anchors, candidates, features."""


def _takes(device: torch.device, screen: str) -> bool:
    """Whether the plan sends such a problem this way on this device."""
    if device.type != "cuda" or (screen == "blas" and not _dispatch._blas_screens()):
        return False
    properties = torch.cuda.get_device_properties(device)
    capability = 10 * properties.major + properties.minor
    plan = _build_info.plan_large(
        *SCREENED[screen], 4, 4, True, screen, properties.multi_processor_count, capability
    )
    return bool(plan["screen"] == screen)


def _check_screen(screen: str, device: torch.device) -> OperatorCheck | None:
    """None where the device has no room for the test, which says nothing of the screen."""
    try:
        return OperatorCheck(True, _screen(screen, device, SCREENED[screen]), 0.0, None)
    except torch.OutOfMemoryError:
        return None
    # What CUDA can still be used after must leave the caller with the search by tiles.
    except Exception as error:
        what = str(error).strip().partition("\n")[0]
        return OperatorCheck(False, 0, 0.0, f"{type(error).__name__}: {what}")


def _screen(screen: str, device: torch.device, size: tuple[int, int, int]) -> int:
    """Large problems against the search by tiles, which gives the same bits; how many were."""
    B, M, D = size
    g = torch.Generator(device).manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=device, dtype=torch.float32)

    # Copies, what half precision does not tell from them, NaN, and slots nobody has filled.
    c = randn(-(-M // 8), D).repeat(8, 1)[:M]
    c[M // 2 :] += 1e-3 * randn(M - M // 2, D)
    a = c[:B] + randn(B, D)
    positive = (a + 0.5 * randn(B, D)).unsqueeze(1)
    a[5, 1], c[7, 0] = torch.nan, torch.inf
    y, cy = (torch.arange(n, device=device) % k for n, k in ((B, 7), (M, 9)))
    cy[::100] = torch.iinfo(torch.int64).min
    exclude = torch.arange(B, device=device)
    count = 0

    def check(what: str, operator: Callable[..., tuple[Tensor, ...]], *arguments: Any) -> None:
        nonlocal count
        found, tiles = (operator(*arguments, screens) for screens in (screen, ""))
        for got, truth in zip(found, tiles, strict=True):
            if not torch.equal(_bytes(got.nan_to_num(nan=-1)), _bytes(truth.nan_to_num(nan=-1))):
                raise Disagreement(f"not what tiles give ({what})")
        count += 1

    # Features in all directions, and such that have one in common.
    for common, metric in itertools.product((0.0, 3.0), METRICS[:3]):
        for mining, targets, same_class in (
            ("hardest", None, False), ("semihard", None, False), ("hardest", (y + 1) % 9, False),
            ("hardest", None, True), ("easiest", None, True),
        ):  # fmt: skip
            check(
                f"{metric}, {mining}, +{common:g}", ops.mine, a + common, c + common, y, cy,
                positive + common if mining == "semihard" else None, targets, exclude, None, metric,
                mining, same_class, False,
            )  # fmt: skip
    masks = (None, None, exclude, None)
    how = ("angular", "hardest")
    for dtype in (torch.bfloat16, torch.float16):
        half = c.clamp(-100, 100).to(dtype)
        check(str(dtype), ops.mine, a, half, y, cy, *masks, *how, False, False)
    check(
        "triplet_adv_loss", ops.triplet_adv_loss, a, positive, c, y, cy, *masks[1:], *OPTIONS, *how,
        "l2", "none", False,
    )  # fmt: skip
    distance, index = ops.mine(a, c, y, cy, *masks, *how, False, True, screen)
    nearest, _ = ops.mine(a, c, y, cy, *masks, *how, False, False)
    rows = index >= 0
    if bool((cy[index] == y)[rows].any()) or bool((distance > nearest + FAST)[rows].any()):
        raise Disagreement("precision='fast': not a near candidate of another class")
    return count + 1


class Operator:
    """Calls operators on a device and compares what they return."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.worst = 0.0
        self.strided = False

    def __call__(self, operator: Callable[..., Any], *arguments: Any) -> list[Tensor]:
        """The outputs on the CPU, the same bits in each of two runs."""
        moved = [x.to(self.device) if isinstance(x, Tensor) else x for x in arguments]
        if self.strided:
            moved = [_strided(x) if isinstance(x, Tensor) else x for x in moved]
        runs = []
        for _ in range(2):
            outputs = operator(*moved)
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            runs.append([x.cpu() for x in outputs])
        for first, second in zip(*runs, strict=True):
            if not torch.equal(_bytes(first), _bytes(second)):
                raise Disagreement("two runs differ in their bits")
        return runs[0]

    def close(self, what: str, got: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
        """`got` has this dtype and is `truth` up to its rounding."""
        if got.dtype != dtype or got.shape != truth.shape:
            found = f"{got.dtype} {tuple(got.shape)}"
            raise Disagreement(f"{what} is {found}, not {dtype} {tuple(truth.shape)}")
        self.near(what, got.double(), truth.detach(), TOLERANCES[dtype])

    def near(self, what: str, got: Tensor, truth: Tensor, tolerance: float) -> None:
        """NaN and infinity are where they should be, the rest differs by no more than allowed."""
        if not torch.equal(got.isnan(), truth.isnan()):
            lost = bool((truth.isnan() & ~got.isnan()).any())
            raise Disagreement(f"{what}: a NaN {'was swallowed' if lost else 'out of nowhere'}")
        same = (got == truth) | got.isnan()
        difference = torch.where(same, 0.0, (got - truth).abs() / truth.abs().clamp(min=1))
        worst = float(difference.max()) if difference.numel() else 0.0
        if worst < torch.inf:
            self.worst = max(self.worst, worst / tolerance)
        if not worst <= tolerance:
            raise Disagreement(f"{what}: differs by {worst:.2g}, {tolerance:.0e} is allowed")

    def pick(
        self, picked: list[Tensor], truth: tuple[Tensor, Tensor], distances: Tensor,
        allowed: Tensor, dtype: torch.dtype, regret: float | None = None,
    ) -> None:  # fmt: skip
        """The picks are allowed, as far away as the truth's, the first of equals."""
        (distance, index), (expected, where) = picked, truth
        if index.dtype != torch.int64 or index.shape != where.shape:
            raise Disagreement(f"index is {index.dtype} {tuple(index.shape)}")
        if not torch.equal(index == -1, where == -1):
            raise Disagreement(
                "index: -1 where there is a candidate, or a pick where there is none"
            )
        rows = (index >= 0).nonzero()[:, 0]
        outside = (index < -1) | (index >= allowed.shape[1])
        if outside.any() or not allowed[rows, index[rows]].all():
            raise Disagreement("index: picked a candidate that the row may not pick")
        at = torch.full_like(expected, torch.inf)
        at[rows] = distances[rows, index[rows]]
        self.close("distance of the pick", distance, at, dtype)
        if regret is None:
            self.near("wrong index", at, expected, TOLERANCES[dtype])
        elif not torch.equal(at.isnan(), expected.isnan()):
            raise Disagreement("wrong index: a NaN was swallowed")
        elif ((at - expected) > regret * expected.clamp(min=1))[rows].any():
            raise Disagreement(f"wrong index: farther than the nearest by more than {regret}")
        twins = ((distances - at[:, None]).abs() <= TIE) | (distances.isnan() & at.isnan()[:, None])
        earlier = torch.arange(allowed.shape[1]) < index[:, None]
        if (twins & earlier & allowed).any():
            raise Disagreement("wrong index: not the lowest of equals")


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)


def _strided(x: Tensor) -> Tensor:
    """The same numbers with two others behind each; what is expanded stays so."""
    if 0 in x.stride():
        return x
    around = x.new_empty((*x.shape, 3))
    around[..., 1] = x
    return around[..., 1]


def _work(anchor: Tensor) -> torch.dtype:
    """The dtype of distances and losses."""
    return ops.result_dtype(anchor)


def _distances(problem: Problem, metric: str) -> Tensor:
    wide = problem.double()
    return reference.cdist(wide.anchor, wide.candidates, metric=metric)


def _cdist(problem: Problem, metric: str, operator: Operator) -> None:
    a, _, c = problem.features
    truth = _distances(problem, metric)
    (d,) = operator(ops.cdist, a.unsqueeze(0), c.unsqueeze(0), metric)
    operator.close("distance", d, truth.unsqueeze(0), _work(a))
    if a.isnan().any():
        return
    x1, x2 = (x.double().clone().requires_grad_() for x in (a, c))
    wide = reference.cdist(x1, x2, metric=metric)
    upstream = torch.linspace(-1, 1, truth.numel(), dtype=torch.float64).view_as(truth)
    upstream = (upstream / max(1, len(c)) ** 0.5).to(_work(a))
    expected = torch.autograd.grad(wide, (x1, x2), upstream.double())
    got = operator(ops.cdist_backward, upstream.unsqueeze(0), a[None], c[None], metric, True, True)
    dtypes = {"x1": a.dtype, "x2": c.dtype}
    for name, x, y in zip(dtypes, got, expected, strict=True):
        operator.close(f"gradient of {name}", x, y.unsqueeze(0), dtypes[name])


def _mine(problem: Problem, metric: str, operator: Operator) -> None:
    wide, a = problem.double(), problem.anchor
    distances, dtype = _distances(problem, metric), _work(a)
    masks = {"target_labels": problem.target_labels, "exclude": problem.exclude}
    g = torch.Generator("cpu")
    uniform = torch.rand(len(a), dtype=torch.float64, generator=g.manual_seed(7))
    u: Tensor | None

    allowed = reference._allowed(*problem.mine[2:], **masks, same_class=False)
    for mining in ("hardest", "semihard", "random"):
        truth = reference.mine_negatives(
            *wide.mine, mining=mining, metric=metric, positive=wide.positive, **masks,
            generator=g.manual_seed(7),
        )  # fmt: skip
        p = problem.positive if mining == "semihard" else None
        u = uniform if mining == "random" else None
        for fast in (False, True) if mining == "hardest" else (False,):
            picked = operator(
                ops.mine, *problem.mine, p, *masks.values(), u, metric, mining, False, fast
            )
            if mining == "random":
                if not torch.equal(picked[1], truth[1]):
                    raise Disagreement("random mining: wrong index")
                # Copies are drawn like any other.
                operator.close("distance of the pick", picked[0], truth[0], dtype)
            else:
                operator.pick(picked, truth, distances, allowed, dtype, FAST if fast else None)

    allowed = reference._allowed(*problem.mine[2:], None, problem.exclude, True)
    for mining in ("hardest", "easiest"):
        truth = reference.mine_positives(
            *wide.mine, mining=mining, metric=metric, exclude=problem.exclude
        )
        picked = operator(
            ops.mine, *problem.mine, None, None, problem.exclude, None, metric, mining, True, False
        )
        operator.pick(picked, truth, distances, allowed, dtype)


class Truth(NamedTuple):
    """Losses of given picks and their gradients, by the reference in float64."""

    loss: Tensor
    positive_distance: Tensor
    negative_distance: Tensor
    gradients: tuple[Tensor, ...]


def _truth(
    features: tuple[Tensor, Tensor, Tensor], positive_index: Tensor | None, index: Tensor | None,
    options: tuple[Any, ...], upstream: Tensor,
) -> Truth:  # fmt: skip
    margin, weight, norm_weight, metric, norm, reduction = options
    leaves = [x.double().clone().requires_grad_() for x in features]
    a, p, n = leaves
    exists = torch.ones(len(a), dtype=torch.bool)
    if index is not None:
        n, exists = reference._rows(n, index), index >= 0
    if positive_index is not None:
        p = reference._rows(p, positive_index).unsqueeze(1)
    loss, d_ap, d_an = reference._triplets(
        a, p, n, exists, margin, weight, norm_weight, metric, norm
    )
    if positive_index is not None:  # a row that lacks either gives nothing
        loss = torch.where(exists & (positive_index >= 0), loss, 0)
    loss = reference._reduce(loss, reduction)
    gradients = torch.autograd.grad(loss, leaves, upstream.double())
    return Truth(loss, d_ap, d_an, gradients)


def _losses(
    problem: Problem, operator: Operator, got: list[Tensor] | None,
    features: tuple[Tensor, Tensor, Tensor], positive_index: Tensor | None, index: Tensor | None,
    options: tuple[Any, ...],
) -> None:  # fmt: skip
    """Compare (loss, distances) with the truth, and the gradients. None: of ops.triplet_loss."""
    arguments = (*features, positive_index, index, *options)
    if got is None:
        got = operator(ops.triplet_loss, *arguments)
    upstream = torch.linspace(0.5, 2.0, got[0].numel(), dtype=torch.float64).view(got[0].shape)
    upstream = upstream.to(_work(problem.anchor))
    truth = _truth(features, positive_index, index, options, upstream)
    dtype = _work(problem.anchor)
    operator.close("loss", got[0], truth.loss, dtype)
    if positive_index is None:  # in a batch the distances are known to whoever mined the picks
        operator.close("positive distance", got[1], truth.positive_distance, dtype)
        operator.close("negative distance", got[2], truth.negative_distance, dtype)
    if any(x.isnan().any() for x in features):
        return
    gradients = operator(ops.triplet_loss_backward, upstream, *arguments, True, True, True, False)
    expected = truth.gradients
    names = ("anchor", "positive", "negative")
    for name, x, y, z in zip(names, gradients, expected, features, strict=True):
        operator.close(f"gradient of {name}", x, y, z.dtype)
    for n, name in enumerate(names if operator.strided else ()):
        # One gradient alone, from one number for all rows, as .sum() hands it down.
        if upstream.ndim:
            truth = _truth(features, positive_index, index, options, torch.full_like(upstream, 0.5))
        one = operator(
            ops.triplet_loss_backward, upstream.new_full((), 0.5).expand(upstream.shape)
            if upstream.ndim else upstream, *arguments, n == 0, n == 1, n == 2, False,
        )  # fmt: skip
        operator.close(f"gradient of {name} alone", one[n], truth.gradients[n], features[n].dtype)
    if index is not None and positive_index is None and len(features[2]):
        rows = operator(ops.triplet_loss_backward, upstream, *arguments, False, False, True, True)
        # The lowest anchor that picked a row has it.
        first = (index[:, None] == index).int().argmax(1) == torch.arange(len(index))
        owned = (first & (index >= 0)).unsqueeze(1)
        sparse = torch.where(owned, expected[2][index.clamp(min=0)], 0)
        operator.close("sparse gradient", rows[2], sparse, features[2].dtype)


def _choices(problem: Problem, metric: str) -> tuple[str, str]:
    """Norm and reduction, each with each metric and problem sooner or later."""
    turn = METRICS.index(metric) + len(problem.name)
    return NORMS[turn % 2], ("none", "mean", "sum")[turn % 3]


def _triplet_loss(problem: Problem, metric: str, operator: Operator) -> None:
    a, p, c = problem.features
    count = len(c)
    options = (*OPTIONS, metric, *_choices(problem, metric))
    _losses(problem, operator, None, (a, p, (-1.3 * a.roll(1, 0)).to(c.dtype)), None, None, options)
    # Several anchors pick one candidate; one picks none.
    index = torch.arange(len(a)) * 3 % max(1, min(count, 5))
    index = torch.where((torch.arange(len(a)) == 1) | torch.tensor(count == 0), -1, index)
    _losses(problem, operator, None, (a, p, c), None, index, options)
    if count:
        _losses(problem, operator, None, (a, c, c), index.flip(0), index, options)


def _triplet_adv_loss(problem: Problem, metric: str, operator: Operator) -> None:
    wide = problem.double()
    masks = {"target_labels": problem.target_labels, "exclude": problem.exclude}
    allowed = reference._allowed(*problem.mine[2:], **masks, same_class=False)
    distances, dtype = _distances(problem, metric), _work(problem.anchor)
    g = torch.Generator("cpu")
    options = (*OPTIONS, metric, *_choices(problem, metric))
    other = "semihard" if options[-2] == "l2" else "random"
    for mining, fast in (("hardest", False), ("hardest", True), (other, False)):
        truth = reference.mine_negatives(
            *wide.mine, mining=mining, metric=metric, positive=wide.positive, **masks,
            generator=g.manual_seed(7),
        )  # fmt: skip
        u = None
        if mining == "random":
            g.manual_seed(7)
            u = torch.rand(len(wide.anchor), dtype=torch.float64, generator=g)
        loss, index, d_ap, d_an = operator(
            ops.triplet_adv_loss, *problem.features, *problem.mine[2:], *masks.values(), u,
            *options[:4], mining, *options[4:], fast,
        )  # fmt: skip
        if mining == "random":
            if not torch.equal(index, truth[1]):
                raise Disagreement("random mining: wrong index")
        else:
            regret = FAST if fast else None
            operator.pick([d_an, index], truth, distances, allowed, dtype, regret)
        _losses(problem, operator, [loss, d_ap, d_an], problem.features, None, index, options)
