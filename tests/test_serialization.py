"""save and load: round trips, atomic replacement of files, and errors for bad files."""

from __future__ import annotations

import contextlib
import enum
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import serialization
from minigrad.serialization import load, save

STATE = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "layer.bias": np.zeros(2)}


def same(given, loaded):
    """Equal in structure, types, dtypes, shapes and elements; arrays come back as Tensors."""
    if isinstance(given, (mg.Tensor, np.ndarray, np.generic)):
        given = np.asarray(given)
        assert isinstance(loaded, mg.Tensor)
        assert (loaded.dtype, loaded.shape) == (given.dtype, given.shape)
        np.testing.assert_array_equal(loaded.numpy(), given)
    elif isinstance(given, dict):
        assert [(type(k), k) for k in given] == [(type(k), k) for k in loaded]
        for key, value in given.items():
            same(value, loaded[key])
    elif isinstance(given, (list, tuple)):
        assert type(given) is type(loaded) and len(given) == len(loaded)
        for a, b in zip(given, loaded, strict=False):
            same(a, b)
    else:
        assert type(given) is type(loaded) and (
            given == loaded or (given != given and loaded != loaded)
        )


def file_named(name):
    file = io.BytesIO()
    file.name = name
    return file


def round_trip(state, name="state.npz"):
    file = file_named(name)
    save(state, file)
    file.seek(0)
    return load(file)


STATES = pytest.mark.parametrize(
    "state",
    [
        STATE,
        {},
        [],
        None,
        "text",
        1.5,
        mg.ones(2, 3),
        {"": mg.ones(1)},
        {"a\0b": mg.ones(1), "a\0c": mg.zeros(2), "a~b": mg.ones(3)},
        {"\ud800": mg.ones(1), "n" * 70000: mg.zeros(2), "n" * 70001: mg.ones(3)},
        {
            "file": mg.ones(1),
            "allow_pickle": mg.zeros(1),
            "structure.json": mg.ones(2),
            "a.npy": mg.ones(3),
        },
        {0: mg.ones(1), "0": mg.zeros(2), -5: None},
        {"a/b": mg.ones(1), "a": {"b": mg.zeros(2)}, "a/b~": np.ones(3)},
        {"": {"array": mg.ones(1)}, "array": mg.ones(2)},
        {
            "state": {0: {"step": 7, "exp_avg": np.ones((2, 2))}},
            "groups": [{"betas": (0.9, 0.999), "params": [0, 1]}],
        },
        {"numbers": [1, -1, 2**80, 0.1, 1e300, float("inf"), float("nan"), True, None, "ü"]},
        [(), ([],), {}, {"x": ()}, ((1,), [2])],
        {
            "noncontiguous": np.arange(12.0).reshape(3, 4).T[::-1],
            "fortran": np.asfortranarray(np.ones((2, 3))),
        },
        {
            "empty": np.zeros((0, 3)),
            "scalar": np.float32(2),
            "0-d": mg.tensor(3),
            "parameter": mg.ones(2).requires_grad_(),
        },
        {"__metadata__": mg.ones(2), "x": mg.zeros(1)},
    ],
)


@STATES
def test_round_trip(state):
    same(state, round_trip(state))


@STATES
def test_round_trip_in_safetensors(state):
    pytest.importorskip("safetensors")
    loaded = round_trip(state, "state.safetensors")
    if isinstance(state, dict) and set(loaded) == set(state):  # the library sorts its entries
        loaded = {key: loaded[key] for key in state}
    same(state, loaded)


@pytest.mark.parametrize("suffix", ["pt", "pth", "PT"])
@STATES
def test_round_trip_in_a_checkpoint_of_pytorch(state, suffix):
    same(state, round_trip(state, f"state.{suffix}"))


def test_a_checkpoint_of_pytorch_holds_nothing_but_plain_objects(tmp_path):
    class Kind(str, enum.Enum):
        COLOUR = "red"

    state = {Kind.COLOUR: [Kind.COLOUR, np.float64(0.5), enum.IntEnum("N", "one").one], "t": (1,)}
    save(state, tmp_path / "f.pt")
    assert repr(load(tmp_path / "f.pt")) == "{'red': ['red', 0.5, 1], 't': (1,)}"
    text = zipfile.ZipFile(tmp_path / "f.pt").read("archive/data.pkl")
    assert b"numpy" not in text and b"Kind" not in text


def test_a_checkpoint_of_pytorch_has_no_metadata(tmp_path):
    with pytest.raises(ValueError, match=r"save: a \.pt file has no metadata; save as \.npz"):
        save(STATE, tmp_path / "f.pt", metadata={"format": "pt"})
    assert not (tmp_path / "f.pt").exists()
    save(serialization.StateDict(STATE, {"format": "pt"}), tmp_path / "f.pt")
    assert load(tmp_path / "f.pt").metadata == {}


