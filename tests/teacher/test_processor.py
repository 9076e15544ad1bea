import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.errors import InputError
from data.paths import REPOSITORY
from data.rows.manifest_reader import read_manifest
from data.sound.audio import load_clip
from teacher.connector import Connector
from teacher.processor import MAX_TEXT_TOKENS, Clip, SalmonnProcessor


@pytest.fixture
def processor(tiny_teacher):
    return tiny_teacher[1]


def ids(processor, text):
    return processor.tokenizer(text, add_special_tokens=False).input_ids


def test_the_prompt_is_bos_text_audio_places_and_text(processor):
    tokenizer, pad = processor.tokenizer, processor.config.pad_token_id
    assert tokenizer.bos_token_id == 0 and tokenizer.convert_ids_to_tokens(pad) == "[PAD]"
    expected = [0, *ids(processor, "USER: "), pad, pad, pad, *ids(processor, " transcribe\nASSISTANT:")]
    assert processor.prompt_ids("transcribe", 3) == expected


def test_a_tokenizer_without_bos_gives_a_prompt_without_one(processor):
    processor.tokenizer.bos_token = None
    assert processor.prompt_ids("x", 1)[0] == ids(processor, "USER: ")[0]


def test_training_is_right_padded_with_labels_on_text_and_end(processor, waves):
    texts = ["press one", "the agent is now logged in", ""]
    batch = processor([Clip(wave, "transcribe", text) for wave, text in zip(waves, texts, strict=True)])
    pad, end = processor.config.pad_token_id, processor.config.eos_token_id
    for row, (text, frames) in enumerate(zip(texts, batch.features.mel_frames_B.tolist(), strict=True)):
        prompt = processor.prompt_ids("transcribe", processor.audio_slots(frames))
        whole = prompt + ids(processor, text) + [end]
        length = len(whole)
        assert batch.input_ids_BT[row, :length].tolist() == whole
        assert set(batch.input_ids_BT[row, length:].tolist()) <= {pad}
        assert batch.attention_mask_BT[row].tolist() == [1] * length + [0] * (batch.input_ids_BT.shape[1] - length)
        expected = torch.full_like(batch.labels_BT[row], -100)
        expected[len(prompt) : length] = torch.tensor(whole[len(prompt) :])
        assert batch.labels_BT[row].tolist() == expected.tolist()


def test_generation_is_left_padded_without_labels(processor, waves):
    batch = processor([Clip(wave, "transcribe") for wave in waves])
    assert batch.labels_BT is None
    for row, frames in enumerate(batch.features.mel_frames_B.tolist()):
        prompt = processor.prompt_ids("transcribe", processor.audio_slots(frames))
        padding = batch.input_ids_BT.shape[1] - len(prompt)
        assert batch.input_ids_BT[row, padding:].tolist() == prompt
        assert batch.attention_mask_BT[row].tolist() == [0] * padding + [1] * len(prompt)


def test_a_text_that_is_cut_has_no_end(processor):
    end = processor.config.eos_token_id
    for length in (0, 1, MAX_TEXT_TOKENS - 1, MAX_TEXT_TOKENS, MAX_TEXT_TOKENS + 1, MAX_TEXT_TOKENS + 50):
        text = processor.text_ids("b" * length)
        assert text == ids(processor, "b" * length)[:MAX_TEXT_TOKENS] + [end] * (length <= MAX_TEXT_TOKENS)
        assert list(processor.text_lengths(["b" * length])) == [len(text)]


WORDS = [
    "[PAD]",
    "</s>",
    "<s>",
    "[PAD",
    "PAD]",
    "</",
    "s>",
    "<SpeechHere>",
    "{}",
    "press",
    " one ",
    "é",
    "\n",
    "USER: ",
]
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=9).map("".join)


def stand_in(processor, **changes):
    """The processor over another tokenizer or prompt."""
    config = copy.deepcopy(processor.config)
    for name, value in changes.items():
        setattr(config, name, value)
    return SalmonnProcessor(processor.tokenizer, config)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, instruction=TEXTS, slots=st.integers(0, 5))
@pytest.mark.parametrize("audio", ["<SpeechHere> {}", "{}<SpeechHere>", "<s>{}</s><SpeechHere>{}"])
def test_whatever_is_written_there_is_a_place_for_each_audio_token_and_one_end(
    processor, audio, text, instruction, slots
):
    own = stand_in(processor, prompt={"template": "<s>USER: {}\nASSISTANT:", "audio": audio})
    pad, end = own.config.pad_token_id, own.config.eos_token_id
    found = own.text_ids(text)
    assert found.count(end) == (len(found) <= MAX_TEXT_TOKENS) and pad not in found
    assert found.count(end) == 0 or found[-1] == end
    assert own.tokenizer.decode([i for i in found if i != end]) == text or len(found) == MAX_TEXT_TOKENS
    prompt = own.prompt_ids(instruction, slots)
    assert prompt.count(pad) == slots
    # The template's own special tokens are such: BOS, and those that it names.
    of_template = "<s>" + own.config.prompt["template"].replace("{}", audio)
    for token in ("<s>", "</s>"):
        assert prompt.count(own.tokenizer.convert_tokens_to_ids(token)) == of_template.count(token)
    written = own.tokenizer.decode([i for i in prompt if i != pad])
    before, _, after = of_template.partition("<SpeechHere>")
    assert written == before.replace("{}", instruction) + after.replace("{}", instruction)


