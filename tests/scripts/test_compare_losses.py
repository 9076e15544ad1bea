import importlib.util
import math

import pytest

from data.paths import REPOSITORY


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_losses", REPOSITORY / "scripts/compare_losses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_logs_differ_by_nothing_whatever_they_took(script):
    before = [{"step": 0, "ce": 1.5, "loss": 1.5, "seconds": 2.0, "lr": {"llm": 1.0}}]
    rows, largest = script.differences(before, [before[0] | {"seconds": 3.0}])
    assert largest == 0 and [row[1] for row in rows] == ["ce", "loss"]


def test_the_last_digit_counts(script):
    _, largest = script.differences([{"step": 0, "ce": 1.5}], [{"step": 0, "ce": math.nextafter(1.5, 2)}])
    assert 0 < largest < 1e-15


@pytest.mark.parametrize(("a", "b"), [(1.0, None), (None, 1.0), (math.nan, math.nan), (1.0, math.inf)])
def test_what_cannot_be_compared_is_never_equal(script, a, b):
    assert script.relative_difference(a, b) == math.inf


def test_a_commit_that_is_none_is_refused_in_a_line(command):
    status, _, err = command("scripts/compare_losses.py", "no-such-commit", "HEAD")
    assert status == 2 and "no-such-commit: cannot be checked out" in err and "Traceback" not in err
