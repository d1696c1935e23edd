"""Reproduce golden files with the product's own classes.

    python benchmarks/check_golden.py ../shared/golden/*.npz

A line per file and per quantity: the error found and the tolerance. Exit codes: 0 all agree, 1 a
value disagrees, 2 a file is not of the form (METHODS section 7).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.golden_file import Finding, GoldenError, GoldenFile
from benchmarks.golden_patchgd import GoldenGradients
from benchmarks.golden_selection import GoldenSelection

AGREES, DISAGREES, NOT_OF_THE_FORM = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every file that was named; the worst of their exit codes."""
    parser = argparse.ArgumentParser(description="Reproduce golden npz files.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    return max(report(path) for path in parser.parse_args(arguments).files)


def report(path: Path) -> int:
    """Check one file and print what was found; its exit code."""
    try:
        found = check_golden(path)
    except GoldenError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return NOT_OF_THE_FORM
    agrees = all(finding.agrees for finding in found)
    print(f"{path}: {'agrees' if agrees else 'DISAGREES'}")
    for finding in found:
        print(
            f"  {finding.quantity:40} error {finding.error:<9.3g} "
            f"tolerance {finding.tolerance:<7g} {'ok' if finding.agrees else 'DISAGREES'}"
        )
    return AGREES if agrees else DISAGREES


def check_golden(path: Path) -> list[Finding]:
    """Compute every quantity of a file with the product's classes.

    Raises:
        GoldenError: the file is not of the form.
    """
    file = GoldenFile(path)
    if "emb" in file:
        return GoldenSelection(file).findings()
    if "x" in file:
        return GoldenGradients(file).findings()
    raise GoldenError("holds neither embeddings (emb) nor images (x)")


if __name__ == "__main__":
    sys.exit(main())
