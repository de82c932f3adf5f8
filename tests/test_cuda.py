"""What only a CUDA device shows: graphs, streams, synchronisation, memory, several devices."""

import contextlib
import subprocess
import sys
import threading

import pytest
import torch
from helpers import DEVICES, METRICS, Problem, close, make_problem, same_bits

import tla_ops
from tla_ops import _dispatch, ops, reference
from tla_ops.selftest import SCREENED, _takes

pytestmark = pytest.mark.skipif(
    "cuda" not in DEVICES, reason="needs a CUDA device and an installation with CUDA kernels"
)
CUDA = torch.device("cuda")
several = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def problem_of(seed=0, B=33, M=300, D=40, device=CUDA, **kwargs):
    return make_problem(B, M, D, 2, seed=seed, device=device, **kwargs)


def adv_step(p, **call):
    """Loss, details and gradients."""
    out = tla_ops.triplet_adv_loss(
        *p, margin=0.4, norm_weight=0.01, return_details=True, **call
    )  # fmt: skip
    return [*(x.detach() for x in out), *torch.autograd.grad(out.loss, p.features)]


def triplet_step(p):
    a, positive, c = p.features
    loss = tla_ops.triplet_loss(a, positive, c[: len(a)], margin=0.4, norm_weight=0.01)
    return [loss.detach(), *torch.autograd.grad(loss, p.features)]


def batch_step(p, **call):
    c = p.candidates
    loss = tla_ops.batch_hard_triplet_loss(c, p.candidate_labels, margin=0.4, **call)
    return [loss.detach(), *torch.autograd.grad(loss, c)]


def cdist_step(p, metric):
    d = tla_ops.cdist(p.anchor, p.candidates, metric=metric)
    return [d.detach(), *torch.autograd.grad(d.square().sum(), (p.anchor, p.candidates))]


def mine_step(p, **call):
    return [
        *tla_ops.mine_negatives(*p.mine, positive=p.positive, **call),
        *tla_ops.mine_positives(*p.mine),
    ]


def enlarged(p):
    """Of a size that is screened on the matrix unit."""
    anchor, candidates = p.anchor.repeat(8, 26), p.candidates.repeat(30, 26)
    positive = p.positive.repeat(8, 1, 26)
    return Problem(anchor, positive, candidates, p.labels.repeat(8), p.candidate_labels.repeat(30))


def screen_step(p, screen):
    """Of a size that the plan sends this way."""
    a, c, y, cy = enlarged(p).mine
    if screen == "bank":
        a, c, y, cy = p.anchor.repeat(1, 26), c.repeat(2, 1), p.labels, cy.repeat(2)
    masks = (None, None, None, None)
    return list(ops.mine(a, c, y, cy, *masks, "angular", "hardest", False, False, screen))


STEPS = {
    **{f"triplet_adv_loss, {m}": lambda p, m=m: adv_step(p, metric=m) for m in METRICS},
    "triplet_adv_loss, semihard": lambda p: adv_step(p, mining="semihard"),
    "triplet_adv_loss, fast": lambda p: adv_step(p, precision="fast"),
    "triplet_adv_loss, masks": lambda p: adv_step(
        p, target_labels=(p.labels + 1) % 5, exclude=p.labels
    ),
    "triplet_loss": triplet_step,
    "batch_hard_triplet_loss": batch_step,
    "batch_hard_triplet_loss, semihard": lambda p: batch_step(p, mining="semihard"),
    **{f"cdist, {m}": lambda p, m=m: cdist_step(p, m) for m in METRICS},
    **{f"mine, {m}": lambda p, m=m: mine_step(p, metric=m) for m in METRICS},
    "mine, semihard": lambda p: mine_step(p, mining="semihard"),
    "triplet_adv_loss, large": lambda p: adv_step(enlarged(p).leaves()),
}
# Only where there is a GPU to ask.
SCREENS_HERE = [s for s in _dispatch.SCREENS if "cuda" in DEVICES and _takes(CUDA, s)]
STEPS |= {f"mine, {s}": lambda p, s=s: screen_step(p, s) for s in SCREENS_HERE}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
FEW = ["triplet_adv_loss, angular", "triplet_adv_loss, chebyshev", "batch_hard_triplet_loss"]
few_steps = pytest.mark.parametrize("step", [STEPS[name] for name in FEW], ids=FEW)
DRAWS = {
    "triplet_adv_loss, random": lambda p: adv_step(p, mining="random"),
    "mine, random": lambda p: mine_step(p, mining="random"),
}


