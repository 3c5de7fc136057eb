"""Large loops on several threads: the same bits, whatever else is running, and after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import minigrad as mg
from minigrad._core.fast.loops import set_threads
from minigrad.threads import _quota, processors

RANDOM = np.random.default_rng(0)
SHAPE = (130, 129, 66)  # 1.1 million elements, no multiples of anything
X = RANDOM.standard_normal(SHAPE).astype(np.float32)
Y = RANDOM.standard_normal(SHAPE).astype(np.float32)
REDUCTIONS = ("sum", "prod", "mean", "var", "max", "min", "logsumexp")
AXES = (0, 1, 2, (0, 1), (0, 2), (1, 2))


def on_threads(count, function):
    before = set_threads(count)
    try:
        return function()
    finally:
        set_threads(before)


def assert_same_bits(function):
    alone = on_threads(1, function)
    for count in (2, 3, 64):
        np.testing.assert_array_equal(on_threads(count, function), alone)


def layouts(x):
    return {
        "contiguous": x,
        "transposed": x.transpose(2, 0, 1),
        "reversed": x[::-1, :, ::-1],
        "flat": x.reshape(-1)[: -x.shape[-1] + 1],
        "two rows": x.reshape(2, -1),
        "float64": x.astype(np.float64),
        "short rows": x.reshape(-1, 10),
        "short rows in float64": x.reshape(-1, 10).astype(np.float64),
        "columns apart": np.repeat(x.reshape(-1, 10), 2, 1)[:, ::2],
        "few rows": x.reshape(90, -1)[:, ::-1],
    }


@pytest.mark.parametrize("layout", layouts(X))
def test_elementwise_loops_give_the_same_bits(layout):
    x, y = (mg.asarray(layouts(a)[layout]) for a in (X, Y))
    row, column = y[:1], y[..., :1]
    with mg.no_grad():
        for function in (
            lambda: x + y,
            lambda: x * row,
            lambda: x - column,
            lambda: x / 3.0,
            lambda: x < y,
            lambda: mg.where(x < y, x, y),
            lambda: mg.clip(x, -0.5, 0.5),
            lambda: mg.exp(x),
            lambda: mg.gelu(x),
            lambda: mg.tanh(x),
            lambda: mg.log(mg.relu(x)),  # half of them zeros
            lambda: mg.log1p(x),
        ):
            assert_same_bits(lambda function=function: function().numpy())


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("layout", [name for name in layouts(X) if name != "flat"])
def test_reductions_give_the_same_bits(layout, name):
    x = mg.asarray(layouts(X)[layout])
    for axis in (*AXES[: 6 if x.ndim == 3 else 2], None):
        assert_same_bits(lambda axis=axis: getattr(mg, name)(x, axis=axis).numpy())


def test_a_variance_does_not_depend_on_its_neighbours():
    """If the first element of a column is far off, only that column takes a second pass."""
    x = RANDOM.standard_normal((500, 4000)).astype(np.float32) + 1
    for row, columns in ((0, slice(None, None, 700)), (0, 1999), (0, 2001)):
        x[row, columns] = 1e4
    for layout in (x, np.asfortranarray(x)):
        assert_same_bits(lambda layout=layout: mg.asarray(layout).var(0).numpy())
    alone = np.array(
        [mg.asarray(np.ascontiguousarray(x[:, [i]])).var(0).item() for i in range(4000)]
    )
    np.testing.assert_allclose(mg.asarray(x).var(0).numpy(), alone, 2e-7)


def test_few_results():
    for shape, axis in [
        ((2, 600_000), 1),
        ((600_000, 2), 0),
        ((3, 2, 200_000), (0, 2)),
        ((1, 1_100_000), 0),
    ]:
        x = mg.randn(*shape)
        exact = x.numpy().astype(np.float64).sum(axis)
        np.testing.assert_allclose(
            on_threads(2, lambda x=x, axis=axis: x.sum(axis).numpy()), exact, 1e-5
        )
        assert_same_bits(lambda x=x, axis=axis: x.var(axis).numpy())


def test_gradients_give_the_same_bits():
    for channels in (66, 10):
        assert_same_bits(lambda channels=channels: gradient_of_norms(channels))


@pytest.mark.parametrize("groups, size", [(1, 30), (2, 30), (1, 100)])
def test_convolutions_give_the_same_bits(groups, size):
    """(100: an image exceeds the second-level cache, so its product is divided as well.)"""
    x = mg.randn(3000 // size // 2, 8, size, size, requires_grad=True)
    layer = mg.nn.Conv2d(8, 16, 3, padding=1, groups=groups)
    back = mg.nn.ConvTranspose2d(16, 4, 3, stride=2, groups=groups)

    def run():
        y = layer(x)
        leaves = [x, *layer.parameters(), *back.parameters()]
        gradients = mg.autograd.grad(back(y).square().sum(), leaves)
        return np.concatenate([a.detach().numpy().ravel() for a in (y, *gradients)])

    assert_same_bits(run)
    exact = mg.nn.functional.conv2d(
        x.astype(mg.float64), *(p.astype(mg.float64) for p in layer.parameters()), 1, 1, 1, groups
    )
    np.testing.assert_allclose(layer(x).detach().numpy(), exact.detach().numpy(), 1e-4, 1e-5)


OPTIMIZERS = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Lion"]
OPTIMIZERS += ["ScheduleFreeSGD", "ScheduleFreeAdamW"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_give_the_same_bits(name):
    start, gradients = mg.randn(1_100_001), mg.randn(3, 1_100_001)

    def run():
        parameter = mg.nn.Parameter(start.clone())
        optimizer = getattr(mg.optim, name)([parameter], lr=0.01)
        for g in gradients:
            parameter.grad = g.clone()
            optimizer.step()
        return parameter.detach().numpy()

    assert_same_bits(run)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows, features", [(70, 30), (20, 30), (40, 1100)])
def test_recurrent_layers_give_the_same_bits(rows, features, dtype):
    """(1100: more than one chain of multiply-adds.)"""
    layer = mg.nn.LSTM(features, 64, dtype=dtype)
    x = mg.randn(9, rows, features, dtype=dtype, requires_grad=True)

    def run():
        y, state = layer(x)
        total = y.square().sum() + state[1].sum()
        gradients = mg.autograd.grad(total, [x, *layer.parameters()])
        return np.concatenate([a.detach().numpy().ravel() for a in (y, *gradients)])

    assert_same_bits(run)


RECURRENT = """
import minigrad as mg
mg.manual_seed(0)
layer, x = mg.nn.LSTM(128, 128), mg.randn(9, 64, 128)
for n in (1, 2, 4):
    mg.set_num_threads(n)
    y = layer(x)[0]
    print(*mg.autograd.grad(y.square().sum(), [*layer.parameters()])[0].flatten().tolist())
