"""Training in rounds: which images a round learns from, by which loss, and that interruption
changes nothing.
"""

import signal
from functools import wraps

import pytest
import torch
from kept_sets import keep
from torch.nn import functional as F

pytest.importorskip("lightning", reason="the trainer stands on Lightning Fabric: extra [train]")

from tla_ops.training import adversarial_set, checkpoint, rounds, trainer
from tla_ops.training.adversarial_set import AdversarialSet, Mixture, Stored
from tla_ops.training.data import Dataset
from tla_ops.training.image_set import ImageSet, hold_out
from tla_ops.training.models import build
from tla_ops.training.recipe import METHODS, load_recipe
from tla_ops.training.rounds import train_rounds
from tla_ops.training.run_parts import RunError, learned, length

SMALL = (
    "model=mlp", "model_options={hidden: [8]}", "batch=6", "epochs=null", "max_steps=3",
    "val_images=10", "val_steps=1", "val_every=100", "checkpoint_every=2", "log_every=2",
    "adversarial_weight=0.5", "weight=0.7", "margin=1.5",
)  # fmt: skip
COUNT = 30
SHAPE = (1, 2, 4)
NUMBER, ROW, MEMBER, TIMES = range(4)
"""Pixels of the first line, in thousandths: an image's number among all training images; and, of an
adversarial image, its row, its member, and its attack."""

pytestmark = pytest.mark.usefixtures("one_thread")


