"""The checks of notebook 08: right answers in two styles pass, and each mistake is told by its own name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from detr_mini import checkpoints
from detr_mini.checks import detr as checks
from detr_mini.checks.verdict import Wrong
from detr_mini.detr import DETR


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


def test_stubs_are_open(capsys):
    def stub(*arguments): ...

    checks.decoder_layer(...)
    checks.cross_attention_work(stub)
    checks.change_classes(stub)
    assert capsys.readouterr().out == "".join(f"exercise {number} is open\n" for number in (1, 2, 3))


# 1: parameters of a decoder layer

D, F = 256, 2048
LINEAR = (D * F + F) + (F * D + D)


def test_decoder_layer_on_paper(capsys):
    checks.decoder_layer(2 * 4 * (D * D + D) + LINEAR + 3 * 2 * D)
    says_right(capsys, 1)


def test_decoder_layer_counted_in_torchs(capsys):
    layer = nn.TransformerDecoderLayer(D, 8, F)
    checks.decoder_layer(np.sum([p.numel() for p in layer.parameters()]).item())
    says_right(capsys, 1)


LAYER = [
    (4 * (D * D + D) + LINEAR + 2 * 2 * D, "this is an encoder layer"),
    (4 * (D * D + D) + LINEAR + 3 * 2 * D, "one attention is missing, or in_proj"),
    (2 * 4 * (D * D + D) + LINEAR + 2 * 2 * D, "the third norm is missing"),
    (2 * 4 * (D * D + D) + LINEAR, "the three norms are missing"),
    (2 * 4 * (D * D + D) + LINEAR + 3 * D, "a norm has two numbers a channel"),
    (2 * 4 * D * D + 2 * D * F + 3 * D, "all biases are missing, those of the norms too"),
    (2 * 4 * D * D + 2 * D * F + 3 * 2 * D, "the biases of all linear layers"),
    (2 * 4 * D * D + 2 * D * F, "all biases and the norms"),
    (2 * 4 * D * D + LINEAR + 3 * 2 * D, "the biases of the attentions"),
    (2 * 4 * (D * D + D) + 2 * D * F + 3 * 2 * D, "the biases of the feed-forward network"),
    (2 * (D * D + 3 * D + D * D + D) + LINEAR + 3 * 2 * D, "three biases, but one matrix"),
    (2 * 3 * (D * D + D) + LINEAR + 3 * 2 * D, "out_proj is missing"),
    (2 * (8 * 3 + 1) * (D * D + D) + LINEAR + 3 * 2 * D, "the heads share the D channels"),
    (2 * 4 * (D * D + D) + (D * F + F) + 3 * 2 * D, "has two layers, to F and back"),
    (2 * 4 * (D * D + D) + 3 * 2 * D, "the feed-forward network is missing"),
    (2 * 4 * (D * D + D) + 2 * LINEAR + 3 * 2 * D, "one feed-forward network, behind"),
    (1_578_752 + 2 * D, "the norm behind the last layer"),
    (6 * 1_578_752, "these are all six layers; wanted"),
    (6 * 1_578_752 + 2 * D, "six layers and the last norm"),
]


@pytest.mark.parametrize(("wrong", "message"), LAYER)
def test_decoder_layer_mistakes(wrong, message):
    with pytest.raises(Wrong, match=f"one decoder layer: .*{message}"):
        checks.decoder_layer(wrong)


def test_each_mistake_of_a_layer_has_its_own_number():
    mistakes = checks._layer_mistakes(D, F)
    assert len(set(mistakes.values()) | {1_578_752}) == len(mistakes) + 1 == len(LAYER) + 1


def test_no_number():
    with pytest.raises(Wrong, match="wanted one number, got str"):
        checks.decoder_layer("1,578,752")


# 2: work of a cross-attention


def one_by_one(queries, tokens, width):
    work = 0
    for vectors in (queries, tokens, tokens, queries):  # queries, keys, values, answers
        work += vectors * width * width
    for _ in ("scores", "values"):
        work += queries * tokens * width
    return work


def in_one(Q, S, D):
    return np.int64(2) * (Q + S) * D**2 + 2 * Q * S * D


@pytest.mark.parametrize("right", [one_by_one, in_one])
def test_work_right(right, capsys):
    checks.cross_attention_work(right)
    says_right(capsys, 2)


WORK = [
    (lambda Q, S, D: 2 * in_one(Q, S, D), "these are operations"),
    (lambda Q, S, D: 4 * S * D**2 + 2 * S**2 * D, "self-attention among the tokens"),
    (lambda Q, S, D: 4 * Q * D**2 + 2 * Q**2 * D, "self-attention among the queries"),
    (lambda Q, S, D: 4 * S * D**2 + 2 * Q * S * D, "two projections are of Q vectors"),
    (lambda Q, S, D: 4 * Q * D**2 + 2 * Q * S * D, "two of the four projections are of S vectors"),
    (lambda Q, S, D: 2 * Q * S * D, "the four projections are missing"),
    (lambda Q, S, D: 2 * (Q + S) * D**2, "the two products are missing"),
    (lambda Q, S, D: 2 * (Q + S) * D**2 + Q * S * D, "the product of the weights with the values"),
    (lambda Q, S, D: (Q + 2 * S) * D**2 + 2 * Q * S * D, "out_proj, is missing"),
    (lambda Q, S, D: (2 * Q + S) * D**2 + 2 * Q * S * D, "the values are missing"),
    (lambda Q, S, D: 2 * (Q + S) * D**2 + 8 * 2 * Q * S * D, "heads share the width out"),
    (lambda Q, S, D: 2 * (Q + S) * D**2 + 2 * Q * S, "each of the Q x S scores"),
    (lambda Q, S, D: (Q + 3 * S) * D**2 + 2 * Q * S * D, "out_proj works on the answers"),
    (lambda Q, S, D: 4 * (Q + S) * D**2 + 2 * Q * S * D, "two of S, none of both"),
    (lambda Q, S, D: 4 * (Q + S) * D**2 + 2 * (Q + S) ** 2 * D, "of queries and tokens together"),
    (lambda Q, S, D: 4 * D**2 + 2 * Q * S * D, "for each vector, times Q or S"),
    (lambda Q, S, D: in_one(Q, S, D) + 2 * Q * D * 2048, "feed-forward network is another part"),
]


@pytest.mark.parametrize(("wrong", "message"), WORK)
def test_work_mistakes(wrong, message):
    with pytest.raises(Wrong, match=f"^100 queries, 850 tokens, width 256: .*{message}"):
        checks.cross_attention_work(wrong)


def test_each_mistake_of_the_work_has_its_own_number():
    mistakes = checks._work_mistakes(100, 850, 256)
    assert len(set(mistakes.values()) | {in_one(100, 850, 256)}) == len(mistakes) + 1 == len(WORK) + 1


# 3: other classes


def by_state_dict(model, keep, rows=None, classes=None):
    changed = DETR(replace(model.config, num_classes=len(keep) if classes is None else classes))
    state = model.state_dict()
    for name in ("class_embed.weight", "class_embed.bias"):
        state[name] = state[name][[*keep, model.config.num_classes] if rows is None else rows]
    changed.load_state_dict(state)
    return changed


def by_hand(model, keep):
    """Part by part; a linear layer filled row by row."""
    changed = DETR(replace(model.config, num_classes=len(keep)))
    for name, part in model.named_children():
        if name != "class_embed":
            getattr(changed, name).load_state_dict(part.state_dict())
    with torch.no_grad():
        for new, old in enumerate([*keep, -1]):
            changed.class_embed.weight[new].copy_(model.class_embed.weight[old])
            changed.class_embed.bias[new] = model.class_embed.bias[old]
    return changed


@pytest.mark.parametrize("right", [by_state_dict, by_hand])
def test_classes_right(right, capsys):
    checks.change_classes(right)
    says_right(capsys, 3)


def without_no_object(model, keep):
    changed = by_state_dict(model, keep)
    changed.class_embed = nn.Linear(model.config.width, len(keep))
    return changed


def old_name_of_the_count(model, keep):
    """The head is right, the configuration is the old one."""
    changed = by_state_dict(model, keep)
    changed.config = model.config
    return changed


def counts_no_object(model, keep):
    changed = by_state_dict(model, keep)
    changed.config = replace(model.config, num_classes=len(keep) + 1)
    return changed


def one_class_too_many(model, keep):
    """K + 1 given as the number of classes: two rows more than classes."""
    return DETR(replace(model.config, num_classes=len(keep) + 1))


def all_new(model, keep):
    return DETR(replace(model.config, num_classes=len(keep)))


def only_the_transformer(model, keep):
    changed = all_new(model, keep)
    changed.transformer.load_state_dict(model.transformer.state_dict())
    changed.bbox_embed.load_state_dict(model.bbox_embed.state_dict())
    changed.query_embed.load_state_dict(model.query_embed.state_dict())
    return changed


def parameters_alone(model, keep):
    """Batch-norm's statistics are no parameters, and stay behind."""
    changed, given = all_new(model, keep), dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            old = given[name]
            parameter.copy_(old[[*keep, -1]] if name.startswith("class_embed") else old)
    return changed


