import pytest
import torch
from safetensors.torch import save_file

from detr_mini import checkpoints
from detr_mini.detr import DETR, DETRConfig


@pytest.fixture
def model() -> DETR:
    torch.manual_seed(0)
    return DETR(DETRConfig.mini(num_classes=2, width=32, feedforward=32, encoder_layers=1)).eval()


def saved(model, path, **options):
    checkpoints.save(path, model, ("cat", "dog"), (17, 18), {"short_side": None, "ap": 0.5}, **options)
    return path


def test_what_is_saved_comes_back(model, tmp_path):
    loaded = checkpoints.load(saved(model, tmp_path / "a.safetensors"))
    assert loaded.names == ("cat", "dog") and loaded.category_ids == (17, 18)
    assert loaded.info == {"short_side": None, "ap": 0.5}
    assert loaded.model.config == model.config and not loaded.model.training
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.model(images).boxes, model(images).boxes)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"], "nothing half-written stays"


def test_half_precision_halves_the_file_and_loads_as_float32(model, tmp_path):
    whole, half = (
        saved(model, tmp_path / "a.safetensors"),
        saved(model, tmp_path / "b.safetensors", dtype=torch.float16),
    )
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = checkpoints.load(half).model
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(images).boxes, model(images).boxes, atol=0.01, rtol=0)


def test_names_must_fit_the_classes(model, tmp_path):
    with pytest.raises(ValueError, match="1 names and 1 category ids for a model of 2 classes"):
        checkpoints.save(tmp_path / "a.safetensors", model, ("cat",), (17,))


def test_a_name_that_is_nowhere_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    (tmp_path / "toybox-mini.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="there are: toybox-mini"):
        checkpoints.load("toybox-maxi")


def test_without_a_checkout_the_error_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="git clone the project and run pip install -e"):
        checkpoints.load("toybox-mini")


def test_a_file_cut_short(model, tmp_path):
    path = saved(model, tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        checkpoints.load(path)


def test_a_safetensors_file_that_is_not_ours(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not a checkpoint written by detr-mini"):
        checkpoints.load(tmp_path / "a.safetensors")


def test_weights_of_another_model(model):
    other = DETR(DETRConfig.mini(num_classes=3, width=32, feedforward=32, encoder_layers=1))
    with pytest.raises(ValueError, match=r"class_embed.weight has shape \(4, 32\), the model wants \(3, 32\)"):
        checkpoints.load_weights(model, other.state_dict(), "other")
    deeper = DETR(DETRConfig.mini(num_classes=2, width=32, feedforward=32, encoder_layers=2))
    with pytest.raises(ValueError, match="0 tensors missing .*, 12 left over"):
        checkpoints.load_weights(model, deeper.state_dict(), "deeper")


def test_transfer_keeps_what_fits_and_names_what_does_not(model):
    torch.manual_seed(1)
    other = DETR(DETRConfig.mini(num_classes=5, width=32, feedforward=32, encoder_layers=1))
    assert checkpoints.transfer(other, model) == ["class_embed.bias", "class_embed.weight"]
    assert torch.equal(other.query_embed.weight, model.query_embed.weight)
    wider = DETR(DETRConfig.mini(num_classes=2, width=64, feedforward=32, encoder_layers=1))
    with pytest.raises(ValueError, match="shares less than half"):
        checkpoints.transfer(wider, model)