"""


def test_recurrent_layers_give_the_same_bits_where_blas_multiplies():
    """BLAS sums in another order for another number of rows."""
    result = run(RECURRENT, MINIGRAD_MATMUL="blas", OPENBLAS_NUM_THREADS="1")
    assert len(set(result.stdout.splitlines())) == 1, result.stderr


def gradient_of_norms(channels):
    weight, bias = mg.ones(channels), mg.zeros(channels)
    x = mg.tensor(X.reshape(-1, channels), requires_grad=True)
    y = mg.nn.functional.batch_norm(x, None, None, weight, bias, training=True)
    y = mg.nn.functional.layer_norm(y, (channels,), weight, bias)
    mg.tanh(y).square().sum().backward()
    return x.grad.numpy()


def test_loops_of_several_python_threads_at_once():
    x = mg.asarray(X)
    expected, wrong = on_threads(1, lambda: (mg.exp(x).numpy(), x.sum(0).numpy())), []

    def work():
        for _ in range(20):
            found = mg.exp(x).numpy(), x.sum(0).numpy()
            if not all(map(np.array_equal, found, expected)):
                wrong.append(found)

    def start():
        workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()

    on_threads(3, start)
    assert not wrong


def run(code, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


HELPERS = """
import os, threading, time, minigrad as mg
first = threading.Thread(target=int)            # with which the thread sanitizer starts its own
first.start()
first.join()
others = set(os.listdir("/proc/self/task"))
mg.set_num_threads(8)
x = mg.ones((3000, 1000))
def helpers_of_a_loop():
    "How many helpers woke for it: each is counted as it goes to sleep again."
    def naps():
        time.sleep(0.02)
        tasks = set(os.listdir("/proc/self/task")) - others
        states = [open(f"/proc/self/task/{task}/status") for task in tasks]
        return {task: next(line for line in state if line.startswith("voluntary"))
                for task, state in zip(tasks, states)}
    before = naps()
    x.exp()
    after = naps()
    return sum(before.get(task) != line for task, line in after.items())
helpers_of_a_loop()
many, end = 0, time.monotonic() + 60
while many < 2 and time.monotonic() < end:      # on a busy machine the pool steps back for a while
    many = max(many, *(helpers_of_a_loop() for _ in range(10)))
mg.set_num_threads(2)
few = max(helpers_of_a_loop() for _ in range(10))
print(many, few)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")
def test_fewer_threads_than_there_are_take_part():
    result = run(HELPERS, OPENBLAS_NUM_THREADS="1")
    many, few = map(int, result.stdout.split())
    assert 1 < many <= 7 and few <= 1, result.stderr


