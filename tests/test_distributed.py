"""Data-parallel training on 2 and 4 ranks, each test a job of its own: `make test-mpi`."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py", reason="the extra mpi is not installed")
import minigrad as mg
from minigrad import distributed

HERE = Path(__file__).parent
BESIDE = Path(sys.executable).parent / "mpiexec"  # which the wheel of MPICH brings
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec here")


def job(
    ranks, *arguments, script=HERE / "mpi" / "ranks.py", succeeds=True, timeout=120, **variables
):
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "JOB": f"{os.getpid()}-{ranks}", **variables}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "MINIGRAD_NUM_THREADS": "1"}
    result = subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (result.returncode == 0) == succeeds, result.stdout + result.stderr
    return result.stdout, result.stderr


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "name", ["gradcheck", "gradients", "uses", "small", "conversions", "files"]
)
def test_on_several_ranks(name, ranks):
    job(ranks, name)


def test_the_loss_curve_does_not_depend_on_the_number_of_ranks():
    curves = [[float(line) for line in job(ranks, "curve")[0].split()] for ranks in (1, 2, 4)]
    assert len(curves[0]) == 12 and curves[0][-1] < curves[0][0]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5)


def test_different_nets_are_refused_on_every_rank():
    output, _ = job(4, "differ")
    for expected in (
        "rank 0 has weight (3, 2) float32, rank 1 has weight (4, 2) float32",
        "rank 0 has bias (3,) float32, rank 2 has bias (3,) float32 without requires_grad",
        "rank 0 has running_mean (2,) float32, rank 3 has bucket_bytes=8",
        "rank 0 has bucket_bytes=8, rank 1 has bucket_bytes=9",
    ):
        assert output.count(expected) == 4
    assert len(output.splitlines()) == 16


@pytest.mark.parametrize("ranks", [2, 4])
def test_tensors_of_other_shapes_or_dtypes_are_refused_on_every_rank(ranks):
    output, _ = job(ranks, "mismatch", timeout=30)
    last = ranks - 1
    assert output.splitlines() == [
        f"allreduce: the tensors differ: rank 0 has {ours}, rank {other} has {theirs}; give the "
        "same on every rank"
        for ours, other, theirs in (
            ("(2,) float32", 1, "(3,) float32"),
            ("(3, 2) float32", 1, "(2, 3) float32"),
            ("(30000,) float32", 1, "(20000,) float32"),
            ("(2,) float32", last, "(2,) float64"),
            ("(3,) float32", 1, "(1,) float32"),
            ("(2,) float64", 1, "(2,) int64"),
        )
    ]


def test_the_forward_after_a_backward_that_failed_is_refused():
    output, _ = job(2, "interrupted")
    said = "DataParallel: the last backward ended with an exception, so the ranks are out of step"
    assert [line.startswith(said) for line in output.splitlines()] == [True, True]


def test_a_file_that_cannot_be_written_is_an_error_on_every_rank():
    output, _ = job(3, "no_file")
    first, *others = output.splitlines()
    assert first.startswith("FileNotFoundError: ") and len(others) == 2
    for line in others:
        assert line.startswith("RuntimeError: save: rank 0 could not write '")
        assert line.endswith(first)


def test_an_exception_ends_the_job_and_names_the_rank():
    start = time.monotonic()
    _, errors = job(4, "raises", succeeds=False)
    assert "rank 1 of 4 failed" in errors and "ValueError: a bad batch" in errors
    assert time.monotonic() - start < 60


MOMENTS = ["at once", "between steps", "in backward", "in a loop of the others", "with a child"]
DEATHS = [("killed", moment) for moment in MOMENTS]
DEATHS += [(how, "between steps") for how in ("crashed", "left", "left with 0", "aborted")]


def processes_of(name):
    """The commands of the processes of a job that still run, by the variable JOB that they got."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"JOB={name}" in (process / "environ").read_text(errors="replace").split("\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def assert_ends(name, seconds=5):
    """All processes of a job end soon; those that have ended have no environment."""
    deadline = time.monotonic() + seconds
    while found := processes_of(name):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")
