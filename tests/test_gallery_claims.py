"""Each difference that notebook 09 claims between healthy and broken runs holds on the stored logs."""

import json
from pathlib import Path

import numpy as np
import pytest

from detr_mini.plots import training as plots
from detr_mini.runs import read_records

SEEDS_NEEDED = 3  # of each run from scratch

ROOT = Path(__file__).resolve().parent.parent
GALLERY = ROOT / "data" / "results" / "gallery"
SWITCHED = ("labels-off-by-one", "boxes-in-pixels", "corners-for-centres", "rate-times-ten")
SCRATCH = ("no-object-weight-1", "no-auxiliary-loss", "no-positions")


@pytest.fixture(scope="module")
def facts():
    return json.loads((GALLERY / "runs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def logs():
    return plots.gallery(GALLERY)


def ends(logs, what):
    return [log.end(what) for log in logs]


# what is there


def test_every_run_is_there_and_says_what_it_was(facts):
    assert facts["command"] == "python data/gallery.py" and facts["device"] and facts["scenes"]
    names = {key.rsplit("-", 1)[0] for key in facts["runs"]}
    assert names == {"tuned", "healthy", *SWITCHED, *SCRATCH}
    assert {path.stem for path in GALLERY.glob("*.jsonl")} == set(facts["runs"])
    for key, run in facts["runs"].items():
        assert key.endswith(f"-{run['seed']}") and run["minutes"] > 0 and run["date"].startswith("20")
        steps = [record["step"] for record in read_records(GALLERY / f"{key}.jsonl") if "loss" in record]
        assert steps[-1] == run["steps"] == (2_500 if run["start"] is None else 500)
        assert (run["start"] is None) == (key.rsplit("-", 1)[0] in ("healthy", *SCRATCH))


@pytest.mark.parametrize("name", ["healthy", *SCRATCH])
def test_runs_from_scratch_have_their_seeds(name, logs):
    assert [log.seed for log in logs[name]] == list(range(len(logs[name])))
    assert len(logs[name]) >= SEEDS_NEEDED


def test_the_band_is_of_runs_of_one_length(logs):
    assert all(np.array_equal(log.step, logs["healthy"][0].step) for log in logs["healthy"])
    assert all(log.step[-1] == 2_500 for log in logs["healthy"])


# healthy runs


def test_healthy_runs_look_broken_at_first_and_are_not(logs):
    for log in logs["healthy"]:
        assert log.at("class_error", 100) > 90 and log.at("class_error", 500) > 40
        assert log.ap50[0] < 0.05 and log.ap50[-1] > 0.4 and log.end("class_error") < 45
        assert log.at("l1", 200) < 0.6 * log.l1[0, -1], "the box parts fall from the first steps on"
    assert max(log.ap50[0] for name in SCRATCH for log in logs[name]) < 0.05


def test_clipping_acts_at_every_step_and_the_norm_grows(logs):
    for log in logs["healthy"]:
        assert log.grad_norm.min() > 1 and log.grad_norm[-10:].mean() > log.grad_norm[:10].mean()
        assert log.end("label") <= log.label[-10:, 0].mean() and log.end("giou") <= log.giou[-10:, 0].mean()


def test_the_long_run_is_not_ahead_at_equal_steps_and_far_ahead_at_its_end(logs):
    long = plots.log_of(read_records(ROOT / "data/results/toybox-mini/log.jsonl"), "toybox-mini", 0)
    best = max(log.ap50[-1] for log in logs["healthy"])
    assert long.ap50[long.eval_step.tolist().index(2_400)] < best < long.ap50[-1] - 0.2


# faults switched on in a model that worked


def test_labels_off_by_one_leave_the_loss_healthy_and_ap_at_zero(logs):
    healthy, log = logs["tuned"][0], logs["labels-off-by-one"][0]
    assert healthy.ap50[-1] > 0.85 and log.ap50[-1] < 0.02
    for part in ("l1", "giou"):  # boxes as good as the healthy run's, all along
        assert np.allclose(log.curve(part)[1].mean(), healthy.curve(part)[1].mean(), rtol=0.15)
    assert log.at("class_error", 20) > 90 and log.end("class_error") < healthy.end("class_error") + 10
    assert log.end("loss") < 1.3 * healthy.end("loss") and abs(log.end("said") - healthy.end("said")) < 0.5


def test_corners_leave_classes_and_loss_healthy_and_ap_at_zero(logs):
    healthy, log = logs["tuned"][0], logs["corners-for-centres"][0]
    assert log.ap50.max() < 0.02 and log.end("loss") < 1.3 * healthy.end("loss")
    assert np.abs(log.class_error - healthy.class_error).mean() < 5
    assert log.at("l1", 20) > 4 * healthy.at("l1", 20) and log.end("l1") < 1.3 * healthy.end("l1")


def test_pixels_show_in_the_boxes_and_not_in_classes_or_gradient_norm(logs):
    healthy, log = logs["tuned"][0], logs["boxes-in-pixels"][0]
    assert log.ap50.max() < 0.02 and log.l1.min() > 50 and log.end("loss") > 100 * healthy.end("loss")
    assert abs(log.end("class_error") - healthy.end("class_error")) < 8
    assert abs(log.end("said") - healthy.end("said")) < 0.5
    assert log.grad_norm.mean() < 1.5 * healthy.grad_norm.max()


def test_ten_times_the_rate_shows_everywhere_but_in_the_gradient_norm_and_heals_with_the_rate(logs):
    healthy, log = logs["tuned"][0], logs["rate-times-ten"][0]
    for part in ("label", "l1", "giou", "class_error"):
        assert log.end(part) > 1.5 * healthy.end(part)
    assert log.ap50.min() < 0.1 and log.ap50[-1] > 3 * log.ap50.min() and log.ap50[-1] < 0.6
    assert log.ap50.argmin() < len(log.ap50) / 2
    assert log.grad_norm.mean() < 1.5 * healthy.grad_norm.max()


def test_the_three_without_a_name_can_be_told_from_their_logs(logs):
    healthy = logs["tuned"][0]

    def diagnose(log):
        if log.end("l1") > 4:
            return "boxes-in-pixels"
        if log.end("loss") > 2 * healthy.end("loss"):
            return "rate-times-ten"
        return "labels-off-by-one" if log.at("class_error", 20) > 90 else "corners-for-centres"

    cases = plots.unlabelled(logs)
    assert set(cases) == set("ABC")
    assert all(diagnose(log) == log.name for log in cases.values())
    assert len({log.name for log in cases.values()}) == 3
    assert all(diagnose(logs[name][0]) == name for name in SWITCHED)


# parts taken away


def test_no_object_at_weight_1_shows_in_what_is_said_and_not_in_the_boxes(logs):
    healthy, broken = logs["healthy"], logs["no-object-weight-1"]
    assert max(ends(broken, "said")) < 1 < 0.5 * min(ends(healthy, "said"))
    assert plots.sure(ends(healthy, "class_error"), ends(broken, "class_error")) == "higher"
    assert min(ends(broken, "class_error")) > 1.5 * max(ends(healthy, "class_error"))
    assert np.mean(ends(broken, "l1")) < 1.1 * np.mean(ends(healthy, "l1"))
    # a fair AP though hardly a box is said
    assert max(log.ap50[-1] for log in broken) > 0.6 * np.mean([log.ap50[-1] for log in healthy])


def test_no_auxiliary_loss_shows_in_the_first_layer_and_at_the_beginning(logs):
    healthy, broken = logs["healthy"], logs["no-auxiliary-loss"]
    for part in ("label", "l1", "giou"):
        first = [[getattr(log, part)[-10:, 0].mean() for log in group] for group in (healthy, broken)]
        assert min(first[1]) > 1.5 * max(first[0]), part
        assert np.mean(ends(broken, part)) < 1.25 * np.mean(ends(healthy, part)), part
    early = [np.mean([log.at("ap50", 1_000) for log in group]) for group in (healthy, broken)]
    assert early[1] < 0.9 * early[0]


def test_no_positions_costs_little_here(logs):
    healthy, broken = logs["healthy"], logs["no-positions"]
    gap = np.mean([log.ap50[-1] for log in healthy]) - np.mean([log.ap50[-1] for log in broken])
    assert gap < 0.19 * np.mean([log.ap50[-1] for log in healthy]), "a smaller share than in Table 3"
    for what in ("label", "giou", "said"):
        assert np.isclose(np.mean(ends(broken, what)), np.mean(ends(healthy, what)), rtol=0.2), what
