"""Stability grid: learning rate x initial step size x recipe x seed, with our and the published parameterisation.

    python benchmarks/stability.py --train wikitext2-test.txt --recipes s1,s2

The same as ``ebt study stability``, with the same options.
"""

from __future__ import annotations

import sys

from ebt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["study", "stability", *sys.argv[1:]]))