@pytest.mark.parametrize(("how", "moment"), DEATHS)
def test_a_rank_that_dies_is_named_and_ends_the_job(how, moment, tmp_path):
    start = time.monotonic()
    _, errors = job(4, "dies", how, moment, succeeds=False, JOB=tmp_path.name, TMPDIR=str(tmp_path))
    assert time.monotonic() - start < 15
    assert re.findall(r"minigrad: (.*) \(process \d+ on \S+\) died: (.*)", errors) == [
        ("rank 1 of 4", "it was killed, crashed or aborted")
    ]
    assert_ends(tmp_path.name)
    left = {"reported while a child lives"} if moment == "with a child" else set()
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("moment", ["at once", "between steps", "in backward"])
@pytest.mark.parametrize("code", [0, 3])
def test_a_rank_that_exits_while_others_wait_is_named_and_ends_the_job(
    code, moment, ranks, tmp_path
):
    start = time.monotonic()
    options = {"JOB": tmp_path.name, "TMPDIR": str(tmp_path), "succeeds": False, "timeout": 20}
    _, errors = job(ranks, "dies", f"exited with {code}", moment, **options)
    assert time.monotonic() - start < 15
    named = rf"minigrad: rank 1 of {ranks} \(process \d+ on \S+\) ended, by sys.exit or otherwise, "
    assert re.search(rf"^{named}while rank [023] waits for it in a collective op", errors, re.M)
    assert errors.count("minigrad:") == 1
    assert_ends(tmp_path.name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("code", [0, 3])
def test_ranks_may_exit_one_after_the_other(code, ranks):
    _, errors = job(ranks, "exits", str(code), succeeds=code == 0, timeout=20)
    assert "minigrad:" not in errors


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")
def test_nothing_is_left_after_a_job(tmp_path):
    options = {"JOB": tmp_path.name, "TMPDIR": str(tmp_path)}
    for name in ("small", "forks"):
        _, errors = job(2, name, **options)
        assert "minigrad:" not in errors
        assert_ends(tmp_path.name)
    _, errors = job(2, "raises", succeeds=False, **options)
    assert "rank 1 of 2 failed" in errors and "minigrad:" not in errors
    assert_ends(tmp_path.name)
    assert list(tmp_path.iterdir()) == []
    job(2, "leaves_a_process", **options)
    with pytest.raises(AssertionError, match=r"time\.sleep"):
        assert_ends(tmp_path.name, 1)


def test_a_file_of_former_watchers_does_not_silence_new_ones(tmp_path):
    """What the watchers of one job say, with ranks that hold their pipes."""
    file = tmp_path / "job"
    file.write_text("reported")
    command = [sys.executable, "-I", "-S", distributed.watcher.__file__]
    os.utime(file, (0, 0))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    watchers = [subprocess.Popen([*command, f"rank {k}", str(file)], **pipes) for k in range(3)]
    assert [each.stdout.read(1) for each in watchers] == [distributed.watcher.READY] * 3
    words = distributed.watcher.ENDED, b"", b""
    said = [each.communicate(word)[1] for each, word in zip(watchers, words, strict=True)]
    assert said == [b"", b"minigrad: rank 1 died: it was killed, crashed or aborted\n", b""]
    assert not file.exists()


def test_bad_input():
    with pytest.raises(TypeError, match="expected a Module, got int"):
        distributed.DataParallel(3)
    with pytest.raises(ValueError, match="rank 2 is out of range for 2 replicas"):
        distributed.DistributedSampler(range(3), num_replicas=2, rank=2)
    with pytest.raises(ValueError, match="num_replicas must be at least 1, got 0"):
        distributed.DistributedSampler(range(3), num_replicas=0)
    with pytest.raises(TypeError, match="cannot sum bools"):
        distributed.allreduce(mg.tensor([True]))
    with pytest.raises(ValueError, match="op must be 'sum' or 'mean'"):
        distributed.allreduce(1.0, "max")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_only_negative_zeros_are_no_gradient(dtype):
    for shape in ((), (1,), (5, 7), (0,), (0, 3)):
        nothing = np.full(shape, distributed.NOTHING, dtype)
        assert distributed._is_nothing(nothing) and distributed._is_nothing(nothing.T)
        for other in (0.0, 1e-45 if dtype == "float32" else 5e-324, -1.0, np.nan, np.inf):
            if nothing.size:
                given = nothing.copy()
                given.flat[-1] = other
                assert not distributed._is_nothing(given), other
        np.testing.assert_array_equal(np.signbit(nothing + np.zeros(shape, dtype)), False)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("length", [0, 1, 7, 8])
def test_samplers_share_out_every_sample(length, drop_last):
    parts = [
        list(distributed.DistributedSampler(range(length), 4, rank, drop_last=drop_last))
        for rank in range(4)
    ]
    assert len({len(part) for part in parts}) <= 1
    found = sorted(index for part in parts for index in part)
    assert set(found) <= set(range(length))
    assert drop_last or set(found) == set(range(length))
    assert not drop_last or len(found) == len(set(found)) == length // 4 * 4


def test_the_example_gives_the_same_losses_on_two_ranks(tmp_path):
    for module in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(module)
    outputs = []
    for ranks in (1, 2):
        path = tmp_path / f"net-{ranks}.npz"
        script = HERE.parent / "examples" / "train_parallel.py"
        outputs.append(job(ranks, "--epochs", "2", "--path", str(path), script=script)[0])
        assert sorted(mg.load(path))[0] == "0.weight"
    losses = [[float(word) for word in re.findall(r"loss (\S+)", text)] for text in outputs]
    assert len(losses[0]) == 2 and losses[0][1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert "2 ranks" in outputs[1] and outputs[1].count("test accuracy 0.9") == 1
