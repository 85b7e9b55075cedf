"""The command line as the child of a server, whose number comes first: it ends when the server ends."""

from __future__ import annotations

import sys

from ziggurat.cli.main import main
from ziggurat.system.forking import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.argv = ["ziggurat", *sys.argv[2:]]
    sys.exit(main())
