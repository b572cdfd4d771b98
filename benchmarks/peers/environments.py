"""Give each peer a virtual environment of its own, which sees the packages of the calling one.

    python benchmarks/peers/environments.py                    # all of them, under .peers/
    python benchmarks/peers/environments.py lightweight_gan    # one of them

A peer's environment holds the peer and the small packages that it needs; PyTorch and torchvision come from the calling
environment through a `.pth` file, so that every program of a comparison runs on the same build. Packages are installed
with `--no-deps`: what a peer asks for and its training does not use (TensorFlow, an experiment tracker) stays out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(".peers")

# Each line: a package and the packages that it needs besides those of the calling environment.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "lightweight_gan": (
        "lightweight-gan==1.2.1",
        *("adabelief-pytorch", "colorama", "tabulate"),
        *("einops", "tqdm"),
        *("fire", "termcolor"),
        *("kornia", "kornia_rs"),
        *("retry", "decorator", "py"),
    ),
    "stylegan2": (
        "stylegan2-pytorch==1.9.0",
        "vector-quantize-pytorch==0.1.0",
        *("einops", "tqdm"),
        *("fire", "termcolor"),
        *("kornia", "kornia_rs"),
        *("retry", "decorator", "py"),
    ),
    "mimicry": ("torch-mimicry==0.1.16",),
}


def script(peer: str) -> Path:
    """Return the runner of a peer; run it with the interpreter that `interpreter` returns."""
    return Path(__file__).with_name(f"{peer}.py")


def interpreter(peer: str, folder: Path = FOLDER) -> Path:
    """Return the Python of the peer's environment, made first where it is missing or out of date.

    Raises:
        KeyError: no such peer.
        subprocess.CalledProcessError: the packages could not be installed; pip has said why.
    """
    requirements = REQUIREMENTS[peer]
    home = folder.absolute() / peer
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    calling = sysconfig.get_path("purelib")
    recipe = "\n".join((sys.version, calling, *requirements))
    made = home / "made-from.txt"
    if made.exists() and made.read_text() == recipe:
        return python
    venv.create(home, clear=True)
    own = sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)})
    # Packages that a .pth file adds come after the environment's own, so the peer's versions win.
    (Path(own) / "calling-environment.pth").write_text(calling + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, *requirements], check=True)
    made.write_text(recipe)
    return python


def main() -> None:
    """Make the environments that were named, or all, and print their interpreters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(REQUIREMENTS)} (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the environments are (default: .peers)")
    options = parser.parse_args()
    for peer in options.peers or REQUIREMENTS:
        if peer not in REQUIREMENTS:
            parser.error(f"{peer!r} is no peer; wanted one of {', '.join(REQUIREMENTS)}")
        try:
            print(interpreter(peer, options.folder), script(peer), flush=True)
        except subprocess.CalledProcessError as error:
            parser.exit(1, f"{peer}: pip ended with {error.returncode}; see its message above\n")


if __name__ == "__main__":
    main()
