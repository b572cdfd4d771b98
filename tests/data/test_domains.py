import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ganaug.data.domains import Domains, by_class, by_column, joined, resolve_rule
from ganaug.data.grid import Grid
from ganaug.data.leak import refuse_leak
from ganaug.data.manifest import UNKNOWN, Manifest
from ganaug.data.reading import scan, scan_unlabelled
from ganaug.data.tensors import load_images, read_item
from ganaug.errors import ConfigError, DataError, LeakError
from tests.data.folders import make_folder, pixels, save
from tests.data.items import make_item, make_manifest
from tests.dicoms import write_series


def labelled(*names: str, classes: tuple[str, ...] = ("a", "b", "c")) -> Manifest:
    """Return a manifest with an item for each path, in the class of its folder."""
    return make_manifest(*(make_item(name, label=classes.index(name.split("/")[0])) for name in names), classes=classes)


def with_domains(*rows: tuple[str, str, int]) -> Manifest:
    return make_manifest(*(make_item(path, domain=domain, label=label) for path, domain, label in rows))


FOUR = labelled("a/1", "a/2", "b/1", "b/2", "b/3", "c/1", "c/2")
SITES = with_domains(("1", "x", 0), ("2", "y", 1), ("3", "x", 1), ("4", "y", 0), ("5", "z", 0), ("6", "z", 1))


# --- the rule ---


@pytest.mark.parametrize(
    ("rule", "told", "wanted"),
    [
        ("style", {}, "style"),
        ("class", {}, "class"),
        ("class", {"column": True}, "class"),
        ("auto", {"column": True}, "style"),
        ("auto", {"target": True}, "style"),
    ],
)
def test_a_rule_is_taken_as_given_or_from_what_tells_it(rule: str, told: dict[str, bool], wanted: str) -> None:
    assert resolve_rule(rule, ("a", "b"), **told) == wanted


def test_a_rule_that_nothing_tells_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"between t2, flair does.*--rule class .*target|--rule class .*--rule style"):
        resolve_rule("auto", ("t2", "flair"))
    with pytest.raises(ConfigError, match="'styl' was given; one of auto, style, class"):
        resolve_rule("styl", column=True)
    with pytest.raises(ConfigError, match="two sites, which are no classes"):
        resolve_rule("class", target=True)


# --- classes as domains ---


def test_classes_become_domains_in_the_order_asked_for_and_others_are_left_out() -> None:
    manifest, domains = by_class(FOUR, ("c", "a"), "class")
    assert [item.path for item in manifest.items] == ["a/1", "a/2", "c/1", "c/2"]
    assert (manifest.classes, manifest.labels.tolist()) == (("c", "a"), [1, 1, 0, 0])
    assert manifest.counts == {"c": 2, "a": 2}
    assert (domains.names, domains.rule, domains.pairs) == (("c", "a"), "class", None)
    assert domains.of.dtype == np.int64
    assert domains.of.tolist() == domains.labels.tolist() == [1, 1, 0, 0]
    assert domains.classes == ("c", "a")


def test_without_names_all_classes_are_domains() -> None:
    manifest, domains = by_class(FOUR, None, "class")
    assert manifest == FOUR
    assert domains.names == FOUR.classes


def test_under_rule_style_a_class_that_is_a_domain_says_nothing_about_the_label() -> None:
    _, domains = by_class(FOUR, ("a", "b"), "style")
    assert domains.of.tolist() == [0, 0, 1, 1, 1]
    assert domains.labels.tolist() == [UNKNOWN] * 5
    assert domains.classes == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "t2"), r"--domains names t2, but .* has 3 classes \(a, b, c\)"),
        (("a",), "--domains a was given; at least two different classes"),
        (("a", "b", "a"), "--domains a,b,a was given; at least two different"),
    ],
)
def test_names_that_are_no_classes_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        by_class(FOUR, names, "class")


def test_one_class_is_not_enough_nor_is_one_image_of_a_class() -> None:
    with pytest.raises(DataError, match=r"has 1 class \(a\); a translation needs at least two"):
        by_class(labelled("a/1", "a/2", classes=("a",)), None, "class")
    with pytest.raises(DataError, match=r"Too few readable images to translate in .*: b \(1 image\)\. At least 2"):
        by_class(labelled("a/1", "a/2", "b/1"), ("a", "b"), "class")
    with pytest.raises(ConfigError, match="--rule was not given"):
        by_class(FOUR, None, "auto")


