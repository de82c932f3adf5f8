"""The shim that runs CUDA kernels on the CPU: correct kernels pass in every build, bugs do not."""

import re
import shutil

import numpy as np
import pytest
import torch
from simt.build import FLAVOURS, HERE, build, run, why_not

CASES = ("rotate", "sum_row", "cluster", "grid", "atomics", "stream")
LINE = r"shim_kernels\.cpp:\d+"

WRONG = "wrong result"
ASAN = "AddressSanitizer: heap-buffer-overflow"
UNWRITTEN = "simt: not initialised: "
RACE = f"simt: (race|not initialised): (.|\n)*{LINE if shutil.which('addr2line') else ''}"
GONE = "may exit before the read|has exited"
OUTSIDE = "simt: out of bounds: "
# What each build says of a bug, at least with one seed of twenty; None: it cannot see it.
BUGS = [
    # case, bug, plain, asan, race
    ("rotate", "no_barrier", WRONG, WRONG, RACE),
    ("rotate", "no_barrier_before_reuse", WRONG, WRONG, "simt: race: "),
    ("sum_row", "tail_not_zeroed", WRONG, WRONG, UNWRITTEN),
    ("sum_row", "row_overrun", WRONG, ASAN, OUTSIDE),
    ("sum_row", "write_overrun", WRONG, ASAN, f"{OUTSIDE}|simt: race: "),
    ("sum_row", "shared_overrun", None, ASAN, OUTSIDE),
    ("sum_row", "misaligned", None, "runtime error: .* misaligned", None),
    ("cluster", "no_cluster_sync", WRONG, WRONG, RACE),
    ("cluster", "no_cluster_sync_at_end", GONE, GONE, GONE),
    ("cluster", "late_read", f"{WRONG}|{GONE}", "heap-use-after-free", GONE),
    ("grid", "no_grid_sync", WRONG, WRONG, RACE),
    ("grid", "unwritten_workspace", WRONG, WRONG, UNWRITTEN),
    ("atomics", "no_barrier_after_atomic", WRONG, WRONG, "simt: race: "),
    ("atomics", "plain_for_atomic", None, None, "simt: race: "),
    ("warps", "no_warp_sync", None, None, "simt: race: "),
    ("stream", "one_wait_too_few", WRONG, WRONG, "simt: race: "),
    ("stream", "refilled_while_read", WRONG, WRONG, "simt: race: "),
    ("stream", "tail_not_copied", WRONG, WRONG, WRONG),
]
# What every build says of a bug with the first seed.
FOUND_AT_ONCE = [
    ("rotate", "divergent_barrier", f"is in block_sync at .*{LINE}.* in block_sync at .*{LINE}"),
    (
        "rotate",
        "early_exit",
        "thread 77 exits while|thread 77, which has exited",
    ),
    ("rotate", "deadlock", f"deadlock: .*block_sync at .*{LINE}.*warp_sync at .*{LINE}"),
    ("sum_row", "divergent_shuffle", f"shuffle_xor at .*{LINE}.* in shuffle_xor at .*{LINE}"),
    ("sum_row", "different_masks", f"disagree in shuffle_xor at .*{LINE}"),
    ("cluster", "without_cluster", f"cluster_sync at .*{LINE}.* without clusters"),
    ("grid", "not_cooperative", f"grid_sync at .*{LINE}.* not cooperative"),
    ("atomics", "livelock", "no thread gets on: block . thread 0"),
]


@pytest.fixture(scope="session", params=FLAVOURS)
def flavour(request):
    return request.param


@pytest.fixture(scope="session")
def program(flavour, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simt")
    if reason := why_not(flavour, folder):
        pytest.skip(reason)
    return build([HERE / "shim_kernels.cpp"], flavour, folder)


@pytest.mark.parametrize("case", [*CASES, "warps"])
def test_correct_kernels_pass(program, case):
    result = run(program, case, "none", 0, 100)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug[1])
def test_bugs_are_caught(program, flavour, bug):
    case, name, *messages = bug
    expected = messages[FLAVOURS.index(flavour)]
    if expected is None:
        return
    said = (run(program, case, name, seed, 1).stderr.decode() for seed in range(20))
    if flavour == "race":  # whatever the schedule
        said = [next(said) for _ in range(10)]
        assert all(re.search(expected, text) for text in said), said
    else:
        assert any(re.search(expected, text) for text in said)


