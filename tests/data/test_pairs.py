import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

from ganaug.data.domains import by_class
from ganaug.data.manifest import Manifest
from ganaug.data.pairs import SAMPLED, misaligned, pair_by_stem
from ganaug.data.reading import scan
from ganaug.errors import ConfigError, DataError
from tests.data.folders import pixels, save
from tests.data.items import make_item, make_manifest


def folder(*names: str, **fields: object) -> Manifest:
    """Return a manifest of classes t2 and flair with an item for each path."""
    classes = ("flair", "t2")
    items = [make_item(name, label=classes.index(name.split("/")[0]), **fields) for name in names]
    return make_manifest(*items, classes=classes)


def paired(manifest: Manifest, *names: str) -> list[tuple[str, str]]:
    pairs, _ = pair_by_stem(manifest, names or ("t2", "flair"))
    assert pairs.dtype == np.int64
    return [(manifest.items[one].name, manifest.items[other].name) for one, other in pairs.tolist()]


# --- what is a pair ---


def test_the_same_path_below_two_folders_is_a_pair_whatever_the_suffix() -> None:
    manifest = folder(
        "flair/p1/1.nii.gz", "flair/p2/1.png", "flair/x.y.tif", "t2/p1/1.nii", "t2/p2/1.PNG", "t2/x.y.png"
    )
    assert paired(manifest) == [
        ("t2/p1/1.nii", "flair/p1/1.nii.gz"),
        ("t2/p2/1.PNG", "flair/p2/1.png"),
        ("t2/x.y.png", "flair/x.y.tif"),
    ]
    assert paired(manifest, "flair", "t2")[0] == ("flair/p1/1.nii.gz", "t2/p1/1.nii")


def test_domains_of_a_table_are_paired_by_the_rest_of_the_path() -> None:
    rows = [("p1/t2/1.png", "t2"), ("p1/flair/1.png", "flair"), ("t2/p2.png", "t2"), ("flair/p2.png", "flair")]
    manifest = make_manifest(*(make_item(path, domain=domain) for path, domain in rows))
    assert paired(manifest) == [("p1/t2/1.png", "p1/flair/1.png"), ("t2/p2.png", "flair/p2.png")]


def test_slices_series_and_images_of_archives_are_paired() -> None:
    classes = ("flair", "t2")
    items = [
        make_item(f"{name}/p1.nii.gz", label=label, part=f"axial[{index}]")
        for label, name in enumerate(classes)
        for index in (3, 4)
    ]
    items += [
        make_item(f"{name}/p2/{first}.dcm", label=label, files=(f"{name}/p2/{first}.dcm", f"{name}/p2/x.dcm"))
        for label, (name, first) in enumerate(zip(classes, ("IM7", "IM1"), strict=True))
    ]
    items += [make_item(f"{name}.npz", label=label, part="images[0]") for label, name in enumerate(classes)]
    assert paired(make_manifest(*items, classes=classes)) == [
        ("t2.npz#images[0]", "flair.npz#images[0]"),
        ("t2/p1.nii.gz#axial[3]", "flair/p1.nii.gz#axial[3]"),
        ("t2/p1.nii.gz#axial[4]", "flair/p1.nii.gz#axial[4]"),
        ("t2/p2/IM1.dcm", "flair/p2/IM7.dcm"),
    ]


def test_images_without_a_partner_are_named_and_left_out() -> None:
    manifest = folder(*(f"t2/{index}.png" for index in range(9)), "flair/1.png", "flair/other.png")
    pairs, sentences = pair_by_stem(manifest, ("t2", "flair"))
    assert len(pairs) == 1
    assert sentences == [
        "8 of 9 images of t2 have no partner in flair and are left out: t2/0.png, t2/2.png, t2/3.png, t2/4.png, "
        "t2/5.png and 3 more.",
        "1 of 2 images of flair have no partner in t2 and are left out: flair/other.png.",
    ]
    assert pair_by_stem(folder("t2/1.png", "flair/1.png"), ("t2", "flair"))[1] == []


def test_a_stem_that_stands_for_two_images_pairs_neither() -> None:
    manifest = folder("t2/1.png", "t2/1.tif", "t2/2.png", "flair/1.png", "flair/2.png")
    pairs, sentences = pair_by_stem(manifest, ("t2", "flair"))
    assert pairs.tolist() == [[2, 4]]
    assert sentences[0] == "1 stem stands for several images of t2, which are left out: 1."
    assert sentences[1].endswith("have no partner in t2 and are left out: flair/1.png.")


def test_without_a_pair_the_stems_are_shown() -> None:
    with pytest.raises(DataError, match=r"No image of t2 has .* flair in .*: the stems are such as a and b\. "):
        paired(folder("t2/a.png", "flair/b.png"))
    with pytest.raises(DataError, match="such as a and none"):
        paired(folder("t2/a.png"))
    for names in (("t2",), ("t2", "t2"), ("t2", "flair", "t1")):
        with pytest.raises(ConfigError, match="two domains were wanted"):
            pair_by_stem(folder("t2/a.png"), names)


def test_images_of_a_pair_that_differ_in_shape_are_named() -> None:
    one, other = make_item("flair/1.png"), make_item("t2/1.png", label=1, shape=(12, 9))
    with pytest.raises(
        DataError,
        match=r"1 of 1 pair in .*: t2/1\.png \(12×9, 1 channel\) and flair/1\.png \(12×10, 1 channel\)\. .*resample",
    ):
        paired(make_manifest(one, other, classes=("flair", "t2")))
    color = make_item("t2/1.png", label=1, channels=3)
    with pytest.raises(DataError, match="3 channels"):
        paired(make_manifest(one, color, classes=("flair", "t2")))
    gray = make_item("t2/1.png", label=1, channels=3, gray=True)
    assert len(paired(make_manifest(one, gray, classes=("flair", "t2")))) == 1