@pytest.mark.parametrize("suffix", ["npz", "pt"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (4, 5)])
def test_every_dtype_and_shape_survives(dtype, shape, suffix):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    same({"flat": array}, round_trip({"flat": array}, f"f.{suffix}"))
    same([{"nested": array}], round_trip([{"nested": array}]))


def test_bits_survive():
    array = np.array([0.1, -0.0, 5e-324, np.nan, np.inf, -np.inf])
    assert round_trip({"x": array})["x"].numpy().tobytes() == array.tobytes()


def test_loaded_tensors_are_writable_and_do_not_require_grad():
    loaded = round_trip({"x": mg.ones(2, requires_grad=True)})["x"]
    loaded[0] = 5.0
    assert loaded.tolist() == [5.0, 1.0] and not loaded.requires_grad


def test_numpy_reads_a_flat_dict(tmp_path):
    path = tmp_path / "model.npz"
    save({name: mg.tensor(array) for name, array in STATE.items()}, path)
    with np.load(path) as archive:
        assert archive.files == list(STATE)
        np.testing.assert_array_equal(archive["layer.weight"], STATE["layer.weight"])


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_loads_what_numpy_saved(tmp_path, savez):
    savez(tmp_path / "plain.npz", **STATE)
    same(STATE, load(tmp_path / "plain.npz"))


@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: path])
def test_path_kinds(tmp_path, kind):
    path = kind(tmp_path / "no_suffix_is_added")
    save(STATE, path)
    same(STATE, load(path))
    assert os.listdir(tmp_path) == ["no_suffix_is_added"]


def test_open_files(tmp_path):
    with open(tmp_path / "f", "wb") as file:
        save(STATE, file)
    with open(tmp_path / "f", "rb") as file:
        same(STATE, load(file))
    with pytest.raises(
        TypeError, match="save: expected a path or a file opened in binary mode, got StringIO"
    ):
        save(STATE, io.StringIO())
    with open(tmp_path / "f") as file, pytest.raises(TypeError, match=r"load: .* binary mode"):
        load(file)
    with pytest.raises(TypeError, match=r"load: expected a path .* got int"):
        load(3)


def deep(levels, kind):
    state = kind()
    for _ in range(levels - 1):
        state = {"a": state} if kind is dict else kind([state])
    return state


@pytest.mark.parametrize("name", ["f.npz", "f.pt"])
@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_200_levels_survive_and_more_are_refused(name, kind):
    same(deep(200, kind), round_trip(deep(200, kind), name))
    with pytest.raises(ValueError, match="nested more than 200 levels deep at '"):
        save(deep(201, kind), file_named(name))


@pytest.mark.parametrize("name", ["f.npz", "f.pt", "f.safetensors"])
def test_a_state_that_contains_itself_is_refused(name):
    state, below = {"x": mg.ones(1)}, []
    state["below"] = below
    below += [state, state]
    with pytest.raises(ValueError, match="save: the state contains itself, or is nested more than"):
        save(state, file_named(name))


@pytest.mark.parametrize("name", ["f.npz", "f.pt"])
def test_the_largest_ints_survive_and_larger_ones_are_refused(name):
    largest = 2**2039 - 1
    same({"n": [largest, -largest]}, round_trip({"n": [largest, -largest]}, name))
    with pytest.raises(ValueError, match="an int may have 2039 bits, got one of 2040 at 'n'"):
        save({"n": largest + 1}, file_named(name))


# --------------------------------------------------------------------------- nothing half-written
@pytest.mark.parametrize(
    "state, message",
    [
        ({"a": {"b": {1, 2}}}, "cannot store set at 'a/b'"),
        ({"a": [mg.ones(1), print]}, "cannot store builtin_function_or_method at 'a/1'"),
        ({1.5: mg.ones(1)}, "keys must be str or int, got 1.5"),
        ({"a": {True: 1}}, "keys must be str or int, got True at 'a'"),
        ({"a": np.array([print, None])}, "cannot store the array at 'a': dtype object"),
        ({"a": np.zeros(2, np.complex128)}, "cannot store the array at 'a': dtype complex128"),
        ({"a": np.zeros(2, np.uint8)}, "dtype uint8 is not supported; convert it"),
        (object(), "cannot store object; expected Tensors"),
    ],
)
def test_what_cannot_be_stored_leaves_the_old_file(tmp_path, state, message):
    save(STATE, tmp_path / "f.npz")
    with pytest.raises(TypeError, match=message):
        save(state, tmp_path / "f.npz")
    same(STATE, load(tmp_path / "f.npz"))
    assert os.listdir(tmp_path) == ["f.npz"]