@pytest.mark.parametrize("error", FOUND_AT_ONCE, ids=lambda error: error[1])
def test_errors_are_named(program, error):
    case, bug, message = error
    result = run(program, case, bug, 0, 1)
    assert result.returncode == 3
    assert re.search(message, result.stderr.decode()), result.stderr.decode()


def _floats():
    """Every half, what lies halfway to the next, their neighbours, and any bits at all."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[1:] + halves[:-1]) / 2
    edges = np.array(
        [65504, 65519.996, 65520, 65536, 2**-24, 2**-25, 2**-26, 0, np.inf, np.nan, 3e38, 1e-40]
    )
    finite = np.concatenate([halves, ties, edges.astype(np.float32)])
    near = [np.nextafter(finite, np.float32(way)) for way in (-np.inf, np.inf)]
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    positive = np.concatenate([finite, *near])
    return np.concatenate([positive, -positive, bits]).astype(np.float32)


def _same(actual, expected):
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(actual[there], expected[there])
    np.testing.assert_array_equal(np.signbit(actual[there]), np.signbit(expected[there]))


@pytest.mark.filterwarnings("ignore:overflow")
def test_half_precision(program):
    halves, floats = np.arange(1 << 16, dtype=np.uint16), _floats()
    result = run(program, "convert", "none", data=halves.tobytes() + floats.tobytes())
    assert result.returncode == 0, result.stderr.decode()
    n, out = 4 << 16, result.stdout
    _same(np.frombuffer(out[:n], np.float32), halves.view(np.float16).astype(np.float32))
    as_bfloat16 = (halves.astype(np.uint32) << 16).view(np.float32)
    _same(np.frombuffer(out[n : 2 * n], np.float32), as_bfloat16)
    _same(np.frombuffer(out[2 * n :], np.float16, len(floats)), floats.astype(np.float16))
    rounded = np.frombuffer(out[2 * n + 2 * len(floats) :], np.uint16).astype(np.uint32) << 16
    _same(rounded.view(np.float32), torch.from_numpy(floats).bfloat16().float().numpy())


@pytest.mark.parametrize("bug", ["none", "wrong_fragments"])
def test_mma(program, bug):
    rng = np.random.default_rng(1)
    # Bits between 1/2 and 2 as halves, and numbers as bfloat16s, too.
    a, b = (rng.integers(0x3800, 0x4000, shape, dtype=np.uint16) for shape in ((16, 16), (16, 8)))
    c = rng.standard_normal((16, 8)).astype(np.float32)
    result = run(program, "multiply", bug, data=a.tobytes() + b.tobytes() + c.tobytes())
    assert result.returncode == 0, result.stderr.decode()
    bfloat16, half = np.frombuffer(result.stdout, np.float32).reshape(2, 16, 8)

    def right(actual, value_of):
        return np.allclose(actual, value_of(a) @ value_of(b) + c, rtol=1e-5, atol=1e-6)

    def from_bfloat16(bits):
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    assert right(half, lambda x: x.view(np.float16).astype(np.float64)) == (bug == "none")
    assert right(bfloat16, from_bfloat16) == (bug == "none")


@pytest.mark.parametrize("bug", ["none", "wrong_fragments"])
def test_tf32_mma(program, bug):
    """Of floats of 10 bits beside the exponent; others are a complaint."""
    rng = np.random.default_rng(1)
    a, b, c = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8))
    )
    for x in (a, b):
        x.view(np.uint32)[...] &= ~np.uint32(0x1FFF)
    result = run(program, "multiply_tf32", bug, data=a.tobytes() + b.tobytes() + c.tobytes())
    assert result.returncode == 0, result.stderr.decode()
    actual = np.frombuffer(result.stdout, np.float32).reshape(16, 8)
    a[:, 6:] = 0  # was not copied
    expected = a.astype(np.float64) @ b.astype(np.float64) + c
    assert np.allclose(actual, expected, rtol=1e-5, atol=1e-6) == (bug == "none")
    a.view(np.uint32)[3, 2] |= 1
    result = run(program, "multiply_tf32", bug, data=a.tobytes() + b.tobytes() + c.tobytes())
    assert result.returncode == 3
