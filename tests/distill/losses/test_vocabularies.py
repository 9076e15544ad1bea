"""A student whose LLM has a vocabulary of another kind than the teacher's, through the whole of training."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from data.cache.reader import CacheReader
from data.errors import InputError
from data.sound.audio import load_clip
from distill.losses.alignment import Alignment
from distill.losses.settings import LossWeights
from distill.losses.universal import SpanSignal
from distill.models.loading import load_for_scoring
from distill.models.students import processor_of, student_of
from distill.recipe.reading import read_recipe
from distill.recipe.rows import read_rows
from distill.training.examples import Examples
from teacher.build import PAD_TOKEN, build_teacher
from teacher.hypotheses import write_batch
from teacher.processor import Clip, SalmonnProcessor
from tests.conftest import SENTENCES, sound
from tests.teacher.test_build import SHAPES

UNIVERSAL = "train.kd.vocabulary=universal"
STAGES = [
    {"name": "encoder", "steps": 1, "losses": {"encoder": 1.0}, "lr": {"encoder": 1e-3}},
    {
        "name": "distil",
        "steps": 5,
        "losses": {"ce": 0.3, "kd": 0.7, "ctc": 0.1},
        "lr": {"encoder": 1e-3, "connector": 1e-3, "llm": 1e-3},
    },
]
STAGES = [stage | {"max_seconds": 6, "warmup_steps": 1} for stage in STAGES]


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """A Qwen 2 of random weights: other merges, no BOS, and more rows than its tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("qwen")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(["enter the password now, then leave it in a bell"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(vocab_size=320, num_key_value_heads=2, initializer_range=0.3, **sizes)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def overrides(qwen):
    """Of the tiny recipe, for that student."""
    return [f"student.llm={qwen}", "student.llm_layers=null", UNIVERSAL, f"train.stages={json.dumps(STAGES)}"]


@pytest.fixture
def run(command, tiny_recipe, fill_tiny_cache, overrides, tmp_path):
    fill_tiny_cache()

    def run(name, *more, ends=0):
        options = [word for override in (f"name={name}", *overrides, *more) for word in ("--set", override)]
        status, out, err = command("distill/train.py", "--config", tiny_recipe, *options)
        assert status == ends, err
        steps = tmp_path / "runs" / name / "steps.jsonl"
        return [json.loads(line) for line in steps.read_text().splitlines()], out

    return run


def test_it_trains_goes_on_and_writes(run, tiny_recipe, overrides, qwen, tmp_path, stopping_at):
    whole, out = run("whole", "train.validate_every=3")
    for step in whole[1:]:
        assert 0 < step["kd"] < 2 and step["ce"] > 0 and "agreement" not in step
        assert step["loss"] == pytest.approx(0.3 * step["ce"] + 0.7 * step["kd"] + 0.1 * step["ctc"])
    assert "validation valid at step 6: ce" in out and any(step["ctc"] > 0 for step in whole[1:])

    with stopping_at(2):
        begun, _ = run("stopped", ends=130)
    assert len(begun) == 3
    finished, out = run("stopped")
    assert "going on from step 3" in out
    assert [step["loss"] for step in finished] == [step["loss"] for step in whole]

    recipe = read_recipe(tiny_recipe, ["name=whole", *overrides])
    model, processor = load_for_scoring(recipe, "student")
    own = AutoTokenizer.from_pretrained(qwen)
    assert processor.tokenizer.get_vocab() == own.get_vocab() | {PAD_TOKEN: len(own)}
    assert (processor.config.eos_token_id, processor.config.pad_token_id) == (own.eos_token_id, len(own))
    assert model.config.llm_config.vocab_size == 320  # none of its rows was cut off, nor added
    row = read_rows(recipe, recipe.data.test["asr"])[0]
    (hypothesis,) = write_batch(model, processor, [(row, "transcribe")], recipe.generation)
    batch = processor([Clip(load_clip(row), "transcribe")])
    ids_BT = model.generate(batch, max_new_tokens=recipe.generation.max_new_tokens)
    assert hypothesis.text == processor.decode(ids_BT)[0]


def test_it_learns_the_sorted_distributions(run):
    kd_alone = STAGES[1] | {"steps": 40, "losses": {"kd": 1.0}, "max_seconds": 60}
    steps, _ = run("kd", f"train.stages={json.dumps([kd_alone])}", "train.save_every=100", "data.valid=[]")
    assert steps[-1]["kd"] < 0.6 * steps[0]["kd"]


@pytest.fixture
def made(tiny_recipe, tiny_teacher, fill_tiny_cache, overrides):
    """Recipe, student, the two processors, and a function that makes an example of some rows."""
    recipe, (teacher, theirs) = read_recipe(tiny_recipe, overrides), tiny_teacher
    folder, identity = fill_tiny_cache()
    student = student_of(recipe, teacher, theirs)
    processor = processor_of(recipe, student, theirs)
    rows = read_rows(recipe, recipe.data.train)

    def examples(cache=None, recipe=recipe):
        cache = cache or CacheReader(folder, identity)
        return Examples(recipe, processor, rows, cache, None, Alignment(processor, theirs))

    return recipe, student, processor, theirs, examples


def test_the_student_reads_its_own_tokens_and_the_teacher_is_held_to_its(made):
    _, student, processor, theirs, examples = made
    example = examples()([0, 5], LossWeights(kd=1.0))
    labels_N = example.batch.labels_N
    texts = [SENTENCES[0], SENTENCES[5]]
    assert labels_N.tolist() == [token for text in texts for token in processor.text_ids(text)]
    assert processor.tokenizer.decode(labels_N.tolist()).split("<|endoftext|>") == [*texts, ""]
    assert isinstance(example.signal, SpanSignal) and len(example.signal) == len(labels_N)
    aligned = [Alignment(processor, theirs)(text) for text in texts]
    counts = example.counts(student)
    assert counts["tokens"] == len(labels_N) and counts["distilled"] == sum(map(len, aligned)) < len(labels_N)
    # The mass of every span is all there is.
    torch.testing.assert_close(example.signal.p_SK.sum(1) + example.signal.tail_S, torch.ones(counts["distilled"]))
    ids = example.batch.input_ids_BT[0].tolist()
    prompt = processor.tokenizer.decode(ids[: ids.index(processor.config.pad_token_id)])
    assert prompt == "USER: "  # no BOS: it has none


def test_rows_of_the_teachers_text_are_aligned_too(made, tiny_recipe, overrides):
    _, _, processor, theirs, examples = made
    texts = ["train.hypotheses.share=1", "train.hypotheses.max_wer=100", "train.hypotheses.min_logp=-1000"]
    recipe = read_recipe(tiny_recipe, [*overrides, "train.stages.1.losses.ctc=0", *texts])

    class Ended(CacheReader):
        def texts(self):
            for entry in super().texts():
                yield replace(entry, hypothesis_ended=True)

    cache = Ended(recipe.cache.folder)
    example = examples(cache, recipe)([1], LossWeights(kd=1.0))
    written = cache["train_1"].hypothesis
    assert written not in ("", SENTENCES[1])
    assert example.batch.labels_N.tolist() == processor.text_ids(written)
    assert len(example.signal.spans) == len(Alignment(processor, theirs)(written))


def test_a_cache_of_another_text_is_refused_by_the_teachers_tokens(made):
    _, _, _, _, examples = made
    changed = examples()
    changed.rows = [replace(row, text="another text") for row in changed.rows]
    with pytest.raises(InputError, match="its tokens are not the recipe's text 'another text'"):
        changed([0], LossWeights(kd=1.0))


def test_micro_batches_add_up_to_the_batch(made):
    from distill.training.objective import Objective

    recipe, student, _, _, examples = made
    objective, weights = Objective(student, recipe.train.kd), LossWeights(ce=0.5, kd=0.5)
    make = examples()
    example = make([0, 3, 5], weights)
    counts = example.counts(student)
    whole, sums = objective(example, weights, counts)
    torch.testing.assert_close(whole, 0.5 * sums["ce"] / counts["tokens"] + 0.5 * sums["kd"] / counts["distilled"])
    parts = sum(objective(make([i], weights), weights, counts)[0] for i in (0, 3, 5))
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_it_has_to_be_asked_for_and_only_where_it_is_so(tiny_recipe, tiny_teacher, tiny_weights, qwen, overrides):
    recipe = read_recipe(tiny_recipe, overrides[:2])
    message = r"another vocabulary than the teacher's LLM \(\d+ entries differ\), and train.kd.vocabulary is 'same'"
    with pytest.raises(InputError, match=message):
        student_of(recipe, *tiny_teacher)
    same = [f"student.llm={tiny_weights / 'llm'}", *overrides[1:]]
    with pytest.raises(InputError, match=r"vocabulary 'universal': .* has the teacher's vocabulary"):
        student_of(read_recipe(tiny_recipe, same), *tiny_teacher)
    refused = [([UNIVERSAL], "the teacher's LLM"), ([*overrides, "train.kd.temperature=2"], "distance of its own")]
    refused += [([*overrides, "train.kd.divergence=js"], "distance of its own")]
    refused += [([*overrides, "cache.method=sampled"], "set cache.method 'topk'")]
    refused += [([*overrides, "train.teacher=memory"], "set train.teacher to 'cache'")]
    refused += [([*overrides, "train.stages.1.on_policy.share=0.5"], "stage 'distil' has on_policy")]
    refused += [([*overrides, "train.stages.1.kd.divergence=js"], "stage 'distil' has kd")]
    refused += [([*overrides, "train.stages.1.losses.hidden=1"], "no hidden weight can match")]
    for settings, reason in refused:
        with pytest.raises(InputError, match=f"vocabulary 'universal'.*{reason}"):
            read_recipe(tiny_recipe, settings)


def test_a_tokenizer_that_is_not_the_models_or_never_ends_is_refused(tiny_recipe, tiny_teacher, qwen, tmp_path):
    def student(folder):
        settings = [f"student.llm={folder}", "student.llm_layers=null", UNIVERSAL]
        return student_of(read_recipe(tiny_recipe, settings), *tiny_teacher)

    endless = shutil.copytree(qwen, tmp_path / "endless")
    config = json.loads((endless / "tokenizer_config.json").read_text())
    (endless / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))
    with pytest.raises(InputError, match="has no end of sequence"):
        student(endless)
    small = shutil.copytree(qwen, tmp_path / "small")
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=100, **sizes)).save_pretrained(small)
    with pytest.raises(InputError, match=r"its tokenizer has \d+ tokens, the model 100"):
        student(small)


