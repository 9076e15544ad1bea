from data.ranks import launched_rank, launched_world


def test_the_launcher_says_which_process_this_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (launched_rank(), launched_world()) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (launched_rank(), launched_world()) == (3, 8)
