"""Save and load state dicts: `.npz`, `.safetensors`, and PyTorch's `.pt`, without PyTorch.

A flat dict of Tensors becomes a plain file of either format with one entry per Tensor, readable by
`np.load` and the safetensors library. Nested state has an additional entry, `structure.json`, that
holds the nesting, the numbers and strings, the names of the arrays, and the metadata. A `.pt` is
what torch.save writes of the same dicts, lists, tuples, numbers, strings and tensors.

Loading never runs code from the file. Arrays are never pickled. The pickle in a `.pt` may contain
only the opcodes that torch.save writes and the names of storages, OrderedDict and the functions
that rebuild tensors; these map to functions of ours. Sizes claimed by a file are compared with its
actual size before memory is allocated, and neither time nor memory can grow faster than the file:
an object in a pickle is hashed, compared or printed only once it is known to be a string or a
64-bit int, since a tuple of tuples that share references has 2^60 items after 60 opcodes.

float16 and bfloat16, which Tensors do not support, are loaded as float32; every value is exact.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, cast

import numpy as np

from ._core.engine.graph import DTYPES, Tensor, adopt
from .namespace import led

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["StateDict", "load", "save"]

_STRUCTURE = "structure.json"
_VERSION = 1
_EXPECTED = (
    "expected an .npz written by mg.save or np.savez, a .safetensors, or a state dict that "
    "torch.save wrote"
)

PathOrFile = str | os.PathLike[str] | IO[bytes]

# The dtypes in files by safetensors name: the dtype of the bytes ("<": files are little-endian) and
# the storage class in a .pt.
_DTYPES = {
    "F64": ("<f8", "DoubleStorage"),
    "F32": ("<f4", "FloatStorage"),
    "F16": ("<f2", "HalfStorage"),
    "BF16": ("<u2", "BFloat16Storage"),
    "I64": ("<i8", "LongStorage"),
    "I32": ("<i4", "IntStorage"),
    "BOOL": ("u1", "BoolStorage"),
}
_STORAGES = {storage: kind for kind, (_, storage) in _DTYPES.items()}
_OF_DTYPE = {
    dtype: _DTYPES[name]
    for dtype, name in zip(DTYPES, ("F32", "F64", "I32", "I64", "BOOL"), strict=True)
}


class StateDict(dict[Any, Any]):
    """The dict returned by `load`, with the text metadata of the file in `metadata`.

    >>> import io
    >>> file = io.BytesIO()
    >>> mg.save({"weight": mg.ones(2)}, file, metadata={"epoch": "3"})
    >>> mg.load(file).metadata
    {'epoch': '3'}
    """

    metadata: dict[str, str]

    def __init__(self, state: Any = (), metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(state)
        self.metadata = dict(metadata or {})


def save(state: Any, path: PathOrFile, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict to `path` (a path, or a binary file open for writing): as safetensors if
    its name ends in `.safetensors`, as a checkpoint that `torch.load` reads if it ends in `.pt` or
    `.pth`, otherwise as `.npz`.

    state: Tensors, arrays, numbers, strings, None and bools, in arbitrarily nested dicts (keys str
        or int), lists and tuples. dtypes and shapes are preserved; arrays are loaded as Tensors.
    metadata: a dict of str to str, such as {"format": "pt"}, stored with a dict; defaults to the
        metadata of a StateDict. A `.pt` has no place for it: ValueError if it is given, and that of
        a StateDict is left out.
    The new file is written to the same folder and then renamed: an existing file stays intact until
    the new one is complete. A killed process leaves a `.minigrad-*.tmp`; the next save to that
    folder from the same host removes it (not on Windows). No suffix is added. Raises TypeError for
    other contents, FileNotFoundError for a missing folder, ImportError if the package safetensors
    is needed but missing.

    >>> import io
    >>> file = io.BytesIO()
    >>> mg.save({"layer.weight": mg.ones(2)}, file)
    >>> _ = file.seek(0)
    >>> np.load(file)["layer.weight"]
    array([1., 1.], dtype=float32)
    """
    name = path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "")
    suffix = Path(name).suffix.lower() if isinstance(name, (str, os.PathLike)) else ""
    if suffix in (".pt", ".pth") and metadata:
        raise ValueError(f"save: a {suffix} file has no metadata; save as .npz or .safetensors")
    if metadata is None:
        metadata = getattr(state, "metadata", {}) if isinstance(state, dict) else {}
    metadata = _checked_metadata(metadata, state)
    arrays: dict[str, np.ndarray] = {}
    document = {"version": _VERSION, "state": _encode(state, "", arrays)}
    # Whether the names of the arrays are the whole structure, the keys of a single dict.
    flat = isinstance(state, dict) and bool(state) and list(state) == list(arrays)
    if suffix == ".safetensors":
        structure = {} if flat else {_STRUCTURE: json.dumps(document)}
        content = _safetensors("save").numpy.save(arrays, metadata=metadata | structure)
        with writing("save", path) as file:
            file.write(content)
        return
    if suffix in (".pt", ".pth"):
        with writing("save", path) as file, _new_archive(file) as archive:
            _write_checkpoint(_decode(document["state"], arrays), archive)
        return
    with writing("save", path) as file, _new_archive(file) as archive:
        for entry, array in arrays.items():
            with archive.open(f"{entry}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
        if metadata or not flat:
            also = {"metadata": metadata} if metadata else {}
            archive.writestr(_STRUCTURE, json.dumps(document | also))


def load(path: PathOrFile) -> Any:
    """Read a file written by `save`, from a path or a binary file; also a dict of Tensors written
    by `np.savez`, safetensors or `torch.save(model.state_dict(), path)`. A dict is returned as a
    `StateDict`.

    The format is detected from the content, not the name. Keys of a safetensors file come in that
    library's order. A `.pt` is read without PyTorch; it may hold tensors (on any device), numbers,
    strings, dicts, lists and tuples, but no modules. float16 and bfloat16 become float32.

    Raises FileNotFoundError for a missing file, ImportError if the package safetensors is needed
    but missing, and a ValueError that names the file if it is truncated, in another format, claims
    to be larger than its bytes allow, or holds Python objects or unsupported dtypes.

    >>> import io
    >>> file = io.BytesIO()
    >>> mg.save({"state": {0: {"step": 3, "exp_avg": mg.ones(2)}}, "betas": (0.9, 0.999)}, file)
    >>> mg.load(file)
    {'state': {0: {'step': 3, 'exp_avg': tensor([1., 1.])}}, 'betas': (0.9, 0.999)}
    """
    if isinstance(path, (str, os.PathLike)):
        with open(path, "rb") as file:
            return _load(file, os.fspath(path))
    _check_binary("load", path, "seek")
    return _load(path, str(getattr(path, "name", path)))


def _check_binary(caller: str, file: Any, method: str) -> None:
    if not hasattr(file, method) or hasattr(file, "encoding"):
        kind = type(file).__name__
        raise TypeError(f"{caller}: expected a path or a file opened in binary mode, got {kind}")


@contextlib.contextmanager
def writing(caller: str, path: PathOrFile) -> Iterator[IO[bytes]]:
    """A binary file that replaces `path` when the block succeeds; after an error or Ctrl-C only the
    old file remains. An open file is passed through.

    >>> import io
    >>> with mg.serialization.writing("save", io.BytesIO()) as file:
    ...     file.write(b"text")
    4
    """
    if not isinstance(path, (str, os.PathLike)):
        _check_binary(caller, path, "write")
        yield path
        return
    target = Path(os.path.realpath(path))  # a link stays a link
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{caller}: the folder {str(target.parent)!r} does not exist; create it first"
        )
    if target.exists() and not target.is_file():
        raise IsADirectoryError(f"{caller}: {os.fspath(path)!r} is a folder; add a file name")
    _remove_leavings(target.parent)
    temporary, file = _temporary(target.parent)
    lock = None
    try:
        with file:
            lock = os.dup(file.fileno()) if fcntl else None  # held until the file has its name
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # still exists only after an error
        if lock is not None:
            os.close(lock)


