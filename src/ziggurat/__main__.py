"""``python -m ziggurat``: the command line, also under ``torchrun -m ziggurat``."""

from ziggurat.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
