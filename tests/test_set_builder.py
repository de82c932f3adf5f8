"""Building sets of adversarial images: what is made, found, gone on with and replaced."""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from functools import partial

import pytest
import torch
from kept_sets import image_set
from torch import nn

from tla_ops.training import attacks, set_builder
from tla_ops.training.adversarial_set import AdversarialSet, AdversarialSetError
from tla_ops.training.family import KINDS, gradient_family
from tla_ops.training.image_set import ImageSet
from tla_ops.training.set_builder import Wanted, build, only

pytest.importorskip("numpy", reason="sets are NumPy files: extra [train]")

EPSILON, STEP = Fraction(3, 10), Fraction(3, 100)
PGD = partial(attacks.pgd, epsilon=EPSILON, step=STEP, steps=2)
FAMILY = partial(gradient_family, epsilon=EPSILON, step=STEP, steps=3)
COUNT, BATCH = 23, 5

pytestmark = pytest.mark.usefixtures("one_thread")


def data_set(dtype=torch.float32, scale=None, count=COUNT):
    one = scale or (255 if dtype == torch.uint8 else 1)
    images = torch.rand(count, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    return ImageSet((images * one).to(dtype), torch.arange(count) % 4, scale)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))


def wanted(folder, kinds=KINDS, about=None, epsilon=EPSILON):
    return [Wanted(kind, folder / kind, {"kind": kind} | (about or {}), epsilon) for kind in kinds]


class Counted:
    """A family that counts: the kinds and the number of images it was asked for."""

    def __init__(self, family):
        self.family = family
        self.asked = []

    def __call__(self, model, images, labels, *, kinds):
        self.asked.append((tuple(kinds), len(images)))
        return self.family(model, images, labels, kinds=kinds)


def run(folder, family=FAMILY, kinds=KINDS, model=None, data=None, **options):
    """The sets, and what was asked of the family."""
    counted = Counted(family)
    asked = {key: options.pop(key) for key in ("about", "epsilon") if key in options}
    options = {"batch": BATCH, "quiet": True} | options
    sets = build(
        wanted(folder, kinds, **asked), counted, model or network(), data or data_set(), **options
    )
    return sets, counted.asked


def pgd(folder, **options):
    return run(folder, kinds=["pgd"], **({"family": only(PGD)} | options))


def files(folder):
    """Everything in a folder, without the seconds, which no run repeats."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "set.json":
            record = json.loads(path.read_text())
            del record["seconds"]
            found[path.relative_to(folder)] = record
        elif path.is_file():
            found[path.relative_to(folder)] = path.read_bytes()
    return found


def opens(path):
    try:
        return len(AdversarialSet(path))
    except AdversarialSetError:
        return 0


# what is made


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.uint8, None), (torch.uint8, 16), (torch.float32, None)]
)
@pytest.mark.parametrize("batch", [5, 23, 100])
def test_four_attacks_in_one_pass_are_those_alone(dtype, scale, batch, tmp_path, device):
    data, model = data_set(dtype, scale).to(device), network().to(device)
    rows = torch.arange(COUNT, device=device)
    forwarded = []
    model.register_forward_hook(lambda module, inputs, _: forwarded.append(len(inputs[0])))
    sets, asked = run(tmp_path, model=model, data=data, batch=batch)
    sizes = [len(part) for part in rows.split(batch)]
    assert asked == [(KINDS, size) for size in sizes]
    assert forwarded == [size for size in sizes for _ in range(2 * 3 - 1)]
    for kind, kept in zip(KINDS, sets, strict=True):
        options = {"epsilon": EPSILON}
        if kind in ("bim", "ill"):
            options |= {"step": STEP, "steps": 3}
        attack = attacks.in_batches(partial(getattr(attacks, kind), **options), batch)
        expected = attack(model, data.images, data.labels)
        taken = kept.take(rows, data.images)
        torch.testing.assert_close(taken, expected, rtol=0, atol=float(EPSILON) / 240 + 1e-6)
        assert kind not in ("fgsm", "ll") or torch.equal(taken, expected)
        assert kept.about == {"kind": kind}
        assert kept.epsilon == EPSILON
        assert kept.path == tmp_path / kind


def test_one_attack_builds_one_set(tmp_path):
    data, model = data_set(), network()
    attack = partial(attacks.bim, epsilon=Fraction(1), step=Fraction(1, 4), steps=3, norm="l2")
    (kept,), asked = run(tmp_path, only(attack), ["l2"], epsilon=None)
    assert asked == [(("l2",), 5)] * 4 + [(("l2",), 3)]
    assert kept.epsilon is None
    expected = attacks.in_batches(attack, BATCH)(model, data.images, data.labels)
    taken = kept.take(torch.arange(COUNT), data.images)
    torch.testing.assert_close(taken, expected, rtol=0, atol=2**-11)
    assert not torch.equal(taken, data.images)


def test_a_batchs_random_numbers_come_from_the_seed_and_its_position(tmp_path):
    state = torch.get_rng_state()
    (first,), _ = pgd(tmp_path / "1", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    (again,), _ = pgd(tmp_path / "2", seed=1)
    (other,), _ = pgd(tmp_path / "3", seed=2)
    assert (first.changes == again.changes).all()
    assert (first.changes != other.changes).any()
    # The same images in every batch, and others' starts.
    data = image_set(torch.full((10, 1, 3, 4), 0.5))
    (kept,), _ = pgd(tmp_path / "4", data=data)
    assert (kept.changes[:5] != kept.changes[5:]).any()


class Watched(ImageSet):
    """Images that are taken some at a time, and counted."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.taken = []

    def take(self, rows):
        self.taken.append(rows.tolist())
        return super().take(rows)

    @property
    def images(self):
        raise AssertionError("all images at once")


