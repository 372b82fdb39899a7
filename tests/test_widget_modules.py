"""The widgets' ES modules, run by node, give Python's numbers on a thousand random cases, and broken copies do not."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from node import run_module

from detr_mini import hungarian
from detr_mini.detection import Detections
from detr_mini.detr import Attention
from detr_mini.plots import boxes as box_plots
from detr_mini.plots.hungarian import _search
from detr_mini.widgets import AssignmentTimeline, AttentionExplorer, BoxLab, MatchingLab, PositionExplorer
from detr_mini.widgets.position_explorer import KINDS, WAYS

CASES = 1000
CLASSES = 5


def boxes(dice: np.random.Generator, count: int) -> list:
    size = dice.uniform(0.02, 0.6, (count, 2))
    return np.concatenate([dice.uniform(0, 1, (count, 2)), size], axis=1).tolist()


def two_boxes(seed: int) -> dict:
    dice = np.random.default_rng(seed)
    corners = np.sort(dice.uniform(-0.1, 1.1, (2, 2, 2)), axis=1).reshape(2, 4)  # x1, y1, x2, y2
    if seed % 10 == 0:
        corners[1, :2] = corners[0, :2]  # sides that coincide share the gradient
    if seed % 50 == 0:
        corners[1] = corners[0]
    if seed % 50 == 1:
        corners[0, 2:] = corners[0, :2]  # no area
    if seed % 50 == 2:
        corners[1] = corners[0] + seed / 64  # equal sizes, but for rounding
    return {"a": corners[0].tolist(), "b": corners[1].tolist()}


def scene(seed: int) -> dict:
    dice = np.random.default_rng(seed)
    queries, objects = dice.integers(1, 9), dice.integers(0, 9)
    truth = torch.tensor(boxes(dice, objects), dtype=torch.float32).reshape(-1, 4).double().tolist()
    probabilities = dice.dirichlet(np.full(CLASSES + 1, 0.4), queries).tolist()
    return {
        "boxes": boxes(dice, queries),
        "probabilities": probabilities,
        "truth": {"boxes": truth, "labels": dice.integers(0, CLASSES, objects).tolist()},
        "weights": dict(zip(("label", "l1", "giou"), dice.uniform(0, 10, 3).tolist(), strict=True)),
    }


def lab_of(case: dict) -> MatchingLab:
    target = {"boxes": torch.tensor(case["truth"]["boxes"]).reshape(-1, 4), "labels": case["truth"]["labels"]}
    given = {"target": target, "predictions": case["boxes"], "probabilities": case["probabilities"]}
    lab = MatchingLab(**given, names=[f"kind {index}" for index in range(CLASSES)])
    lab.change(weights=case["weights"])
    return lab


@pytest.fixture(scope="module")
def pairs_of_boxes():
    return [two_boxes(seed) for seed in range(CASES)]


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(CASES)]


MEASURE = "cases.map(({ a, b }) => module.measures(a, b))"
LOSS_WEIGHTS = "{ label: 1, l1: 5, giou: 2, no_object: 0.1 }"
VIEW = f"cases.map((state) => module.matchingView(state, {{ loss_weights: {LOSS_WEIGHTS} }}))"


def worst_measure(answers: list[dict], cases: list[dict]) -> float:
    worst = 0.0
    for answer, case in zip(answers, cases, strict=True):
        wanted = box_plots.measures(case["a"], case["b"])
        pairs = [(answer[name], getattr(wanted, name)) for name in ("iou", "giou", "l1")]
        for name in ("iou", "giou", "l1"):
            pairs += zip(answer[f"{name}Gradient"], getattr(wanted, f"{name}_gradient").tolist(), strict=True)
        worst = max([worst, *(abs(a - b) / max(1, abs(b)) for a, b in pairs)])
    return worst


def test_measures_and_gradients_are_pythons(pairs_of_boxes):
    assert worst_measure(run_module(BoxLab, MEASURE, pairs_of_boxes), pairs_of_boxes) < 1e-6


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("Math.max(a2, b2) - Math.min(a1, b1)", "Math.max(a2, b2) - Math.max(a1, b1)"),
        ("(by - value * wholeBy[i]) / whole", "(by + value * wholeBy[i]) / whole"),
        ("(x2 - x1) / 2, (y2 - y1) / 2];\n}", "(x2 - x1), (y2 - y1)];\n}"),
        ("a1 < b1 ? 0 : 0.5", "0"),
        ("overlap > 0 ? 1 : 0", "1"),
        ("> STILL ? Math.sign", "> 0 ? Math.sign"),
    ],
    ids=["hull", "quotient rule", "width", "tie", "apart", "rounding"],
)
def test_a_wrong_copy_of_the_measures_is_found(right, wrong, pairs_of_boxes):
    answers = run_module(BoxLab, MEASURE, pairs_of_boxes, change=(right, wrong))
    assert worst_measure(answers, pairs_of_boxes) > 1e-3


def differences(answers: list[dict], cases: list[dict]) -> set[str]:
    """What differs from Python's answer anywhere."""
    found = set()

    def close(name, mine, theirs):
        mine, theirs = (np.asarray(values, dtype=float) for values in (mine, theirs))
        if mine.size != theirs.size or not np.allclose(mine.ravel(), theirs.ravel(), rtol=1e-6, atol=1e-6):
            found.add(name)

    for answer, case in zip(answers, cases, strict=True):
        lab = lab_of(case)
        state = lab.assignment
        for name, term in state.terms.items():
            close(name, answer["terms"][name], term)
        close("cost", answer["cost"], state.cost)
        close("totals", [answer["optimalTotal"], answer["greedyTotal"]], [state.optimal_total, state.greedy_total])
        close("margin", [min(float(answer["margin"]), 1e9)], [min(state.margin, 1e9)])
        if [tuple(pair) for pair in answer["optimal"]] != state.optimal:
            found.add("optimal")
        if [tuple(pair) for pair in answer["greedy"]] != state.greedy:
            found.add("greedy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # more objects than queries
            losses = lab.losses
        for name in ("owner", "label", "l1", "giou"):
            close(f"loss {name}", answer["losses"][name], getattr(losses, name))
    return found


def test_costs_assignments_and_losses_are_pythons(scenes):
    assert not differences(run_module(MatchingLab, VIEW, scenes), scenes)


def wrong_steps(answers: list[list[dict]], costs: list[list]) -> set[str]:
    """What differs from Python's steps on the same costs, ties and all."""
    found = set()
    for answer, cost in zip(answers, costs, strict=True):
        steps = list(hungarian.trace(np.array(cost)))
        kinds = [(step.kind, step.adds, step.added, step.reached) for step in steps]
        if [(mine["kind"], mine["adds"], mine["added"], mine["reached"]) for mine in answer] != kinds:
            found.add("kind")
            continue
        for mine, step in zip(answer, steps, strict=True):
            for name, values in (
                ("rowPotentials", step.row_potentials),
                ("columnPotentials", step.column_potentials),
                ("slack", step.slack),
            ):
                if not np.allclose(np.array(mine[name], dtype=float), values, rtol=1e-9, atol=1e-9):
                    found.add(name)
            if mine["visited"] != step.visited.tolist() or [tuple(edge) for edge in mine["path"]] != step.path:
                found.add("path")
            if {row: column for row, column in mine["matching"]} != step.matching:
                found.add("matching")
            if [set(mine["searching"][way]) for way in ("rows", "columns")] != [*_search(step)]:
                found.add("search")
    return found


@pytest.fixture(scope="module")
def costs():
    dice = np.random.default_rng(0)
    shapes = [dice.integers(1, 8, 2) for _ in range(CASES)]
    drawn = [dice.uniform(-5, 5, shape) for shape in shapes]
    return [(cost.round() if index % 3 == 0 else cost).tolist() for index, cost in enumerate(drawn)]


STEPS = (  # of every step its numbers, and who is in the search
    "cases.map((cost) => module.trace(cost).map((step) => ({ ...step, searching: Object.fromEntries("
    "Object.entries(module.searching(step)).map(([way, set]) => [way, [...set]])) })))"
)


def test_every_step_of_the_algorithm_is_pythons(costs):
    assert not wrong_steps(run_module(MatchingLab, STEPS, costs), costs)


@pytest.mark.parametrize(
    "right, wrong, shows_in",
    [
        ("u[rowOf[j]] += rise;", "", "rowPotentials"),
        ("from[j] = row;", "", "path"),
        ("reduced < slack[j]", "reduced <= slack[j]", "path"),
        ("k < path.length; k += 2", "k < path.length - 1; k += 2", "matching"),
        ("owners = new Set([step.added])", "owners = new Set()", "search"),
        ("owners.add(byRows ? row : column)", "owners.add(byRows ? column : row)", "search"),
    ],
    ids=["potentials", "from", "tie", "flip", "entering", "owners"],
)
def test_a_wrong_copy_of_the_algorithm_is_found(right, wrong, shows_in, costs):
    found = wrong_steps(run_module(MatchingLab, STEPS, costs[:300], change=(right, wrong)), costs[:300])
    assert found & {shows_in, "kind"}


@pytest.mark.parametrize(
    "right, wrong, shows_in",
    [
        ("-weights.label * sure[q][labels[t]]", "-weights.label * Math.log(sure[q][labels[t]])", "class"),
        ("-weights.giou * giou(corners(box), corners(truth))", "-weights.giou * giou(box, truth)", "GIoU"),
        ("weights.giou * (1 - giou", "weights.giou * (0 - giou", "loss giou"),
        ("weights.no_object : 1", "1 : weights.no_object", "loss label"),
        ("cost[r][c] < cost[best[0]][best[1]]", "cost[r][c] <= cost[best[0]][best[1]] + 0.5", "greedy"),
        ("best = Math.min(best, total(cost, others))", "best = total(cost, others)", "margin"),
    ],
    ids=["log", "corners", "one minus", "no object", "greedy", "margin"],
)
def test_a_wrong_copy_of_the_assignment_is_found(right, wrong, shows_in, scenes):
    some = scenes[:200]
    assert shows_in in differences(run_module(MatchingLab, VIEW, some, change=(right, wrong)), some)


WORDS = {  # 3 queries x 4 objects and the other way round, by hand
    "wide": [
        "q0 enters with u = 1.00, its smallest cost − v",
        "o0 has slack 0: reached without a rise; o0 is free: the path ends here",
        "q0 is matched",
        "q1 enters with u = 1.00, its smallest cost − v",
        "o0 has slack 0: reached without a rise; its owner q0 joins the search",
        "smallest slack 1.00 (o1): q0, q1 rise by it, o0 falls by it; o1 is free: the path ends here",
        "the path is flipped: + enters, − leaves, and q1 is matched",
    ],
    "tall": [
        "o0 enters with v = 1.00, its smallest cost − u",
        "q0 has slack 0: reached without a rise; q0 is free: the path ends here",
        "o0 is matched",
        "o1 enters with v = 1.00, its smallest cost − u",
        "q0 has slack 0: reached without a rise; its owner o0 joins the search",
        "smallest slack 1.00 (q1): o0, o1 rise by it, q0 falls by it; q1 is free: the path ends here",
        "the path is flipped: + enters, − leaves, and o1 is matched",
    ],
}


def test_the_steps_are_put_into_words():
    wide = np.array([[1.0, 2, 5, 9], [1, 4, 6, 9], [0, 3, 7, 9]])
    happening = "cases.map((cost) => module.trace(cost).map((_, index, steps) => module.happens(steps, index)))"
    answers = run_module(MatchingLab, happening, [wide.tolist(), wide.T.tolist()])
    for said, words in zip(answers, WORDS.values(), strict=True):
        assert said[: len(words)] == words and len(said) == 12


def test_a_probability_that_is_set_leaves_the_others_their_shares():
    cases = [[[0.2, 0.3, 0.5], 0, 0.6], [[1, 0, 0], 0, 0.4], [[0.5, 0.25, 0.25], 2, 1]]
    answers = run_module(MatchingLab, "cases.map((given) => module.withProbability(...given))", cases)
    np.testing.assert_allclose(answers, [[0.6, 0.15, 0.25], [0.4, 0.3, 0.3], [0, 0, 1]])


def explorers() -> list[tuple[PositionExplorer, dict]]:
    """A thousand settings of one explorer's grid, with the explorer that answers for them."""
    explorer, dice, cases = PositionExplorer(size=(7, 9), width=64), np.random.default_rng(0), []
    for _ in range(CASES):
        cell = [int(dice.integers(0, 7)), int(dice.integers(0, 9))]
        state = {"kind": str(dice.choice(KINDS)), "way": str(dice.choice(WAYS)), "cell": cell}
        cases.append(state | {"temperature": float(10 ** dice.uniform(0.5, 5))})
    return explorer, cases


def worst_similarity(change: tuple[str, str] | None = None) -> float:
    explorer, cases = explorers()
    given = explorer.traits_now()["given"]
    answers = run_module(
        PositionExplorer,
        "cases.states.map((state) => module.similarityMap(state, cases.given))",
        {"states": cases, "given": given},
        change,
    )
    worst = 0.0
    for answer, case in zip(answers, cases, strict=True):
        explorer.change(**case)
        worst = max(worst, np.abs(np.array(answer) - explorer.similarity.map).max())
    return worst


def test_similarities_are_pythons():
    assert worst_similarity() < 1e-6


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("temperature ** (-k / hands)", "temperature ** (-k / (2 * hands))"),
        ("((r - row) / (rows + 1e-6)) * 2 * Math.PI", "(r - row) / rows"),
        ("symmetric(learned.rows, r1, r2)", "symmetric(learned.columns, r1, r2)"),
        ("(low * (low - 1)) / 2", "(low * (low + 1)) / 2"),
        ("own * product(r, c, r, c)", "own * own"),
    ],
    ids=["hands", "turn", "axis", "triangle", "norm"],
)
def test_a_wrong_copy_of_the_similarity_is_found(right, wrong):
    assert worst_similarity((right, wrong)) > 1e-4


