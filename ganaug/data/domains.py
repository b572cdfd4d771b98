"""The sides of a translation: classes of one folder, domains that a table names, or two sites joined into one set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ganaug.data.layouts.npz import SUFFIX as ARCHIVE
from ganaug.data.manifest import UNKNOWN, Item, Manifest
from ganaug.data.names import count, few, printable
from ganaug.errors import ConfigError, DataError

RULES = ("style", "class")
"""What becomes of the label: with 'style' a translated image keeps its own, with 'class' it takes the target's."""

LEAST = 2
"""Images that a domain needs."""


@dataclass(frozen=True, eq=False)
class Domains:
    """The domains of a manifest's images, all arrays in the order of its items."""

    names: tuple[str, ...]
    """The domains in a fixed order: domain k is ``names[k]``."""
    of: np.ndarray
    """Domain of each item, N int64."""
    labels: np.ndarray
    """Index of each item's class within `classes`, N int64; `UNKNOWN` where it is not known."""
    classes: tuple[str, ...]
    """Class names; none where no class is known."""
    rule: str
    """One of `RULES`."""
    pairs: np.ndarray | None = None
    """Positions of items that show the same thing, P×2 int64, one column a domain; None where nothing is paired."""


def resolve_rule(rule: str, names: Sequence[str] = (), *, column: bool = False, target: bool = False) -> str:
    """Return 'style' or 'class', and refuse to guess.

    Args:
        rule: one of `RULES`, or 'auto'.
        names: the domains, for the message.
        column: the domains come from the ``domain`` column of a table, where scanners and contrasts stand.
        target: the target is another site.

    Raises:
        ConfigError: 'auto' where nothing tells, 'class' between sites, or another word.
    """
    if rule not in ("auto", *RULES):
        raise ConfigError(f"The rule {rule!r} was given; one of auto, {', '.join(RULES)} was wanted.")
    if rule == "class" and target:
        raise ConfigError(
            "--rule class was given for two sites, which are no classes: an image that is carried to another site "
            "keeps its label. Leave --rule out."
        )
    if rule == "auto" and not (column or target):
        between = f" between {few(names)}" if names else ""
        raise ConfigError(
            f"--rule was not given, and nothing tells what a translation{between} does to the label. With --rule class "
            "a translated image takes the class that it is translated to (healthy ↔ diseased). With --rule style it "
            "keeps its own (scanners, contrasts, modalities). Give one of the two."
        )
    return "style" if rule == "auto" else rule


def by_class(manifest: Manifest, names: Sequence[str] | None, rule: str) -> tuple[Manifest, Domains]:
    """Take classes of a folder as domains.

    Args:
        manifest: a labelled folder.
        names: the classes to take, in the order that the domains shall have; None takes all. Images of other classes
            are left out.
        rule: with 'class' the domains are the labels; with 'style' the labels are unknown.

    Returns:
        The images of the domains, whose classes are the domains in their order, and the domains.

    Raises:
        ConfigError: the rule is 'auto' (see `resolve_rule`), or `names` are not two or more classes of the folder.
        DataError: the folder has fewer than two classes, or a class has fewer than `LEAST` images.
    """
    found = ["" if item.label == UNKNOWN else manifest.classes[item.label] for item in manifest.items]
    chosen = _chosen(manifest, names, manifest.classes, "class", "classes")
    rule = resolve_rule(rule, chosen)
    kept, of = _kept(manifest, found, chosen)
    kept = _relabelled(kept, chosen, of)
    if rule == "class":
        return kept, Domains(chosen, of, of, chosen, rule)
    return kept, Domains(chosen, of, np.full_like(of, UNKNOWN), (), rule)


