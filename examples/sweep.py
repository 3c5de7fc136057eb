"""Search for good settings with many nets at a time, on this machine or on several.

The search is scikit-learn's GridSearchCV. How its fits are spread is joblib's business: over
processes of this machine (loky, the default), the workers of a Dask cluster, or a Ray cluster. The
line that fits is the same for all, and so is the result, bit for bit.

    python examples/sweep.py
    python examples/sweep.py --backend dask                           # a cluster on this machine
    python examples/sweep.py --backend dask --address tcp://host:8786 # yours
    python examples/sweep.py --backend ray --address auto

See docs/sweeps.md.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack, contextmanager

from lesson import OneLineParser, say_missing

try:
    from joblib import Parallel, cpu_count, delayed, parallel_config
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, train_test_split

    from minigrad.estimators import NetClassifier
except ImportError as error:
    say_missing(error)

GRID = {"hidden": [(32,), (64, 64)], "lr": [3e-4, 1e-3, 3e-3, 1e-2], "dropout": [0.0, 0.2]}


@contextmanager
def workers(backend: str, jobs: int, address: str | None):
    """In this context joblib's jobs run on the workers of a backend."""
    with ExitStack() as stack:
        if backend == "dask":
            from dask.distributed import Client, LocalCluster

            if address is None:  # processes of one thread: see docs/sweeps.md
                address = stack.enter_context(
                    LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
                )
            stack.enter_context(Client(address))
        elif backend == "ray":
            import ray
            from ray.util.joblib import register_ray

            register_ray()
            local = {} if address else {"num_cpus": jobs, "include_dashboard": False}
            ray.init(address, log_to_driver=False, **local)
            stack.callback(ray.shutdown)
        stack.enter_context(parallel_config(backend, n_jobs=jobs))
        yield


def worker(_: int) -> tuple[str, int, int]:
    """The machine and process that this runs in, and how many threads minigrad uses there."""
    import socket

    import minigrad as mg

    time.sleep(0.05)  # so that one worker does not take all
    return socket.gethostname(), os.getpid(), mg.get_num_threads()


def main(arguments: list[str] | None = None) -> GridSearchCV:
    parser = OneLineParser(
        prog="sweep.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=("loky", "dask", "ray"), default="loky")
    parser.add_argument("--address", help="of a Dask or Ray cluster that runs already")
    parser.add_argument("--jobs", type=int, default=cpu_count(), help="fits at a time")
    parser.add_argument("--fast", action="store_true", help="less work, for a quick look")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    if options.address and options.backend == "loky":
        parser.error("--address is of a cluster: --backend dask or ray")
    grid = {"lr": [1e-3, 1e-2]} if options.fast else GRID
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    net = NetClassifier(max_epochs=3 if options.fast else 30, random_state=0)

    try:
        with workers(options.backend, options.jobs, options.address):
            used = set(Parallel()(delayed(worker)(k) for k in range(8 * options.jobs)))
            start = time.perf_counter()
            search = GridSearchCV(net, grid, cv=3).fit(X, y)  # the same line for all
    except ImportError as error:
        say_missing(error)
    seconds = time.perf_counter() - start

    table = search.cv_results_
    print(f"{len(used)} workers:")
    for machine, process, threads in sorted(used):
        print(f"  process {process} on {machine}, minigrad threads: {threads}")
    for k in table["rank_test_score"].argsort():
        print(f"{table['mean_test_score'][k]:.4f}  {table['params'][k]}")
    fits = sum(table[f"split{k}_test_score"].size for k in range(3)) + 1
    print(f"{fits} fits in {seconds:.1f} s; on the test set {search.score(X_test, y_test):.4f}")
    return search


if __name__ == "__main__":
    main()
