"""What latency.py times, each implementation one Run a set of inputs, and the truth in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from cases import MARGIN, NORM_WEIGHT, Problem
from floor import captured
from harness import Run
from torch import Tensor

import tla_ops
from tla_ops import reference

MODES = ("forward", "backward", "both")
EAGER = {"tla_ops": tla_ops, "eager": reference}
GRAPH = {"tla_ops_graph": tla_ops, "eager_graph": reference}
# Largest relative errors against float64. Sums are in float32; eager PyTorch adds up the gradients
# of a candidate that many rows picked in bfloat16 (.011 for one candidate and 50 rows).
LOSS_TOLERANCE = 1e-4
GRAD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
REGRET_TOLERANCE = 2e-5


def random_problem(
    shape: tuple[int, int, int], dtype: torch.dtype, generator: torch.Generator
) -> Problem:
    """Normal features of ten classes on the generator's device."""
    b, m, d = shape
    at = {"generator": generator, "device": generator.device}
    features = [torch.randn(n, d, **at).to(dtype).requires_grad_() for n in (b, b, m)]
    return Problem(*features, *(torch.randint(10, (n,), **at) for n in (b, m)))


def inputs(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    return p.anchor, p.positive, p.candidates


def loss_of(function: Callable[..., Tensor], p: Problem, **more: object) -> Tensor:
    return function(
        *(p.anchor, p.positive, p.candidates, p.labels, p.candidate_labels),
        margin=MARGIN,
        norm_weight=NORM_WEIGHT,
        **more,
    )


def gradients(loss: Tensor, p: Problem, keep: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs(p), retain_graph=keep)


def eager_run(module: ModuleType, p: Problem, mode: str) -> Run:
    """Plain calls, as a training loop makes them. Every run's call returns what it computed."""
    function = module.triplet_adv_loss
    if mode == "forward":

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (loss_of(function, p),)

        return Run(forward)
    if mode == "backward":
        loss = loss_of(function, p)
        return Run(lambda: gradients(loss, p, keep=True))

    def both() -> tuple[Tensor, ...]:
        loss = loss_of(function, p)
        return loss.detach(), *gradients(loss, p)

    return Run(both)


class Replay:
    """An implementation's calls captured; calling it replays and returns the static outputs."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.outputs: tuple[Tensor, ...] = ()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for run in runs:
                for _ in range(3):
                    run.call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()

        def body() -> None:
            for run in runs:
                self.outputs = run.call()

        self.graph = captured(body)

    def __call__(self) -> tuple[Tensor, ...]:
        self.graph.replay()
        return self.outputs


class BackwardReplay(Replay):
    """The backward pass alone. Autograd runs it on the stream its forward ran on, so that the
    forward is captured, too, in a graph of its own, and replayed once to fill what was saved."""

    def __init__(self, function: Callable[..., Tensor], problems: Sequence[Problem]) -> None:
        losses: list[Tensor] = []
        for p in problems:
            for _ in range(3):
                gradients(loss_of(function, p), p)
        torch.cuda.synchronize()
        self.forward = captured(lambda: losses.extend(loss_of(function, p) for p in problems))
        self.forward.replay()

        def body() -> None:
            for loss, p in zip(losses, problems, strict=True):
                self.outputs = gradients(loss, p, keep=True)

        self.graph = captured(body)


def graph_runs(module: ModuleType, problems: Sequence[Problem], mode: str) -> tuple[list[Run], Run]:
    """One graph a problem, and one of all problems, whose time a problem has no gaps of launching
    graphs in it."""
    if mode == "backward":
        function = module.triplet_adv_loss
        alone = [Run(BackwardReplay(function, [p])) for p in problems]
        return alone, Run(BackwardReplay(function, problems))
    eager = [eager_run(module, p, mode) for p in problems]
    return [Run(Replay([run])) for run in eager], Run(Replay(eager))


def compile_runs(problems: Sequence[Problem], mode: str) -> list[Run]:
    """torch.compile of the reference with CUDA graphs: what a user gets for one line."""
    torch._dynamo.reset()  # shapes do not share a compile cache, whose size is limited

    def function(p: tuple[Tensor, ...]) -> Tensor:
        return loss_of(reference.triplet_adv_loss, Problem(*p))

    compiled = torch.compile(function, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def run_of(p: Problem) -> Run:
        arguments = (*inputs(p), p.labels, p.candidate_labels)
        held: list[Tensor] = []

        def loss() -> Tensor:
            # Tells the graphs that the outputs of the call before may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(arguments)

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (loss(),)

        def both() -> tuple[Tensor, ...]:
            value = loss()
            return value.detach(), *gradients(value, p)

        # Graphs of torch.compile free what they saved: each backward needs a forward before it.
        def prepare() -> None:
            held[:] = [loss()]

        if mode == "backward":
            return Run(lambda: gradients(held.pop(), p), prepare)
        return Run(forward if mode == "forward" else both)

    return [run_of(p) for p in problems]


def picks(module: ModuleType, p: Problem) -> Tensor:
    with torch.no_grad():
        return loss_of(module.triplet_adv_loss, p, return_details=True).negative_index


def regret(p: Problem, index: Tensor) -> float:
    """How much farther the worst pick is than the true minimum, in float64; infinite for a pick of
    the row's own class or a missing one."""
    a, c = (torch.nn.functional.normalize(x.detach().double()) for x in (p.anchor, p.candidates))
    d = 1 - (a @ c.mT).abs()
    d[p.labels[:, None] == p.candidate_labels] = torch.inf
    best = d.min(1).values
    picked = d.gather(1, index.clamp(min=0)[:, None])[:, 0]
    picked = torch.where(index < 0, torch.inf, picked)
    return float(torch.where(best.isinf() & (index < 0), 0, picked - best).max())


def truth(p: Problem, index: Tensor) -> tuple[Tensor, ...]:
    """(loss, gradients of anchor, positive, candidates) in float64 for given picks: equation 1 of
    the paper without the cross entropy."""
    a, pos, c = (x.detach().double().requires_grad_() for x in inputs(p))
    n, has = c[index.clamp(min=0)], index >= 0

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return 1 - (x * y).sum(1).abs() / (x.norm(dim=1) * y.norm(dim=1))

    hinge = torch.relu(distance(a, pos) - distance(a, n) + MARGIN)
    norms = a.norm(dim=1) + pos.norm(dim=1) + torch.where(has, n.norm(dim=1), 0)
    loss = (torch.where(has, hinge, 0) + NORM_WEIGHT * norms).mean()
    return loss.detach(), *torch.autograd.grad(loss, (a, pos, c))


def errors(outputs: tuple[Tensor, ...], true: tuple[Tensor, ...], mode: str) -> dict[str, float]:
    """Relative errors, as norms; NaN anywhere gives NaN."""
    values = [
        float((x.double() - y).norm() / y.norm())
        for x, y in zip(outputs, true[1:] if mode == "backward" else true, strict=False)
    ]
    found = {}
    if mode != "backward":
        found["loss_error"] = values.pop(0)
    if mode != "forward":
        found["grad_error"] = max(values, key=lambda v: (v != v, v))
    return found


def acceptable(found: dict[str, float], dtype: torch.dtype) -> bool:
    limits = {
        "loss_error": LOSS_TOLERANCE,
        "grad_error": GRAD_TOLERANCE[dtype],
        "regret": REGRET_TOLERANCE,
    }
    return all(value <= limits[name] for name, value in found.items())


def bytes_moved(p: Problem, mode: str) -> int:
    """Each input read once and each output written once: backward reads the picked rows alone and
    writes dense gradients."""
    forward = sum(x.nbytes for x in (*inputs(p), p.labels, p.candidate_labels))
    rows = p.anchor.nbytes + p.positive.nbytes
    backward = 2 * rows + p.anchor.shape[0] * p.candidates.shape[1] * p.candidates.element_size()
    backward += p.candidates.nbytes
    return {"forward": forward, "backward": backward, "both": forward + backward}[mode]
