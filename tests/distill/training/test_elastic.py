"""A run that goes on with another number of processes."""

import json
from pathlib import Path

import pytest
import torch

from data.errors import InputError
from distill.recipe.reading import read_recipe
from distill.training import elastic

SHAPES = [{"a": torch.Size([3, 5]), "b": torch.Size([1])}, {"c": torch.Size([7])}]


def kept(values, world, stage, moment=0.0):
    """What each of some processes keeps of groups of parameters, as DeepSpeed cuts them."""
    base, flat = elastic._names(stage)
    groups = []
    for shapes in SHAPES:
        if stage < 3:
            whole = torch.cat([values[name] for name in shapes])
            size = -(-len(whole) // (2 * world)) * 2
            cut = torch.nn.functional.pad(whole, (0, size * world - len(whole))).split(size)
        else:
            each = {name: -(-shape.numel() // world) for name, shape in shapes.items()}
            padded = [
                torch.nn.functional.pad(values[name], (0, each[name] * world - len(values[name]))).split(each[name])
                for name in shapes
            ]
            cut = [torch.cat(parts) for parts in zip(*padded, strict=True)]
        groups.append(cut)
    return [
        {
            "loss_scaler": "scaler",
            "dynamic_loss_scale": False,
            "overflow": False,
            base: {
                "state": {
                    number: {"step": 10 + number, "exp_avg": cut[rank] + moment, "exp_avg_sq": cut[rank] + 2 * moment}
                    for number, cut in enumerate(groups)
                }
            },
            flat: [cut[rank] for cut in groups],
        }
        for rank in range(world)
    ]


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (3, 2), (2, 5)])
def test_pieces_are_cut_as_if_they_had_never_been_of_another_number(monkeypatch, stage, before, now):
    values = {
        name: torch.randn(shape.numel(), generator=torch.Generator().manual_seed(0))
        for shapes in SHAPES
        for name, shape in shapes.items()
    }
    expected = kept(values, now, stage)
    monkeypatch.setattr(elastic.dist, "get_world_size", lambda: now)
    base, flat = elastic._names(stage)
    before_of = kept(values, before, stage, moment=1.0)
    for piece in before_of:
        piece[base]["state"][1] = {}  # a part that was never trained
    for rank, wanted in enumerate(expected):
        monkeypatch.setattr(elastic.dist, "get_rank", lambda rank=rank: rank)
        template = {base: {"state": {}, "param_groups": ["own"]}, flat: [], "more": 1}
        groups = [(shapes, len(of)) for shapes, of in zip(SHAPES, wanted[flat], strict=True)]
        found = elastic.deal(before_of, SHAPES, groups, template, stage)
        assert found["more"] == 1 and found["loss_scaler"] == "scaler" and found[base]["param_groups"] == ["own"]
        assert all(torch.equal(*pair) for pair in zip(found[flat], wanted[flat], strict=True))
        assert found[base]["state"][1] == {} and found[base]["state"][0]["step"] == 10
        filled = wanted[flat][0] == 0  # what fills a piece up has no moments
        for key, moment in (("exp_avg", 1.0), ("exp_avg_sq", 2.0)):
            own = found[base]["state"][0][key]
            assert torch.equal(own, torch.where(filled, 0, wanted[flat][0] + moment))
        assert not template[base]["state"] and not template[flat]  # it is the optimizer's own


def elastic_recipe(path, *overrides, begun=None):
    recipe = read_recipe(path, ["train.elastic=true", *overrides])
    if begun is not None:
        (recipe.run_dir / "checkpoints").mkdir(parents=True)
        (recipe.run_dir / "checkpoints" / "latest").write_text("step_2")
        (recipe.run_dir / "identity.json").write_text(json.dumps({"processes": begun}))
    return recipe


def test_a_step_has_as_many_micro_batches_as_at_the_beginning(tiny_recipe):
    assert elastic.processes_of_run(elastic_recipe(tiny_recipe), 3) == 3
    recipe = elastic_recipe(tiny_recipe, "deepspeed.gradient_accumulation_steps=3", begun="4")
    assert elastic.processes_of_run(recipe, 3) == 4
    assert elastic.processes_of_run(read_recipe(tiny_recipe), 3) == 3  # not asked for
    assert [elastic.accumulation_of(recipe, 4, world) for world in (4, 1, 2, 3, 6, 12)] == [None, 12, 6, 4, 2, 1]
    with pytest.raises(InputError, match=r"5 processes cannot share the 12 micro-batches of a step; take 1, 2, 3, 4,"):
        elastic.accumulation_of(recipe, 4, 5)


def test_a_batch_that_is_said_as_a_whole_is_shared(tiny_recipe):
    sizes = ['deepspeed={"train_batch_size": 6, "train_micro_batch_size_per_gpu": 1}']
    assert elastic.accumulation_of(elastic_recipe(tiny_recipe, *sizes), 2, 3) == 2
    # DeepSpeed makes one micro-batch of a process's share where nothing is said of it.
    alone = elastic_recipe(tiny_recipe, 'deepspeed={"train_batch_size": 6}')
    assert elastic.accumulation_of(alone, 2, 1) == 2
    with pytest.raises(InputError, match="3 processes cannot share the 2 micro-batches"):
        elastic.accumulation_of(alone, 2, 3)


@pytest.mark.parametrize(
    "change",
    [
        "deepspeed.zero_optimization.round_robin_gradients=true",
        'deepspeed.zero_optimization={"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/x"}}',
        'deepspeed={"bf16": {"enabled": true}, "train_micro_batch_size_per_gpu": 1}',
        'deepspeed={"bf16": {"enabled": true}, "data_types": {"grad_accum_dtype": "fp32"}, '
        '"zero_optimization": {"stage": 1}, "train_micro_batch_size_per_gpu": 1}',
    ],
    ids=["round_robin", "nvme", "bf16", "wider"],
)
def test_what_cannot_be_dealt_out_is_refused_in_a_line(tiny_recipe, change):
    recipe = elastic_recipe(tiny_recipe, change, "bf16_on_cpu=always")
    assert elastic.accumulation_of(recipe, 2, 2) is None
    with pytest.raises(InputError, match=r"train\.elastic: .*as many"):
        elastic.accumulation_of(recipe, 2, 1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"processes": null}', '{"processes": "many"}'])
def test_an_identity_that_is_damaged_is_told_where_it_is_compared(tiny_recipe, content):
    recipe = elastic_recipe(tiny_recipe, begun="4")
    (recipe.run_dir / "identity.json").write_text(content)
    assert elastic.processes_of_run(recipe, 3) == 3


def test_how_many_wrote_a_checkpoint_is_told_by_its_files(tmp_path: Path):
    assert elastic.processes_of(tmp_path) is None
    for rank in range(12):
        (tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    assert elastic.processes_of(tmp_path) == 12
    ordered = elastic._by_rank(tmp_path.glob("*.pt"))
    assert [path.name.split("_")[3] for path in ordered] == [str(rank) for rank in range(12)]