@pytest.mark.parametrize("where", ["write_array", "fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, where):
    def crash(*arguments, **options):
        raise OSError("disk full")

    save(STATE, tmp_path / "f.npz")
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format if where == "write_array" else serialization.os, where, crash)
        with pytest.raises(OSError, match="disk full"):
            save({"x": mg.ones(2)}, tmp_path / "f.npz")
    same(STATE, load(tmp_path / "f.npz"))
    assert os.listdir(tmp_path) == ["f.npz"]


def test_replaces_an_old_file_and_follows_a_link(tmp_path):
    save(STATE, tmp_path / "f.npz")
    (tmp_path / "link").symlink_to("f.npz")
    save({"x": mg.ones(2)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    same({"x": np.ones(2, np.float32)}, load(tmp_path / "f.npz"))


def test_the_file_has_the_usual_permissions(tmp_path):
    save(STATE, tmp_path / "f.npz")
    (tmp_path / "usual").touch()
    assert (tmp_path / "f.npz").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "f.npz").chmod(0o600)
    save(STATE, tmp_path / "f.npz")
    assert (tmp_path / "f.npz").stat().st_mode & 0o777 == 0o600, "a secret file stays one"


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
def test_ctrl_c_while_writing_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    path = tmp_path / f"f.{suffix}"
    save(STATE, path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(serialization.os, "fsync", interrupt)
        save({"x": mg.ones(2)}, path)
    assert set(load(path)) == set(STATE)
    assert os.listdir(tmp_path) == [path.name]


def test_ctrl_c_as_an_entry_is_opened_stays_ctrl_c(tmp_path, monkeypatch):
    """zipfile would then raise ValueError as it is closed, "while there is an open handle"."""

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile, "_get_compressor", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save({"x": mg.ones(2)}, tmp_path / "f.npz")
    assert os.listdir(tmp_path) == []


# Saves, reports halfway, and waits there to be killed.
INTERRUPTED = """
import os, sys, time
import minigrad as mg
def wait(descriptor):
    print("writing", flush=True)
    time.sleep(60)
os.fsync = wait
mg.save({"x": mg.ones(3)}, sys.argv[1])
"""


@contextlib.contextmanager
def saving(path):
    """A process in the middle of saving to `path`."""
    environment = os.environ | {"PYTHONPATH": str(Path(mg.__file__).parents[1])}
    command = [sys.executable, "-c", INTERRUPTED, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"writing\n"
            yield child
        finally:
            child.kill()


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


@needs_locks
def test_the_next_save_removes_what_a_killed_one_left(tmp_path):
    save(STATE, tmp_path / "f.npz")
    for name in ("f.npz", "g.npz"):
        with saving(tmp_path / name):
            pass
    same(STATE, load(tmp_path / "f.npz"))
    leavings = set(os.listdir(tmp_path)) - {"f.npz"}
    assert leavings and all(name.startswith(".minigrad-") for name in leavings)
    save(STATE, tmp_path / "other.npz")
    assert sorted(os.listdir(tmp_path)) == ["f.npz", "other.npz"]


@needs_locks
def test_a_file_in_the_making_is_not_removed(tmp_path):
    foreign = [".minigrad-another.host-00000000.tmp", ".minigrad-notes.txt"]
    for name in foreign:
        (tmp_path / name).touch()
    with saving(tmp_path / "f.npz"), serialization.writing("save", tmp_path / "g") as file:
        before = set(os.listdir(tmp_path))  # two of them belong to us or our child
        save(STATE, tmp_path / "other.npz")
        assert set(os.listdir(tmp_path)) == before | {"other.npz"} and len(before) == 4
        file.write(b"text")
    assert (tmp_path / "g").read_bytes() == b"text"
    save(STATE, tmp_path / "other.npz")
    assert sorted(os.listdir(tmp_path)) == sorted([*foreign, "g", "other.npz"])


def test_many_save_into_one_folder(tmp_path):
    def save_often(number):
        for _ in range(20):
            save({"x": np.full(1000, number)}, tmp_path / "common.npz")
            save({"x": np.full(1000, number)}, tmp_path / f"{number}.npz")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save_often, range(4)))
    names = [f"{number}.npz" for number in range(4)]
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "common.npz"])
    for number, name in enumerate(names):
        assert load(tmp_path / name)["x"].tolist() == [number] * 1000
    assert len(set(load(tmp_path / "common.npz")["x"].tolist())) == 1


# ---------------------------------------------------------------------------------------- metadata
@pytest.mark.parametrize("name", ["f.npz", "f.safetensors"])
@pytest.mark.parametrize("state", [STATE, {"nested": {0: [mg.ones(2)]}}], ids=["flat", "nested"])
def test_metadata_is_kept(tmp_path, name, state):
    if name == "f.safetensors":
        pytest.importorskip("safetensors")
    save(state, tmp_path / name, metadata={"format": "pt", "ü": "\n"})
    loaded = load(tmp_path / name)
    assert loaded.metadata == {"format": "pt", "ü": "\n"}
    save(loaded, tmp_path / name)
    assert load(tmp_path / name).metadata == loaded.metadata
    save(loaded, tmp_path / name, metadata={})
    assert load(tmp_path / name).metadata == {}


