"""The training loop: what it writes, and that interruption changes nothing."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from waiting import NoWaiting

pytest.importorskip("lightning", reason="the trainer stands on Lightning Fabric: extra [train]")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra [train]")

from tla_ops import cli
from tla_ops.training import checkpoint, trainer
from tla_ops.training.data import Dataset, load
from tla_ops.training.evaluate import accuracy
from tla_ops.training.image_set import ImageSet, hold_out
from tla_ops.training.recipe import METHODS, load_recipe
from tla_ops.training.run_parts import make_fabric

SMALL = (
    "max_steps=12", "attack_steps=2", "log_every=4", "val_every=6", "checkpoint_every=5",
    "batch=20", "val_images=40", "val_steps=2",
)  # fmt: skip
QUICK = [argument for key in SMALL for argument in ("--set", key)]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def recipe(name="digits-tla", *overrides):
    return load_recipe(name, [*SMALL, *overrides])


def rows(folder, without=("images_per_second",)):
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in without}
            for row in csv.DictReader(file)
        ]


def same(first, second, path=""):
    """Where two checkpoints differ, bit for bit; empty where they do not."""
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{path}: {first.keys() ^ second.keys()}"]
        # Of these a part is time, which is measured: of the row, the images a second.
        keys = [key for key in first if key not in ("row", "seconds")]
        return [text for key in keys for text in same(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, list | tuple):
        pairs = enumerate(zip(first, second, strict=True))
        return [text for at, pair in pairs for text in same(*pair, f"{path}[{at}]")]
    return [] if first == second else [f"{path}: {first} {second}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits):
    folder = tmp_path_factory.mktemp("run") / "a"
    return folder, trainer.train(recipe(), digits, folder, device="cpu")


def test_what_a_run_writes(finished):
    folder, result = finished
    assert {path.name for path in folder.iterdir()} >= {
        "best.pt", "last.pt", "metrics.csv", "result.json",
    }  # fmt: skip
    written = rows(folder)
    assert [row["step"] for row in written] == ["4", "6", "8", "12"]
    assert [bool(row["val_adversarial"]) for row in written] == [False, True, False, True]
    assert [bool(row["loss"]) for row in written] == [True, False, True, True]
    for row in written:
        if row["loss"]:
            assert 0 <= float(row["active"]) <= 1
            assert 0 <= float(row["positive_distance"]) <= 1
            assert 0 <= float(row["negative_distance"]) <= 1
    stored = json.loads((folder / "result.json").read_text())
    assert stored["step"] == result["step"] == 12
    assert stored["recipe"]["epsilon"] == "3/16"
    assert stored["images"] == {"train": 1437 - 40, "held_out": 40}
    assert stored["environment"]["torch"] == torch.__version__


def test_tensorboard_has_the_rows(finished):
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="extra [train]"
    )
    events = module.EventAccumulator(str(finished[0] / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val_adversarial")] == [6, 12]
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12]


def test_the_best_checkpoint_has_the_accuracy_it_was_chosen_for(finished, digits):
    folder, result = finished
    model, kept = checkpoint.read_model(folder / "best.pt")
    assert kept == recipe()
    assert not model.training
    _, held_out = hold_out(digits.train, 40, 0)
    clean = accuracy(model, held_out.images, held_out.labels)
    best = next(row for row in rows(folder) if row["step"] == str(result["best"]["step"]))
    assert clean == pytest.approx(float(best["val_clean"]))
    assert result["best"]["score"] == [float(best["val_adversarial"]), float(best["val_clean"])]


def test_an_undefended_model_is_chosen_by_clean_accuracy(tmp_path, digits, monkeypatch):
    scores = iter([0.5, 0.4, 0.6, 0.1])
    monkeypatch.setattr(trainer, "accuracy", lambda *_: next(scores))
    result = trainer.train(recipe("digits-um", "max_steps=12"), digits, tmp_path / "a")
    assert result["best"] == {"step": 12, "score": [0.6, 0.1]}


def test_equal_scores_keep_the_earlier_step(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(trainer, "accuracy", lambda *_: 0.5)
    result = trainer.train(recipe("digits-at"), digits, tmp_path / "a")
    assert result["best"] == {"step": 6, "score": [0.5, 0.5]}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method, tmp_path, digits):
    name = f"digits-{method.replace('_', '-')}"
    result = trainer.train(recipe(name, "max_steps=4"), digits, tmp_path / "a", device="cpu")
    assert torch.isfinite(torch.tensor(result["last"]["loss"]))
    triplets = method.startswith("tla") or method == "at2l"
    assert ("active" in result["last"]) == triplets


def test_training_learns(tmp_path, digits):
    result = trainer.train(
        recipe("digits-at", "max_steps=60", "learning_rate=2e-3"), digits, tmp_path / "a"
    )
    assert result["last"]["val_clean"] > 0.8


def test_held_out_and_test_images_are_never_trained_on(tmp_path, digits, monkeypatch):
    """Train on images that say by a pixel which part they are from."""
    seen = set()
    _, held_out = hold_out(digits.train, 40, 0)
    marks = {tuple(image.flatten().tolist()) for image in held_out.stored}
    marks |= {tuple(image.flatten().tolist()) for image in digits.test.stored}
    taken = ImageSet.batch

    def batch(self, *args, **options):
        made = taken(self, *args, **options)
        for part in (made.images, made.positives, made.candidates):
            seen.update(tuple(image.flatten().tolist()) for image in (part * 16).round().long())
        return made

    monkeypatch.setattr(ImageSet, "batch", batch)
    trainer.train(recipe("digits-tla", "epochs=1", "max_steps=null"), digits, tmp_path / "a")
    twice = {tuple(image.flatten().tolist()) for image in digits.train.stored} & marks
    assert len(seen) > 1000
    assert not (seen & marks) - twice


def test_an_epoch_takes_each_image_once(digits, tmp_path):
    fabric = make_fabric(recipe(), "cpu")
    run = trainer.Trainer(fabric, recipe(), digits, tmp_path, resume=False)
    epochs = []
    for _ in range(2):
        taken = []
        for _ in range(run.steps_per_epoch):
            rows, host_rows = run._rows()
            assert torch.equal(rows.cpu(), host_rows)
            taken += rows.tolist()
            run.step += 1
        assert len(set(taken)) == len(taken) == run.steps_per_epoch * 20
        epochs.append(taken)
    assert epochs[0] != epochs[1]


def test_schedule(digits, tmp_path):
    made = recipe("digits-um", "schedule={3: 0.1, 2: 0.5}", "schedule_unit=epochs")
    run = trainer.Trainer(make_fabric(made, "cpu"), made, digits, tmp_path, False)
    rates = []
    for epoch in range(5):
        run.step = epoch * run.steps_per_epoch
        rates.append(run._learning_rate())
    assert rates == [2e-3, 2e-3, 0.5, 0.1, 0.1]
    run.step = 3 * run.steps_per_epoch - 1
    assert run._learning_rate() == 0.5


def test_gradient_clipping_bounds_the_update(digits, tmp_path):
    made = recipe("digits-um", "optimizer=sgd", "momentum=0", "learning_rate=1", "grad_clip=1e-3")
    run = trainer.Trainer(make_fabric(made, "cpu"), made, digits, tmp_path, False)
    before = torch.cat([p.detach().clone().flatten() for p in run.model.parameters()])
    run.train_step()
    after = torch.cat([p.detach().flatten() for p in run.model.parameters()])
    assert (after - before).norm() == pytest.approx(1e-3, rel=1e-2)


def test_moving_average_is_what_is_kept(digits, tmp_path):
    made = recipe("digits-um", "ema=0.5", "max_steps=2", "val_every=2", "learning_rate=0.05")
    run = trainer.Trainer(make_fabric(made, "cpu"), made, digits, tmp_path / "b", False)
    states = []
    for _ in range(2):
        run.train_step()
        states.append(run.model.head.weight.detach().clone())
    trainer.train(made, digits, tmp_path / "a", device="cpu")
    model, _ = checkpoint.read_model(tmp_path / "a" / "best.pt")
    # The first step's weights are where the average starts.
    torch.testing.assert_close(model.head.weight, 0.5 * states[0] + 0.5 * states[1])
    last, _ = checkpoint.read_model(tmp_path / "a" / "last.pt")
    torch.testing.assert_close(last.head.weight, model.head.weight)


def test_training_starts_from_a_checkpoint(finished, digits, tmp_path):
    start = str(finished[0] / "best.pt")
    made = recipe("digits-um", f"init_from={start}")
    run = trainer.Trainer(make_fabric(made, "cpu"), made, digits, tmp_path, False)
    model, _ = checkpoint.read_model(finished[0] / "best.pt")
    assert torch.equal(run.model.head.weight, model.head.weight)


def test_bfloat16_trains(digits, tmp_path):
    made = recipe("digits-tla", "precision=bf16-mixed", "fast_attack=bfloat16", "max_steps=40")
    result = trainer.train(made, digits, tmp_path / "a", device="cpu")
    assert result["last"]["val_clean"] > 0.5
    model, _ = checkpoint.read_model(tmp_path / "a" / "last.pt")
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_attack_has_whole_images_whatever_the_steps_precision(digits, tmp_path):
    made = recipe("digits-at", "precision=bf16-mixed", "fast_attack=off", "epsilon=8/255")
    run = trainer.Trainer(make_fabric(made, "cpu"), made, digits, tmp_path, False)
    attack, seen = run.training_step.module.method.keywords["attack"], []

    def watched(model, images, labels):
        adversarial = attack(model, images, labels)
        seen.append((images, adversarial))
        return adversarial

    run.training_step.module.method.keywords["attack"] = watched
    run.train_step()
    ((images, adversarial),) = seen
    assert images.dtype == adversarial.dtype == torch.float32
    assert torch.equal(images * 16, (images * 16).round())  # the digits' grey levels, unrounded
    assert 0.03 < (adversarial - images).abs().max() <= 8 / 255 + 1e-7


def test_a_bank_is_fed_and_used(digits, tmp_path):
    made = recipe("digits-tla", "bank=64", "candidates=0")
    run = trainer.Trainer(make_fabric(made, "cpu"), made, digits, tmp_path, False)
    run.training_step.train()
    for filled in (20, 40, 60, 64, 64):
        run.train_step()
        assert len(run.bank) == filled
    sums = run.meter.sums.tolist()
    assert sums[0] == 5
    assert sums[2] == 80  # anchors with a negative: none in front of the empty bank


@pytest.mark.parametrize(
    "more", [(), ("bank=64", "candidates=0"), ("fast_attack=bfloat16",), ("grad_clip=1",)]
)
def test_a_step_never_waits_for_the_device(more, digits, tmp_path):
    made = recipe("digits-tla", "optimizer=sgd", *more)  # adam counts its steps on the host
    run = trainer.Trainer(make_fabric(made, "cpu"), made, digits, tmp_path, False)
    run.training_step.train()
    run.train_step()  # sets up the twin and the epoch's order
    with NoWaiting():
        run.train_step()
    assert run.step == 2


# interruption


@pytest.mark.parametrize(
    "more", [(), ("bank=64", "candidates=0", "ema=0.9"), ("optimizer=sgd", "learning_rate=.05")]
)
def test_a_resumed_run_has_the_same_bits(more, digits, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer.train(recipe("digits-tla", *more), digits, whole, device="cpu")
    for steps in (3, 7, 8):
        torch.manual_seed(steps)  # what the process has drawn before makes no difference
        shorter = recipe("digits-tla", *more, f"max_steps={steps}")
        trainer.train(shorter, digits, parts, resume=True, device="cpu")
    trainer.train(recipe("digits-tla", *more), digits, parts, resume=True, device="cpu")
    first, second = (checkpoint.read(folder / "last.pt") for folder in (whole, parts))
    # The shorter runs validated at their ends, too, which may have been the best there was.
    assert not same(first["model"], second["model"])
    assert not same(first["optimizer"], second["optimizer"])
    assert not same(first["ema"], second["ema"])
    assert not same(first["banks"], second["banks"])


def test_seconds_are_those_of_the_steps_that_count(digits, tmp_path, monkeypatch):
    """In pieces, and without what was lost when one was killed between two checkpoints."""
    clock, take = [100.0], trainer.Trainer.train_step
    monkeypatch.setattr("tla_ops.training.trainer.time.perf_counter", lambda: clock[0])

    def slow(self):
        take(self)
        clock[0] += 1
        if (self.step, clock[0]) == (3, 103):
            raise SystemExit("killed")

    monkeypatch.setattr(trainer.Trainer, "train_step", slow)
    pieces = recipe("digits-tla", "checkpoint_every=2", "max_steps=4", "val_images=0")
    with pytest.raises(SystemExit, match="killed"):
        trainer.train(pieces, digits, tmp_path, device="cpu")
    assert checkpoint.read(tmp_path / "last.pt")["seconds"] == 2
    clock[0] += 1000  # between the pieces
    result = trainer.train(pieces, digits, tmp_path, resume=True, device="cpu")
    assert result["seconds"] == 4
    assert trainer.train(pieces, digits, tmp_path, resume=True, device="cpu")["seconds"] == 4
    kept = checkpoint.read(tmp_path / "last.pt")
    del kept["seconds"]
    checkpoint.save(tmp_path / "last.pt", kept)
    longer = recipe("digits-tla", "checkpoint_every=2", "max_steps=6", "val_images=0")
    assert trainer.train(longer, digits, tmp_path, resume=True, device="cpu")["seconds"] is None


KILLED = """
import os, signal, sys
from tla_ops.training import trainer
left = int(sys.argv.pop(1))