# --- whether pairs lie over each other ---


def contrasts(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two contrasts of one anatomy: blobs of tissue with unrelated gray values, each with noise of its own."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), 3)
    tissue = np.digitize(field / field.std(), [-1, -0.3, 0.3, 1])
    found = []
    for levels in ((0, 60, 120, 180, 240), (0, 200, 90, 150, 40)):
        found.append(gaussian_filter(np.array(levels, float)[tissue], 0.7) + rng.normal(scale=6, size=shape))
    return found[0], found[1]


def as_uint8(image: np.ndarray) -> np.ndarray:
    return image.clip(0, 255).astype(np.uint8)


def write_pairs(root: Path, moves: list[tuple[int, ...]], shape: tuple[int, ...]) -> tuple[Manifest, np.ndarray]:
    for index, move in enumerate(moves):
        one, other = contrasts(index, *shape)
        other = shift(other, move, order=0, mode="nearest")
        for name, image in (("t2", one), ("flair", other)):
            if image.ndim == 2:
                save(root / name / f"{index:03d}.png", as_uint8(image))
            else:
                (root / name).mkdir(parents=True, exist_ok=True)
                np.save(root / name / f"{index:03d}.npy", as_uint8(image))
    manifest, domains = by_class(scan(root), ("t2", "flair"), "style")
    return manifest, pair_by_stem(manifest, domains.names)[0]


@pytest.mark.parametrize(("side", "count"), [(28, 20), (64, 20), (300, 4)])
def test_two_contrasts_that_lie_well_raise_no_alarm(tmp_path: Path, side: int, count: int) -> None:
    manifest, pairs = write_pairs(tmp_path, [(0, 0)] * count, (side, side))
    assert misaligned(manifest, pairs) == []


def test_shifted_pairs_are_named_with_their_shift(tmp_path: Path) -> None:
    moves = [(0, 0), (5, 0), (1, 1), (0, 0), (-4, 6)]
    manifest, pairs = write_pairs(tmp_path, moves, (64, 80))
    (sentence,) = misaligned(manifest, pairs)
    assert sentence.startswith(
        "2 of 5 pairs that were looked at are shifted by more than 2% of a side, in pixels: flair/001.png against "
        "t2/001.png (+5 along the height); flair/004.png against t2/004.png (-4 along the height, +6 along the width). "
    )


def test_a_share_is_of_the_side_that_was_shifted(tmp_path: Path) -> None:
    manifest, pairs = write_pairs(tmp_path, [(0, 0), (0, 4)], (64, 300))
    assert misaligned(manifest, pairs) == [], "1.3 % of the width"
    assert misaligned(manifest, pairs, shifted=0.01) != []


def test_shifted_volumes_and_images_that_are_reduced_are_found(tmp_path: Path) -> None:
    manifest, pairs = write_pairs(tmp_path / "volumes", [(0, 0, 0), (2, 0, -3)], (24, 32, 28))
    (sentence,) = misaligned(manifest, pairs)
    assert "001.npy (+2 along the depth, -3 along the width)" in sentence
    manifest, pairs = write_pairs(tmp_path / "large", [(0, 0), (0, 30)], (300, 600))
    (sentence,) = misaligned(manifest, pairs)
    assert "001.png against t2/001.png (+30 along the width)" in sentence


def test_of_many_pairs_some_are_looked_at_and_a_few_named(tmp_path: Path) -> None:
    manifest, pairs = write_pairs(tmp_path, [(6, 0)] * 2, (64, 64))
    many = np.repeat(pairs[:1], 100, axis=0)
    (sentence,) = misaligned(manifest, many)
    assert sentence.startswith(f"{SAMPLED} of {SAMPLED} pairs")
    assert f"and {SAMPLED - 3} more" in sentence
    assert misaligned(manifest, many, sampled=2)[0].startswith("2 of 2 pairs")


def test_contrasts_of_real_brains_are_told_from_shifted_ones(tmp_path: Path) -> None:
    if "GANAUG_DATA" not in os.environ:
        pytest.skip("GANAUG_DATA is not set")
    folder = Path(os.environ["GANAUG_DATA"]) / "brain_t1_t2_flair_pgbm"
    for path in sorted((folder / "flair").iterdir())[::6]:
        for name in ("flair", "t2"):
            image = np.asarray(Image.open(folder / name / path.name))
            save(tmp_path / "still" / name / path.name, image)
            save(tmp_path / "moved" / name / path.name, np.roll(image, 7, axis=0) if name == "t2" else image)
    for root, wanted in (("still", []), ("moved", ["12 of 12 pairs"])):
        manifest, domains = by_class(scan(tmp_path / root), ("flair", "t2"), "style")
        pairs, _ = pair_by_stem(manifest, domains.names)
        assert len(pairs) == 12
        assert [sentence[:14] for sentence in misaligned(manifest, pairs)] == wanted


@pytest.mark.filterwarnings("error")
def test_images_that_tell_nothing_raise_no_alarm(tmp_path: Path) -> None:
    for index in range(8):
        save(tmp_path / "t2" / f"{index}.png", pixels(index, 32, 32))
        save(tmp_path / "flair" / f"{index}.png", pixels(100 + index, 32, 32))
    save(tmp_path / "t2" / "flat.png", np.full((32, 32), 7, np.uint8))
    save(tmp_path / "flair" / "flat.png", pixels(99, 32, 32))
    manifest, domains = by_class(scan(tmp_path), ("t2", "flair"), "style")
    pairs, _ = pair_by_stem(manifest, domains.names)
    assert len(pairs) == 9
    assert misaligned(manifest, pairs) == []
