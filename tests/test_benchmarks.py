"""The parts of the benchmarks that need no GPU and no data: work counted from shapes, tables, limits, checks."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ganaug.config import FitConfig
from ganaug.models import build_network
from ganaug.models.conv import Conv

measure = pytest.importorskip("benchmarks.measure", reason="benchmarks are not part of the source distribution")
device_checks = pytest.importorskip("benchmarks.device_checks")
gpu = pytest.importorskip("benchmarks.gpu")

CPU = torch.device("cpu")


def test_a_grouped_convolution_and_its_gradients_are_counted_from_their_shapes() -> None:
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    weight = torch.randn(12, 2, 3, 3, requires_grad=True)
    with measure.WorkCounter() as counter:
        F.conv2d(x, weight, padding=1, groups=4).sum().backward()
    forward, gradient = counter.done
    # 2 images of 36 pixels, 12 channels each from 2 channels at 9 places, a product and a sum each.
    assert (forward.kind, forward.flops) == ("convolution", 2 * 36 * 12 * 2 * 9 * 2)
    assert (gradient.kind, gradient.flops) == ("gradient", 2 * forward.flops)  # for the input, and for the weight
    assert forward.groups == gradient.groups == 4
    assert forward.moved == 4 * (x.numel() + weight.numel() + 2 * 12 * 36)


def test_dense_work_agrees_with_the_counter_of_pytorch() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.LeakyReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 9, 5)
    )
    x = torch.randn(4, 3, 8, 8)
    with FlopCounterMode(display=False) as theirs:
        network(x).sum().backward()
    with measure.WorkCounter() as ours:
        network(x).sum().backward()
    assert ours.flops == theirs.get_total_flops() > 0


def test_second_derivatives_and_fused_convolutions_are_counted() -> None:
    conv, x = Conv(2, 4, 6, 1), torch.randn(2, 4, 5, 5, requires_grad=True)
    once = 2 * 25 * 6 * 4 * 2
    (slope,) = torch.autograd.grad(conv(x, bend=True).sum(), x, create_graph=True)
    with measure.WorkCounter() as counter:
        slope.square().sum().backward()
    assert [(work.kind, work.flops) for work in counter.done] == [("gradient", once)]  # for the weight
    with measure.WorkCounter() as counter, torch.no_grad():
        conv(x, bend=True)
        conv(x, plus=torch.zeros(2, 6, 5, 5))
    assert [work.flops for work in counter.done] == [once] * 2
    assert counter.done[1].weight == (6, 4, 1, 1)


def test_a_generator_costs_what_its_layers_cost_by_hand() -> None:
    settings = vars(FitConfig(widths=(16,), latent_dim=4, label_dim=4, base=8))
    network = build_network("modern", "Generator", settings, size=(8, 8), channels=3, classes=2)
    with measure.WorkCounter() as counter, torch.no_grad():
        network(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))
    pixels = 8 * 8
    linear = 8 * 16 * pixels
    block = pixels * (16 * 32 + 32 * 16 * 9 + 32 * 16)  # 1×1 to twice the width, 3×3 in groups of 16, 1×1 back
    output = pixels * 16 * 3
    assert counter.flops == 5 * 2 * (linear + block + output)


def test_work_takes_as_long_as_the_nearer_ceiling_lets_it() -> None:
    work = measure.Work("product", flops=1000, moved=40, x=(), weight=())
    assert work.least_seconds(100.0, 1000.0) == 10.0
    assert work.least_seconds(1e9, 4.0) == 10.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"), (float("nan"), "—"), (0.0, "0"), (1234.56, "1,235"), (12.345, "12.3"), (0.04567, "0.0457"),
        (4.1e-8, "4.1e-08"), (float("inf"), "inf"), (7, "7"), ("a|b", "a/b"), (-2.5, "-2.50"),
    ],
)  # fmt: skip
def test_cells_have_three_digits_that_count(value: object, text: str) -> None:
    assert measure.cell_text(value) == text


def test_rows_are_in_the_file_as_soon_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = measure.Report(tmp_path / "new" / "report.md")
    report.head("px", "images/s")
    report.row(64, 1500.0)
    written = (tmp_path / "new" / "report.md").read_text(encoding="utf-8")
    assert written == "\n| px | images/s |\n|---|---|\n| 64 | 1,500 |\n"
    assert capsys.readouterr().out == written


def test_work_without_end_is_stopped_and_the_alarm_taken_back() -> None:
    @measure.limited(0.01)
    def endless() -> None:
        while True:
            pass

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(measure.OutOfTimeError, match=r"0\.01 seconds"):
        endless()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_batch_is_halved_until_it_fits() -> None:
    tried = []

    def measured(batch: int) -> str:
        tried.append(batch)
        if batch > 20:
            raise torch.OutOfMemoryError("as a GPU says it")
        return f"{batch} fit"

    assert measure.with_batch_that_fits(64, measured) == "16 fit"
    assert tried == [64, 32, 16]
    with pytest.raises(torch.OutOfMemoryError):
        measure.with_batch_that_fits(3, lambda _: measured(64))


def test_a_profile_tells_the_convolutions_from_the_rest() -> None:
    conv, x = torch.nn.Conv2d(8, 8, 3), torch.randn(2, 8, 16, 16)
    found = measure.profile_of(lambda: conv(x).exp().sum().backward(), CPU, calls=2)
    assert 0 < found.within(measure.CONVOLUTIONS) < found.seconds
    assert {"aten::exp", "aten::sum"} <= {cost.name for cost in found.kernels if cost.runs == 1}
    assert found.kernels[0].seconds == max(cost.seconds for cost in found.kernels)


def test_a_section_that_fails_or_takes_too_long_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_bench: Any) -> None:
        raise ValueError("no such kernel\nand more")

    def endless(_bench: Any) -> None:
        while True:
            pass

    def good(bench: Any) -> None:
        bench.report.line("here it is")

    sections = {"broken": ("A", 5, broken), "endless": ("B", 0.001, endless), "good": ("C", 5, good)}
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 1
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "**Failed: ValueError: no such kernel**" in text
    assert "**Stopped: more than 0.01 seconds.**" in text
    assert "here it is" in text
    assert gpu.main(["--device", "cpu", "--only", "good", "--out", str(tmp_path)]) == 0


def test_the_generator_s_table_has_a_row_for_each_size_and_setting(tmp_path: Path) -> None:
    report = measure.Report(tmp_path / "gpu.md")
    bench = gpu.Bench(report=report, out=tmp_path, device=CPU, sizes=[16], tiny=True, extra={"batch": 2})
    gpu.generator(bench)
    rows = [line.split(" | ") for line in (tmp_path / "gpu.md").read_text(encoding="utf-8").splitlines()[-3:]]
    assert [row[1] for row in rows] == ["wide", "recipe px16", "StyleGAN2-like"]
    assert all(row[2] == "2" and float(row[4]) > 0 for row in rows)
    assert all(row[7] == "—" for row in rows)  # without measured ceilings no share of them


def test_seeded_numbers_are_those_of_the_cpu() -> None:
    def draw() -> list[torch.Tensor]:
        source = torch.Generator().manual_seed(5)
        return [torch.randn(3, generator=source), torch.rand(2, 2, generator=source)]

    with device_checks.NumbersOfTheCPU():
        shared = draw()
        assert torch.randn(4).shape == (4,)  # unseeded ones are left alone
    for one, other in zip(shared, draw(), strict=True):
        assert torch.equal(one, other)


def test_distance_is_relative_and_a_check_without_a_number_fails() -> None:
    one = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert device_checks.distance(one, [torch.tensor([3.0, 3.0]), torch.tensor([0.0])]) == 1.0
    assert device_checks.distance(one, one) == 0.0
    assert device_checks.Check("informs", 5.0).good
    assert not device_checks.Check("bounded", 5.0, 4.0).good
    assert not device_checks.Check("bounded", float("nan"), 4.0).good


def test_a_step_s_gradients_depend_on_the_settings_but_not_on_the_pieces() -> None:
    config = FitConfig(batch=4, widths=(16, 8), group_width=8, latent_dim=8, label_dim=4, augment="natural")
    whole, pieces, other = (
        device_checks.one_step(config.updated(changes), (16, 16), CPU)
        for changes in ({}, {"pieces": 2}, {"gamma": 5.0})
    )
    assert device_checks.distance(whole[0], pieces[0]) < 1e-5
    assert device_checks.distance(whole[1], pieces[1]) < 1e-3
    assert device_checks.distance(whole[0], other[0]) > 1e-2