# The writer of a temporary file holds a lock on it, which is released however the process ends.
# Process numbers would not work: they are reused. Not every network drive shares locks between
# hosts, so a host considers only its own files.
def _temporary_names() -> str:
    return f".minigrad-{os.uname().nodename if fcntl else 'host'}-"


def _temporary(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new file for writing, with its path."""
    while True:
        path = folder / f"{_temporary_names()}{os.urandom(4).hex()}.tmp"
        file = open(path, "xb")  # noqa: SIM115 (the caller closes it)
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            blocked = not path.exists()
        except BlockingIOError:  # by a process that takes it for a leftover and removes it
            blocked = True
        except OSError:  # no locks on this drive
            blocked = False
        if not blocked:
            return path, file
        file.close()


def _remove_leavings(folder: Path) -> None:
    """Remove the temporary files of dead processes."""
    if not fcntl:
        return
    names = _temporary_names()
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        for entry in os.listdir(folder):
            # The length distinguishes the files of host "a" from those of host "a-b".
            if entry.startswith(names) and len(entry) == len(names) + len("01234567.tmp"):
                _remove_left_over(folder / entry)


def _remove_left_over(path: Path) -> None:
    with contextlib.suppress(OSError):  # in use, another user's, or already gone
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                os.unlink(path)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _new_archive(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
    try:
        yield archive
        archive.close()
    except BaseException:
        archive.fp = None  # otherwise closing a half-written entry raises ValueError, hiding Ctrl-C
        raise


# ------------------------------------------------------------------------------------ the formats
def _checked_metadata(metadata: Any, state: Any) -> dict[str, str]:
    if not isinstance(metadata, Mapping) or not all(
        isinstance(text, str) for pair in metadata.items() for text in pair
    ):
        raise TypeError(f"save: metadata must be a dict of str to str, got {metadata!r:.60}")
    if metadata and not isinstance(state, dict):
        raise TypeError(f"save: metadata needs a dict as state, got a {type(state).__name__}")
    if _STRUCTURE in metadata:
        raise ValueError(f"save: the metadata key {_STRUCTURE!r} is reserved for the nesting")
    return dict(metadata)


def _safetensors(caller: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            f"{caller}: .safetensors needs the package safetensors: "
            "pip install minigrad-cython[safetensors]"
        ) from error
    return safetensors


def _load(file: IO[bytes], path: str) -> Any:
    place = repr(path)
    file.seek(0)
    head = file.read(9)
    if head[:2] != b"PK" and (head[8:] == b"{" or Path(path).suffix.lower() == ".safetensors"):
        library = _safetensors("load")
        file.seek(0)
        try:
            return _read_safetensors(library, file.read())
        except Exception as error:
            raise ValueError(
                f"load: {place} is truncated or not a .safetensors ({error}); {_EXPECTED}"
            ) from error
    try:
        size = file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
            limit = max(1 << 30, 100 * size)
            if claimed > limit:
                raise ValueError(f"its {size} bytes would unpack to {claimed}; that is an attack")
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise ValueError("it has two entries with the same name")
            for entry in archive.infolist():  # we store this text, and torch its pickle, unpacked
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{entry.filename!r:.60} is neither stored nor deflated")
                if entry.filename.endswith((_STRUCTURE, "data.pkl")) and entry.file_size > size:
                    raise ValueError(f"its {size} bytes hold a larger {entry.filename!r:.60}")
            pickles = [name for name in names if name.endswith("/data.pkl")]
            if pickles and not any(name.endswith(".npy") for name in names):
                return _CheckpointReader(archive, pickles[0], limit).state()
            return _read_npz(archive)
    except zipfile.BadZipFile as error:
        hint = "; a bare pickle, as torch.save wrote before version 1.6, is not supported"
        hint *= head[:1] == b"\x80"
        raise ValueError(
            f"load: {place} is truncated or not an .npz ({error}){hint}; {_EXPECTED}"
        ) from error
    except Exception as error:  # whatever zipfile, NumPy, json and pickle raise for bad bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"load: {place} cannot be loaded: {reason:.400}; {_EXPECTED}") from error


def _read_npz(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    entries = [name for name in names if name != _STRUCTURE]
    foreign = [name for name in entries if not name.endswith(".npy")]
    if foreign:
        raise ValueError(f"the archive holds {foreign[0]!r}, which is not an array")
    if not names:
        raise ValueError("the archive is empty")
    arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in entries}
    if _STRUCTURE not in names:
        return StateDict(arrays)
    return _restored(_content(archive, _STRUCTURE), arrays)


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an entry. `archive.read` would unpack 2 GiB of one that claims to be small."""
    with archive.open(name) as stream:
        return stream.read(archive.getinfo(name).file_size)


def _read_array(archive: zipfile.ZipFile, name: str) -> Tensor:
    try:
        content = _content(archive, name)  # all of it, to verify the checksum first
        _check_header(content)
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        return adopt(np.asarray(array, order="C"))
    except Exception as error:
        raise ValueError(f"entry {name!r}: {error}") from error


def _check_header(content: bytes) -> None:
    """Raise if an array claims a size other than that of its bytes, before memory is allocated."""
    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(buffer)
    claimed, size = dtype.itemsize * math.prod(shape), len(content) - buffer.tell()
    if not dtype.hasobject and claimed != size:
        raise ValueError(f"an array of shape {shape} and {dtype} has {size} bytes, not {claimed}")


def _read_safetensors(library: Any, content: bytes) -> Any:
    entries = library.deserialize(content)  # checks the header, the offsets and the sizes
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise ValueError(
                f"entry {name!r}: dtype {entry['dtype']} is not supported, only {known}"
            )
        array = _from_bytes(entry["data"], entry["dtype"]).reshape(entry["shape"])
        arrays[name] = adopt(np.require(array, requirements="W"))
    metadata = header.get("__metadata__", {})
    if _STRUCTURE not in metadata:
        return StateDict(arrays, metadata)
    return _restored(metadata.pop(_STRUCTURE), arrays, metadata)


def _from_bytes(data: bytes | bytearray, kind: str) -> np.ndarray:
    """The bytes as a 1-d array of a dtype that Tensors support, shared if possible."""
    array: np.ndarray = np.frombuffer(data, _DTYPES[kind][0])
    if kind == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    if kind == "BOOL":
        return np.asarray(array, np.bool_)  # every byte but 0 is True
    native = np.dtype(np.float32) if kind == "F16" else array.dtype.newbyteorder("=")
    return array.astype(native, copy=False)


_DEPTH = 200  # of nested dicts, lists and tuples; Python can print about a thousand levels
_BITS = 2039  # of an int; the opcode that torch.save writes holds 255 bytes, with a sign


def _is_branch(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple))


