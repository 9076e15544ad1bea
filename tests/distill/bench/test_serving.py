import json

from distill.bench.serving import main
from tests.student.serve.conftest import fake, running, wav  # noqa: F401 (fixture)
from tests.student.use.conftest import loud  # noqa: F401 (fixture)


def test_one_client_and_several(fake, tmp_path, capsys):  # noqa: F811
    (tmp_path / "a.wav").write_bytes(wav(1))
    with running({"fake": fake}, max_queue=2) as server:
        words = [str(tmp_path / "a.wav"), "--model", "fake", "--url", server.url, "--out", str(tmp_path / "a.md")]
        main([*words, "--clients", "3", "--seconds", "0.3"])
    loads = json.loads((tmp_path / "a.json").read_text())["loads"]
    assert loads.keys() == {"1", "3"} and loads["1"]["failed"] == 0
    served = sum(len(load["times_s"]) for load in loads.values()) + 1  # the first one warms up
    assert sum(len(batch) for batch in fake.batches) == served
    assert "| 3 |" in capsys.readouterr().out