def many(problem):
    """The same anchors and candidates over and over: picks are sorted for the backward."""
    a, p, c, y, cy = problem
    return Problem(a.repeat(30, 1), p.repeat(30, 1, 1), c.repeat(5, 1), y.repeat(30), cy.repeat(5))


def apart(problem):
    """The same numbers in tensors that are nobody else's; features require gradients."""
    return Problem(*problem.leaves().features, *(x.clone() for x in problem[3:]))


def beside(stream):
    """Work on a stream that waits for what has been queued so far."""
    stream.wait_stream(torch.cuda.current_stream())
    return torch.cuda.stream(stream)


class Captured:
    """A step as a CUDA graph."""

    def __init__(self, step, problem):
        self.inputs = apart(problem)
        side = torch.cuda.Stream()
        with beside(side):
            for _ in range(3):
                step(self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = step(self.inputs)

    @torch.no_grad()
    def load(self, problem):
        for mine, other in zip(self.inputs, problem, strict=True):
            mine.copy_(other)

    def __call__(self, problem):
        self.load(problem)
        self.graph.replay()
        return [x.clone() for x in self.outputs]


def differences(outputs, expected):
    """How many elements differ, on the device: nothing waits."""
    return sum((x != y).sum() for x, y in zip(outputs, expected, strict=True))


# CUDA graphs


@every_step
def test_graphs_take_fresh_inputs(step):
    captured = Captured(step, problem_of(0))
    for seed in (1, 2, 0, 3):
        problem = problem_of(seed)
        expected = step(apart(problem))
        for _ in range(2):
            assert all(map(same_bits, captured(problem), expected))


@pytest.mark.parametrize(
    "size", [(1, 1, 1), (50, 500, 640), (300, 4000, 64), (1500, 3, 33)], ids=str
)
def test_graphs_of_other_sizes(size):
    B, M, D = size
    captured = Captured(adv_step, problem_of(0, B, M, D))
    for seed in (1, 2):
        problem = problem_of(seed, B, M, D)
        assert all(map(same_bits, captured(problem), adv_step(apart(problem))))


@pytest.mark.parametrize("step", DRAWS.values(), ids=DRAWS.keys())
def test_graphs_draw_anew(step):
    problem = problem_of(1, B=200)
    captured = Captured(step, problem)
    first, second = captured(problem)[1], captured(problem)[1]
    assert first.dtype == torch.int64
    assert not torch.equal(first, second)
    for index in (first, second):
        assert (problem.candidate_labels[index] != problem.labels).all()


@few_steps
def test_two_graphs_at_once(step):
    """Nothing that is written in a graph is shared: replays on two streams overlap."""
    problems = [problem_of(seed, B=64, M=3000, D=64) for seed in (1, 2)]
    expected = [step(apart(p)) for p in problems]
    graphs = [Captured(step, p) for p in problems]
    streams = [torch.cuda.Stream() for _ in graphs]
    wrong = [torch.zeros((), dtype=torch.int64, device=CUDA) for _ in graphs]
    eager = torch.zeros((), dtype=torch.int64, device=CUDA)
    leaves = apart(problems[0])
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(50):
        for k, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                graphs[k].graph.replay()
                wrong[k] += differences(graphs[k].outputs, expected[k])
        eager += differences(step(leaves), expected[0])
    torch.cuda.synchronize()
    assert [int(x) for x in (*wrong, eager)] == [0, 0, 0]


def test_capture_before_a_self_test_is_plain_pytorch(monkeypatch):
    problem = problem_of(1)
    expected = reference.cdist(problem.anchor, problem.candidates)  # sets cuBLAS up
    monkeypatch.setattr(_dispatch, "_tables", {})
    monkeypatch.setattr(_dispatch, "_warned", set())
    monkeypatch.setattr(_dispatch, "_verified", lambda index: frozenset())
    plain, graph = [], torch.cuda.CUDAGraph()
    cdist = reference.cdist
    monkeypatch.setattr(
        reference, "cdist", lambda *args, **call: plain.append(1) or cdist(*args, **call)
    )

    def capture():
        with torch.cuda.graph(graph):
            return tla_ops.cdist(problem.anchor, problem.candidates)

    with pytest.warns(UserWarning, match=r"during CUDA graph .*tla_ops\.selftest\(\"cuda:0\"\)"):
        d = capture()
    assert plain
    graph.replay()
    close(d, expected)
    with (
        pytest.raises(RuntimeError, match="during CUDA graph capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        tla_ops.selftest(CUDA)
    assert tla_ops.selftest(CUDA).failed == {}
    plain.clear()
    graph = torch.cuda.CUDAGraph()
    d = capture()
    assert not plain
    graph.replay()
    assert same_bits(d, tla_ops.cdist(problem.anchor, problem.candidates))


def test_compile_with_graphs(fresh_compiler):
    def step(*p):
        return tla_ops.triplet_adv_loss(*p, margin=0.4, norm_weight=0.01)

    fast = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    for seed in (1, 2, 3, 4, 5):
        outcomes = []
        for function in (step, fast):
            torch.compiler.cudagraph_mark_step_begin()
            p = apart(problem_of(seed))
            loss = function(*p)
            loss.backward()
            outcomes.append([loss.detach().clone(), *(x.grad.clone() for x in p.features)])
        assert all(map(same_bits, *outcomes))


# Streams


def late(problem, stream):
    """Inputs that hold zeros until the stream has been busy for a while."""
    inputs = [torch.zeros_like(x) for x in problem]
    with beside(stream):
        torch.cuda._sleep(50_000_000)
        for x, value in zip(inputs, problem, strict=True):
            x.copy_(value)
    return Problem(*(x.requires_grad_() for x in inputs[:3]), *inputs[3:])


@every_step
def test_work_goes_to_the_current_stream(step):
    problem = problem_of(1)
    expected = step(apart(problem))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    inputs = late(problem, stream)
    with torch.cuda.stream(stream):
        outputs = step(inputs)
    stream.synchronize()
    assert all(map(same_bits, outputs, expected))


@few_steps
def test_several_streams_at_once(step):
    problems = [apart(problem_of(seed, B=64, M=3000, D=64)) for seed in range(4)]
    expected = [step(p) for p in problems]
    streams = [torch.cuda.Stream() for _ in problems]
    wrong = [torch.zeros((), dtype=torch.int64, device=CUDA) for _ in problems]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(30):
        for k, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                wrong[k] += differences(step(problems[k]), expected[k])
    torch.cuda.synchronize()
    assert [int(x) for x in wrong] == [0, 0, 0, 0]


@few_steps
def test_several_threads_at_once(step):
    problems = [apart(problem_of(seed, B=64, M=3000, D=64)) for seed in range(4)]
    expected = [step(p) for p in problems]
    torch.cuda.synchronize()
    results = {}

    def work(k):
        with torch.cuda.stream(torch.cuda.Stream()):
            runs = [differences(step(problems[k]), expected[k]) for _ in range(20)]
            results[k] = int(sum(runs))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), 0)


# Synchronisation


@contextlib.contextmanager
def no_waiting():
    """Whatever makes the host wait for the device is an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def sparse_step(p):
    loss = tla_ops.triplet_adv_loss(*p, margin=0.4, sparse_grad=True)
    return [loss, *torch.autograd.grad(loss, p.features)]


def generator_step(p, g=[]):  # noqa: B006  (made once, on the device)
    g = g or g.append(torch.Generator(CUDA)) or g
    return mine_step(p, mining="random", generator=g[0])


def bank_step(p, bank=[]):  # noqa: B006
    bank = bank or bank.append(tla_ops.FeatureBank(64, 40, device=CUDA)) or bank
    bank[0].enqueue(p.anchor, p.labels)
    return tla_ops.triplet_adv_loss(*p[:2], bank[0].features, p.labels, bank[0].labels)


OTHERS = {
    **DRAWS, "sparse_grad": sparse_step, "generator": generator_step, "FeatureBank": bank_step,
    "many anchors": lambda p: adv_step(many(p)), "many anchors, sparse_grad":
    lambda p: sparse_step(many(p)), "one batch of many": lambda p: batch_step(many(p)),
}  # fmt: skip


@pytest.mark.parametrize("step", [*STEPS.values(), *OTHERS.values()], ids=[*STEPS, *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_nothing_waits_for_the_device(dtype, step):
    problem = apart(problem_of(1, dtype=dtype))
    step(problem)
    torch.cuda.synchronize()
    with no_waiting():
        step(problem)


def test_the_measure_sees_waiting():
    x = torch.ones((), device=CUDA)
    with no_waiting(), pytest.raises(RuntimeError, match=r"(?i)synchroniz"):
        x.item()


def test_the_self_test_may_wait(monkeypatch):
    monkeypatch.setattr(_dispatch, "_tables", {})
    monkeypatch.setattr(_dispatch, "_verified", lambda index: frozenset())
    problem = problem_of(1)
    with no_waiting():
        tla_ops.mine_negatives(*problem.mine)
        assert torch.cuda.get_sync_debug_mode() == 2
    assert _dispatch._tables[problem.anchor.device.index] >= frozenset(_dispatch.OPERATORS)


HOOK = """
import torch, tla_ops
from tla_ops import _dispatch
_dispatch._verified = lambda index: frozenset()
x = torch.randn(4, 3, device="cuda", requires_grad=True)
y = x.sin()
y.register_hook(lambda g: tla_ops.cdist(g, g) @ g)
y.sum().backward()
torch.cuda.synchronize()
assert _dispatch._tables, "no self-test ran"
print("done")
"""


def test_a_first_call_inside_backward():
    """The self-test runs while autograd's thread of the device waits for it."""
    done = subprocess.run([sys.executable, "-c", HOOK], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


# Memory, determinism, bits


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mining", ["hardest", "semihard", "random"])
def test_the_matrix_is_never_stored(mining, metric):
    B, M, D = 512, 16384, 64
    problem = problem_of(0, B, M, D)
    calls = [
        lambda: tla_ops.triplet_adv_loss(*problem, metric=metric, mining=mining),
        lambda: tla_ops.mine_negatives(
            *problem.mine, metric=metric, mining=mining, positive=problem.positive
        ),
    ]
    for call in calls:
        call()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
        assert extra < B * M * 2, f"{extra} bytes: not even a half-precision matrix may be there"


@every_step
@pytest.mark.parametrize("size", [(200, 12, 65), (64, 5000, 33), (1500, 12, 5)], ids=str)
def test_a_hundred_runs_have_the_same_bits(size, step):
    """Of 12 candidates each is picked by many anchors, whose gradients are summed in one order."""
    B, M, D = size
    if step is triplet_step and M < B:
        B = M
    problem = apart(problem_of(1, B, M, D))
    first = step(problem)
    wrong = sum(differences(step(problem), first) for _ in range(100))
    assert int(wrong) == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [(513, 1, 20), (3000, 2, 65), (3000, 5000, 33)], ids=str)
def test_gradients_of_many_anchors(size, metric):
    """Sorted picks: what the CPU computes, and sparse rows that add up to the dense gradient."""
    p = problem_of(3, *size)
    index = tla_ops.mine_negatives(*p.mine, metric=metric)[1]
    rows = [torch.tensor(0.7, device=CUDA), *p.features, None, index]
    call = (0.4, 1.0, 0.02, metric, "l2", "mean", True, True, True)
    got = torch.ops.tla_ops.triplet_loss_backward(*rows, *call, False)
    on_cpu = [x if x is None else x.cpu() for x in rows]
    for mine, expected in zip(
        got, torch.ops.tla_ops.triplet_loss_backward(*on_cpu, *call, False), strict=True
    ):
        close(mine, expected)
    *_, owned = torch.ops.tla_ops.triplet_loss_backward(*rows, *call, True)
    dense = torch.zeros_like(got[2]).index_add_(0, index.clamp(min=0), owned)
    assert torch.equal(dense, got[2])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
@pytest.mark.parametrize(
    "size", [(1, 7, 1), (33, 300, 40), (50, 500, 640), (300, 4000, 64)], ids=str
)
def test_a_pick_has_the_bits_of_cdist(size, dtype, metric):
    problem = problem_of(2, *size, dtype=dtype)
    d = tla_ops.cdist(problem.anchor, problem.candidates, metric=metric)
    for mining in ("hardest", "semihard"):
        distance, index = tla_ops.mine_negatives(
            *problem.mine, metric=metric, mining=mining, positive=problem.positive
        )
        at = d.gather(1, index.clamp(min=0).unsqueeze(1)).squeeze(1)
        assert same_bits(distance, torch.where(index >= 0, at, torch.inf))
    own = problem.labels.unsqueeze(1) == problem.candidate_labels
    nearest = tla_ops.mine_negatives(*problem.mine, metric=metric, precision="exact")[0]
    assert same_bits(nearest, d.masked_fill(own, torch.inf).amin(1))


@pytest.mark.parametrize("metric", METRICS[:3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["near-copies", "collapsed", "rounding", "scales", "many rows"])
@pytest.mark.parametrize("screen", _dispatch.SCREENS)
def test_every_screen_picks_what_tiles_do(screen, kind, dtype, metric):
    """Where half precision decides, or the matrix unit's own rounding adds up."""
    if screen not in SCREENS_HERE:
        pytest.skip(f"this GPU's plan has no use for {screen}")
    b, m, d = SCREENED[screen]
    if kind == "many rows":  # several chunks of anchors, or passes over a bank
        b = 100 if screen == "bank" else 17000
    p = problem_of(3, b, m, d, dtype=dtype)
    a, c = p.anchor, p.candidates
    if kind == "near-copies":
        c[m // 2 : m // 2 * 2] = c[: m // 2]
        c[m // 2 :] += 1e-3 * c[: m - m // 2]
        a[7, 3], c[11, 0] = torch.nan, torch.inf
    elif kind == "collapsed":
        a += 5
        c += 5
    elif kind == "rounding":
        # All products of a sum of one sign and of many sizes.
        c[:] = 1 + c.abs() / 64
        a[:] = 1 + a.abs() / 64
    elif kind == "scales":
        c *= 10 ** torch.linspace(-3, 3, m, device=CUDA).unsqueeze(1).to(dtype)
    searches = [
        ("hardest", p.positive, None, False), ("semihard", p.positive, None, False),
        ("hardest", None, (p.labels + 1) % 5, False), ("hardest", None, None, True),
    ]  # fmt: skip
    own = torch.arange(b, device=CUDA)
    for mining, positive, targets, same_class in searches:
        call = (*p.mine, positive, targets, own, None, metric, mining, same_class, False)
        for x, y in zip(ops.mine(*call, screen), ops.mine(*call, ""), strict=True):
            assert same_bits(x.nan_to_num(nan=-1), y.nan_to_num(nan=-1)), (mining, same_class)


# Several devices

ARGUMENTS = {
    "triplet_adv_loss": ("positive", "candidates", "labels", "candidate_labels", "target_labels",
                         "exclude"),
    "mine_negatives": ("positive", "candidates", "labels", "candidate_labels", "exclude"),
    "mine_positives": ("candidates", "labels", "candidate_labels", "exclude"),
    "triplet_loss": ("positive", "negative"),
    "batch_hard_triplet_loss": ("labels",),
    "cdist": ("x2",),
}  # fmt: skip
FIRST = {"batch_hard_triplet_loss": "embeddings", "cdist": "x1"}


def check_device_error(name, argument, elsewhere):
    p = problem_of(0)
    values = {
        **p._asdict(), "target_labels": p.labels, "exclude": p.labels,
        "negative": p.anchor, "x1": p.anchor, "x2": p.candidates, "embeddings": p.anchor,
    }  # fmt: skip
    first = FIRST.get(name, "anchor")
    call = {key: values[key] for key in (first, *ARGUMENTS[name])}
    if name == "batch_hard_triplet_loss":
        call["margin"] = 0.1
    getattr(tla_ops, name)(**call)
    call[argument] = call[argument].to(elsewhere)
    here, there = p.anchor.device, call[argument].device
    expected = f"^{name}: {argument} must be on {here} as {first} is, got {there}$"
    with pytest.raises(ValueError, match=expected):
        getattr(tla_ops, name)(**call)


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in ARGUMENTS for a in ARGUMENTS[n]])
def test_tensors_on_the_cpu_are_named(name, argument):
    check_device_error(name, argument, "cpu")


@several
@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in ARGUMENTS for a in ARGUMENTS[n]])
def test_tensors_on_another_device_are_named(name, argument):
    check_device_error(name, argument, "cuda:1")


def test_a_generator_of_the_cpu_is_named():
    with pytest.raises(ValueError, match="generator must be on cuda:0 as anchor is, got cpu"):
        tla_ops.mine_negatives(
            *problem_of(0).mine, mining="random", generator=torch.Generator("cpu")
        )


@several
@every_step
def test_a_device_that_is_not_the_current_one(step):
    expected = step(apart(problem_of(1, device="cuda:0")))
    with torch.cuda.device(0):
        outputs = step(apart(problem_of(1, device="cuda:1")))
        assert torch.cuda.current_device() == 0
    assert {str(x.device) for x in outputs} == {"cuda:1"}
    if torch.cuda.get_device_capability(0) == torch.cuda.get_device_capability(1):
        assert all(map(same_bits, outputs, expected))
    assert tla_ops.selftest("cuda:1").failed == {}