def _checked_key(key: Any) -> str | int:
    """A key of a dict. Thousands of longer ints could share one hash."""
    if type(key) is not str and not _is_int64(key):
        kind = type(key).__name__
        raise ValueError(f"a key of a dict must be a str or a 64-bit int, got a {kind}")
    return cast("str | int", key)


def _ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()  # its items follow; a list of them would be copied at each call


def _is_int64(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _sizes(shape: Any) -> tuple[int, ...]:
    if not _is_branch(shape) or len(shape) > 64 or not all(map(_is_int64, shape)):
        raise ValueError("a shape must be a tuple of at most 64 ints, each of 64 bits")
    return tuple(shape)


# The opcodes that torch.save writes for supported contents, in pickle protocols 2 and later.
_OPCODES = b"".join(
    getattr(pickle, name)
    for names in (
        "PROTO FRAME STOP MARK BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL",
        "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE",
        "EMPTY_LIST EMPTY_DICT EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPERSID",
    )
    for name in names.split()
)


class _CheckpointReader(pickle._Unpickler):  # pure Python: a hostile pickle cannot corrupt memory
    """Reads the zip that torch.save writes: a pickle that refers to the entries data/0, data/1, ...
    for the bytes of its storages. Nothing named in the pickle is imported."""

    stack: list[Any]

    def __init__(self, archive: zipfile.ZipFile, name: str, limit: int) -> None:
        content = _content(archive, name)
        super().__init__(io.BytesIO(content))
        self._length = len(content)
        self._archive, self._folder, self._limit = archive, name.removesuffix("data.pkl"), limit
        self._storages: dict[Any, np.ndarray] = {}
        if f"{self._folder}byteorder" in archive.namelist():
            order = _content(archive, f"{self._folder}byteorder")
            if order != b"little":
                raise ValueError(f"the byte order is {order!r:.20}; only little-endian is read")
        self._globals: dict[str, Any] = {
            "collections.OrderedDict": _ordered_dict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda data, requires_grad, hooks: data,
            "torch.Size": _sizes,
            **{f"torch.{name}": kind for name, kind in _STORAGES.items()},
        }

    def state(self) -> Any:
        state = self.load()
        self._check_tree(state)
        return StateDict(state) if isinstance(state, dict) else state

    def _check_tree(self, state: Any) -> None:
        """Raise for a state that is small in the pickle but huge to walk, level by level."""
        level, left = [state], max(self._length, 1000)  # number of opcodes; sharing is rare
        for _ in range(_DEPTH + 1):
            inner = [x.values() if isinstance(x, dict) else x for x in level if _is_branch(x)]
            left -= sum(map(len, inner))
            if not inner or left < 0:
                break
            level = [item for items in inner for item in items]
        if inner:
            raise ValueError(
                "its dicts, lists and tuples contain each other many times, or too deep; that is "
                "an attack"
            )

    def find_class(self, module: str, name: str) -> Any:
        found = self._globals.get(f"{module}.{name}")
        if found is None:
            raise ValueError(
                f"its pickle refers to {module:.60}.{name:.60}, which is refused: only tensors of "
                f"{', '.join(_STORAGES)} in dicts, lists and tuples are read; for a model, save "
                "model.state_dict()"
            )
        return found

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set(self.stack[-1], items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if type(target) not in (dict, OrderedDict):
            raise ValueError(f"its pickle sets items of {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_checked_key(key)] = value

    def load_append(self) -> None:
        self._extend(self.stack[-2], [self.stack.pop()])

    def load_appends(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._extend(self.stack[-1], items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise ValueError(f"its pickle appends to {type(target).__name__}")
        target += items

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        if type(arguments) is not tuple or len(arguments) > 9:  # no function takes more
            raise ValueError(
                "its pickle calls a function without a tuple of arguments, or with a long one"
            )
        self.stack[-1] = self.stack[-1](*arguments)

    def refuse(self) -> None:
        raise ValueError(
            "its pickle has an opcode that torch.save does not write, which is refused"
        )

    def load_build(self) -> None:
        """Drop the attributes (`_metadata`) that torch sets on a dict; no other object has any."""
        self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict:
            raise ValueError(f"its pickle sets attributes of {type(self.stack[-1]).__name__}")

    dispatch: ClassVar[dict[int, Any]] = {
        **dict.fromkeys(range(256), refuse),
        **{code: pickle._Unpickler.dispatch[code] for code in _OPCODES},
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
    }

    def persistent_load(self, reference: Any) -> np.ndarray:
        """The storage for a reference ('storage', class, key, device, number of elements)."""
        if type(reference) is not tuple or list(map(type, reference)) != [str, str, str, str, int]:
            raise ValueError("its pickle refers to a storage by something other than names")
        _, kind, key, _, count = reference
        if (key, kind) not in self._storages:
            self._take(len(self._storages))
            array = _from_bytes(_content(self._archive, f"{self._folder}data/{key}"), kind)
            if len(array) != count:
                raise ValueError(f"storage {key} has {len(array)} elements instead of {count}")
            self._storages[key, kind] = array
        return self._storages[key, kind]

    def _take(self, size: int) -> None:
        self._limit -= size
        if self._limit < 0:
            raise ValueError("its tensors would be much larger than the file; that is an attack")

    def _tensor(
        self, storage: np.ndarray, offset: int, shape: Any, strides: Any, *ignored: Any
    ) -> Tensor:
        """A copy, because overlapping tensors would not share versions."""
        shape, strides, (offset,) = _sizes(shape), _sizes(strides), _sizes((offset,))
        if not isinstance(storage, np.ndarray):
            raise ValueError(f"a tensor has a {type(storage).__name__} as its storage")
        if len(shape) != len(strides) or min(offset, *shape, *strides, 0) < 0:
            raise ValueError(f"a tensor of shape {shape} and offset {offset} has strides {strides}")
        size = storage.itemsize
        for n in shape:
            size *= n
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if size and last >= len(storage):
            raise ValueError(f"a tensor of shape {shape} exceeds its storage of {len(storage)}")
        self._take(size)
        if not size:
            return adopt(np.zeros(shape, storage.dtype))
        steps = [stride * storage.itemsize for stride in strides]
        view = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
        return adopt(np.array(view, order="C"))


class _Name:
    """A name in the pickle of a `.pt`, such as torch.FloatStorage, that need not exist here."""

    def __init__(self, module: str, name: str) -> None:
        self.text = f"{module}\n{name}\n".encode()

    def __call__(self) -> None:
        """Only PyTorch calls what is written; Pickler asks whether it could."""


class _Storage(NamedTuple):
    """The bytes of a tensor, a file of its own in the zip."""

    array: np.ndarray


class _CheckpointWriter(pickle._Pickler):
    """Pickles a state of dicts, lists, tuples, numbers, strings and arrays as torch.save does."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[np.ndarray] = []

    def persistent_id(self, value: Any) -> Any:
        """What `_CheckpointReader.persistent_load` gets."""
        if not isinstance(value, _Storage):
            return None
        self.storages.append(value.array)
        kind = _Name("torch", _OF_DTYPE[value.array.dtype][1])
        return "storage", kind, str(len(self.storages) - 1), "cpu", value.array.size

    def reducer_override(self, value: Any) -> Any:
        """Arrays as calls of the function that rebuilds a tensor."""
        if not isinstance(value, np.ndarray):
            return NotImplemented
        steps = tuple(stride // value.itemsize for stride in value.strides)
        rebuild = _Name("torch._utils", "_rebuild_tensor_v2")
        return rebuild, (_Storage(value), 0, value.shape, steps, False, OrderedDict())

    def save_name(self, value: _Name) -> None:
        """A name as `pickle` writes that of a class, without importing it."""
        self.write(pickle.GLOBAL + value.text)  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[Any, Any]] = {**pickle._Pickler.dispatch, _Name: save_name}


def _write_checkpoint(state: Any, archive: zipfile.ZipFile) -> None:
    """Write the zip that torch.save writes: the pickle, the byte order, the storages, a version."""
    file = io.BytesIO()
    writer = _CheckpointWriter(file)
    writer.dump(state)
    archive.writestr("archive/data.pkl", file.getvalue())
    archive.writestr("archive/byteorder", "little")
    for number, array in enumerate(writer.storages):
        content = array.astype(_OF_DTYPE[array.dtype][0], copy=False).reshape(-1)
        with archive.open(f"archive/data/{number}", "w", force_zip64=True) as stream:
            stream.write(content.view(np.uint8).data)
    archive.writestr("archive/version", "3\n")


# ---------------------------------------------------------------------------------- the structure
# Scalars and lists represent themselves in the JSON; {"array": name}, {"tuple": [...]} and
# {"dict": [[key, value], ...]} represent what JSON lacks (it would turn all keys into strings).
def _encode(value: Any, place: str, arrays: dict[str, np.ndarray], depth: int = 0) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and (bits := int(value).bit_length()) > _BITS:
        raise ValueError(f"save: an int may have {_BITS} bits, got one of {bits}{_at(place)}")
    if depth >= _DEPTH and _is_branch(value):
        raise ValueError(
            f"save: the state contains itself, or is nested more than {_DEPTH} levels deep"
            f"{_at(place[:60])}"
        )
    if isinstance(value, (str, int, float)):
        return _builtin(value)
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        # zipfile truncates names at a NUL and rejects lone surrogates and very long names
        name = place.replace("\0", "~").encode(errors="replace").decode()[:9999] or "array"
        while name in arrays or name == "__metadata__":  # {"a/b": x, "a": {"b": y}}
            name += "~"
        arrays[name] = _storable(value, place)
        return {"array": name}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, _below(place, i), arrays, depth + 1) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise TypeError(f"save: keys must be str or int, got {key!r}{_at(place)}")
            if isinstance(key, int) and not _is_int64(int(key)):
                raise ValueError(f"save: a key must fit in 64 bits, got {key}{_at(place)}")
        named = [(_builtin(key), item) for key, item in value.items()]
        pairs = [[key, _encode(v, _below(place, key), arrays, depth + 1)] for key, v in named]
        return {"dict": pairs}
    state_dict = "; save its state_dict()" if hasattr(value, "state_dict") else ""
    raise TypeError(
        f"save: cannot store {type(value).__name__}{_at(place)}{state_dict}; expected Tensors, "
        "arrays, numbers, strings, None, and dicts, lists and tuples of them"
    )


def _builtin(value: Any) -> Any:
    """A string or number of a subclass (np.float64, an Enum) as one of Python's own."""
    if isinstance(value, str):
        return str.__str__(value)
    return int(value) if isinstance(value, int) else float(value)


def _below(place: str, key: str | int) -> str:
    return f"{place}/{key}" if place else str(key)


def _at(place: str) -> str:
    return f" at {place!r}" if place else ""


def _storable(value: Tensor | np.ndarray | np.generic, place: str) -> np.ndarray:
    try:
        return np.asarray(Tensor(value)._array, order="C")
    except TypeError as error:
        raise TypeError(f"save: cannot store the array{_at(place)}: {error}") from None


def _restored(
    text: bytes | str, arrays: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> Any:
    """The state described by the text of `structure.json`."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(
            f"{_STRUCTURE} is not version {_VERSION}, the one that this minigrad reads"
        )
    state = _decode(document.get("state"), arrays)
    if not isinstance(state, dict):
        return state
    metadata = document.get("metadata", {}) if metadata is None else metadata
    return StateDict(state, _checked_metadata(metadata, state))


def _decode(node: Any, arrays: Mapping[str, Any]) -> Any:
    match node:
        case list():
            return [_decode(item, arrays) for item in node]
        case {"array": str(name)} if name in arrays:
            return arrays[name]
        case {"tuple": list(items)}:
            return tuple(_decode(item, arrays) for item in items)
        case {"dict": list(pairs)}:
            return {_key(pair): _decode(pair[1], arrays) for pair in pairs}
        case dict():
            raise ValueError(f"{_STRUCTURE} refers to a missing entry: {node!s:.60}")
    return node


def _key(pair: Any) -> str | int:
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], (str, int)):
        return pair[0] if isinstance(pair[0], bool) else _checked_key(pair[0])
    raise ValueError(f"{_STRUCTURE} holds {pair!s:.60}, which is not a key with a value")


led(globals(), __all__)