@pytest.mark.parametrize(
    "state, metadata, kind, message",
    [
        ({}, {"epoch": 3}, TypeError, "metadata must be a dict of str to str, got {'epoch': 3}"),
        ({}, "text", TypeError, "metadata must be a dict of str to str, got 'text'"),
        ([], {"a": "b"}, TypeError, "metadata needs a dict as state, got a list"),
        ({}, {"structure.json": "b"}, ValueError, "metadata key 'structure.json' is reserved"),
    ],
)
def test_metadata_that_cannot_be_kept(tmp_path, state, metadata, kind, message):
    with pytest.raises(kind, match=message):
        save(state, tmp_path / "f.npz", metadata)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------- safetensors
def test_the_safetensors_library_reads_what_we_write_and_the_reverse(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    state = {
        "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "reversed": np.arange(5)[::-1],
        "0-d": np.array(3.0),
        "empty": np.zeros((0, 2), bool),
    }
    save({name: mg.asarray(array) for name, array in state.items()}, tmp_path / "f.safetensors")
    theirs = library.load_file(tmp_path / "f.safetensors")
    for name, array in state.items():
        assert theirs[name].dtype == array.dtype
        np.testing.assert_array_equal(theirs[name], array)
    library.save_file(theirs, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    loaded = load(tmp_path / "theirs.safetensors")
    same(state, {name: loaded[name] for name in state})
    assert loaded.metadata == {"format": "np"}
    loaded["0-d"].fill_(1.0)  # the memory is the tensor's own


def test_safetensors_in_other_names_and_files(tmp_path):
    pytest.importorskip("safetensors")
    save(STATE, tmp_path / "f.SAFETENSORS")
    content = (tmp_path / "f.SAFETENSORS").read_bytes()
    assert content[8:9] == b"{"
    (tmp_path / "renamed.bin").write_bytes(content)
    assert set(load(tmp_path / "renamed.bin")) == set(load(io.BytesIO(content))) == set(STATE)


@pytest.mark.parametrize("name", ["f.safetensors", "f.SafeTensors"])
def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"save: .* pip install minigrad-cython\[safetensors\]"):
        save(STATE, tmp_path / name)
    assert os.listdir(tmp_path) == []
    (tmp_path / name).write_bytes(safetensors({}))
    with pytest.raises(ImportError, match=r"load: .* pip install minigrad-cython\[safetensors\]"):
        load(tmp_path / name)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_half_precision_becomes_float32():
    pytest.importorskip("safetensors")
    half = np.array([1.0, -0.1, 65504.0, 6e-8, np.inf, np.nan], np.float16)
    brain = np.array([1.0, -3.140625, 3.3895314e38, 1e-40, np.inf, np.nan], np.float32)
    bits = (brain.view(np.uint32) >> 16).astype(np.uint16)
    header = {"h": entry("F16", (6,), (0, 12)), "b": entry("BF16", (6,), (12, 24))}
    loaded = load(io.BytesIO(safetensors(header, half.tobytes() + bits.tobytes())))
    same(half.astype(np.float32), loaded["h"])
    same((bits.astype(np.uint32) << 16).view(np.float32), loaded["b"])
    assert loaded["b"].tolist()[:3] == brain.tolist()[:3]
    loaded["h"][0] = 2.0
    file = io.BytesIO()
    np.savez(file, half=half)
    same(half.astype(np.float32), load(file)["half"])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "truncated or not a .safetensors"),
        (b"hello, world\n" * 50, "truncated or not a .safetensors"),
        (safetensors({}, length=2**63), "truncated or not a .safetensors"),
        (safetensors({}, length=99_999_999), "truncated or not a .safetensors"),
        (safetensors({"x": entry()}), "truncated or not a .safetensors"),
        (safetensors({"x": entry()}, b"1234567"), "truncated or not a .safetensors"),
        (safetensors({"x": entry()}, b"123456789"), "truncated or not a .safetensors"),
        (safetensors({"x": entry(offsets=(0, 2**60))}, b"12345678"), "truncated or no"),
        (safetensors({"x": entry(offsets=(8, 0))}, b"12345678"), "truncated or no"),
        (safetensors({"x": entry(offsets=(-8, 0))}, b"12345678"), "truncated or no"),
        (safetensors({"x": entry(), "y": entry()}, b"12345678"), "truncated or no"),
        (safetensors({"x": entry(), "y": entry(offsets=(4, 12))}, b"1" * 12), "truncated or no"),
        (safetensors({"x": entry(shape=(2**40, 2**40))}, b"12345678"), "truncated or no"),
        (safetensors({"x": entry(shape=(3,))}, b"12345678"), "truncated or no"),
        (safetensors({"x": entry("U8", (8,))}, b"12345678"), "'x': dtype U8 is not supported"),
        (safetensors({"x": entry("F8_E4M3", (8,))}, b"12345678"), "dtype F8_E4M3 is not supp"),
        (safetensors({"x": entry("OBJECT")}, b"12345678"), "truncated or no"),
        (safetensors(b"{" * 10_000), "truncated or no"),
        (safetensors(b"[1]"), "truncated or no"),
        (safetensors({"__metadata__": {"structure.json": "{"}}), "truncated or no"),
        (safetensors({"__metadata__": {"structure.json": "[" * 10**5}}), "truncated or no"),
        (
            safetensors({"__metadata__": {"structure.json": '{"version": 1, "state": {"a": 1}}'}}),
            "refers to a missing entry",
        ),
        (b"PK\3\4" + b"\0" * 40, "truncated or not an .npz"),
    ],
)
def test_bad_safetensors_name_the_file(tmp_path, content, message):
    pytest.importorskip("safetensors")
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert repr(str(path)) in str(caught.value) and "expected an .npz" in str(caught.value)


