"""The plan of a search covers every pair exactly once, within its limits, for any problem."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tla_ops import _dispatch
from tla_ops._build_info import (
    plan_backward,
    plan_cdist,
    plan_cdist_backward,
    plan_large,
    plan_rows,
    plan_search,
    plan_strips,
    plan_tiles,
)

sizes = st.one_of(st.integers(0, 300), st.integers(0, 2_000_000))


@settings(max_examples=1000)
@given(sizes, sizes, st.one_of(st.integers(1, 8192), st.integers(1, 200_000)),
       st.sampled_from([4, 8]), st.integers(1, 128), st.booleans())  # fmt: skip
def test_every_pair_once(anchors, candidates, dim, size, threads, screen):
    plan = plan_search(anchors, candidates, dim, size, threads, screen)
    assert 0 <= plan["blocks"] * plan["anchor_block"] - anchors < plan["anchor_block"]
    covered = plan["splits"] * plan["split_size"]
    assert covered >= candidates
    assert candidates == 0 or covered - candidates < plan["split_size"]
    # Every split brings picks of its own: a few for each thread, and none without a tile of work.
    assert 1 <= plan["splits"] <= 4 * threads
    assert plan["splits"] == 1 or plan["blocks"] * plan["splits"] <= 8 * threads
    assert plan["splits"] == 1 or plan["split_size"] >= plan["tile"]


@settings(max_examples=1000)
@given(sizes, sizes, st.one_of(st.integers(1, 8192), st.integers(1, 200_000)),
       st.sampled_from([4, 8]), st.booleans())  # fmt: skip
def test_a_task_stays_in_the_caches_and_within_its_types(anchors, candidates, dim, size, screen):
    plan = plan_search(anchors, candidates, dim, size, 16, screen)
    block, tile, kind = plan["anchor_block"], plan["tile"], plan["kind"]
    # Bytes of the anchors as they are kept, of which there are `least` however long they are.
    kept, least, most = {
        "sums": (dim * size, 4, 512 * 1024),
        "tiles": (dim * size, 32, 2560 * 1024),
        "screened": (dim * 2, 32, 1280 * 1024),
    }[kind]
    assert block >= least
    assert block == least or block * kept <= most
    assert block <= (64 if kind == "sums" else 1024)
    # In a room of 64; and a screen's panel is 32 rows.
    assert 1 <= tile <= 64
    assert kind != "sums" or tile == 16 or tile * dim * size <= most
    if kind != "sums":
        assert block % 32 == 0
        assert dim >= 16
        assert anchors >= (8 if kind == "screened" else 24)
    if kind == "screened":
        assert screen
        assert tile == 32
        # Lists keep candidates in 32 bits, and bounds grow with D.
        assert 64 <= candidates < 2**31
        assert dim <= 65536


def test_the_kind_of_a_search():
    for anchors, candidates, dim, screen, kind in [
        (50, 2000, 640, True, "screened"), (50, 2000, 640, False, "tiles"),
        (8, 64, 16, True, "screened"), (7, 10**6, 640, True, "sums"),
        (23, 10**6, 640, False, "sums"), (24, 1, 16, False, "tiles"),
        (8, 63, 640, True, "sums"), (50, 63, 640, True, "tiles"), (50, 2000, 15, True, "sums"),
        (50, 2**31 - 1, 640, True, "screened"), (50, 2**31, 640, True, "tiles"),
        (50, 100, 65537, True, "tiles"),
    ]:  # fmt: skip
        assert plan_search(anchors, candidates, dim, 4, 1, screen)["kind"] == kind
    # Where packing costs more, it pays for more anchors alone.
    for anchors, kind in [(8, "sums"), (15, "sums"), (16, "screened"), (24, "screened")]:
        assert plan_search(anchors, 2000, 640, 4, 1, True, least=16)["kind"] == kind


@given(st.integers(1, 64), st.integers(1, 200), st.integers(1, 64), st.booleans())
def test_small_problems_start_no_threads(anchors, candidates, dim, screen):
    plan = plan_search(anchors, candidates, dim, 4, 16, screen)
    if anchors * candidates * dim < 2**18:
        assert plan["splits"] == 1


@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("anchors", [5, 50])
def test_threads_share_a_single_block(anchors, screen):
    plan = plan_search(anchors, 100_000, 640, 4, 8, screen)
    assert plan["blocks"] * plan["splits"] >= 8


# Multiprocessors, capability, and what a multiprocessor offers (CUDA programming guide, table of
# technical specifications): bytes of shared memory, blocks, threads.
GPUS = {
    "T4": (40, 75, 64 * 1024, 16, 1024),
    "A100": (108, 80, 164 * 1024, 32, 2048),
    "RTX 3090": (82, 86, 100 * 1024, 16, 1536),
    "L40S": (142, 89, 100 * 1024, 24, 1536),
    "H200": (132, 90, 228 * 1024, 32, 2048),
    "B200": (148, 100, 228 * 1024, 32, 2048),
    "RTX 5090": (170, 120, 100 * 1024, 24, 1536),
}
gpus = st.sampled_from(list(GPUS.values()))
few = st.integers(0, 600)
some = st.one_of(few, st.integers(0, 40_000))


@settings(max_examples=2000)
@given(some, some, st.integers(1, 5000), st.sampled_from([4, 8]), st.booleans(), gpus)
def test_tiles_cover_every_pair_once(anchors, candidates, dim, size, loss, gpu):
    plan = plan_tiles(anchors, candidates, dim, size, True, anchors if loss else 0, *gpu[:2])
    for tile, tiles, count in [
        ("anchor_tile", "tiles_b", anchors),
        ("candidate_tile", "tiles_m", candidates),
    ]:
        assert 0 <= plan[tile] * plan[tiles] - count < plan[tile]
    # Team (b, m) takes tiles b, b + teams_b, ...: every one has a team if there is any.
    assert 0 <= plan["teams_b"] <= plan["tiles_b"]
    assert 0 <= plan["teams_m"] <= plan["tiles_m"]
    assert (plan["teams_b"] * plan["teams_m"] > 0) == (anchors * candidates > 0)
    for teams, tiles in (("teams_b", "tiles_b"), ("teams_m", "tiles_m")):
        visited = [range(t, plan[tiles], plan[teams]) for t in range(plan[teams])]
        every = sorted(tile for of_team in visited for tile in of_team)
        assert every == (list(range(plan[tiles])) if anchors * candidates else [])
    assert plan["anchor_tile"] * plan["candidate_tile"] == 2048
    assert plan["anchor_tile"] in ((32, 64) if size == 4 else (32,))  # the kernels there are
    # The eight parts of D fall to the team's blocks alike, its anchors too.
    assert 8 % plan["team"] == 0
    assert plan["anchor_tile"] % plan["team"] == 0
    assert plan["team"] == 1 or size == 4


@settings(max_examples=2000)
@given(some, some, st.integers(1, 5000), st.sampled_from([4, 8]), st.booleans(), st.booleans(),
       gpus)  # fmt: skip
def test_all_blocks_of_a_search_fit_at_once(anchors, candidates, dim, size, tiles, loss, gpu):
    multiprocessors, capability, shared, blocks, threads = gpu
    rows = anchors if loss or not tiles else 0
    plan = plan_tiles(anchors, candidates, dim, size, tiles, rows, multiprocessors, capability)
    assert plan["cooperative"]
    registers = 65536 // (168 if size == 4 else 255) // plan["threads"]
    # Shared memory of a block is at most 48 KB where it is not asked for, and 1 KB is the system's.
    assert plan["shared_bytes"] <= 48 * 1024
    at_once = min(
        registers, blocks, threads // plan["threads"], shared // (plan["shared_bytes"] + 1024)
    )
    assert plan["blocks"] <= multiprocessors * at_once
    if plan["cluster"] > 1:
        assert capability >= 90
        assert plan["cluster"] == plan["team"] <= 8
        assert plan["blocks"] % plan["cluster"] == plan["row_blocks"] % plan["cluster"] == 0
        # A group of multiprocessors may be cut to 16: clusters do not reach across.
        groups = multiprocessors // 16
        assert plan["blocks"] <= groups * (16 * at_once // plan["cluster"]) * plan["cluster"]
    if plan["team"] > 1:
        # Teams of several blocks meet once: one tile each.
        assert plan["teams_b"] == plan["tiles_b"]
        assert plan["teams_m"] == plan["tiles_m"]
    teams = plan["teams_b"] * plan["teams_m"] * plan["team"]
    assert plan["blocks"] == max(1, teams + plan["row_blocks"])
    assert plan["row_blocks"] >= (1 if rows else 0)


def test_the_papers_size_fills_an_h200():
    for candidates, team in [(250, 8), (500, 8), (1000, 8), (2000, 4)]:
        plan = plan_tiles(50, candidates, 640, 4, True, 50, 132, 90)
        assert plan["team"] == plan["cluster"] == team
        assert plan["blocks"] >= min(132, 8 * plan["tiles_m"])


ALL_SCREENS = " ".join(_dispatch.SCREENS)
choices = st.lists(st.sampled_from(_dispatch.SCREENS), unique=True).map(" ".join)


@given(sizes, sizes, st.integers(1, 8192), st.sampled_from([4, 8]), st.booleans(), choices, gpus,
       st.booleans())  # fmt: skip
def test_large_problems_are_screened_in_bounded_memory(
    b, m, d, size, product, screens, gpu, semihard
):
    plan = plan_large(b, m, d, size, 4, product, screens, *gpu[:2], semihard=semihard)
    large = product and size == 4 and b >= 64 and d >= 32 and b * m * d >= 2**31
    names = set(screens.split()) - ({"mma"} if gpu[1] < 80 else set())
    if plan["screen"] == "tiles":
        assert not (large and names & {"mma", "blas"})
        return
    assert plan["screen"] in names
    if plan["screen"] == "bank":
        return
    assert large
    assert d <= plan["padded"] < d + 64
    assert plan["padded"] % 64 == 0
    assert 1 <= plan["anchor_chunk"] <= b
    assert 1 <= plan["candidate_chunk"] <= m
    # Of four bytes; and lists of eight for each of at most four slots.
    products = 4 * plan["anchor_chunk"] * plan["candidate_chunk"]
    lists = (4 if semihard else 2) * 8 * plan["anchor_chunk"] * plan["capacity"]
    assert lists + products * (plan["screen"] == "blas") <= 128 * 2**20
    # A block a tile of 128 x 128.
    assert (plan["anchor_chunk"] // 128 + 1) * (m // 128 + 1) < 2**31


def test_the_papers_sizes_are_not_large():
    assert plan_large(50, 2000, 640, 4, 4, True, ALL_SCREENS, 132, 90)["screen"] == "tiles"
    for screens, gpu, screen in [
        ("mma blas", (132, 90), "blas"), ("mma blas", (108, 80), "mma"), ("mma", (132, 90), "mma"),
        ("blas", (108, 80), "blas"), ("bank", (132, 90), "tiles"), ("", (132, 90), "tiles"),
        (ALL_SCREENS, (132, 90), "wgmma"), (ALL_SCREENS, (148, 100), "blas"),
        ("wgmma", (148, 100), "tiles"),
    ]:  # fmt: skip
        assert plan_large(65536, 65536, 1024, 4, 4, True, screens, *gpu)["screen"] == screen
    with pytest.raises(ValueError, match="unknown screen: cublas"):
        plan_large(65536, 65536, 1024, 4, 4, True, "mma cublas", 132, 90)


def test_columns_are_counted_in_int():
    for m, screen in ((2**31 - 1, "blas"), (2**31, "tiles")):
        assert plan_large(256, m, 640, 4, 4, True, "blas bank", 132, 90)["screen"] == screen


@given(st.integers(1, 20000), st.integers(1, 2_000_000), st.integers(1, 64), st.integers(1, 80))
def test_clusters_take_every_tile_once(rows, columns, steps, clusters):
    plan = plan_strips(rows, columns, 64 * steps, clusters)
    assert 0 <= 256 * plan["pairs"] - rows < 256
    assert 0 <= 256 * plan["tiles"] - columns < 256
    # No strip is empty, and together they are all.
    assert (plan["strips"] - 1) * plan["strip"] < plan["tiles"] <= plan["strips"] * plan["strip"]
    # A group's anchors stay in cache, and it gives all clusters work if there is enough.
    assert 1 <= plan["group"] <= plan["pairs"]
    assert plan["group"] == 1 or plan["group"] * 256 * 64 * steps * 2 <= 30 * 2**20
    assert plan["group"] * plan["strips"] >= min(clusters, plan["tiles"]) // 2
    assert plan["pairs"] * plan["strips"] < 2**31


@given(st.integers(0, 300), sizes, st.integers(1, 9000), st.sampled_from([4, 8]),
       st.sampled_from([2, 4, 8]), st.booleans(), gpus)  # fmt: skip
def test_banks_are_read_through_shared_memory(b, m, d, size, candidate_size, product, gpu):
    multiprocessors, capability, shared, *_ = gpu
    plan = plan_large(b, m, d, size, candidate_size, product, "bank", multiprocessors, capability)
    few = 0 < b <= (192 if candidate_size == 2 else 128)
    large = product and m * d >= 2**24
    is_bank = large and few and size == 4 and candidate_size <= 4 and capability >= 80
    assert plan["screen"] == ("bank" if is_bank else "tiles")
    if not is_bank:
        return
    assert 0 <= plan["slices"] * 128 - d * candidate_size < 128
    # A block's share is 1 KB less than the multiprocessor's; a slice of 256 candidates, and one of
    # 64 anchors where those do not stay; 48 bytes of each anchor.
    anchors, stage = plan["slices"] * 64 * 128, 256 * 128
    kept = anchors if plan["resident"] else 64 * 128 * plan["stages"]
    assert plan["shared_bytes"] == kept + plan["stages"] * stage + 48 * 64 <= shared - 1024
    assert 2 <= plan["stages"] <= 5
    assert plan["threads"] == 256
    assert 1 <= plan["blocks"] <= multiprocessors
    # Lists of eight bytes for each of at most four slots.
    assert 64 * 4 * 8 * plan["capacity"] <= 16 * 2**20


def test_the_papers_features_stay_in_an_h200():
    """The shape of the target: no anchor is read twice, 32 KB and more are always under way."""
    for size, stages in ((2, 4), (4, 2)):
        plan = plan_large(50, 10**6, 640, 4, size, True, ALL_SCREENS, 132, 90)
        assert plan["screen"] == "bank"
        assert plan["resident"]
        assert plan["stages"] == stages
        assert plan["blocks"] == 132
        tiles = plan_large(50, 10**6, 640, 4, size, True, ALL_SCREENS, 132, 90, in_place=False)
        assert tiles["screen"] == "tiles"
    wide = plan_large(50, 10**6, 2048, 4, 4, True, ALL_SCREENS, 132, 90)
    assert not wide["resident"]


@given(st.integers(0, 1 << 40), st.sampled_from([4, 8]), gpus)
def test_rows_fit_at_once(rows, size, gpu):
    plan = plan_rows(rows, size, *gpu[:2])
    assert plan["cooperative"]
    assert 1 <= plan["blocks"] <= gpu[0] * min(gpu[3], 65536 // (168 if size == 4 else 255) // 128)


@given(st.one_of(st.integers(0, 1200), st.integers(0, 1 << 40)), st.integers(0, 1 << 40),
       st.booleans(), gpus)  # fmt: skip
def test_backward_has_a_block_for_all_work(anchors, pool_rows, picks, gpu):
    plan = plan_backward(anchors, pool_rows, picks, *gpu[:2])
    assert plan["sorted"] == (picks and anchors > 512)
    assert (plan["anchor_blocks"] > 0) == (anchors > 0)
    # Where picks are sorted, the pool is cleared before.
    fills = not plan["sorted"] and pool_rows > 0
    assert (plan["blocks"] > plan["anchor_blocks"]) == fills
    assert (plan["piece_blocks"] > 0) == (plan["row_blocks"] > 0) == plan["sorted"]
    assert all(plan[name] < 2**31 for name in ("blocks", "piece_blocks", "row_blocks"))


def test_the_papers_batches_are_one_launch():
    assert not plan_backward(50, 10**6, True, 132, 90)["sorted"]
    assert plan_backward(65536, 10**6, True, 132, 90)["sorted"]
    assert not plan_backward(65536, 0, False, 132, 90)["sorted"]


@given(st.integers(0, 50), few, some, st.sampled_from([4, 8]), gpus)
def test_cdist_has_a_block_for_all_work(n, b, m, size, gpu):
    plan = plan_cdist(n, b, m, size, *gpu[:2])
    assert plan["anchor_tile"] in ((32, 64) if size == 4 else (32,))
    assert (plan["blocks"] > 0) == (n * b * m > 0)
    assert not plan["cooperative"]
    assert plan_cdist_backward(n, b, *gpu[:2])["blocks"] == min(n * b, 64 * gpu[0])
