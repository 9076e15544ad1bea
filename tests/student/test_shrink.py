import copy

import pytest
import torch

from data.errors import InputError
from distill.recipe.reading import read_recipe
from student.shrink import StudentSettings, set_trainable, shrink
from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import Clip, SalmonnProcessor
from teacher.settings import LoraSettings, QFormerSettings, StackSettings


def has_lora(model) -> bool:
    return any(".lora_" in name for name, _ in model.named_parameters())


QFORMER = QFormerSettings(layers=1, width=32, heads=2, feed_forward=64, dropout=0.0)
EVERYTHING = StudentSettings(
    encoder_layers=(0, 1), llm_layers=(0, 1, 2, 3), qformer=QFORMER, qformer_layers=(0,), margin_s=0.1
)


def some(**changes):
    return EVERYTHING.model_copy(update=changes)


@pytest.fixture
def batch(tiny_teacher, waves):
    return tiny_teacher[1]([Clip(wave, "transcribe", "press one") for wave in waves])


@torch.no_grad()
def test_nothing_left_out_is_the_teacher(tiny_teacher, batch):
    teacher, _ = tiny_teacher
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = shrink(teacher, EVERYTHING).eval()
    torch.testing.assert_close(student(batch).logits, teacher(batch).logits, atol=1e-4, rtol=1e-4)
    assert not has_lora(student)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert teacher.config.llm_config.num_hidden_layers == 4 and teacher.config.lora


@torch.no_grad()
def test_beats_is_kept_or_its_columns_are_left_out(tiny_salmonn, waves, tmp_path):
    teacher, processor = tiny_salmonn()
    batch = processor([Clip(wave, "transcribe", "press one") for wave in waves])
    kept = shrink(teacher, some(beats=True)).eval()
    torch.testing.assert_close(kept(batch).logits, teacher(batch).logits, atol=1e-4, rtol=1e-4)
    kept.save_pretrained(tmp_path)
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(again(batch).logits, kept(batch).logits)

    deaf = shrink(teacher, EVERYTHING).eval()
    assert deaf.beats is None and deaf.connector.ln_audio is None and deaf.config.beats_config is None
    name = "qformer.encoder.layer.0.crossattention.attention.key.weight"
    width = teacher.config.encoder_config.d_model
    own, whole = (model.connector.get_parameter(name) for model in (deaf, teacher))
    assert torch.equal(own, whole[:, :width]) and whole.shape[1] > width
    assert deaf(batch).logits.isfinite().all()
    with pytest.raises(InputError, match=r"student.beats: the teacher has no BEATs"):
        shrink(deaf, some(encoder_layers=(0,), beats=True))


def test_the_layers_that_are_named_are_kept_in_order(tiny_teacher):
    teacher, _ = tiny_teacher
    student = shrink(teacher, some(encoder_layers=(1,), llm_layers=(0, 1, 3)))
    merge_lora(teacher)
    pairs = [(student.encoder.layers[0], teacher.encoder.layers[1])]
    llm = student.llm.get_decoder().layers
    pairs += [(llm[i], teacher.llm.get_decoder().layers[kept]) for i, kept in enumerate((0, 1, 3))]
    for own, kept in pairs:
        for key, value in kept.state_dict().items():
            torch.testing.assert_close(own.state_dict()[key], value)
    assert len(student.encoder.layers) == student.config.encoder_config.encoder_layers == 1
    assert len(llm) == student.config.llm_config.num_hidden_layers == 3
    assert torch.equal(student.encoder.layer_norm.weight, teacher.encoder.layer_norm.weight)
    assert torch.equal(student.llm.get_decoder().norm.weight, teacher.llm.get_decoder().norm.weight)


def test_a_student_generates_with_the_cache_what_it_does_without(tiny_teacher, waves, tmp_path):
    teacher, processor = tiny_teacher
    student = shrink(teacher, some(llm_layers=(1, 3))).eval()
    batch = processor([Clip(wave, "transcribe") for wave in waves])
    with_cache = student.generate(batch, max_new_tokens=8, use_cache=True)
    assert with_cache.tolist() == student.generate(batch, max_new_tokens=8, use_cache=False).tolist()
    student.save_pretrained(tmp_path)
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.generate(batch, max_new_tokens=8).tolist() == with_cache.tolist()


