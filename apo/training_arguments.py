"""What the Trainer is told: one batch a step, and nothing logged, saved or evaluated by itself."""

import torch
from transformers import TrainingArguments

from apo.errors import ConfigError
from apo.host import computes_bf16
from apo.rundir import RunDirectory
from apo.schema import TrainingConfig
from apo.seeds import stream_seed


def arguments(config: TrainingConfig, run: RunDirectory, seed: int, max_steps: int) -> TrainingArguments:
    """The Trainer's arguments: one batch a step, nothing logged, saved or evaluated by itself."""
    precision = resolve_precision(config.precision)
    warmup = config.warmup_steps if config.warmup_steps is not None else int(config.warmup_ratio * max_steps)
    made = TrainingArguments(
        output_dir=str(run.checkpoints), max_steps=max_steps, per_device_train_batch_size=1,
        gradient_accumulation_steps=1, learning_rate=config.learning_rate, lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=warmup, weight_decay=config.weight_decay, adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2, adam_epsilon=config.adam_epsilon, max_grad_norm=config.max_grad_norm,
        optim=config.optim, bf16=precision == "bf16", fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        logging_strategy="no", save_strategy="no", eval_strategy="no", report_to=[], disable_tqdm=True,
        logging_nan_inf_filter=False, ignore_data_skip=True, save_steps=config.save_steps or max(max_steps // 10, 1),
        seed=stream_seed(seed, "trainer") % 2**31, remove_unused_columns=False)
    # One process trains on one device: the Trainer would wrap the module in DataParallel on a machine with several.
    # `device` first, since looking at it counts them.
    if made.device.type == "cuda":
        made._n_gpu = min(made.n_gpu, 1)
    return made


def resolve_precision(precision: str) -> str:
    """auto: bf16 where the hardware computes in it, else fp32."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("training.precision=fp16 needs a GPU: use auto, bf16 or fp32 here")
    if precision != "auto":
        return precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if computes_bf16(device) else "fp32"
