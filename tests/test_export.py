"""The detector leaves PyTorch: torch.export and ONNX answer as the model does, for any number of images."""

import pytest
import torch
from torch import Tensor, nn

from detr_mini import checkpoints
from detr_mini.detr import DETR, DETRConfig


class LastAnswers(nn.Module):
    """Images (B, 3, H, W) to the last layer's logits (B, Q, K+1) and boxes (B, Q, 4): what a runtime wants."""

    def __init__(self, model: DETR):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(images)
        return output.last_logits, output.last_boxes


def mini() -> DETR:
    return checkpoints.load("toybox-mini").model


def small_r50() -> DETR:
    torch.manual_seed(0)
    return DETR(DETRConfig(encoder_layers=1, decoder_layers=2, queries=20))


MODELS = [(mini, (64, 64)), (small_r50, (96, 128))]


@pytest.mark.parametrize(("build", "size"), MODELS, ids=["mini", "r50"])
def test_an_exported_program_answers_for_another_number_of_images(build, size):
    model = LastAnswers(build()).eval()
    images, others = torch.randn(2, 3, *size), torch.randn(5, 3, *size)
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("images")}})
        for got, wanted in zip(program.module()(others), model(others), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("build", "size"), MODELS, ids=["mini", "r50"])
def test_an_onnx_file_answers_for_another_number_of_images(build, size, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, file = LastAnswers(build()).eval(), tmp_path / "detr.onnx"
    images, others = torch.randn(2, 3, *size), torch.randn(5, 3, *size)
    names = {"input_names": ["images"], "output_names": ["logits", "boxes"]}
    dynamic = {"images": {0: torch.export.Dim("images")}}
    torch.onnx.export(model, (images,), file, dynamo=True, dynamic_shapes=dynamic, verbose=False, **names)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    answers = session.run(["logits", "boxes"], {"images": others.numpy()})
    with torch.no_grad():
        for got, wanted in zip(answers, model(others), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-4)