def recipe(*overrides):
    return load_recipe("digits-at2l-round", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(COUNT, *SHAPE, generator=generator) * 0.5
    images[:, 0, 0] = 0
    images[:, 0, 0, NUMBER] = torch.arange(COUNT) / 1000
    train = ImageSet(images, torch.arange(COUNT) * 3 // COUNT)
    return Dataset("digits", train, train, 3, ())


def network(path, data, seed):
    """A checkpoint of a network that is not trained."""
    made = recipe()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(made.model, data.classes, data.train.image_shape, **made.model_options)
    about = {"recipe": made.as_dict(), "classes": data.classes, "image_shape": list(SHAPE)}
    checkpoint.save(path, about | {"step": 0, "model": model.state_dict(), "ema": None})
    return path


def weights(path):
    content = checkpoint.read(path)
    return content["ema"] or content["model"]


def flat(path):
    return torch.cat([value.flatten() for value in weights(path).values()])


@pytest.fixture
def start(tmp_path, data):
    return network(tmp_path / "start.pt", data, seed=1)


MEMBERS = ("start", "round-01", "round-02", "round-03", "other", "a", "b", "two")


class Marking:
    """Gives sets whose images bear their row, their member, its place among `MEMBERS`, and the
    signs of its weights: other weights are other images.
    """

    def __init__(self, folder, attacks=1):
        self.folder, self.attacks = folder, attacks
        self.asked, self.images = [], []

    def __call__(self, path, images):
        self.asked.append((path, flat(path)))
        self.images.append(images)
        member = MEMBERS.index(path.stem)
        clean = images.images
        made = []
        for attack in range(self.attacks):
            moved = clean.clone()
            moved[:, 0, 0, ROW] = torch.arange(len(clean)) / 1000
            moved[:, 0, 0, MEMBER] = member / 1000
            moved[:, 0, 0, TIMES] = attack / 1000
            signs = flat(path)[:4].sign().view(1, 4) / 10
            moved[:, 0, 1] = (clean[:, 0, 1] + signs).clamp(0, 1)
            name = f"{path.parent.name}-{path.stem}-{attack}-{len(self.asked)}"
            made.append(keep(self.folder / name, images, moved, None))
        return made


@pytest.fixture
def sets(tmp_path):
    return Marking(tmp_path / "sets")


class Seen:
    """Of each step: the batch and the adversarial images, as the method has them."""

    def __init__(self, monkeypatch):
        self.steps = []
        method = METHODS["at2l"]

        @wraps(method)
        def spied(model, batch, *, attack, **options):
            def kept(*arguments):
                adversarial = attack(*arguments)
                self.steps.append((batch, adversarial))
                return adversarial

            return method(model, batch, attack=kept, **options)

        monkeypatch.setitem(METHODS, "at2l", spied)


@pytest.fixture
def seen(monkeypatch):
    return Seen(monkeypatch)


def thousandths(images, pixel):
    return (images[:, 0, 0, pixel] * 1000).round().long().tolist()


def run(data, output, start, sets, count, *overrides, **options):
    made = recipe(*overrides)
    return train_rounds(
        made, data, output, start=start, sets=sets, rounds=count, device="cpu", **options
    )


def same(first, second):
    """Whether the weights of two checkpoints are the same, bit for bit."""
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


# Which images.


def test_a_round_gives_checkpoints_of_its_last_step(data, tmp_path, start, sets):
    output = tmp_path / "run"
    made = run(data, output, start, sets, 2)
    assert made == [start, output / "round-01.pt", output / "round-02.pt"]
    assert [checkpoint.read(path)["step"] for path in made] == [0, 3, 6]
    assert same(made[2], output / "last.pt")
    assert not same(made[1], made[2])
    assert not same(made[0], made[1])
    model, kept = checkpoint.read_model(made[1])
    assert not model.training
    assert kept.method == "at2l"


def test_no_rounds_are_the_start_alone(data, tmp_path, start, sets):
    assert run(data, tmp_path / "run", start, sets, 0) == [start]
    assert not sets.asked
    assert not (tmp_path / "run").exists()


def test_f_begins_with_the_weights_of_its_start(data, tmp_path, start, sets):
    made = run(data, tmp_path / "run", start, sets, 2, "learning_rate=0")
    assert same(made[1], start)
    assert same(made[2], start)


def test_sets_are_asked_for_anew_against_f_as_it_is(data, tmp_path, start, sets):
    other = network(tmp_path / "other.pt", data, seed=2)
    made = run(data, tmp_path / "run", start, sets, 3, others=[other])
    assert [path for path, _ in sets.asked] == [
        other, start, other, made[1], other, made[2],
    ]  # fmt: skip
    for path, found in sets.asked:
        assert torch.equal(found, flat(path))  # whole when it was asked for, and not changed since


def test_without_f_among_the_networks_no_set_is_made_against_it(data, tmp_path, start, sets):
    others = [network(tmp_path / f"{name}.pt", data, seed) for seed, name in enumerate("ab", 2)]
    run(data, tmp_path / "run", start, sets, 3, others=others, own=False)
    assert [path for path, _ in sets.asked] == others * 3


def test_f_alone_is_algorithm_1(data, tmp_path, start, sets):
    made = run(data, tmp_path / "run", start, sets, 3)
    assert [path for path, _ in sets.asked] == [start, made[1], made[2]]


def test_an_adversarial_image_is_of_the_image_that_it_stands_beside(data, tmp_path, start, seen):
    sets = Marking(tmp_path / "sets", attacks=2)
    other = network(tmp_path / "other.pt", data, seed=2)
    run(data, tmp_path / "run", start, sets, 3, "max_steps=8", others=[other])
    rest, held_out = hold_out(data.train, 10, 0)
    for images in sets.images:
        assert torch.equal(images.images, rest.images)
    numbers = thousandths(rest.images, NUMBER)
    assert not set(numbers) & set(thousandths(held_out.images, NUMBER))
    assert len(seen.steps) == 24
    drawn = [set(), set(), set()]
    for step, (batch, adversarial) in enumerate(seen.steps):
        clean = thousandths(batch.images, NUMBER)
        assert thousandths(adversarial, NUMBER) == clean
        assert [numbers[row] for row in thousandths(adversarial, ROW)] == clean
        assert batch.labels.tolist() == data.train.labels[clean].tolist()
        drawn[step // 8] |= set(
            zip(thousandths(adversarial, MEMBER), thousandths(adversarial, TIMES), strict=True)
        )
    for own, found in zip(("start", "round-01", "round-02"), drawn, strict=True):
        members = (MEMBERS.index(name) for name in ("other", own))
        assert found == {(member, attack) for member in members for attack in (0, 1)}


def test_an_epoch_takes_each_image_once_over_rounds(data, tmp_path, start, sets, seen):
    run(data, tmp_path / "run", start, sets, 4, "batch=10", "max_steps=1")
    rows = [thousandths(batch.images, NUMBER) for batch, _ in seen.steps]
    whole = sorted(thousandths(hold_out(data.train, 10, 0)[0].images, NUMBER))
    assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == whole
    assert rows[0] != rows[2]


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("max_steps=5",), 5), (("epochs=2", "max_steps=null"), 6), (("epochs=2",), 3),
        (("epochs=1", "max_steps=30"), 3),
    ],
)  # fmt: skip
def test_a_round_is_as_long_as_the_recipe(overrides, steps, data, tmp_path, start, sets):
    made = run(data, tmp_path / "run", start, sets, 2, *overrides)
    assert [checkpoint.read(path)["step"] for path in made[1:]] == [steps, 2 * steps]
    rest, held_out = learned(recipe(*overrides), data)
    assert (len(rest), len(held_out)) == (20, 10)
    assert length(recipe(*overrides), len(rest)) == steps


