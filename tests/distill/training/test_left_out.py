"""Clips that cannot be read, as several ranks count them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident

import pytest

from data.errors import InputError
from distill.training import left_out
from distill.training.left_out import LeftOut

RANKS = 3


@pytest.fixture
def together(monkeypatch):
    """A function that does something on each of the ranks at once, which are threads here; gives what each gave."""
    barrier, said = Barrier(RANKS), {}

    def all_gather_object(told, own):
        said[get_ident()] = own
        barrier.wait()
        told[:] = said.values()
        if not barrier.wait():
            said.clear()
        barrier.wait()

    monkeypatch.setattr(left_out.dist, "get_world_size", lambda: RANKS)
    monkeypatch.setattr(left_out.dist, "all_gather_object", all_gather_object)

    def together(do, ranks):
        with ThreadPoolExecutor(RANKS) as pool:
            return list(pool.map(do, ranks))

    return together


def error_of(rank):
    try:
        rank.share()
    except InputError as error:
        return str(error)
    return ""


def test_what_all_ranks_have_met_is_too_many_where_no_rank_alone_has(together, capsys):
    ranks = [LeftOut(most=5) for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        for row in range(2):
            rank.add(f"{number} {row}", f"reason {number} {row}")
    errors = together(error_of, ranks)
    assert len(set(errors)) == 1 and "more clips than data.faults.max_dropped cannot be read" in errors[0]
    assert capsys.readouterr().out.count("clips left out") == 2 * RANKS


def test_a_clip_that_several_ranks_meet_counts_once(together, capsys):
    ranks = [LeftOut(most=5) for _ in range(RANKS)]
    for epoch in range(4):
        for rank in ranks:  # in the next epoch its rows are others'
            for row in range(5):
                rank.add(f"{row}", "reason")
        assert together(error_of, ranks) == RANKS * [""], epoch
        assert [rank.new for rank in ranks] == RANKS * [0]
    assert [rank.of_all for rank in ranks] == RANKS * [[f"{row}" for row in range(5)]]
    capsys.readouterr()
    with pytest.raises(
        InputError, match=r"more clips than data\.faults\.max_dropped cannot be read, the last: one more"
    ):
        ranks[1].add("5", "one more")


def test_a_clip_of_another_rank_is_not_told_again(together, capsys):
    ranks = [LeftOut(most=5) for _ in range(RANKS)]
    ranks[0].add("a", "reason")
    together(error_of, ranks)
    capsys.readouterr()
    ranks[1].add("a", "reason")
    assert not capsys.readouterr().out and ranks[1].new == 0 and ranks[2].take_new() == {}
