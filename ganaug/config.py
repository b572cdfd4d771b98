"""Settings of a run: one frozen dataclass, filled from a YAML recipe and from ``--set key=value``."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ganaug.errors import ConfigError

Pair = tuple[float, float]
"""A scheduled setting: its value at the start and after the burn-in (see `burn_in`)."""

PLANES = ("axial", "coronal", "sagittal")
RESIZE_MODES = ("auto", "stretch", "crop", "spacing")
INTENSITIES = ("auto", "uint8", "window", "percentiles", "per-file")
PENALTIES = ("auto", "r1r2", "r1", "gradient-penalty", "clip", "none")
LABELS = ("class", "ignored")
CLASS_IN = ("input", "fine", "input+fine", "input+all")
RULES = ("auto", "style", "class")
PAIRINGS = ("labels", "none")
OUTPUTS = ("auto", "residual", "direct")

MAX_RECIPE_BYTES = 2**16
"""Larger recipes are not read: the shipped ones have two thousand bytes, and parsing YAML is slow."""
_LARGEST = 2**63
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxtuple, _SHOWN.maxlist, _SHOWN.maxdict = 2, 20, 20, 4
_SHOWN.maxstring = _SHOWN.maxother = 120


@dataclass(frozen=True)
class FitConfig:
    """Everything that determines a training run besides the images. Units are in the names."""

    model: str = "conditional"
    """The GAN to train: a module of `ganaug.training.gans`."""
    arch: str = "modern"
    """The networks: a module of `ganaug.models.archs`, or for translation of `ganaug.models.translators`."""
    loss: str = "relativistic"
    """The adversarial loss: a module of `ganaug.training.losses`."""
    labels: str = "class"
    """'class': the networks see each image's class; 'ignored': they do not, and samples of all classes are alike."""

    size: tuple[int, ...] | None = None
    """Height and width of the training images, or depth, height and width of volumes; None takes them from the
    folder."""
    largest: int = 64
    """Longest side, in pixels, that is chosen for images when `size` is None."""
    largest_volume: int = 32
    """Longest side, in voxels, that is chosen for volumes when `size` is None."""
    channels: int | None = None
    """1 for gray, 3 for color, up to 64; None takes it from the folder, where all files must agree."""
    slices: str | None = None
    """Cut volumes into a set of images along this plane: 'axial', 'coronal' or 'sagittal'; None keeps volumes."""
    resize: str = "auto"
    """How an image of another shape meets `size`: 'stretch' keeps all of it, 'crop' (images only) keeps its
    proportions, 'spacing' (volumes only) gives all voxels one size in mm and crops or pads; 'auto' is 'spacing' for
    volumes whose files all tell it, and else 'stretch'."""
    intensity: str = "auto"
    """How stored values become [-1, 1]: 'uint8' (0 to 255), 'window' (see `window`), 'percentiles' (of the whole set),
    'per-file' (of each file, for scans without a common scale), or 'auto'."""
    window: Pair | None = None
    """Lowest and highest stored value of intensity 'window'; values beyond them are clipped."""

    seed: int = 0
    """Seed of the weights, the batches and the latents."""
    kimg: float = 1000.0
    """Length of the training in thousands of real images shown (used unless `minutes` is set)."""
    minutes: float | None = None
    """Length of the training as wall-clock minutes; schedules then follow the clock."""
    hold_out: float = 0.0
    """Share of the patients (groups) of each class that is left out of the training, to evaluate the run on."""
    batch: int = 64
    """Real images in each step; the generator makes as many."""
    pieces: int = 1
    """Parts into which each process divides its images of a step, one after the other, to save memory; the step stays
    the same."""

    latent_dim: int = 64
    """Dimension of the latent vector z ~ N(0, I)."""
    label_dim: int = 32
    """Dimension of the class embedding that is joined to z."""
    widths: tuple[int, ...] = (128, 96, 64, 48, 32)
    """Channels of the stages from the base grid up; the last entries serve the highest resolutions."""
    blocks: int = 1
    """Residual blocks in each stage."""
    group_width: int = 16
    """Channels in a group of the 3×3 convolutions (R3GAN, appendix)."""
    expansion: float = 2.0
    """Width of a block's inner convolution over its outer width (inverted bottleneck)."""
    stem: int = 1
    """Factor by which the finest residual stage is coarser than the image; 2 makes a step about four times cheaper."""
    base: int = 4
    """The grid is halved while its longest side stays at this many pixels or more."""

    lr: Pair = (2e-4, 5e-5)
    """Learning rate of both networks."""
    beta1: float = 0.0
    """Adam's first-moment decay."""
    beta2: Pair = (0.9, 0.99)
    """Adam's second-moment decay."""
    gamma: Pair = (1.0, 0.1)
    """Weight γ of the zero-centered gradient penalties R1 and R2."""
    confidence: Pair = (0.0, 0.0)
    """How sure the discriminator may be that of a pair the real image is the real one, E[σ(D(real) - D(fake))]: `gamma`
    gets a factor that grows while it is surer, and falls back to 1 while it is less sure. 0 leaves `gamma` as it is."""
    penalty: str = "auto"
    """What holds the discriminator down: 'r1r2' or 'r1' (see `gamma`), 'gradient-penalty' (between real and fake, see
    `gp_weight`), 'clip' (see `weight_clip`), 'none', or 'auto', what the loss's paper has."""
    gp_weight: float = 10.0
    """Weight λ of penalty 'gradient-penalty'."""
    weight_clip: float = 0.01
    """Largest absolute value of the discriminator's weights with penalty 'clip'."""
    critic_steps: int | None = None
    """Steps of the discriminator, each on its own batch, for each one of the generator; None takes the loss's own: 5
    for the Wasserstein losses, else 1."""
    penalty_every: int = 1
    """Steps between penalties; above 1 ("lazy") each one is weighted up by this factor."""
    ema_half_life_kimg: Pair = (0.0, 10.0)
    """Half-life of the generator's moving average, in thousands of images."""
    burn_in: float = 0.5
    """Fraction of the training over which scheduled settings move, along a cosine, to their second value."""

    class_power: float = 0.5
    """Classes are drawn with p(c) ∝ n_c^class_power: 1 as in the data, 0 all alike."""
    class_in: str = "input+fine"
    """Where the class enters a generator of ``arch: modern``: 'input', joined to z; 'fine', by FiLM in the stages above
    8 pixels; 'all', by FiLM in all stages; or two of them."""
    transition: Pair = (0.0, 0.0)
    """From which to which fraction of the training the classes come in: before, both networks are unconditional."""
    embedding_noise: float = 0.0
    """Standard deviation of the noise that a training adds to the embedding of a class of 20 images; less for larger
    ones."""
    augment_rare: float = 0.0
    """Rare classes are augmented with probability p · (n_max / n_c)^augment_rare, at most 0.5."""
    domains: tuple[str, ...] | None = None
    """What to translate between: names of classes, or of the sites or contrasts in the `domain` column of a
    ``metadata.csv``; None takes all."""
    rule: str = "auto"
    """The label of a translated image: 'style' keeps its own (another scanner, another contrast), 'class' takes the
    target's (healthy to diseased); 'auto' where the folder tells."""
    degrade: str | None = None
    """Paired training on the folder's own images and degraded copies: 'downsample=4' for super-resolution, 'kspace=4'
    for accelerated MR."""
    pairing: str = "labels"
    """Batches under rule 'style': 'labels' draws the same classes from every domain, so that there is nothing to gain
    from adding or removing a lesion; 'none' draws each domain as it is."""
    cycle_weight: float = 10.0
    """Weight of |x'' - x|, an image there and back, in the generators' loss (Zhu et al. 2017, equation 3)."""
    identity_weight: Pair = (5.0, 5.0)
    """Weight of |G(y) - y|, an image that is in the target domain already (Zhu et al. 2017, section 5.2)."""
    gradient_weight: float = 1.0
    """Weight of gradient consistency: edges stay where they are (Hiasa et al. 2018)."""
    paired_weight: float = 100.0
    """Weight of |G(x) - y| in paired training (Isola et al. 2017, equation 4)."""
    mask_weight: float = 0.1
    """Weight of the mean of the mask that confines changes, under rule 'class'; 0 has no mask."""
    code_noise: float = 0.03
    """Standard deviation of the noise on a translated image before it goes back: it drowns codes in which a generator
    would hide what it removed (Chu et al. 2017)."""
    pool: int = 50
    """Earlier translations of each domain and class that the discriminator is shown again (Shrivastava et al. 2017)."""
    output: str = "auto"
    """'residual': a generator makes the difference to its input; 'direct': the image itself; 'auto': residual under
    rule 'class' and between sites, direct between classes that are contrasts."""

    augment: str = "safe"
    """Discriminator augmentation: a profile of `ganaug.training.augment`."""
    augment_p: Pair = (0.0, 0.3)
    """Probability of each augmentation of a discriminator input."""

    precision: str = "auto"
    """'bf16' (autocast, parameters stay float32), 'fp32', or 'auto': bf16 where the hardware has it."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    deterministic: bool = False
    """On a GPU, take kernels that give the same bits again wherever PyTorch has them, slower as they are; it warns of
    those that it has not. On a CPU a training gives the same bits anyway, for one number of threads."""
    threads: int | None = None
    """CPU threads of the training; None tries all and one at the start, and keeps the faster."""
    snapshots: int = 8
    """Snapshots (image grid, metrics, checkpoint) over the whole run."""
    monitor: bool = True
    """Train a small classifier at the start, which tells in every snapshot how much of the real images the samples
    cover, and goes back when a class collapses. It takes up to 3 % of `minutes`; without a collapse the weights are
    those of a training without it."""

    def __post_init__(self) -> None:
        if self.window is not None and self.intensity == "auto":
            object.__setattr__(self, "intensity", "window")
        for name, value in vars(self).items():
            numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, float)]
            if not all(map(math.isfinite, numbers)):
                raise ConfigError(f"{name} = {_shown(value)} was given; it must be finite.")
        checks = {
            "kimg": (self.kimg > 0, "above 0"),
            "minutes": (self.minutes is None or self.minutes > 0, "above 0"),
            "batch": (2 <= self.batch <= 65_536, "2 to 65536"),
            "channels": (self.channels is None or 1 <= self.channels <= 64, "1 to 64"),
            "largest": (self.largest >= 8, "at least 8"),
            "largest_volume": (8 <= self.largest_volume <= 256, "8 to 256"),
            "slices": (self.slices is None or self.slices in PLANES, _one_of(PLANES)),
            "resize": (self.resize in RESIZE_MODES, _one_of(RESIZE_MODES)),
            "intensity": (self.intensity in INTENSITIES, _one_of(INTENSITIES)),
            "window": (self.window is None or self.window[0] < self.window[1], "a low value and a higher one"),
            "latent_dim": (1 <= self.latent_dim <= 4096, "1 to 4096"),
            "label_dim": (1 <= self.label_dim <= 4096, "1 to 4096"),
            "widths": (
                0 < len(self.widths) <= 20 and 1 <= min(self.widths) <= max(self.widths) <= 16_384,
                "1 to 20 channel counts",
            ),
            "blocks": (1 <= self.blocks <= 64, "1 to 64"),
            "group_width": (1 <= self.group_width <= 16_384, "1 to 16384"),
            "expansion": (0 < self.expansion <= 16, "above 0 and at most 16"),
            "ema_half_life_kimg": (min(self.ema_half_life_kimg) >= 0, "at least 0"),
            "stem": (self.stem in (1, 2, 4), "1, 2 or 4"),
            "base": (self.base >= 2, "at least 2"),
            "burn_in": (0 < self.burn_in <= 1, "above 0 and at most 1"),
            "labels": (self.labels in LABELS, _one_of(LABELS)),
            "penalty": (self.penalty in PENALTIES, _one_of(PENALTIES)),
            "gp_weight": (self.gp_weight >= 0, "at least 0"),
            "weight_clip": (self.weight_clip > 0, "above 0"),
            "critic_steps": (self.critic_steps is None or 1 <= self.critic_steps <= 100, "1 to 100"),
            "penalty_every": (self.penalty_every >= 1, "at least 1"),
            "pieces": (self.pieces >= 1, "at least 1"),
            "class_in": (self.class_in in CLASS_IN, _one_of(CLASS_IN)),
            "transition": (
                0 <= self.transition[0] <= self.transition[1] <= 1,
                "two fractions of the training, the first not above the second",
            ),
            "embedding_noise": (self.embedding_noise >= 0, "at least 0"),
            "domains": (
                self.domains is None or 2 <= len({*self.domains}) == len(self.domains),
                "two or more different names, such as --domains t2,flair",
            ),
            "rule": (self.rule in RULES, _one_of(RULES)),
            "pairing": (self.pairing in PAIRINGS, _one_of(PAIRINGS)),
            "output": (self.output in OUTPUTS, _one_of(OUTPUTS)),
            "cycle_weight": (self.cycle_weight >= 0, "at least 0"),
            "identity_weight": (min(self.identity_weight) >= 0, "at least 0"),
            "gradient_weight": (self.gradient_weight >= 0, "at least 0"),
            "paired_weight": (self.paired_weight >= 0, "at least 0"),
            "mask_weight": (self.mask_weight >= 0, "at least 0"),
            "code_noise": (self.code_noise >= 0, "at least 0"),
            "pool": (0 <= self.pool <= 10_000, "0 to 10000"),
            "augment_rare": (0 <= self.augment_rare <= 1, "between 0 and 1"),
            "class_power": (0 <= self.class_power <= 1, "between 0 and 1"),
            "gamma": (min(self.gamma) >= 0, "at least 0"),
            "confidence": (
                max(self.confidence) == 0 or (min(self.confidence) > 0.5 and max(self.confidence) < 1),
                "twice 0, or between 0.5 and 1",
            ),
            "lr": (min(self.lr) > 0, "above 0"),
            "beta1": (0 <= self.beta1 < 1, "at least 0 and below 1"),
            "beta2": (min(self.beta2) >= 0 and max(self.beta2) < 1, "at least 0 and below 1"),
            "augment_p": (min(self.augment_p) >= 0 and max(self.augment_p) <= 1, "between 0 and 1"),
            "precision": (self.precision in ("auto", "bf16", "fp32"), "'auto', 'bf16' or 'fp32'"),
            "threads": (self.threads is None or 1 <= self.threads <= 4096, "1 to 4096"),
            "snapshots": (1 <= self.snapshots <= 100_000, "1 to 100000"),
            "seed": (0 <= self.seed < _LARGEST, "0 to 2^63 - 1"),
            "hold_out": (0 <= self.hold_out < 1, "at least 0 and below 1"),
            "size": (
                self.size is None
                or (len(self.size) in (2, 3) and 8 <= min(self.size) <= max(self.size) <= _most(self.size)),
                "two sides of 8 to 1024 pixels, such as [64, 64], or three of 8 to 256 voxels, such as [24, 32, 32]",
            ),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                raise ConfigError(f"{name} = {_shown(getattr(self, name))} was given; it must be {wanted}.")
        if (self.window is None) == (self.intensity == "window"):
            raise ConfigError(
                f"intensity = {self.intensity!r} and window = {self.window!r} were given; intensity 'window' must have "
                "a window, such as [-1000, 400], and no other may."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "settings") -> FitConfig:
        """Build a config from plain values (YAML, JSON); unknown keys and wrong types are errors."""
        return cls().updated(values, source=source)

    def updated(self, values: Mapping[str, Any], *, source: str = "settings") -> FitConfig:
        """Return a copy with `values` put in, each one checked against its field's type."""
        hints = typing.get_type_hints(FitConfig)
        converted = {}
        for key, value in values.items():
            if key not in hints:
                # A file may have numbers and null as keys.
                near = difflib.get_close_matches(str(key)[:100], hints, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known keys: {', '.join(sorted(hints))}."
                raise ConfigError(f"{source}: there is no setting {_shown(key)}.{hint}")
            converted[key] = _convert(key, value, hints[key], source)
        try:
            return dataclasses.replace(self, **converted)
        except ConfigError as problem:
            raise problem if source == "settings" else ConfigError(f"{source}: {problem}") from None


def _shown(value: Any) -> str:
    """Return a value for a message, shortened: one from a file may be as large as that."""
    try:
        return _SHOWN.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def _one_of(words: tuple[str, ...]) -> str:
    return f"one of {', '.join(words)}"


def _most(size: tuple[int, ...]) -> int:
    """Return the longest side that images or volumes of this many sides may have."""
    return 1024 if len(size) == 2 else 256


def _convert(key: str, value: Any, hint: Any, source: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    wrong = ConfigError(f"{source}: {key} = {_shown(value)} was given; {_kind_name(kind)} was wanted.")
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        numbers = list(value) if isinstance(value, (list, tuple)) else [value]
        if inner[-1] is not Ellipsis and len(numbers) == 1:
            numbers = numbers * len(inner)  # one number for a scheduled pair: constant
        if inner[-1] is not Ellipsis and len(numbers) != len(inner):
            raise wrong
        return tuple(_scalar(number, inner[0], wrong) for number in numbers)
    return _scalar(value, kind, wrong)


def _scalar(value: Any, kind: type, wrong: ConfigError) -> Any:
    if isinstance(value, bool) and kind is bool:
        return value
    if isinstance(value, bool) or value is None:
        raise wrong
    try:
        if kind is str and isinstance(value, str):
            return value
        if kind is float and isinstance(value, (int, float, str)):  # YAML reads 2e-4 as text
            return float(value)
        if kind is int:
            number = value if isinstance(value, int) else _whole(value)
            if abs(number) <= _LARGEST:
                return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise wrong


def _whole(value: Any) -> int:
    """Return a float or a text such as 1e3 as an int; a fraction is a ValueError."""
    number = float(value)
    if number != int(number):
        raise ValueError(value)
    return int(number)


def _kind_name(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return "a list of numbers" if inner[-1] is Ellipsis else "a number or a pair [start, end]"
    return {str: "a word", int: "a whole number", float: "a number", bool: "true or false"}[kind]


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, without those that only refine another one."""
    return sorted(path.stem for path in recipe_folder().glob("[!+]*.yaml"))


def refinement_names() -> list[str]:
    """Return the names of the shipped recipes that refine another one; they begin with +."""
    return sorted(path.stem for path in recipe_folder().glob("+*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """Return the settings of a recipe: a shipped one, a YAML file, or several of them joined by +.

    What follows a + is laid over what stands before it: ``px64+few`` is `px64.yaml` and then `+few.yaml`,
    ``px64+few+mine.yaml`` has your own file last.

    Raises:
        ConfigError: no such recipe, or a file is not a YAML mapping.
    """
    values: dict[str, Any] = {}
    for path in _recipe_files(name):
        values |= _read_recipe(path)
    return values


def _recipe_files(name: str) -> list[Path]:
    suffixes = (".yaml", ".yml")
    if name.endswith(suffixes) and Path(name).is_file():  # a path may itself have a +
        return [Path(name)]
    files = [
        Path(part) if part.endswith(suffixes) else recipe_folder() / f"{'+' if refines else ''}{part}.yaml"
        for refines, part in enumerate(name.split("+"))
    ]
    if all(file.is_file() for file in files):
        return files
    raise ConfigError(
        f"There is no recipe {name!r}. Shipped recipes: {', '.join(recipe_names())}; to lay over one of them, such as "
        f"px64+few: {', '.join(refinement_names())} (auto does it by itself); or give the path of a .yaml file."
    )


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_RECIPE_BYTES + 1)
    except OSError as problem:
        raise ConfigError(f"The recipe {path} cannot be read: {problem.strerror}.") from None
    if len(raw) > MAX_RECIPE_BYTES:
        raise ConfigError(
            f"The recipe {path} has more than {MAX_RECIPE_BYTES:,} bytes; a few lines 'key: value' were wanted."
        )
    try:
        values = _from_yaml(raw.decode())
    except ValueError as problem:
        raise ConfigError(f"The recipe {path} is not valid YAML: {problem} Correct it.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"The recipe {path} holds a {type(values).__name__}; a mapping 'key: value' was wanted.")
    return values


class _Loader(yaml.SafeLoader):
    """YAML's safe part without aliases, a few lines of which stand for gigabytes, and with every key once."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build a node. Raises an error for an alias."""
        if self.check_event(yaml.AliasEvent):
            at = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*name) is not read here: write the value out", at)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Build a mapping. Raises an error for a key that it has twice."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"{key.value[:100]!r} is there twice: leave one of them"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return node


def _from_yaml(text: str) -> Any:
    """Return the plain values of a YAML text. Raises ValueError, with a sentence, for anything else."""
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply.") from None
    # PyYAML knows its own errors; numbers and dates that cannot be raise IndexError, AttributeError, ValueError ...
    except Exception as problem:
        raise ValueError(f"{str(problem)[:500].rstrip('.')}.") from None
    finally:
        if loader is not None:
            loader.dispose()


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Turn ``("key=value", …)`` from the command line into a mapping; values are read as YAML."""
    values = {}
    for text in assignments:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {text} was given; key=value was wanted, such as --set batch=32.")
        try:
            values[key.strip()] = _from_yaml(raw)
        except ValueError as problem:
            raise ConfigError(f"--set {text:.200}: the value is not valid YAML: {problem}") from None
    return values