def test_qformer_layers_are_copied_under_their_new_numbers(tiny_recipe):
    teacher, _ = build_teacher(read_recipe(tiny_recipe, ["teacher.qformer.layers=3", "teacher.weights=null"]).teacher)
    student = shrink(teacher, some(qformer=QFORMER.model_copy(update={"layers": 2}), qformer_layers=(0, 2)))
    for own, kept in ((0, 0), (1, 2)):
        theirs = teacher.connector.qformer.encoder.layer[kept].state_dict()
        for key, value in student.connector.qformer.encoder.layer[own].state_dict().items():
            assert torch.equal(value, theirs[key])


def test_copied_heads_of_another_number_are_refused(tiny_teacher):
    teacher, _ = tiny_teacher
    other = {"qformer": QFORMER.model_copy(update={"heads": 4})}
    with pytest.raises(
        InputError, match=r"student.qformer.heads: 4, but the teacher's Q-Former has 2 of the same width"
    ):
        shrink(teacher, some(**other, qformer_layers=(0,)))
    shrink(teacher, some(**other, qformer_layers=()))  # made anew


@pytest.mark.parametrize("part", ["encoder", "llm", "beats"])
def test_a_part_of_which_a_weight_is_missing_is_refused(tiny_salmonn, part):
    teacher, _ = tiny_salmonn("teacher.lora=null")
    shrink(teacher, some(beats=True))
    tensors = getattr(teacher, part).state_dict()
    name = next(reversed(tensors))
    getattr(teacher, part).state_dict = lambda *_, **__: {key: of for key, of in tensors.items() if key != name}
    line = rf"the {part} that the student's is made of: not the weights of this model: missing {name} \(1 in all"
    with pytest.raises(InputError, match=line):
        shrink(teacher, some(beats=True))


@torch.no_grad()
def test_what_cannot_be_copied_follows_from_the_seed(tiny_teacher):
    teacher, _ = tiny_teacher
    slim = some(qformer=QFORMER.model_copy(update={"width": 16}), qformer_layers=(0,))
    one, same, other = (shrink(teacher, slim, seed).connector.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(one["ln_speech.weight"], teacher.connector.ln_speech.weight)  # this one fits


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"encoder_layers": ()}, r"student.encoder_layers: \[\] must name layers of 0 to 1"),
        ({"encoder_layers": (2,)}, r"student.encoder_layers: \[2\] must name layers of 0 to 1"),
        ({"encoder_layers": (-1, 0)}, r"student.encoder_layers: \[-1, 0\]"),
        ({"llm_layers": (0, 0)}, r"student.llm_layers: \[0, 0\] must name layers of 0 to 3, each once"),
        ({"llm_layers": (1, 0)}, r"student.llm_layers: \[1, 0\]"),
        ({"qformer_layers": (1,)}, r"student.qformer_layers: \[1\] must name layers of 0 to 0"),
    ],
)
def test_layers_that_are_not_there_are_refused(tiny_teacher, change, line):
    with pytest.raises(InputError, match=line):
        shrink(tiny_teacher[0], some(**change))


def test_more_qformer_layers_than_the_student_has_are_refused(tiny_recipe):
    teacher, _ = build_teacher(read_recipe(tiny_recipe, ["teacher.qformer.layers=3", "teacher.weights=null"]).teacher)
    with pytest.raises(
        InputError, match=r"student.qformer_layers: \[0, 2\] are more than the student's Q-Former has \(1\)"
    ):
        shrink(teacher, some(qformer_layers=(0, 2)))


