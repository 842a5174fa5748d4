"""Pictures as a viewer shows them, from files of any kind that Pillow reads."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from quartet.core.messages import shorten

# How a picture is turned for its EXIF orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHITE_IS_ZERO = 0  # a value of the TIFF tag below
PHOTOMETRIC = 262


class PictureError(ValueError):
    """A file that is no picture, is damaged, or can be shown in more than one way."""

    def __init__(self, message: str) -> None:
        # A worker process of a DataLoader puts a traceback before the message.
        super().__init__(message.rpartition("PictureError: ")[2].rstrip())


def list_pictures(folder: Path, left_out: dict[str, int]) -> list[str]:
    """Lists the paths of the pictures of a folder and of those within it, in the order of their names.

    Links are followed, hidden files and folders passed over. `left_out` gets the number of the files
    that are no pictures, by their ending.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(name for name in files if not is_hidden(name)):
            _, dot, ending = name.rpartition(".")
            kind = f".{ending.lower()}" if dot and ending else "no ending"
            if kind in IMG_EXTENSIONS:
                found.append(f"{place}{os.sep}{name}")  # a Path would take ten times as long
            else:
                left_out[kind] = left_out.get(kind, 0) + 1
    return found


def is_hidden(name: str) -> bool:
    """Whether a system keeps such a file or folder for itself."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def read_picture(path: Path, mode: str = "RGB", *, small: bool = False) -> Any:
    """Reads a picture: upright, on white where it is transparent, and its colours as 8 bits.

    Args:
        path: The file.
        mode: RGB, or L for grey.
        small: Whether a JPEG may be read in a lower resolution, to find out whether it can be.

    Returns:
        A picture of Pillow's; of 16 bits or floats a tensor ``(channels, height, width)`` in [0, 1].

    Raises:
        PictureError: it cannot be read, or nothing says how it is to be shown.
    """
    try:
        # Of a path, Pillow would map an uncompressed TIFF and scramble one that lies on its side.
        with warnings.catch_warnings(), path.open("rb") as file, Image.open(file) as image:
            warnings.simplefilter("ignore")  # large ones, and metadata that is damaged
            if small:
                image.draft(image.mode, (1, 1))
            count = getattr(image, "n_frames", 1)
            if count > 1 and image.format != "MPO":  # in a phone's JPEG the second is a preview
                raise PictureError(f"holds {count} pictures; save each as a file of its own")
            image.load()
            return show(turn_upright(image), mode, image)
    except PictureError as error:
        raise PictureError(f"{path} {error}") from None
    except UnidentifiedImageError:
        raise PictureError(f"{path} is no picture, or is damaged") from None
    except Image.DecompressionBombError:
        raise PictureError(f"{path} has too many pixels; make it smaller") from None
    except Exception as error:  # Pillow's readers raise errors of every kind
        raise PictureError(f"{path} cannot be read as a picture ({error})") from None


def turn_upright(image: Image.Image) -> Image.Image:
    """Turns a picture as the camera noted it. Pillow has turned a TIFF when it was loaded."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # notes that are damaged do not concern the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def show(image: Image.Image, mode: str, file: Any) -> Any:
    """Converts a loaded picture to a mode, or to a tensor in [0, 1] if it has more than 8 bits."""
    if image.mode[0] in "IF":
        values = scale(np.asarray(image, np.float32), image.mode, file.format)
        if getattr(file, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
            values = 1 - values
        return torch.from_numpy(values).expand(len(mode), -1, -1)
    if not image.has_transparency_data:
        return image.convert(mode)
    layered = image.convert("RGBA")
    lowest, highest = layered.getchannel("A").getextrema()
    shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layered).convert(mode)
    extrema = np.reshape(shown.getextrema(), (-1, 2))
    if lowest != highest and (extrema[:, 0] == extrema[:, 1]).all():
        raise PictureError("is blank on white; save it on the background that it is made for")
    return shown


def scale(values: NDArray[np.float32], mode: str, kind: str) -> NDArray[np.float32]:
    """Scales grey values of more than 8 bits to [0, 1].

    Raises:
        PictureError: nothing says which value is white.
    """
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):
        return values / np.float32(65535)
    if mode == "F" and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1:
        return values
    span = f"{values.min():g} to {values.max():g}, and nothing says which is white"
    raise PictureError(f"has values from {span}; save it with 8 or 16 bits, or as floats in [0, 1]")


def check_pictures(paths: Sequence[str]) -> None:
    """Reads every picture once, in threads.

    Raises:
        ValueError: some cannot be read; the message names them.
    """

    def find_problem(path: str) -> str | None:
        try:
            read_picture(Path(path), small=True)
        except PictureError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        found = threads.map(find_problem, paths)
        bar = tqdm(found, desc="reading", total=len(paths), unit="picture", delay=3, leave=False)
        refuse_pictures([problem for problem in bar if problem])


def refuse_pictures(problems: Sequence[str], way_out: str = "Correct or remove") -> None:
    """Raises a ValueError that names the pictures with a problem, if there are any."""
    if len(problems) == 1:
        raise ValueError(f"{problems[0]}. {way_out} it.")
    if problems:
        count = f"{len(problems)} pictures cannot be used"
        raise ValueError(f"{count}. {way_out} them: {shorten(problems, 20)}.")