@pytest.fixture(scope="module")
def explorer():
    """Random attention over a grid that is not square and covers more than the image."""
    dice = torch.Generator().manual_seed(0)
    layers, heads, queries, rows, columns = 3, 4, 6, 5, 7

    def weights(*shape):
        return torch.randn(*shape, rows * columns, generator=dice).mul(3).softmax(-1)

    attention = Attention(weights(2, 1, heads, rows * columns), weights(layers, 1, heads, queries), (rows, columns))
    corners = torch.rand(4, 2, 2, generator=dice).sort(1).values.flatten(1) * torch.tensor([100.0, 70.0] * 2)
    found = Detections(corners, torch.rand(4), torch.arange(4), ["cat"] * 4, torch.tensor([5, 0, 3, 1]))
    return AttentionExplorer(torch.zeros(3, 70, 100, dtype=torch.uint8), found, attention, grid_px=(80.0, 112.0))


def worst_view(explorer: AttentionExplorer, change: tuple[str, str] | None = None) -> float:
    dice, cases = np.random.default_rng(0), []
    for _ in range(CASES):
        point = dice.random() < 0.5
        token = [int(dice.integers(0, 5)), int(dice.integers(0, 7))] if point else None
        head = None if dice.random() < 0.3 else int(dice.integers(0, 4))
        layer = int(dice.integers(0, 2 if point else 3))
        cases.append({"pick": int(dice.integers(0, 4)), "token": token, "layer": layer, "head": head})
    arrays = "{ decoder: module.floats(cases.given.decoder), encoder: module.floats(cases.given.encoder) }"
    expression = (
        f"((arrays) => cases.states.map((state) => module.attentionView(state, cases.given, arrays)))({arrays})"
    )
    given = explorer.traits_now()["given"]
    answers, worst = run_module(AttentionExplorer, expression, {"states": cases, "given": given}, change), 0.0
    for answer, case in zip(answers, cases, strict=True):
        explorer.change(**case)
        view = explorer.view
        pairs = [(answer["weights"], view.weights), (answer["entropyBits"], view.entropy_bits)]
        pairs += [(answer["peak"], view.peak), (answer["peakShare"], view.peak_share)]
        if view.share_in_box is not None:
            pairs.append((answer["shareInBox"], view.share_in_box))
        else:
            assert answer["shareInBox"] is None
        far = [np.abs(np.asarray(mine, float) - np.asarray(theirs, float)).max() for mine, theirs in pairs]
        worst = max([worst, *(np.inf if np.isnan(one) else one for one in far)])  # a number that is none is far off
    return worst


