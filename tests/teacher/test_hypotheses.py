import dataclasses

import pytest
import torch

from data.rows.manifest_reader import read_manifest
from teacher.hypotheses import GenerationSettings, generate_texts, write_batch
from teacher.processor import Clip
from tests.conftest import sound


@torch.no_grad()
def teacher_forced(model, batch, new_BT):
    """Log-probabilities (B, T, V) with which the model predicts each new id, without a key-value cache."""
    new_BT = new_BT.masked_fill(new_BT == model.config.pad_token_id, 0)  # after an end: not a place for audio
    ids_BT = torch.cat([batch.input_ids_BT, new_BT], 1)
    mask_BT = torch.cat([batch.attention_mask_BT, torch.ones_like(new_BT)], 1)
    whole = dataclasses.replace(
        batch,
        input_ids_BT=ids_BT,
        attention_mask_BT=mask_BT,
        audio_N=((ids_BT == model.config.pad_token_id) & mask_BT.bool()).flatten().nonzero()[:, 0],
    )
    positions_BT = (whole.attention_mask_BT.cumsum(1) - 1).clamp(min=0)
    hidden = model.llm.get_decoder()(
        inputs_embeds=model.embed(whole, model.audio_tokens(whole)),
        attention_mask=whole.attention_mask_BT,
        position_ids=positions_BT,
    ).last_hidden_state
    return model.llm.get_output_embeddings()(hidden).log_softmax(-1)[:, batch.input_ids_BT.shape[1] - 1 : -1]


@pytest.mark.parametrize("beams", [1, 3])
def test_text_and_logp_are_what_teacher_forcing_says(tiny_teacher, waves, beams):
    model, processor = tiny_teacher
    batch = processor([Clip(wave, "transcribe") for wave in waves])
    # A token of the first clip's middle becomes the end symbol, so that texts end at different places.
    first = model.generate(batch, max_new_tokens=8)[0]
    model.config.eos_token_id = processor.config.eos_token_id = int(first[4])
    options = {"num_beams": beams, "max_new_tokens": 8}
    seconds = [len(wave) / 16_000 for wave in waves]
    ids_BT = model.generate(batch, **options)
    logp_BTV = teacher_forced(model, batch, ids_BT)
    ends = []
    for row, (ids, (text, logp, ended)) in enumerate(
        zip(
            ids_BT.tolist(),
            generate_texts(model, processor, batch, model.audio_tokens(batch), seconds, GenerationSettings(**options)),
            strict=True,
        )
    ):
        end = ids.index(model.config.eos_token_id) + 1 if model.config.eos_token_id in ids else len(ids)
        ends.append(end)
        assert ended == (model.config.eos_token_id in ids)
        if beams == 1:
            assert logp_BTV[row, :end].argmax(-1).tolist() == ids[:end]
        own = logp_BTV[row, range(end), ids[:end]]
        assert logp == pytest.approx(float(own.mean()), abs=1e-4)
        assert text == processor.decode(ids_BT[row : row + 1])[0] == text.lower()
    assert min(ends) < max(ends) or beams > 1


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("ends", [True, False])
def test_each_text_is_that_of_its_clip_alone_within_its_own_cap(tiny_teacher, beams, ends):
    model, processor = tiny_teacher
    waves = [sound(0.6 + 0.35 * i, i) for i in range(8)]
    settings = GenerationSettings(max_new_tokens=22, tokens_per_second=5, num_beams=beams)

    def written(chosen):
        batch = processor([Clip(waves[i], "transcribe") for i in chosen])
        seconds = [len(waves[i]) / 16_000 for i in chosen]
        return generate_texts(model, processor, batch, model.audio_tokens(batch), seconds, settings)

    # A token that is written often becomes the end symbol, so that some texts end and some are cut; or none ends.
    ids = model.generate(processor([Clip(wave, "transcribe") for wave in waves]), max_new_tokens=20)
    common = ids.flatten().bincount().argsort(descending=True)
    model.config.eos_token_id = processor.config.eos_token_id = int(common[3]) if ends else 10_000
    together = written(range(len(waves)))
    assert len({settings.cap(len(wave) / 16_000) for wave in waves}) > 5
    assert {ended for *_, ended in together} == ({True, False} if ends else {False})
    for i, (text, logp, ended) in enumerate(together):
        ((alone, alone_logp, alone_ended),) = written([i])
        assert (text, ended) == (alone, alone_ended) and logp == pytest.approx(alone_logp, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_log_probabilities_are_those_of_all_scores_without_keeping_them(tiny_teacher, waves, beams, monkeypatch):
    model, processor = tiny_teacher
    first = model.generate(processor([Clip(wave, "transcribe") for wave in waves]), max_new_tokens=8)[0]
    model.config.eos_token_id = processor.config.eos_token_id = int(first[4])
    batch = processor([Clip(wave, "transcribe") for wave in waves])
    options = {"num_beams": beams, "max_new_tokens": 9, "return_dict_in_generate": True}
    whole = model.generate(batch, output_scores=True, **options)
    expected_BT = model.llm.compute_transition_scores(
        whole.sequences, whole.scores, getattr(whole, "beam_indices", None), normalize_logits=beams == 1
    )
    kept, generate = [], type(model).generate

    def spy(*arguments, **more):
        kept.append(generate(*arguments, **more))
        return kept[-1]

    monkeypatch.setattr(type(model), "generate", spy)
    settings = GenerationSettings(num_beams=beams, max_new_tokens=9)
    texts = generate_texts(model, processor, batch, model.audio_tokens(batch), [30.0] * len(waves), settings)
    assert kept[0].scores is None and kept[0].logits is None
    for (_, logp, _), ids, expected_T in zip(texts, whole.sequences.tolist(), expected_BT, strict=True):
        end = ids.index(model.config.eos_token_id) + 1 if model.config.eos_token_id in ids else len(ids)
        assert logp == pytest.approx(float(expected_T[:end].mean()), abs=1e-6)


def test_every_row_gets_its_own_text_whatever_the_batches(tiny_teacher, tiny_data):
    model, processor = tiny_teacher
    pairs = [(row, "transcribe") for row in read_manifest(tiny_data / "train.json")]
    by_budget = []
    for size in (1, 4):
        settings = GenerationSettings(max_new_tokens=6)
        parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        written = [hypothesis for part in parts for hypothesis in write_batch(model, processor, part, settings)]
        assert [h.row.id for h in written] == [row.id for row, _ in pairs]
        assert all(h.seconds > 0 for h in written)
        by_budget.append({h.row.id: (h.text, round(h.logp, 3)) for h in written})
    assert by_budget[0] == by_budget[1]
    assert len(set(by_budget[0].values())) > 1
