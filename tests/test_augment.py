"""Augmentation: each image one of the naive loop's outcomes, drawn on its own and evenly."""

import pytest
import torch
from chance import chi_square

from tla_ops.training.augment import AUGMENT, crop_flip, crop_flip_colour, jitter

GREY = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def outcomes(image, padding):
    """All crops of one image (C, H, W), by top, left and flip: the naive way."""
    height, width = image.shape[1:]
    padded = torch.zeros(len(image), height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    places = range(2 * padding + 1)
    crops = [padded[:, y : y + height, x : x + width] for y in places for x in places]
    return torch.stack([part for crop in crops for part in (crop, crop.flip(2))])


@pytest.mark.parametrize(("padding", "shape"), [(2, (3, 8, 8)), (1, (1, 5, 7)), (0, (2, 4, 4))])
def test_every_image_is_one_of_its_crops_and_all_are_equally_likely(padding, shape):
    images = torch.rand(5, *shape, generator=generator(1))
    copies = 1000
    batch = images.repeat(copies, 1, 1, 1)
    before = batch.clone()
    result = crop_flip(batch, generator(), padding=padding).view(copies, 5, *shape)
    assert torch.equal(batch, before)
    picks = []
    for index, image in enumerate(images):
        naive = outcomes(image, padding)
        same = (result[:, index, None] == naive).flatten(2).all(2)
        assert (same.sum(1) == 1).all()
        picks.append(same.long().argmax(1))
        counts = torch.bincount(picks[-1], minlength=len(naive)).double()
        assert chi_square(counts) > 1e-3
    # Images of a batch do not share their draw.
    shared = (picks[0] == picks[1]).double().mean().item()
    assert shared == pytest.approx(1 / len(naive), abs=4 * (0.25 / copies) ** 0.5)


def test_the_default_is_madrys():
    images = torch.rand(200, 3, 32, 32, generator=generator(1))
    assert torch.equal(crop_flip(images, generator()), crop_flip(images, generator(), padding=2))
    edges = [(crop_flip(images, generator())[..., :width, :] == 0) for width in (2, 3)]
    assert [edge.all(dim=(1, 2, 3)).any().item() for edge in edges] == [True, False]


@pytest.mark.parametrize("factors", [(0.0, 1.0), (1.0, 1.0), (2.0, 0.5), (0.5, 1.7), (1.0, 0.0)])
def test_jitter_by_known_factors_equals_the_loop(factors):
    images = torch.rand(6, 3, 5, 4, generator=generator())
    saturation, brightness = factors
    result = jitter(images, saturation=(saturation,) * 2, brightness=(brightness,) * 2)
    for image, got in zip(images, result, strict=True):
        grey = (image * GREY).sum(0, keepdim=True)
        expected = (grey + saturation * (image - grey)).clamp(0, 1)
        torch.testing.assert_close(got, (brightness * expected).clamp(0, 1))


@pytest.mark.parametrize("name", ["saturation", "brightness"])
def test_jitter_draws_a_factor_an_image_evenly_from_its_range(name):
    low, high = 0.5, 1.5
    images = 0.4 + 0.2 * torch.rand(4000, 3, 2, 2, generator=generator(1))  # nothing is clamped
    ranges = {"saturation": (1.0, 1.0), "brightness": (1.0, 1.0), name: (low, high)}
    result = jitter(images, generator(), **ranges)
    if name == "saturation":
        grey = (images * GREY).sum(1, keepdim=True)
        images, result = images - grey, result - grey
    factor = (images * result).sum((1, 2, 3)) / images.square().sum((1, 2, 3))
    torch.testing.assert_close(result, factor[:, None, None, None] * images, rtol=0, atol=1e-5)
    assert factor.min() >= low - 1e-3
    assert factor.max() <= high + 1e-3
    counts = torch.histc((factor - low) / (high - low), 20, 0, 1).double()
    assert chi_square(counts) > 1e-3


def test_colour_is_crop_and_flip_then_jitter():
    images = torch.rand(50, 3, 16, 16, generator=generator(1))
    plain = {"saturation": (1.0, 1.0), "brightness": (1.0, 1.0)}
    cropped = crop_flip(images, generator(), padding=4)
    torch.testing.assert_close(crop_flip_colour(images, generator(), **plain), cropped)
    result = crop_flip_colour(images, generator())
    assert result.min() >= 0
    assert result.max() <= 1
    assert ((cropped == 0).all(1, keepdim=True) <= (result == 0)).all()  # padding stays black
    assert (result - cropped).abs().amax((1, 2, 3)).gt(0.01).float().mean() > 0.9


@pytest.mark.parametrize("name", AUGMENT)
def test_registry(name, device):
    augment, images = AUGMENT[name], torch.rand(9, 3, 8, 8, device=device)
    if augment is None:
        assert name == "none"
        return
    first, again, other = (augment(images, generator(seed, device)) for seed in (0, 0, 1))
    assert first.shape == images.shape
    assert (first.dtype, first.device) == (images.dtype, images.device)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert augment(images[:0], None).shape == (0, 3, 8, 8)


def test_bad_options():
    images = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="crop_flip: padding"):
        crop_flip(images, padding=-1)
    with pytest.raises(ValueError, match=r"jitter: images must be \(N, 3, H, W\)"):
        crop_flip_colour(images)
    for bounds in ((1.0, 0.5), (-0.1, 1.0)):
        with pytest.raises(ValueError, match="jitter: brightness"):
            jitter(images.expand(2, 3, 4, 4), saturation=(1.0, 1.0), brightness=bounds)
