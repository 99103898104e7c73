"""Photos of any kind --open_photos--> what the model takes; its scores --best_label--> a label and its score."""

import numpy as np
from PIL import Image, ImageOps

SIZE = (32, 32)
LABELS = np.array(["disc", "square"])


def open_photos(paths):
    """RGB images (rows, 32, 32, 3) with values from -1 to 1."""
    return np.stack([_pixels(path) for path in paths])


def best_label(scores):
    """What is written of each row."""
    return {"label": LABELS[scores.argmax(axis=1)], "score": scores.max(axis=1)}


def _pixels(path):
    with Image.open(path) as file:
        photo = ImageOps.exif_transpose(file)  # upright, however the camera was held
    if photo.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.has_transparency_data:  # on white
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
    return np.asarray(photo.convert("RGB").resize(SIZE), np.float32) / 127.5 - 1
