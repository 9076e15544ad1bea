import pytest

from data.ranks import launched_beside, launched_host, launched_rank, launched_world, on_several_hosts

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "CROSS_RANK", "GROUP_RANK")


@pytest.fixture
def launched(monkeypatch):
    """A function that has the environment say what a launcher says."""

    def launched(**told):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in told.items():
            monkeypatch.setenv(name, str(value))

    return launched


def test_the_launcher_says_which_process_this_is(launched):
    launched()
    assert (launched_rank(), launched_world(), launched_host(), launched_beside()) == (0, 1, 0, (0, 1))
    assert not on_several_hosts()
    launched(RANK=3, WORLD_SIZE=8)
    assert (launched_rank(), launched_world(), launched_beside()) == (3, 8, (0, 1)) and not on_several_hosts()


@pytest.mark.parametrize(("size", "host"), [("LOCAL_SIZE", "CROSS_RANK"), ("LOCAL_WORLD_SIZE", "GROUP_RANK")])
def test_the_launcher_says_on_which_host_it_is(launched, size, host):
    launched(**{"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, size: 2, host: 1})
    assert (launched_host(), launched_beside()) == (1, (1, 2)) and on_several_hosts()
    launched(**{"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 3, size: 4, host: 0})
    assert (launched_host(), launched_beside()) == (0, (3, 4)) and not on_several_hosts()
