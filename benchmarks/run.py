"""Time minigrad and its peers: `python benchmarks/run.py [group ...]`; `make bench` runs them all.

Every row is timed in one process, pinned to one processor, with one thread each and the contenders
in turn (A B C A B C ...), after a warm-up. The table gives the median of the rounds, the quartiles,
and the ratio of minigrad's median to each peer's with its target. Ratios, not seconds, carry over
to another machine. The exit status is 0 even if a row is slow. The group `functions`, every
function against NumPy's, takes a minute: it is measured only if named.

The groups `default` and `busy` are measured differently, see defaults.py: each contender in a
separate process with its default threads, on an idle machine and next to spinning processes. The
group `estimators` consists of whole fits, one per seed, see estimators.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path

import machine

HERE = Path(__file__).parent
UNPINNED = ("default", "busy")
FITS = "estimators"
ALONE = "estimators"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "groups",
        nargs="*",
        help="steps, ensembles, recurrent, batchnorm, kernels, products, linalg, process; all by "
        "default; "
        "or functions, which takes a minute: every function that NumPy also has; or default "
        "and busy: what users get, with each library's default threads; or estimators: whole fits "
        "against scikit-learn and skorch",
    )
    parser.add_argument("--match", default="", help="only rows whose name contains this text")
    parser.add_argument("--rounds", type=int, default=15, help="rounds per row (default 15)")
    parser.add_argument(
        "--seconds", type=float, default=0.05, help="time of one measurement (default 0.05)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="where to write the figures, with the picture next to them (default: latest.json in "
        "benchmarks/results/, or default.json, or estimators.json)",
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="no measurement: write the table of the JSON file into benchmarks/README.md, and draw "
        "its picture again",
    )
    options = parser.parse_args(argv)
    options.unpinned = bool(set(options.groups) & set(UNPINNED))
    if set(options.groups) - set(UNPINNED) and options.unpinned:
        parser.error("default and busy are not pinned, and cannot be measured with other groups")
    if FITS in options.groups and options.groups != [FITS]:
        parser.error(f"{FITS} cannot be measured with other groups")
    options.file = "default" if options.unpinned else FITS if FITS in options.groups else "latest"
    options.json = options.json or HERE / "results" / f"{options.file}.json"
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


# ---------------------------------------------------------------------------------------- measuring
def calls_in(function, seconds: float) -> int:
    """The number of calls that take about this long, without the first ones, which may compile."""
    start = time.perf_counter()
    for _ in range(3):
        function()
        if time.perf_counter() - start > 20 * seconds:  # warm by now, or too slow to continue
            break
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            function()
        elapsed = time.perf_counter() - start
        if elapsed > seconds / 2:
            return max(1, round(count * seconds / elapsed))
        count *= 2


def measure(functions: dict, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds per call: a list of `rounds` for each contender, measured in turn.

    Garbage collection stays on, but skips the objects of the libraries: a program that uses one of
    them would not hold the objects of the others.
    """
    counts = {name: calls_in(function, seconds) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                function()
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    gc.unfreeze()
    return times


def ask(functions: dict, rounds: int) -> dict[str, list[float]]:
    """Call the functions in turn; the first round, which may write .pyc files, is dropped."""
    answers = [{name: call() for name, call in functions.items()} for _ in range(rounds + 1)]
    return {name: [answer[name] for answer in answers[1:]] for name in functions}


# ---------------------------------------------------------------------------------------- reporting
def make_row(group: str, work, samples: dict[str, list[float]]) -> dict:
    """One row of the JSON file: the figures of each contender, and the verdicts."""
    import numpy as np

    contenders = {}
    for name, values in samples.items():
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        contenders[name] = {"median": median, "quartiles": [low, high], "samples": values}
    ours = contenders["minigrad"]["median"]
    goals = [
        (peer, ours / contenders[peer]["median"], at_most)
        for peer, at_most in work.targets.items()
        if peer in contenders
    ]
    if work.at_most is not None:
        goals.append((work.unit, ours, work.at_most))
    targets = [
        {"against": against, "value": value, "at_most": at_most, "reached": value <= at_most}
        for against, value, at_most in goals
    ]
    return {
        "group": group,
        "name": work.name,
        "unit": work.unit,
        "contenders": contenders,
        "targets": targets,
    }


def number(value: float) -> str:
    """A figure with a readable number of decimals."""
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def show(row: dict) -> str:
    """Format the row for the terminal."""
    lines, targets = [row["name"]], {target["against"]: target for target in row["targets"]}
    ours = row["contenders"]["minigrad"]["median"]
    for name, figures in row["contenders"].items():
        low, high = map(number, figures["quartiles"])
        line = f"  {name:<18}{number(figures['median']):>12} {row['unit']}  ({low} to {high})"
        if name != "minigrad":
            line += f"   minigrad / {name} = {ours / figures['median']:.3f}"
        target = targets.get(row["unit"] if name == "minigrad" else name)
        if target:
            verdict = "ok" if target["reached"] else "NOT YET"
            line += f"   to reach: {target['at_most']:.3f} {verdict}"
        lines.append(line)
    return "\n".join(lines)


def verdict(rows: list[dict]) -> str:
    """Say which rows have reached all their targets, and which have not."""
    judged = [row for row in rows if row["targets"]]
    short = [row for row in judged if not all(target["reached"] for target in row["targets"])]
    lines = [f"{len(judged) - len(short)} of {len(judged)} rows reached" + ":" * bool(short)]
    for row in short:
        missed = [
            f"{target['value']:.3f} {target['against']}, to reach {target['at_most']:.3f}"
            for target in row["targets"]
            if not target["reached"]
        ]
        lines.append(f"  not reached: {row['name']}: {'; '.join(missed)}")
    if len(judged) < len(rows):
        lines.append(f"{len(rows) - len(judged)} rows had no peer installed to compare with")
    return "\n".join(lines)


def cell(row: dict, name: str) -> str:
    """One cell of the Markdown table: median, ratio, and the target if there is one."""
    if name not in row["contenders"]:
        return ""
    unit, figures = row["unit"].replace("us", "µs"), row["contenders"]
    text, ratio = f"{number(figures[name]['median'])} {unit}", ""
    if name != "minigrad":
        ratio = f"{figures['minigrad']['median'] / figures[name]['median']:.3g}"
    for target in row["targets"]:
        if target["against"] == (row["unit"] if name == "minigrad" else name):
            sign = "≤" if target["reached"] else ">"
            ratio = f"{ratio} {sign} {target['at_most']:.3g}".strip()
            ratio = ratio if target["reached"] else f"**{ratio}**"
    return f"{text} ({ratio})" if ratio else text


def markdown(results: dict) -> str:
    """A table for each group of rows, with a description of the machine."""
    lines = ["```text", machine.summary(results["machine"]), "```", ""]
    for group in dict.fromkeys(row["group"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["group"] == group]
        names = list(dict.fromkeys(name for row in rows for name in row["contenders"]))
        lines += [f"| {group} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in rows:
            lines.append(f"| {row['name']} | {' | '.join(cell(row, name) for name in names)} |")
        lines.append("")
    return "\n".join(lines)


def fill_readme(results: dict, path: Path = HERE / "README.md", name: str = "results") -> None:
    """Write the table between the markers of that name in the page."""
    begin, end = f"<!-- {name}, by run.py --markdown -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"fill_readme: {path} lacks the lines {begin.strip()} and {end.strip()}")
    path.write_text(before + begin + markdown(results) + end + after, encoding="utf-8")


def picture(results: dict, path: Path, draw) -> None:
    """Write `draw(results)` next to the JSON file, if matplotlib is installed."""
    try:
        figure = draw(results)
    except ModuleNotFoundError as missing:
        print(f"no picture: {missing.name} is not installed")
    else:
        figure.savefig(path.with_suffix(".png"), dpi=110)
        print(f"picture: {path.with_suffix('.png')}")


def save(results: dict, path: Path, draw) -> None:
    """Write the JSON file, and the picture next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\nfigures: {path}")
    picture(results, path, draw)


def run(options: argparse.Namespace) -> dict:
    """Measure the requested rows, print each when done, and return the contents of the file."""
    from contenders import ON_REQUEST, WORK, present

    if unknown := set(options.groups) - set(WORK):
        raise SystemExit(
            f"run.py: unknown group {', '.join(sorted(unknown))}; the groups are {', '.join(WORK)}"
        )
    found = machine.describe()
    print(machine.summary(found), end="\n\n")
    rows = []
    for group in options.groups or [group for group in WORK if group not in ON_REQUEST]:
        for work in WORK[group]:
            if options.match not in work.name:
                continue
            functions = {name: make() for name, make in present(work).items()}
            if work.unit == "us":
                rounds, seconds = options.rounds, options.seconds
                if work.brief:
                    rounds, seconds = (rounds + 1) // 2, seconds / 25
                samples = measure(functions, rounds, seconds)
            else:
                samples = ask(functions, min(options.rounds, 5))
            rows.append(make_row(group, work, samples))
            print(show(rows[-1]), flush=True)
    if not rows:
        raise SystemExit(f"run.py: no row's name contains {options.match!r}")
    print("", verdict(rows), sep="\n")
    return {"machine": found, "rows": rows}


def run_unpinned(options: argparse.Namespace) -> dict:
    """Like `run`, for the groups that are not pinned."""
    import defaults

    found = machine.describe()
    print(machine.summary(found), end="\n\n")
    rows = []
    for group in options.groups:
        busy = group == "busy"
        with defaults.spinning(len(found["allowed"]) if busy else 0):
            for row in defaults.rows():
                if options.match in row.name:
                    rounds, seconds = (options.rounds + 1) // 2, options.seconds * 4
                    samples = defaults.measure(row, 3 if row.whole_run else rounds, seconds)
                    judged = make_row(group, defaults.judged(row, busy), samples)
                    rows.append(judged)
                    print(show(judged), flush=True)
    if not rows:
        raise SystemExit(f"run.py: no row's name contains {options.match!r}")
    print("", verdict(rows), sep="\n")
    return {"machine": found, "rows": rows}


def run_estimators(options: argparse.Namespace) -> dict:
    """Like `run`, for whole fits, one per seed."""
    import estimators

    found = machine.describe()
    print(machine.summary(found), end="\n\n")
    rows = []
    for fit in estimators.rows():
        if options.match in fit.name:
            rows += estimators.judged(fit, min(options.rounds, 5), make_row)
            print(show(rows[-2]), show(rows[-1]), sep="\n", flush=True)
    if not rows:
        raise SystemExit(f"run.py: no row's name contains {options.match!r}")
    print("", verdict(rows), sep="\n")
    return {"machine": found, "rows": rows}


def draw(results: dict):
    import plots

    return plots.comparison(results["rows"])


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    if options.markdown:
        if not options.json.exists():
            raise SystemExit(f"run.py: {options.json} is missing; run without --markdown first")
        name = "results" if options.file == "latest" else options.file
        results = json.loads(options.json.read_text(encoding="utf-8"))
        fill_readme(results, name=name)
        picture(results, options.json, draw)
    else:
        measured = {"default": run_unpinned, FITS: run_estimators}.get(options.file, run)(options)
        save(measured, options.json, draw)


if __name__ == "__main__":
    machine.settle(pinned=not arguments().unpinned)
    main()
