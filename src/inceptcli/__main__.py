"""``python -m inceptcli`` and the ``inceptcli`` command: what starts the program.

Until its modules are there a signal ends it at once: Python would print where it stood.
"""

from __future__ import annotations

import signal

from inceptcli.engine.signals import SIGNALS, leave


def main() -> None:
    """Run the command line of this process and leave with its exit code.

    Raises:
        SystemExit: Always, with the exit code of ``errors``.
    """
    for number in SIGNALS:
        signal.signal(number, leave)
    from inceptcli.cli import main as run

    run()


if __name__ == "__main__":
    main()
