"""Checks of notebook 10: AP from a list of matches, matches from overlaps, damaged curves, what leaves AP as it is."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from detr_mini.checks.verdict import Wrong, ask, compare, exercise
from detr_mini.detection import Detections

# N detections · T objects

CAUSES = {
    "A": "half of the objects are never found, whatever the threshold",
    "B": "the scores are exchanged at random among the detections",
    "C": "every box is moved to the right by a sixth of its width",
    "D": "every detection is handed in twice",
    "E": "only detections with a score of 0.9 or more are handed in",
}
DAMAGES = "CEDB"  # of the curves 1 to 4
KEEPS = "ACE"  # changes that leave AP as it is


@exercise(1, "From here on AP is twelve lines that you have written, and no grade that comes from elsewhere.")
def average_precision(answer: Callable) -> None:
    """`average_precision(right, objects)`: AP at 101 recalls of N detections by falling score, right or wrong."""
    cases = (
        ([1, 0, 1, 1, 0, 0, 1], 8),  # tells all the mistakes apart
        ([0, 1, 0, 1, 1], 4),
        ([1, 1, 0, 1, 0, 1, 0, 0, 1, 0], 6),
        ([0, 0, 1], 3),
        ([0, 0], 2),
    )
    for right, objects in cases:
        where = f"{''.join('ox'[not each] for each in right)} (o right, x wrong) of {objects} objects"
        got = ask(answer, [bool(each) for each in right], objects)
        wanted, mistakes = _ap(right, objects), _ap_mistakes(right, objects)
        if isinstance(got, (int, float)) and wanted and abs(got - 100 * wanted) < 1e-3:
            raise Wrong(f"{where}: between 0 and 1 is wanted, not per cent")
        compare(where, float(got), wanted, mistakes)


@exercise(2, "This is where a detection becomes right or wrong; all that follows is counting.")
def right_or_wrong(answer: Callable) -> None:
    """`right_or_wrong(overlap, threshold)`: for each detection of an image and class, surest first, whether it is
    right; `overlap` (N, T) are its IoUs with the objects."""
    for where, (overlap, threshold) in _overlaps().items():
        got = ask(answer, [list(row) for row in overlap], threshold)
        mistakes = {message: mistake(overlap, threshold) for message, mistake in _MATCH_MISTAKES.items()}
        compare(f"{where}, threshold {threshold}", [bool(each) for each in got], _right(overlap, threshold), mistakes)


@exercise(3, "A curve tells what the one number under it cannot.")
def which_cause(answer: str) -> None:
    """A letter of `CAUSES` for each of the four curves of `riddle`, in their order, as one word."""
    if not isinstance(answer, str):
        raise Wrong(f"{type(answer).__name__} came; wanted a word of four letters, such as 'ABCD'")
    given = answer.strip().upper()
    if len(given) != len(DAMAGES) or set(given) - set(CAUSES):
        raise Wrong(f"{answer!r}: wanted {len(DAMAGES)} of the letters {''.join(CAUSES)}, such as 'ABCD'")
    if len(set(given)) < len(given):
        raise Wrong("one letter stands for two curves; here each curve has another cause")
    for number, (got, wanted) in enumerate(zip(given, DAMAGES, strict=True), start=1):
        if got != wanted:
            raise Wrong(f"curve {number} is not {got}: {_CLUES[got]}")


@exercise(4, "AP sees the order of all answers to all images, and nothing else of the scores.")
def what_keeps_ap(answer: Sequence[str]) -> None:
    """The letters of the changes that leave AP as it is, as a set or a word."""
    given = {str(letter).strip().upper() for letter in answer}
    if given - set("ABCDEF"):
        raise Wrong(f"{sorted(given)}: the letters A to F are wanted, such as {{'A', 'B'}}")
    for letter in "BDF":
        if letter in given:
            raise Wrong(f"{letter} can change AP: {_CHANGES[letter]}")
    for letter in KEEPS:
        if letter not in given:
            raise Wrong(f"{letter} leaves AP as it is: {_CHANGES[letter]}")


def riddle(answers: Sequence[Detections]) -> list[list[Detections]]:
    """The answers to a data set's images, damaged in four ways: those of exercise 3, in its order."""
    return [damaged(cause, answers) for cause in DAMAGES]