def in_place(model, keep):
    head = nn.Linear(model.config.width, len(keep) + 1)
    rows = [*keep, -1]
    head.weight.data, head.bias.data = model.class_embed.weight.data[rows], model.class_embed.bias.data[rows]
    model.class_embed, model.config = head, replace(model.config, num_classes=len(keep))
    return model


def overwrites(model, keep):
    """Sorts the rows inside the old head before copying them."""
    changed = by_hand(model, keep)
    with torch.no_grad():
        model.class_embed.weight[: len(keep)] = changed.class_embed.weight[:-1]
    return changed


def weights_alone(model, keep):
    """The new head keeps the random biases of its making, here those that come first in the old one."""
    changed = by_state_dict(model, keep)
    with torch.no_grad():
        changed.class_embed.bias.copy_(model.class_embed.bias[: len(keep) + 1])
    return changed


def no_biases(model, keep):
    changed = by_state_dict(model, keep)
    nn.init.zeros_(changed.class_embed.bias)
    return changed


def only_what_fits(model, keep):
    """What `checkpoints.transfer` does: the head, whose shape differs, stays as it was made."""
    changed = all_new(model, keep)
    checkpoints.transfer(changed, model)
    return changed


def no_weights(model, keep):
    changed = by_state_dict(model, keep)
    nn.init.zeros_(changed.class_embed.weight)
    return changed


