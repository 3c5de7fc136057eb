"""Run the parts of the torture run, two at a time, and write their figures into RELIABILITY.md.

    make torture                                 all of it, about half an hour on two cores
    make torture ARGS="--quick"                  a minute or two of each part; writes nothing
    make torture ARGS="--only programs leaks"    some parts; updates their figures

Each part runs in separate processes, so a crash is a failure like any other. A complete run writes
results.json here and the table of RELIABILITY.md, which is not edited by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from torture import Result, Share, report  # noqa: E402

# Each part: the number of processes, and the time limit of one. The longest come first.
PARTS: dict[str, tuple[int, int]] = {
    "sanitizers": (1, 3000),
    "parts": (1, 3000),
    "programs": (2, 3000),
    "allocations": (2, 1800),
    "ulps": (1, 1800),
    "files": (2, 1200),
    "leaks": (1, 1800),
    "interrupts": (1, 1200),
    "threads": (1, 1200),
    "seeds": (1, 1200),
}


def work(name: str, share: Share) -> None:
    """Run in the process of a part."""
    result = import_module(f"torture.{name}").torment(share)
    print(json.dumps({"result": asdict(result)}), flush=True)


def start(name: str, share: Share, told: Callable[..., None]) -> Result:
    """Run a share of a part in a process, and report the outcome whatever happens to it."""
    arguments = [
        f"--part={name}",
        f"--share={share.number}/{share.shares}",
        *["--quick"] * share.quick,
    ]
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(
        [sys.executable, str(HERE), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(PARTS[name][1], process.kill)
    timer.start()
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    result, last = None, ""
    for line in process.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # other printed output
        if "result" in message:
            result = Result(**message["result"])
        else:
            told(**message)
            last = f", after {message['done']} of {message['of']}"
    process.wait()
    timer.cancel()
    reader.join()
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    if result is None or process.returncode:
        result = result or Result(name)
        result.failures.append(
            f"the process ended with {process.returncode}{last}: {errors[0][-4000:]}"
        )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make torture", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a small sample of each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)
    options = parser.parse_args()
    number, shares = map(int, options.share.split("/"))
    if options.part:
        work(options.part, Share(options.quick, number, shares))
        return 0

    jobs: queue.Queue[tuple[str, Share]] = queue.Queue()
    for name in PARTS:
        if name in options.only:
            for i in range(PARTS[name][0]):
                jobs.put((name, Share(options.quick, i, PARTS[name][0])))
    found: dict[str, list[Result]] = {name: [] for name in options.only}
    begun: dict[str, float] = {}
    seconds: dict[str, float] = {}
    bars, lock = progress_bars(), threading.Lock()

    def worker() -> None:
        while True:
            try:
                name, share = jobs.get_nowait()
            except queue.Empty:
                return
            begun.setdefault(name, time.monotonic())
            result = start(name, share, partial(bars, name, share.number))
            with lock:
                found[name].append(result)
                if len(found[name]) == PARTS[name][0]:
                    seconds[name] = round(time.monotonic() - begun[name], 1)
                    both = sum(found[name][1:], start=found[name][0])
                    report.say(name, both, seconds[name])

    start_time = time.monotonic()
    workers = [threading.Thread(target=worker) for _ in range(2)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    results = {name: sum(shares[1:], start=shares[0]) for name, shares in found.items()}
    failures = sum(len(result.failures) for result in results.values())
    minutes = (time.monotonic() - start_time) / 60
    print(f"torture: {len(results)} parts, {failures} failures, {minutes:.1f} minutes")
    if not options.quick:
        about = {
            "commit": report.commit(),
            "date": date.today().isoformat(),
            "where": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}",
        }
        report.write({name: (result, seconds[name], about) for name, result in results.items()})
    return 1 if failures else 0


def progress_bars() -> Callable[..., None]:
    """A progress bar for each running process, if there is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda *arguments, **counts: None
    bars: dict[tuple[str, int], Any] = {}

    def update(name: str, share: int, done: int, of: int) -> None:
        if (name, share) not in bars:
            bars[name, share] = tqdm(total=of, desc=name, leave=False, disable=None, mininterval=1)
        bar = bars[name, share]
        bar.update(done - bar.n)
        if done == of:
            bar.close()

    return update


if __name__ == "__main__":
    sys.exit(main())