def damaged(cause: str, answers: Sequence[Detections]) -> list[Detections]:
    """All answers with the damage B, C, D or E of `CAUSES`."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.cat([each.scores for each in answers])
    lots = scores[torch.randperm(len(scores), generator=generator)].split([len(each) for each in answers])
    made = []
    for each, drawn in zip(answers, lots, strict=True):
        boxes, score, label = each.boxes_xyxy_px, each.scores, each.labels
        chosen = torch.arange(len(each))
        if cause == "B":
            score = drawn
        elif cause == "C":
            boxes = boxes + (boxes[:, 2:3] - boxes[:, 0:1]) / 6 * torch.tensor([1.0, 0, 1, 0])
        elif cause == "D":
            chosen = chosen.repeat_interleave(2)
        elif cause == "E":
            chosen = chosen[score >= 0.9]
        else:
            raise ValueError(f"damage {cause!r}: wanted one of B, C, D, E")
        names = [each.names[index] for index in chosen.tolist()]
        made.append(Detections(boxes[chosen], score[chosen], label[chosen], names, each.queries[chosen]))
    return made


_CLUES = {
    "A": "with half of the objects out of reach the other half is found as before, so the whole curve would be "
    "squeezed to the left, into half of its width",
    "B": "with scores by lot the list has no better beginning, so precision would be as low at the start as later on",
    "C": "boxes in the wrong place are forgiven at IoU 0.5 and not at 0.75: the two curves would part from each other "
    "far more than the healthy ones",
    "D": "every second detection would be a duplicate, so precision would soon be near one half; what can be found "
    "would be found",
    "E": "leaving out the unsure ones changes nothing for those that stay: the curve would run with the healthy one "
    "and break off",
}
_CHANGES = {
    "A": "squares of numbers from 0 to 1 have the same order, and AP asks only for the order",
    "B": "AP ranks the detections of all images in one list, and this moves one image's against another's",
    "C": "a wrong detection after all others lowers only the precision of points that the envelope does not need",
    "D": "a right detection among the dropped ones takes its recall with it",
    "E": "its object is taken and no other is near, so each is a wrong detection after all others, as in C",
    "F": "detections in such images are all wrong; without them precision rises",
}


def _ap(right: Sequence[int], objects: int) -> float:
    return float(_points(right, objects).mean())


def _points(right: Sequence[int], objects: int, recalls: np.ndarray | None = None, best: bool = True) -> np.ndarray:
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    if best:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    recalls = np.linspace(0, 1, 101) if recalls is None else recalls
    return np.append(precision, 0)[np.searchsorted(hits / max(objects, 1), recalls)]


def _ap_mistakes(right: Sequence[int], objects: int) -> dict[str, float]:
    right = np.array(right)
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / objects
    best = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.linspace(0, 1, 101) <= recall[-1]
    low = np.maximum.accumulate(precision)
    steps = np.diff(recall, prepend=0)
    grid = np.linspace(0, 1, 101)
    return {
        "precision is read where a recall is first reached; the best precision from there on is wanted": float(
            _points(right, objects, best=False).mean()
        ),
        "this divides by the objects that were found; recall is of all objects": _ap(right, int(hits[-1])),
        "this is the mean over the recalls that were reached; the others count with 0": float(
            _points(right, objects)[reached].mean()
        ),
        "the best precision was carried from left to right; it is the best from a point *on*, so from the right": float(
            np.append(low, 0)[np.searchsorted(recall, np.linspace(0, 1, 101))].mean()
        ),
        "this is the best precision at a recall or a smaller one; it is the best at that recall or a larger one": (
            float(np.mean([max(precision[recall <= level], default=0) for level in grid]))
        ),
        "a recall that is met exactly is reached, so the comparison is >= and not >": float(
            np.append(best, 0)[np.searchsorted(recall, grid, side="right")].mean()
        ),
        "this is the exact area under the steps; COCO takes the mean at 101 recalls": float((best * steps).sum()),
        "this adds up the precisions at the right detections, without the best from there on": float(
            (precision * right).sum() / objects
        ),
        "this is the mean of the precisions at the right detections; a missed object must count too": float(
            (precision * right).sum() / max(1, hits[-1])
        ),
        "this is the mean of the precisions after each detection; it does not ask for recall": float(precision.mean()),
        "these are the 11 recalls of PASCAL VOC before 2010; COCO has 101": float(
            _points(right, objects, np.linspace(0, 1, 11)).mean()
        ),
        "these are 100 recalls, without 1.00": float(_points(right, objects, np.linspace(0, 1, 101)[:-1]).mean()),
        "these are 100 recalls, without 0.00": float(_points(right, objects, np.linspace(0, 1, 101)[1:]).mean()),
        "this joins the points by straight lines; there is no detector between two detections": float(
            (np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum()
        ),
        "this is the precision of the whole list": float(precision[-1]),
        "this is the recall of the whole list": float(recall[-1]),
    }


def _overlaps() -> dict[str, tuple[list[list[float]], float]]:
    return {
        "five detections, two objects": ([[0.6, 0.55], [0.9, 0.85], [0, 0.8], [0.7, 0.65], [0.1, 0.2]], 0.5),
        "poor ones before a good one": ([[0.3, 0.1], [0.1, 0.2], [0.8, 0.1]], 0.5),
        "three detections, two objects": ([[0.8, 0.1], [0.9, 0.2], [0.0, 0.5]], 0.5),
        "the surest overlaps both": ([[0.6, 0.7], [0.1, 0.9], [0.8, 0.2]], 0.5),
        "the second finds its best object taken": ([[0.9, 0.3, 0.0], [0.8, 0.6, 0.1], [0.0, 0.55, 0.7]], 0.5),
        "a stricter threshold": ([[0.74, 0.2], [0.76, 0.1], [0.3, 0.75], [0.8, 0.1]], 0.75),
        "no objects": ([[], []], 0.5),
        "one object": ([[0.2], [0.51], [0.95]], 0.5),
    }


def _right(overlap: list[list[float]], threshold: float) -> list[bool]:
    taken: set[int] = set()
    right = []
    for row in overlap:
        free = [t for t, value in enumerate(row) if value >= threshold and t not in taken]
        right.append(bool(free))
        taken |= {max(free, key=row.__getitem__)} if free else set()
    return right


def _greedy(overlap: list[list[float]], threshold: float, choose: Callable, fits: Callable, again: str) -> list[bool]:
    """Matching with another rule; `again`: whether a taken object is seen ("yes", "no", "fails")."""
    taken: set[int] = set()
    right = []
    for row in overlap:
        seen = [t for t, value in enumerate(row) if fits(value, threshold) and (again != "no" or t not in taken)]
        best = choose(seen, row) if seen else None
        good = best is not None and (again != "fails" or best not in taken)
        right.append(good)
        taken |= {best} if good else set()
    return right


def _best(seen: list[int], row: list[float]) -> int:
    return max(seen, key=row.__getitem__)


def _at_least(value: float, threshold: float) -> bool:
    return value >= threshold


def _hungarian(overlap: list[list[float]], threshold: float) -> list[bool]:
    if not overlap or not overlap[0]:
        return [False] * len(overlap)
    table = np.array(overlap)
    rows, columns = linear_sum_assignment(np.where(table >= threshold, -table, 0))
    good = {row for row, column in zip(rows, columns, strict=True) if table[row, column] >= threshold}
    return [index in good for index in range(len(overlap))]


def _all_that_fit(overlap: list[list[float]], threshold: float) -> list[bool]:
    """Each detection takes every free object that it reaches."""
    taken: set[int] = set()
    right = []
    for row in overlap:
        free = {t for t, value in enumerate(row) if value >= threshold} - taken
        right.append(bool(free))
        taken |= free
    return right


def _poor_ones_take(overlap: list[list[float]], threshold: float) -> list[bool]:
    """Each detection takes its best free object, even if their IoU is too small to be right."""
    taken: set[int] = set()
    right = []
    for row in overlap:
        free = [t for t in range(len(row)) if t not in taken]
        best = max(free, key=row.__getitem__) if free else None
        right.append(best is not None and row[best] >= threshold)
        taken |= set() if best is None else {best}
    return right


def _objects_choose(overlap: list[list[float]], threshold: float) -> list[bool]:
    """Each object names the detection that overlaps it most."""
    named = set()
    for t in range(len(overlap[0])):
        column = [row[t] for row in overlap]
        if max(column) >= threshold:
            named.add(column.index(max(column)))
    return [index in named for index in range(len(overlap))]


_MATCH_MISTAKES: dict[str, Callable] = {
    "an object is found once; a second detection of it is wrong": lambda o, t: _greedy(o, t, _best, _at_least, "yes"),
    "a detection whose best object is taken may still have the next best, if that fits": lambda o, t: _greedy(
        o, t, _best, _at_least, "fails"
    ),
    "an IoU equal to the threshold is enough": lambda o, t: _greedy(o, t, _best, lambda a, b: a > b, "no"),
    "each takes the object that it overlaps most, not the first that fits": lambda o, t: _greedy(
        o, t, lambda seen, row: seen[0], _at_least, "no"
    ),
    "the surest detection chooses first, even if a later one fits better; this is another assignment, as in 02": (
        _hungarian
    ),
    "here the objects choose; the detections do, one after the other": _objects_choose,
    "a detection takes one object, not every one that it reaches": _all_that_fit,
    "a detection below the threshold takes nothing; its object stays free": _poor_ones_take,
    "the threshold has no effect": lambda o, t: _greedy(o, 1e-9, _best, _at_least, "no"),
    "the last row chose first; the rows come by falling score": lambda o, t: _right(o[::-1], t)[::-1],
    "right and wrong are exchanged": lambda o, t: [not each for each in _right(o, t)],
}
