"""Votes of nearest neighbours and their retrieval, against loops over float64 distances."""

import math
from collections import Counter

import pytest
import torch
from helpers import matrix64, randn

from tla_ops.experiments import neighbours
from tla_ops.experiments.neighbours import knn_accuracy, retrieve

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("k", [1, 5, 200])
def test_accuracy_is_the_share_of_right_majorities(k):
    pytest.importorskip("sklearn")
    train, queries = randn(60, 5, seed=1), randn(40, 5, seed=2)
    train_labels = (train[:, 0] > 0).long() + (train[:, 1] > 1).long()
    labels = (queries[:, 0] > 0).long() + (queries[:, 1] > 1).long()
    right = 0
    for row, label in zip(matrix64(queries, train, "cosine"), labels.tolist(), strict=True):
        votes = Counter(train_labels[row.sort().indices[:k]].tolist())
        most = max(votes.values())
        right += min(c for c in votes if votes[c] == most) == label
    assert knn_accuracy(train, train_labels, queries, labels, k) == pytest.approx(right / 40)
    assert 0.2 < right / 40 < 1


def test_directions_vote_not_lengths():
    pytest.importorskip("sklearn")
    train = torch.tensor([[100.0, 1.0], [0.1, 0.1], [-1.0, 0.0]])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(train, torch.tensor([7, 1, 2]), query, torch.tensor([7]), k=1) == 1


def test_accuracy_without_images():
    pytest.importorskip("sklearn")
    some, none, labels = randn(3, 4), randn(0, 4), torch.arange(3)
    assert math.isnan(knn_accuracy(some, labels, none, labels[:0]))
    with pytest.raises(ValueError, match="train_features must have a row, got none"):
        knn_accuracy(none, labels[:0], some, labels)


@pytest.mark.parametrize("queries", [2, 256])
def test_the_nearest_come_first(queries, monkeypatch):
    monkeypatch.setattr(neighbours, "QUERIES", queries)
    query, pool = randn(5, 6, seed=3).double(), randn(30, 6, seed=4).double()
    distances = matrix64(query, pool, "angular")
    assert torch.equal(retrieve(query, pool, 30), distances.sort(1).indices)
    assert torch.equal(retrieve(query, pool, 9), distances.sort(1).indices[:, :9])


def test_ties_go_to_the_lowest_index():
    pool = randn(5, 8, seed=5).repeat(40, 1)
    first = retrieve(pool[:5], pool, 40)
    assert torch.equal(first, torch.arange(200).reshape(40, 5).T)


def test_a_broken_row_is_the_farthest():
    pool = randn(4, 3, seed=6)
    pool[1] = torch.nan
    found = retrieve(pool[:1], pool, 4)
    assert found[0, 0] == 0
    assert found[0, -1] == 1
    assert sorted(found[0].tolist()) == [0, 1, 2, 3]


def test_retrieval_of_nothing():
    assert retrieve(randn(0, 3), randn(4, 3), 2).shape == (0, 2)


@pytest.mark.parametrize("k", [0, 5])
def test_errors(k):
    with pytest.raises(ValueError, match=rf"k must be in \[1, 4\], got {k}"):
        retrieve(randn(2, 3), randn(4, 3), k)
    assert retrieve(randn(2, 3), randn(4, 3), 4).shape == (2, 4)
