"""Which streams move batch normalisation's running statistics."""

import copy

import pytest
import torch
from test_methods import TLA, shifted, some_batch, twins
from torch import nn

from tla_ops import FeatureBank
from tla_ops.training import methods, steps
from tla_ops.training.recipe import RecipeError, load_recipe

METHODS = {
    "tla": (methods.tla, TLA),
    "tla with two positives": (methods.tla, TLA | {"source_positive": True}),
    "tla_rn": (methods.tla_rn, TLA),
    "tla_sa": (methods.tla_sa, TLA),
    "alp": (methods.alp, {"weight": 0.5}),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def taken(model, name, statistics, **more):
    """The loss, the gradients and the running statistics of one step."""
    method, options = METHODS[name]
    if "rn" in name:
        more |= {"generator": torch.Generator().manual_seed(3)}
    loss = method(
        model, some_batch(), attack=shifted, statistics=statistics, **options, **more
    ).loss
    loss.backward()
    return loss, [p.grad for p in model.parameters()], running(model)


def running(model):
    return {key: value.clone() for key, value in model.named_buffers()}


@pytest.mark.parametrize("name", METHODS)
def test_adversarial_images_alone_are_counted(name):
    model, other = twins()
    batch = some_batch()
    _, _, found = taken(model, name, "adversarial")
    other(shifted(other, batch.images, batch.labels))
    expected = running(other)
    assert any("num_batches_tracked" in key for key in expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradients_are_those_of_plain_forward_calls(name):
    model, other = twins()
    loss, gradients, found = taken(model, name, "adversarial")
    expected, theirs, all_streams = taken(other, name, "all")
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients, theirs, rtol=0, atol=0)
    assert not torch.equal(found["body.1.running_mean"], all_streams["body.1.running_mean"])


def test_with_a_bank():
    model, other = twins()
    batch = some_batch()
    bank = FeatureBank(8, model.head.in_features)
    taken(model, "tla", "adversarial", bank=bank)
    other(shifted(other, batch.images, batch.labels))
    for key, value in running(other).items():
        assert torch.equal(running(model)[key], value), key


def test_in_eval_mode_nothing_is_counted_or_changed():
    model, _ = twins(training=False)
    before = running(model)
    taken(model, "tla", "adversarial")
    for key, value in before.items():
        assert torch.equal(running(model)[key], value), key


def test_every_layer_gets_its_own_setting_back():
    model = nn.Sequential(
        nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2)
    )
    model[2].eval()
    settings = [module.track_running_stats for module in model]
    with steps.clean_streams(model, "adversarial"):
        assert [module.track_running_stats for module in model] == [False, False, True]
    assert [module.track_running_stats for module in model] == settings
    with pytest.raises(ValueError, match="torn"), steps.clean_streams(model, "adversarial"):
        raise ValueError("torn")
    assert [module.track_running_stats for module in model] == settings


def test_all_streams_are_the_default():
    model, other = twins()
    third = copy.deepcopy(other)
    _, _, found = taken(model, "tla", "all")
    methods.tla(other, some_batch(), attack=shifted, **TLA)
    for key, value in running(other).items():
        assert torch.equal(found[key], value), key
    third(some_batch().images)
    assert found["body.1.num_batches_tracked"] == 3
    assert running(third)["body.1.num_batches_tracked"] == 1


@pytest.mark.parametrize("name", METHODS)
def test_unknown_statistics(name):
    with pytest.raises(ValueError, match="statistics must be one of all, adversarial, got 'none'"):
        taken(twins()[0], name, "none")


def test_a_recipe_has_it_by_name():
    pytest.importorskip("yaml", reason="recipes are YAML files: extra [train]")
    recipe = load_recipe("mnist-tla", ["statistics=adversarial"])
    assert recipe.options["statistics"] == "adversarial"
    with pytest.raises(RecipeError, match="statistics must be one of all, adversarial"):
        load_recipe("mnist-tla", ["statistics=clean"])
    with pytest.raises(RecipeError, match="unknown key statistics"):
        load_recipe("mnist-at", ["statistics=all"])