@torch.no_grad()
def test_a_student_starts_from_an_earlier_one_and_not_from_another(tiny_teacher, batch, tmp_path):
    teacher, _ = tiny_teacher
    earlier = shrink(teacher, some(llm_layers=(0, 3)), seed=5).eval()
    earlier.connector.query.add_(1)
    earlier.save_pretrained(tmp_path / "model")
    student = shrink(teacher, some(llm_layers=(0, 3), weights=str(tmp_path / "model"))).eval()
    assert torch.equal(student(batch).logits, earlier(batch).logits)
    with pytest.raises(InputError, match="model: not the weights of this model"):
        shrink(teacher, some(llm_layers=(0, 1, 3), weights=str(tmp_path / "model")))
    with pytest.raises(InputError, match=r"student.weights: .*absent holds no model"):
        shrink(teacher, some(weights=str(tmp_path / "absent")))


@torch.no_grad()
def test_a_student_may_carry_lora_of_its_own(tiny_teacher, batch):
    teacher, _ = tiny_teacher
    student = shrink(teacher, some(lora=LoraSettings(r=2, target_modules=("o_proj",), lora_dropout=0.0))).eval()
    assert has_lora(student)
    torch.testing.assert_close(student(batch).logits, teacher(batch).logits, atol=1e-4, rtol=1e-4)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_only_what_is_asked_for_is_trained(tiny_teacher):
    student = shrink(tiny_teacher[0], EVERYTHING)
    names = {name for name, _ in student.named_parameters()}
    set_trainable(student, {"connector"})
    assert trained(student) == {name for name in names if name.startswith("connector.")}
    set_trainable(student, {"encoder", "llm"})
    fixed = {"encoder.embed_positions.weight", "llm.model.embed_tokens.weight", "llm.lm_head.weight"}
    assert trained(student) == {name for name in names if name.split(".")[0] in ("encoder", "llm")} - fixed
    set_trainable(student, {"llm"}, embeddings=True)
    assert "llm.model.embed_tokens.weight" in trained(student)


def test_a_model_with_lora_trains_its_adapters_only(tiny_teacher):
    model, _ = tiny_teacher
    set_trainable(model, {"llm", "connector"})
    llm = {name for name in trained(model) if name.startswith("llm.")}
    assert llm and all(".lora_" in name for name in llm)
    set_trainable(model, {"llm"}, embeddings=True)
    assert trained(model) == llm | {"llm.model.embed_tokens.weight"}


def test_the_student_may_hear_another_margin(tiny_teacher, waves):
    teacher, processor = tiny_teacher
    student = shrink(copy.deepcopy(teacher), some(margin_s=0.5))
    own = SalmonnProcessor(processor.tokenizer, student.config)
    frames = [p([Clip(waves[0], "transcribe")]).features.mel_frames_B.item() for p in (processor, own)]
    assert frames == [110, 150]


