"""Where the commands write: messages for people, and data for other programs."""

from __future__ import annotations

import json

import typer
from rich.console import Console

console = Console()
"""Messages and tables."""


def print_json(*values: object) -> None:
    """Print lines of JSON at once, in UTF-8 whatever the terminal's encoding is."""
    typer.echo(b"\n".join(map(_line, values)))


def _line(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name that is no UTF-8
        return json.dumps(value).encode()