def test_attention_maps_and_their_numbers_are_pythons(explorer):
    assert worst_view(explorer) < 1e-6


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("layer * heads + h", "h * heads + layer"),
        ("token[0] * columns + token[1]", "token[1] * rows + token[0]"),
        ("/ chosen.length", ""),
        ("Math.log2(weight)", "Math.log(weight)"),
        ("covered(map.length, high, y1, y2)", "covered(map.length, wide, y1, y2)"),
        ("token === null ? decoder : encoder", "decoder"),
    ],
    ids=["layer", "token", "mean", "bits", "grid", "encoder"],
)
def test_a_wrong_copy_of_the_maps_is_found(right, wrong, explorer):
    assert worst_view(explorer, (right, wrong)) > 1e-3


def runs() -> list[AssignmentTimeline]:
    dice, labs = np.random.default_rng(0), []
    for _ in range(40):
        objects, queries, points = dice.integers(1, 7), 8, 26
        records = [
            {
                "step": 10 * point,
                "matches": {"3": [dice.choice(queries, objects, replace=False).tolist() for _ in range(2)]},
                "answers": {"3": {"boxes": boxes(dice, queries), "object": dice.random(queries).tolist()}},
            }
            for point in range(points)
        ]
        target = {"boxes": torch.rand(objects, 4), "labels": torch.zeros(objects, dtype=torch.int64)}
        labs.append(AssignmentTimeline(records, 3, torch.zeros(3, 8, 8, dtype=torch.uint8), target, ["cat"]))
    return labs


