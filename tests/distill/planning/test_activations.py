"""What autograd keeps of a real pass, storage by storage, beside what is computed."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from distill.models.students import student_of
from distill.planning.activations import of_connector, of_encoder, of_llm
from distill.planning.clips import micro_batch
from distill.planning.linears import Sizes
from distill.recipe.reading import read_recipe
from student.shrink import set_trainable
from teacher.processor import Clip, SalmonnProcessor
from tests.conftest import sound

SECONDS, TEXT = (2.9, 2.88, 2.9), "the agent is now logged in"
LORA = (
    'student.lora={"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "k_proj", "down_proj"]}'
)
TRAINED = [("encoder", "connector", "llm"), ("connector",), ("llm",), ("encoder",)]
DROPOUT = ["student.qformer.dropout=0.1"]
STACK = [
    "student.connector=stack",
    'student.stack={"frames": 8, "width": 64}',
    "student.qformer=null",
    "student.qformer_layers=[]",
]
SHAPES = [[], [LORA], DROPOUT, ["student.encoder_rank=8"], STACK]
WITHIN = {"encoder": 0.001, "connector": 0.06, "llm": 0.02}
"""A Q-Former's attention with dropout has no fused kernel on a CPU, and keeps its scores."""


class Saved:
    """Bytes of the distinct storages that autograd has saved since, parameters and what a pass is given left out."""

    def __init__(self, model, *given):
        left_out = [*model.parameters(), *model.buffers(), *given]
        self.known, self.bytes = {of.untyped_storage().data_ptr() for of in left_out}, 0
        self.held = []

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.held.append(tensor)  # a freed one's place could be another's
            self.bytes += storage.nbytes()
        return tensor

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


@pytest.fixture
def student(tiny_recipe, tiny_teacher):
    """A function that gives a student of some shape, of which some parts are trained, and its processor."""

    def student(trained, changes=()):
        recipe = read_recipe(tiny_recipe, ["student.encoder_layers=[0, 1]", *changes])
        teacher, processor = tiny_teacher
        model = student_of(recipe, teacher, processor).train()
        set_trainable(model, set(trained))
        return model, SalmonnProcessor(processor.tokenizer, model.config)

    return student


def passes(model, processor):
    """Measured bytes of encoder, connector and LLM, and the batch as it is planned."""
    batch = processor([Clip(sound(s, i), "transcribe", TEXT) for i, s in enumerate(SECONDS)])
    ids, prompt = len(processor.text_ids(TEXT)), len(processor.prompt_ids("transcribe", 0))
    planned = micro_batch(model.config, len(SECONDS), max(SECONDS), ids, prompt)
    given = [of for of in (batch.input_ids_BT, batch.audio_N) if of is not None]
    found = []
    with Saved(model, *given) as saved:
        states = model.encode(batch.features)
    found.append(saved.bytes)
    with Saved(model, *given, *saved.held) as saved:
        audio_NH = model.connector(states)
    found.append(saved.bytes)
    with Saved(model, *given, *saved.held, audio_NH) as saved:
        model.hidden(batch, audio_NH)
    found.append(saved.bytes)
    assert planned.frames == states.speech_BTD.shape[1] and planned.positions == batch.input_ids_BT.shape[1]
    assert planned.clips * planned.windows >= len(audio_NH)
    return found, planned


def planned_parts(model, batch, trained):
    e = model.dtype.itemsize
    sizes = Sizes(e, e, copied=True)
    return (
        of_encoder(model.encoder, batch, sizes),
        of_connector(model.connector, batch, sizes, flows="encoder" in trained),
        of_llm(model, batch, sizes, flows=bool({"encoder", "connector"} & set(trained))),
    )


@pytest.mark.parametrize("trained", TRAINED, ids="+".join)
@pytest.mark.parametrize("changes", SHAPES, ids=["plain", "lora", "dropout", "low rank", "stack"])
def test_kept_bytes_are_those_that_autograd_saves(student, changes, trained):
    model, processor = student(trained, changes)
    if changes == DROPOUT and trained == ("encoder",):
        pytest.skip("through a frozen Q-Former, a CPU keeps less of its attention with dropout than a GPU")
    found, batch = passes(model, processor)
    parts = planned_parts(model, batch, trained)
    for part, measured, of in zip(("encoder", "connector", "llm"), found, parts, strict=True):
        assert of.all(again=False) == pytest.approx(measured, rel=WITHIN[part], abs=3000), part


def test_kept_bytes_are_those_of_16_bits_too(student):
    """RMS norms keep fp32 all the same."""
    trained = ("encoder", "connector", "llm")
    model, processor = student(trained, [LORA])
    found, batch = passes(model.to(torch.bfloat16), processor)
    for part, measured, of in zip(
        ("encoder", "connector", "llm"), found, planned_parts(model, batch, trained), strict=True
    ):
        assert of.all(again=False) == pytest.approx(measured, rel=WITHIN["connector"], abs=3000), part


def test_what_is_computed_again_keeps_the_layers_inputs(student):
    trained = ("encoder", "connector", "llm")
    model, processor = student(trained)
    model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=True))
    found, batch = passes(model, processor)
    for part, measured, of in zip(
        ("encoder", "connector", "llm"), found, planned_parts(model, batch, trained), strict=True
    ):
        kept = of.all(again=True) - max(of.layers)  # one of which is there later, in the backward pass
        assert kept == pytest.approx(measured, rel=0.1, abs=5000), part
        assert of.all(again=True, moved=True) == of.all(again=True) - sum(of.inputs)
        assert of.all(again=True) < of.all(again=False) or len(of.layers) == 1
