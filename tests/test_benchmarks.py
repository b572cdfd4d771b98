"""The parts of the benchmarks that need no GPU and no data: work counted from shapes, tables, limits, checks."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
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
arms = pytest.importorskip("benchmarks.arms")
fidelity = pytest.importorskip("benchmarks.fidelity")
jobs = pytest.importorskip("benchmarks.jobs")
sets = pytest.importorskip("benchmarks.sets")
sites = pytest.importorskip("benchmarks.sites")
transfer = pytest.importorskip("benchmarks.transfer")
translation = pytest.importorskip("benchmarks.translation")

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


def test_errors_are_of_values_from_0_to_1_and_the_head_is_counted_alone() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 200, (2, 24, 24), dtype=np.uint8)
    truth[:, 12:] = 0
    made = truth.copy()
    made[0, :12] += 51
    head = np.broadcast_to(np.arange(24)[:, None] < 12, truth.shape)
    found = fidelity.fidelity(made, truth, head)
    assert found["mae"] == pytest.approx([0.1, 0])
    assert found["mae_head"] == pytest.approx([0.2, 0])
    assert found["psnr_head"] == pytest.approx([-20 * np.log10(0.2), 100])
    assert found["ssim"][1] == found["ssim_head"][1] == 1
    made[0, :12] = made[0, 11::-1]
    ssim = {name: fidelity.fidelity(made, truth, head)[name][0] for name in ("ssim", "ssim_head")}
    assert ssim["ssim_head"] < 0.3 < ssim["ssim"] < 1
    assert fidelity.fidelity(made, truth).keys() == {"mae", "psnr", "ssim"}


def test_the_intensity_baselines_are_the_best_of_their_kind_on_their_training_pairs() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(20, 200, (4, 32, 32), dtype=np.uint8)
    target = np.clip((source - 110.0) ** 2 / 40 + rng.exponential(20, source.shape), 0, 255).astype(np.uint8)
    baselines = fidelity.intensity_baselines(source, target)
    errors = {name: baseline(source) - target.astype(float) for name, baseline in baselines.items()}
    squared = {name: np.square(error).mean() for name, error in errors.items()}
    absolute = {name: np.abs(error).mean() for name, error in errors.items()}
    assert min(squared, key=squared.get) == "table"
    level = source == 90
    assert set(baselines["table"](source)[level].tolist()) == {round(float(target[level].mean()))}
    assert min(absolute, key=absolute.get) == "table, median"
    for matched in ("histogram", "histogram, each"):
        assert np.quantile(baselines[matched](source), [0.1, 0.5, 0.9]) == pytest.approx(
            np.quantile(target, [0.1, 0.5, 0.9]), abs=6
        )


def test_a_pooled_curve_finds_the_curve_of_a_site_from_other_images() -> None:
    rng = np.random.default_rng(0)
    curve = np.rint(255 * (np.arange(256) / 255) ** 2).astype(np.uint8)
    one, other = rng.integers(0, 256, (2, 8, 64, 64), dtype=np.uint8)
    assert np.abs(fidelity.pooled_curve(one, curve[other]).astype(int) - curve).max() <= 4


@pytest.mark.parametrize("name", ["curve", "bias", "noise"])
def test_a_scanner_depends_on_images_and_seed_alone(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 12), dtype=np.uint8)
    before, scanner = images.copy(), sites.SCANNERS[name]
    made = scanner(images, 1)
    assert made.shape == images.shape
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, scanner(images, 1))
    np.testing.assert_array_equal(images, before)
    assert (made != scanner(images, 2)).any()
    assert (made != images).mean() > 0.5


def test_scanners_do_what_they_are_described_as() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (2, 1, 16, 1))
    assert (np.diff(sites.curve(ramp, 0)[:, 0, 0].astype(int)) >= 0).all()
    flat = np.full((2, 1, 64, 64), 200, np.uint8)
    field = sites.bias(flat, 0)
    assert field.min() == pytest.approx(200 * 1.25 / 4, abs=1.5)
    assert field.max() == pytest.approx(200 * 1.25, abs=1.5)
    air = sites.noise(np.zeros_like(flat), 0) / 255
    assert air.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.05)  # Rayleigh
    assert (sites.noise(flat, 0) / 255).std() == pytest.approx(0.05, rel=0.1)


def test_two_sites_share_no_image_and_the_split_keeps_the_classes() -> None:
    ids = np.arange(60, dtype=np.uint8)[:, None, None, None]
    labels = np.arange(50) % 2
    images = sets.ImageSet("few", ("a", "b"), ids[:50], labels, ids[50:], np.arange(10) % 2)
    found = sites.two_sites(images, lambda part, seed: part + 100)
    a, b, test = (set(part.ravel().tolist()) for part in (found.a, found.b - 100, found.test_b - 100))
    assert (len(a), len(b), len(test)) == (24, 26, 10)
    assert a | b | test == set(range(60))
    assert np.bincount(found.a_labels).tolist() == [12, 12]
    assert (labels[found.b.ravel() - 100] == found.b_labels).all()
    skewed = sites.two_sites(images, lambda part, seed: part, skew=0.25)
    assert np.bincount(skewed.b_labels).tolist() == [13, 4]
    np.testing.assert_array_equal(skewed.a, found.a)


def test_strong_augmentation_is_seeded_stays_in_range_and_can_be_turned_off() -> None:
    images = torch.rand(6, 1, 20, 16) * 2 - 1

    def changed(augment: Any, seed: int = 0) -> torch.Tensor:
        return augment(images, torch.Generator().manual_seed(seed))

    strong = arms.StrongAugment()
    assert torch.equal(changed(strong), changed(strong))
    assert not torch.equal(changed(strong), changed(strong, 1))
    assert changed(strong).abs().max() <= 1
    still = {"shift": 0.0, "rotate_deg": 0.0, "scale": 0.0, "contrast": 0.0, "brightness": 0.0}
    torch.testing.assert_close(changed(arms.StrongAugment(**still, p=0.0)), images, atol=1e-5, rtol=0)
    off = {"gamma": 1.0, "field": 0.0, "blur": 0.0, "noise": 0.0}
    for name in off:
        alone = arms.StrongAugment(**still, p=1.0, **{key: value for key, value in off.items() if key != name})
        assert (changed(alone) - images).abs().flatten(1).amax(1).gt(1e-3).sum() >= 4, name


def test_the_blur_of_each_image_has_its_own_width() -> None:
    images = torch.zeros(2, 1, 15, 15)
    images[:, :, 7, 7] = 1
    made = arms.blurred(images, torch.tensor([0.0, 1.5]).view(2, 1, 1, 1))
    torch.testing.assert_close(made[0], images[0])
    offsets = torch.arange(15.0) - 7
    assert float((made[1, 0].sum(0) * offsets**2).sum()) == pytest.approx(1.5**2, rel=0.05)


def test_statistics_of_another_site_are_put_into_a_copy() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(1)).eval()
    images = np.full((300, 1, 2, 2), 51, np.uint8)
    images[:150] = 0
    adapted = transfer.with_statistics_of(model, images)
    assert float(adapted[0].running_mean) == pytest.approx(-0.8, abs=0.02)
    assert float(adapted[0].running_var) == pytest.approx(0.04, rel=0.02)
    assert not adapted.training
    assert float(model[0].running_mean) == 0
    assert float(model[0].momentum) == 0.1


def test_the_gain_of_a_translation_is_paired_by_seed_and_weighs_classes_alike() -> None:
    def result(arm: str, seed: int, hits: str) -> dict[str, Any]:
        fixed = {"settings": "", "recipe": "auto", "minutes": 1, "gans": 1, "steps": 9, "skew": 1.0, "commit": "c"}
        place = {"set": "s", "scanner": "bias", "labels": "00000011", "accuracy": 0.5}
        return {**fixed, **place, "arm": arm, "seed": seed, "hits": hits}

    results = [result("translated", seed, "11111111") for seed in (0, 1)]
    results += [result("strong", seed, "11111101") for seed in (0, 1, 2)]  # seed 2 has no partner
    results += [{"failed": "no room", "set": "s"}]
    row = transfer.table(results).splitlines()[-1]
    columns = dict(zip(transfer.table(results).splitlines()[-3].split(" | "), row.split(" | "), strict=True))
    assert columns["n"] == "2"
    assert columns["− strong"].startswith("+25.0 [")
    assert columns["− plain"] == ""


def test_repeated_trainings_become_one_row_with_the_spread_over_slices() -> None:
    metrics = [name for name, _ in translation.COLUMNS.values()]

    def result(model: str | None, first: float) -> dict[str, Any]:
        slices = {metric: [first, first + 0.2] for metric in metrics}
        place = {"size": 64, "direction": "t2 to flair", "model": model, "system": model or "table", "slices": slices}
        return place | ({"settings": "", "minutes": 1, "kimg": 2.0} if model else {})

    rows = translation.table([result(None, 0.3), result(None, 0.3), result("cyclegan", 0.1), result("cyclegan", 0.3)])
    table, cyclegan = (row.split(" | ") for row in rows.splitlines()[2:])
    assert table[2:7] == ["table", "", "", "", "0.4000 ± 0.1414"]
    assert cyclegan[2:7] == ["cyclegan", "2", "1", "2.0", "0.3000 ± 0.1414"]


def test_a_picture_shows_the_error_beside_the_truth() -> None:
    truth = np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 5), np.uint8)
    shown = translation.picture(truth, truth, truth + 20)
    assert shown.shape == (translation.SHOWN * 3, 4 * 5)
    assert (shown[:, 15:] == 20).all()
    assert shown[-1, 10] == 27


def test_a_job_that_fails_says_why_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "twice.py").write_text(
        "import json, sys; from benchmarks.jobs import answer; job = json.loads(sys.argv[2])\n"
        "answer([{'half': job['n'] / 2 + part} for part in (0, 1)] if job['n'] else {}['nothing'])\n"
    )
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    results = tmp_path / "results.jsonl"
    found = list(jobs.run_jobs("twice", [{"n": 4}, {"n": 0}], side_by_side=2, results=results))
    assert [result.get("half") for result in found] == [2, 3, None]
    assert found[2] == {"n": 0, "failed": "KeyError: 'nothing'"}
    assert jobs.read_results(results) == found
