"""The AutoAugment policies for CIFAR-10 and SVHN, and their operators.

A policy is 25 sub-policies of two steps (operation, probability, magnitude 0..9), those of Cubuk et al. 2019,
"AutoAugment: Learning Augmentation Policies from Data", Tables 7 (CIFAR-10) and 8 (SVHN). They were compared with
public transcriptions of those tables.

How a magnitude m becomes an argument follows the authors' released code (tensorflow/models, research/autoaugment),
which trained the policies on 32x32 images, and not the paper's Table 6, whose ranges are those of ImageNet:

| operation | argument |
|---|---|
| ShearX, ShearY | +-0.3 m / 10 |
| TranslateX, TranslateY | +-floor(10 m / 10) pixels of 32, in proportion at other sizes |
| Rotate | +-floor(30 m / 10) degrees |
| Solarize | inverts values of 256 - floor(256 m / 10) and above |
| Posterize | keeps 4 - floor(4 m / 10) bits (Table 6: 4 to 8 bits) |
| Contrast, Color, Brightness, Sharpness | factor 0.1 + 1.8 m / 10 |
| AutoContrast, Equalize, Invert | none |

Signs are drawn with p = 1/2. What a geometric operation uncovers is filled with the data set's mean colour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


class Step(NamedTuple):
    """One operation of a sub-policy."""

    operation: str
    probability: float
    magnitude: int


def _policy(table: str) -> tuple[tuple[Step, Step], ...]:
    """Parse lines of `operation probability magnitude, operation probability magnitude`."""
    rows = [[entry.split() for entry in line.split(",")] for line in table.strip().splitlines()]
    return tuple((Step(a, float(p), int(m)), Step(b, float(q), int(n))) for (a, p, m), (b, q, n) in rows)


CIFAR = _policy("""
Invert 0.1 7, Contrast 0.2 6
Rotate 0.7 2, TranslateX 0.3 9
Sharpness 0.8 1, Sharpness 0.9 3
ShearY 0.5 8, TranslateY 0.7 9
AutoContrast 0.5 8, Equalize 0.9 2
ShearY 0.2 7, Posterize 0.3 7
Color 0.4 3, Brightness 0.6 7
Sharpness 0.3 9, Brightness 0.7 9
Equalize 0.6 5, Equalize 0.5 1
Contrast 0.6 7, Sharpness 0.6 5
Color 0.7 7, TranslateX 0.5 8
Equalize 0.3 7, AutoContrast 0.4 8
TranslateY 0.4 3, Sharpness 0.2 6
Brightness 0.9 6, Color 0.2 8
Solarize 0.5 2, Invert 0.0 3
Equalize 0.2 0, AutoContrast 0.6 0
Equalize 0.2 8, Equalize 0.6 4
Color 0.9 9, Equalize 0.6 6
AutoContrast 0.8 4, Solarize 0.2 8
Brightness 0.1 3, Color 0.7 0
Solarize 0.4 5, AutoContrast 0.9 3
TranslateY 0.9 9, TranslateY 0.7 9
AutoContrast 0.9 2, Solarize 0.8 3
Equalize 0.8 8, Invert 0.1 3
TranslateY 0.7 9, AutoContrast 0.9 1
""")

SVHN = _policy("""
ShearX 0.9 4, Invert 0.2 3
ShearY 0.9 8, Invert 0.7 5
Equalize 0.6 5, Solarize 0.6 6
Invert 0.9 3, Equalize 0.6 3
Equalize 0.6 1, Rotate 0.9 3
ShearX 0.9 4, AutoContrast 0.8 3
ShearY 0.9 8, Invert 0.4 5
ShearY 0.9 5, Solarize 0.2 6
Invert 0.9 6, AutoContrast 0.8 1
Equalize 0.6 3, Rotate 0.9 3
ShearX 0.9 4, Solarize 0.3 3
ShearY 0.8 8, Invert 0.7 4
Equalize 0.9 5, TranslateY 0.6 6
Invert 0.9 4, Equalize 0.6 7
Contrast 0.3 3, Rotate 0.8 4
Invert 0.8 5, TranslateY 0.0 2
ShearY 0.7 6, Solarize 0.4 8
Invert 0.6 4, Rotate 0.8 4
ShearY 0.3 7, TranslateX 0.9 3
ShearX 0.1 6, Invert 0.6 5
Solarize 0.7 2, TranslateY 0.6 7
ShearY 0.8 4, Invert 0.8 8
ShearX 0.7 9, TranslateY 0.8 3
ShearY 0.8 5, AutoContrast 0.7 3
ShearX 0.7 2, Invert 0.1 5
""")

MEAN_COLOUR = {"autoaugment_cifar": (125, 123, 114), "autoaugment_svhn": (112, 113, 121)}
"""Channel means of train, 0..255, rounded: CIFAR-10, and for SVHN the figures in common use."""

POLICIES = {"autoaugment_cifar": CIFAR, "autoaugment_svhn": SVHN}


def operators(fill: tuple[int, int, int]) -> dict[str, Callable[[Picture, int, int], Picture]]:
    """Return Pillow's operator for each name: (image, magnitude 0..9, sign -1 or 1) -> image.

    Args:
        fill: the colour of uncovered pixels, 0..255.
    """
    from PIL import Image, ImageEnhance, ImageOps

    def affine(image: Picture, *matrix: float) -> Picture:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)

    def shift(image: Picture, m: int, sign: int, axis: int) -> int:
        return sign * round(m * image.size[axis] / 32)

    def enhance(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Callable[[Picture, int, int], Picture]:
        return lambda image, m, sign: kind(image).enhance(0.1 + 0.18 * m)

    return {
        "ShearX": lambda image, m, sign: affine(image, 1, sign * 0.03 * m, 0, 0, 1, 0),
        "ShearY": lambda image, m, sign: affine(image, 1, 0, 0, sign * 0.03 * m, 1, 0),
        "TranslateX": lambda image, m, sign: affine(image, 1, 0, shift(image, m, sign, 0), 0, 1, 0),
        "TranslateY": lambda image, m, sign: affine(image, 1, 0, 0, 0, 1, shift(image, m, sign, 1)),
        "Rotate": lambda image, m, sign: image.rotate(sign * 3 * m, fillcolor=fill),
        "Solarize": lambda image, m, sign: ImageOps.solarize(image, 256 - 256 * m // 10),
        "Posterize": lambda image, m, sign: ImageOps.posterize(image, 4 - 4 * m // 10),
        "Contrast": enhance(ImageEnhance.Contrast),
        "Color": enhance(ImageEnhance.Color),
        "Brightness": enhance(ImageEnhance.Brightness),
        "Sharpness": enhance(ImageEnhance.Sharpness),
        "AutoContrast": lambda image, m, sign: ImageOps.autocontrast(image),
        "Equalize": lambda image, m, sign: ImageOps.equalize(image),
        "Invert": lambda image, m, sign: ImageOps.invert(image),
    }
