from pathlib import Path

import pytest

from tests.fuzz.contract import LONG


def pytest_collection_modifyitems(items):
    """Many inputs may take hours; each of them has a limit of its own."""
    for item in items:
        if LONG and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(0))
