"""The Python side of the widgets: what can be set and read, what is refused, what is said."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from detr_mini import matching
from detr_mini.datasets.toybox import Toybox
from detr_mini.detection import Detections
from detr_mini.detr import Attention
from detr_mini.positions import LearnedEncoding
from detr_mini.widgets import AssignmentTimeline, AttentionExplorer, BoxLab, MatchingLab, PositionExplorer


def explorer() -> AttentionExplorer:
    weights = torch.full((2, 1, 2, 12, 12), 1 / 12)
    found = Detections(
        torch.tensor([[1.0, 2, 20, 20]]), torch.tensor([0.9]), torch.tensor([0]), ["cat"], torch.tensor([3])
    )
    attention = Attention(weights, torch.full((3, 1, 2, 5, 12), 1 / 12), (3, 4))
    return AttentionExplorer(torch.zeros(3, 24, 32, dtype=torch.uint8), found, attention)


def timeline() -> AssignmentTimeline:
    def point(step, query):
        answer = {"boxes": [[0.5, 0.5, 0.2, 0.2]] * 3, "object": [0.1, 0.9, 0.2]}
        return {"step": step, "matches": {"2": [[query]]}, "answers": {"2": answer}}

    target = {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]), "labels": torch.tensor([0])}
    records = [point(0, 1), point(10, 2), point(20, 2)]
    return AssignmentTimeline(records, 2, torch.zeros(3, 8, 8, dtype=torch.uint8), target, ["cat"])


LABS = {
    "boxes": BoxLab,
    "matching": MatchingLab,
    "positions": PositionExplorer,
    "attention": explorer,
    "timeline": timeline,
}


def from_page(lab, **part) -> None:
    """As a page does it: the state as it last saw it, with what was touched, a number and the view's name."""
    number = lab.state["number"] + 1
    lab.set_state(
        {
            "state": {
                **lab.state,
                **part,
                "number": number,
                "by": "a view",
                "touched": list(part),
                "seen": lab._good["number"],
            }
        }
    )


@pytest.mark.parametrize("make", LABS.values(), ids=LABS)
def test_a_lab_says_what_it_is_has_a_figure_and_holds_plain_numbers(make):
    lab = make()
    before = repr(lab)
    assert before.startswith(f"{type(lab).__name__}: ") and before.endswith("run this cell to play")
    assert isinstance(lab.figure(), Figure)
    assert json.loads(json.dumps(lab.traits_now(), allow_nan=False))["state"] == lab.state
    from_page(lab)
    assert repr(lab) == before, "the stored line does not change while somebody plays"


def test_python_sets_and_reads_what_the_mouse_does():
    lab = MatchingLab("greedy fails")
    assert lab.assignment.optimal == [(0, 0), (1, 1)]
    lab.predictions = lab.predictions.flip(0)
    assert lab.assignment.optimal == [(0, 1), (1, 0)] and lab.state["by"] == "python"
    lab.weights = matching.Weights(0, 0, 0)
    assert lab.assignment.optimal_total == 0
    lab.preset = "more objects than queries"
    assert len(lab.predictions) == 3 and len(lab.target["labels"]) == 4 and lab.weights == matching.Weights()
    lab.step = np.int64(len(lab.steps) - 1)
    assert dict(lab.assignment.optimal) == lab.steps[lab.step].matching
    from_page(lab, boxes=lab.predictions.flip(0).tolist(), step=None)
    assert lab.step is None and lab.heard == "a view 5" and lab.trouble == ""
    lab.target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert lab.preset is None and lab.assignment.optimal == [] and lab.losses.total > 0


def test_a_scene_without_predictions_has_a_figure():
    lab = MatchingLab()
    lab.change(boxes=[], probabilities=[])
    assert isinstance(lab.figure(), Figure) and lab.steps == []


def test_boxlab_measures_what_is_set():
    lab = BoxLab((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5))
    assert lab.measures.iou == 1
    lab.a = torch.tensor([0.0, 0, 0.25, 0.5])
    lab.measure = "L1"
    assert lab.measures.iou == pytest.approx(0.5) and lab.measure == "L1"
    from_page(lab, b=[0.5, 0.5, 1.0, 1.0])
    assert lab.b == [0.5, 0.5, 1.0, 1.0] and lab.measures.iou == 0


