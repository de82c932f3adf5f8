"""Stored adversarial images: what of them is exact, what is read, and how they are drawn."""

import json
import sys
import tracemalloc
from fractions import Fraction
from functools import partial

import pytest
import torch
from chance import chi_square
from hypothesis import given, settings
from hypothesis import strategies as st
from kept_sets import image_set, keep

from tla_ops.training import methods
from tla_ops.training.adversarial_set import AdversarialSet, AdversarialSetError, Mixture, Stored
from tla_ops.training.attacks import fgsm
from tla_ops.training.image_set import ImageSet
from tla_ops.training.models import small

numpy = pytest.importorskip("numpy", reason="sets are NumPy files: extra [train]")

RADII = [Fraction(3, 10), Fraction(8, 255), Fraction(1, 1000), Fraction(1), Fraction(3, 16)]
ULP = 2.0**-23

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A new folder at each call, for tests under hypothesis."""
    return partial(tmp_path_factory.mktemp, "set")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(count, seed=0):
    """Images (N, 1, 3, 4) with some pixels at 0 and at 1."""
    images = torch.rand(count, 1, 3, 4, generator=seeded(seed)) * 1.4 - 0.2
    return images.clamp(0, 1)


def ball_of(images, epsilon):
    """As attacks have it: lowest and highest images."""
    epsilon = float(epsilon)
    return (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)


def everything(kept, clean):
    return kept.take(torch.arange(len(clean)), clean)


# what is kept


@settings(max_examples=25)
@given(
    epsilon=st.sampled_from(RADII),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.2, 1.0, 3.0]),
)
def test_the_ball_is_exact_and_images_are_off_by_half_a_unit(folders, epsilon, seed, spread):
    clean = some_images(9, seed)
    low, high = ball_of(clean, epsilon)
    noise = torch.randn(clean.shape, generator=seeded(seed + 1)) * float(epsilon) * spread
    adversarial = (clean + noise).clamp(low, high)
    kept = keep(folders(), clean, adversarial, epsilon)
    assert kept.changes.dtype == numpy.int8
    assert kept.epsilon == epsilon
    taken = everything(kept, clean)
    assert taken.dtype == torch.float32
    assert ((taken >= low) & (taken <= high)).all()
    assert (taken.double() - adversarial.double()).abs().max() <= float(epsilon) / 240 + ULP
    ends = (adversarial == 0) | (adversarial == 1)
    assert ends.any()
    assert torch.equal(taken[ends], adversarial[ends])
    whole = (adversarial == clean + float(epsilon)) | (adversarial == clean - float(epsilon))
    assert torch.equal(taken[whole], adversarial[whole])
    assert spread < 1 or epsilon == 1 or (whole & ~ends).any()


@pytest.mark.parametrize("epsilon", RADII)
def test_tenths_of_the_radius_are_as_they_were(epsilon, tmp_path):
    clean = some_images(21)
    tenths = torch.arange(-10, 11).view(-1, 1, 1, 1)
    low, high = ball_of(clean, epsilon)
    adversarial = (clean + tenths * float(epsilon / 10)).clamp(low, high)
    taken = everything(keep(tmp_path, clean, adversarial, epsilon), clean)
    torch.testing.assert_close(taken, adversarial, rtol=0, atol=ULP)
    assert torch.equal(taken[10], clean[10])


@pytest.mark.parametrize("epsilon", RADII)
def test_one_step_is_bit_for_bit(epsilon, tmp_path):
    clean, model = torch.rand(20, 1, 8, 8, generator=seeded()), small()
    clean[:5] = clean[:5].round()
    adversarial = fgsm(model, clean, torch.arange(20) % 10, epsilon=epsilon)
    taken = everything(keep(tmp_path, clean, adversarial, epsilon), clean)
    assert torch.equal(taken, adversarial)
    assert not torch.equal(taken, clean)


def test_what_rounding_moves_out_of_a_tiny_ball_comes_back_into_it(tmp_path):
    clean, epsilon = torch.full((4, 1, 3, 4), 0.25), Fraction(1, 10**6)
    adversarial = clean + 1.9e-6 * torch.tensor([1.0, -1, 1, -1])
    low, high = ball_of(clean, epsilon)
    taken = everything(keep(tmp_path, clean, adversarial, epsilon), clean)
    assert torch.equal(taken, adversarial.clamp(low, high))


def test_without_a_ball_changes_keep_their_digits_however_small(tmp_path):
    size = 2.0 ** -torch.arange(30).double() * (1 + torch.rand(30, generator=seeded()).double())
    size = size.clamp(max=0.999).float().view(30, 1, 1, 1).expand(30, 1, 1, 4)
    # Where float32 holds any change, and where it holds large ones alone.
    clean = torch.tensor([0.0, 0.0, 0.25, 0.75]).expand_as(size).clone()
    adversarial = clean + size * torch.tensor([1, 0.5, 1, -1])
    adversarial = adversarial.clamp(0, 1)
    kept = keep(tmp_path, clean, adversarial, None)
    assert kept.changes.dtype == numpy.float16
    assert kept.epsilon is None
    taken = everything(kept, clean).double()
    change = adversarial.double() - clean.double()
    error = (taken - adversarial.double()).abs()
    assert (error <= 2.0**-11 * change.abs() + (clean > 0) * 2.0**-24).all()
    assert change[1:, :, :, 0].min() < 2**-28
    assert (error[1:] > 0).any()
    ends = (adversarial == 0) | (adversarial == 1)
    assert ends.any()
    assert (error[ends] == 0).all()


def test_without_a_ball_what_is_not_changed_stays(tmp_path):
    clean = some_images(10)
    assert torch.equal(everything(keep(tmp_path, clean, clean, None), clean), clean)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.uint8, None), (torch.uint8, 16), (torch.float32, None), (torch.float64, 16)],
)
def test_rows_are_those_of_the_training_set(dtype, scale, tmp_path, device):
    one = scale or (255 if dtype == torch.uint8 else 1)
    images = (torch.rand(23, 2, 3, 1, generator=seeded()) * one).to(dtype)
    data = image_set(images.to(device), scale)
    epsilon = Fraction(1, 5)
    shift = float(epsilon) * (2 * (torch.arange(23) % 2) - 1).view(-1, 1, 1, 1).to(device)
    adversarial = (data.images + shift).clamp(0, 1)
    kept = keep(tmp_path, data, adversarial, epsilon, batch=5)
    assert len(kept) == 23
    assert kept.image_shape == (2, 3, 1)
    rows = torch.tensor([22, 3, 3, 0, 20, 7])
    for wanted in (rows, rows.to(device), rows.to(torch.int32)):
        taken = kept.take(wanted, data.take(rows.to(device)))
        assert taken.device.type == device.type
        assert torch.equal(taken, adversarial[rows.to(device)])
    assert kept.take(rows[:0], data.take(rows[:0].to(device))).shape == (0, 2, 3, 1)


def test_only_the_rows_asked_for_are_read(tmp_path):
    images = torch.zeros(4000, 1, 32, 32, dtype=torch.uint8)
    kept = keep(tmp_path, image_set(images), images.float(), Fraction(1, 2), batch=500)
    assert isinstance(kept.changes, numpy.memmap)
    tracemalloc.start()
    try:
        kept = AdversarialSet(tmp_path)
        kept.take(torch.tensor([3999, 5]), torch.zeros(2, 1, 32, 32))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400_000  # of 4 MB


def test_images_with_a_graph_give_none(tmp_path):
    clean = some_images(6)
    kept = keep(tmp_path, clean, clean, None)
    assert not kept.take(torch.arange(6), clean.requires_grad_()).requires_grad


# opening


def test_nothing_there(tmp_path):
    with pytest.raises(AdversarialSetError, match=r"must hold a whole set.json of format 1, got"):
        AdversarialSet(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "done": 9}'])
def test_a_damaged_record_is_none(text, tmp_path):
    keep(tmp_path, some_images(6), some_images(6), None)
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(AdversarialSetError, match=r"must hold a whole set.json of format 1, got"):
        AdversarialSet(tmp_path)


def change_record(path, **changes):
    record = json.loads((path / "set.json").read_text()) | changes
    (path / "set.json").write_text(json.dumps(record))


def test_another_format(tmp_path):
    keep(tmp_path, some_images(6), some_images(6), None)
    change_record(tmp_path, format=2)
    with pytest.raises(AdversarialSetError, match="of format 1, got none"):
        AdversarialSet(tmp_path)


def test_a_set_in_the_making(tmp_path):
    keep(tmp_path, some_images(6), some_images(6), None)
    change_record(tmp_path, done=5)
    with pytest.raises(AdversarialSetError, match="a complete set, got 5 of 6 images"):
        AdversarialSet(tmp_path)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: path.unlink(), "damaged: .*No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged: "),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "damaged: "),
        (lambda path: path.write_bytes(b""), "damaged: "),
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "damaged: "),
        (lambda path: numpy.save(path, numpy.zeros((6, 1, 3, 4))), "must be .*float16.*float64"),
        (lambda path: numpy.save(path, numpy.zeros((5, 1, 3, 4), "float16")), "must be .*6.*5"),
    ],
)
def test_damaged_changes(damage, match, tmp_path):
    keep(tmp_path, some_images(6), some_images(6), None)
    damage(tmp_path / "changes.npy")
    with pytest.raises(AdversarialSetError, match=match):
        AdversarialSet(tmp_path)


def test_numpy_is_asked_for_by_name(tmp_path, monkeypatch):
    keep(tmp_path, some_images(6), some_images(6), None)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError, match=r"need numpy: pip install 'tla_ops\[train\]'"):
        AdversarialSet(tmp_path)


# mixtures


def marked(folder, count=12, marks=(0.25, 0.5, 0.75), clean=None):
    """A mixture of sets with and without a ball, whose images tell their set."""
    clean = torch.zeros(count, 1, 3, 4) if clean is None else clean
    return Mixture(
        [
            keep(folder / str(mark), clean, torch.full_like(clean, mark), epsilon)
            for mark, epsilon in zip(marks, (Fraction(1, 2), None, Fraction(1)), strict=False)
        ]
    )


def test_each_image_is_one_of_a_set(tmp_path, device):
    clean = some_images(30)
    data = image_set(clean).to(device)
    sets = []
    for number, epsilon in enumerate([Fraction(3, 10), None, Fraction(8, 255), Fraction(1, 9)]):
        low, high = ball_of(clean, epsilon or 1)
        adversarial = torch.lerp(low, high, torch.rand(clean.shape, generator=seeded(number)))
        sets.append(keep(tmp_path / str(number), clean, adversarial, epsilon))
    mixture = Mixture(sets)
    assert len(mixture) == 30
    assert mixture.image_shape == (1, 3, 4)
    rows = torch.tensor([29, 0, 4, 4, 4, 4, 4, 4, 11, 20, 3, 28])
    images = data.take(rows.to(device))
    drawn = mixture.draw(rows, images)
    assert drawn.device.type == device.type
    each = torch.stack([kept.take(rows, images) for kept in sets])
    assert len(each.unique(dim=0)) == 4
    found = (each == drawn).flatten(2).all(2)
    assert found.any(0).all()
    assert found.any(1).sum() >= 3


def test_every_row_draws_its_set_uniformly_and_by_itself(tmp_path):
    mixture = marked(tmp_path)
    rows, clean = torch.zeros(3000, dtype=torch.int64), torch.zeros(3000, 1, 3, 4)
    marks = mixture.draw(rows, clean)[:, 0, 0, 0]
    which = (marks * 4).round().long() - 1
    assert chi_square(torch.bincount(which, minlength=3)) > 1e-3
    pairs = which[::2] * 3 + which[1::2]
    assert chi_square(torch.bincount(pairs, minlength=9)) > 1e-3


def test_draws_repeat_with_their_seed_and_come_from_the_cpu(tmp_path, device):
    mixture = marked(tmp_path)
    rows, clean = torch.arange(12), torch.zeros(12, 1, 3, 4, device=device)

    def draw(seed):
        torch.manual_seed(seed)
        return mixture.draw(rows, clean)

    first = draw(1)
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))
    assert torch.equal(first, mixture.draw(rows, clean, seeded(1)))
    assert torch.equal(first.cpu(), Mixture(mixture.sets).draw(rows, clean.cpu(), seeded(1)))


def test_of_one_set_nothing_is_drawn(tmp_path):
    mixture = marked(tmp_path, marks=(0.25,))
    before = torch.get_rng_state()
    mixture.draw(torch.arange(12), torch.zeros(12, 1, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)


# for a trainer


def test_a_method_trains_against_what_is_stored(tmp_path):
    clean = torch.rand(12, 1, 8, 8, generator=seeded()) * 0.7
    data = ImageSet(clean, torch.arange(12) % 3)
    mixture = marked(tmp_path, clean=clean)
    stored, model, seen = Stored(mixture), small(), []
    model.body[0].register_forward_hook(lambda module, inputs, _: seen.append(inputs[0]))
    options = {"adversarial_weight": 0.3, "weight": 1.0, "margin": 1.0, "attack": stored}
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        rows = torch.tensor([5, 1, 9, 0, 2, 11])
        stored.rows = rows
        losses.append(methods.at2l(model, data.batch(rows), **options).loss.item())
    assert losses[0] == losses[1]
    torch.manual_seed(3)
    batch = data.batch(rows)
    expected = mixture.draw(rows, batch.images)
    assert torch.equal(seen[0], batch.images)
    assert torch.equal(seen[1], expected)
    assert len(expected[:, 0, 0, 0].unique()) > 1


def test_rows_are_used_up(tmp_path):
    stored = Stored(marked(tmp_path))
    images, labels = torch.zeros(2, 1, 3, 4), torch.zeros(2, dtype=torch.int64)
    stored.rows = torch.tensor([0, 1])
    stored(small(), images, labels)
    with pytest.raises(ValueError, match="Stored: rows must be set before each call, got None"):
        stored(small(), images, labels)


# errors


@pytest.mark.parametrize(
    ("rows", "clean", "error", "match"),
    [
        ([0, 12], (2, 1, 3, 4), ValueError, r"rows must be in 0\.\.11, got 0\.\.12"),
        ([-1, 3], (2, 1, 3, 4), ValueError, r"rows must be in 0\.\.11, got -1\.\.3"),
        ([0, 1], (3, 1, 3, 4), ValueError, r"rows must be \(3,\) to match clean, got \(2,\)"),
        ([[0], [1]], (2, 1, 3, 4), ValueError, r"rows must be \(2,\) to match clean"),
        ([0.0, 1.0], (2, 1, 3, 4), TypeError, "rows must have an integer dtype"),
        ([0, 1], (2, 1, 4, 3), ValueError, r"clean must be images \(1, 3, 4\), got \(1, 4, 3\)"),
        ([0, 1], (2, 12), ValueError, r"clean must be \(B, C, H, W\), got \(2, 12\)"),
    ],
)
def test_rows_and_images_that_do_not_fit(rows, clean, error, match, tmp_path):
    mixture = marked(tmp_path)
    with pytest.raises(error, match=f"draw: {match}"):
        mixture.draw(torch.tensor(rows), torch.zeros(clean))
    with pytest.raises(error, match=match):
        mixture.sets[0].take(torch.tensor(rows), torch.zeros(clean))


def test_images_in_bytes_are_none_that_an_attack_had(tmp_path):
    with pytest.raises(TypeError, match="draw: clean must be float64, float32"):
        marked(tmp_path).draw(torch.arange(2), torch.zeros(2, 1, 3, 4, dtype=torch.uint8))


def test_sets_that_do_not_go_together(tmp_path):
    sets = [
        keep(tmp_path / "a", some_images(6), some_images(6), None),
        keep(tmp_path / "b", some_images(5), some_images(5), None),
    ]
    with pytest.raises(ValueError, match=r"Mixture: sets must be .* got \[\(5, 1.*\(6, 1"):
        Mixture(sets)
    with pytest.raises(ValueError, match=r"Mixture: sets must be one or more .* got \[\]"):
        Mixture([])
