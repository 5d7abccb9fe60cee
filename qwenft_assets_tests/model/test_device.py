import pytest

from qwenft_assets.config import TrainingConfig
from qwenft_assets.errors import DeviceError
from qwenft_assets.model.device import Device, find_gpus, resolve_device

H200 = Device("cuda", "NVIDIA H200", 139.0, 140.0)
BUSY = Device("cuda", "NVIDIA H200", 3.0, 140.0)
NF4 = TrainingConfig(weights="nf4", min_vram_gib=9)
FP8 = TrainingConfig(weights="fp8", min_vram_gib=9)
BF16 = TrainingConfig(weights="bf16", min_vram_gib=0)


@pytest.mark.parametrize(
    ("settings", "wanted", "gpus", "expected"),
    [
        pytest.param(NF4, "auto", [H200], "cuda", id="nf4-takes-the-gpu"),
        pytest.param(NF4, "cuda", [BUSY, H200], "cuda", id="the-gpu-with-most-free-memory"),
        pytest.param(BF16, "auto", [], "cpu", id="bf16-without-a-gpu"),
        pytest.param(BF16, "auto", [H200], "cuda", id="bf16-with-a-gpu"),
        pytest.param(BF16, "cpu", [H200], "cpu", id="cpu-although-a-gpu-is-there"),
    ],
)
def test_the_device_that_serves(settings, wanted, gpus, expected):
    device = resolve_device(settings, wanted, gpus)
    assert device.type == expected
    assert device is H200 or device.type == "cpu"


@pytest.mark.parametrize(
    ("settings", "wanted", "gpus", "figures"),
    [
        pytest.param(NF4, "auto", [], ["9.0 GiB", "finds no GPU"], id="nf4-without-a-gpu"),
        pytest.param(NF4, "cpu", [H200], ["NVIDIA H200 is there"], id="nf4-on-a-cpu"),
        pytest.param(
            FP8, "auto", [], ["weights: fp8 needs", "finds no GPU"], id="fp8-without-a-gpu"
        ),
        pytest.param(BF16, "cuda", [], ["finds no GPU", "driver"], id="cuda-without-a-gpu"),
        pytest.param(NF4, "auto", [BUSY], ["3.0 of 140.0 GiB free", "needs 9.0"], id="too-little"),
    ],
)
def test_a_refusal_names_the_figures(settings, wanted, gpus, figures):
    with pytest.raises(DeviceError) as caught:
        resolve_device(settings, wanted, gpus)
    for figure in figures:
        assert figure in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(
            'echo "NVIDIA H200, 142000, 143771"; echo "Tesla, T4, 1024, 15360"',
            [("NVIDIA H200", 142000 / 1024), ("Tesla, T4", 1.0)],
            id="two",
        ),
        pytest.param('echo "NVIDIA GB10, [N/A], [N/A]"', [], id="memory-not-reported"),
        pytest.param("echo failed to initialise; exit 9", [], id="driver-broken"),
    ],
)
def test_gpus_as_the_driver_reports_them(tmp_path, monkeypatch, script, expected):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(gpu.name, gpu.free_vram_gib) for gpu in find_gpus()] == expected


def test_without_a_driver_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == []
