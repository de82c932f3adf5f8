"""The self-test finds broken operators, and dispatch leaves those out and no others.

Without a GPU the CPU goes CUDA's way: see the fixture ``guarded``.
"""

import re
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers import generator, make_problem, same_bits

import tla_ops
from tla_ops import _build_info, _dispatch, _library, ops, reference
from tla_ops._selftest_problems import problems
from tla_ops.selftest import OPTIONS, run

MODULE = sys.modules["tla_ops.selftest"]  # tla_ops.selftest is the function
OPERATORS, SCREENS = _dispatch.OPERATORS, _dispatch.SCREENS
FIRST_SCREENS = ("blas", "mma", "bank")  # of a first use
CPU = torch.device("cpu")


def calls(problem):
    """Each public function with the operators it needs."""
    a, p, c, y, cy = problem
    return {
        "triplet_adv_loss": (
            {"triplet_adv_loss"}, lambda f: f(a, p, c, y, cy, margin=0.4, norm_weight=0.01)
        ),
        "triplet_loss": ({"triplet_loss"}, lambda f: f(a, p, c[: len(a)], margin=0.4)),
        "batch_hard_triplet_loss": ({"mine", "triplet_loss"}, lambda f: f(c, cy, margin=0.4)),
        "cdist": ({"cdist"}, lambda f: f(a, c, metric="euclidean")),
        "mine_negatives": ({"mine"}, lambda f: f(a, c, y, cy)[0]),
        "mine_positives": ({"mine"}, lambda f: f(a, c, y, cy)[0]),
    }  # fmt: skip


# The self-test


def test_every_operator_passes(device):
    report = tla_ops.selftest(device)
    assert report.failed == {}
    assert set(report.passed) >= set(OPERATORS)
    assert set(report.passed) <= {*OPERATORS, *SCREENS}
    assert torch.device(report.device).type == device.type
    assert (report.capability is None) == (device.type == "cpu")
    for found in (report.operators[name] for name in OPERATORS):
        assert found.problems == sum(len(problem.metrics) for problem in problems())
        assert 0 < found.worst < 1
        assert found.reason is None


@pytest.mark.parametrize("instruction_set", _build_info.info()["cpu"]["available"])
def test_on_every_instruction_set(instruction_set):
    before = torch.ops.tla_ops.use_instruction_set(instruction_set)
    try:
        assert tla_ops.selftest("cpu").failed == {}
    finally:
        torch.ops.tla_ops.use_instruction_set(before)


