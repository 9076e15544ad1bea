import io
import json
import shutil

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from data.errors import InputError
from distill.recipe.reading import read_recipe
from teacher.build import build_teacher, missing_parts, shapes_of_files, weights_hash
from teacher.processor import Clip, SalmonnProcessor
from teacher.weights import load_trained_part, save_trained_part
from tests.conftest import SENTENCES
from tests.released import SIZES, trained_part


def settings_of(recipe, *overrides):
    return read_recipe(recipe, list(overrides)).teacher


def test_pretrained_parts_are_taken_over(tiny_recipe, tiny_weights):
    from transformers import AutoModelForCausalLM

    settings = settings_of(tiny_recipe, "teacher.weights=null")
    assert missing_parts(settings) == []
    model, processor = build_teacher(settings)
    whisper = load_file(tiny_weights / "whisper" / "model.safetensors")
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, whisper.get(f"encoder.{key}", whisper.get(f"model.encoder.{key}")))
    llm = AutoModelForCausalLM.from_pretrained(tiny_weights / "llm")
    pad = processor.tokenizer.pad_token_id
    assert pad == llm.config.vocab_size
    embeddings = model.get_input_embeddings().weight
    assert torch.equal(embeddings[:pad], llm.get_input_embeddings().weight)
    torch.testing.assert_close(embeddings[pad], embeddings[:pad].mean(0))
    assert torch.equal(
        model.llm.get_decoder().layers[3].self_attn.q_proj.base_layer.weight,
        llm.get_decoder().layers[3].self_attn.q_proj.weight,
    )
    ids_BT = torch.arange(40)[None]
    with torch.no_grad():  # LoRA that has not been trained changes nothing
        torch.testing.assert_close(model.llm(ids_BT).logits[..., :pad], llm(ids_BT).logits, atol=1e-5, rtol=1e-5)
    assert model.llm.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            (name, text)
            for name in ("whisper/config.json", "llm/config.json")
            for text in ("", "null", "[]", "{", "\udcff")
        ),
        ("whisper/config.json", '{"model_type": "whisper", "d_model": "32"}'),
        ("whisper/config.json", '{"model_type": "whisper", "d_model": 33, "encoder_attention_heads": 2}'),
        ("llm/config.json", '{"model_type": "llama", "num_hidden_layers": 0.5}'),
        ("llm/config.json", '{"model_type": "llama", "rope_parameters": {"rope_type": "x"}}'),
        *(("llm/tokenizer.json", text) for text in ("", "{}", "null", '{"model": {"type": "x"}}')),
        *(("llm/tokenizer_config.json", text) for text in ("null", "[]", "{", '{"bos_token": 3}')),
    ],
)
def test_a_part_whose_files_are_damaged_is_named(tiny_recipe, tiny_weights, tmp_path, name, text):
    parts = shutil.copytree(tiny_weights, tmp_path / "parts")
    (parts / name).write_text(text, errors="surrogateescape")
    places = [f"teacher.{part}={parts}/{of}" for part, of in (("encoder", "whisper"), ("llm", "llm"))]
    with pytest.raises(InputError, match=rf"^{parts}/(whisper|llm).*again$"):
        build_teacher(settings_of(tiny_recipe, *places))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("text", ["null", "[]", "{"])
def test_a_model_whose_files_are_damaged_is_named(tiny_teacher, tmp_path, name, text):
    _, processor = tiny_teacher
    processor.save_pretrained(tmp_path)
    processor.config.save_pretrained(tmp_path)
    SalmonnProcessor.from_pretrained(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"^{tmp_path}: no tokenizer that can be read"):
        SalmonnProcessor.from_pretrained(tmp_path)


def test_the_trained_part_goes_into_one_file_and_back(tiny_teacher, tiny_recipe, tmp_path):
    model, _ = tiny_teacher
    part = trained_part(model)
    assert {key.split(".")[0] for key in part} == {"connector", "llm"}
    assert all(".lora_" in key for key in part if key.startswith("llm."))
    save_trained_part(model.state_dict(), tmp_path / "trained.safetensors", torch.float32)
    again, _ = build_teacher(settings_of(tiny_recipe, f"teacher.weights={tmp_path}/trained.safetensors"))
    for key, value in model.state_dict().items():
        if key in part:
            assert torch.equal(again.state_dict()[key], value), key
    save_trained_part(model.state_dict(), tmp_path / "half.safetensors")
    assert {value.dtype for value in load_file(tmp_path / "half.safetensors").values()} == {torch.bfloat16}


def wrong_shape(tensors):
    tensors["connector.proj.bias"] = torch.zeros(7)
    return r"connector.proj.bias is \(7,\), not \(48,\) \(1 in all\); check the recipe"


def missing_key(tensors):
    del tensors["connector.query"]
    return r"missing connector.query \(1 in all\); check the recipe"