# --- a column as domains ---


def test_a_column_gives_domains_and_the_labels_stay() -> None:
    manifest, domains = by_column(SITES, ("y", "x"))
    assert [item.path for item in manifest.items] == ["1", "2", "3", "4"]
    assert (domains.names, domains.of.tolist()) == (("y", "x"), [1, 0, 1, 0])
    assert (domains.classes, domains.labels.tolist(), domains.rule) == (("a", "b"), [0, 1, 1, 0], "style")
    assert manifest.labels.tolist() == domains.labels.tolist()
    assert by_column(SITES, None)[1].names == ("x", "y", "z")


def test_under_rule_class_the_column_is_the_label() -> None:
    manifest, domains = by_column(SITES, ("y", "x"), "class")
    assert manifest.classes == domains.classes == ("y", "x")
    assert manifest.labels.tolist() == domains.labels.tolist() == [1, 0, 1, 0]


def test_a_column_of_images_without_labels_keeps_them_unknown() -> None:
    items = [replace(item, label=UNKNOWN) for item in SITES.items]
    manifest, domains = by_column(make_manifest(*items, classes=()), None)
    assert domains.labels.tolist() == [UNKNOWN] * 6
    assert (domains.classes, manifest.counts) == ((), {})


def test_a_column_with_gaps_needs_names() -> None:
    gaps = with_domains(("1", "x", 0), ("2", "x", 0), ("3", "", 0), ("4", "y", 0), ("5", "y", 0))
    with pytest.raises(DataError, match=r"names no domain for 1 of 5 images: 3\. Fill in .*--domains"):
        by_column(gaps, None)
    assert len(by_column(gaps, ("x", "y"))[0]) == 4
    with pytest.raises(ConfigError, match=r"names w, but .* has 2 domains \(x, y\)"):
        by_column(gaps, ("x", "w"))
    with pytest.raises(DataError, match="has 0 domains; a translation needs at least two"):
        by_column(FOUR, None)


# --- two sites ---


@pytest.fixture
def sites(tmp_path: Path) -> tuple[Manifest, Manifest]:
    """A labelled site and one with a flat folder of images."""
    make_folder(tmp_path / "north" / "a", {"benign": 3, "malignant": 2})
    for seed in range(4):
        save(tmp_path / "far" / "south" / f"{seed}.png", pixels(100 + seed))
    (tmp_path / "far" / "south" / "broken.txt").write_text("x")
    return scan(tmp_path / "north" / "a"), scan_unlabelled(tmp_path / "far" / "south")


def tell(manifest: Manifest, domains: Domains) -> list[tuple[str, str, int]]:
    return [
        (item.path, domains.names[of], label)
        for item, of, label in zip(manifest.items, domains.of, domains.labels.tolist(), strict=True)
    ]


def test_two_sites_are_one_manifest_that_can_be_read(tmp_path: Path, sites: tuple[Manifest, Manifest]) -> None:
    manifest, domains = joined(*sites)
    assert (manifest.root, manifest.classes) == (tmp_path.resolve(), ("benign", "malignant"))
    assert (domains.names, domains.classes, domains.rule) == (("a", "south"), ("benign", "malignant"), "style")
    assert tell(manifest, domains) == [
        ("north/a/benign/000.png", "a", 0),
        ("north/a/benign/001.png", "a", 0),
        ("north/a/benign/002.png", "a", 0),
        ("north/a/malignant/000.png", "a", 1),
        ("north/a/malignant/001.png", "a", 1),
        *((f"far/south/{index}.png", "south", UNKNOWN) for index in range(4)),
    ]
    assert manifest.counts == {"benign": 3, "malignant": 2}
    assert manifest.domains == {"a": 5, "south": 4}
    assert manifest.ignored == ("far/south/broken.txt",)
    one = [read_item(part.root, item) for part in sites for item in part.items]
    grid = Grid((12, 10), 1, "stretch", "uint8")
    np.testing.assert_array_equal(load_images(manifest, grid), np.stack(one).transpose(0, 3, 1, 2))
    # The marks by which held-out images are compared are those of the single sites.
    for site in sites:
        with pytest.raises(LeakError):
            refuse_leak(manifest.to_json(), site)


