import pytest
import torch

from detr_mini.detr import DETR, DETRConfig


def mini(**changes) -> DETR:
    torch.manual_seed(0)
    return DETR(DETRConfig.mini(**changes)).eval()


def test_outputs_of_all_layers():
    output = mini()(torch.randn(2, 3, 64, 48))
    assert output.logits.shape == (3, 2, 10, 21) and output.boxes.shape == (3, 2, 10, 4)
    assert torch.equal(output.last_logits, output.logits[-1]) and torch.equal(output.last_boxes, output.boxes[-1])
    assert ((output.boxes > 0) & (output.boxes < 1)).all()
    assert output.attention is None


def test_attention_is_returned_with_the_shape_of_the_map():
    images = torch.randn(2, 3, 64, 48)
    attention = mini()(images, return_attention=True).attention
    assert attention.feature_size == (8, 6)
    assert attention.encoder.shape == (2, 2, 4, 48, 48) and attention.decoder.shape == (3, 2, 4, 10, 48)
    torch.testing.assert_close(attention.decoder.sum(-1), torch.ones(3, 2, 4, 10))


def test_a_model_without_encoder_layers_still_answers():
    model = mini(encoder_layers=0)
    assert model(torch.randn(1, 3, 32, 32), return_attention=True).attention.encoder.shape[0] == 0


@pytest.mark.parametrize("position", ["sine", "learned", "none"])
def test_from_features_does_not_see_padding(position):
    """Given features and mask, predictions are equal to 1e-5 whatever the padding holds and however much it is."""
    model = mini(position=position)
    torch.manual_seed(1)
    features = torch.randn(1, 128, 6, 5)
    alone = model.from_features(features)
    for extra, junk in ((3, 0.0), (7, 50.0)):
        padded = torch.full((1, 128, 6 + extra, 5 + extra), junk)
        padded[:, :, :6, :5] = features
        mask = torch.ones(1, 8 * (6 + extra), 8 * (5 + extra), dtype=torch.bool)
        mask[:, :48, :40] = False
        answer = model.from_features(padded, mask)
        torch.testing.assert_close(answer.logits, alone.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(answer.boxes, alone.boxes, atol=1e-5, rtol=1e-5)


def test_no_padding_given_equals_an_empty_mask():
    model, images = mini(), torch.randn(2, 3, 64, 64)
    silent, masked = model(images), model(images, torch.zeros(2, 64, 64, dtype=torch.bool))
    torch.testing.assert_close(silent.logits, masked.logits, atol=1e-5, rtol=1e-5)


def test_learned_positions_above_the_table_do_not_crash():
    assert mini(position="learned", encoder_layers=1).from_features(torch.randn(1, 128, 51, 3)).logits.isfinite().all()


def test_layers_before_the_last_are_normed_copies():
    """Cutting the decoder after two layers gives the three-layer model's second answer."""
    model = mini()
    images = torch.randn(1, 3, 64, 64)
    whole = model(images)
    model.transformer.decoder.layers = model.transformer.decoder.layers[:2]
    torch.testing.assert_close(model(images).last_logits, whole.logits[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"queries": 0}, "queries is 0"), ({"dropout": 1.0}, "dropout is 1.0"), ({"heads": 7}, "divisible")],
)
def test_impossible_settings(change, message):
    with pytest.raises(ValueError, match=message):
        DETR(DETRConfig.mini(**change))