def unexpected_key(tensors):
    tensors["llm.model.layers.9.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(4, 48)
    return r"unexpected llm.model.layers.9.self_attn.q_proj.lora_A.default.weight \(1 in all\)"


@pytest.mark.parametrize("spoil", [wrong_shape, missing_key, unexpected_key])
def test_a_trained_part_of_another_model_is_refused_and_nothing_is_loaded(tiny_teacher, tmp_path, spoil):
    model, _ = tiny_teacher
    tensors = {key: value + 1 for key, value in trained_part(model).items()}
    before = {key: value.clone() for key, value in trained_part(model).items()}
    line = spoil(tensors)
    save_file(tensors, tmp_path / "trained.safetensors")
    with pytest.raises(InputError, match=f"trained.safetensors: not the weights of this model: {line}"):
        load_trained_part(model, tmp_path / "trained.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in trained_part(model).items())


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None])
def test_a_broken_trained_part_is_refused(tiny_teacher, tmp_path, content):
    model, _ = tiny_teacher
    path = tmp_path / "trained.safetensors"
    save_trained_part(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(InputError, match=r"trained.safetensors: not a readable safetensors file"):
        load_trained_part(model, path)


def test_missing_weights_are_all_named(tiny_recipe):
    missing = ("teacher.encoder=/no/whisper", "teacher.llm=/no/llm", "teacher.weights=/no/trained.safetensors")
    with pytest.raises(InputError) as caught:
        build_teacher(settings_of(tiny_recipe, *missing))
    for part in ("encoder: /no/whisper", "llm: /no/llm", "weights: /no/trained.safetensors", "configs/kd_mini.json"):
        assert part in str(caught.value)


@pytest.mark.parametrize("part", ["whisper", "llm"])
@pytest.mark.parametrize("harm", ["truncated", "absent", "another"])
def test_pretrained_weights_that_are_broken_are_named(tiny_recipe, tiny_weights, tmp_path, part, harm):
    folder = tmp_path / "weights" / part
    shutil.copytree(tiny_weights / part, folder)
    weights = folder / "model.safetensors"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "absent":
        weights.unlink()
    else:
        save_file({"model.nothing": torch.zeros(1)}, weights, {"format": "pt"})
    key = "encoder" if part == "whisper" else "llm"
    with pytest.raises(InputError, match=str(folder)) as caught:
        build_teacher(settings_of(tiny_recipe, f"teacher.{key}={folder}"))
    assert harm == "absent" or "\n" not in str(caught.value)


def test_an_end_symbol_that_is_no_token_is_refused(tiny_recipe):
    model, _ = build_teacher(settings_of(tiny_recipe, "teacher.end_symbol=<s>"))
    assert model.config.eos_token_id == 0
    with pytest.raises(InputError, match=r"teacher.end_symbol: '<none>' is no token of"):
        build_teacher(settings_of(tiny_recipe, "teacher.end_symbol=<none>"))


SHAPES = {
    "encoder": {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48},
    "beats": SIZES,
    "llm": {
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}


def test_any_recipe_is_built_at_its_shapes_without_a_download(tiny_recipe, waves):
    overrides = [
        *("teacher.encoder=/no/whisper", "teacher.llm=/no/llm", "teacher.weights=/no.pth", "teacher.beats=/no.pt"),
        *("teacher.random_weights=true", f"teacher.shapes={json.dumps(SHAPES)}"),
    ]
    settings = read_recipe(tiny_recipe, overrides).teacher
    assert missing_parts(settings) == []
    model, processor = build_teacher(settings, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert len(model.encoder.layers) == 1 and len(model.llm.model.layers) == 2 and len(model.beats.layers) == 2
    assert model.get_input_embeddings().num_embeddings == 301
    with torch.no_grad():
        out = model(processor([Clip(waves[0], "transcribe", "press one")]))
    assert out.logits.isfinite().all()
    again, _ = build_teacher(settings, torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    other = read_recipe(tiny_recipe, [*overrides, "teacher.shapes.llm.num_hidden_layers=3"]).teacher
    assert weights_hash(settings) == weights_hash(settings) != weights_hash(other)
    unknown = json.dumps(SHAPES | {"llm": {"model_type": "no"}})
    misspelt = json.dumps(SHAPES | {"encoder": {"d_modle": 3}})
    for bad, message in (
        ("null", "states no teacher.shapes"),
        (unknown, r"teacher.shapes.llm: Unrecognized model identifier: no"),
        (misspelt, r"teacher.shapes.encoder: no size of such a model: d_modle"),
        (json.dumps(SHAPES | {"encoder": {"d_model": "3"}}), "teacher.shapes.encoder: .*d_model"),
        (json.dumps(SHAPES | {"llm": SHAPES["llm"] | {"num_hidden_layers": "2"}}), "teacher.shapes.llm: .*num_hidden"),
        (json.dumps(SHAPES | {"llm": SHAPES["llm"] | {"hidden_act": "no"}}), "teacher.shapes.llm: "),
    ):
        with pytest.raises(InputError, match=message):
            build_teacher(read_recipe(tiny_recipe, [*overrides, f"teacher.shapes={bad}"]).teacher)


@pytest.mark.parametrize(
    ("part", "key"), [("llm", "rms_norm_eps"), ("llm", "rope_theta"), ("whisper", "activation_function")]
)
def test_another_configuration_of_the_same_weights_is_another_teacher(tiny_recipe, tiny_weights, tmp_path, part, key):
    folder = shutil.copytree(tiny_weights / part, tmp_path / part)
    settings = settings_of(tiny_recipe, f"teacher.{'llm' if part == 'llm' else 'encoder'}={folder}")
    before = weights_hash(settings)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "relu" if part == "whisper" else 0.5}))
    assert weights_hash(settings) != before


def test_each_part_has_its_precision(tiny_recipe, tiny_salmonn, waves):
    whole, processor = tiny_salmonn()
    parts = ("teacher.dtype=bf16", "teacher.precision.encoder=fp32", "teacher.precision.connector=fp32")
    mixed, _ = tiny_salmonn(*parts)
    dtypes = {name: {p.dtype for p in part.parameters()} for name, part in mixed.named_children()}
    fp32, bf16 = {torch.float32}, {torch.bfloat16}
    assert dtypes == {"encoder": fp32, "beats": bf16, "connector": fp32, "llm": bf16}
    batch = processor([Clip(waves[0], "transcribe", "press one")])
    with torch.no_grad():
        torch.testing.assert_close(mixed(batch).loss, whole(batch).loss, atol=0.05, rtol=0.05)
    settings = read_recipe(tiny_recipe, [*parts, "teacher.weights=null"]).teacher
    assert {p.dtype for p in build_teacher(settings, torch.float32)[0].parameters()} == fp32


def test_a_tokenizer_of_another_model_is_refused(tiny_recipe, tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "llm", tmp_path / "llm")
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    small = LlamaForCausalLM(LlamaConfig(**config | {"vocab_size": 100}))
    small.save_pretrained(tmp_path / "llm")
    with pytest.raises(InputError, match="its tokenizer has 300 tokens, the model 100"):
        build_teacher(settings_of(tiny_recipe, f"teacher.llm={tmp_path}/llm", "teacher.weights=null"))


@pytest.mark.parametrize(("kind", "prefix"), [("LlamaTokenizer", True), ("GemmaTokenizer", False)])
def test_a_sentencepiece_tokenizer_is_read_as_its_llm_ships_it(
    tiny_recipe, tiny_weights, waves, tmp_path, kind, prefix
):
    """Vicuna and Gemma: the folder holds tokenizer.model and no tokenizer.json."""
    folder = shutil.copytree(tiny_weights / "llm", tmp_path / "llm")
    (folder / "tokenizer.json").unlink()
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 9),
        model_writer=trained,
        model_type="bpe",
        vocab_size=290,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    told = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    # No space where a piece of the prompt begins, as in the released prompts: there the libraries differ.
    own = [f"teacher.llm={folder}", "teacher.weights=null", "teacher.prompt.audio=<SpeechHere>{}"]
    model, processor = build_teacher(settings_of(tiny_recipe, *own))
    pieces, text = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue()), SENTENCES[0]
    assert processor.text_ids(text) == [*pieces.encode(text), pieces.eos_id()]
    assert processor.decode(torch.tensor([processor.text_ids(text)])) == [text]
    before, after = pieces.encode("USER: "), pieces.encode("x\nASSISTANT:")
    pad = processor.config.pad_token_id
    assert processor.prompt_ids("x", 2) == [pieces.bos_id(), *before, pad, pad, *after]
    assert pad == len(processor.tokenizer) - 1 and processor.tokenizer.convert_ids_to_tokens(pad) == "[PAD]"
    model(processor([Clip(waves[0], "transcribe", text)]))


