"""Bad input: ValueError or TypeError before anything runs: function, argument, expected, got."""

import re

import numpy
import pytest
import torch
from helpers import make_problem

import tla_ops

B, M, D = 6, 10, 4
A = make_problem(B, M, D, K=2)


def f(*shape, **kwargs):
    return torch.zeros(*shape, **kwargs)


def y(*shape, dtype=torch.int64, **kwargs):
    return torch.zeros(*shape, dtype=dtype, **kwargs)


CALLS = {
    "triplet_adv_loss": (
        tla_ops.triplet_adv_loss, {**A._asdict(), "target_labels": y(B), "exclude": y(B)}
    ),
    "mine_negatives": (
        tla_ops.mine_negatives,
        {**A._asdict(), "mining": "semihard", "target_labels": y(B), "exclude": y(B)},
    ),
    "mine_positives": (
        tla_ops.mine_positives,
        {**{k: v for k, v in A._asdict().items() if k != "positive"}, "exclude": y(B)},
    ),
    "triplet_loss": (
        tla_ops.triplet_loss, {"anchor": f(B, D), "positive": f(B, 2, D), "negative": f(B, D)}
    ),
    "batch_hard_triplet_loss": (
        tla_ops.batch_hard_triplet_loss, {"embeddings": f(B, D), "labels": y(B), "margin": 0.1}
    ),
    "cdist": (tla_ops.cdist, {"x1": f(B, D), "x2": f(M, D)}),
}  # fmt: skip

WRONG_SHAPES = {
    "anchor": [f(B), f(B, D, 1), f(B, 0), f(B + 1, D), f(B, D + 1), f(())],
    "positive": [
        f(B),
        f(B + 1, D),
        f(B, D + 1),
        f(B, 2, D + 1),
        f(B + 1, 2, D),
        f(B, 1, 1, D),
        f(B, 0),
    ],
    "candidates": [f(M), f(M, D + 1), f(M + 1, D), f(M, 1, D), f(M, 0)],
    "negative": [f(B), f(B + 1, D), f(B, D + 1), f(B, 1, D)],
    "labels": [y(B + 1), y(B - 1), y(B, 1), y(()), y(1)],
    "candidate_labels": [y(M + 1), y(M - 1), y(M, 1), y(()), y(0), y(1)],
    "target_labels": [y(B + 1), y(B, 1), y(()), y(1)],
    "exclude": [y(B + 1), y(B, 1), y(()), y(1)],
    "embeddings": [f(B), f(B, D, 1), f(B, 0), f(B + 1, D)],
    "x1": [f(D), f(B, D + 1), f(B, 0)],
    "x2": [f(D), f(M, D + 1), f(M, 0)],
}
LABELS = {"labels", "candidate_labels", "target_labels", "exclude"}
OTHER_SIDE = {  # a row count or width that two arguments share: either may be named
    "anchor": "anchor|positive|candidates|negative|labels", "embeddings": "embeddings|labels",
    "x1": "x1|x2", "candidates": "candidates|candidate_labels",
}  # fmt: skip


def cases(table):
    for name, (_, arguments) in CALLS.items():
        for argument in arguments:
            for value in table(argument):
                shape = getattr(value, "shape", None)
                label = tuple(shape) if shape is not None else type(value).__name__
                tag = f"{name}-{argument}-{label}-{getattr(value, 'dtype', '')}"
                yield pytest.param(name, argument, value, id=tag.replace(" ", ""))


def call(name, **changes):
    function, arguments = CALLS[name]
    return function(**{**arguments, **changes})


@pytest.mark.parametrize("name", list(CALLS))
def test_the_calls_are_good_to_begin_with(name):
    call(name)


@pytest.mark.parametrize(
    ("name", "argument", "value"), list(cases(lambda a: WRONG_SHAPES.get(a, [])))
)
def test_wrong_shapes(name, argument, value):
    with pytest.raises(ValueError) as error:
        call(name, **{argument: value})
    text = str(error.value)
    assert text.startswith(f"{name}: ")
    assert re.search(OTHER_SIDE.get(argument, argument), text)
    assert " got " in text


def wrong_dtypes(argument):
    if argument in LABELS:
        size = M if argument == "candidate_labels" else B
        return [
            y(size, dtype=d) for d in (torch.bool, torch.float32, torch.float64, torch.complex64)
        ]
    if argument not in WRONG_SHAPES:
        return []
    shape = {"candidates": (M, D), "x2": (M, D)}.get(argument, (B, D))
    return [f(*shape, dtype=d) for d in (torch.int64, torch.bool, torch.complex64, torch.uint8)]


@pytest.mark.parametrize(("name", "argument", "value"), list(cases(wrong_dtypes)))
def test_wrong_dtypes(name, argument, value):
    with pytest.raises(TypeError, match=f"^{name}: {argument} .*got .*{value.dtype}"):
        call(name, **{argument: value})


def not_tensors(argument):
    if argument not in WRONG_SHAPES:
        return []
    numbers = [[0.0] * D] * B if argument not in LABELS else [0] * B
    return [numbers, numpy.array(numbers), "features", 3]


