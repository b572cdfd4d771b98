"""Draw docs/images/augment.png: one real picture for each augmentation profile, and eight changed copies beside it.

    python docs/images/augment.py --mednist mednist64 --bccd bccd_cells

MEDNIST and BCCD are labelled folders of those sets; the photograph comes with scikit-image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage import data

from ganaug.training.augment import augment, profile

SIDE, COPIES, GAP, MARGIN = 64, 8, 4, 84


def row(picture: Image.Image, name: str) -> np.ndarray:
    """Return SIDE×W×3 uint8: the picture, and copies to which every kind of change that `name` allows was applied."""
    square = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    planes = np.array(square).reshape(SIDE, SIDE, -1).transpose(2, 0, 1)
    image = torch.from_numpy(planes).float() / 127.5 - 1
    changed = augment(image.repeat(COPIES, 1, 1, 1), 1.0, profile(name), torch.Generator().manual_seed(0))
    tiles = torch.cat([image[None], changed]).clamp(-1, 1).add(1).mul(127.5).round().byte()
    tiles = torch.nn.functional.pad(tiles.expand(-1, 3, -1, -1), (0, GAP), value=255)
    return tiles.permute(2, 0, 3, 1).flatten(1, 2).numpy()


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mednist", type=Path, required=True)
    parser.add_argument("--bccd", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    args = parser.parse_args()
    pictures = {
        "safe": Image.open(sorted((args.mednist / "Hand").iterdir())[0]).convert("L"),
        "chest": Image.open(sorted((args.mednist / "CXR").iterdir())[0]).convert("L"),
        "axial": Image.open(sorted((args.mednist / "HeadCT").iterdir())[0]).convert("L"),
        "microscopy": Image.open(sorted((args.bccd / "WBC").iterdir())[0]).convert("RGB"),
        "natural": Image.fromarray(data.chelsea()[:, 75:375]),
    }
    rows = [row(picture, name) for name, picture in pictures.items()]
    sheet = np.concatenate([np.pad(r, ((0, GAP), (MARGIN, 0), (0, 0)), constant_values=255) for r in rows])
    drawn = Image.fromarray(sheet)
    for number, name in enumerate(pictures):
        place = (MARGIN - 8, number * (SIDE + GAP) + SIDE // 2)
        ImageDraw.Draw(drawn).text(place, name, fill="black", anchor="rm", font_size=13)
    drawn.quantize(kmeans=2, dither=Image.Dither.NONE).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