@pytest.mark.parametrize("kind", ["trained", "untrained", "random"])
def test_without_its_llm_a_teacher_is_the_same_in_its_other_parts(tiny_recipe, monkeypatch, kind):
    own = [] if kind == "trained" else ["teacher.weights=null"]
    if kind == "random":
        own += [
            "teacher.random_weights=true",
            f"teacher.shapes={json.dumps(shapes_of_files(settings_of(tiny_recipe)))}",
        ]
    settings = settings_of(tiny_recipe, *own)
    torch.manual_seed(3)
    whole, processor = build_teacher(settings, torch.float32)
    torch.manual_seed(3)
    if kind == "trained":
        monkeypatch.setattr("teacher.build.load_pretrained", lambda *_: pytest.fail("its LLM is read"))
    model, without = build_teacher(settings, torch.float32, with_llm=False)
    assert model.config.to_dict() == whole.config.to_dict() and model.device == whole.device
    assert without.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    tensors, shaped = whole.state_dict(), model.state_dict()
    assert {name: tensor.shape for name, tensor in shaped.items()} == {n: t.shape for n, t in tensors.items()}
    assert {name for name, tensor in shaped.items() if tensor.is_meta} == {
        name for name in shaped if name.startswith("llm.") and kind == "trained"
    }
    assert all(tensor.is_meta or torch.equal(tensor, tensors[name]) for name, tensor in shaped.items())


def test_a_trained_part_of_another_shape_is_refused_without_the_llm_too(tiny_recipe):
    with pytest.raises(InputError, match=r"lora_A.*not the weights|not the weights.*lora_"):
        build_teacher(settings_of(tiny_recipe, "teacher.lora.r=2"), torch.float32, with_llm=False)
