"""save and load: what goes in comes out, the file is whole or the old one, and bad files say so."""

from __future__ import annotations

import io
import json
import os
import zipfile

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


def round_trip(state):
    file = io.BytesIO()
    save(state, file)
    file.seek(0)
    return load(file)


@pytest.mark.parametrize(
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
    ],
)
def test_round_trip(state):
    same(state, round_trip(state))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (4, 5)])
def test_every_dtype_and_shape_survives(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    same({"flat": array}, round_trip({"flat": array}))
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
        (b"", "truncated or no .npz"),
        (b"hello, world\n" * 50, "truncated or no .npz"),
        (npy(np.ones(3)), "truncated or no .npz"),
        (zipped(**{"readme.txt": "hello"}), "holds 'readme.txt', which is no array"),
        (zipped(**{"a.npy": npy(np.ones(3)), "archive/data.pkl": b""}), "holds 'archive/data.pkl'"),
        (zipped(), "the archive is empty"),
        (zipped(**{"a.npy": b"not an array"}), "entry 'a.npy': "),
        (zipped(**{"a.npy": npy(np.ones(3))[:-1]}), "entry 'a.npy': "),
        (
            zipped(**{"a.npy": npy(np.ones(3)) + b"!"}),
            "entry 'a.npy': there are bytes behind the array",
        ),
        (zipped(**{"a.npy": HUGE}), "entry 'a.npy': "),
        (
            zipped(**{"a.npy": npy(np.zeros(3, np.uint8))}),
            "entry 'a.npy': dtype uint8 is not supported",
        ),
        (zipped(**{"a.npy": npy(np.array(["text"]))}), "entry 'a.npy': dtype <U4 is not supported"),
        (structure(), "not of version 1"),
        (structure(version=2, state=None), "not of version 1"),
        (structure(version=1, state={"array": "y"}), "refers to something that is not there"),
        (structure(version=1, state={"array": ["x"]}), "refers to something that is not there"),
        (structure(version=1, state={"set": []}), "refers to something that is not there"),
        (structure(version=1, state={"dict": [3]}), "no key with its value"),
        (structure(version=1, state={"dict": [[[], 3]]}), "no key with its value"),
        (zipped(**{"structure.json": "{"}), "cannot be loaded"),
        (zipped(**{"structure.json": b"\xff\xff\xff"}), "cannot be loaded"),
        (
            zipped(
                **{"structure.json": '{"version": 1, "state": ' + "[" * 10**5 + "]" * 10**5 + "}"}
            ),
            "cannot be loaded: ",
        ),
        (zipped(**{"structure.json": "[1]"}), "not of version 1"),
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