def test_explorers_answer_for_what_is_set():
    positions = PositionExplorer()
    positions.kind, positions.cell = "none", (0, 0)
    assert positions.similarity.lowest == 1
    positions.kind, positions.way, positions.temperature = "sine", "one sequence", 20
    assert positions.similarity.map.shape == positions.size and positions.similarity.map[0, 0] == pytest.approx(1)
    attention = explorer()
    assert attention.view.share_in_box == pytest.approx(19 * 18 / (24 * 32), abs=1e-4)
    attention.token, attention.head = (2, 3), 1
    assert attention.layer == 1 and attention.view.entropy_bits == pytest.approx(np.log2(12), abs=1e-5)
    attention.pick = 0
    assert attention.token is None
    run = timeline()
    run.index = 1
    assert run.frame.changed.tolist() == [True] and run.instability.tolist() == [1, 0]


@pytest.mark.parametrize(
    "set_it, message",
    [
        (lambda: BoxLab((0.5, 0.5, 0.2, 0.2)), "its right lower corner comes first"),
        (lambda: BoxLab((0, 0, float("nan"), 1)), "box a holds nan"),
        (lambda: BoxLab((0, 0, 1)), r"shape \(3,\)"),
        (lambda: BoxLab(measure="DIoU"), "wanted one of IoU, GIoU, L1"),
        (lambda: MatchingLab("nothing"), "no preset 'nothing': greedy fails"),
        (lambda: setattr(MatchingLab(), "predictions", torch.zeros(2, 3)), "wanted rows of 4 numbers"),
        (lambda: setattr(MatchingLab(), "predictions", torch.zeros(3, 4)), "3 predictions and 2 rows"),
        (lambda: setattr(MatchingLab(), "probabilities", -torch.ones(2, 21)), "of prediction 0 are negative"),
        (lambda: setattr(MatchingLab(), "predictions", torch.full((2, 4), torch.inf)), "predictions holds inf"),
        (lambda: setattr(MatchingLab(), "target", {"boxes": torch.rand(1, 4), "labels": [20]}), r"labels \[20\]"),
        (lambda: setattr(MatchingLab(), "step", 99), r"step 99, wanted 0\.\."),
        (lambda: setattr(MatchingLab(), "step", 1.5), r"step is 1\.5: a whole number is wanted"),
        (lambda: setattr(MatchingLab(), "preset", "nonsense"), "no preset 'nonsense': greedy fails"),
        (lambda: setattr(MatchingLab(), "lines", "all"), "wanted one of optimal, greedy, both"),
        (lambda: setattr(MatchingLab(), "target", {"boxes": torch.rand(1, 4), "labels": [1.7]}), "whole numbers"),
        (lambda: MatchingLab(target={"boxes": [], "labels": []}), "wants predictions"),
        (lambda: PositionExplorer("cosine"), "kind 'cosine', wanted one of sine"),
        (lambda: PositionExplorer(size=(40, 40)), "wanted 1 to 256"),
        (lambda: PositionExplorer(cell=(10, 0)), r"cell \(10, 0\) outside the grid of 10 rows"),
        (lambda: setattr(explorer(), "layer", 3), r"layer 3, wanted 0\.\.2"),
        (lambda: setattr(explorer(), "token", (3, 0)), "outside a feature map of 3 x 4"),
        (lambda: setattr(timeline(), "index", 3), r"index 3, wanted 0\.\.2"),
    ],
)
def test_what_cannot_be_shown_is_refused(set_it, message):
    with pytest.raises(ValueError, match=message):
        set_it()


def test_a_page_that_sends_nonsense_gets_the_reason_and_python_keeps_its_state():
    lab = MatchingLab()
    before = lab.predictions
    from_page(lab, boxes=[[0.5, 0.5, None, 0.1]] * 2)
    assert "Python refuses this" in lab.trouble and torch.equal(lab.predictions, before)
    assert lab.heard == "a view 1", "answered, so that the page goes on"
    assert lab.state["by"] == "python" and lab.state["boxes"] == before.tolist(), "the page gets the good state back"
    from_page(lab, boxes=before.flip(0).tolist())
    assert lab.trouble == "" and torch.equal(lab.predictions, before.flip(0))