def test_classes_of_the_target_are_matched_by_name(tmp_path: Path) -> None:
    source = scan(make_folder(tmp_path / "x", {"a": 2, "b": 2, "c": 2}))
    for seed, name in enumerate(("c/1", "b/1", "b/2")):
        save(tmp_path / "y" / f"{name}.png", pixels(50 + seed))
    (tmp_path / "y" / "other").mkdir()
    target = scan(tmp_path / "y")
    assert target.labels.tolist() == [0, 0, 1]
    manifest, domains = joined(source, target, ("here", "there"))
    assert domains.labels.tolist() == [0, 0, 1, 1, 2, 2, 1, 1, 2], "a class without images does no harm"
    assert (manifest.classes, domains.classes) == (source.classes, source.classes)
    assert domains.names == ("here", "there")
    assert {item.domain for item in manifest.items[6:]} == {"there"}
    save(tmp_path / "y" / "other" / "1.png", pixels(60))
    with pytest.raises(DataError, match=r"y has 1 class that .*x lacks: other; of those there, a, b, c"):
        joined(source, scan(tmp_path / "y"))


def test_archives_beside_each_other_and_series_are_joined_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (9, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", train_images=images[:4], train_labels=[0, 1, 0, 1])
    np.savez(tmp_path / "two.npz", images=images[4:])
    manifest, domains = joined(scan(tmp_path / "one.npz"), scan_unlabelled(tmp_path / "two.npz"))
    assert domains.names == ("one", "two")
    np.testing.assert_array_equal([read_item(manifest.root, item)[..., 0] for item in manifest.items], images)

    for index, site in enumerate("pq"):
        for patient in range(2):
            volume = rng.integers(0, 4000, (3, 8, 6), dtype=np.uint16)
            name = f"{site}{patient}"
            write_series(tmp_path / site / ("x" if site == "p" else "") / name, volume, (2.0, 1.0, 1.0), name=name)
        assert len(scan_unlabelled(tmp_path / site)) == 2, index
    manifest, domains = joined(scan(tmp_path / "p"), scan_unlabelled(tmp_path / "q"))
    assert [len(item.files) for item in manifest.items] == [3] * 4
    assert all(item.path in item.files for item in manifest.items)
    assert read_item(manifest.root, manifest.items[3]).shape == (3, 8, 6, 1)


@pytest.mark.parametrize(
    ("roots", "names"),
    [
        (("/d/north/train", "/d/south/train"), ("north", "south")),
        (("/d/north", "/e/south"), ("north", "south")),
        (("/d/s", "/d/s/s"), ("d", "s")),
        (("/s", "/s"), ("s", "s-2")),
        (("/", "/"), ("site", "site-2")),
    ],
)
def test_sites_are_called_by_the_names_in_which_their_paths_differ(
    roots: tuple[str, str], names: tuple[str, str]
) -> None:
    parts = [
        replace(make_manifest(*(make_item(f"a/{root}/{k}.png") for k in "12")), root=Path(path))
        for root, path in enumerate(roots)
    ]
    assert joined(*parts)[1].names == names


@pytest.mark.parametrize("names", [("x",), ("x", "x"), ("x", ""), ("x", "y", "z")])
def test_two_sites_need_two_names(sites: tuple[Manifest, Manifest], names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="two different names were wanted"):
        joined(*sites, names)


def test_an_image_that_stands_in_both_sites_is_refused(tmp_path: Path, sites: tuple[Manifest, Manifest]) -> None:
    source, target = sites
    shutil.copy(source.root / "benign" / "001.png", target.root / "copy.png")
    with pytest.raises(DataError, match=r"1 of 5 images in .*south stand in .*a too: copy\.png"):
        joined(source, scan_unlabelled(target.root))
    (target.root / "copy.png").unlink()
    save(target.root / "copy.tiff", pixels(1))
    with pytest.raises(DataError, match=r"stand in .*copy\.tiff"):  # the same pixels in another format
        joined(source, scan_unlabelled(target.root))
    with pytest.raises(DataError, match="5 of 5 images"):
        joined(source, source)


def test_a_site_of_one_image_is_too_small(tmp_path: Path, sites: tuple[Manifest, Manifest]) -> None:
    with pytest.raises(DataError, match=r"south \(1 image\)"):
        joined(sites[0], sites[1].subset([0]))