# --------------------------------------------------------------------------- PyTorch's checkpoints
def opcodes(value):
    """A pickle without its first and last opcode, to be embedded in another."""
    return pickle.dumps(value, 2)[2:-1]


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(kind="FloatStorage", key="0", count=4):
    rest = b"".join(map(opcodes, (key, "cpu", count)))
    return b"(" + opcodes("storage") + named("torch", kind) + rest + b"tQ"


def torch_tensor(*, offset=0, shape=(2, 2), strides=(2, 1), **of_storage):
    place = b"".join(map(opcodes, (offset, shape, strides, False)))
    hooks = named("collections", "OrderedDict") + b")R"
    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    return rebuild + b"(" + storage(**of_storage) + place + hooks + b"tR"


FOUR = np.arange(4, dtype=np.float32).tobytes()


def checkpoint(*values, data=FOUR, **entries):
    items = b"".join(opcodes(str(i)) + value for i, value in enumerate(values))
    return zipped(
        **{"archive/data.pkl": b"\x80\2}(" + items + b"u.", "archive/data/0": data, **entries}
    )


def test_a_checkpoint_is_read_without_torch():
    loaded = load(
        io.BytesIO(
            checkpoint(
                torch_tensor(),
                torch_tensor(shape=(2, 2), strides=(1, 2)),
                torch_tensor(offset=1, shape=(3,), strides=(1,)),
                torch_tensor(shape=(2, 3), strides=(1, 0)),
                torch_tensor(shape=(), strides=(), offset=3),
                torch_tensor(shape=(0, 7), strides=(7, 1)),
                named("collections", "OrderedDict") + b")R" + b"}" + opcodes("_metadata") + b"Nsb",
                opcodes([1, 2.5, "text", None, (True,)]),
                named("torch._utils", "_rebuild_parameter") + b"(" + torch_tensor() + b"\x88NtR",
                named("torch", "Size") + opcodes((3, 4)) + b"\x85R",
                **{"archive/byteorder": "little", "archive/version": "3"},
            )
        )
    )
    square = np.arange(4, dtype=np.float32).reshape(2, 2)
    expected = [square, square.T, [1, 2, 3], [[0, 0, 0], [1, 1, 1]], 3.0, np.zeros((0, 7))]
    for i, array in enumerate(expected):
        same(np.asarray(array, np.float32), loaded[str(i)])
    assert loaded["6"] == {} and loaded["7"] == [1, 2.5, "text", None, (True,)]
    same(square, loaded["8"])
    assert loaded["9"] == (3, 4)
    loaded["0"][0, 0] = 9.0
    assert loaded["1"][0, 0] == 0.0, "no two tensors share memory"


@pytest.mark.parametrize(
    "kind, stored, expected",
    [
        ("DoubleStorage", np.array([0.1]), np.float64(0.1)),
        ("HalfStorage", np.array([0.1], np.float16), np.float32(np.float16(0.1))),
        ("BFloat16Storage", np.array([0x3FC0], np.uint16), np.float32(1.5)),
        ("LongStorage", np.array([-7]), np.int64(-7)),
        ("IntStorage", np.array([-7], np.int32), np.int32(-7)),
        ("BoolStorage", np.array([3], np.uint8), np.bool_(True)),
    ],
)
def test_storages_of_a_checkpoint(kind, stored, expected):
    tensor = torch_tensor(shape=(), strides=(), kind=kind, count=1)
    same(expected, load(io.BytesIO(checkpoint(tensor, data=stored.tobytes())))["0"])