@pytest.mark.parametrize(
    "state",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: torch._subclasses.FakeTensorMode(),
    ],
)
def test_the_callers_state_does_not_matter(state):
    before = torch.get_rng_state()
    with state():
        assert tla_ops.selftest("cpu").failed == {}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_does_not_matter(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert tla_ops.selftest("cpu").failed == {}
    finally:
        torch.set_default_dtype(before)


def test_problems_keep_away_from_edges(monkeypatch):
    """Where rounding would decide: hinges at 0, semihard bounds, cosines of 0, tied coordinates."""
    gap, triplets, mine = 5e-7, reference._triplets, reference._mine

    def watched_triplets(*args):
        loss, d_ap, d_an = triplets(*args)
        violation = d_ap - d_an.unsqueeze(1) + OPTIONS[0]
        assert not (violation.abs() < gap).any()
        return loss, d_ap, d_an

    def watched_mine(a, c, y, cy, mining, metric, bound, target, exclude, *rest, **same):
        if mining == "semihard":
            d = reference.cdist(a, c, metric=metric)
            allowed = reference._allowed(y, cy, target, exclude, same["same_class"])
            close_by = ((d - bound.unsqueeze(1)).abs() < gap) & allowed
            assert not close_by[allowed.sum(1) > 1].any()
        return mine(a, c, y, cy, mining, metric, bound, target, exclude, *rest, **same)

    monkeypatch.setattr(reference, "_triplets", watched_triplets)
    monkeypatch.setattr(reference, "_mine", watched_mine)
    assert run(CPU, OPERATORS).failed == {}
    for problem in problems():
        a, _, c = problem.double().features
        cosines = 1 - reference.cdist(a, c, metric="cosine")
        assert "angular" not in problem.metrics or not (cosines.abs() < gap).any()
        if "chebyshev" not in problem.metrics:
            continue
        largest = (a.unsqueeze(1) - c).abs().topk(min(2, a.shape[1])).values
        difference = largest[..., 0] - largest[..., -1]
        assert not ((difference > 0) & (difference < gap)).any()


def second(outputs, at, change):
    outputs = list(outputs)
    outputs[at] = change(outputs[at])
    return tuple(outputs)


def last_writer_wins(grads, args):
    """A gradient of the pool in which anchors that share a pick overwrite each other."""
    index, pool = args[5], grads[2].clone()
    if index is not None and pool.shape == args[3].shape:
        shared = index[(index[:, None] == index).sum(1) > 1]
        pool[shared.clamp(min=0)] *= 0.5
    return (*grads[:2], pool)


def flipped(original, args):
    """Ties go to the highest index."""
    a, c, y, cy, p, target, exclude, uniform, *rest = args
    if uniform is not None:
        return original(*args)
    exclude = exclude if exclude is None else len(c) - 1 - exclude
    distance, index = original(a, c.flip(0), y, cy.flip(0), p, target, exclude, None, *rest)
    return distance, torch.where(index >= 0, len(c) - 1 - index, -1)


def careless(original, args):
    """Any candidate for the nearest."""
    uniform = torch.full((len(args[0]),), 0.9, dtype=torch.float64)
    mining = "random" if args[12] == "hardest" else args[12]
    return original(*args[:7], uniform if args[7] is None else args[7], *args[8:12], mining,
                    *args[13:])  # fmt: skip


noise = iter(range(1, 10**9))

# What is broken, how (from the original and its arguments), what fails, and what is said of it.
FAULTS = {
    "wrong index": (
        "mine", lambda f, args: second(f(*args), 1, lambda i: torch.where(i > 0, i - 1, i)),
        {"mine"}, "index",
    ),
    "an index outside": (
        "mine", lambda f, args: second(f(*args), 1, lambda i: torch.where(i > 0, i + 10**6, i)),
        {"mine"}, "may not pick",
    ),
    "0 for none": (
        "mine", lambda f, args: second(f(*args), 1, lambda i: i.clamp(min=0)), {"mine"}, "-1",
    ),
    "the highest of equals": ("mine", flipped, {"mine"}, "lowest of equals"),
    "masks ignored": (
        "mine", lambda f, args: f(*args[:5], None, None, *args[7:]), {"mine"}, "masks",
    ),
    "a pick that is not the nearest": (
        "triplet_adv_loss", careless, {"triplet_adv_loss"}, "wrong index: differs by",
    ),
    "wrong distance": (
        "mine", lambda f, args: second(f(*args), 0, lambda d: d * 1.001), {"mine"}, "distance",
    ),
    "wrong loss": (
        "triplet_loss", lambda f, args: second(f(*args), 0, lambda x: x + 1e-3),
        {"triplet_loss"}, "loss: differs by 0.001",
    ),
    "NaN swallowed by a distance": (
        "cdist", lambda f, args: f(*args).nan_to_num(), {"cdist"}, "NaN was swallowed",
    ),
    "NaN swallowed by a loss": (
        "triplet_adv_loss", lambda f, args: second(f(*args), 0, torch.nan_to_num),
        {"triplet_adv_loss"}, "NaN was swallowed",
    ),
    "NaN out of nowhere": (
        "cdist", lambda f, args: f(*args).sub(2).sqrt() + 2, {"cdist"}, "out of nowhere",
    ),
    "infinity": ("cdist", lambda f, args: f(*args) / 0, {"cdist"}, "differs by"),
    "wrong dtype": ("cdist", lambda f, args: f(*args).double(), {"cdist"}, "float64"),
    "wrong shape": ("cdist", lambda f, args: f(*args).mT, {"cdist"}, "is torch.float32"),
    "not the same twice": (
        "cdist", lambda f, args: f(*args) * (1 + 1e-6 * (next(noise) % 2)), {"cdist"}, "two runs",
    ),
    "wrong gradient of cdist": (
        "cdist_backward", lambda f, args: second(f(*args), 1, lambda g: g * 1.01),
        {"cdist"}, "gradient of x2",
    ),
    "wrong gradient": (
        "triplet_loss_backward", lambda f, args: second(f(*args), 0, torch.zeros_like),
        {"triplet_loss", "triplet_adv_loss"}, "gradient of anchor",
    ),
    "shared picks overwrite each other": (
        "triplet_loss_backward", lambda f, args: last_writer_wins(f(*args), args),
        {"triplet_loss", "triplet_adv_loss"}, "gradient of negative",
    ),
    "sparse rows given twice": (
        "triplet_loss_backward",
        lambda f, args: second(f(*args), 2, lambda g: g[:1].expand_as(g) if args[-1] else g),
        {"triplet_loss", "triplet_adv_loss"}, "sparse gradient",
    ),
}  # fmt: skip


def broken(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")


FAULTS |= {
    f"an exception in {name}": (
        name, lambda f, args: broken(), failing, "RuntimeError: CUDA error: an illegal .* access",
    )
    for name, failing in {
        **{name: {name} for name in OPERATORS},
        "cdist_backward": {"cdist"}, "triplet_loss_backward": {"triplet_loss", "triplet_adv_loss"},
    }.items()
}  # fmt: skip


def break_operator(monkeypatch, fault):
    name, how, failing, said = FAULTS[fault]
    original = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda *args: how(original, args))
    return failing, said


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_broken_operator_is_found(fault, monkeypatch):
    failing, said = break_operator(monkeypatch, fault)
    report = run(CPU, OPERATORS)
    assert set(report.failed) == failing
    assert set(report.passed) == set(OPERATORS) - failing
    assert any(re.search(said, reason) for reason in report.failed.values()), report.failed
    assert not any("\n" in reason for reason in report.failed.values())


@pytest.mark.parametrize("name", ["mine", "triplet_adv_loss"])
def test_a_screen_must_give_what_tiles_do(name, monkeypatch):
    size = (64, 256, 24)
    assert MODULE._screen("blas", CPU, size) == 34
    right, seen = getattr(ops, name), []

    def wrong(*arguments):
        out = list(right(*arguments))
        seen.append(arguments[-1])
        if arguments[-1] == "blas":
            out[1] = out[1].clone()
            out[1][60] = (out[1][60] + 1) % 256
        return tuple(out)

    monkeypatch.setattr(ops, name, wrong)
    with pytest.raises(MODULE.Disagreement, match="not what tiles give"):
        MODULE._screen("blas", CPU, size)
    assert seen == ["blas", ""]


def test_a_screen_that_fails_is_left_out_alone(monkeypatch):
    def fail(screen, *_):
        if screen == "blas":
            raise RuntimeError("CUDA error: an illegal memory access\nmore")
        if screen == "mma":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 7

    monkeypatch.setattr(MODULE, "_screen", fail)
    monkeypatch.setattr(MODULE, "_takes", lambda device, screen: screen not in ("wgmma",))
    report = run(CPU, OPERATORS + SCREENS)
    assert report.failed == {"blas": "RuntimeError: CUDA error: an illegal memory access"}
    assert set(report.passed) == {*OPERATORS, *SCREENS} - {"blas", "mma", "wgmma"}
    # Nothing is compared with tiles that are wrong themselves.
    monkeypatch.setattr(ops, "mine", lambda *_: broken())
    assert set(run(CPU, OPERATORS + SCREENS).operators) == set(OPERATORS)


def test_a_blas_that_adds_in_half_or_refuses_screens_nothing(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(True)
    try:
        assert not _dispatch._blas_screens()
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        assert _dispatch._blas_screens()
    finally:
        torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_fp16_accumulation = True
    try:
        assert not _dispatch._blas_screens()
    finally:
        torch.backends.cuda.matmul.allow_fp16_accumulation = False


def test_screens_are_told_to_operators(monkeypatch):
    x = SimpleNamespace(device=torch.device("cuda", 3), is_cuda=True)
    monkeypatch.setattr(_dispatch, "_tables", {3: frozenset({"mine", "mma", "blas"})})
    assert _dispatch.screens(x) == "blas mma"
    assert _dispatch._blas_screens()
    with monkeypatch.context() as setting:
        setting.setattr(_dispatch, "_blas_screens", lambda: False)
        assert _dispatch.screens(x) == "mma"
    assert _dispatch.screens(torch.zeros(1)) == ""
    monkeypatch.setattr(_dispatch, "_tables", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_dispatch, "_verified", lambda index: frozenset({"mine", "mma"}))
    assert _dispatch.screens(x) == "mma"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _dispatch.screens(x) == ""


def test_an_operator_can_be_tested_alone():
    assert set(run(CPU, ["mine"]).operators) == {"mine"}


def test_devices_it_does_not_know(monkeypatch):
    with pytest.raises(ValueError, match="selftest: device must be a CPU or CUDA device, got meta"):
        tla_ops.selftest("meta")
    monkeypatch.setattr(_library, "has_cuda_kernels", lambda: False)
    for device in ("cuda", "cuda:1", 0):
        with pytest.raises(RuntimeError, match="no CUDA kernels in this installation"):
            tla_ops.selftest(device)
    assert tla_ops.selftest().device == "cpu"


def test_it_does_not_run_during_capture(monkeypatch):
    monkeypatch.setattr(_library, "has_cuda_kernels", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="during CUDA graph capture"):
        tla_ops.selftest("cuda:0")


# Dispatch


class Watch:
    """Of a CPU that goes CUDA's way: its self-tests, and whether a call ran plain PyTorch."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.tests = []
        self._plain = []
        self._run = MODULE.run
        monkeypatch.setattr(MODULE, "run", self._watched_run)
        for name in calls(make_problem(1, 1, 1)):
            monkeypatch.setattr(reference, name, self._spy(name, getattr(reference, name)))

    def _watched_run(self, device, operators):
        self.tests.append(list(operators))
        plain = list(self._plain)
        try:
            return self._run(device, operators)
        finally:
            self._plain[:] = plain  # without what the self-test compares with

    def _spy(self, name, function):
        def spy(*args, **kwargs):
            self._plain.append(name)
            return function(*args, **kwargs)

        return spy

    def plain(self, name, problem=None):
        """Whether the public function runs plain PyTorch."""
        _, call = calls(problem or make_problem(6, 20, 5, None))[name]
        self._plain.clear()
        call(getattr(tla_ops, name))
        return name in self._plain

    def capturing(self, whether):
        self.monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: whether)

    def verify(self, *operators, capability="9.0", device=(9, 0)):
        """A results file verifies the operators on hardware of this capability."""
        info = tla_ops.build_info()
        info["verified"] = [
            {"capability": "8.0", "device": "other", "operators": list(OPERATORS)},
            {"capability": capability, "device": "this", "operators": list(operators)},
        ]
        self.monkeypatch.setattr(_library, "build_info", lambda: info)
        self.monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: device)
        self.monkeypatch.setattr(_dispatch, "_verified", VERIFIED)


VERIFIED = _dispatch._verified.__wrapped__
FUNCTIONS = {name: needs for name, (needs, _) in calls(make_problem(1, 1, 1)).items()}


@pytest.fixture
def guarded(monkeypatch):
    """The CPU's kernels prove themselves first, as CUDA's do, on fewer problems."""
    given = [p for p in problems() if p.name in ("masks", "NaN", "rows without a negative")]
    monkeypatch.setattr(MODULE, "problems", lambda: given)
    monkeypatch.setattr(_dispatch, "_TRUSTED", ("meta",))
    monkeypatch.setattr(_dispatch, "_tables", {})
    monkeypatch.setattr(_dispatch, "_warned", set())
    monkeypatch.setattr(_dispatch, "_verified", lambda index: frozenset())
    monkeypatch.setattr(_library, "has_cuda_kernels", lambda: True)
    watch = Watch(monkeypatch)
    watch.capturing(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield watch


def test_the_first_call_runs_the_self_test_once(guarded):
    for name in FUNCTIONS:
        assert not guarded.plain(name)
    assert guarded.tests == [list(OPERATORS + FIRST_SCREENS)]


def test_a_trusted_device_runs_none(monkeypatch):
    monkeypatch.setattr(_dispatch, "_first_use", broken)
    monkeypatch.setattr(_dispatch, "_tables", None)
    for name, (_, call) in calls(make_problem(6, 20, 5, None)).items():
        call(getattr(tla_ops, name))


@pytest.mark.parametrize(
    "fault",
    ["wrong index", "NaN swallowed by a distance", "wrong gradient", "wrong gradient of cdist"]
    + [f"an exception in {name}" for name in OPERATORS],
)
def test_only_what_failed_is_left_out_with_one_warning(fault, guarded):
    failing, _ = break_operator(guarded.monkeypatch, fault)
    first = next(iter(FUNCTIONS))
    with pytest.warns(UserWarning, match="disagree with plain PyTorch on cpu") as caught:
        plain = {first: guarded.plain(first)}
    (warning,) = caught
    assert warning.filename == __file__
    for name in failing:
        assert f"{name}: " in str(warning.message)
    for name in FUNCTIONS:
        plain[name] = guarded.plain(name)
    assert plain == {name: bool(needs & failing) for name, needs in FUNCTIONS.items()}
    assert len(guarded.tests) == 1


def test_what_is_left_out_still_gives_the_right_answer(guarded):
    break_operator(guarded.monkeypatch, "wrong loss")
    break_operator(guarded.monkeypatch, "wrong index")
    with pytest.warns(UserWarning, match="left out"):
        tla_ops.selftest("cpu")
    problem = make_problem(6, 20, 5, None)
    for name in ("triplet_loss", "batch_hard_triplet_loss", "mine_negatives"):
        call = calls(problem)[name][1]
        assert same_bits(call(getattr(tla_ops, name)), call(getattr(reference, name)))


def test_what_is_left_out_has_the_same_errors_and_draws(guarded):
    a, _, c, y, cy = make_problem(6, 20, 5)
    call = {"mining": "random", "metric": "cosine"}
    expected = tla_ops.mine_negatives(a, c, y, cy, **call, generator=generator(3))[1]
    _dispatch._tables[None] = frozenset()
    plain = tla_ops.mine_negatives(a, c, y, cy, **call, generator=generator(3))[1]
    assert "mine_negatives" in guarded._plain
    assert torch.equal(plain, expected)
    with pytest.raises(TypeError, match=r"generator must be a .*Generator, got int"):
        tla_ops.mine_negatives(a, c, y, cy, **call, generator=3)
    with pytest.raises(ValueError, match="candidates must be"):
        tla_ops.mine_negatives(a, c[:, 1:], y, cy, **call)


def test_a_warning_that_is_an_error_leaves_the_operator_out_all_the_same(guarded):
    break_operator(guarded.monkeypatch, "wrong index")
    with pytest.raises(UserWarning, match="left out"):
        guarded.plain("mine_negatives")
    assert guarded.plain("mine_negatives")


def test_an_explicit_self_test_decides_anew(guarded):
    with guarded.monkeypatch.context() as patch:
        break_operator(patch, "an exception in mine")
        with pytest.warns(UserWarning, match="left out"):
            report = tla_ops.selftest("cpu")
        assert set(report.failed) == {"mine"}
        assert guarded.plain("mine_negatives")
    assert tla_ops.selftest("cpu").failed == {}
    assert not guarded.plain("mine_negatives")
    assert len(guarded.tests) == 2


def test_capture_runs_plain_pytorch_until_a_self_test_has_run(guarded):
    guarded.capturing(True)
    with pytest.warns(UserWarning, match=r"during CUDA graph .*tla_ops\.selftest\(") as caught:
        assert guarded.plain("cdist")
    assert len(caught) == 1
    assert all(guarded.plain(name) for name in FUNCTIONS)  # without another warning
    assert guarded.tests == []
    guarded.capturing(False)
    assert not guarded.plain("cdist")
    guarded.capturing(True)
    assert not any(guarded.plain(name) for name in FUNCTIONS)
    assert len(guarded.tests) == 1


def test_what_hardware_has_verified_needs_no_self_test(guarded):
    guarded.verify(*OPERATORS)
    for capturing in (True, False):
        guarded.capturing(capturing)
        assert not any(guarded.plain(name) for name in FUNCTIONS)
    assert guarded.tests == []


def test_what_failed_on_one_device_of_a_capability_is_not_verified(guarded):
    guarded.verify(*OPERATORS)
    records = _library.build_info()["verified"]
    records.append({"capability": "9.0", "device": "another", "operators": ["cdist"]})
    assert _dispatch._verified(0) == {"cdist"}


def test_only_what_hardware_has_not_verified_is_tested(guarded):
    guarded.verify("mine", "cdist")
    guarded.capturing(True)
    with pytest.warns(UserWarning, match="CUDA graph") as caught:
        plain = {name: guarded.plain(name) for name in FUNCTIONS}
    assert len(caught) == 1
    verified = {"mine", "cdist"}
    assert plain == {name: not needs <= verified for name, needs in FUNCTIONS.items()}
    guarded.capturing(False)
    assert not any(guarded.plain(name) for name in FUNCTIONS)
    assert guarded.tests == [["triplet_adv_loss", "triplet_loss", *FIRST_SCREENS]]


def test_evidence_of_other_hardware_does_not_count(guarded):
    guarded.verify(*OPERATORS, device=(8, 6))
    assert not guarded.plain("cdist")
    assert guarded.tests == [list(OPERATORS + FIRST_SCREENS)]


def test_an_explicit_self_test_outweighs_the_evidence(guarded):
    guarded.verify(*OPERATORS)
    break_operator(guarded.monkeypatch, "an exception in mine")
    assert not guarded.plain("cdist")
    with pytest.warns(UserWarning, match="left out"):
        tla_ops.selftest("cpu")
    assert guarded.plain("mine_negatives")


def test_threads_that_call_first_at_once_share_one_self_test(guarded):
    break_operator(guarded.monkeypatch, "an exception in mine")
    problem = make_problem(6, 20, 5)
    expected = reference.mine_negatives(*problem.mine)[1]
    start, results = threading.Barrier(4), []

    def work():
        start.wait()
        results.append(tla_ops.mine_negatives(*problem.mine)[1])

    threads = [threading.Thread(target=work) for _ in range(4)]

    def run_all():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with pytest.warns(UserWarning, match="left out") as caught:
        run_all()
    assert len(caught) == 1
    assert len(guarded.tests) == 1
    assert len(results) == 4
    assert all(torch.equal(index, expected) for index in results)


def test_tensors_of_cuda_without_kernels_are_an_error(guarded):
    guarded.monkeypatch.setattr(_library, "has_cuda_kernels", lambda: False)
    for name, (_, call) in calls(make_problem(6, 20, 5)).items():
        with pytest.raises(RuntimeError, match="no CUDA kernels in this installation"):
            call(getattr(tla_ops, name))
    with pytest.raises(Exception, match="no CUDA kernels in this installation"):
        torch.compile(tla_ops.cdist, fullgraph=True, backend="eager")(*make_problem(6, 20, 5)[:3:2])


# Dispatch under torch.compile


def steps():
    """Each public function, and what draws inside the graph."""
    for name in FUNCTIONS:
        yield pytest.param(
            lambda *problem, name=name: calls(problem)[name][1](getattr(tla_ops, name)), id=name
        )
    for mining in ("semihard", "random"):
        yield pytest.param(
            lambda a, p, c, y, cy, mining=mining: (
                tla_ops.triplet_adv_loss(
                    a, p, c, y, cy, mining=mining, margin=0.4, return_details=True
                ).loss
            ),
            id=mining,
        )


@pytest.mark.parametrize("step", list(steps()))
def test_compile_runs_plain_pytorch_until_a_self_test_has_run(step, guarded, fresh_compiler):
    warnings.simplefilter("default")  # torch's own are not ours to judge
    fast = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    sizes = [(6, 20), (9, 33), (5, 70)]

    def outcomes(function):
        """Values and gradients, all of one graph, and whether they were plain PyTorch's."""
        results = []
        for turn, (B, M) in enumerate(sizes):
            leaves = make_problem(B, M, 7, None).leaves()
            guarded._plain.clear()
            torch.manual_seed(turn)
            with torch._dynamo.config.patch(error_on_recompile=turn > 0):
                value = function(*leaves)
            if value.requires_grad:
                grads = torch.autograd.grad(value.sum(), leaves.features, allow_unused=True)
                results += [g for g in grads if g is not None]
            results.append(value.detach())
        return results, bool(guarded._plain)

    with pytest.warns(UserWarning, match="tla_ops") as caught:
        traced, plain = outcomes(fast)
    ours = [str(w.message) for w in caught if "tla_ops" in str(w.message)]
    assert len(ours) == 1
    assert "under torch.compile" in ours[0]
    assert "Call tla_ops.selftest(" in ours[0]
    assert plain
    assert guarded.tests == []
    assert tla_ops.selftest("cpu").failed == {}
    expected, plain = outcomes(step)
    assert not plain
    for x, y in zip(traced, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    got, plain = outcomes(fast)  # made again, with the operators
    assert not plain
    assert all(map(same_bits, got, expected))


def test_compile_uses_what_hardware_has_verified(guarded, fresh_compiler):
    warnings.simplefilter("default")
    guarded.verify("cdist")
    problem = make_problem(6, 20, 5)
    fast = torch.compile(lambda a, c: tla_ops.cdist(a, c), fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*tla_ops")
        assert same_bits(fast(*problem[:3:2]), tla_ops.cdist(*problem[:3:2]))
    assert "cdist" not in guarded._plain


def test_compile_leaves_out_what_failed(guarded, fresh_compiler):
    warnings.simplefilter("default")
    break_operator(guarded.monkeypatch, "an exception in cdist")
    problem = make_problem(6, 20, 5)
    with pytest.warns(UserWarning, match="left out"):
        tla_ops.selftest("cpu")
    fast = torch.compile(lambda a, c: tla_ops.cdist(a, c), fullgraph=True, backend="aot_eager")
    got = fast(problem.anchor, problem.candidates)
    torch.testing.assert_close(got, reference.cdist(problem.anchor, problem.candidates))
    assert "cdist" in guarded._plain