@pytest.mark.parametrize(("name", "argument", "value"), list(cases(not_tensors)))
def test_not_a_tensor(name, argument, value):
    with pytest.raises(TypeError, match=f"^{name}: {argument} .*got"):
        call(name, **{argument: value})


@pytest.mark.parametrize(
    ("name", "argument"),
    [(n, a) for n, (_, args) in CALLS.items() for a in args if a in WRONG_SHAPES],
)
def test_wrong_devices(name, argument):
    """The meta device is a second device that every machine has."""
    value = CALLS[name][1][argument].to("meta")
    named = OTHER_SIDE.get(argument, argument)
    with pytest.raises((ValueError, TypeError), match=f"^{name}: .*({named}).*got") as error:
        call(name, **{argument: value})
    assert "meta" in str(error.value)
    assert "cpu" in str(error.value)


KNOWN = {
    "metric": ["angular", "cosine", "euclidean", "chebyshev", "linf"],
    "mining": ["hardest", "semihard", "random"],
    "positive_mining": ["hardest", "easiest", "random"],
    "norm": ["l2", "mean_square"],
    "reduction": ["mean", "sum", "none"],
    "precision": ["exact", "fast"],
}
TAKES = {
    "triplet_adv_loss": ["metric", "mining", "norm", "reduction", "precision"],
    "mine_negatives": ["metric", "mining", "precision"],
    "mine_positives": ["metric", "precision"],
    "triplet_loss": ["metric", "norm", "reduction"],
    "batch_hard_triplet_loss": [*KNOWN],
    "cdist": ["metric"],
}


@pytest.mark.parametrize(
    ("name", "argument"), [(n, a) for n, names in TAKES.items() for a in names]
)
@pytest.mark.parametrize("value", ["", "Hardest", "manhattan", 3])
def test_unknown_names_list_the_known(name, argument, value):
    with pytest.raises((ValueError, TypeError), match=f"^{name}: {argument} ") as error:
        call(name, **{argument: value})
    assert repr(value) in str(error.value)
    assert all(known in str(error.value) for known in KNOWN[argument])


@pytest.mark.parametrize("argument", ["metric", "mining", "norm", "reduction"])
def test_none_is_no_name(argument):
    with pytest.raises((ValueError, TypeError), match=argument):
        call("triplet_adv_loss", **{argument: None})


def test_positives_are_not_mined_semihard():
    with pytest.raises(ValueError, match=r"^mine_positives: mining .*easiest"):
        call("mine_positives", mining="semihard")
    with pytest.raises(ValueError, match=r"^mine_negatives: mining .*semihard"):
        call("mine_negatives", mining="easiest")


def test_semihard_needs_a_positive():
    with pytest.raises(ValueError, match=r"^mine_negatives: positive .*semihard"):
        call("mine_negatives", positive=None)


LOSSES = ["triplet_adv_loss", "triplet_loss", "batch_hard_triplet_loss"]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("argument", ["margin", "weight", "norm_weight"])
def test_scalars(name, argument):
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=f"^{name}: {argument} .*got .*(nan|inf)"):
            call(name, **{argument: value})
    for value in ("0.1", None, [0.1], True):
        with pytest.raises(TypeError, match=f"^{name}: {argument} .*got"):
            call(name, **{argument: value})


@pytest.mark.parametrize("name", LOSSES)
def test_any_finite_number_is_a_scalar(name):
    """Negative margins and weights are allowed, as are integers and NumPy's numbers."""
    for value in (-0.5, 0, 3, numpy.float64(0.25), numpy.float32(0.25)):
        call(name, margin=value, weight=value, norm_weight=value)


@pytest.mark.parametrize("name", ["triplet_adv_loss", "mine_negatives", "mine_positives"])
def test_generator_must_be_one(name):
    with pytest.raises(TypeError, match=f"^{name}: generator .*got int"):
        call(name, mining="random", generator=3)


def test_the_texts_of_the_design():
    a, p, c, labels = f(50, 640), f(50, 640), f(500, 512), y(50)
    with pytest.raises(ValueError) as error:
        tla_ops.triplet_adv_loss(a, p, c, labels, y(500))
    assert str(error.value) == (
        "triplet_adv_loss: candidates must be (M, 640) to match anchor (50, 640), got (500, 512)"
    )


def test_nothing_is_drawn_before_the_checks():
    before = torch.get_rng_state()
    with pytest.raises(ValueError):
        call("triplet_adv_loss", mining="random", reduction="median")
    assert torch.equal(torch.get_rng_state(), before)


def test_options_are_keywords():
    with pytest.raises(TypeError):
        tla_ops.triplet_adv_loss(*A, 0.03)
    with pytest.raises(TypeError):
        tla_ops.cdist(f(2, 3), f(2, 3), "cosine")
    with pytest.raises(TypeError, match="unexpected"):
        tla_ops.triplet_loss(f(2, 3), f(2, 3), f(2, 3), sparse_grad=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_generator_of_another_device_is_named():
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)generator|meta|cuda"):
        call("triplet_adv_loss", generator=torch.Generator("meta"), mining="random")
