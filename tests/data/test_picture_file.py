"""Pictures of strangers: their formats, and the memory of many at one time."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kip.data import image_folder, picture_file
from kip.errors import ConfigError, DataError

ENDLESS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"


@pytest.mark.parametrize("name", ["0.png", "0.jpg", "0.eps"])
def test_postscript_reaches_no_interpreter_whatever_its_name(tmp_path, monkeypatch, name):
    """Pillow gave it to Ghostscript, which ran whatever program was in it."""
    (tmp_path / "bin").mkdir()
    marker = tmp_path / "ran"
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.write_text(f"#!{sys.executable}\nopen({str(marker)!r}, 'w')\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / name).write_text(ENDLESS)
    with pytest.raises(DataError, match="cannot read the image"):
        image_folder.decoded(tmp_path / name, 3)
    assert image_folder.header(tmp_path / name).is_grey
    assert not marker.exists()


@pytest.mark.parametrize("form", ["PCX", "TGA", "ICNS", "SGI", "PSD"])
def test_a_format_beyond_the_list_is_refused_under_the_name_of_another(tmp_path, form):
    path = tmp_path / "0.png"
    if form == "PSD":
        path.write_bytes(b"8BPS\0\1" + bytes(20))
    else:
        Image.new("RGB", (16, 16)).save(path, form)
    with pytest.raises(DataError, match="cannot read the image"):
        image_folder.decoded(path, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "MPO"])
def test_the_formats_of_photographs_are_decoded(tmp_path, form):
    path = tmp_path / "0.picture"
    Image.new("RGB", (16, 12), (200, 200, 200)).save(path, form)
    pixels = image_folder.decoded(path, 3)
    assert pixels.shape == (12, 16, 3)
    assert np.abs(pixels.astype(int) - 200).max() <= 2


def test_no_source_opens_a_picture_by_itself():
    root = Path(image_folder.__file__).parents[1]
    opening = [str(path.relative_to(root)) for path in root.rglob("*.py") if "Image.open(" in path.read_text()]
    assert opening == [os.path.join("data", "picture_file.py")]


def test_threads_together_decode_no_more_than_one_picture_may_have(tmp_path, monkeypatch):
    monkeypatch.setenv("KIP_PICTURE_MEGAPIXELS", "1")
    lock, taken, most = threading.Lock(), 0, 0
    for side in (100, 300, 500, 600, 900, 1000):
        Image.new("1", (side, side)).save(tmp_path / f"{side}.png")

    def decode(side):
        nonlocal taken, most
        with picture_file.decoding(tmp_path / f"{side}.png"):
            with lock:
                taken += side**2
                most = max(most, taken)
            threading.Event().wait(0.002)
            with lock:
                taken -= side**2

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode, [600, 300, 900, 100, 1000, 500, 500, 500, 300] * 4))
    assert 0 < most <= 10**6


def test_a_wrong_bound_is_named(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "0.png")
    monkeypatch.setenv("KIP_PICTURE_MEGAPIXELS", "many")
    with pytest.raises(ConfigError, match=r"KIP_PICTURE_MEGAPIXELS; got 'many'; expected a whole number, such as 64"):
        image_folder.decoded(tmp_path / "0.png", 1)