def test_a_function_of_the_reader_is_called_and_its_error_is_shown():
    lab, seen = BoxLab(), []
    lab.on_change(lambda: seen.append(lab.a))
    from_page(lab, a=[0.0, 0.0, 0.1, 0.1])
    assert seen == [[0.0, 0.0, 0.1, 0.1]]
    lab.on_change(lambda: seen[99])
    from_page(lab, a=[0.0, 0.0, 0.2, 0.2])
    assert "IndexError" in lab.trouble and lab.a == [0.0, 0.0, 0.2, 0.2] and len(seen) == 2


def test_a_message_made_before_pythons_last_change_does_not_undo_it():
    lab = BoxLab((0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9))
    page = lab.state
    lab.b = (0.5, 0.5, 0.9, 0.9)
    sent = {**page, "a": [0.2, 0.1, 0.5, 0.4], "number": 7, "by": "a view", "touched": ["a"]}
    lab.set_state({"state": sent})
    assert lab.a == [0.2, 0.1, 0.5, 0.4] and lab.b == [0.5, 0.5, 0.9, 0.9]
    assert lab.state["by"] == "python" and lab.state["a"] == lab.a and lab.state["b"] == lab.b, "the page is told"
    number = lab.state["number"]
    lab.set_state({"state": {**lab.state, "a": [0.0, 0.1, 0.5, 0.4], "by": "a view", "touched": ["a"], "seen": number}})
    assert lab.state["by"] == "a view" and lab._good["number"] == number, "nothing to tell a page that knew all"


def test_a_function_that_changes_the_widget_is_not_called_by_its_own_change():
    lab, calls = BoxLab(), []

    def snap() -> None:
        calls.append(lab.a)
        lab.a = [round(8 * side) / 8 for side in lab.a]

    lab.on_change(snap)
    from_page(lab, a=[0.13, 0.1, 0.49, 0.4])
    assert len(calls) == 1 and lab.a == [0.125, 0.125, 0.5, 0.375] and lab.trouble == ""
    lab.a = (0.26, 0.25, 0.5, 0.5)
    assert len(calls) == 2 and lab.a[0] == 0.25


def test_the_experiments_of_notebook_02_come_out_as_told():
    lab, lost = MatchingLab("greedy fails"), []
    for _ in range(3):
        lost.append(lab.assignment.greedy_total - lab.assignment.optimal_total)
        first = lab.assignment.cost[:, 0]
        lab.predictions = lab.predictions + torch.tensor([[0, 0, 0, 0], [0, 1 / 64, 0, 0]])  # an arrow key, down
    assert lost == pytest.approx([4.95, 5.19, 0], abs=5e-3) and first == pytest.approx([2.73, 2.75], abs=5e-3)
    lab = MatchingLab("class beats geometry")
    found = {}
    for weight in (1, 0.95, 0.55, 0.5):
        lab.weights = matching.Weights(weight, 5, 2)
        found[weight] = lab.assignment.optimal, lab.assignment.greedy_total > lab.assignment.optimal_total + 1e-6
    crossed, straight = [(0, 1), (1, 0)], [(0, 0), (1, 1)]
    assert found == {
        1: (crossed, False), 0.95: (crossed, True), 0.55: (crossed, True), 0.5: (straight, False)
    }  # fmt: skip
    lab = MatchingLab("more objects than queries")
    before = lab.assignment.optimal_total
    more = torch.cat([lab.predictions, torch.tensor([[0.58, 0.58, 0.25, 0.25]])])
    lab.change(boxes=more.tolist(), probabilities=[*lab.probabilities.tolist(), [1 / 21] * 21])
    assert (before, lab.assignment.optimal_total) == pytest.approx((-4.23, -0.98), abs=5e-3)
    assert (3, 2) in lab.assignment.optimal
    assert len(MatchingLab("a chain").steps[9].path) == 5


