"""The parts of the benchmarks that need no GPU and no data: work counted from shapes, tables, limits, checks."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
hallucination = pytest.importorskip("benchmarks.hallucination")
jobs = pytest.importorskip("benchmarks.jobs")
minority = pytest.importorskip("benchmarks.minority")
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


def _phantom_job(scratch: Path, **changes: Any) -> dict[str, Any]:
    job = {"between": ["a", "b@soft"], "lesions": [0.1, 0.5], "size": [32, 32], "count": 10, "tests": 5, "seed": 0}
    return {**job, "target_labels": "known", "scratch": str(scratch), **changes}


def test_created_and_lost_lesions_are_told_from_the_truth(tmp_path: Path) -> None:
    job = _phantom_job(tmp_path, size=[64, 64], between=["a", "b"])
    domains = hallucination.domains_of(job)
    scans = hallucination.held_out(job, domains["a"])
    given = hallucination.stored([of.image for of in scans])
    wanted = hallucination.stored(hallucination.expected(scans, domains["b"]))
    assert [of.has_lesion for of in scans] == [False, True] * 5
    all_healthy, all_ill = (wanted[part::2].repeat(2, axis=0) for part in (0, 1))
    for made, created, lost in ((wanted, 0, 0), (all_ill, 5, 0), (all_healthy, 0, 5)):
        found = hallucination.compared(scans, given, made, wanted, "b")
        counts = [found[name] for name in ("healthy", "lesion", "created", "lost", "created_in_truth", "lost_in_truth")]
        assert counts == [5, 5, created, lost, 0, 0]
        assert (found["mae"]["made"] == 0) == (created == lost == 0)


def test_errors_of_translations_are_percent_of_the_range_beside_those_of_the_source_and_the_best_table(
    tmp_path: Path,
) -> None:
    job = _phantom_job(tmp_path, between=["a", "b"])
    scans = hallucination.held_out(job, hallucination.domains_of(job)["a"])
    given = hallucination.stored([of.image for of in scans])
    wanted = hallucination.stored([0.8 * (1 - of.image) for of in scans])
    found = hallucination.compared(scans, given, wanted + 51, wanted, "b")
    for kind in ("mae", "mae_head"):
        assert found[kind]["made"] == pytest.approx(20)
        assert found[kind]["table"] < 0.1 < 10 < found[kind]["identity"]
    assert found["mae_head"]["identity"] != pytest.approx(found["mae"]["identity"], rel=0.1)


def test_no_test_head_is_trained_on_and_unknown_labels_are_not_in_the_folder_of_the_target(tmp_path: Path) -> None:
    job = _phantom_job(tmp_path, between=["a", "b"], lesions=[0.5, 0.5], tests=10)
    unknown = hallucination.prepare({**job, "target_labels": "unknown"})
    known = hallucination.prepare(job)
    trained = {path.read_bytes() for path in known.rglob("*.png")}
    assert len(trained) == 20
    assert {path.read_bytes() for path in unknown.rglob("*.png")} == trained
    assert [path.suffix for path in (unknown / "b" / "b").iterdir()] == [".png"] * 10
    (tmp_path / "test").mkdir()
    for name, domain in hallucination.domains_of(job).items():
        images = hallucination.stored([of.image for of in hallucination.held_out(job, domain)])
        written = jobs.write_folder(images[:, None], [name] * len(images), tmp_path / "test")
        assert not {path.read_bytes() for path in (written / name).iterdir()} & trained


def test_the_truth_at_a_site_has_its_curve_and_blur_but_nothing_random(tmp_path: Path) -> None:
    job = _phantom_job(tmp_path, size=[64, 64], tests=2)
    domain = hallucination.domains_of(job)["b@soft"]
    scans = hallucination.held_out(job, hallucination.domains_of(job)["a"])
    clean = 0.9 * np.stack(hallucination.expected(scans, replace(domain, site=None))) ** 0.7
    found = np.stack(hallucination.expected(scans, domain))
    around = [np.roll(clean, (down, across), axis=(1, 2)) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    flat = np.ptp(around, axis=0) < 0.03
    brain = flat & (clean > 0.3)
    assert brain.sum() > 100
    np.testing.assert_allclose(found[brain], clean[brain], atol=0.02)
    assert (found[flat & (clean == 0)] == 0).mean() > 0.9
    assert np.abs(np.diff(found)).mean() < 0.9 * np.abs(np.diff(clean)).mean()


def test_labels_that_a_judge_gave_are_compared_with_the_table_that_it_did_not_see(tmp_path: Path) -> None:
    target = hallucination.prepare(_phantom_job(tmp_path, target_labels="unknown", between=["a", "b"])) / "b"
    assert hallucination.judged(tmp_path, target, ("healthy", "lesion")) == {}
    images = sorted((target / "b").iterdir())
    table = dict(row.split(",")[:2] for row in (target / "metadata.csv").read_text().splitlines()[1:])
    labels = [int(table[f"b/{path.name}"] == "lesion") for path in images]
    labels[0], labels[1] = 1 - labels[0], -1
    given = {hashlib.sha256(path.read_bytes()).hexdigest(): label for path, label in zip(images, labels, strict=True)}
    values = {"believed": True, "sentence": "so it is", "labels": given}
    (tmp_path / "target_labels.json").write_text(json.dumps(values))
    found = hallucination.judged(tmp_path, target, ("healthy", "lesion"))["judged"]
    assert (found["given"], found["right"]) == (0.9, pytest.approx(8 / 9))


def test_repeats_pool_their_images_and_wilson_s_interval_stands_at_zero_too() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert hallucination.share_cell([(0, 20)]) == "0.0 [0.0, 16.1]"
    assert hallucination.share_cell([(15, 148)]) == "10.1 [6.2, 16.0]"
    assert hallucination.share_cell([(15, 148), (0, 148)]).endswith("(0.0 to 10.1)")

    def result(seed: int, lost: int, **changes: Any) -> dict[str, Any]:
        asked = {"size": [64, 64], "lesions": [0.1, 0.5], "settings": "", "target_labels": "known", "minutes": 5}
        errors = {"made": 2.0 + seed, "identity": 20.0, "table": 6.0}
        counts = {"healthy": 50, "lesion": 50, "created": 0, "lost": lost, "created_in_truth": 0, "lost_in_truth": 1}
        found = {**counts, "mae": errors, "mae_head": errors, "kimg": 3.0, "direction": "a to b"}
        return {**asked, "seed": seed, **found, **changes}

    judge = {"judged": {"believed": True, "given": 0.8, "right": 0.95}}
    other = result(0, 10, target_labels="unknown", **judge)
    head, _, *rows = hallucination.table([result(0, 2), result(1, 4), other, {"failed": "no room"}]).splitlines()
    columns = [dict(zip(head.split(" | "), row.split(" | "), strict=True)) for row in rows]
    assert [row["n"] for row in columns] == ["2", "1"]
    assert columns[0]["MAE %"] == "2.50"
    assert columns[0]["lost % [95 %]"] == "6.0 [2.8, 12.5] (4.0 to 8.0)"
    assert columns[0]["either % [95 %]"].startswith("3.0 [")
    assert columns[1]["labels of the target"] == "judged: 80 %, right 95 %"


def test_an_arm_that_adds_nothing_is_its_baseline() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 1, 8, 8), dtype=np.uint8), np.arange(30) % 3 // 2

    def weights(**changes: Any) -> torch.Tensor:
        model = arms.trained(images, labels, ("a", "b"), steps=2, seed=3, augment=arms.StrongAugment(), **changes)
        return torch.cat([value.flatten() for value in model.state_dict().values()])

    assert torch.equal(weights(), weights(added=(images[:0], labels[:0])))
    assert not torch.equal(weights(), weights(balanced=False))


def test_added_images_take_half_of_the_draws_of_their_class_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = np.zeros((30, 1, 8, 8), np.uint8), np.arange(30) % 3 // 2
    monkeypatch.setattr(arms, "train_classifier", lambda data, **settings: (data.targets, settings["batches"].numpy()))
    asked = {"steps": 100, "seed": 0, "augment": arms.StrongAugment()}
    _, without = arms.trained(images, labels, ("a", "b"), **asked)
    targets, plan = arms.trained(images, labels, ("a", "b"), **asked, added=(images[:20], np.ones(20, np.int64)))
    is_added = plan >= 30
    np.testing.assert_array_equal(plan[~is_added], without[~is_added])
    np.testing.assert_array_equal(targets[plan], labels[without])
    assert is_added[targets[plan] == 1].mean() == pytest.approx(0.5, abs=0.03)
    assert not is_added[targets[plan] == 0].any()


def test_a_draw_keeps_as_many_of_each_class_as_asked_and_leaves_the_test_images() -> None:
    ids = np.arange(40, dtype=np.uint8)[:, None, None, None]
    images = sets.ImageSet("few", ("a", "b"), ids, np.arange(40) // 30, ids + 100, np.arange(40) % 2)
    one, again, other = (minority.imbalanced(images, (4, 6), seed) for seed in (0, 0, 1))
    assert np.bincount(one.train_labels).tolist() == [4, 6]
    assert len(set(one.train.ravel().tolist())) == 10
    assert (one.train.ravel() // 30 == one.train_labels).all()
    np.testing.assert_array_equal(one.train, again.train)
    assert set(one.train.ravel().tolist()) != set(other.train.ravel().tolist())
    assert one.test is images.test
    with pytest.raises(ValueError, match="larger sample"):
        minority.imbalanced(images, (4, 11), 0)


def test_duplicates_match_the_translations_in_number_and_repeat_each_image_as_often() -> None:
    real, made = np.arange(3)[:, None], np.arange(10, 16)[:, None]
    accepted = np.array([True, False, False, True, False, False])
    added = minority.added_images(real, translated=made, accepted=accepted, conditional=made + 10)
    assert np.bincount(added["duplicates"].ravel()).tolist() == [2, 2, 2]
    assert added["translated"].ravel().tolist() == [10, 11, 12, 13, 14, 15]
    assert added["filtered"].ravel().tolist() == [10, 13]
    assert set(added) | {"plain", "oversampled", "oracle"} == set(minority.ARMS)


def _write_twins(folder: Path, *rows: str) -> None:
    (folder / "twins.csv").write_text("source,changed,p_target_after,accepted\n" + "".join(f"{row}\n" for row in rows))


def test_what_the_twins_table_accepts_is_found_by_the_file_and_not_by_its_row(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in "abc"]
    for file in files:
        file.write_bytes(file.name.encode())
    a, b, c = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    _write_twins(tmp_path, f"{c},.2,.9,yes", f"{a},.1,.3,no", f"{b},.6,.8,yes")
    assert minority.accepted_of(tmp_path, files).tolist() == [False, True, True]
    summary = {"twins": 3, "accepted": 2, "rejected": {"unconvinced": 1}, "verdict": "it can"}
    judge = {"balanced_accuracy": 0.9, "threshold": 0.7, "sources_accepted_as_they_are": 0.1}
    found = minority.judged(tmp_path, {**summary, "judge": judge})
    assert (found["images"], found["accepted"], found["probability"], found["changed"]) == (3, 2, 0.8, 0.2)
    _write_twins(tmp_path, f"{c},.2,,no", f"{a},.1,,no", f"{b},.6,,no")
    assert minority.judged(tmp_path, {**summary, "judge": dict.fromkeys(judge)})["probability"] is None


@pytest.mark.parametrize(("problem", "accepted"), [("", 2), ("too few images", 0)])
def test_samples_are_accepted_from_the_threshold_on_if_the_judge_is_believed(problem: str, accepted: int) -> None:
    columns = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    ensemble = SimpleNamespace(probabilities=lambda images: columns)
    facts = {"balanced_accuracy": 0.9, "threshold": 0.7, "sources_accepted_as_they_are": 0.1}
    judge = SimpleNamespace(
        judge=ensemble, problem=problem, sentence="", classes=[0, 1], to=1, threshold=0.7, to_dict=lambda: facts
    )
    found = minority.judged_samples(judge, torch.zeros(3, 1, 2, 2))
    assert found["accepted"] == accepted
    assert found["rejected"] == {"no verdict" if problem else "unconvinced": 3 - accepted}
    assert found["probability"] == (None if problem else pytest.approx(0.7))


def test_the_auc_does_not_depend_on_the_threshold() -> None:
    images = np.array([0, 50, 100, 200], np.uint8).reshape(4, 1, 1, 1)
    linear = torch.nn.Linear(1, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0], [1.0]]))
        linear.bias.copy_(torch.tensor([0.0, 100.0]))
    model = torch.nn.Sequential(torch.nn.Flatten(), linear)
    assert minority.auc(model, images, np.array([0, 0, 1, 1])) == 1
    assert minority.auc(model, images, np.array([0, 1, 0, 1])) == 0.75


def test_the_table_of_a_rare_class_pairs_seeds_and_shows_the_gain_of_each_draw() -> None:
    asked = {"keep": [2, 6], "settings": "", "recipe": "auto", "minutes": 1, "judge_steps": 9, "commit": "c"}

    def result(arm: str, seed: int, hits: str, **changes: Any) -> dict[str, Any]:
        fixed = {"gans": 2, "steps": 9, "augment": "strong", "labels": "00001111", "auc": 0.9, "added": 5}
        return {**asked, **fixed, "arm": arm, "seed": seed, "draw": seed % 2, "hits": hits, "accuracy": 0.5, **changes}

    results = [result("oversampled", seed, "11101111") for seed in range(4)]
    results += [result("filtered", 0, "00000000")]  # repeated below
    results += [result("filtered", seed, "11111111" if seed % 2 else "11101111", commit="d") for seed in range(4)]
    results += [result("filtered", 4, "11111111"), {"failed": "no room"}]  # seed 4 has no partner
    head, _, oversampled, filtered = minority.table(results).splitlines()[2:]
    columns = dict(zip(head.split(" | "), filtered.split(" | "), strict=True))
    assert (columns["n"], columns["arm"], columns["added"]) == ("4", "filtered", "5")
    assert (columns["recall normal"], columns["recall pneumonia"]) == ("87.5", "100.0")
    assert columns["− oversampled"].startswith("+6.2 [")
    assert columns["− oversampled, each draw"] == "+0.0, +12.5"
    assert columns["commit |"] == "d |"
    assert oversampled.split(" | ")[-4:-1] == ["", "", ""]

    judged = {"judge_accuracy": 0.9, "untouched": 0.1, "probability": 0.6, "changed": None, "kimg": 2.0, "images": 10}
    rejected = [{"unchanged": 1, "unconvinced": 4}, {"unconvinced": 3}]
    made = [
        {**asked, **judged, "what": "to a", "seed": seed, "accepted": 10 - sum(why.values()), "rejected": why}
        for seed, why in enumerate(rejected)
    ]
    row = minority.judge_table(made).splitlines()[-1].split(" | ")
    assert row[3:] == ["to a", "2.0", "90%", "10%", "50%, 70%", "unconvinced 35%, unchanged 5%", "60%", "", "c |"]