def test_a_soft_cap_of_the_logits_is_taken_off_and_other_changes_of_them_are_refused(
    tiny_recipe, tiny_teacher, qwen, tmp_path
):
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"vocab_size": 320, "num_key_value_heads": 2, "initializer_range": 0.3}
    made = {
        "gemma": Gemma2Config(head_dim=6, final_logit_softcapping=1.0, **sizes),
        "granite": GraniteConfig(logits_scaling=8.0, **sizes),
    }
    for name, config in made.items():
        AutoModelForCausalLM.from_config(config).save_pretrained(shutil.copytree(qwen, tmp_path / name))

    def student(name):
        settings = [f"student.llm={tmp_path / name}", "student.llm_layers=null", UNIVERSAL]
        return student_of(read_recipe(tiny_recipe, settings), *tiny_teacher)

    gemma = student("gemma").eval()
    recipe = read_recipe(tiny_recipe, [f"student.llm={tmp_path / 'gemma'}", UNIVERSAL])
    processor = processor_of(recipe, gemma, tiny_teacher[1])
    batch = processor([Clip(sound(1.0, 0), "transcribe", "press one")])
    hidden_BTH = gemma.hidden(batch)
    embeds_BTH = gemma.embed(batch, gemma.audio_tokens(batch))
    written_BTV = gemma.llm(inputs_embeds=embeds_BTH, attention_mask=batch.attention_mask_BT).logits
    torch.testing.assert_close(gemma.llm.get_output_embeddings()(hidden_BTH), written_BTV)
    assert written_BTV.abs().max() > 1
    with pytest.raises(
        InputError, match=r"the logits of .*granite are not the product of its last states and its head"
    ):
        student("granite")


