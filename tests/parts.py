"""Which parts the contract tests run on: all that are there, or one from outside, named on pytest's command line.

`pytest tests/fusion/test_contract.py --part my_fusions:Mean` runs the contract of fusions on that class.
"""

from __future__ import annotations

from heatv2x.core import plugins

outside: str | None = None
"""Set by `tests/conftest.py` before any test is collected."""


def parts(kind: str) -> list[str]:
    """Names of the parts of a kind that are to be tested."""
    return plugins.available(kind) if outside is None else [outside]