def by_column(manifest: Manifest, names: Sequence[str] | None, rule: str = "auto") -> tuple[Manifest, Domains]:
    """Take the ``domain`` column of a table as domains.

    Args:
        manifest: a folder with such a table.
        names: the domains to take, in their order; None takes all, sorted. Images of other domains, or of none, are
            left out.
        rule: with 'style', which 'auto' means here, labels are those of the manifest; with 'class' the domains are
            the labels, and the classes of the manifest that is returned.

    Raises:
        ConfigError: `names` are not two or more domains of the table.
        DataError: the table names fewer than two domains, or none for some images while all were wanted, or a domain
            has fewer than `LEAST` images.
    """
    rule = resolve_rule(rule, column=True)
    found = [item.domain for item in manifest.items]
    chosen = _chosen(manifest, names, tuple(manifest.domains), "domain", "domains")
    unnamed = [item.name for item in manifest.items if not item.domain]
    if names is None and unnamed:
        raise DataError(
            f"The table of {manifest.root} names no domain for {len(unnamed):,} of {count(len(manifest), 'image')}: "
            f"{few(unnamed)}. Fill in the column 'domain', or name the domains to use with --domains, which leaves "
            "these images out."
        )
    kept, of = _kept(manifest, found, chosen)
    if rule == "class":
        return _relabelled(kept, chosen, of), Domains(chosen, of, of, chosen, rule)
    return kept, Domains(chosen, of, kept.labels, kept.classes, rule)


def joined(source: Manifest, target: Manifest, names: Sequence[str] | None = None) -> tuple[Manifest, Domains]:
    """Join a site and another one into one manifest with two domains, rule 'style'.

    Groups stay as they are: the same name at both sites counts as one patient, so that no split can cut a patient who
    was at both, and held-out images of either site are still compared by their own groups.

    Args:
        source: the site that images are carried from, as it was scanned; its classes are the classes.
        target: the site that they are carried to: without labels, or with classes of the same names.
        names: what to call the two; by default their folders' names (or their archives'), and those of folders further
            up where these are alike.

    Returns:
        The images of `source` and then of `target`, with paths relative to the deepest folder that holds both, and each
        image's site as its domain; and the two domains.

    Raises:
        ConfigError: `names` are not two different ones.
        DataError: the target has a class that the source lacks, an image stands in both sites, or one has fewer than
            `LEAST` images.
    """
    sites = _site_names(source, target) if names is None else tuple(names)
    if len(sites) != 2 or len(set(sites)) < 2 or not all(sites):
        raise ConfigError(f"The names {list(sites)} were given for two sites; two different names were wanted.")
    _refuse_copies(source, target)
    unknown = [name for name, n in target.counts.items() if n and name not in source.classes]
    if unknown:
        raise DataError(
            f"{target.root} has {count(len(unknown), 'class', 'classes')} that {source.root} lacks: "
            f"{few(unknown)}; of those there, {few(source.classes)}, one was wanted for each image. Rename or move out "
            "what differs, or give the images without labels, in one folder."
        )
    try:
        root = Path(os.path.commonpath([source.root, target.root]))
    except ValueError:
        raise DataError(
            f"{source.root} and {target.root} lie on different drives. Copy one of them beside the other."
        ) from None
    here, there = _moved(source, root, sites[0]), _moved(target, root, sites[1])
    labels = {index: source.classes.index(name) for index, name in enumerate(target.classes) if name in source.classes}
    there = replace(there, items=tuple(replace(item, label=labels.get(item.label, UNKNOWN)) for item in there.items))
    manifest = Manifest(
        root,
        source.classes,
        here.items + there.items,
        tuple(sorted(here.skipped + there.skipped)),
        tuple(sorted(here.ignored + there.ignored)),
    )
    of = _kept(manifest, [item.domain for item in manifest.items], sites)[1]
    return manifest, Domains(sites, of, manifest.labels, manifest.classes, "style")


