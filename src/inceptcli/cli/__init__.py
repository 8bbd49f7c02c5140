"""The door: one file a command. The only room with Typer."""

from inceptcli.cli.app import app, main

__all__ = ["app", "main"]