def test_rounds_are_one_run(data, tmp_path, start, sets):
    """Steps are counted over rounds: the schedule's, and the optimiser's."""
    made = run(data, tmp_path / "run", start, sets, 3, "schedule={3: 0.0}")
    assert not same(made[1], start)
    assert same(made[1], made[2])
    assert same(made[1], made[3])
    state = checkpoint.read(tmp_path / "run" / "last.pt")["optimizer"]["state"]
    assert {int(each["step"]) for each in state.values()} == {9}


# By which loss.


def by_hand(path, steps, *, adversarial_weight, weight, margin=1.5, rate=0.5):
    """Weights after plain SGD on equation 2; xn is any image of another class, of two classes the
    batch has one each."""
    model, _ = checkpoint.read_model(path)
    model.train()
    for batch, adversarial in steps:
        clean, attacked = model(batch.images), model(adversarial)
        loss = F.cross_entropy(clean, batch.labels)
        loss = loss + adversarial_weight * F.cross_entropy(attacked, batch.labels)
        loss = loss / (1 + adversarial_weight)
        assert sorted(batch.labels.tolist()) == [0, 1]
        near = (attacked - clean).abs().amax(1)
        far = (attacked - clean.flip(0)).abs().amax(1)
        loss = loss + weight * F.relu(near - far + margin).mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for value in model.parameters():
                value -= rate * value.grad
    return model.state_dict()


METHOD = {
    "at": {"adversarial_weight": 0.5, "weight": 0},
    "at2l": {"adversarial_weight": 0.5, "weight": 0.7},
    "tr": {"adversarial_weight": 0, "weight": 0.7},
}


@pytest.mark.parametrize("method", METHOD)
def test_a_round_trains_by_its_equation(method, data, tmp_path, sets, seen):
    train = data.train.subset(torch.tensor([0, 1, 14, 15]))
    two = Dataset("digits", train, train, 2, ())
    start = network(tmp_path / "two.pt", two, seed=1)
    keys = [f"{key}={value}" for key, value in METHOD[method].items()]
    sgd = ["optimizer=sgd", "momentum=0", "learning_rate=0.5", "batch=2", "val_images=2"]
    made = run(two, tmp_path / "run", start, sets, 2, *keys, *sgd)
    assert len(seen.steps) == 6
    for path, steps in ((made[1], seen.steps[:3]), (made[2], seen.steps)):
        expected = by_hand(start, steps, **METHOD[method])
        for name, value in weights(path).items():
            torch.testing.assert_close(value, expected[name])


def test_weights_that_are_0_leave_nothing_of_their_part(data, tmp_path, start):
    def final(*overrides, attacks=1):
        name = f"{'-'.join(overrides)}{attacks}"
        sets = Marking(tmp_path / f"sets {name}", attacks)
        return run(data, tmp_path / name, start, sets, 1, *overrides)[-1]

    equation_1 = final("weight=0")
    assert same(equation_1, final("weight=0", "margin=5"))
    assert not same(equation_1, final("weight=0.7"))
    assert not same(equation_1, final("weight=0", "adversarial_weight=0.6"))
    assert not same(final("adversarial_weight=0"), final("weight=0", "adversarial_weight=0"))
    # Without either the adversarial images are nowhere in the loss: others make no difference.
    clean = ("weight=0", "adversarial_weight=0")
    assert same(final(*clean), final(*clean, attacks=3))


