"""The plan of a search covers every pair exactly once, within its limits, for any problem."""

from hypothesis import given
from hypothesis import strategies as st

from tla_ops._build_info import plan_search

sizes = st.one_of(st.integers(0, 300), st.integers(0, 2_000_000))


@given(sizes, sizes, st.integers(1, 8192), st.sampled_from([4, 8]), st.integers(1, 128),
       st.booleans(), st.booleans(), st.booleans())  # fmt: skip
def test_every_pair_once(anchors, candidates, dim, size, threads, product, wide, amx):
    plan = plan_search(anchors, candidates, dim, size, threads, product, wide, amx)
    assert 0 <= plan["blocks"] * plan["anchor_block"] - anchors < plan["anchor_block"]
    covered = plan["splits"] * plan["split_size"]
    assert covered >= candidates
    assert candidates == 0 or covered - candidates < plan["split_size"]
    assert 1 <= plan["splits"] <= 8 * threads
    assert plan["tile"] >= 1
    # Scores of a tile, on every thread.
    assert threads * plan["anchor_block"] * plan["tile"] * size <= threads * 2**20
    assert product or plan["kind"] == "sums"
    assert amx or plan["kind"] != "amx"


@given(st.integers(1, 64), st.integers(1, 200), st.integers(1, 64))
def test_small_problems_start_no_threads(anchors, candidates, dim):
    plan = plan_search(anchors, candidates, dim, 4, 16, True, True, True)
    if anchors * candidates * dim < 2**18:
        assert plan["splits"] == 1


def test_threads_share_a_single_block():
    plan = plan_search(50, 100_000, 640, 4, 8, True, True, True)
    assert plan["blocks"] * plan["splits"] >= 8
