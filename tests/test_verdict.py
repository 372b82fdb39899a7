"""What all checks say: open, right, wrong, and what came where."""

import numpy as np
import pytest
import torch

from detr_mini.checks.verdict import Open, Wrong, ask, compare, exercise


@exercise(3, "It halves.")
def half(answer):
    compare("half of 4", ask(answer, 4), 2, {"that doubles it": 8})


def test_open_right_and_wrong(capsys):
    half(lambda number: ...)
    half(...)
    half(lambda number: number / 2)
    assert capsys.readouterr().out == "exercise 3 is open\nexercise 3 is open\nexercise 3 is right. It halves.\n"
    with pytest.raises(Wrong, match="half of 4: that doubles it"):
        half(lambda number: number * 2)
    with pytest.raises(Wrong, match=r"half of 4: got 3, wanted 2"):
        half(lambda number: 3)


def test_a_stub_inside_is_open_and_an_error_of_the_reader_is_theirs():
    with pytest.raises(Open):
        ask(lambda: None)
    with pytest.raises(ZeroDivisionError):
        half(lambda number: number / 0)


def test_of_a_long_answer_only_the_first_wrong_number_is_shown():
    wanted = torch.arange(600.0).view(2, 3, 100)
    got = wanted.clone()
    got[1, 0, 7], got[1, 2, 9] = -1, torch.nan
    with pytest.raises(
        Wrong, match=r"2 of 600 numbers differ, the first at \[1, 0, 7\]: got -1.*, wanted 307"
    ) as error:
        compare("codes", got, wanted, {})
    assert len(str(error.value)) < 120


def test_a_shape_is_told_before_numbers_and_words_are_no_numbers():
    with pytest.raises(Wrong, match=r"your answer has shape \(2,\), wanted \(3,\)"):
        compare("sizes", [1, 2], np.ones(3), {})
    with pytest.raises(Wrong, match="got .cat., wanted 1"):
        compare("label", "cat", 1, {})
