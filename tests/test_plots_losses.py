"""The figures of notebook 03: the pair losses add up to the package's, and every figure can be drawn."""

import numpy as np
import pytest
import torch

from detr_mini import losses, matching
from detr_mini.plots import losses as plots
from detr_mini.plots import style

K = 4


def image(queries=6, objects=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(queries, K + 1, generator=generator).softmax(-1)
    boxes = torch.rand(queries, 4, generator=generator) * 0.4 + 0.2
    true_boxes = torch.rand(objects, 4, generator=generator) * 0.4 + 0.2
    return probabilities, boxes, torch.randint(0, K, (objects,), generator=generator), true_boxes


@pytest.mark.parametrize("queries, objects", [(6, 3), (6, 0), (3, 3), (1, 1)])
@pytest.mark.parametrize("weights", [None, losses.Weights(label=2, l1=1, giou=3, no_object=0.5)])
def test_pair_losses_add_up_to_the_set_loss(queries, objects, weights):
    probabilities, boxes, labels, true_boxes = image(queries, objects)
    pairs = plots.pair_losses(probabilities, boxes, labels, true_boxes, weights, matching.Weights(l1=3))
    target = [{"labels": labels, "boxes": true_boxes}]
    whole = losses.set_loss(probabilities.log()[None, None], boxes[None, None], target, weights, matching.Weights(l1=3))
    assert pairs.total == pytest.approx(whole.total.item(), abs=1e-5)
    assert pairs.total == pytest.approx(
        sum(float(part.sum()) for part in (pairs.label, pairs.l1, pairs.giou)), abs=1e-5
    )
    weights = weights or losses.Weights()
    assert pairs.l1.sum() == pytest.approx(weights.l1 * whole.l1.item(), abs=1e-5)
    assert len(pairs.query) == min(queries, objects) and (pairs.owner[pairs.query] == pairs.target).all()
    alone = np.setdiff1d(np.arange(queries), pairs.query)
    assert (pairs.owner[alone] == -1).all() and not pairs.l1[alone].any() and not pairs.giou[alone].any()


def test_a_probability_of_zero_costs_much_and_not_infinity():
    probabilities, boxes, labels, true_boxes = image(1, 1)
    probabilities = torch.zeros_like(probabilities)
    probabilities[0, -1] = 1.0
    assert 20 < plots.pair_losses(probabilities, boxes, labels, true_boxes).label[0] < 40


def frames(count=5):
    made = []
    for step in range(count):
        probabilities, boxes, *_ = image(8, 2, seed=step)
        owner = torch.full((8,), -1)
        owner[step % 3], owner[5] = 0, 1
        made.append(plots.Frame(step, boxes, probabilities, owner, torch.tensor([3.0, 2.0, 1.0]) / (step + 1)))
    return made


def test_a_frame_says_the_likeliest_class_or_nothing():
    probabilities = torch.tensor([[0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])
    frame = plots.Frame(0, torch.zeros(2, 4), probabilities, torch.tensor([-1, -1]), torch.zeros(3))
    assert frame.says.tolist() == [0, -1]


def drawn():
    probabilities, boxes, labels, true_boxes = image()
    pairs = plots.pair_losses(probabilities, boxes, labels, true_boxes)
    yield plots.pair_figure(pairs, boxes, true_boxes, ["cat", "dog", "bus"])
    yield plots.weight_figure({"here": 4.0})
    place = torch.linspace(0, 1, 20)
    yield plots.slide_figure(place, place, place, place[1:], (place > 0.5).float())
    scene = torch.full((3, 64, 64), 120, dtype=torch.uint8)
    yield plots.film_strip(scene, true_boxes, frames(4), ["a", "b", "c", "d"], "a title")
    yield plots.ownership({"one": frames(), "two": frames()}, ["cat", "dog"])
    yield plots.parts_figure(frames(), {"matching": [[8, 5, 3]], "nearest": [[8, 8, 8]]}, 3)
    record = {"step": 20, "class_error": 50.0, "cardinality": 2.0, "label": [3.0, 2.0, 1.0]}
    yield plots.log_figure([record, {**record, "step": 40}], 2.5)


def test_every_figure_is_nine_inches_wide_or_less_with_readable_type():
    for figure in drawn():
        assert figure.get_size_inches()[0] <= 9.1
        figure.canvas.draw()
        for text in figure.findobj(match=lambda artist: hasattr(artist, "get_fontsize")):
            assert text.get_fontsize() >= 8 or not text.get_text(), text.get_text()
        assert style.png(figure, 64).startswith(b"\x89PNG")


def test_stretches_cover_everything_once():
    values = np.array([-1, -1, 2, 2, 2, 0])
    assert plots._stretches(values) == [(0, 2, -1), (2, 5, 2), (5, 6, 0)]


def test_the_share_is_the_best_constant_answer():
    share = plots._share(0.1, np.array([100 / 7]))[0]
    assert share == pytest.approx(9.3 / 16.3)
