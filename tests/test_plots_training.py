"""Notebook 09's figures draw what they are given, and the numbers behind them are those of the logs and of torch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from detr_mini.plots import style
from detr_mini.plots import training as plots

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")


def records(steps=(20, 40, 60), level=1.0, layers=2):
    made = []
    for step in steps:
        parts = {part: [level / step + layer for layer in range(layers)] for part in plots.PARTS}
        made.append(
            {"step": step, "loss": 100 / step, "grad_norm": 3.0, "class_error": 50.0, "cardinality": 1.0} | parts
        )
    box = {"boxes_xyxy_px": [[1.0, 2.0, 30.0, 40.0]], "labels": [1], "scores": [0.9]}
    made.append({"step": steps[-1], "eval": {"ap50": 0.5 * level}})
    made.append({"step": steps[-1], "said": {"a_scene": 2.0 * level, "scenes": [box]}})
    made.append({"step": steps[-1], "seen": {"ap50": 0.9}})
    return made


def log(level=1.0, name="healthy", seed=0, **more):
    return plots.log_of(records(level=level, **more), name, seed)


def texts(figure) -> str:
    every = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        every += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)]
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return "\n".join([*every, *(text.get_text() for legend in legends for text in legend.get_texts())])


def readable(figure):
    """All type has at least 8 points, and the picture can be made."""
    sizes = [text.get_fontsize() for axes in figure.axes for text in (axes.title, axes.xaxis.label, *axes.texts)]
    assert min(sizes) >= 8
    assert figure.get_size_inches()[0] == style.PAGE_IN and len(style.png(figure)) > 1000
    return figure


# the numbers


def test_a_log_holds_the_records_in_order():
    one = log()
    assert one.step.tolist() == [20, 40, 60] and one.label.shape == (3, 2)
    assert one.curve("l1")[1].tolist() == [1 + 1 / 20, 1 + 1 / 40, 1 + 1 / 60]  # the last layer's
    assert one.end("ap50") == 0.5 and one.end("said") == 2 and one.at("loss", 38) == 2.5
    assert one.end("loss", last=2) == pytest.approx((2.5 + 100 / 60) / 2)
    assert one.scenes[0]["labels"] == [1]


def test_a_gallery_has_a_list_of_seeds_for_each_name(tmp_path):
    runs = {f"{name}-{seed}": {"seed": seed} for seed in (1, 0) for name in ("no-object-weight-1", "healthy")}
    (tmp_path / "runs.json").write_text(json.dumps({"runs": runs}))
    for key in runs:
        (tmp_path / f"{key}.jsonl").write_text("\n".join(map(json.dumps, records())))
    logs = plots.gallery(tmp_path)
    assert {name: [each.seed for each in seeds] for name, seeds in logs.items()} == {
        "no-object-weight-1": [0, 1],
        "healthy": [0, 1],
    }


def test_smooth_by_hand_equals_a_loop():
    assert style.running_mean(np.array([1.0, 3.0, 5.0, 9.0]), 2).tolist() == [1, 2, 4, 7]
    values = np.random.default_rng(0).normal(size=50)
    slow = [values[max(0, i - 6) : i + 1].mean() for i in range(50)]
    np.testing.assert_allclose(style.running_mean(values, 7), slow, atol=1e-12)


def test_sure_needs_all_on_one_side():
    assert plots.sure([0.6, 0.7], [0.5, 0.59]) == "lower"
    assert plots.sure([0.6, 0.7], [0.71, 0.9]) == "higher"
    assert plots.sure([0.6, 0.7], [0.5, 0.65]) == plots.sure([0.6], [0.6]) == "overlap"


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_walk_is_that_of_torch(clip):
    gradients = [0.5, -3.0, 100.0, 0.2, 0.1, -0.7]
    parameter = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=0.001, weight_decay=0.0)
    places = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        if clip:
            nn.utils.clip_grad_norm_([parameter], clip)
        optimizer.step()
        places.append(parameter.item())
    walk = plots.adam_walk(gradients, clip)
    np.testing.assert_allclose(walk.place, places, rtol=1e-5)
    np.testing.assert_allclose(walk.change.cumsum(), walk.place)
    assert clip is None or np.abs(walk.gradient).max() <= clip


def test_memory_adds_up():
    memory = plots.Memory(weights=4, gradients=4, optimizer=8, activations=10)
    assert memory.of_batch(0) == 16 and memory.of_batch(3) == 46
    assert [memory.most_images(card) for card in (10, 25, 26, 45.9, 46)] == [0, 0, 1, 2, 3]


def test_the_unlabelled_are_the_runs_whose_loss_is_quiet():
    short = {name: [log(name=name)] for name in ("tuned", "a", "b", "c")}
    loud = replace(log(name="loud"), loss=np.full(3, 100.0))
    other_length = log(name="long", steps=(20, 40))
    cases = plots.unlabelled(short | {"loud": [loud], "long": [other_length]})
    assert sorted(cases) == ["A", "B", "C"] and {case.name for case in cases.values()} == {"a", "b", "c"}
    assert [case.name for case in cases.values()] != ["a", "b", "c"]


# the figures


def test_walks_and_schedules():
    walks = {"free": plots.adam_walk([1.0] * 5), "held": plots.adam_walk([1.0] * 5, 0.5)}
    figure = readable(plots.walks_figure(walks, 3, "A title"))
    assert {"free", "held", "A title"} <= set(texts(figure).split("\n"))
    figure = readable(plots.schedule_figure({"drop": [1, 1, 0.1], "cosine": [1, 0.5, 0]}, "Two"))
    assert figure.axes[0].lines[1].get_ydata().tolist() == [1, 0.5, 0]


def test_ladder_draws_what_was_seen_only_where_there_is_such():
    rung = plots.rung_of(records(), "one", 0)
    assert rung.seen.tolist() == [0.9]
    figure = readable(plots.ladder_figure({"one batch": rung, "a stream": log()}, "A ladder"))
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert "images it never saw" in texts(figure)


def test_layers_figure_has_a_line_for_each_layer():
    figure = readable(plots.layers_figure(log(layers=3), "Layers"))
    assert [len(axes.lines) for axes in figure.axes[:3]] == [3, 3, 3]
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) == 3


def test_early_figure_ends_where_it_is_told_to():
    figure = readable(plots.early_figure([log(), log(seed=1)], log(name="x"), "a broken one", 40, "Early"))
    assert max(line.get_xdata().max() for line in figure.axes[0].lines) == 40
    assert "2 healthy seeds" in texts(figure) and "a broken one" in texts(figure)


def test_live_figure_says_how_far_it_is():
    some = records()[:2]
    figure = readable(plots.live_figure(some, steps=80, seconds=10.0, healthy=[log(), log(1.1)]))
    assert "step 40 of 80, 10 s gone, about 10 s to go" in texts(figure)
    assert figure.axes[0].patches[0].get_width() == 40
    assert "done" in texts(plots.live_figure(some, 40, 10.0, done=True))
    assert "step 0 of 40" in texts(plots.live_figure([], 40, 0.0))


def test_a_band_wants_runs_of_one_length():
    healthy = [log(1.0), log(1.2, seed=1), log(0.9, seed=2)]
    figure = readable(plots.band_figure(healthy, log(name="long"), "Band"))
    assert "3 seeds of 60 steps" in texts(figure)
    with pytest.raises(ValueError, match="runs of one length"):
        plots.band_figure([*healthy, log(steps=(20, 40))], log(), "Band")


@pytest.mark.parametrize("layers", [False, True])
def test_gallery_figure_draws_every_seed_beside_every_healthy_one(layers):
    healthy, broken = [log(), log(1.1, seed=1)], [log(2.0, "x"), log(2.1, "x", 1), log(2.2, "x", 2)]
    rows = ("label", "class_error", "ap50", "said")
    runs = {"a fault": broken, "another": broken[:1]}
    figure = readable(plots.gallery_figure(healthy, runs, rows, "Gallery", {"said": 9}, layers))
    lines = [len(axes.lines) for axes in figure.axes]
    assert lines == [10 if layers else 5, 6 if layers else 3, 5, 3, 5, 3, 5, 3]
    assert figure.axes[-1].get_ylim() == (0, 9) and "a fault" in texts(figure)
    broken_lines = [line for line in figure.axes[2].lines if line.get_color() == plots.BROKEN]
    assert {line.get_linestyle() for line in broken_lines} == {"--"}, "colour is not the only sign"


def test_said_figure_names_what_is_said():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    silent = replace(log(), scenes=[{"boxes_xyxy_px": [], "labels": [], "scores": []}])
    figure = readable(plots.said_figure([image], [target], {"one": log(), "mute": silent}, ["cat", "dog"], "Said"))
    assert "dog" in texts(figure) and "says nothing" in texts(figure) and "mute" in texts(figure)
    assert [len(axes.patches) for axes in figure.axes] == [2, 1]


def test_memory_figure_draws_the_card():
    memory = plots.Memory(2**30, 2**30, 2**31, 2**30)
    figure = readable(plots.memory_figure({"float32": memory, "half": memory}, (1, 4), 8, "Memory"))
    assert "a card of 8 GB" in texts(figure) and "activations" in texts(figure)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == [1, 1, 2, 1, 1, 1, 2, 4]
