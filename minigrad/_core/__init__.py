"""The compiled core: the engine, the primitives and their loops."""

from importlib import import_module
from pathlib import Path
from zlib import crc32

BUILD = "build it: `make test` in a checkout, `pip install .` elsewhere"


def check_build() -> None:
    """Raise ImportError if the core was not compiled, or not from the table that stands here."""
    try:
        built_from = vars(import_module(".ops", __name__))["BUILT_FROM"]
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(__name__):
            raise
        raise ImportError(f"minigrad: the core is not compiled; {BUILD}") from None
    table = Path(__file__).parent / "engine/table.py"
    if built_from != crc32(table.read_text(encoding="utf-8").encode()):
        raise ImportError(f"minigrad: the compiled core was made of another {table}; {BUILD}")


check_build()
