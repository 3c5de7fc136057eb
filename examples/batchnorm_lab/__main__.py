"""Run experiments of the BatchNorm laboratory, and write their report or compare it."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from ..lesson import OneLineParser, say_missing

try:
    import sklearn  # noqa: F401

    from . import report
    from .data import NAMES, DataError, load
    from .lab import Lab, differences, experiments, find, judged, perform, read_json, write_json
except ImportError as error:
    say_missing(error)

HERE = Path(__file__).parent
PUBLISHED = HERE / "report"
BUILD = HERE.parent.parent / "build" / "batchnorm_lab"


def main(arguments: list[str] | None = None) -> int:
    parser = OneLineParser(prog="batchnorm_lab", description=__doc__)
    parser.add_argument("names", nargs="*", help="names or numbers of experiments (default: all)")
    parser.add_argument("--quick", action="store_true", help="two seeds and few steps, in seconds")
    parser.add_argument("--dataset", default="digits", help=", ".join(NAMES))
    parser.add_argument("--folder", help="of the IDX files of fashion-mnist")
    parser.add_argument("--output", type=Path, help=f"folder of the report (default: {BUILD})")
    parser.add_argument(
        "--publish", action="store_true", help="write the report that is under version control"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare a run with that report, and write nothing"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="judge and draw anew what was measured before"
    )
    options = parser.parse_args(arguments)
    for mode in ("publish", "check"):
        if getattr(options, mode) and (
            options.quick or options.output or options.dataset != "digits"
        ):
            parser.error(f"--{mode} goes with a full run on digits, and without --output")
    if options.check and (options.publish or options.redraw):
        parser.error("--check goes with neither --publish nor --redraw")
    try:
        names = [find(name) for name in options.names] or list(experiments())
        data = load(options.dataset, options.folder)
    except (LookupError, DataError) as error:
        parser.error(str(error))
    if options.check:
        return check(names, Lab(data, limit=math.inf))  # it compares numbers, not times
    kind = f"{data.name}-quick" if options.quick else data.name
    folder = options.output or (PUBLISHED if options.publish else BUILD / kind)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / report.json_name(name)
        if options.redraw:
            if not path.is_file():
                continue
            record = judged(read_json(path))
        else:
            record = perform(name, Lab(data, options.quick))
        write_json(record, path)
        print(f"{record['number']:>2} {name}: {record['verdict']} ({record['seconds']:.0f} s)")
        print(f"   {record['reason']}", flush=True)
    print(f"report: {report.write(folder)}")
    return 0


def check(names: list[str], lab: Lab) -> int:
    """Run experiments, and print where they differ from the published report; 1 if any does."""
    failed = 0
    for name in names:
        record = perform(name, lab)
        found = differences(record, read_json(PUBLISHED / report.json_name(name)))
        failed += bool(found)
        said = f"{len(found)} differences" if found else "as published"
        print(f"{record['number']:>2} {name}: {said} ({record['seconds']:.0f} s)")
        for line in found:
            print(f"   {line}", flush=True)
    if failed:
        print("Other kernels round otherwise, and a search may then choose another rate.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
