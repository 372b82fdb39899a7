from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini import hungarian, matching
from detr_mini.boxes import cxcywh_to_xyxy, giou


def predictions(layers=3, batch=2, queries=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, batch, queries, classes + 1, generator=generator)
    boxes = torch.rand(layers, batch, queries, 4, generator=generator) * 0.4 + 0.1
    return logits, boxes


def target(count: int, classes=4, seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=generator) * 0.4 + 0.1
    return {"boxes": boxes, "labels": torch.randint(0, classes, (count,), generator=generator)}


def padded(targets):
    return matching.pad_targets(targets, torch.device("cpu"))


def test_cost_term_by_term():
    logits, boxes = predictions()
    targets = [target(3, seed=1), target(2, seed=2)]
    weights = matching.Weights(label=1.0, l1=5.0, giou=2.0)
    cost = matching.cost(logits, boxes, padded(targets), weights)
    for layer in range(3):
        for image, wanted in enumerate(targets):
            for q in range(6):
                for t in range(len(wanted["labels"])):
                    probability = logits[layer, image, q].softmax(-1)[wanted["labels"][t]]
                    l1 = (boxes[layer, image, q] - wanted["boxes"][t]).abs().sum()
                    pair = [cxcywh_to_xyxy(b[None]) for b in (boxes[layer, image, q], wanted["boxes"][t])]
                    by_hand = -probability + 5 * l1 - 2 * giou(*pair)[0, 0]
                    torch.testing.assert_close(cost[layer, image, q, t], by_hand, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_the_match_is_the_cheapest_and_equals_our_own_algorithm(seed, counts):
    logits, boxes = predictions(layers=2, batch=len(counts), seed=seed)
    targets = padded([target(count, seed=seed + i) for i, count in enumerate(counts)])
    found = matching.match(logits, boxes, targets)
    cost = matching.cost(logits, boxes, targets, matching.Weights())
    for layer in range(2):
        for image, count in enumerate(counts):
            query, true = found.pairs(layer, image)
            assert sorted(true.tolist()) == list(range(count))
            assert len(set(query.tolist())) == count
            assert (found.query[layer, image, count:] == -1).all()
            own = cost[layer, image, :, :count].numpy()
            rows, columns = hungarian.solve(own)
            total = own[query, true].sum()
            np.testing.assert_allclose(total, own[rows, columns].sum(), atol=1e-5)
            if count in (2, 3):
                best = min(sum(own[q, t] for t, q in enumerate(p)) for p in permutations(range(6), count))
                np.testing.assert_allclose(total, best, atol=1e-5)


def test_more_objects_than_queries_warns_and_takes_the_best():
    logits, boxes = predictions(layers=1, batch=1, queries=2)
    with pytest.warns(UserWarning, match=r"more objects \(up to 5\) than the model has queries \(2\)"):
        found = matching.match(logits, boxes, padded([target(5)]))
    query, true = found.pairs(0, 0)
    assert sorted(query.tolist()) == [0, 1] and len(set(true.tolist())) == 2
    assert (found.query == -1).sum() == 3


def test_no_objects_at_all():
    logits, boxes = predictions()
    found = matching.match(logits, boxes, padded([target(0), target(0)]))
    assert found.query.shape == (3, 2, 0)
    assert all(len(index) == 0 for index in found.pairs(2, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named(value):
    logits, boxes = predictions()
    boxes[1, 0, 4, 2] = value
    with pytest.raises(ValueError, match="decoder layer 1, image 0 of the batch, query 4"):
        matching.match(logits, boxes, padded([target(3), target(1)]))


def test_no_gradient_flows_through_the_matching():
    logits, boxes = predictions()
    logits.requires_grad_(), boxes.requires_grad_()
    found = matching.match(logits, boxes, padded([target(3), target(1)]))
    assert not found.query.requires_grad
