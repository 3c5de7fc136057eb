"""`python -m minigrad` prints what `mg.show_config()` does."""

from .config import show_config

show_config()