def _chosen(
    manifest: Manifest, names: Sequence[str] | None, known: tuple[str, ...], noun: str, plural: str
) -> tuple[str, ...]:
    """Return the names of the domains after checking that they are known, different, and at least two."""
    has = f"{manifest.root} has {count(len(known), noun, plural)}" + (f" ({few(known, 20)})" if known else "")
    if names is None:
        if len(known) < 2:
            raise DataError(f"{has}; a translation needs at least two. Add another {noun}, or name another folder.")
        return known
    chosen = tuple(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError(f"--domains names {few(unknown)}, but {has}. Use these names.")
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        given = f"--domains {','.join(chosen)} was given"
        raise ConfigError(f"{given}; at least two different {plural} were wanted. {has}.")
    return chosen


def _kept(manifest: Manifest, found: Sequence[str], names: tuple[str, ...]) -> tuple[Manifest, np.ndarray]:
    """Return the items whose domain, in `found`, is among `names`, and the index of it."""
    index = {name: k for k, name in enumerate(names)}
    kept = [position for position, name in enumerate(found) if name in index]
    of = np.array([index[found[position]] for position in kept], dtype=np.int64)
    images = Counter(of.tolist())
    small = [f"{printable(name)} ({count(images[k], 'image')})" for k, name in enumerate(names) if images[k] < LEAST]
    if small:
        raise DataError(
            f"Too few readable images to translate in {manifest.root}: {few(small)}. At least {LEAST} in each domain "
            "were wanted, and some hundreds are wise: add images, or leave the domain out."
        )
    subset = manifest.subset(kept)
    return replace(subset, skipped=manifest.skipped, ignored=manifest.ignored), of


def _relabelled(manifest: Manifest, names: tuple[str, ...], of: np.ndarray) -> Manifest:
    """Return the manifest with the domains as classes."""
    items = tuple(replace(item, label=k) for item, k in zip(manifest.items, of.tolist(), strict=True))
    return replace(manifest, classes=names, items=items)


def _moved(manifest: Manifest, root: Path, site: str) -> Manifest:
    """Return the manifest with paths relative to `root`, a folder above its own, and `site` as everybody's domain."""
    prefix = "" if manifest.root == root else f"{manifest.root.relative_to(root).as_posix()}/"

    def moved(item: Item) -> Item:
        return replace(item, path=prefix + item.path, files=tuple(prefix + name for name in item.files), domain=site)

    return replace(
        manifest,
        root=root,
        items=tuple(map(moved, manifest.items)),
        skipped=tuple((prefix + path, reason) for path, reason in manifest.skipped),
        ignored=tuple(prefix + path for path in manifest.ignored),
    )


def _refuse_copies(source: Manifest, target: Manifest) -> None:
    """Raise `DataError` if an image, or the volume that it is from, is among those of both sites."""
    known = {mark for item in source.items for mark in _marks(item)}
    twice = [item.name for item in target.items if not known.isdisjoint(_marks(item))]
    if twice:
        raise DataError(
            f"{len(twice):,} of {count(len(target), 'image')} in {target.root} stand in {source.root} too: "
            f"{few(twice)}. Two sites without a common image were wanted; remove the copies from one of them."
        )


def _marks(item: Item) -> Iterator[str]:
    yield item.sha256
    yield from item.sources
    if item.content:
        yield item.content


def _site_names(source: Manifest, target: Manifest) -> tuple[str, str]:
    """Return the deepest names in the sites' paths that differ, counted from the end."""
    places = list(zip(_places(source), _places(target), strict=False))
    for one, other in places:
        if one != other:
            return one, other
    name = places[0][0] if places else "site"
    return name, f"{name}-2"


def _places(manifest: Manifest) -> list[str]:
    """Return the archive's name, where one holds all images, and the names of the folders above, from the inside."""
    archives = {item.path if item.path.lower().endswith(ARCHIVE) else "" for item in manifest.items}
    archive = archives.pop() if len(archives) == 1 else ""
    inside = [Path(archive).stem] if archive else []
    return [*inside, *reversed(manifest.root.parts[1:])]
