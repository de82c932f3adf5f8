"""The shim's TMA, barriers and wgmma: a correct kernel passes in every build, bugs do not."""

import re
import shutil

import pytest
from simt.build import FLAVOURS, HERE, build, run, why_not

LINE = r"shim_hopper_kernels\.cpp:\d+"
WRONG = "wrong result|deadlock: .*barrier_wait|more arrivals than a phase has"
RACE = f"simt: (race|not initialised): (.|\n)*{LINE if shutil.which('addr2line') else ''}"
GONE = "has exited|a copy is on its way|may exit before"
# What each build says of a bug: plain and asan with one seed of ten at least, race with each.
BUGS = [
    ("wrong_phase", WRONG, f"{RACE}|{WRONG}"),
    ("no_wait_for_copies", WRONG, f"{RACE}|{WRONG}"),
    ("no_expect", WRONG, RACE),
    ("too_few_bytes", WRONG, RACE),
    ("peer_not_asked", WRONG, RACE),
    ("released_early", WRONG, RACE),
    ("no_wait_for_products", WRONG, WRONG),
    ("wrong_step", WRONG, WRONG),
    ("too_many_arrivals", WRONG, RACE),
    ("no_sync_at_end", GONE, f"{RACE}|{GONE}"),
    ("no_sync_after_init", "no barrier was initialised", f"{RACE}|no barrier was initialised"),
]
# What every build says with the first seed.
FOUND_AT_ONCE = [
    ("refilled_while_read", f"barrier_expect at .*{LINE}: more arrivals than a phase has"),
    ("peer_not_released", f"deadlock: .*barrier_wait at .*{LINE}"),
    ("no_fence", "wgmma without a fence before it"),
    ("not_swizzled", "a descriptor that is not of a tile swizzled by 128 bytes"),
    ("misaligned", "a tile that does not begin at a multiple of 1024"),
    ("init_not_fenced", f"{LINE}: the barrier's initialisation was not fenced"),
]


@pytest.fixture(scope="session", params=FLAVOURS)
def flavour(request):
    return request.param


@pytest.fixture(scope="session")
def program(flavour, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simt")
    if reason := why_not(flavour, folder):
        pytest.skip(reason)
    return build([HERE / "shim_hopper_kernels.cpp"], flavour, folder)


def test_a_correct_kernel_passes(program, flavour):
    result = run(program, "none", 0, 30 if flavour == "plain" else 5)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug[0])
def test_bugs_are_caught(program, flavour, bug):
    name, message, raced = bug
    said = [run(program, name, seed, 1).stderr.decode() for seed in range(10)]
    if flavour == "race":
        assert all(re.search(raced, text) for text in said), said
    else:
        assert any(re.search(message, text) for text in said), said


@pytest.mark.parametrize("error", FOUND_AT_ONCE, ids=lambda error: error[0])
def test_errors_are_named(program, error):
    bug, message = error
    result = run(program, bug, 0, 1)
    assert result.returncode == 3
    assert re.search(message, result.stderr.decode()), result.stderr.decode()
