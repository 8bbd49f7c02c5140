"""The built-in sample: scikit-learn's 1,797 real handwritten digits as class folders."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from inceptcli.errors import OutputError
from inceptcli.files import cannot_write, printable, write_bytes


def write_sample(folder: Path) -> int:
    """Write the digits as ``folder/0/0000.png ... folder/9/1796.png``, 8 x 8 pixels, grey.

    They are the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and
    Kaynak, 1998), as scikit-learn ships them: values 0 to 16, here times 255 / 16.

    Returns:
        The number of pictures written.

    Raises:
        OutputError: The folder holds something already, or cannot be written.
    """
    from sklearn.datasets import load_digits  # a second of import that only this command pays

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{printable(str(folder))} is not an empty folder; name a new one for the sample"
        )
    digits = load_digits()
    pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    try:
        for label in range(10):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    for index, (picture, label) in enumerate(zip(pictures, digits.target, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        write_bytes(folder / str(label) / f"{index:04d}.png", buffer.getvalue())
    return len(pictures)
