"""Where to train and in what precision."""

from __future__ import annotations

import os

import pytest
import torch

from ganaug.errors import ConfigError
from ganaug.models import device
from ganaug.models.device import choose_device, deterministic_kernels, use_bf16


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, wanted in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto").type == wanted


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cpu:x"])
def test_a_word_that_is_no_device_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="auto, cpu, cuda or cuda:N was wanted"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda:0").index == 0
    with pytest.raises(ConfigError, match="no such GPU"):
        choose_device("cuda:1")


def test_precision_is_as_asked_or_as_the_hardware_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert use_bf16("bf16", cpu)
    assert not use_bf16("fp32", cpu)
    for fast in (True, False):
        monkeypatch.setattr(device, "_cpu_multiplies_bf16", lambda fast=fast: fast)
        assert use_bf16("auto", cpu) is fast


@pytest.mark.parametrize("before", [False, True])
def test_deterministic_kernels_are_asked_for_as_long_as_a_training_lasts(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(before)
    try:
        with deterministic_kernels(True):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled() is before
        with deterministic_kernels(False):
            assert torch.are_deterministic_algorithms_enabled() is before
    finally:
        torch.use_deterministic_algorithms(False)
