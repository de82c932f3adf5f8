"""Image sets: how images are kept, what is drawn from them, and what is held out."""

import pytest
import torch
from chance import chi_square
from hypothesis import given
from hypothesis import strategies as st
from waiting import NoWaiting

from tla_ops.training.augment import crop_flip
from tla_ops.training.image_set import ImageSet, hold_out

labels_of = st.lists(st.integers(0, 5), min_size=1, max_size=40).map(torch.tensor)
seeds = st.integers(0, 2**31)


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def numbered(labels):
    """A set whose images show their row."""
    rows = torch.arange(len(labels), dtype=torch.uint8)
    return ImageSet(rows[:, None, None, None].expand(-1, 1, 2, 2).contiguous(), labels)


def rows_of(images):
    return (images[:, 0, 0, 0] * 255).round().long()


# images


@pytest.mark.parametrize(
    ("dtype", "scale", "one"),
    [
        (torch.uint8, None, 255),
        (torch.uint8, 16, 16),
        (torch.float32, None, 1),
        (torch.float64, 2, 2),
    ],
)
def test_images_are_stored_as_they_come_and_taken_between_0_and_1(dtype, scale, one):
    stored = torch.tensor([0, one / 2, one]).to(dtype).view(3, 1, 1, 1)
    data = ImageSet(stored, torch.tensor([0, 1, 0]), scale)
    assert data.stored is stored
    expected = (stored.double() / one).float()
    assert torch.equal(data.images, expected)
    rows = torch.tensor([2, 0, 2])
    assert data.take(rows).dtype == torch.float32
    assert torch.equal(data.take(rows), expected[rows])
    part = data.subset(rows)
    assert torch.equal(part.images, expected[rows])
    assert part.labels.tolist() == [0, 0, 0]


def test_to_moves_images_labels_and_draws(device):
    data = numbered(torch.tensor([0, 1, 0, 1, 0]))
    assert data.to("cpu") is data
    moved = data.to(device)
    assert moved.stored.device.type == moved.labels.device.type == device.type
    rows = torch.arange(5, device=device)
    drawn = moved.positives(rows, seeded(0, device))
    assert (moved.labels[drawn] == moved.labels).all()
    assert (drawn != rows).all()
    assert torch.equal(moved.take(rows).cpu(), moved.images.cpu())


@pytest.mark.parametrize(
    ("images", "labels", "scale", "match"),
    [
        (torch.rand(6, 8, 8), torch.arange(6), None, r"images must be \(N, C, H, W\)"),
        (torch.zeros(6, 1, 8, 8, dtype=torch.int64), torch.arange(6), None, "uint8 or floating"),
        (torch.rand(6, 1, 8, 8), torch.arange(5), None, r"labels must be \(6,\) int64"),
        (torch.rand(6, 1, 8, 8), torch.arange(6.0), None, "labels must be"),
        (torch.rand(6, 1, 8, 8), torch.arange(6), 0, "scale must be positive"),
    ],
)
def test_image_set_says_what_it_wants(images, labels, scale, match):
    with pytest.raises(ValueError, match=match):
        ImageSet(images, labels, scale)


# draws


def test_positives_are_other_images_of_the_class():
    data, generator = numbered(torch.arange(200) % 7), seeded()
    rows = torch.arange(len(data))
    drawn = torch.stack([data.positives(rows, generator) for _ in range(20)])
    assert (data.labels[drawn] == data.labels[rows]).all()
    assert (drawn != rows).all()


@given(labels_of, seeds)
def test_positives_share_the_class_and_are_never_the_image_itself_unless_alone(labels, seed):
    rows = torch.arange(len(labels)).repeat(3)
    drawn = numbered(labels).positives(rows, seeded(seed))
    assert torch.equal(labels[drawn], labels[rows])
    alone = (labels[rows, None] == labels).sum(1) == 1
    assert torch.equal(drawn == rows, alone)


def test_positives_are_uniform_and_a_lone_image_is_its_own():
    data = numbered(torch.tensor([2, 0, 2, 2, 2, 5, 2, 2]))
    for row in (0, 3, 7):
        drawn = data.positives(torch.full((6000,), row), seeded(row))
        others = [other for other in (0, 2, 3, 4, 6, 7) if other != row]
        counts = torch.bincount(drawn, minlength=8)
        assert counts.sum() == counts[others].sum()
        assert chi_square(counts[others]) > 1e-3
    assert (
        data.positives(torch.tensor([1, 5]).repeat(50)) == torch.tensor([1, 5]).repeat(50)
    ).all()


@given(labels_of, seeds, st.data())
def test_drawn_rows_are_different(labels, seed, choose):
    data = numbered(labels)
    count = choose.draw(st.integers(0, len(data)))
    rows = data.draw(count, seeded(seed))
    assert len(rows.unique()) == len(rows) == count
    assert rows.dtype == torch.int64
    assert torch.equal(data.epoch(seeded(seed)).sort().values, torch.arange(len(data)))
    assert torch.equal(rows, data.draw(count, seeded(seed)))


def test_drawn_rows_are_uniform():
    data, generator = numbered(torch.zeros(5, dtype=torch.int64)), seeded()
    drawn = torch.stack([data.draw(2, generator) for _ in range(6000)])
    pairs = torch.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25)
    possible = ~torch.eye(5, dtype=torch.bool).flatten()
    assert pairs[~possible].sum() == 0
    assert chi_square(pairs[possible]) > 1e-3


@pytest.mark.parametrize("count", [-1, 7])
def test_draw_bad_count(count):
    with pytest.raises(ValueError, match=r"ImageSet\.draw: count must be in 0\.\.6"):
        numbered(torch.arange(6)).draw(count)


