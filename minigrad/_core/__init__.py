"""The compiled core: the engine, the primitives and their loops."""

from importlib import import_module
from pathlib import Path
from zlib import crc32

from ..namespace import hidden_package

BUILD = "build it: `make test` in a checkout, `pip install -e .` elsewhere"


def check_build() -> None:
    """Raise ImportError if the core was not compiled, or not from the sources here."""
    try:
        built_from = vars(import_module(".ops", __name__)).get("BUILT_FROM")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        if missing and not (error.name or "").startswith(__name__):
            raise
        why = f"is not compiled{hidden_package()}" if missing else f"does not load ({error})"
        raise ImportError(f"minigrad: the core {why}; {BUILD}") from None
    sources = [Path(__file__).parent / name for name in ("engine/table.py", "formulas.py")]
    if all(map(Path.exists, sources)):  # they may be left out where the program is frozen
        text = "".join(path.read_text(encoding="utf-8") for path in sources)
        if built_from != crc32(text.encode()):
            where = f"{sources[0]} or {sources[1].name}"
            raise ImportError(f"minigrad: the compiled core was made of another {where}; {BUILD}")


check_build()
