import pickle
import re

import pytest
import torch

from data.errors import InputError
from distill.recipe.reading import read_recipe
from teacher.beats import BeatsEncoder, BeatsSettings
from teacher.build import build_teacher
from teacher.released import beats_settings, beats_tensors, read_checkpoint
from teacher.weights import load_exactly
from tests.released import CFG, SIZES, released_beats, released_salmonn, trained_part


@pytest.fixture
def trained(tiny_recipe):
    model, _ = build_teacher(read_recipe(tiny_recipe).teacher)
    return model, trained_part(model)


def build_from(tiny_recipe, path, *overrides):
    return build_teacher(read_recipe(tiny_recipe, [f"teacher.weights={path}", *overrides]).teacher)[0]


def test_a_released_beats_is_read_whole(tmp_path):
    torch.manual_seed(0)
    model = BeatsEncoder(BeatsSettings(**SIZES))
    torch.save({"cfg": CFG, "model": released_beats(model)}, tmp_path / "beats.pt")
    assert beats_settings(tmp_path / "beats.pt") == BeatsSettings(**SIZES)
    again = BeatsEncoder(BeatsSettings(**SIZES))
    load_exactly(again, beats_tensors(tmp_path / "beats.pt"), "beats.pt")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value)


def test_a_released_salmonn_is_read_whole(trained, tiny_recipe, tmp_path):
    model, part = trained
    tensors = released_salmonn(part)
    # Shared weights stand in such files under their second name.
    tensors["llama_model.base_model.model.lm_head.weight"] = model.llm.lm_head.weight.detach() * 2
    torch.save({"model": tensors, "optimizer": {}, "config": {}, "epoch": 3}, tmp_path / "salmonn.pth")
    again = build_from(tiny_recipe, tmp_path / "salmonn.pth")
    for key, value in model.state_dict().items():
        factor = 2 if key in ("llm.lm_head.weight", "llm.model.embed_tokens.weight") else 1
        torch.testing.assert_close(again.state_dict()[key], factor * value)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda t: t.pop("ln_speech.bias"), "missing connector.ln_speech.bias"),
        (lambda t: t.update({"ln_audio.bias": torch.zeros(3)}), "unexpected connector.ln_audio.bias"),
        (lambda t: t.update({"ln_speech.bias": torch.zeros(3)}), r"connector.ln_speech.bias is \(3,\), not \(32,\)"),
        (lambda t: t.update({"classifier": torch.zeros(3)}), "holds 'classifier', which is no part of a SALMONN"),
    ],
)
def test_every_key_is_accounted_for(trained, tiny_recipe, tmp_path, spoil, line):
    tensors = released_salmonn(trained[1])
    spoil(tensors)
    torch.save({"model": tensors}, tmp_path / "salmonn.pth")
    with pytest.raises(InputError, match=rf"salmonn.pth: .*{line}"):
        build_from(tiny_recipe, tmp_path / "salmonn.pth")


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"model": Evil()}, tmp_path / "zipped.pth")
    for name in ("evil.pth", "zipped.pth"):
        with pytest.raises(InputError, match=f"{name}: refused, because it holds more than tensors"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", None])
def test_a_broken_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "broken.pth"
    if content is None:
        torch.save({"model": {"x": torch.zeros(1000)}}, path)
        content = path.read_bytes()[:1500]
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}: not a"):
        read_checkpoint(path)


def test_a_beats_of_another_kind_is_refused(tmp_path):
    tensors = released_beats(BeatsEncoder(BeatsSettings(**SIZES)))
    torch.save({"cfg": CFG | {"layer_norm_first": True}, "model": tensors}, tmp_path / "beats.pt")
    with pytest.raises(InputError, match="layer_norm_first True; only False is known"):
        beats_settings(tmp_path / "beats.pt")
    for cfg in ({key: value for key, value in CFG.items() if key != "deep_norm"}, CFG | {"conv_pos": "wide"}):
        torch.save({"cfg": cfg, "model": tensors}, tmp_path / "beats.pt")
        with pytest.raises(InputError, match="'cfg' does not state the sizes of a BEATs"):
            beats_settings(tmp_path / "beats.pt")
    torch.save({"model": tensors}, tmp_path / "beats.pt")
    with pytest.raises(InputError, match="states no sizes under 'cfg'"):
        beats_settings(tmp_path / "beats.pt")
    key = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    torch.save({"cfg": CFG, "model": tensors | {key: tensors[key] + 1}}, tmp_path / "beats.pt")
    with pytest.raises(InputError, match="is not the position bias that the layers share"):
        beats_tensors(tmp_path / "beats.pt")
    torch.save({"cfg": CFG, "model": [1]}, tmp_path / "beats.pt")
    with pytest.raises(InputError, match="holds no weights under 'model'"):
        beats_tensors(tmp_path / "beats.pt")