@pytest.mark.parametrize("count", [20, 203, 1003])
def test_no_more_than_a_batch_is_in_memory(count, tmp_path):
    some = data_set(torch.uint8, count=count)
    data = Watched(some.stored, some.labels)
    (kept,), asked = pgd(tmp_path, data=data, batch=10)
    assert max(map(len, data.taken)) == max(size for _, size in asked) == 10
    assert [row for rows in data.taken for row in rows] == list(range(count))
    assert len(kept) == count


def test_the_models_device_decides(tmp_path, device):
    seen = []

    def attack(model, images, labels):
        seen.extend([images.device.type, labels.device.type])
        return images

    run(tmp_path / "a", only(attack), ["any"], model=network().to(device))
    assert set(seen) == {device.type}
    # Without parameters the images'.
    del seen[:]
    run(tmp_path / "b", only(attack), ["any"], model=nn.Flatten(), data=data_set().to(device))
    assert set(seen) == {device.type}


def test_progress_and_speed(tmp_path, capsys, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(set_builder.time, "perf_counter", lambda: float(next(ticks)))
    sets, _ = run(tmp_path, quiet=False)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "fgsm, ll, bim, ill: 23/23  3 images/s"
    # Five batches of a second each, in four equal shares.
    assert [kept.seconds for kept in sets] == [1.25] * 4
    assert sets[0].images_per_second == 23 / 1.25
    run(tmp_path / "quiet")
    run(tmp_path, quiet=False)
    assert capsys.readouterr().err == ""


def test_what_is_complete_is_on_the_disk(tmp_path, monkeypatch):
    synced = []

    def sync(descriptor):
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(place.rpartition("/")[2])

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("asks Linux what is synchronised")
    monkeypatch.setattr(os, "fsync", sync)
    pgd(tmp_path)
    begun, changes, record = synced
    assert changes == "changes.npy"
    assert begun.startswith(".set.json.")
    assert record.startswith(".set.json.")


# what is found


def test_a_complete_set_is_found(tmp_path):
    sets, _ = run(tmp_path)
    before = files(tmp_path)
    again, asked = run(tmp_path)
    assert asked == []
    assert files(tmp_path) == before
    assert [kept.seconds for kept in again] == [kept.seconds for kept in sets]


def test_only_the_kinds_that_are_missing_are_made(tmp_path):
    whole, some = tmp_path / "whole", tmp_path / "some"
    run(whole)
    run(some, kinds=["bim", "ll"])
    _, asked = run(some)
    assert {kinds for kinds, _ in asked} == {("fgsm", "ill")}
    assert files(some) == files(whole)


CHANGES = {
    "about": {"about": {"model": "other"}},
    "epsilon": {"epsilon": Fraction(1, 2)},
    "no ball": {"epsilon": None},
    "seed": {"seed": 1},
    "batch": {"batch": 6},
    "images": {"data": data_set(count=COUNT - 1)},
    "shape": {"data": image_set(data_set().stored.transpose(2, 3).contiguous())},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_set_is_replaced(change, tmp_path):
    options = CHANGES[change]
    (old,), _ = pgd(tmp_path / "a")
    values = old.changes.copy()
    (kept,), asked = pgd(tmp_path / "a", **options)
    (fresh,), expected = pgd(tmp_path / "b", **options)
    assert asked == expected != []
    assert (kept.changes == fresh.changes).all()
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert (old.changes == values).all()  # who has the old one open keeps it


def flip(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped": lambda folder: flip(folder / "changes.npy"),
    "cut": lambda folder: (folder / "changes.npy").write_bytes(b"\x93NUMPY"),
    "shorter": lambda folder: os.truncate(folder / "changes.npy", 300),
    "gone": lambda folder: (folder / "changes.npy").unlink(),
    "record": lambda folder: (folder / "set.json").write_text('{"format": 1, "done'),
    "no record": lambda folder: (folder / "set.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_made_again(damage, tmp_path):
    pgd(tmp_path)
    before = files(tmp_path)
    DAMAGE[damage](tmp_path / "pgd")
    assert files(tmp_path) != before if damage != "record" else True
    _, asked = pgd(tmp_path)
    assert len(asked) == 5
    assert files(tmp_path) == before


# interruption


class Interrupted(Exception):
    """Ends a run where a signal might."""


def stopped(monkeypatch, moment, family=FAMILY):
    """Before and after each rename, opening and attack, counts down to the exception."""
    left = [moment]

    def count():
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    def counted(function):
        def call(*arguments, **options):
            count()
            result = function(*arguments, **options)
            count()
            return result

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(set_builder, "open_changes", counted(set_builder.open_changes))
    return counted(family)


def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(tmp_path):
    kinds = ["fgsm", "ill"]
    run(tmp_path / "whole", kinds=kinds)
    whole, ends = files(tmp_path / "whole"), []
    for moment in range(1, 1000):
        folder = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patch:
            family = stopped(patch, moment)
            try:
                _, asked = run(folder, family, kinds)
            except Interrupted:
                asked = None
        if asked is not None:
            break
        done = [record_of(folder / kind).get("done", 0) for kind in kinds]
        # Opened only if complete; one batch at most is lost, and none is made twice.
        assert [opens(folder / kind) for kind in kinds] == [COUNT * (d == COUNT) for d in done]
        _, asked = run(folder, kinds=kinds)
        for kind, had in zip(kinds, done, strict=True):
            assert sum(size for made, size in asked if kind in made) == COUNT - had
        assert files(folder) == whole
        ends.append(done)
    assert len(ends) > 30
    assert {tuple(done) for done in ends} >= {(0, 0), (5, 0), (5, 5), (20, 20), (23, 20)}


def test_a_replacement_that_is_interrupted_never_opens_as_either(tmp_path):
    (old,), _ = pgd(tmp_path / "old")
    values, new = old.changes.copy(), {"about": {"model": "new"}, "seed": 1}
    pgd(tmp_path / "whole", **new)
    whole, opened, moment = files(tmp_path / "whole"), [], 0
    while not opened or opened[-1] != "new":
        moment += 1
        folder = tmp_path / str(moment)
        (before,), _ = pgd(folder)
        with pytest.MonkeyPatch.context() as patch, suppress(Interrupted):
            pgd(folder, **new, family=stopped(patch, moment, only(PGD)))
        opened.append("nothing")
        if opens(folder / "pgd"):
            kept = AdversarialSet(folder / "pgd")
            opened[-1] = kept.about.get("model", "old")
            assert opened[-1] == "new" or (kept.changes == values).all()
        pgd(folder, **new)
        assert files(folder) == whole
        assert (before.changes == values).all()
    assert opened[0] == "old"
    assert opened[1:-1] == ["nothing"] * (moment - 2)
    assert moment > 10


def test_what_a_killed_process_left_is_removed(tmp_path):
    pgd(tmp_path)
    before = files(tmp_path)
    (tmp_path / "pgd" / ".set.json.a1b2c3").write_text("{")
    pgd(tmp_path)
    assert files(tmp_path) == before


def record_of(path):
    try:
        return json.loads((path / "set.json").read_text())
    except FileNotFoundError:
        return {}


def test_a_partial_set_that_is_damaged_begins_anew(tmp_path):
    def fails(model, images, labels, kinds):
        if len(images) < BATCH:
            raise Interrupted
        return FAMILY(model, images, labels, kinds=kinds)

    for damage in (None, *DAMAGE):
        folder = tmp_path / str(damage)
        with pytest.raises(Interrupted):
            run(folder, fails, ["fgsm"])
        assert record_of(folder / "fgsm")["done"] == 20
        if damage == "flipped":  # where there is something already
            content = bytearray((folder / "fgsm" / "changes.npy").read_bytes())
            content[150] ^= 1
            (folder / "fgsm" / "changes.npy").write_bytes(content)
        elif damage:
            DAMAGE[damage](folder / "fgsm")
        _, asked = run(folder, kinds=["fgsm"])
        assert len(asked) == (5 if damage else 1)
        assert files(folder) == files(tmp_path / "None")


def test_seconds_are_of_all_runs(tmp_path, monkeypatch):
    def fails(model, images, labels, kinds):
        if len(images) < BATCH:
            raise Interrupted
        return FAMILY(model, images, labels, kinds=kinds)

    ticks = iter(range(10**6))
    monkeypatch.setattr(set_builder.time, "perf_counter", lambda: float(next(ticks)))
    with pytest.raises(Interrupted):
        run(tmp_path, fails, ["fgsm"])
    (kept,), _ = run(tmp_path, kinds=["fgsm"])
    assert kept.seconds == 5


KILLED = """
import os, signal, sys
from pathlib import Path
from test_set_builder import FAMILY, run
from tla_ops.training import files

left = int(sys.argv[1])

def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.replace = counted(os.replace)
os.fdopen = counted(os.fdopen)
run(Path(sys.argv[2]), counted(FAMILY), quiet=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path):
    """SIGKILL at moments that are drawn, until the sets are done."""
    moments, folder = random.Random(0), tmp_path / "killed"
    here = os.path.dirname(__file__)
    run(tmp_path / "whole")

    def start(moment):
        command = [sys.executable, "-c", KILLED, str(moment), str(folder)]
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(command, capture_output=True, env=environment, timeout=120)

    reached = []
    for _ in range(2):
        done = start(moments.randint(11, 20))
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        reached.append([record_of(folder / kind).get("done", 0) for kind in KINDS])
        assert [opens(folder / kind) for kind in KINDS] == [0] * 4
    assert sum(reached[0]) < sum(reached[-1]) < 4 * COUNT
    done = start(0)
    assert done.returncode == 0, done.stderr.decode()
    assert files(folder) == files(tmp_path / "whole")


# errors


def moved(by):
    return only(lambda model, images, labels: images + by)


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        (
            only(lambda model, images, labels: 1 - images),
            r"images in \[0, 1\] within 3/10 of the clean ones, got 0.1\.\.0.9 within 0.8$",
        ),
        (moved(-0.2), r"images in \[0, 1\] .*, got -0.1\.\.0.7 within 0.2$"),
        (moved(0.2), r"images in \[0, 1\] .*, got 0.3\.\.1.1 within 0.2$"),
        (moved(float("nan")), r"images in \[0, 1\] .*, got nan\.\.nan"),
        (only(lambda model, images, labels: images[:2]), r"images \(5, 1, 3, 4\), got \(2, 1"),
    ],
)
def test_an_attack_that_does_not_keep_to_its_ball(attack, match, tmp_path):
    images = torch.full((7, 1, 3, 4), 0.1)
    images[0] = 0.9
    with pytest.raises(ValueError, match=f"build: any must return {match}"):
        run(tmp_path, attack, ["any"], data=image_set(images))
    assert opens(tmp_path / "any") == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"kinds": ["bim", "bim"]}, "wanted must have different kinds and paths, got bim in"),
        ({"epsilon": Fraction(0)}, "epsilon must be above 0, or None, got 0"),
        ({"epsilon": Fraction(-1, 3)}, "epsilon must be above 0, or None, got -1/3"),
    ],
)
def test_bad_options(options, match, tmp_path):
    with pytest.raises(ValueError, match=f"build: {match}"):
        run(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_sets_in_one_folder(tmp_path):
    twice = [Wanted(kind, tmp_path, {}, EPSILON) for kind in ("bim", "ll")]
    with pytest.raises(ValueError, match="different kinds and paths"):
        build(twice, FAMILY, network(), data_set(), batch=5)


def test_nothing_wanted(tmp_path):
    assert run(tmp_path, kinds=[]) == ([], [])