def timelines_differ(change: tuple[str, str] | None = None) -> bool:
    labs = runs()
    givens = [lab.traits_now()["given"] for lab in labs]
    expression = "cases.map((given) => given.frames.map((_, index) => module.timelineView({ index }, given)))"
    answers = run_module(AssignmentTimeline, expression, givens, change)
    assert sum(map(len, answers)) >= CASES
    for answer, lab in zip(answers, labs, strict=True):
        table = [frame["instability"] for frame in answer[1:]]
        if not np.allclose(table, lab.instability, atol=1e-9):
            return True
        for index, mine in enumerate(answer):
            lab.index = index
            frame = lab.frame
            if mine["changed"] != frame.changed.tolist() or mine["query"] != frame.query.tolist():
                return True
            if mine["step"] != frame.step or not np.allclose(mine["boxes"], frame.boxes_cxcywh):
                return True
    return False


def test_frames_and_instability_are_pythons():
    assert not timelines_differ()


def test_the_spans_of_owners_are_pythons():
    labs = runs()
    givens = [lab.traits_now()["given"] for lab in labs]
    expression = "cases.map(({ frames, truth }) => truth.boxes.map((_, t) => module.owners(frames, t)))"
    for answer, lab in zip(run_module(AssignmentTimeline, expression, givens), labs, strict=True):
        owner = np.array([frame.query for frame in lab.frames]).T  # (T, P)
        for spans, row in zip(answer, owner, strict=True):
            assert (
                np.concatenate([np.full(end - first + 1, query) for query, first, end in spans]).tolist()
                == row.tolist()
            )
            assert all(one[0] != other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("frames[index - 1].query : now.query", "frames[0].query : now.query"),
        ("query !== before[t]", "query === before[t]"),
        ("filter(Boolean).length / flags.length", "filter(Boolean).length"),
    ],
    ids=["before", "same", "share"],
)
def test_a_wrong_copy_of_the_timeline_is_found(right, wrong):
    assert timelines_differ((right, wrong))