# Interruption.


class Stopped(Exception):
    pass


class Moments:
    """Steps, sets, checkpoints and results, before and after each: stops at the one given."""

    def __init__(self, monkeypatch):
        self.left = self.count = 0
        self.names = []
        for place, name in (
            (trainer.Trainer, "train_step"), (checkpoint, "save"), (trainer, "write_json"),
            (rounds, "_keep"),
        ):  # fmt: skip
            monkeypatch.setattr(place, name, self.watched(getattr(place, name)))

    def watched(self, function):
        def call(*arguments, **options):
            self.pass_by(f"before {function.__name__}")
            result = function(*arguments, **options)
            self.pass_by(f"after {function.__name__}")
            return result

        return call

    def pass_by(self, name):
        self.names.append(name)
        self.left -= 1
        if self.left == 0:
            raise Stopped


@pytest.mark.parametrize(
    ("more", "every"), [((), 3), (("ema=0.5", "optimizer=sgd"), 11)], ids=["adam", "average"]
)
def test_a_run_stopped_at_any_moment_goes_on_to_the_same_bits(
    more, every, data, tmp_path, start, monkeypatch
):
    other = network(tmp_path / "other.pt", data, seed=2)

    def call(name):
        sets = moments.watched(Marking(tmp_path / "sets" / name).__call__)
        torch.manual_seed(len(name))  # what was drawn before makes no difference
        return run(data, tmp_path / name, start, sets, 2, *more, others=[other])

    moments = Moments(monkeypatch)
    whole = call("whole")
    many = len(moments.names)
    assert set(moments.names) == {
        f"{when} {name}" for when in ("before", "after")
        for name in ("train_step", "save", "write_json", "_keep", "__call__")
    }  # fmt: skip
    for moment in range(1, many + 1, every):
        name = f"stopped at {moment}"
        moments.left = moment
        with pytest.raises(Stopped):
            call(name)
        made = call(name)
        assert all(same(*pair) for pair in zip(whole, made, strict=True)), moments.names[-1]
        first, second = (checkpoint.read(tmp_path / each / "last.pt") for each in ("whole", name))
        for place, state in first["optimizer"]["state"].items():
            for key, value in state.items():
                assert torch.equal(
                    torch.as_tensor(value),
                    torch.as_tensor(second["optimizer"]["state"][place][key]),
                )


@pytest.mark.parametrize("step", [2, 3, 4, 6])
def test_ctrl_c_in_a_round(step, data, tmp_path, start, sets, monkeypatch):
    whole = run(data, tmp_path / "whole", start, sets, 2)
    train_step, steps = trainer.Trainer.train_step, []

    def interrupted(self):
        train_step(self)
        steps.append(self.step)
        if len(steps) == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer.Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "run", start, sets, 2)
    assert checkpoint.read(tmp_path / "run" / "last.pt")["step"] == step == len(steps)
    made = run(data, tmp_path / "run", start, sets, 2)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert all(same(*pair) for pair in zip(whole, made, strict=True))


def test_more_rounds_go_on_and_fewer_are_the_first(data, tmp_path, start, sets, monkeypatch):
    whole = run(data, tmp_path / "whole", start, sets, 3)
    for count in (1, 2, 3):
        made = run(data, tmp_path / "run", start, sets, count)
        assert len(made) == count + 1
    assert all(same(*pair) for pair in zip(whole, made, strict=True))
    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained again"))
    sets = lambda *_: pytest.fail("attacked again")  # noqa: E731
    for count in (3, 2, 1, 0):
        assert run(data, tmp_path / "run", start, sets, count) == made[: count + 1]


# What is lost.


def forbidden(path, images):
    pytest.fail("attacked before it was known that the run cannot go on")


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_that_is_gone_while_the_run_went_on_is_named(number, data, tmp_path, start, sets):
    made = run(data, tmp_path / "run", start, sets, 3)
    made[number].unlink()
    with pytest.raises(RunError, match=rf"last\.pt must .* round-0{number}\.pt, got step 9"):
        run(data, tmp_path / "run", start, forbidden, 3)
    assert not made[number].exists()