FORK = """
import os, minigrad as mg
from minigrad._core.fast.loops import set_threads
set_threads(2)
x = mg.ones((2000, 1000))
assert (x + x).sum(0).sum().item() == 4e6
child = os.fork()
assert (x + x).sum(0).sum().item() == 4e6
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_both_sides_of_a_fork_compute():
    result = run(FORK)
    assert result.returncode == 0, result.stderr


COUNT = """
import os, minigrad as mg
before = len(os.listdir("/proc/self/task"))
x = mg.ones((1000, 1000)) + 1
small = len(os.listdir("/proc/self/task"))
x = mg.ones((2000, 1000)) + 1
print(small - before, len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")
@pytest.mark.parametrize("asked", ["", "1", "2", "4"])
def test_the_environment_says_how_many_and_none_start_early(asked):
    result = run(COUNT, MINIGRAD_NUM_THREADS=asked)
    expected = int(asked) if asked else processors()
    assert result.stdout == f"0 {expected - 1}\n", result.stderr


@pytest.mark.parametrize("asked", ["0", "-1", "many", "65", "99999999999999"])
def test_a_number_that_is_none_is_refused(asked):
    result = run("import minigrad", MINIGRAD_NUM_THREADS=asked)
    assert f"MINIGRAD_NUM_THREADS is {asked!r}: expected a number of threads" in result.stderr


def test_the_number_of_threads_can_be_set():
    before = mg.get_num_threads()
    mg.set_num_threads(np.int64(3))
    assert mg.get_num_threads() == 3
    mg.set_num_threads(before)
    for wrong in (0, -1, 65, 10**30):
        with pytest.raises(ValueError, match=f"set_num_threads: expected 1.* to 64, got {wrong}"):
            mg.set_num_threads(wrong)
    for wrong in (1.0, "2", None):
        with pytest.raises(TypeError, match="the number of threads must be an int"):
            mg.set_num_threads(wrong)
    assert mg.get_num_threads() == before


@pytest.mark.parametrize(
    "groups, files, processors",
    [
        ("0::/\n", {"cpu.max": "max 100000"}, float("inf")),
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"cpu.max": "100000 100000", "a/b/cpu.max": "200000 100000"}, 1),
        (
            "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (
            "3:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            float("inf"),
        ),
        ("0::/\n", {"cpu.max": "nonsense"}, float("inf")),
        ("0::/gone\n", {}, float("inf")),
    ],
)
def test_the_quota_of_the_control_group_counts(tmp_path, groups, files, processors):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "groups").write_text(groups)
    assert _quota(str(tmp_path), str(tmp_path / "groups")) == processors
    assert _quota(str(tmp_path), str(tmp_path / "none")) == float("inf")


NUMBER = "import minigrad as mg; print(mg.get_num_threads())"


@pytest.mark.parametrize("asked, expected", [("1", 1), ("1,4", 1), ("999", None), ("x", None)])
def test_workers_of_other_libraries_say_how_many(asked, expected):
    """joblib, multiprocessing with threadpoolctl and batch systems set OMP_NUM_THREADS."""
    result = run(NUMBER, OMP_NUM_THREADS=asked, MINIGRAD_NUM_THREADS="")
    assert result.stdout == f"{expected or processors()}\n", result.stderr
    assert run(NUMBER, OMP_NUM_THREADS=asked, MINIGRAD_NUM_THREADS="3").stdout == "3\n"


def test_threadpoolctl_governs_the_threads():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = mg.get_num_threads()
    mg.set_num_threads(2)
    with threadpoolctl.threadpool_limits(1):
        assert mg.get_num_threads() == 1
    assert mg.get_num_threads() == 2
    with threadpoolctl.threadpool_limits(1, user_api="minigrad"):
        assert mg.get_num_threads() == 1
    mg.set_num_threads(before)


def test_a_long_backward_lets_other_threads_run():
    y = x = mg.tensor([1.0], requires_grad=True)
    for _ in range(500_000):
        y = y + 1.0
    turns, done = 0, False

    def count():
        nonlocal turns
        while not done:
            turns += 1
            time.sleep(0)  # give the GIL back at once

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    try:
        other = threading.Thread(target=count, daemon=True)
        other.start()
        before = turns
        y.backward()
        during = turns - before  # a turn or two may be from before and after
    finally:
        done = True
        sys.setswitchinterval(interval)
        other.join()
    assert during > 10
    assert x.grad.item() == 1.0


SPAWN = """
import multiprocessing, minigrad as mg
def total(n):
    return (mg.ones((n, 1000)) + 1).sum(0).sum().item()
if __name__ == "__main__":
    assert total(2000) == 4e6
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(total, [2000] * 4, chunksize=1) == [4e6] * 4
"""


def test_spawned_processes_compute(tmp_path):
    (tmp_path / "spawn.py").write_text(SPAWN)
    result = run(
        f"import runpy; runpy.run_path({str(tmp_path / 'spawn.py')!r}, run_name='__main__')"
    )
    assert result.returncode == 0, result.stderr


DEATH = """
import threading, minigrad as mg
mg.set_num_threads(2)
x = mg.ones((2000, 1000))
def work(n):
    for _ in range(n):
        assert (x + x).sum(0).sum().item() == 4e6
    if n == 5:
        raise SystemExit            # a thread of Python ends; the pool's helpers stay
first = threading.Thread(target=work, args=(5,))
first.start()
first.join()
work(5)
threading.Thread(target=work, args=(10**9,), daemon=True).start()
work(5)                             # and the process ends while a thread is in a loop
"""


def test_threads_that_end_and_exit_leave_nothing_hanging():
    result = run(DEATH)
    assert result.returncode == 0, result.stderr