@pytest.mark.parametrize(
    "value, message",
    [
        (named("os", "system") + opcodes("touch ran") + b"\x85R", "refers to os.system, which is"),
        (named("__main__", "Net") + b")\x81", "refers to __main__.Net, which is refused"),
        (named("builtins", "eval") + opcodes("1") + b"\x85R", "refers to builtins.eval"),
        (named("torch", "ByteStorage"), "refers to torch.ByteStorage"),
        (named("collections", "OrderedDict.fromkeys"), "refers to collections.OrderedDict.from"),
        (b"(" + opcodes("touch ran") + b"ios\nsystem\n", "opcode that torch.save does not write"),
        (opcodes("os") + opcodes("system") + b"\x93", "refers to os.system"),
        (b"\x82\x01", "opcode that torch.save does not write"),
        (torch_tensor() + b"}" + opcodes("grad") + b"Nsb", "sets attributes of Tensor"),
        (storage() + b")b", "sets attributes of ndarray"),
        (named("torch._utils", "_rebuild_tensor_v2") + b")b", "sets attributes of method"),
        (torch_tensor(shape=(5,), strides=(1,)), r"shape \(5,\) exceeds its storage of 4"),
        (torch_tensor(offset=1), "exceeds its storage"),
        (torch_tensor(offset=-1), "has strides"),
        (torch_tensor(shape=(2, 2), strides=(-1, 1)), "has strides"),
        (torch_tensor(shape=(-2, 2)), "has strides"),
        (torch_tensor(shape=(2,)), "has strides"),
        (torch_tensor(shape=(2**60,), strides=(0,)), "that is an attack"),
        (torch_tensor(shape=(2**20, 2**20), strides=(0, 0)), "that is an attack"),
        (torch_tensor(shape=(0, 2**70)), "cannot be loaded: "),
        (torch_tensor(shape=(2.0, 2)), "cannot be loaded: "),
        (torch_tensor(shape="ab"), "cannot be loaded: "),
        (torch_tensor(count=5), "storage 0 has 4 elements instead of 5"),
        (torch_tensor(key="1"), "no item named 'archive/data/1'"),
        (torch_tensor(key="../data.pkl"), "cannot be loaded: "),
        (torch_tensor(shape=(2**70,), strides=(0,)), "a shape must be a tuple of at most 64 ints"),
        (opcodes("x") + b"Q", "refers to a storage by something other"),
        (b"h\x99", "cannot be loaded: "),
        (b"X\xff\xff\xff\x7f", "cannot be loaded: "),
        (b"r\xff\xff\xff\xff", "cannot be loaded: "),
        (b"", "cannot be loaded: "),
    ],
)
def test_hostile_checkpoints_are_refused(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pt").write_bytes(checkpoint(value))
    with pytest.raises(ValueError, match=message) as caught:
        load("bad.pt")
    assert "load: 'bad.pt' " in str(caught.value)
    assert os.listdir(tmp_path) == ["bad.pt"]


def nested(open_, join, depth=60):
    """An object that holds the one below it twice, and so on: 2^depth in total."""
    return open_ + b"".join(b"q\x01" + join for _ in range(depth))


TUPLES = nested(b")", b"h\x01\x86")
LISTS = b"(" + nested(b"]", b"](h\x01h\x01e") + b"t"
TUPLE_KEY = "a key of a dict must be a str or a 64-bit int, got a tuple"
LONG_KEYS = b"".join(
    b"\x8a\x20" + ((2**61 - 1) * i).to_bytes(32, "little") + b"N" for i in range(1, 30_000)
)  # all with the same hash
REBUILD, SIZE = named("torch._utils", "_rebuild_tensor_v2"), named("torch", "Size")
THOUSANDS = b"](" + b"N" * 100_000 + b"e"


@pytest.mark.parametrize(
    "value, message",
    [
        (b"}" + TUPLES + b"Ns", TUPLE_KEY),
        (b"}(" + TUPLES + b"Nu", TUPLE_KEY),
        (named("collections", "OrderedDict") + b")R" + TUPLES + b"Ns", TUPLE_KEY),
        (b"(" + TUPLES + b"Nd", "opcode that torch.save does not write"),  # a dict
        (b"\x8f(" + TUPLES + b"\x90", "opcode that torch.save does not write"),  # a set
        (b"(" + TUPLES + b"\x91", "opcode that torch.save does not write"),  # a frozenset
        (b"}(" + LONG_KEYS + b"u", "must be a str or a 64-bit int, got a int"),
        (
            named("collections", "OrderedDict") + b"]]" + TUPLES + b"aNaa\x85R",
            "takes 0 positional arguments but 1 was given",
        ),
        (TUPLES, "contain each other many times, or too deep"),
        (LISTS, "contain each other many times, or too deep"),
        (b"]q\x01h\x01a", "contain each other many times, or too deep"),
        (b")" + b"\x85" * 100_000, "contain each other many times, or too deep"),
        (
            b"("
            + opcodes("storage")
            + named("torch", "FloatStorage")
            + TUPLES
            + opcodes("cpu")
            + opcodes(4)
            + b"tQ",
            "refers to a storage by something other",
        ),
        (
            REBUILD + b"(" + storage() + opcodes(0) + TUPLES * 2 + b"\x89NtR",
            "a shape must be a tuple",
        ),
        (REBUILD + b"(" + storage() + TUPLES * 3 + b"\x89NtR", "a shape must be a tuple"),
        (REBUILD + b"(" + TUPLES * 4 + b"\x89NtR", "a shape must be a tuple"),
        (SIZE + TUPLES + b"\x85R", "a shape must be a tuple"),
        (THOUSANDS + b"q\5](" + (SIZE + b"h\5\x85R") * 20_000 + b"e", "a shape must be a tuple"),
        (b"\x96" + struct.pack("<Q", 2**40), "opcode that torch.save does not write"),
        (b"\x8b" + struct.pack("<i", 10**6) + b"\xff" * 10**6, "opcode that torch.save does not"),
        (b"I" + b"9" * 10**6 + b"\n", "opcode that torch.save does not write"),
        (torch_tensor() + b"K\0K\1s", "sets items of Tensor"),
        (torch_tensor() + b"Na", "appends to Tensor"),
        (named("a\nb" * 1000, "c" * 1000).replace(b"a\nb", b"ab"), "refers to ab"),
    ],
)
def test_a_small_checkpoint_takes_neither_time_nor_memory(tmp_path, value, message):
    (tmp_path / "bad.pt").write_bytes(checkpoint(value))
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "bad.pt")
    assert time.perf_counter() - started < 10
    assert len(str(caught.value)) < 800 and "\n" not in str(caught.value)