@torch.no_grad()
@pytest.mark.parametrize("margin_s", [0.1, None])
def test_the_student_may_have_windows_of_its_own(tiny_recipe, waves, tmp_path, margin_s):
    teacher, processor = build_teacher(read_recipe(tiny_recipe, [f"teacher.margin_s={margin_s or 'null'}"]).teacher)
    student = shrink(teacher, some(margin_s=margin_s, window_frames=20, window_stride=15)).eval()
    assert (student.connector.window_frames, student.connector.window_stride) == (20, 15)
    own = SalmonnProcessor(processor.tokenizer, student.config)
    assert not own.hears_like(teacher.config)  # other places in the prompt
    batch = own([Clip(wave, "transcribe", "press one") for wave in waves])
    frames_B = batch.features.mel_frames_B // 2
    counts = [max((frames - 20) // 15 + 1, 1) for frames in frames_B.tolist()]
    places_B = ((batch.input_ids_BT == own.config.pad_token_id) & batch.attention_mask_BT.bool()).sum(1)
    assert places_B.tolist() == counts and len(student.audio_tokens(batch)) == sum(counts)
    theirs = teacher.connector.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in student.connector.state_dict().items())
    student.save_pretrained(tmp_path)
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(again(batch).logits, student(batch).logits)


@torch.no_grad()
@pytest.mark.parametrize("margin_s", [0.1, None])
def test_the_student_may_have_stacked_frames(tiny_teacher, waves, tmp_path, margin_s):
    teacher, processor = tiny_teacher
    shape = {"connector": "stack", "qformer": None, "qformer_layers": (), "stack": StackSettings(frames=10, width=24)}
    settings = some(**shape, margin_s=margin_s, reference_padding=margin_s is None)
    student = shrink(teacher, settings).eval()
    own = SalmonnProcessor(processor.tokenizer, student.config)
    batch = own([Clip(wave, "transcribe", "press one") for wave in waves])
    counts = (batch.features.mel_frames_B // 20).tolist()
    places_B = ((batch.input_ids_BT == own.config.pad_token_id) & batch.attention_mask_BT.bool()).sum(1)
    assert places_B.tolist() == counts and len(student.audio_tokens(batch)) == sum(counts)
    assert margin_s or counts == [150] * 3
    student.save_pretrained(tmp_path)
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(again(batch).logits, student(batch).logits)
    # Cut further, or heard otherwise, it keeps its connector.
    further = shrink(again, settings.model_copy(update={"llm_layers": (0, 1, 3)}))
    longer = shrink(teacher, settings.model_copy(update={"margin_s": 0.5, "weights": str(tmp_path)}), seed=1)
    for model in (further, longer):
        theirs = student.connector.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in model.connector.state_dict().items())
    with pytest.raises(InputError, match=r"student.base has no Q-Former whose layers stay"):
        shrink(student, some(base=str(tmp_path)))


@torch.no_grad()
def test_every_part_may_have_lora(tiny_salmonn, waves, tmp_path):
    teacher, processor = tiny_salmonn()
    batch = processor([Clip(wave, "transcribe", "press one") for wave in waves])
    lora = LoraSettings(r=2, lora_dropout=0.0)
    parts = {
        "encoder": lora,
        "beats": lora,
        "connector": lora.model_copy(update={"target_modules": ("query", "dense")}),
    }
    student = shrink(teacher, some(beats=True, lora=lora, part_lora=parts)).eval()
    torch.testing.assert_close(student(batch).logits, teacher(batch).logits, atol=1e-4, rtol=1e-4)
    set_trainable(student, {"encoder", "beats", "connector", "llm"})
    assert {name.split(".")[0] for name in trained(student)} == {"encoder", "beats", "connector", "llm"}
    assert all(".lora_" in name for name in trained(student))
    for name, parameter in student.named_parameters():
        if ".lora_B." in name:
            parameter.normal_(std=0.2)
    adapted = student(batch).logits
    assert not torch.allclose(adapted, teacher(batch).logits, atol=1e-2)
    student.save_pretrained(tmp_path / "adapted")
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "adapted").eval()
    assert torch.equal(again(batch).logits, adapted)
    start = some(beats=True, weights=str(tmp_path / "adapted"))
    for student in (again, shrink(teacher, start).eval()):
        merge_lora(student)
        assert not has_lora(student) and not student.config.adapted
        torch.testing.assert_close(student(batch).logits, adapted, atol=1e-3, rtol=1e-3)
    again.save_pretrained(tmp_path / "merged")
    start = some(beats=True, lora=lora, part_lora=parts, weights=str(tmp_path / "merged"))
    torch.testing.assert_close(shrink(teacher, start).eval()(batch).logits, adapted, atol=1e-3, rtol=1e-3)
    with pytest.raises(InputError, match=r"student.part_lora: the student has no beats"):
        shrink(teacher, some(part_lora={"beats": lora}))
    with pytest.raises(InputError, match=r"LoRA of the connector: .*q_proj.*; name linear layers that it has"):
        shrink(teacher, some(part_lora={"connector": lora}))
    with pytest.raises(InputError, match=r"LoRA of the llm: its head is one with the loss"):
        shrink(teacher, some(lora=lora.model_copy(update={"target_modules": ("q_proj", "lm_head")})))
