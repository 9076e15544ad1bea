import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.errors import InputError
from teacher.parity import TOLERANCES, Parity, check_parity
from tests.reference import write_fixture

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
needs_fixture = pytest.mark.skipif(
    not (FIXTURES / "salmonn_tiny").is_dir(), reason="the reference's fixture is not beside this checkout"
)


@pytest.fixture
def fixture_folder(tmp_path):
    shutil.copytree(FIXTURES / "salmonn_tiny", tmp_path / "fixture")
    for path in (tmp_path / "fixture").rglob("*"):
        path.chmod(0o755)
    return tmp_path / "fixture"


@needs_fixture
def test_every_stage_is_the_references():
    parity = check_parity(FIXTURES / "salmonn_tiny")
    assert parity.ok
    assert set(parity.differences) == set(TOLERANCES)
    assert set(parity.equal) == {"labels", "generate_beam1", "generate_beam4"}


@needs_fixture
def test_the_script_says_which_stage_is_off(fixture_folder, command):
    expected = load_file(fixture_folder / "expected.safetensors")
    expected["s1.audio_tokens"][0, 80, 3] += 0.01
    expected["s0.generate_beam4"][0, -1] += 1
    save_file(expected, fixture_folder / "expected.safetensors")
    status, out, _ = command("scripts/check_parity.py", fixture_folder, "--json", "--out", fixture_folder / "table.md")
    told = json.loads(out)
    assert status == 1
    assert not told["ok"]
    assert [stage for stage, entry in told["stages"].items() if not entry["ok"]] == ["audio_tokens"]
    assert told["stages"]["audio_tokens"]["max_abs_diff"] == pytest.approx(0.01, rel=0.01)
    assert told["equal"] == {"labels": True, "generate_beam1": True, "generate_beam4": False}
    table = (fixture_folder / "table.md").read_text()
    assert "| audio_tokens | 1.00e-02 | 1e-04 TOO FAR |" in table and "| generate_beam4 | DIFFERENT |" in table


@needs_fixture
def test_a_fixture_that_lacks_a_part_is_refused(fixture_folder):
    (fixture_folder / "beats.pt").unlink()
    with pytest.raises(InputError, match=r"salmonn.pth: not the weights of this model"):
        check_parity(fixture_folder)
    with pytest.raises(InputError, match=r"model.json: cannot be read"):
        check_parity(fixture_folder / "audio")


def test_what_is_not_finite_or_of_another_shape_is_infinitely_far():
    parity, nan, far = Parity(), torch.tensor([float("nan")]), float("inf")
    parity.add("logits", torch.zeros(2), torch.full((2,), 1e-4))
    parity.add("whisper", nan, torch.zeros(1))
    parity.add("loss", torch.zeros(1), nan)
    parity.add("beats", torch.zeros(2), torch.zeros(3))
    assert parity.differences == {"logits": pytest.approx(1e-4), "whisper": far, "loss": far, "beats": far}


def test_what_was_not_compared_is_not_parity():
    parity = Parity()
    for stage in TOLERANCES:
        assert not parity.ok
        if stage != "beats":
            parity.add(stage, torch.zeros(1), torch.zeros(1))
    for name in ("labels", "generate_beam1", "generate_beam4"):
        assert not parity.ok
        parity.same(name, torch.zeros(1), torch.zeros(1))
    assert parity.ok


@pytest.mark.parametrize(("mel_bins", "width", "heads"), [(80, 48, 4), (128, 32, 2)])
def test_without_beats_every_stage_is_that_of_transformers_own_models(
    tiny_weights, waves, tmp_path, mel_bins, width, heads
):
    texts = ["press one", "a dog is barking", "please leave a message"]
    sounds = list(zip(waves, texts, strict=True))
    write_fixture(tmp_path / "made", tiny_weights / "llm", sounds, mel_bins=mel_bins, width=width, heads=heads)
    parity = check_parity(tmp_path / "made")
    assert parity.ok, (parity.differences, parity.equal)
    assert set(parity.differences) == set(TOLERANCES) - {"beats"}
    assert all(parity.differences[stage] > 0 for stage in ("audio_tokens", "logits"))  # two computations, not one
