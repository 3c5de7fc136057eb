"""State dicts as `.npz` files.

A flat dict of Tensors becomes a plain `.npz`, one entry per Tensor, which `np.load` reads. Anything
nested has one more entry, `structure.json`, that holds the nesting, the numbers and strings, and
the names of the arrays. Nothing is ever pickled or unpickled, so loading runs nobody's code.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from ._core.tensor import Tensor

__all__ = ["load", "save"]

_STRUCTURE = "structure.json"
_VERSION = 1
_EXPECTED = "expected an .npz written by mg.save or np.savez"

PathOrFile = str | os.PathLike[str] | IO[bytes]

# what zipfile, NumPy and json raise for bytes that are not what they claim to be
_MALFORMED = (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


def save(state: Any, path: PathOrFile) -> None:
    """Write a state dict to `path` (a path, or a binary file open for writing) as `.npz`.

    state: Tensors, arrays, numbers, strings, None and bools, in dicts (keys str or int), lists and
        tuples, nested at will. dtypes and shapes are kept; arrays come back as Tensors.
    The file is written beside `path` and then renamed, so that an old file stays whole until the
    new one is. No suffix is added. Raises TypeError for other contents, FileNotFoundError for a
    missing folder.

    >>> import io
    >>> file = io.BytesIO()
    >>> mg.save({"layer.weight": mg.ones(2)}, file)
    >>> _ = file.seek(0)
    >>> np.load(file)["layer.weight"]
    array([1., 1.], dtype=float32)
    """
    arrays: dict[str, np.ndarray] = {}
    document = {"version": _VERSION, "state": _encode(state, "", arrays)}
    structure = None if _is_flat(state, arrays) else json.dumps(document)
    if not isinstance(path, (str, os.PathLike)):
        if not hasattr(path, "write") or hasattr(path, "encoding"):
            raise TypeError(
                f"save: expected a path or a file opened in binary mode, got {type(path).__name__}"
            )
        _write(path, structure, arrays)
        return
    target = Path(os.path.realpath(path))  # a link stays a link
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"save: the folder {str(target.parent)!r} does not exist; make it first"
        )
    if target.is_dir():
        raise IsADirectoryError(f"save: {os.fspath(path)!r} is a folder; add a file name")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _write(file, structure, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # it is there only if something went wrong


def load(path: PathOrFile) -> Any:
    """Read what `save` wrote, from a path or a binary file; of `np.savez`, a flat dict of Tensors.

    Raises FileNotFoundError for a missing file, and ValueError that names the file for one that is
    truncated, is no `.npz`, or holds Python objects or dtypes that Tensors do not have.

    >>> import io
    >>> file = io.BytesIO()
    >>> mg.save({"state": {0: {"step": 3, "exp_avg": mg.ones(2)}}, "betas": (0.9, 0.999)}, file)
    >>> mg.load(file)
    {'state': {0: {'step': 3, 'exp_avg': tensor([1., 1.])}}, 'betas': (0.9, 0.999)}
    """
    if isinstance(path, (str, os.PathLike)):
        with open(path, "rb") as file:
            return _load(file, repr(os.fspath(path)))
    if not hasattr(path, "seek") or hasattr(path, "encoding"):
        raise TypeError(
            f"load: expected a path or a file opened in binary mode, got {type(path).__name__}"
        )
    return _load(path, repr(getattr(path, "name", path)))


# ------------------------------------------------------------------------------------ the archive
def _write(file: IO[bytes], structure: str | None, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        if structure is not None:
            archive.writestr(_STRUCTURE, structure)


def _load(file: IO[bytes], name: str) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(archive)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"load: {name} is truncated or no .npz at all ({error}); {_EXPECTED}"
        ) from error
    except _MALFORMED as error:
        raise ValueError(f"load: {name} cannot be loaded: {error}; {_EXPECTED}") from error


def _read(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    entries = [name for name in names if name != _STRUCTURE]
    foreign = [name for name in entries if not name.endswith(".npy")]
    if foreign or not names:
        raise ValueError(
            f"the archive holds {foreign[0]!r}, which is no array"
            if foreign
            else "the archive is empty"
        )
    arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in entries}
    if _STRUCTURE not in names:
        return arrays
    document = json.loads(archive.read(_STRUCTURE))
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(
            f"{_STRUCTURE} is not of version {_VERSION}, the one that this minigrad reads"
        )
    return _decode(document.get("state"), arrays)


def _read_array(archive: zipfile.ZipFile, name: str) -> Tensor:
    try:
        buffer = io.BytesIO(archive.read(name))  # whole, so that its checksum is verified first
        array = np.lib.format.read_array(buffer, allow_pickle=False)
        if buffer.read(1):
            raise ValueError("there are bytes behind the array")
        return Tensor(np.asarray(array, order="C"))
    except (
        *_MALFORMED,
        TypeError,
        MemoryError,
    ) as error:  # MemoryError: a header that claims too much
        raise ValueError(f"entry {name!r}: {error}") from error


# ---------------------------------------------------------------------------------- the structure
# Scalars and lists stand for themselves in the JSON; {"array": name}, {"tuple": [...]} and
# {"dict": [[key, value], ...]} for what JSON does not have (its keys would all become strings).
def _encode(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        # zipfile would cut a name at a NUL and refuses lone surrogates and very long names
        name = place.replace("\0", "~").encode(errors="replace").decode()[:9999] or "array"
        while name in arrays:  # {"a/b": x, "a": {"b": y}}
            name += "~"
        arrays[name] = _storable(value, place)
        return {"array": name}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, _below(place, i), arrays) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise TypeError(f"save: keys must be str or int, got {key!r}{_at(place)}")
        return {
            "dict": [
                [key, _encode(item, _below(place, key), arrays)] for key, item in value.items()
            ]
        }
    raise TypeError(
        f"save: cannot store {type(value).__name__}{_at(place)}; expected Tensors, arrays, "
        "numbers, strings, None, and dicts, lists and tuples of them"
    )


def _below(place: str, key: str | int) -> str:
    return f"{place}/{key}" if place else str(key)


def _at(place: str) -> str:
    return f" at {place!r}" if place else ""


def _storable(value: Tensor | np.ndarray | np.generic, place: str) -> np.ndarray:
    try:
        return np.asarray(Tensor(value)._array, order="C")
    except TypeError as error:
        raise TypeError(f"save: cannot store the array{_at(place)}: {error}") from None


def _is_flat(state: Any, arrays: dict[str, np.ndarray]) -> bool:
    """Whether the names of the arrays say everything: they are the keys of one dict."""
    return isinstance(state, dict) and bool(state) and list(state) == list(arrays)


def _decode(node: Any, arrays: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, arrays) for item in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"array": str(name)} if name in arrays:
            return arrays[name]
        case {"tuple": list(items)}:
            return tuple(_decode(item, arrays) for item in items)
        case {"dict": list(pairs)}:
            return {_key(pair): _decode(pair[1], arrays) for pair in pairs}
    raise ValueError(f"{_STRUCTURE} refers to something that is not there: {node!s:.60}")


def _key(pair: Any) -> str | int:
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], (str, int)):
        return pair[0]
    raise ValueError(f"{_STRUCTURE} holds {pair!s:.60}, which is no key with its value")
