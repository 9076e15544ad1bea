import copy
import json
import shutil

import pytest
import torch

from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import Clip, supervised


def has_lora(model) -> bool:
    return any(".lora_" in name for name, _ in model.named_parameters())


TEXTS = ["press one", "your call is important to us", "a dog"]
INSTRUCTIONS = ["transcribe", "describe the sound", "transcribe"]


def clips(waves, texts=TEXTS):
    return [Clip(*clip) for clip in zip(waves, INSTRUCTIONS, texts or [None] * 3, strict=True)]


def test_who_may_read_its_configuration_may_read_its_weights(tiny_teacher, tmp_path):
    tiny_teacher[0].save_pretrained(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize("hearing", ["whisper", "both", "both, in 30 s"])
@torch.no_grad()
def test_logits_do_not_depend_on_the_batch(tiny_teacher, tiny_salmonn, waves, hearing):
    model, processor = tiny_teacher
    if hearing != "whisper":
        model, processor = tiny_salmonn(f"teacher.margin_s={'null' if '30' in hearing else 0.1}")
    batch = processor(clips(waves))
    together = model(batch).logits
    for row, clip in enumerate(clips(waves)):
        alone = model(processor([clip])).logits[0]
        length = int(batch.attention_mask_BT[row].sum())
        assert len(alone) == length
        assert alone.std() > 0.5  # not flat: a mix-up would show
        torch.testing.assert_close(together[row, :length], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_references_padding_is_heard_on_request(tiny_salmonn, waves):
    windows = ("teacher.margin_s=null", "teacher.window_frames=17", "teacher.window_stride=17")
    right, processor = tiny_salmonn(*windows)
    exact, its_processor = tiny_salmonn(*windows, "teacher.reference_padding=true")
    counts, audio = [], []
    for model, own in ((right, processor), (exact, its_processor)):
        batch = own(clips(waves))
        states = model.encode(batch.features)
        counts.append(model.connector.windows(states.frames_B).tolist())
        audio.append(model.connector(states).split(counts[-1]))
    # 1.0, 2.7 and 1.64 s of 50 frames a second in windows of 17, the last one filled up.
    assert counts == [[3, 8, 5], [88, 88, 88]]
    # Where there is no padding, the two agree.
    torch.testing.assert_close(audio[0][1][:7], audio[1][1][:7], atol=1e-5, rtol=1e-4)


def test_generated_ids_do_not_depend_on_the_batch(tiny_teacher, waves):
    model, processor = tiny_teacher
    for beams in (1, 3):
        together = model.generate(processor(clips(waves, None)), max_new_tokens=8, num_beams=beams)
        for clip, ids in zip(clips(waves, None), together, strict=True):
            alone = model.generate(processor([clip]), max_new_tokens=8, num_beams=beams)[0]
            assert alone.tolist() == ids[: len(alone)].tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 0.7, "top_k": 0}])
def test_nothing_is_decoded_as_the_llms_folder_advises(tiny_recipe, tiny_weights, waves, tmp_path, options):
    from distill.recipe.reading import read_recipe

    advised = shutil.copytree(tiny_weights / "llm", tmp_path / "advised")
    advice = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "do_sample": True, "temperature": 0.3, "top_k": 1}
    advice |= {
        "min_new_tokens": 7,
        "eos_token_id": [5, 6],
        "suppress_tokens": [7],
        "length_penalty": 3.0,
        "num_beams": 2,
    }
    (advised / "generation_config.json").write_text(json.dumps(advice))
    ids = []
    for llm in (tiny_weights / "llm", advised):
        model, processor = build_teacher(read_recipe(tiny_recipe, [f"teacher.llm={llm}"]).teacher)
        for _ in range(2):
            torch.manual_seed(0)
            ids.append(model.generate(processor(clips(waves, None)), max_new_tokens=12, **options).tolist())
    assert ids[0] == ids[1] == ids[2] == ids[3]
    model.llm.generation_config.repetition_penalty = 1.3  # whoever sets it
    torch.manual_seed(0)
    assert ids[0] == model.generate(processor(clips(waves, None)), max_new_tokens=12, **options).tolist()


@torch.no_grad()
def test_what_is_heard_and_asked_matters(tiny_teacher, waves):
    model, processor = tiny_teacher
    first = model(processor([Clip(waves[0], "transcribe", "press one")])).logits
    assert not torch.allclose(first, model(processor([Clip(-waves[0][::-1], "transcribe", "press one")])).logits)
    other = model(processor([Clip(waves[0], "transcribf", "press one")])).logits
    assert first.shape != other.shape or not torch.allclose(first[:, -3:], other[:, -3:])


@torch.no_grad()
def test_the_loss_is_the_mean_over_text_and_end(tiny_teacher, waves):
    model, processor = tiny_teacher
    batch = processor(clips(waves))
    out = model(batch)
    logp_BTV = out.logits.log_softmax(-1)
    terms = []
    for b, text in enumerate(TEXTS):
        text_ids = processor.text_ids(text)
        end = int(batch.attention_mask_BT[b].sum())
        terms += [-logp_BTV[b, end - len(text_ids) + i - 1, token] for i, token in enumerate(text_ids)]
    torch.testing.assert_close(out.loss, torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)


def test_supervised_positions_come_one_before_their_labels():
    labels_BT = torch.tensor([[-100, 5, 6, -100], [-100, -100, -100, 7]])
    rows, labels = supervised(labels_BT)
    assert rows.tolist() == [0, 1, 6] and labels.tolist() == [5, 6, 7]
    assert labels_BT.tolist() == [[-100, 5, 6, -100], [-100, -100, -100, 7]]


@pytest.mark.parametrize("merged", [False, True])
@torch.no_grad()
def test_a_saved_model_is_the_same_model(tiny_teacher, tmp_path, waves, merged):
    model, processor = tiny_teacher
    if merged:
        merge_lora(model)
    model.save_pretrained(tmp_path / "model")
    again, report = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert has_lora(again) is not merged
    batch = processor(clips(waves))
    assert torch.equal(again.eval()(batch).logits, model(batch).logits)


@torch.no_grad()
def test_merging_lora_keeps_the_outputs_and_leaves_no_adapter(tiny_teacher, waves):
    model, processor = tiny_teacher
    batch = processor(clips(waves))
    before = model(batch).logits
    merged = copy.deepcopy(model)
    merge_lora(merged)
    torch.testing.assert_close(merged(batch).logits, before, atol=1e-4, rtol=1e-4)
    assert has_lora(model) and not has_lora(merged) and merged.config.lora is None
    assert not [name for name, _ in merged.named_parameters() if "lora" in name or "base_layer" in name]
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.zero_()
    assert not torch.allclose(model(batch).logits, before, atol=1e-2)  # the adapters did something
