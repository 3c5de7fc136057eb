"""`python -m minigrad` prints `mg.show_config()`."""

from .config import show_config

show_config()
