"""The recipe's `deepspeed` block: every key that DeepSpeed reads passes, no other does."""

import json

import pytest

from data.errors import InputError
from distill.recipe.deepspeed_block import accumulation, require_known
from distill.recipe.reading import read_recipe

BIG = {
    "train_batch_size": 64,
    "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 12, "min_loss_scale": 1},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "offload_param": {"device": "nvme", "nvme_path": "/local_nvme"},
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": 1000,
    },
    "activation_checkpointing": {"partition_activations": True, "cpu_checkpointing": True, "number_checkpoints": 4},
    "data_types": {"grad_accum_dtype": "fp32"},
    "aio": {"block_size": 1048576, "queue_depth": 8},
    "checkpoint": {"tag_validation": "Fail"},
    "flops_profiler": {"enabled": True, "profile_step": 1},
    "tensorboard": {"enabled": True, "output_path": "logs"},
    "wandb": {"enabled": False, "project": "p"},
    "csv_monitor": {"enabled": False},
    "comms_logger": {"enabled": False},
    "wall_clock_breakdown": False,
    "gradient_clipping": 0.5,
}


def test_all_that_deepspeed_reads_passes(tiny_recipe):
    block = read_recipe(tiny_recipe, [f"deepspeed.{key}={json.dumps(value)}" for key, value in BIG.items()]).deepspeed
    assert {key: block[key] for key in BIG} == BIG


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("gradient_cliping=1", "unknown key 'gradient_cliping'; did you mean 'gradient_clipping'"),
        ("zero_optimization.stag=3", "unknown key 'stag'; did you mean 'stage'"),
        ("zero_optimization.offload_param={'devise': 'cpu'}", "unknown key 'offload_param.devise'; .* 'device'"),
        ("zero_optimization.stage3_prefetch_bucket_sise=1", ".* did you mean 'stage3_prefetch_bucket_size'"),
        ("zero_optimization.stage=4", "key 'stage': .*"),
        ("bf16={'enable': true}", "unknown key 'enable'; did you mean 'enabled'"),
        ("activation_checkpointing={'cpu_checkpoint': true}", "unknown key .*; did you mean 'cpu_checkpointing'"),
        ("data_types={'grad_acum_dtype': 'fp32'}", "'data_types.grad_acum_dtype'; did you mean 'grad_accum_dtype'"),
        ("tensorboard={'enabled': true, 'path': 'x'}", "unknown key 'tensorboard.path'"),
        ("bf16={'enabled': true}; fp16={'enabled': true}", "cannot be simultaneously enabled"),
        ("whatever=1", "unknown key 'whatever'; DeepSpeed has no such key"),
        ("amp={'enabled': true}", "has been removed"),
        ("optimizer={'type': 'Adam'}", r"'optimizer' is not DeepSpeed's here but the recipe's own \(train\.betas"),
        ("fp16={'enabled': true}; zero_optimization.stage=0", "fp16: without ZeRO .* zero_optimization.stage"),
        (
            "bf16={'enabled': true}; data_types={'grad_accum_dtype': 'fp32'}; zero_optimization.stage=0",
            "data_types.grad_accum_dtype: with bf16 it takes ZeRO",
        ),
        ("zero_optimization.compute_grad_norm=false", "zero_optimization.compute_grad_norm: .* leave it out"),
        ("managed_gradient_accumulation=false", "managed_gradient_accumulation: .* leave it out"),
        ("train_micro_batch_size_per_gpu=4", r"train_micro_batch_size_per_gpu: .*max_seconds.* set it to 1"),
        ("scheduler={'type': 'WarmupLR'}", "'scheduler' is not DeepSpeed's here .*stages' lr"),
    ],
)
def test_all_else_is_refused(tiny_recipe, change, line):
    overrides = [f"deepspeed.{one}".replace("'", '"') for one in change.split("; ")]
    with pytest.raises(InputError, match=f"deepspeed: .*{line}") as caught:
        read_recipe(tiny_recipe, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["data_types", "zero_optimization", "bf16", "activation_checkpointing"])
def test_a_text_in_the_place_of_a_section_is_refused(key):
    with pytest.raises(ValueError, match=r"DeepSpeed refuses it|key|is a section"):
        require_known({"train_micro_batch_size_per_gpu": 1, key: "a text"})


@pytest.mark.parametrize("value", ["3", '"x"', "[]", "[1]", "{}", "null", "true", "-1"])
def test_a_value_of_another_kind_is_taken_or_refused(tiny_recipe, value):
    for key in (*BIG, "zero_optimization.elastic_checkpoint", "zero_optimization.stage"):
        try:
            block = read_recipe(tiny_recipe, [f"deepspeed.{key}={value}"]).deepspeed
            assert all(isinstance(block.get(name, {}), dict) for name in ("zero_optimization", "bf16", "fp16"))
        except InputError as error:
            assert str(error).startswith(f"{tiny_recipe}: ") and "\n" not in str(error)


def test_micro_batches_of_a_step_are_those_of_deepspeed():
    assert accumulation({}, 4) == 1
    assert accumulation({"gradient_accumulation_steps": 3, "train_batch_size": 64}, 4) == 3
    assert accumulation({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 1}, 4) == 16
