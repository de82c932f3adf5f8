"""Accuracy under attacks, and the geometry of triplets."""

import pytest
import torch

from tla_ops.training.evaluate import summary, triplet_statistics
from tla_ops.training.models import small


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small work on few cores: threads that wait for each other would cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits():
    pytest.importorskip("sklearn")
    from tla_ops.training.data import digits

    return digits(seed=0)


def test_triplet_statistics(splits):
    data = splits.validation
    model = small().eval()
    result = triplet_statistics(model, data.images, data, 0.1, torch.Generator().manual_seed(0))
    assert 0 <= result.active <= 1
    assert 0 < result.negative_distance < result.positive_distance < 1
    distances = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.35, torch.inf, 0.45])
    found = summary(*distances, 0.1)
    assert found == pytest.approx((1 / 3, 0.2, 0.4))
