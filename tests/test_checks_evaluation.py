"""The checks of notebook 10: right answers in two styles pass, and each mistake is told by its own name."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from detr_mini.checks import evaluation as checks
from detr_mini.checks.verdict import Wrong
from detr_mini.detection import Detections
from detr_mini.evaluation import grade


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


# 1: AP from a list of matches


def ap_by_loop(right, objects):
    total = 0.0
    for k in range(101):
        best, hits = 0.0, 0
        for number, good in enumerate(right, start=1):
            hits += good
            if hits / objects >= k / 100:
                best = max(best, hits / number)
        total += best
    return total / 101


def curve_of(right, objects):
    hits = np.cumsum(right)
    return hits / np.arange(1, len(right) + 1), hits / objects


def at(precision, recall, recalls):
    return np.array([next((p for p, r in zip(precision, recall, strict=True) if r >= k), 0) for k in recalls])


def from_right(precision):
    return np.maximum.accumulate(precision[::-1])[::-1]


HUNDRED_AND_ONE = np.linspace(0, 1, 101)


def ap_by_array(right, objects):
    precision, recall = curve_of(right, objects)
    return at(from_right(precision), recall, HUNDRED_AND_ONE).mean()


def ap_by_tensor(right, objects):
    hits = torch.tensor(right).cumsum(0).double()
    precision = hits / torch.arange(1, len(right) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)
    places = torch.searchsorted(hits / objects, torch.linspace(0, 1, 101, dtype=torch.float64))
    return torch.cat([best, torch.zeros(1)])[places].mean()


@pytest.mark.parametrize("right", [ap_by_loop, ap_by_array, ap_by_tensor])
def test_ap_right(right, capsys):
    checks.average_precision(right)
    says_right(capsys, 1)


def without_envelope(right, objects):
    return at(*curve_of(right, objects), HUNDRED_AND_ONE).mean()


def of_found(right, objects):
    return ap_by_array(right, max(1, sum(right)))


def of_reached(right, objects):
    precision, recall = curve_of(right, objects)
    return at(from_right(precision), recall, [k for k in HUNDRED_AND_ONE if k <= recall[-1]]).mean()


def from_left(right, objects):
    precision, recall = curve_of(right, objects)
    return at(np.maximum.accumulate(precision), recall, HUNDRED_AND_ONE).mean()


def exact_area(right, objects):
    precision, recall = curve_of(right, objects)
    return (from_right(precision) * np.diff(recall, prepend=0)).sum()


def as_in_retrieval(right, objects):
    precision, _ = curve_of(right, objects)
    return sum(p for p, good in zip(precision, right, strict=True) if good) / objects


def mean_where_right(right, objects):
    precision, _ = curve_of(right, objects)
    good = [p for p, each in zip(precision, right, strict=True) if each]
    return np.mean(good) if good else 0.0


def mean_precision(right, objects):
    return curve_of(right, objects)[0].mean()


def eleven(right, objects):
    precision, recall = curve_of(right, objects)
    return at(from_right(precision), recall, np.linspace(0, 1, 11)).mean()


def without_one(right, objects):
    precision, recall = curve_of(right, objects)
    return at(from_right(precision), recall, np.arange(100) / 100).mean()


def without_zero(right, objects):
    precision, recall = curve_of(right, objects)
    return at(from_right(precision), recall, np.arange(1, 101) / 100).mean()


def straight_lines(right, objects):
    precision, recall = curve_of(right, objects)
    return sum((recall[i + 1] - recall[i]) * (precision[i] + precision[i + 1]) / 2 for i in range(len(precision) - 1))


def best_until(right, objects):
    precision, recall = curve_of(right, objects)
    return sum(max(precision[recall <= k], default=0) for k in HUNDRED_AND_ONE) / 101


def strictly_larger(right, objects):
    precision, recall = curve_of(right, objects)
    return sum(max(precision[recall > k], default=0) for k in HUNDRED_AND_ONE) / 101


def per_cent(right, objects):
    return 100 * ap_by_loop(right, objects)


def last_precision(right, objects):
    return sum(right) / len(right)


def last_recall(right, objects):
    return sum(right) / objects


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (without_envelope, "first reached"),
        (of_found, "recall is of all objects"),
        (of_reached, "over the recalls that were reached"),
        (from_left, "from left to right"),
        (exact_area, "exact area"),
        (as_in_retrieval, "adds up the precisions at the right"),
        (mean_where_right, "a missed object must count"),
        (mean_precision, "does not ask for recall"),
        (eleven, "11 recalls"),
        (without_one, "without 1.00"),
        (without_zero, "without 0.00"),
        (straight_lines, "straight lines"),
        (best_until, "or a smaller one"),
        (strictly_larger, "met exactly"),
        (per_cent, "not per cent"),
        (last_precision, "precision of the whole list"),
        (last_recall, "recall of the whole list"),
    ],
)
def test_ap_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.average_precision(wrong)


# 2: right or wrong


def judged_by_loop(overlap, threshold):
    taken, right = set(), []
    for row in overlap:
        best, most = None, threshold
        for t, value in enumerate(row):
            if t not in taken and value >= most:
                best, most = t, value
        right.append(best is not None)
        taken.add(best)
    return right


def judged_by_array(overlap, threshold):
    table = np.array(overlap, dtype=float).reshape(len(overlap), -1)
    right = np.zeros(len(table), dtype=bool)
    for n in range(len(table)):
        if table.shape[1] and table[n].max() >= threshold:
            right[n] = True
            table[:, table[n].argmax()] = -1
    return right


def judged_by_tensor(overlap, threshold):
    return torch.from_numpy(judged_by_array(overlap, threshold))


@pytest.mark.parametrize("right", [judged_by_loop, judged_by_array, judged_by_tensor])
def test_right_or_wrong_right(right, capsys):
    checks.right_or_wrong(right)
    says_right(capsys, 2)


def many_times(overlap, threshold):
    return [any(value >= threshold for value in row) for row in overlap]


def best_or_nothing(overlap, threshold):
    taken, right = set(), []
    for row in overlap:
        best = int(np.argmax(row)) if row else None
        good = best is not None and row[best] >= threshold and best not in taken
        right.append(good)
        if good:
            taken.add(best)
    return right


def strictly_above(overlap, threshold):
    return judged_by_loop(overlap, threshold + 1e-9)


def first_that_fits(overlap, threshold):
    taken, right = set(), []
    for row in overlap:
        fits = [t for t, value in enumerate(row) if value >= threshold and t not in taken]
        right.append(bool(fits))
        taken |= set(fits[:1])
    return right


def best_assignment(overlap, threshold):
    table = np.array(overlap, dtype=float).reshape(len(overlap), -1)
    rows, columns = linear_sum_assignment(np.where(table >= threshold, -table, 0))
    pairs = {r for r, c in zip(rows, columns, strict=True) if table[r, c] >= threshold}
    return [n in pairs for n in range(len(overlap))]


def objects_choose(overlap, threshold):
    table = np.array(overlap, dtype=float).reshape(len(overlap), -1)
    chosen = {int(column.argmax()) for column in table.T if column.max() >= threshold}
    return [n in chosen for n in range(len(overlap))]


def all_that_fit(overlap, threshold):
    taken, right = set(), []
    for row in overlap:
        fits = {t for t, value in enumerate(row) if value >= threshold and t not in taken}
        right.append(bool(fits))
        taken |= fits
    return right


def poor_ones_take(overlap, threshold):
    taken, right = set(), []
    for row in overlap:
        free = sorted((value, t) for t, value in enumerate(row) if t not in taken)
        right.append(bool(free) and free[-1][0] >= threshold)
        taken |= {t for _, t in free[-1:]}
    return right


def no_threshold(overlap, threshold):
    return judged_by_loop(overlap, 1e-9)


def last_first(overlap, threshold):
    return judged_by_loop(overlap[::-1], threshold)[::-1]


def exchanged(overlap, threshold):
    return [not each for each in judged_by_loop(overlap, threshold)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (many_times, "found once"),
        (best_or_nothing, "next best"),
        (strictly_above, "equal to the threshold"),
        (first_that_fits, "not the first that fits"),
        (best_assignment, "surest detection chooses first"),
        (objects_choose, "the objects choose"),
        (all_that_fit, "takes one object"),
        (poor_ones_take, "takes nothing"),
        (no_threshold, "no effect"),
        (last_first, "last row chose first"),
        (exchanged, "exchanged"),
    ],
)
def test_right_or_wrong_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.right_or_wrong(wrong)


# 3: the damaged curves


@pytest.mark.parametrize("answer", ["CEDB", " cedb "])
def test_which_cause_right(answer, capsys):
    checks.which_cause(answer)
    says_right(capsys, 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("AEDB", "curve 1 is not A: .*squeezed"),
        ("CADB", "curve 2 is not A: .*squeezed"),
        ("CEBD", "curve 3 is not B: .*no better beginning"),
        ("ECDB", "curve 1 is not E: .*break off"),
        ("DECB", "curve 1 is not D: .*duplicate"),
        ("CDEB", "curve 2 is not D: .*one half"),
        ("BEDC", "curve 1 is not B: .*no better beginning"),
        ("CEBA", "curve 3 is not B"),
        ("CEDC", "stands for two curves"),
        ("CED", "four letters|wanted 4"),
        ("CEDX", "wanted 4 of the letters"),
        (["C", "E"], "a word of four letters"),
    ],
)
def test_which_cause_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.which_cause(wrong)


# 4: what leaves AP as it is


@pytest.mark.parametrize("answer", [{"A", "C", "E"}, "ace", ["E", "A", "C"]])
def test_what_keeps_ap_right(answer, capsys):
    checks.what_keeps_ap(answer)
    says_right(capsys, 4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"A", "B", "C", "E"}, "B can change AP"),
        ({"A", "C", "D", "E"}, "D can change AP"),
        ({"A", "C", "E", "F"}, "F can change AP"),
        ({"C", "E"}, "A leaves AP as it is"),
        ({"A", "E"}, "C leaves AP as it is"),
        ({"A", "C"}, "E leaves AP as it is"),
        ({"A", "G"}, "letters A to F"),
    ],
)
def test_what_keeps_ap_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.what_keeps_ap(wrong)


class Scenes:
    """Four images of one class; the last shows nothing."""

    names, category_ids, size_edges_px = ("cat",), (1,), (8.0, 24.0)

    def __init__(self, images=4):
        self.images = images

    def ground_truth(self):
        places = [(image, [20 * image, 0, 10, 10]) for image in (1, 2, 3)] + [(1, [60, 60, 10, 10])]
        facts = {"category_id": 1, "iscrowd": 0, "area": 100}
        return {
            "images": [{"id": i + 1} for i in range(self.images)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [facts | {"id": n, "image_id": i, "bbox": box} for n, (i, box) in enumerate(places)],
        }


def answer_of(rows):
    """Detections from (score, x, y) of boxes of 10 x 10 px."""
    rows = sorted(rows, reverse=True)
    boxes = torch.tensor([[x, y, x + 10, y + 10] for _, x, y in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([score for score, *_ in rows])
    return Detections(
        boxes, scores, torch.zeros(len(rows), dtype=torch.int64), ["cat"] * len(rows), torch.arange(len(rows))
    )


ROWS = [
    [(0.9, 20, 0), (0.6, 90, 0), (0.3, 60, 60)],
    [(0.45, 40, 0), (0.4, 90, 90)],
    [(0.8, 5, 90), (0.35, 60, 0)],
    [(0.95, 0, 0)],
]
CHANGED = {
    "A": [[(s * s, x, y) for s, x, y in image] for image in ROWS],
    "B": [[(s / max(r[0] for r in image), x, y) for s, x, y in image] for image in ROWS],
    "C": [[*image, (0.01, 0, 50)] for image in ROWS],
    "D": [[row for row in image if row[0] >= 0.5] for image in ROWS],
    "E": [
        [*image, *((0.01, x, y) for s, x, y in image if (x, y) in {(20, 0), (60, 60), (40, 0), (60, 0)})]
        for image in ROWS
    ],
    "F": ROWS[:3],
}


@pytest.mark.parametrize("letter", "ABCDEF")
def test_the_letters_are_what_happens_to_ap(letter):
    before = grade(Scenes(), [answer_of(image) for image in ROWS]).ap
    rows = CHANGED[letter]
    after = grade(Scenes(len(rows)), [answer_of(image) for image in rows]).ap
    assert 0 < before < 1
    assert (abs(after - before) < 1e-9) == (letter in checks.KEEPS)


# what the riddle does


def test_the_damages_are_what_they_are_called():
    answers = [answer_of(image) for image in ROWS]
    assert set(checks.DAMAGES) < set(checks.CAUSES) and len(checks.riddle(answers)) == 4
    moved, cut, twice, lots = checks.riddle(answers)
    shift = moved[0].boxes_xyxy_px - answers[0].boxes_xyxy_px
    torch.testing.assert_close(shift, torch.tensor([[10 / 6, 0, 10 / 6, 0]] * 3))
    assert [len(each) for each in cut] == [1, 0, 0, 1]
    assert [len(each) for each in twice] == [2 * len(each) for each in answers]
    before, after = (torch.cat([each.scores for each in way]) for way in (answers, lots))
    assert not torch.equal(before, after) and torch.equal(before.sort().values, after.sort().values)
    assert all(len(each.names) == len(each) for way in (moved, cut, twice, lots) for each in way)
    with pytest.raises(ValueError, match="damage 'A'"):
        checks.damaged("A", answers)


@pytest.mark.parametrize("check", [checks.average_precision, checks.right_or_wrong])
@pytest.mark.parametrize("stub", [lambda *_: None, lambda *_: ...])
def test_a_stub_is_open(check, stub, capsys):
    check(stub)
    assert " is open" in capsys.readouterr().out


def test_an_answer_left_out_is_open(capsys):
    checks.which_cause(...)
    checks.what_keeps_ap(...)
    assert capsys.readouterr().out == "exercise 3 is open\nexercise 4 is open\n"