def test_what_is_shared_in_a_checkpoint_a_few_times_is_read():
    betas = b"(" + opcodes(0.9) + opcodes(0.999) + b"tq\7"
    assert load(io.BytesIO(checkpoint(betas, b"h\7", b"h\7"))) == {
        name: (0.9, 0.999) for name in "012"
    }


def test_a_checkpoint_names_its_byte_order(tmp_path):
    """Without the entry PyTorch assumes that of the machine that reads."""
    values = {"a": np.array([1.0, -2.5]), "b": np.array([1, 2**40]), "c": np.array([True])}
    save(values, tmp_path / "f.pt")
    with zipfile.ZipFile(tmp_path / "f.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert entries.pop("archive/byteorder") == b"little" and entries.pop("archive/version")
    assert set(entries) == {"archive/data.pkl", *(f"archive/data/{i}" for i in range(3))}
    for number, value in enumerate(values.values()):
        stored = entries[f"archive/data/{number}"]
        assert stored == value.astype(value.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("order", [None, "little"])
def test_the_byte_order_of_a_checkpoint_is_little(order):
    entries = {} if order is None else {"archive/byteorder": order}  # None: before PyTorch 2.1
    loaded = load(io.BytesIO(checkpoint(torch_tensor(), **entries)))
    assert loaded["0"].tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize("order", ["big", "", "little ", "Little", "native"])
def test_another_byte_order_is_refused(order):
    with pytest.raises(ValueError, match=f"the byte order is b'{order}'; only little-endian"):
        load(io.BytesIO(checkpoint(torch_tensor(), **{"archive/byteorder": order})))


def test_checkpoints_of_other_kinds():
    with pytest.raises(ValueError, match=r"bare pickle, as torch\.save wrote before version 1\.6"):
        load(io.BytesIO(pickle.dumps({"weight": 1.0})))


def test_a_truncated_checkpoint(tmp_path):
    whole = checkpoint(torch_tensor())
    for length in range(len(whole)):
        (tmp_path / "short.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"short\.pt"):
            load(tmp_path / "short.pt")


# ------------------------------------------------------------------------------------------- bombs
def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(1000)))
    content = path.read_bytes()
    directory = content.rindex(b"PK\1\2")
    claimed = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content[: directory + 24] + claimed + content[directory + 28 :])
    message = rf"its {len(content)} bytes would unpack to {2**32 - 2}; that is an attack"
    with pytest.raises(ValueError, match=message):
        load(path)


def test_an_entry_that_claims_to_be_small_is_not_unpacked(tmp_path):
    """zipfile would unpack it, up to 2 GiB, and then cut it off."""
    path, size = tmp_path / "bomb.npz", 2**26
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(size))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 200)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"entry 'a\.npy'"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_without_a_bound_are_refused(tmp_path, method):
    """zipfile unpacks all of their next block; nobody saves arrays with them."""
    with zipfile.ZipFile(tmp_path / "f.npz", "w", method) as archive:
        archive.writestr("a.npy", npy(np.zeros(10)))
    with pytest.raises(ValueError, match=r"'a\.npy' is neither stored nor deflated"):
        load(tmp_path / "f.npz")


@pytest.mark.parametrize(
    "name, text",
    [("structure.json", b"[" + b"[]," * 10**6 + b"[]]"), ("a/data.pkl", b"](" + b"]" * 10**6)],
)
def test_a_small_text_is_no_long_one(tmp_path, name, text):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    with pytest.raises(ValueError, match=f"its {path.stat().st_size} bytes hold a larger '{name}'"):
        load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_is_read_once(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for content in [b""] * 20 + [npy(np.zeros(10**6))]:
            archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match="two entries with the same name"):
        load(path)


@pytest.mark.parametrize("shape", [(2**33,), (2**31, 2**31), (2**62, 2**62), (3,), (1, 0)])
def test_an_array_that_claims_another_size(tmp_path, shape):
    header = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    (tmp_path / "bomb.npz").write_bytes(zipped(**{"a.npy": header.getvalue() + bytes(16)}))
    with pytest.raises(
        ValueError, match=r"entry 'a\.npy': an array of shape .* has 16 bytes, not "
    ):
        load(tmp_path / "bomb.npz")