def test_ordinary_words_have_the_ids_that_they_had(processor):
    for text in ["press one", "Ä <b> [x] s> {", "", " a  dog"]:
        assert processor.text_ids(text) == [*ids(processor, text), processor.config.eos_token_id]
        after = ids(processor, f" {text}\nASSISTANT:")
        assert processor.prompt_ids(text, 1) == [0, *ids(processor, "USER: "), processor.config.pad_token_id, *after]


def test_threads_may_tokenise_texts_and_prompts_at_once(processor):
    texts, prompts = processor.text_ids("press [PAD] one"), processor.prompt_ids("say </s> one", 2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: processor.text_ids("press [PAD] one") if i % 2 else None, range(400)))
        made = [pool.submit(processor.prompt_ids, "say </s> one", 2) for _ in range(200)]
        found += list(pool.map(lambda _: processor.text_ids("press [PAD] one"), range(200)))
    assert {tuple(of) for of in found if of is not None} == {tuple(texts)}
    assert {tuple(of.result()) for of in made} == {tuple(prompts)}


def test_a_tokenizer_that_has_an_end_symbol_among_its_words_refuses_a_text_with_it(processor):
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)] + [(letter, -5.0) for letter in "▁</>abcdefghs"]
    unigram = Tokenizer(Unigram(pieces, unk_id=0))
    unigram.pre_tokenizer = Metaspace()
    own = SalmonnProcessor(
        PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>", pad_token="[PAD]"),
        copy.deepcopy(processor.config),
    )
    own.config.eos_token_id, own.config.pad_token_id = 2, len(own.tokenizer) - 1
    assert own.text_ids("a cab")[-1] == 2
    for of in (own.text_ids, lambda text: list(own.text_lengths(["a", text])), lambda text: own.prompt_ids(text, 1)):
        with pytest.raises(InputError, match="'a </s> cab' holds </s>, which this tokenizer cannot take as text"):
            of("a </s> cab")


@settings(max_examples=50)
@given(frames=st.integers(1, 400), window=st.integers(1, 40), stride=st.integers(1, 40))
def test_there_is_a_place_for_each_audio_token(frames, window, stride):
    from teacher.config import SalmonnConfig

    config = SalmonnConfig(window_frames=window, window_stride=stride)
    connector = object.__new__(Connector)
    vars(connector).update(window_frames=window, window_stride=stride)
    assert SalmonnProcessor(None, config).audio_slots(frames) == connector.windows((frames + 1) // 2)


def test_decoding_stops_at_the_end_symbol_and_drops_specials(processor):
    text = processor.text_ids("Press One")
    pad = processor.config.pad_token_id
    rows = [[*text, *processor.text_ids("more")], [pad, *text[:-1], pad, pad, *text[:1]]]
    length = max(len(row) for row in rows)
    decoded = processor.decode(torch.tensor([row + [pad] * (length - len(row)) for row in rows]))
    assert decoded[0] == "press one"
    assert decoded[1].startswith("press one") and "[pad]" not in decoded[1]


def test_a_saved_processor_lays_out_the_same(tiny_teacher, tmp_path, waves):
    model, processor = tiny_teacher
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = SalmonnProcessor.from_pretrained(tmp_path)
    clips = [Clip(wave, "transcribe", "press one") for wave in waves]
    one, other = processor(clips), again(clips)
    assert torch.equal(one.features.mel_BMT, other.features.mel_BMT)
    for name in ("input_ids_BT", "attention_mask_BT", "labels_BT"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_lengths_of_many_texts_are_those_of_each(processor):
    texts = ["Press One", "", "b" * (MAX_TEXT_TOKENS + 50)] * 2000  # more than are tokenised at a time
    assert list(processor.text_lengths(texts)) == [len(processor.text_ids(text)) for text in texts[:3]] * 2000


def test_rows_are_decoded_in_batches_of_like_length(tiny_teacher, own_data):
    _, processor = tiny_teacher
    rows = read_manifest(own_data / "train.json")
    batches = list(processor.decoded(rows, max_seconds=6))
    assert sorted(i for indices, _ in batches for i in indices) == list(range(len(rows)))
    longest = [processor.seconds(rows)[indices].max() for indices, _ in batches]
    assert longest == sorted(longest, reverse=True) and len(batches) > 2
    for indices, waves in batches:
        assert len(indices) * processor.seconds(rows)[indices].max() <= 6
        assert all(np.array_equal(wave, load_clip(rows[i])) for i, wave in zip(indices, waves, strict=True))


def test_a_folder_with_only_a_sentencepiece_model_is_cut_as_salmonn_7b_was_trained(tmp_path):
    """As Vicuna's is; SALMONN cuts each piece of its prompt by SentencePiece alone."""
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(path.read_text() for path in sorted(REPOSITORY.glob("*.md"))))
    model = tmp_path / "tokenizer"
    sizes = {"vocab_size": 800, "byte_fallback": True, "model_type": "bpe", "minloglevel": 2}
    kinds = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(input=str(lines), model_prefix=str(model), **sizes, **kinds)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "legacy": false, "add_bos_token": true, "bos_token": "<s>", '
        '"eos_token": "</s>", "unk_token": "<unk>"}'
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    pieces = sentencepiece.SentencePieceProcessor(str(model.with_suffix(".model")))
    for text in (
        "USER: <Speech>",
        "</Speech> Please describe the audio.\nASSISTANT:",
        "the agent is now logged in",
        "é",
    ):
        assert tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text)
    ids = tokenizer("yes</s>", add_special_tokens=False).input_ids
    assert ids == [*pieces.encode("yes"), pieces.eos_id()] and tokenizer.bos_token_id == pieces.bos_id()
