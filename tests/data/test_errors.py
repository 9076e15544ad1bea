import pytest

from data.errors import InputError, run_cli


def _raise(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("clip.wav: empty; record it again"), 2, "error: clip.wav: empty; record it again\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_ends_in_one_line_and_a_status(error, status, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run_cli(_raise(error))
    assert ended.value.code == status
    assert capsys.readouterr().err == message


def test_a_rank_that_finds_something_alone_says_it_in_the_end(monkeypatch, capsys):
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("time.sleep", waited.append)  # as long as the launcher lets it, where the first rank said it
    with pytest.raises(SystemExit):
        run_cli(_raise(InputError("only here")))
    assert waited == [10] and capsys.readouterr().err == "error: only here\n"