def test_long_integer_keys_are_refused():
    with pytest.raises(
        ValueError, match="a key must fit in 64 bits, got 9223372036854775808 at 'a'"
    ):
        save({"a": {2**63: 1}}, io.BytesIO())
    document = {"version": 1, "state": {"dict": [[2**63, 1]]}}
    with pytest.raises(ValueError, match="a str or a 64-bit int, got a int"):
        load(io.BytesIO(zipped(**{"structure.json": json.dumps(document)})))
    same({2**63 - 1: 1, -(2**63): 2}, round_trip({2**63 - 1: 1, -(2**63): 2}))


def test_what_compresses_well_is_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", zeros=np.zeros(10**6))
    assert load(tmp_path / "zeros.npz")["zeros"].shape == (10**6,)


def test_state_dict_is_a_dict():
    loaded = round_trip({"x": mg.ones(2)})
    assert isinstance(loaded, serialization.StateDict) and repr(loaded) == "{'x': tensor([1., 1.])}"
    assert loaded.metadata == {}


# -------------------------------------------------------------------------------------- bad files
def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"save: the folder .*nowhere' does not exist"):
        save(STATE, tmp_path / "nowhere" / "f.npz")
    with pytest.raises(FileNotFoundError, match="absent"):
        load(tmp_path / "absent.npz")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save(STATE, tmp_path)
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


def zipped(**entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def structure(**document):
    return zipped(**{"x.npy": npy(np.ones(2)), "structure.json": json.dumps(document)})


HUGE = npy(np.ones(2)).replace(b"(2,), }" + b" " * 12, b"(2222222222222,), }", 1)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "truncated or not an .npz"),
        (b"hello, world\n" * 50, "truncated or not an .npz"),
        (npy(np.ones(3)), "truncated or not an .npz"),
        (zipped(**{"readme.txt": "hello"}), "holds 'readme.txt', which is not an array"),
        (zipped(**{"a.npy": npy(np.ones(3)), "archive/data.pkl": b""}), "holds 'archive/data.pkl'"),
        (zipped(), "the archive is empty"),
        (zipped(**{"a.npy": b"not an array"}), "entry 'a.npy': "),
        (zipped(**{"a.npy": npy(np.ones(3))[:-1]}), "entry 'a.npy': "),
        (
            zipped(**{"a.npy": npy(np.ones(3)) + b"!"}),
            "entry 'a.npy': an array of shape .* has 25 bytes, not 24",
        ),
        (zipped(**{"a.npy": HUGE}), "entry 'a.npy': "),
        (
            zipped(**{"a.npy": npy(np.zeros(3, np.uint8))}),
            "entry 'a.npy': dtype uint8 is not supported",
        ),
        (zipped(**{"a.npy": npy(np.array(["text"]))}), "entry 'a.npy': dtype <U4 is not supported"),
        (structure(), "not version 1"),
        (structure(version=2, state=None), "not version 1"),
        (structure(version=1, state={"array": "y"}), "refers to a missing entry"),
        (structure(version=1, state={"array": ["x"]}), "refers to a missing entry"),
        (structure(version=1, state={"set": []}), "refers to a missing entry"),
        (structure(version=1, state={"dict": [3]}), "not a key with a value"),
        (structure(version=1, state={"dict": [[[], 3]]}), "not a key with a value"),
        (zipped(**{"structure.json": "{"}), "cannot be loaded"),
        (zipped(**{"structure.json": b"\xff\xff\xff"}), "cannot be loaded"),
        (
            zipped(
                **{"structure.json": '{"version": 1, "state": ' + "[" * 10**5 + "]" * 10**5 + "}"}
            ),
            "cannot be loaded: ",
        ),
        (zipped(**{"structure.json": "[1]"}), "not version 1"),
    ],
)
def test_bad_content_names_the_file_and_what_was_expected(tmp_path, content, message):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert repr(str(path)) in str(caught.value)
    assert "expected an .npz written by mg.save or np.savez" in str(caught.value)


def test_a_pickle_is_never_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(tmp_path / "hostile.npz", good=np.ones(2), bad=np.array([Hostile()], dtype=object))
    with pytest.raises(ValueError, match=r"entry 'bad\.npy': Object arrays cannot be loaded"):
        load(tmp_path / "hostile.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("state", [{"x": np.ones(2)}, {0: [np.ones(2), "text"]}])
def test_truncated_anywhere(tmp_path, state):
    path = tmp_path / "short.npz"
    save(state, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"short\.npz"):
            load(path)


def test_a_wrong_byte_never_gives_wrong_elements(tmp_path):
    path = tmp_path / "flipped.npz"
    save({"x": np.ones(2), "y": np.ones(3)}, path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            loaded = load(path)
        except ValueError as error:
            assert "flipped.npz" in str(error)
        else:  # the checksums do not cover names and sizes in the directory
            assert all((tensor == 1.0).all() for tensor in loaded.values())