def test_it_goes_on_from_a_student_of_the_same_vocabulary_only(tiny_recipe, tiny_teacher, overrides, tmp_path):
    student = student_of(read_recipe(tiny_recipe, overrides), *tiny_teacher)
    processor = processor_of(read_recipe(tiny_recipe, overrides), student, tiny_teacher[1])
    with torch.no_grad():
        student.connector.proj.bias.add_(1)
    student.save_pretrained(tmp_path / "earlier")
    processor.save_pretrained(tmp_path / "earlier")
    recipe = read_recipe(tiny_recipe, [*overrides, f"student.weights={tmp_path / 'earlier'}"])
    assert torch.equal(student_of(recipe, *tiny_teacher).connector.proj.bias, student.connector.proj.bias)
    tiny_teacher[1].save_pretrained(tmp_path / "earlier")
    with pytest.raises(InputError, match=r"earlier has another vocabulary than student\.llm"):
        student_of(recipe, *tiny_teacher)


def test_rows_that_only_pad_a_vocabulary_are_no_other_vocabulary(tiny_recipe, tiny_teacher, tiny_weights, tmp_path):
    padded = shutil.copytree(tiny_weights / "llm", tmp_path / "padded")
    config = json.loads((padded / "config.json").read_text()) | {"vocab_size": 320}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(padded)
    teacher, processor = tiny_teacher
    recipe = read_recipe(tiny_recipe, [f"student.llm={padded}"])
    student = student_of(recipe, teacher, processor)
    assert processor_of(recipe, student, processor).tokenizer is processor.tokenizer
    assert student.config.pad_token_id == processor.config.pad_token_id
    assert student.config.llm_config.vocab_size == 320 > teacher.config.llm_config.vocab_size


def test_at_random_weights_it_has_single_bytes_and_its_own_size(tiny_recipe):
    shapes = SHAPES["llm"] | {"hidden_size": 24, "vocab_size": 400}
    overrides = ["teacher.random_weights=true", f"teacher.shapes={json.dumps(SHAPES)}", "teacher.weights=null"]
    overrides += ["student.encoder_layers=[0]", "student.llm=/no/llm", "student.llm_layers=null", UNIVERSAL]
    recipe = read_recipe(tiny_recipe, [*overrides, f"student.llm_shapes={json.dumps(shapes)}"])
    teacher, processor = build_teacher(recipe.teacher)
    student = student_of(recipe, teacher, processor)
    own = processor_of(recipe, student, processor)
    assert isinstance(own, SalmonnProcessor) and own.config.pad_token_id == own.tokenizer.pad_token_id == 400
    assert student.get_input_embeddings().weight.shape == (401, 24)
    without = {key: value for key, value in shapes.items() if key != "vocab_size"}
    recipe = read_recipe(tiny_recipe, [*overrides, f"student.llm_shapes={json.dumps(without)}"])
    with pytest.raises(InputError, match="states no vocab_size"):
        student_of(recipe, teacher, processor)
