"""Sweeps through joblib's backends: the same results, and no more threads than processors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import snippets

import minigrad as mg

pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn is missing")
import joblib
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from minigrad.estimators import NetClassifier

HERE = Path(__file__).parent
ROOT = HERE.parent
GRID = {"lr": [0.001, 0.01], "n_members": [1, 2]}
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        filter(None, [str(ROOT), str(HERE), os.environ.get("PYTHONPATH")])  # for `worker` below
    ),
    "PYTHONIOENCODING": "utf-8",
}
CHOSEN = [name for name in ("OMP_NUM_THREADS", "MINIGRAD_NUM_THREADS") if name in os.environ]
own_choice = pytest.mark.skipif(bool(CHOSEN), reason=f"{CHOSEN} decide the number of threads")


def search(**options):
    net = NetClassifier(hidden=(8,), max_epochs=4, random_state=0)
    return GridSearchCV(net, GRID, cv=3, error_score="raise", **options).fit(
        *load_iris(return_X_y=True)
    )


@pytest.fixture(scope="module")
def expected():
    """The search in this process."""
    return search(n_jobs=1)


def assert_same(found, expected):
    X = load_iris().data
    name = "mean_test_score"
    np.testing.assert_array_equal(found.cv_results_[name], expected.cv_results_[name])
    assert found.best_params_ == expected.best_params_
    np.testing.assert_array_equal(found.predict_proba(X), expected.predict_proba(X))


def worker(_):
    """A process of joblib's: its number, and the threads that minigrad and others have there."""
    import threadpoolctl

    time.sleep(0.05)  # so that one worker does not take all
    pools = threadpoolctl.threadpool_info()
    return os.getpid(), mg.get_num_threads(), max(pool["num_threads"] for pool in pools)


def assert_few_threads(found, most):
    assert len({process for process, *_ in found}) == 2
    assert os.getpid() not in {process for process, *_ in found}
    for _, own, others in found:
        assert own <= most and others <= most


def parallel(count=16):
    return joblib.Parallel()(joblib.delayed(worker)(k) for k in range(count))


# ---------------------------------------------------------------------------------------- backends
@own_choice
@pytest.mark.parametrize("inner", [None, 1])
def test_processes(expected, inner):
    pytest.importorskip("threadpoolctl")
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=inner):
        assert_same(search(), expected)
        assert_few_threads(parallel(), inner or max(1, joblib.cpu_count() // 2))
    assert_same(search(n_jobs=2), expected)


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory):
    """The file with the address of a Dask scheduler that has two workers, three processes here."""
    pytest.importorskip("distributed", reason="Dask (dask[distributed]) is not installed")
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = ["scheduler", "--scheduler-file", str(file), "--port", "0", *here]
    one = ["worker", "--scheduler-file", str(file), "--nthreads", "1", *here]
    commands = [scheduler, *[[*one, "--local-directory", str(folder / k)] for k in "ab"]]
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.endswith("_NUM_THREADS")}
    with (folder / "log").open("w") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *command], env=environment, stdout=log, stderr=log
            )
            for command in commands
        ]
        try:
            yield file
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:  # a worker that was still starting
                    process.kill()
                    process.wait()


@pytest.mark.filterwarnings("ignore")
def test_dask(expected, dask_cluster):
    from dask.distributed import Client

    with Client(scheduler_file=str(dask_cluster), timeout=60, set_as_default=True) as client:
        client.wait_for_workers(2, 60)
        assert len(client.ncores()) == 2
        with joblib.parallel_config("dask"):
            assert_few_threads(parallel(), 1)
            assert_same(search(), expected)


@pytest.mark.filterwarnings("ignore")
def test_ray(expected, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.util.joblib import register_ray

    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with joblib.parallel_config("ray", n_jobs=2):
            assert_few_threads(parallel(), 1)
            assert_same(search(), expected)
    finally:
        ray.shutdown()


# ---------------------------------------------------------------------------------- the example
@own_choice
@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_the_example(backend, request):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    arguments = ["--fast", "--jobs", "2", "--backend", backend]
    if backend == "dask":
        cluster = request.getfixturevalue("dask_cluster")
        address = re.search(r'"address": "(\S+)"', _when_there(cluster))[1]
        arguments += ["--address", address]
    elif backend == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "sweep.py"), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=ENVIRONMENT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 workers:" in done.stdout, done.stdout
    most = max(1, joblib.cpu_count() // 2)
    threads = re.findall(r"minigrad threads: (\d+)", done.stdout)
    assert len(threads) == 2 and max(map(int, threads)) <= most
    assert "7 fits in" in done.stdout
    assert float(done.stdout.split()[-1]) > 0.8


@pytest.mark.filterwarnings("ignore")
def test_the_programs_of_the_page(dask_cluster):
    """Each way to run the search: on small data, few settings, and the cluster of these tests."""
    replaced = {
        "load_digits": "load_iris",
        "[1e-3, 3e-3, 1e-2]": "[1e-3]",
        "[0.0, 0.2]": "[0.2]",
        "NetClassifier(": "NetClassifier(max_epochs=1, ",
        "tcp://scheduler:8786": re.search(r'"address": "(\S+)"', _when_there(dask_cluster))[1],
    }
    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    for old, new in replaced.items():
        assert old in page
        page = page.replace(old, new)
    blocks = [code for language, code, _ in snippets.blocks(page) if language == "python"]
    make, here, dask, ray = blocks
    assert "import ray" in ray  # needs a cluster that is running; see test_ray
    for block in (here, dask):
        names = {}
        exec(make + block, names)
        assert names["search"].best_params_.keys() == {"hidden", "lr", "dropout"}
    names["client"].close()


def _when_there(file, seconds=60):
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} does not appear"
        time.sleep(0.1)
    return file.read_text()
