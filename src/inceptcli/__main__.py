"""``python -m inceptcli``: what torchrun starts."""

from inceptcli.cli import main

if __name__ == "__main__":
    main()