def test_the_experiment_of_notebook_03_comes_out_as_told():
    boxes = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.75, 0.5, 0.25, 0.5], [0.125, 0.125, 0.25, 0.25]]
    eighths = np.array([[4, 2, 2], [2, 2, 4], [2, 2, 4], [3, 4, 1]]) / 8
    target = {"boxes": torch.tensor([[0.25, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5]]), "labels": [0, 1]}
    lab = MatchingLab(target=target, predictions=boxes, probabilities=eighths, names=["cat", "dog"], show_losses=True)

    def told() -> tuple:
        parts = lab.losses
        shares = np.asarray(parts.label) + np.asarray(parts.l1) + np.asarray(parts.giou)
        return lab.assignment.cost[3, 1], lab.assignment.optimal, shares[2], shares[3], parts.total

    seen = [told()]
    for last in ([0.75, 0.5, 0.25, 0.25], [0.8125, 0.5625, 0.375, 0.375], [0.75, 0.5, 0.5, 0.5]):
        lab.predictions = [*boxes[:3], last]
        seen.append(told())
    costs, pairs = [one[0] for one in seen], [one[1] for one in seen]
    assert costs[1:] == pytest.approx([1.5, 0.25, -2.5], abs=5e-3)
    assert pairs == [[(0, 0), (2, 1)]] * 3 + [[(0, 0), (3, 1)]]
    assert seen[0][2:] == pytest.approx((1.76, 0.09, 3.49), abs=6e-3)
    assert seen[3][2:] == pytest.approx((0.03, 0.32, 1.98), abs=6e-3)
    lab.predictions, lab.weights = boxes, matching.Weights(1, 0, 2)
    assert lab.losses.total == pytest.approx(seen[0][-1])


def test_a_page_that_has_not_seen_pythons_last_state_is_told_even_if_its_message_equals_the_outcome():
    lab = BoxLab((0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9))
    sent = {**lab.state, "a": [0.2, 0.1, 0.5, 0.4], "number": 1, "by": "a view", "touched": ["a"], "seen": 0}
    lab.a = (0.0, 0.0, 0.1, 0.1)
    lab.set_state({"state": sent})
    assert lab.a == [0.2, 0.1, 0.5, 0.4] and lab.state["by"] == "python" and lab.state["a"] == lab.a


def test_errors_of_functions_are_kept_and_an_interrupt_does_not_silence_them():
    lab, seen = BoxLab(), []
    lab.on_change(lambda: 1 / 0)
    lab.on_change(lambda: lab.change(measure="L1"))
    lab.on_change(lambda: [][1])
    lab.observe(lambda change: seen.append(change["new"]), "trouble")
    for _ in range(2):
        from_page(lab, a=[0.0, 0.0, 0.1, 0.1])
    assert "ZeroDivisionError" in lab.trouble and "IndexError" in lab.trouble
    assert len(seen) == 1, "said once, not at every message"
    lab, calls = BoxLab(), []

    def stopped() -> None:
        calls.append(lab.a)
        if len(calls) == 1:
            raise KeyboardInterrupt

    lab.on_change(stopped)
    with pytest.raises(KeyboardInterrupt):
        lab.a = (0.0, 0.0, 0.1, 0.1)
    lab.a = (0.0, 0.0, 0.2, 0.2)
    assert len(calls) == 2


def test_a_preset_with_own_numbers_begins_with_them():
    lab = MatchingLab("greedy fails", weights=matching.Weights(1, 50, 2))
    start = lab.traits_now()["given"]["presets"]["greedy fails"]
    assert start["weights"] == lab.state["weights"] and start["boxes"] == lab.state["boxes"]
    lab.weights = matching.Weights()
    lab.preset = "greedy fails"
    assert lab.weights.l1 == 50


def test_messages_stay_small():
    """Pictures, presets and maps go once; a drag sends what has changed hands only."""
    sizes = {name: len(json.dumps(make().state)) for name, make in LABS.items()}
    assert max(sizes.values()) < 3000, sizes
    assert tuple(MatchingLab().names) == Toybox.names


@pytest.mark.parametrize(
    "number", [1, np.int64(1), np.array(1), torch.tensor(1)], ids=["int", "numpy", "numpy array", "tensor"]
)
def test_indices_of_every_kind_are_taken(number):
    attention, positions, run = explorer(), PositionExplorer(), timeline()
    run.index, positions.cell, attention.pick = number, (number, number), 0 * number
    attention.layer, attention.head, attention.token = number, number, (number, number)
    assert (run.index, positions.cell, attention.token, attention.head) == (1, (1, 1), (1, 1), 1)
    for lab in (attention, positions, run):
        assert json.loads(json.dumps(lab.traits_now()))["state"] == lab.state
    assert PositionExplorer(cell=torch.tensor([2, 3])).cell == (2, 3)


