"""Run experiments of the BatchNorm laboratory, and write their report."""

from __future__ import annotations

from pathlib import Path

from ..lesson import OneLineParser, say_missing

try:
    import sklearn  # noqa: F401

    from . import report
    from .data import NAMES, DataError, load
    from .lab import Lab, experiments, find, perform, write_json
except ImportError as error:
    say_missing(error)

PUBLISHED = Path(__file__).parent
BUILD = PUBLISHED.parent.parent / "build" / "batchnorm_lab"


def main(arguments: list[str] | None = None) -> Path:
    parser = OneLineParser(prog="batchnorm_lab", description=__doc__)
    parser.add_argument("names", nargs="*", help="names or numbers of experiments (default: all)")
    parser.add_argument("--quick", action="store_true", help="two seeds and few steps, in seconds")
    parser.add_argument("--dataset", default="digits", help=", ".join(NAMES))
    parser.add_argument("--folder", help="of the IDX files of fashion-mnist")
    parser.add_argument("--output", type=Path, help=f"folder of the report (default: {BUILD})")
    parser.add_argument(
        "--publish", action="store_true", help="write the report that is under version control"
    )
    options = parser.parse_args(arguments)
    if options.publish and (options.quick or options.output or options.dataset != "digits"):
        parser.error("--publish goes with a full run on digits, and without --output")
    try:
        names = [find(name) for name in options.names] or list(experiments())
        data = load(options.dataset, options.folder)
    except (LookupError, DataError) as error:
        parser.error(str(error))
    kind = f"{data.name}-quick" if options.quick else data.name
    folder = options.output or (PUBLISHED / "report" if options.publish else BUILD / kind)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        record = perform(name, Lab(data, options.quick))
        stem = experiments()[name].__name__.rpartition(".")[2]
        write_json(record, folder / f"{stem}.json")
        print(f"{record['number']:>2} {name}: {record['verdict']} ({record['seconds']:.0f} s)")
        print(f"   {record['reason']}", flush=True)
    path = report.write(folder)
    print(f"report: {path}")
    return path


if __name__ == "__main__":
    main()
