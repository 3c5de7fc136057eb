"""Hostile files: load mutants of .npz, .safetensors and .pt files.

A file is changed in its bytes (bits flipped, pieces cut, duplicated, moved, spliced in from another
file, numbers made huge) or, in a zip, inside an entry whose checksum is then corrected; others are
built from scratch, deeply nested or of random opcodes. For any file `load` must return tensors or
raise ValueError (ImportError for a missing package), within limits of time and memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import resource
import signal
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

import minigrad as mg
from torture import Result, Share

SECONDS, MEGABYTES = 5.0, 256
KINDS = ("npz", "safetensors", "pt")
NUMBERS = [
    0,
    1,
    127,
    255,
    2**15 - 1,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


# ------------------------------------------------------------------------------------ sound files
def saved(state: Any, name: str) -> bytes:
    file = io.BytesIO()
    file.name = name  # determines the format
    mg.save(state, file)
    return file.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class Rebuilt:
    """Pickles like a PyTorch tensor with storage `key`."""

    def __init__(self, key: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.key, self.shape, self.strides = key, shape, strides


class CheckpointPickler(pickle._Pickler):  # the pure Python one
    def save(self, obj: Any, *rest: Any) -> None:
        if not isinstance(obj, Rebuilt):
            super().save(obj, *rest)
            return
        self.write(b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n")
        for value in (obj.key, "cpu", 4):
            super().save(value)
        self.write(b"tQ")
        for value in (0, obj.shape, obj.strides, False):
            super().save(value)
        self.write(b"ccollections\nOrderedDict\n)RtR")


def checkpoint(state: Any) -> bytes:
    file = io.BytesIO()
    CheckpointPickler(file, 2).dump(state)
    floats = np.arange(4, dtype=np.float32).tobytes()
    return zipped(
        {"archive/data.pkl": file.getvalue(), "archive/data/0": floats, "archive/data/1": floats}
    )


def sound() -> dict[str, list[bytes]]:
    tensors = {
        "weight": mg.ones(3, 2),
        "bias": mg.zeros(2, dtype=mg.float64),
        "steps": mg.tensor([1, 2]),
    }
    nested = {
        "state": {0: {"step": 3, "exp_avg": mg.ones(2)}},
        "betas": (0.9, 0.999),
        "names": ["a", None, True],
    }
    files = {"npz": [saved(tensors, "x.npz"), saved(nested, "x.npz")]}
    square = Rebuilt("0", (2, 2), (2, 1))
    files["pt"] = [
        checkpoint({"weight": square, "bias": Rebuilt("1", (4,), (1,))}),
        checkpoint({"model": {"w": square}, "epoch": 3, "lr": [0.1, (1, "text")]}),
        saved(nested, "x.pt"),
    ]
    with contextlib.suppress(ImportError):
        files["safetensors"] = [saved(tensors, "x.safetensors"), saved(nested, "x.safetensors")]
    return files


# -------------------------------------------------------------------------------------- mutations
def mutated(r: random.Random, content: bytes, other: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(r.choice((1, 1, 1, 2, 4))):
        place, length = r.randrange(len(data) + 1), r.choice((1, 2, 4, 8, 30, 200))
        kind = r.randrange(9)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << r.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = r.randrange(256)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif kind == 5:
            start = r.randrange(len(other) + 1)
            data[place : place + r.choice((0, length))] = other[start : start + length]
        elif kind == 6:
            form = r.choice(("<H", "<I", "<Q", ">I"))
            number = struct.pack(form, r.choice(NUMBERS) & (256 ** struct.calcsize(form) - 1))
            data[place : place + len(number)] = number
        elif kind == 7:  # a number in the text
            digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
            if digits:
                i = r.choice(digits)
                data[i : i + 1] = str(r.choice(NUMBERS)).encode() * r.choice((1, 1, 5))
        else:
            data[place:place] = bytes([r.randrange(256)]) * length
    return bytes(data)


def inside(r: random.Random, content: bytes, other: bytes) -> bytes:
    """A zip with changed entries and matching checksums."""
    entries, strangers = unzipped(content), unzipped(other)
    names = list(entries)
    for _ in range(r.choice((1, 1, 2))):
        name = r.choice(names)
        kind = r.randrange(8)
        if kind < 5:
            entries[name] = mutated(r, entries.get(name, b""), r.choice(list(strangers.values())))
        elif kind == 5:
            entries.pop(name, None)
        elif kind == 6:
            entries[r.choice((name + "x", "structure.json", "a/data.pkl", "x.npy", "/"))] = (
                entries.get(name, b"")
            )
        else:
            entries[name] = b"\0" * r.choice((0, 10**4, 10**7))
    return zipped(entries, r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


OPCODES = [bytes([code]) for code in pickle.__dict__["_Unpickler"].dispatch]


def made(r: random.Random, kind: str) -> bytes:
    """A file that no library would write: deep, of random opcodes, with huge shapes."""
    depth = r.choice((2, 10, 60, 500, 5000, 50_000))
    open_, close = r.choice(
        (("[", "]"), ('{"tuple": [', "]}"), ('{"dict": [["k", ', "]]}"), ('{"x":', "}"))
    )
    text = open_ * depth + '{"array": "x"}' + close * r.choice((depth, depth // 2))
    if kind == "safetensors":
        shape = [r.choice(NUMBERS) for _ in range(r.choice((1, 2, 70)))]
        tensor = {
            "dtype": r.choice(("F32", "BF16", "I64", "U8")),
            "shape": shape,
            "data_offsets": [0, r.choice(NUMBERS)],
        }
        document = '{"version": 1, "state": ' + text + "}"
        headers = [
            json.dumps({"x": tensor, "__metadata__": {"structure.json": text}}),
            json.dumps({"__metadata__": {"structure.json": document}}),
            '{"x":' + text + "}",
            text,
        ]
        header = r.choice(headers).encode()
        return struct.pack("<Q", r.choice((len(header), *NUMBERS))) + header + b"\0" * 8
    if kind == "npz":
        array = io.BytesIO()
        shape_text = ", ".join(str(r.choice(NUMBERS)) for _ in range(r.choice((1, 2, 40))))
        descr = r.choice(
            ("<f4", ">f8", "<i8", "|O", "<U9999999", "|V99999999", "<f2", "[('a', '<f4')]")
        )
        order = r.choice((True, False, "x"))
        header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape_text},), }}"
        header = (
            header.replace("'[", "[").replace("]'", "]") + " " * r.choice((0, 10**4, 10**6)) + "\n"
        )
        array.write(
            b"\x93NUMPY"
            + bytes([r.choice((1, 2, 3, 9)), 0])
            + struct.pack("<H", len(header) % 65536)
        )
        array.write(header.encode() + b"\0" * r.choice((0, 8, 10**6)))
        structure = '{"version": 1, "state": ' + text + "}"
        return zipped(
            {"x.npy": array.getvalue(), "structure.json": structure.encode()}, zipfile.ZIP_DEFLATED
        )
    doubled = (
        b"K\1"
        + r.choice((b"\x86", b"K\2\x87", b"2\x86", b"2l", b"]2e", b"2a", b"q\0h\0h\0\x87")) * depth
    )
    nested = {
        0: b"\x80\2}" + doubled + b"K\1s.",  # the key of a dictionary
        1: b"\x80\2" + b"(" * depth + b"t" * depth + b".",
        2: b"\x80\2" + b"]q\0" + b"h\0a" * depth + b".",  # a list that contains itself
        3: b"\x80\4" + doubled + b"\x91.",
        4: b"\x80\4\x8f(" + doubled + b"\x90.",  # a member of a set
        5: b"\x80\2K\1" + b"2\x86" * min(depth, 300) + b".",
        6: b"".join(
            r.choice(OPCODES) + r.choice((b"", b"\1", b"\0\0\0\0", b"\xff" * 8))
            for _ in range(depth % 997)
        )
        + b".",
        7: b"\x80\2(" + b"}" * depth + b"l.",
    }
    return zipped({"a/data.pkl": nested[r.randrange(8)], "a/data/0": b"\0" * 16})


def mutant(number: int, files: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """A format and bytes, the same for a given number."""
    r = random.Random(number)
    kind = r.choice(list(files))
    content, other = r.choice(files[kind]), r.choice([b for kind in files for b in files[kind]])
    how = r.randrange(5)
    if how == 0:
        return kind, made(r, kind)
    if how < 3 and kind != "safetensors":
        return kind, inside(r, content, r.choice(files[r.choice(("npz", "pt"))]))
    return kind, mutated(r, content, other)


# ------------------------------------------------------------------------------------- the loading
class Hang(BaseException):
    """`load` took too long."""


def raise_hang(*ignored: Any) -> None:
    raise Hang


def leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, (dict, list, tuple)):
        for item in state.values() if isinstance(state, dict) else state:
            yield from leaves(item)
    else:
        yield state


def try_to_load(kind: str, content: bytes) -> tuple[str, str]:
    """The outcome ("loaded", "refused" or a fault), and details of a fault."""
    file = io.BytesIO(content)
    file.name = f"hostile.{kind}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        state = mg.load(file)
    except ValueError as error:
        good = str(error).startswith("load: ") and f"hostile.{kind}" in str(error)
        outcome = ("refused", "") if good else ("fault", f"the message is {error!s:.200}")
    except Hang:
        outcome = "fault", f"no result after {SECONDS} seconds"
    except BaseException as error:
        outcome = "fault", f"{type(error).__name__}: {error!s:.200}"
    else:
        outcome = "loaded", ""
        for x in leaves(state):
            if isinstance(x, mg.Tensor):
                x.astype(mg.float64).sum().item()  # touches all its memory
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    if grown > MEGABYTES and outcome[0] != "fault":
        outcome = "fault", f"it took {grown} MB"
    return outcome


def torment(share: Share) -> Result:
    """12,000 files."""
    import faulthandler

    signal.signal(signal.SIGALRM, raise_hang)
    files, result = sound(), Result("hostile files")
    for number in share.progress(share.of(12_000, 400)):
        faulthandler.dump_traceback_later(20, exit=True)  # a loop in C does not handle signals
        kind, content = mutant(number, files)
        outcome, details = try_to_load(kind, content)
        result.check(
            outcome != "fault", f"mutant {number}, a .{kind} of {len(content)} bytes: {details}"
        )
        result.note(outcome if outcome != "fault" else "at fault")
    faulthandler.cancel_dump_traceback_later()
    return result