CLASSES = [
    (without_no_object, '3 rows for 3 classes: "no object" needs one too'),
    (lambda model, keep: by_state_dict(model, keep, list(range(7)), 6), "still has all seven rows"),
    (one_class_too_many, 'the head has 5 rows, 3 classes and "no object" make 4'),
    (old_name_of_the_count, "config.num_classes is still 6"),
    (counts_no_object, "config.num_classes is 4: it counts the classes"),
    (all_new, "new random weights in backbone, bbox_embed, input_proj, query_embed, transformer"),
    (only_the_transformer, "new random weights in backbone, input_proj:"),
    (parameters_alone, "batch-norm's statistics are buffers"),
    (in_place, "has another head now"),
    (overwrites, "the weights of the model that you were given have changed"),
    (lambda model, keep: by_state_dict(model, keep, [*sorted(keep), -1]), "the order of the old labels"),
    (lambda model, keep: by_state_dict(model, keep, [0, 1, 2, -1]), "the first rows of the old head, whatever"),
    (lambda model, keep: by_state_dict(model, keep, [0, 1, 2, 3]), "and one more class as no object"),
    (lambda model, keep: by_state_dict(model, keep, [-1, *keep]), "is the last row, not the first"),
    (lambda model, keep: by_state_dict(model, keep, [*keep, len(keep)]), "row 3 of the old head is a class"),
    (lambda model, keep: by_state_dict(model, keep, [*[k - 1 for k in keep], -1]), "keep counts from 0"),
    (weights_alone, "the biases are the first four"),
    (no_biases, "the biases are missing"),
    (no_weights, "the biases are right, the weights are not"),
    (only_what_fits, "the class head is new and random"),
]


@pytest.mark.parametrize(("wrong", "message"), CLASSES)
def test_classes_mistakes(wrong, message):
    with pytest.raises(Wrong, match=message):
        checks.change_classes(wrong)


def test_something_else_than_a_model():
    with pytest.raises(Wrong, match="wanted a DETR, got OrderedDict"):
        checks.change_classes(lambda model, keep: model.state_dict())


def test_all_messages_differ():
    for cases in (LAYER, WORK, CLASSES):
        assert len({message for _, message in cases}) == len(cases)