def counted(function):
    def call(*args, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **options)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

trainer.Trainer.train_step = counted(trainer.Trainer.train_step)
os.replace = counted(os.replace)
from tla_ops.cli import main
sys.exit(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_random_moments_resumes_to_the_same_numbers(seed, tmp_path):
    """SIGKILL before or after steps and renames that are drawn, until the run is done."""
    options = ["digits-tla", *QUICK, "--set", "max_steps=20", "--set", "checkpoint_every=3"]
    moments = random.Random(seed)

    def start(folder, moment):
        main = [sys.executable, "-c", KILLED, str(moment), "train", *options, "--device", "cpu"]
        command = [*main, "--resume", "--output", str(folder)]
        return subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=120)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, 0).returncode == 0
    reached = []
    for _ in range(3):
        assert start(killed, moments.randint(9, 25)).returncode == -signal.SIGKILL
        path = killed / "last.pt"
        reached.append(checkpoint.read(path)["step"] if path.exists() else 0)
    assert 0 < reached[-1] < 20
    assert start(killed, 0).returncode == 0
    for name in ("last.pt", "best.pt"):
        first, second = (checkpoint.read(folder / name) for folder in (whole, killed))
        assert not same(first, second)
    assert rows(whole) == rows(killed)
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_checkpoint_of_the_last_step(number, tmp_path):
    options = ["digits-tla", *QUICK, "--set", "max_steps=100000", "--set", "checkpoint_every=99999"]
    command = [sys.executable, "-m", "tla_ops", "train", *options, "--output", str(tmp_path / "a")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    csv_file = tmp_path / "a" / "metrics.csv"
    until = time.monotonic() + 60
    while not (csv_file.exists() and len(rows(tmp_path / "a")) > 2):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert f"interrupted, what was finished is in {tmp_path / 'a'}" in err
    assert "Traceback" not in err
    kept = checkpoint.read(tmp_path / "a" / "last.pt")
    assert kept["step"] >= int(rows(tmp_path / "a")[-1]["step"])


def test_an_output_with_a_run_is_not_overwritten(finished, digits, capsys):
    folder = finished[0]
    before = (folder / "last.pt").read_bytes()
    with pytest.raises(trainer.RunError, match="holds a run: resume it"):
        trainer.train(recipe(), digits, folder)
    assert cli.main(["train", "digits-tla", *QUICK, "--output", str(folder)]) == 1
    assert "holds a run" in capsys.readouterr().err
    assert (folder / "last.pt").read_bytes() == before


def test_resuming_another_recipe_says_what_differs(finished, digits):
    with pytest.raises(trainer.RunError, match=r"margin was 0\.05, is 0\.5"):
        trainer.train(recipe("digits-tla", "margin=0.5"), digits, finished[0], resume=True)
    with pytest.raises(trainer.RunError, match="method was 'tla', is 'at'"):
        trainer.train(recipe("digits-at"), digits, finished[0], resume=True)


def test_resuming_on_other_images_is_refused(finished, digits):
    others = Dataset("digits", digits.train.subset(torch.arange(1400)), digits.test, 10)
    with pytest.raises(trainer.RunError, match="the training images are others"):
        trainer.train(recipe(), others, finished[0], resume=True)


def test_resuming_from_weights_alone_is_refused(finished, digits, tmp_path):
    (tmp_path / "last.pt").write_bytes((finished[0] / "best.pt").read_bytes())
    with pytest.raises(checkpoint.CheckpointError, match=r"weights alone, as best\.pt"):
        trainer.train(recipe(), digits, tmp_path, resume=True)


@pytest.mark.parametrize("name", ["metrics.csv", "result.json", "best.pt"])
def test_an_output_with_somebody_elses_files_is_left_alone(name, digits, tmp_path):
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(trainer.RunError, match="holds a run"):
        trainer.train(recipe(), digits, tmp_path)
    if name == "metrics.csv":
        with pytest.raises(ValueError, match="not the curves of a run"):
            trainer.train(recipe(), digits, tmp_path, resume=True)
    assert (tmp_path / name).read_text() == "a,b\n1,2\n"


def test_a_loss_that_is_lost_stops_the_run(digits, tmp_path, capsys):
    made = recipe("digits-tla", "learning_rate=1e18", "checkpoint_every=2", "max_steps=40")
    with pytest.raises(trainer.RunError, match=r"the loss is (nan|inf) by step"):
        trainer.train(made, digits, tmp_path / "a", device="cpu")
    arguments = ["train", "digits-tla", *QUICK, "--set", "learning_rate=1e18", "--device", "cpu"]
    assert cli.main([*arguments, "--output", str(tmp_path / "b")]) == 1
    assert "the loss is" in capsys.readouterr().err


def test_validation_attacks_in_the_norm_of_training(digits, tmp_path, monkeypatch):
    seen = []

    def watched(*args, **options):
        seen.append(options["norm"])
        return args[1]

    monkeypatch.setattr(trainer, "pgd", watched)
    made = recipe("digits-at", "attack_norm=l2", "max_steps=2")
    trainer.train(made, digits, tmp_path / "a", device="cpu")
    assert seen == ["l2"]


def test_what_an_unfinished_start_left_is_not_this_runs(digits, tmp_path):
    """A run that was killed before its first checkpoint left a best model and half a file."""
    (tmp_path / "best.pt").write_text("of another run")
    (tmp_path / ".last.pt.abc").write_text("half")
    made = recipe("digits-um", "val_images=0", "max_steps=2")
    trainer.train(made, digits, tmp_path, resume=True, device="cpu")
    assert {path.name for path in tmp_path.glob("*.pt*")} == {"last.pt"}


def test_resuming_needs_the_start_no_more(finished, digits, tmp_path):
    start = tmp_path / "start.pt"
    start.write_bytes((finished[0] / "best.pt").read_bytes())
    more = f"init_from={start}"
    trainer.train(recipe("digits-um", more, "max_steps=2"), digits, tmp_path / "a", device="cpu")
    start.unlink()
    made = recipe("digits-um", more, "max_steps=3", "eval_steps.pgd=7", "eval_step=1/9")
    assert trainer.train(made, digits, tmp_path / "a", resume=True, device="cpu")["step"] == 3


def test_resuming_a_finished_run_leaves_it_as_it_is(finished, digits, capsys):
    folder = finished[0]
    before = {path.name: path.read_bytes() for path in folder.glob("*.[pc]*")}
    arguments = ["train", "digits-tla", *QUICK, "--output", str(folder), "--resume", "--json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 12
    assert {path.name: path.read_bytes() for path in folder.glob("*.[pc]*")} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "damaged"), (b"PK\x03\x04 cut", "not a checkpoint"), (None, "format 1")],
)
def test_a_file_that_is_no_checkpoint(content, message, tmp_path):
    path = tmp_path / "x.pt"
    if content is None:
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.read(path)


