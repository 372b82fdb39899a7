"""The checks of notebook 03: right answers in two styles pass, and each mistake is told by its own name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from detr_mini import losses, matching
from detr_mini.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from detr_mini.checks import losses as checks
from detr_mini.checks.verdict import Wrong


def targets_and_weights(logits, labels, query, no_object=0.1):
    """wanted (Q,) and class weights (K+1,), the way most solutions begin."""
    wanted = torch.full((len(logits),), logits.shape[1] - 1)
    wanted[query] = labels
    weight = torch.ones(logits.shape[1])
    weight[-1] = no_object
    return wanted, weight


def both_boxes(boxes, true_boxes, query):
    return cxcywh_to_xyxy(boxes[query]), cxcywh_to_xyxy(true_boxes)


def box_term(boxes, true_boxes, query):
    l1 = (boxes[query] - true_boxes).abs().sum()
    return 5 * l1 + 2 * (1 - paired_giou(*both_boxes(boxes, true_boxes, query))).sum()


def right_loss(logits, boxes, labels, true_boxes, query):
    wanted, weight = targets_and_weights(logits, labels, query)
    return F.cross_entropy(logits, wanted, weight) + box_term(boxes, true_boxes, query) / max(len(labels), 1)


def right_loop(logits, boxes, labels, true_boxes, query):
    owner = {int(q): t for t, q in enumerate(query)}
    nats = weights = box = 0.0
    for q in range(len(logits)):
        p = np.exp(logits[q].numpy()) / np.exp(logits[q].numpy()).sum()
        w = 1.0 if q in owner else 0.1
        nats += -w * np.log(p[labels[owner[q]]] if q in owner else p[-1])
        weights += w
    for q, t in owner.items():
        corners = [box_convert(b[None], "cxcywh", "xyxy") for b in (boxes[q], true_boxes[t])]
        box += 5 * float((boxes[q] - true_boxes[t]).abs().sum()) + 2 * (1 - float(generalized_box_iou(*corners)))
    return nats / weights + box / (len(owner) or 1)


def right_torchvision(logits, boxes, labels, true_boxes, query):
    wanted, weight = targets_and_weights(logits, labels, query)
    giou = generalized_box_iou_loss(*both_boxes(boxes, true_boxes, query), reduction="sum")
    l1 = F.l1_loss(boxes[query], true_boxes, reduction="sum")
    return F.cross_entropy(logits, wanted, weight) + (5 * l1 + 2 * giou) / max(1, len(labels))


def divided_by_queries(logits, boxes, labels, true_boxes, query):
    wanted, weight = targets_and_weights(logits, labels, query)
    each = F.cross_entropy(logits, wanted, weight, reduction="none")
    return each.mean() + box_term(boxes, true_boxes, query) / max(len(labels), 1)


def divided_by_objects(logits, boxes, labels, true_boxes, query):
    wanted, weight = targets_and_weights(logits, labels, query)
    total = F.cross_entropy(logits, wanted, weight, reduction="sum") + box_term(boxes, true_boxes, query)
    return total / max(len(labels), 1)


def not_divided(logits, boxes, labels, true_boxes, query):
    wanted, weight = targets_and_weights(logits, labels, query)
    label = F.cross_entropy(logits, wanted, weight, reduction="sum")
    return label + box_term(boxes, true_boxes, query) / max(len(labels), 1)


def probability(logits, boxes, labels, true_boxes, query):
    wanted, weight = targets_and_weights(logits, labels, query)
    p = logits.softmax(-1)[torch.arange(len(logits)), wanted]
    label = -(weight[wanted] * p).sum() / weight[wanted].sum()
    return label + box_term(boxes, true_boxes, query) / max(len(labels), 1)


def no_weight(logits, boxes, labels, true_boxes, query):
    wanted, _ = targets_and_weights(logits, labels, query)
    return F.cross_entropy(logits, wanted) + box_term(boxes, true_boxes, query) / max(len(labels), 1)


def matched_only(logits, boxes, labels, true_boxes, query):
    label = F.cross_entropy(logits[query], labels) if len(labels) else 0.0
    return label + box_term(boxes, true_boxes, query) / max(len(labels), 1)


def background_first(logits, boxes, labels, true_boxes, query):
    wanted = torch.zeros(len(logits), dtype=torch.int64)
    wanted[query] = labels
    each = F.cross_entropy(logits, wanted, reduction="none")
    weight = torch.full((len(logits),), 0.1)
    weight[query] = 1.0
    return (each * weight).sum() / weight.sum() + box_term(boxes, true_boxes, query) / max(len(labels), 1)


def with_boxes(term, divisor=lambda logits, labels: max(len(labels), 1)):
    """A loss whose class part is right, and whose box term is `term`."""

    def loss(logits, boxes, labels, true_boxes, query):
        wanted, weight = targets_and_weights(logits, labels, query)
        label = F.cross_entropy(logits, wanted, weight)
        return label + term(boxes, true_boxes, query) / divisor(logits, labels)

    return loss


def giou_added(boxes, true_boxes, query):
    l1 = (boxes[query] - true_boxes).abs().sum()
    return 5 * l1 + 2 * paired_giou(*both_boxes(boxes, true_boxes, query)).sum()


def giou_as_in_the_cost(boxes, true_boxes, query):
    l1 = (boxes[query] - true_boxes).abs().sum()
    return 5 * l1 - 2 * paired_giou(*both_boxes(boxes, true_boxes, query)).sum()


def softmax_twice(logits, boxes, labels, true_boxes, query):
    return right_loss(logits.softmax(-1), boxes, labels, true_boxes, query)


def iou_for_giou(boxes, true_boxes, query):
    l1 = (boxes[query] - true_boxes).abs().sum()
    return 5 * l1 + 2 * (1 - paired_iou(*both_boxes(boxes, true_boxes, query))).sum()


def centres_as_corners(boxes, true_boxes, query):
    return 5 * (boxes[query] - true_boxes).abs().sum() + 2 * (1 - paired_giou(boxes[query], true_boxes)).sum()


def mean_of_coordinates(boxes, true_boxes, query):
    giou = (1 - paired_giou(*both_boxes(boxes, true_boxes, query))).sum()
    return 5 * (boxes[query] - true_boxes).abs().mean(-1).sum() + 2 * giou


def unweighted(boxes, true_boxes, query):
    giou = (1 - paired_giou(*both_boxes(boxes, true_boxes, query))).sum()
    return (boxes[query] - true_boxes).abs().sum() + giou


def weights_exchanged(boxes, true_boxes, query):
    giou = (1 - paired_giou(*both_boxes(boxes, true_boxes, query))).sum()
    return 2 * (boxes[query] - true_boxes).abs().sum() + 5 * giou


def in_order(logits, boxes, labels, true_boxes, query):
    return right_loss(logits, boxes, labels, true_boxes, torch.arange(len(labels)))


def nan_without_objects(logits, boxes, labels, true_boxes, query):
    wanted, weight = targets_and_weights(logits, labels, query)
    l1 = (boxes[query] - true_boxes).abs().sum(-1).mean()
    giou = (1 - paired_giou(*both_boxes(boxes, true_boxes, query))).mean()
    return F.cross_entropy(logits, wanted, weight) + 5 * l1 + 2 * giou


@pytest.mark.parametrize("answer", [right_loss, right_loop, right_torchvision])
def test_the_right_loss_passes(answer, capsys):
    checks.image_loss(answer)
    assert capsys.readouterr().out.startswith("exercise 1 is right")


@pytest.mark.parametrize(
    "answer, said",
    [
        (divided_by_queries, "class part is divided by the number of queries"),
        (divided_by_objects, "class part is divided by the number of objects"),
        (not_divided, "class part is a sum"),
        (probability, "the class term is -p"),
        (no_weight, "its weight 0.1 is missing"),
        (matched_only, "left out of the class part"),
        (background_first, "no object was taken for class 0"),
        (with_boxes(giou_added), "GIoU itself was added"),
        (with_boxes(giou_as_in_the_cost), "as in the matching cost"),
        (softmax_twice, "softmax was taken twice"),
        (with_boxes(iou_for_giou), "this is IoU"),
        (with_boxes(centres_as_corners), "was read as corners"),
        (with_boxes(mean_of_coordinates), "mean over the four numbers"),
        (with_boxes(unweighted), "weights 5 and 2 of the box parts are missing"),
        (with_boxes(weights_exchanged), "are exchanged"),
        (with_boxes(box_term, lambda logits, labels: len(logits)), "box parts are divided by the number of queries"),
        (with_boxes(box_term, lambda logits, labels: 1), "box parts are a sum"),
        (in_order, "object i was compared with query i"),
        (nan_without_objects, "0 / 0"),
    ],
)
def test_each_mistake_in_the_loss_is_named(answer, said):
    with pytest.raises(Wrong, match=said):
        checks.image_loss(answer)


RIGHT = ({0, 3}, {0, 1, 2, 3, 4}, {0, 3})


@pytest.mark.parametrize(
    "answers",
    [
        RIGHT,
        ([3, 0], range(5), np.array([0, 3])),
        (torch.tensor([True, False, False, True, False]), (0, 1, 2, 3, 4), {3, 0}),
    ],
)
def test_the_right_queries_pass(answers, capsys):
    checks.gradients(*answers)
    assert capsys.readouterr().out.startswith("exercise 2 is right")


def test_the_table_of_the_exercise_has_the_match_that_the_check_wants():
    queries, objects = linear_sum_assignment(checks.GRADIENT_COSTS)
    assert set(queries.tolist()) == RIGHT[0] and objects.tolist() == [0, 1]
    assert checks.GRADIENT_COSTS.argmin(0).tolist() == [3, 3], "the twist: one query is the best for both"
    rest = np.delete(checks.GRADIENT_COSTS[:, 1], 3)
    assert rest.argmin() == 1, "and the cheapest pair first ends with queries 3 and 1"


@pytest.mark.parametrize(
    "answers, said",
    [
        (({0, 1, 2, 3, 4}, *RIGHT[1:]), "has no true box"),
        (({3}, *RIGHT[1:]), "the match gives it only one"),
        (({0, 1, 3}, *RIGHT[1:]), "a low cost is not a match"),
        (({1, 2, 4}, *RIGHT[1:]), "only those with one"),
        (({0, 1}, *RIGHT[1:]), "numbers of the objects"),
        (({1, 3}, *RIGHT[1:]), "not the least"),
        (({1, 4}, *RIGHT[1:]), "numbers 0 to 4|find the match first"),
        (({1, 5}, *RIGHT[1:]), "the queries have the numbers 0 to 4"),
        ((RIGHT[0], {0, 3}, RIGHT[2]), "trained too, to say"),
        ((RIGHT[0], {1, 2, 4}, RIGHT[2]), "to name its class"),
        ((*RIGHT[:2], {0, 1, 2, 3, 4}), "takes the term away"),
        ((*RIGHT[:2], {1, 2, 4}), "silences the queries"),
        ((*RIGHT[:2], set()), "belongs to ∅ alone"),
        (({"q0", "q3"}, *RIGHT[1:]), "wanted whole numbers"),
    ],
)
def test_each_mistake_about_gradients_is_named(answers, said):
    with pytest.raises(Wrong, match=said):
        checks.gradients(*answers)


def cost_of(logits, boxes, labels, true_boxes):
    one = matching.pad_targets([{"labels": labels, "boxes": true_boxes}], logits.device)
    return matching.cost(logits[None, None], boxes[None, None], one, matching.Weights())[0, 0].detach()


def repaired(logits, boxes, labels, true_boxes):
    rows, columns = map(torch.as_tensor, linear_sum_assignment(cost_of(logits, boxes, labels, true_boxes)))
    return right_loss(logits, boxes, labels[columns], true_boxes[columns], rows)


def repaired_by_package(logits, boxes, labels, true_boxes):
    return losses.set_loss(logits[None, None], boxes[None, None], [{"labels": labels, "boxes": true_boxes}]).total


def matched_by(loss, sign=1):
    """A loss of exercise 1 behind the matching."""

    def answer(logits, boxes, labels, true_boxes):
        costs = sign * cost_of(logits, boxes, labels, true_boxes)
        return loss(logits, boxes, labels, true_boxes, torch.as_tensor(linear_sum_assignment(costs.T)[1]))

    return answer


def nearest(logits, boxes, labels, true_boxes):
    if not len(labels):
        return right_loss(logits, boxes, labels, true_boxes, labels)
    target = cost_of(logits, boxes, labels, true_boxes).argmin(1)
    return right_loss(logits, boxes, labels[target], true_boxes[target], torch.arange(len(logits)))


def each_its_best(logits, boxes, labels, true_boxes):
    if not len(labels):
        return right_loss(logits, boxes, labels, true_boxes, labels)
    return right_loss(logits, boxes, labels, true_boxes, cost_of(logits, boxes, labels, true_boxes).argmin(0))


def objects_not_reordered(logits, boxes, labels, true_boxes):
    rows, _ = map(torch.as_tensor, linear_sum_assignment(cost_of(logits, boxes, labels, true_boxes)))
    return right_loss(logits, boxes, labels, true_boxes, rows)


def greedy(logits, boxes, labels, true_boxes):
    cost, query = cost_of(logits, boxes, labels, true_boxes), torch.zeros_like(labels)
    for _ in labels:
        q, t = divmod(int(cost.argmin()), len(labels))
        query[t] = q
        cost[q], cost[:, t] = 100, 100
    return right_loss(logits, boxes, labels, true_boxes, query)


@pytest.mark.parametrize("answer", [repaired, repaired_by_package, matched_by(right_torchvision)])
def test_the_repaired_loss_passes(answer, capsys):
    checks.repaired(answer)
    assert capsys.readouterr().out.startswith("exercise 3 is right")


@pytest.mark.parametrize(
    "answer, said",
    [
        (matched_by(matched_only), "as before: a query without an object"),
        (nearest, "the rule that makes duplicates"),
        (each_its_best, "match them all at once"),
        (matched_by(right_loss, sign=-1), "match of the largest total"),
        (matched_by(no_weight), "its weight 0.1 is missing"),
        (matched_by(background_first), "no object was taken for class 0"),
        (matched_by(probability), "the class term is -p"),
        (matched_by(nan_without_objects), "0 / 0"),
        (objects_not_reordered, r"labels\[of\]"),
        (greedy, "cheapest pair was taken first"),
        (lambda *image: repaired(*image).detach(), "no gradient flows back"),
        (lambda logits, boxes, *true: repaired(logits, boxes.detach(), *true), "the boxes get no gradient"),
        (lambda logits, *rest: repaired(logits.detach(), *rest), "the logits get no gradient|no gradient flows back"),
    ],
)
def test_each_mistake_in_the_repair_is_named(answer, said):
    with pytest.raises(Wrong, match=said):
        checks.repaired(answer)


def test_stubs_are_open(capsys):
    checks.image_loss(lambda *image: ...)
    checks.gradients(..., ..., ...)
    checks.repaired(lambda *image: None)
    assert [line[:18] for line in capsys.readouterr().out.splitlines()] == [
        f"exercise {n} is open"[:18] for n in (1, 2, 3)
    ]