@pytest.mark.parametrize(
    "number", [1.0, 1.5, True, np.float64(1), np.True_, torch.tensor(1.0), torch.tensor(True), "1"]
)
def test_what_is_no_index_is_refused_with_the_reason(number):
    attention, positions, run = explorer(), PositionExplorer(), timeline()
    for lab, name in ((run, "index"), (attention, "pick"), (attention, "layer"), (attention, "head")):
        before = lab.state
        with pytest.raises(ValueError, match="a whole number is wanted"):
            setattr(lab, name, number)
        assert lab.state == before
    for lab, name in ((attention, "token"), (positions, "cell")):
        with pytest.raises(ValueError, match=f"{name} is .*: a whole number is wanted"):
            setattr(lab, name, (0, number))


@pytest.mark.parametrize(
    "place, reason", [((1,), "1 numbers"), ((1, 2, 3), "3 numbers"), (5, "is 5"), ((), "0 numbers")]
)
def test_a_place_has_a_row_and_a_column(place, reason):
    for lab, name in ((explorer(), "token"), (PositionExplorer(), "cell")):
        with pytest.raises(ValueError, match=f"{name}.*{reason}.*a row and a column are wanted"):
            setattr(lab, name, place)


def test_a_page_cannot_send_an_index_that_python_would_refuse():
    for lab, part in (
        (timeline(), {"index": 1.5}),
        (explorer(), {"token": [0, True]}),
        (PositionExplorer(), {"cell": [1]}),
    ):
        before = lab._good
        from_page(lab, **part)
        assert "wanted" in lab.trouble and {**lab._good, "number": 0} == {**before, "number": 0}


def test_a_pick_without_detections_and_one_that_is_none_are_refused():
    lab = explorer()
    with pytest.raises(ValueError, match="detection"):
        lab.pick = None
    none = torch.zeros(0, dtype=torch.int64)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), none, [], none)
    lab = AttentionExplorer(torch.zeros(3, 24, 32, dtype=torch.uint8), nothing, lab.attention)
    with pytest.raises(ValueError, match="detection 0, but there is none"):
        lab.pick = 0


def run_of(boxes=((0.5, 0.5, 0.2, 0.2),), labels=(0,), names=("cat",), answer=0.5) -> AssignmentTimeline:
    queries = list(range(len(labels)))
    records = [
        {
            "step": step,
            "matches": {"2": [queries]},
            "answers": {"2": {"boxes": [[answer, 0.5, 0.2, 0.2]] * 3, "object": [0.1, 0.9, 0.2]}},
        }
        for step in (0, 10)
    ]
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return AssignmentTimeline(records, 2, torch.zeros(3, 8, 16, dtype=torch.uint8), target, names)


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"answer": float("nan")}, "step 0 has boxes or scores that are not finite: this run diverged"),
        ({"labels": (1,)}, "label 1 has no name: 1 names were given"),
        ({"labels": (-1,)}, "label -1 has no name"),
        ({"boxes": ((float("inf"), 0, 0, 0),)}, "the target's boxes holds inf"),
    ],
    ids=["diverged", "names", "below zero", "target"],
)
def test_a_run_that_cannot_be_shown_is_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        run_of(**given)


@pytest.mark.filterwarnings("error")
def test_a_scene_without_objects_has_an_instability_of_zero():
    lab = run_of(boxes=(), labels=())
    assert lab.traits_now()["given"]["instability"] == [0] and lab.instability.tolist() == [0]
    assert lab.traits_now()["given"]["aspect"] == 0.5


def test_codes_without_a_length_are_refused():
    encoding = LearnedEncoding(8)
    with torch.no_grad():
        for table in encoding.parameters():
            table[3:] = 0
    with pytest.raises(ValueError, match=r"cell \(3, 3\) has length 0"):
        PositionExplorer("learned", width=8, encoding=encoding)
