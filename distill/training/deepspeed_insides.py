"""What this project takes from DeepSpeed beside its documented interface: here, and nowhere else but as listed.

To be looked at with every new release of DeepSpeed (the tests of each are in brackets):

- the flat buffers in which ZeRO keeps gradients, and the optimizer under its own (`forget_gradients`: test_engine.py);
- what it counts, and where it keeps its loss scale (`nothing_counted`: test_largest_first.py);
- that its checkpoints restore the states that an optimizer has, be it of some groups alone (`skip_frozen_groups`:
  test_optimizer.py);
- the order of the parameters in its flat buffers, and what loading restores (`groups_of`, `load_pieces`:
  test_elastic.py);
- the files of its buffers between ranks on a CPU (`remove_buffer_files`: tests/scripts/test_launcher.py);
- which keys of its configuration it asks for (`distill/recipe/deepspeed_block.py`: test_deepspeed_block.py);
- its TensorBoard monitor's writer, which takes texts and sounds too (`run_log.py`: test_run_log.py);
- what its errors say (`failures.py`: test_failures.py), and its launcher's command line (`stopping.py`:
  tests/scripts/test_launcher.py).

Why parts that are frozen for a stage are not simply left out of the optimizer: they come back in a later stage with the
moments that they had, and a checkpoint in between must hold them. An optimizer a stage would begin anew; and
`requires_grad` alone leaves ZeRO's flat gradient of such a part at zero, with which Adam's moments fade and its count
of steps goes on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine


def remove_buffer_files() -> None:
    """Removes the names of DeepSpeed's buffers between ranks on a CPU; all ranks take part.

    They are files in memory (66 MiB each) that it never removes. Once all ranks have opened all of them they need no
    name, and are gone with the processes, however those end.
    """
    dist.barrier()
    place = "_".join([str(os.getuid()), os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], str(dist.get_rank())])
    Path(f"/dev/shm/deepspeed_allreduce_buffer_{place}").unlink(missing_ok=True)


def forget_gradients(engine: DeepSpeedEngine) -> None:
    """No gradient is left of the step before.

    DeepSpeed writes over what it keeps of them (at ZeRO 3, and where the optimizer is offloaded) only where there is a
    new one: what no loss reaches at a step, as the CTC head at one on the student's own texts, would be moved by an old
    one, which no checkpoint holds; and one that overflowed would be found at every step.
    """
    gradients = [getattr(engine.optimizer, "grad_partitions_flat_buffer", None)]
    flat = [parameter for group in engine.basic_optimizer.param_groups for parameter in group["params"]]
    flat += getattr(engine.optimizer, "fp32_partitioned_groups_flat", [])  # ZeRO 3 takes them from the groups
    gradients += [parameter.grad for parameter in flat]
    for gradient in gradients:
        if gradient is not None:
            gradient.zero_()


_COUNTS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")


@contextmanager
def nothing_counted(engine: DeepSpeedEngine) -> Iterator[None]:
    """What the engine counts, its loss scale and the chance of dropout are as before after the context.

    Nothing is written by its monitors in it.
    """
    counts = {name: getattr(engine, name) for name in _COUNTS}
    scaler, watched = getattr(engine.optimizer, "loss_scaler", None), engine.monitor.enabled
    scale = dict(vars(scaler)) if hasattr(scaler, "__dict__") else {}
    engine.monitor.enabled = False
    devices = [] if engine.device.type == "cpu" else [engine.device]
    try:
        with torch.random.fork_rng(devices, device_type=engine.device.type if devices else "cuda"):
            yield
    finally:
        engine.monitor.enabled = watched
        vars(engine).update(counts)
        if scale:
            vars(scaler).update(scale)


def groups_of(engine: DeepSpeedEngine) -> list[tuple[dict[str, torch.Size], int]]:
    """Of each of ZeRO's groups the parameters' shapes by name, in its order, and how many values are kept here."""
    optimizer = engine.optimizer
    own = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_partitioned_groups_flat
    return [(shapes, flat.numel()) for shapes, flat in zip(engine._get_zero_param_shapes(), own, strict=True)]


def load_pieces(engine: DeepSpeedEngine, state: dict[str, Any], pieces: dict[str, Any]) -> None:
    """As the engine's `load_checkpoint`, but of states that are in memory, and of another number of processes.

    Args:
        engine: Under ZeRO 1, 2 or 3.
        state: Of the model: a file of the checkpoint.
        pieces: Of the optimizer's states, this process's.
    """
    sharded = engine.zero_optimization_stage() == 3
    if sharded:
        engine.optimizer.checkpoint_event_prologue()
    else:
        engine.load_module_state_dict(checkpoint=state, strict=False)
    for name in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, name, state[name])
    engine.optimizer.load_state_dict(
        [pieces] * dist.get_world_size(), load_from_fp32_weights=engine.zero_load_from_fp32_weights()
    )
    if sharded:
        engine.optimizer.checkpoint_event_epilogue()


def skip_frozen_groups(optimizer: torch.optim.Optimizer) -> None:
    """A group whose learning rate is 0 is left out of a step: neither its moments nor its count of steps move.

    So a part that joins in a later stage begins as in a run of its own. (DeepSpeed's fp16 optimizer takes a step of its
    own when it is made, which does not count.)

    Args:
        optimizer: As DeepSpeed has it, over its own flat copies of the parameters; no step is taken yet.
    """
    skipped: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def skip(*_: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["lr"] == 0 else ():
                skipped.append((parameter, parameter.grad))
                parameter.grad = None

    def restore(*_: object) -> None:
        for parameter, gradient in skipped:
            parameter.grad = gradient
        skipped.clear()

    for state in optimizer.state.values():
        state["step"] = torch.zeros_like(state["step"]) if torch.is_tensor(state["step"]) else 0
    optimizer.register_step_pre_hook(skip)
    optimizer.register_step_post_hook(restore)
