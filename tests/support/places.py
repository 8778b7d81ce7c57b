"""Where the files lie that the tests read. Reference numbers beside the project have fixtures in ``conftest.py``."""

from __future__ import annotations

from pathlib import Path

#: The top of the source tree.
ROOT = Path(__file__).resolve().parents[2]
#: The tiny trained model with its pictures: of the tree, whatever package is installed.
DATA = ROOT / "demo" / "tiny"