def test_a_round_that_is_gone_while_the_next_is_under_way(data, tmp_path, start, sets, monkeypatch):
    first = run(data, tmp_path / "run", start, sets, 1)[1]
    moments = Moments(monkeypatch)
    moments.left = 4  # after the fourth step's checkpoint
    with pytest.raises(Stopped):
        run(data, tmp_path / "run", start, sets, 2)
    assert moments.names[-1] == "after save"
    assert checkpoint.read(tmp_path / "run" / "last.pt")["step"] == 4
    first.unlink()
    with pytest.raises(RunError, match=r"round-01\.pt"):
        run(data, tmp_path / "run", start, forbidden, 2)


def test_the_last_round_can_be_had_again(data, tmp_path, start, sets):
    made = run(data, tmp_path / "run", start, sets, 2)
    before = weights(made[2])
    made[2].unlink()
    again = weights(run(data, tmp_path / "run", start, sets, 2)[2])
    assert all(torch.equal(before[name], again[name]) for name in before)


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_whose_state_is_gone_does_not_begin_anew(count, data, tmp_path, start, sets):
    """Its rounds would be of f's start, not of the round before."""
    made = run(data, tmp_path / "run", start, sets, count)
    (tmp_path / "run" / "last.pt").unlink()
    assert run(data, tmp_path / "run", start, forbidden, count) == made
    with pytest.raises(RunError, match=rf"last\.pt must .* round-0{count + 1}\.pt, got step 0"):
        run(data, tmp_path / "run", start, forbidden, count + 1)


@pytest.mark.parametrize("steps", [2, 4])
def test_rounds_of_another_length_are_not_gone_on_with(steps, data, tmp_path, start, sets):
    run(data, tmp_path / "run", start, sets, 1)
    with pytest.raises(RunError, match=rf"round-01\.pt must be of step {steps}, got step 3"):
        run(data, tmp_path / "run", start, forbidden, 2, f"max_steps={steps}")


def test_another_recipe_is_not_gone_on_with(data, tmp_path, start, sets):
    run(data, tmp_path / "run", start, sets, 1)
    with pytest.raises(RunError, match=r"weight was 0\.7, is 0\.0"):
        run(data, tmp_path / "run", start, sets, 2, "weight=0")


# What is refused.


def test_arguments(data, tmp_path, start, sets, monkeypatch):
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        run(data, tmp_path / "run", start, sets, -1)
    with pytest.raises(ValueError, match="others must have one network or more without own"):
        run(data, tmp_path / "run", start, sets, 1, own=False)
    with pytest.raises(RunError, match="val_images must be below 30"):
        run(data, tmp_path / "run", start, sets, 1, "val_images=30")
    with pytest.raises(RunError, match="batch must be at most 20 training images, got 21"):
        run(data, tmp_path / "run", start, sets, 1, "batch=21")
    with pytest.raises(RunError, match=r"augment must be none for stored .*, got crop"):
        run(data, tmp_path / "run", start, sets, 1, "augment=crop_flip")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="one process, not under torchrun"):
        run(data, tmp_path / "run", start, sets, 1)


@pytest.mark.parametrize("count", [19, 30])
def test_stored_images_are_of_as_many_as_are_learned_from(count, data, tmp_path, start):
    """A set of all training images, the held-out ones among them, has other rows."""
    images = data.train.images[:count]
    mixture = Mixture([keep(tmp_path / "set", images, images, None)])
    with pytest.raises(RunError, match=f"stored must have 20 images .*, got {count}"):
        trainer.train(recipe(), data, tmp_path / "run", device="cpu", stored=Stored(mixture))
    assert not (tmp_path / "run").exists()


def test_a_set_stays_open_no_longer_than_its_round(data, tmp_path, start, monkeypatch):
    """A round's sets may be removed once the next has begun."""
    opened = []
    init = AdversarialSet.__init__

    def counted(self, path):
        init(self, path)
        opened.append(path)

    monkeypatch.setattr(adversarial_set.AdversarialSet, "__init__", counted)
    sets = Marking(tmp_path / "sets")

    def asked(path, images):
        for folder in opened:
            for file in folder.iterdir():
                file.write_bytes(b"")
            opened.remove(folder)
        return sets(path, images)

    run(data, tmp_path / "run", start, asked, 2)