# batches


@given(labels_of, seeds, st.data())
def test_a_batch_is_the_images_of_its_rows(labels, seed, choose):
    data = numbered(labels)
    rows = data.epoch(seeded(seed))[: choose.draw(st.integers(1, len(data)))]
    candidates = choose.draw(st.integers(0, len(data)))
    batch = data.batch(rows, candidates, generator=seeded(seed))
    assert torch.equal(rows_of(batch.images), rows)
    assert torch.equal(batch.labels, labels[rows])
    assert torch.equal(labels[rows_of(batch.positives)], batch.labels)
    pool = rows_of(batch.candidates)
    assert len(pool.unique()) == len(pool) == candidates
    assert torch.equal(labels[pool], batch.candidate_labels)


def test_each_part_of_a_batch_is_augmented_on_its_own():
    data, seen = numbered(torch.tensor([0, 1, 0, 1, 0])), []

    def augment(images, generator):
        seen.append((rows_of(images), generator))
        return images + torch.rand(len(images), 1, 1, 1, generator=generator)

    rows, generator = torch.tensor([4, 0]), seeded()
    batch = data.batch(rows, 3, augment=augment, generator=generator)
    plain = data.batch(rows, 3, generator=seeded())
    parts = (batch.images, batch.positives, batch.candidates)
    for part, whole, (shown, given_generator) in zip(
        parts, (plain.images, plain.positives, plain.candidates), seen, strict=True
    ):
        assert torch.equal(shown, rows_of(whole))
        assert given_generator is generator
        assert ((part - whole).flatten(1).std(1) < 1e-6).all()
    noise = torch.cat([part[:, 0, 0, 0] - rows_of(part) / 255 for part in parts])
    assert len(noise.unique()) == 7


def test_batches_cover_an_epoch():
    data = ImageSet(torch.rand(360, 1, 8, 8), torch.arange(360) % 10)
    batches = list(data.batches(50, 20, seeded()))
    assert len(batches) == 7
    for batch in batches:
        assert batch.images.shape == batch.positives.shape == (50, 1, 8, 8)
        assert batch.candidates.shape == (20, 1, 8, 8)
        assert batch.candidate_labels.shape == (20,)
    images = torch.cat([batch.images for batch in batches]).flatten(1)
    assert len(images.unique(dim=0)) == 350
    again = next(iter(data.batches(50, 20, seeded())))
    assert torch.equal(again.images, batches[0].images)
    augmented = next(iter(data.batches(50, 20, seeded(), augment=lambda images, _: 1 - images)))
    assert torch.equal(augmented.positives, 1 - batches[0].positives)


@pytest.mark.parametrize(("size", "candidates"), [(0, 1), (7, 1), (2, 7), (2, -1)])
def test_batches_bad_sizes(size, candidates):
    with pytest.raises(ValueError, match=r"ImageSet\.batches"):
        next(numbered(torch.arange(6)).batches(size, candidates))


def test_the_watch_sees_what_waits():
    values = torch.arange(4.0)
    for wait in (lambda: values.sum().item(), lambda: values[values > 1], lambda: int(values[0])):
        with pytest.raises(AssertionError, match="waits"), NoWaiting():
            wait()


def test_a_batch_never_waits_for_the_device(device):
    data = ImageSet(torch.rand(20, 3, 8, 8), torch.arange(20) % 3).to(device)
    rows, generator = data.epoch(), seeded(0, device)
    data.batch(rows, 5, augment=crop_flip, generator=generator)  # a first call may set things up
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoWaiting():
            for batch in data.batches(8, 5, generator, augment=crop_flip):
                assert batch.images.shape == (8, 3, 8, 8)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


# held out


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40).map(torch.tensor), seeds, st.data())
def test_hold_out_is_disjoint_stratified_and_repeats(labels, seed, choose):
    count = choose.draw(st.integers(1, len(labels) - 1))
    rest, held = hold_out(numbered(labels), count, seed)
    rows = [rows_of(part.images) for part in (rest, held)]
    assert len(held) == count
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(len(labels)))
    for part, shown in zip((rest, held), rows, strict=True):
        assert torch.equal(part.labels, labels[shown])
        assert (shown.diff() > 0).all()
    share = torch.bincount(labels, minlength=6) * count / len(labels)
    assert ((torch.bincount(held.labels, minlength=6) - share).abs() < 1).all()
    assert torch.equal(rows_of(hold_out(numbered(labels), count, seed)[1].images), rows[1])


def test_hold_out_depends_on_its_seed_and_not_on_the_device(device):
    data = numbered(torch.arange(200) % 7)
    held = hold_out(data, 50, 0)[1].images
    assert not torch.equal(hold_out(data, 50, 1)[1].images, held)
    assert torch.equal(hold_out(data.to(device), 50, 0)[1].stored.cpu(), (held * 255).byte())


def test_hold_out_is_uniform_within_a_class():
    data = numbered(torch.tensor([0] * 6 + [1] * 6))
    held = torch.cat([rows_of(hold_out(data, 4, seed)[1].images) for seed in range(1500)])
    counts = torch.bincount(held, minlength=12)
    assert chi_square(counts[:6]) > 1e-3
    assert chi_square(counts[6:]) > 1e-3


@pytest.mark.parametrize("count", [0, 6, 7, -1])
def test_hold_out_leaves_something(count):
    with pytest.raises(ValueError, match=r"hold_out: count must be in 1\.\.5, got"):
        hold_out(numbered(torch.arange(6)), count)