def test_reading_a_checkpoint_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"format": 1, "model": Bomb()}, tmp_path / "x.pt")
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.read(tmp_path / "x.pt")
    assert not (tmp_path / "exploded").exists()


def test_sizes_that_do_not_fit(digits, tmp_path):
    few = Dataset("digits", digits.train.subset(torch.arange(50)), digits.test, 10)
    with pytest.raises(trainer.RunError, match="batch must be at most 10 training images, got 20"):
        trainer.train(recipe(), few, tmp_path / "a")
    with pytest.raises(trainer.RunError, match="val_images must be below 50 training images"):
        trainer.train(replace(recipe(), val_images=50), few, tmp_path / "a")
    with pytest.raises(trainer.RunError, match="candidates must be at most 10 training images"):
        trainer.train(replace(recipe(), batch=2), few, tmp_path / "a")
    wrong = {
        "model=lenet": r"model lenet for images \(1, 8, 8\): lenet: image_shape must be",
        "model_options.depth=3": "options of small must be one of dim, got 'depth'",
        "model_options.dim=wide": "model small for images",
        "augment=crop_flip_colour": "augment must not be crop_flip_colour",
    }
    for override, message in wrong.items():
        with pytest.raises(trainer.RunError, match=message):
            trainer.train(recipe("digits-tla", override), digits, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_without_held_out_images(digits, tmp_path):
    result = trainer.train(recipe("digits-at", "val_images=0"), digits, tmp_path / "a")
    assert result["images"] == {"train": 1437, "held_out": 0}
    assert result["best"]["step"] == 0
    assert not (tmp_path / "a" / "best.pt").exists()


def test_two_processes_take_the_step_of_one(tmp_path):
    """Without batch normalisation, and without draws of their own, ranks share one gradient."""
    options = ["train", "digits-um", *QUICK, "--device", "cpu"]
    for key in ("model=mlp", "model_options.hidden=[16]", "optimizer=sgd", "learning_rate=0.1"):
        options += ["--set", key]
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main([*options, "--output", str(one)]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "tla_ops", *options, "--output", str(two), "--json"],
        capture_output=True, text=True, timeout=180, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == 2  # and one process alone has printed
    first, second = (checkpoint.read(folder / "last.pt") for folder in (one, two))
    assert second["world_size"] == 2
    for name, weights in first["model"].items():
        torch.testing.assert_close(second["model"][name], weights, rtol=1e-5, atol=1e-6)
    for a, b in zip(rows(one), rows(two), strict=True):
        assert float(a["loss"] or 0) == pytest.approx(float(b["loss"] or 0), rel=1e-5)
