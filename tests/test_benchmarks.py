"""The benchmarks run, print what they promise, and refuse to time peers whose results differ; no time is judged."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from detr_mini import losses

ROOT = Path(__file__).resolve().parent.parent
NUMBER = r"(\d+\.?\d*)"
MS = rf"{NUMBER} \({NUMBER} to {NUMBER}\)"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="memory is read by `resource`, which Windows lacks")


@pytest.fixture
def benchmark_module(monkeypatch):
    """benchmark_module("timing") imports one of the scripts; without their peer the test skips, in CI it fails."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def load(name: str):
        needs_peer()
        return import_module(name)

    return load


def needs_peer() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("transformers", reason="the peer of the benchmarks comes with the extra `test`")


def run(script: str, *arguments: str) -> list[str]:
    """The lines that a script prints, on one thread."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def rows(lines: list[str], pattern: str) -> list[tuple[str, ...]]:
    found = [re.fullmatch(pattern, line.strip()) for line in lines]
    return [match.groups() for match in found if match]


def is_ratio(ratio: str, hf_ms: str, our_ms: str) -> bool:
    """Whether the printed ratio is that of two times that are printed to a tenth of a ms."""
    rounding = 0.5 * 10 ** -len(ratio.partition(".")[2])
    least, most = (float(hf_ms) - 0.05) / (float(our_ms) + 0.05), (float(hf_ms) + 0.05) / (float(our_ms) - 0.05)
    return least - rounding <= float(ratio) <= most + rounding


def test_what_is_a_ratio():
    assert is_ratio("0.4", "2.9", "6.5") and is_ratio("2.04", "1283.9", "630.0") and is_ratio("3.3", "6.4", "2.0")
    assert not is_ratio("0.6", "2.9", "6.5")
    assert not is_ratio("0.49", "1283.9", "630.0") and not is_ratio("2.2", "1283.9", "630.0")


def test_make_bench_runs_every_script_and_no_shared_module():
    scripts = (ROOT / "benchmarks").glob("*.py")
    runnable = {path.stem for path in scripts if "__main__" in path.read_text(encoding="utf-8")}
    (listed,) = re.findall(r"for script in ([a-z0-9_ ]+);", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert set(listed.split()) == runnable >= {"mini_step", "loss_against_hf"}


def test_the_loss_table():
    needs_peer()
    lines = run("loss_against_hf", "--quick")
    assert "torch" in lines[0] and "transformers 4" in lines[0] and " 1 threads of " in lines[0]
    table = rows(lines, rf"(\d+, \d+, \d+, \d+) +{MS} +{MS} +{NUMBER} +(\S+) +(\S+) +(\d+)")
    assert [row[0] for row in table] == ["2, 20, 2, 3", "4, 20, 2, 3"]
    assert [row[-3:] for row in table] == [("-", "-", "3"), ("1", "2", "3")]
    for _, hf, least, most, ours, *_, ratio, _, _, _ in table:
        assert float(least) <= float(hf) <= float(most)
        assert is_ratio(ratio, hf, ours)


def test_the_r50_table():
    needs_peer()
    lines = run("r50_against_hf", "--quick", "--threads", "1")
    assert "trainable parameters: ours 41,302,368, Hugging Face 41,302,368" in lines
    table = rows(lines, rf"(\S+ \S+) +(hf|ours) +{MS} +{NUMBER} +{NUMBER} +{NUMBER}")
    runs = ["forward 1x64x64", "step 2x64x64"]
    assert [row[:2] for row in table] == [(name, side) for name in runs for side in ("hf", "ours")]
    for hf, ours in (table[:2], table[2:]):
        assert float(hf[5]) == 1 and is_ratio(ours[5], hf[2], ours[2])
    assert float(table[1][6]) > 0, "memory of our forward pass; --quick leaves out the others"


def test_scaling_writes_its_curves_and_the_figure(tmp_path):
    lines = run("scaling", "--quick", "--out", str(tmp_path / "bench"))
    curves = json.loads((tmp_path / "bench" / "scaling.json").read_text())["curves"]
    assert list(curves) == ["images", "queries", "objects", "side"]
    for axis, found in curves.items():
        for curve in found:
            assert len(curve["ms"]) == len(curve["sizes"]) >= 3 and min(curve["ms"]) > 0
            assert f"{curve['name']} ~ {axis}^{curve['exponent']:.2f}" in lines
    assert (tmp_path / "bench" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_mini_step():
    lines = run("mini_step", "--rounds", "1", "--batch", "2")
    assert any(line.startswith("images/s with drawing / on a constant batch") for line in lines)


def test_the_exponent_is_that_of_the_larger_half(benchmark_module):
    scaling = benchmark_module("scaling")
    sizes = [1, 2, 4, 8, 16, 32]
    assert scaling.exponent(sizes, [5, 5, 5, 3 * 8**2, 3 * 16**2, 3 * 32**2]) == pytest.approx(2)


def perturbed_total(result, logits):
    return result.total * 1.0001


def perturbed_gradient(result, logits):
    return result.total + 1e-4 * (logits - logits.detach()).sum()


@pytest.mark.parametrize("change, said", [(perturbed_total, "total"), (perturbed_gradient, "gradient of logits")])
def test_a_loss_that_differs_is_not_timed(benchmark_module, monkeypatch, change, said):
    script, original = benchmark_module("loss_against_hf"), losses.set_loss
    assert set(script.measure(2, 20, 2, 3, "cpu", rounds=1)) == {"hf", "ours"}

    def wrong(logits, boxes, targets):
        result = original(logits, boxes, targets)
        return losses.SetLoss(**vars(result) | {"total": change(result, logits)})

    monkeypatch.setattr(losses, "set_loss", wrong)
    with pytest.raises(ValueError, match=f"{said} of ours and the peer's differ"):
        script.measure(2, 20, 2, 3, "cpu", rounds=1)


def test_models_that_differ_are_not_timed(benchmark_module):
    hf = benchmark_module("hf")
    ours, peer = hf.pair()
    hf.check_counts(ours, peer)
    hf.check_answers(ours, peer)
    peer.model.query_position_embeddings.requires_grad_(False)
    with pytest.raises(ValueError, match="are other layers frozen"):
        hf.check_counts(ours, peer)
    with torch.no_grad():
        peer.model.decoder.layers[1].encoder_attn_layer_norm.weight *= 1.01
    with pytest.raises(ValueError, match="not the same network"):
        hf.check_answers(ours, peer)


def test_peers_take_turns(benchmark_module):
    timing, calls = benchmark_module("timing"), []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.interleaved(functions, rounds=3, device="cpu", warmup=1)
    assert calls == list("abababab") and [len(values) for values in times.values()] == [3, 3]


def filling(mebibytes: int):
    """A function that fills so much memory and lets it go."""
    return lambda: torch.ones(mebibytes, 2**18).sum()


def test_no_peak_hides_another(benchmark_module):
    timing = benchmark_module("timing")
    peaks = [timing.peak_memory(filling, size, device="cpu") for size in (160, 40)]
    assert peaks[0] == pytest.approx(160, abs=20) and peaks[1] == pytest.approx(40, abs=20)
