"""Settings by the names that they have in other programs, for hints."""

from __future__ import annotations

from collections.abc import Iterable

# What torch, Lightning, timm, Ultralytics, the Hugging Face trainer and scikit-learn call it.
_KEYS = {
    "optim.lr": "learning_rate lr0 base_lr init_lr initial_lr max_lr eta",
    "optim.weight_decay": "wd decay l2",
    "optim.scheduler": "lr_scheduler schedule lr_schedule sched lr_scheduler_type",
    "optim.warmup": "warmup_ratio warmup_epochs warmup_steps pct_start",
    "optim.clip_grad_norm": "max_grad_norm gradient_clip_val grad_clip clip_norm clip",
    "optim.optimizer": "optim opt",
    "fit.epochs": "num_epochs n_epochs max_epochs num_train_epochs epoch",
    "fit.batch_size": "bs batch batchsize per_device_train_batch_size train_batch_size",
    "fit.grad_accum_steps": "gradient_accumulation_steps accumulate_grad_batches accumulate grad_accum",
    "fit.patience": "early_stopping early_stop early_stopping_patience",
    "fit.amp": "mixed_precision precision fp16 bf16 half",
    "fit.seed": "random_state random_seed manual_seed",
    "fit.device": "accelerator gpu cuda",
    "fit.grad_checkpointing": "gradient_checkpointing activation_checkpointing checkpoint_activations",
    "fit.checkpoint_every": "save_steps save_every checkpoint_interval save_period",
    "fit.monitor": "metric metric_for_best_model eval_metric",
    "data.workers": "num_workers n_jobs dataloader_num_workers",
    "data.data": "dataset data_path train_data root",
    "data.target": "label labels target_column label_column y",
    "data.val_fraction": "val_split validation_split val_size valid_pct",
    "data.test_fraction": "test_split test_size",
    "data.window": "lookback context_length seq_len input_chunk_length",
    "data.horizon": "prediction_length pred_len output_chunk_length forecast_horizon",
    "data.max_length": "max_len max_seq_length maxlen",
    "model.name": "model arch architecture backbone model_name",
    "model.img_size": "image_size imgsz img resolution input_size",
    "model.weights": "checkpoint init_checkpoint ckpt",
    "loss.name": "loss criterion objective loss_fn",
    "loss.label_smoothing": "smoothing",
    "augment.level": "augment augmentation aug data_augmentation",
    "launch.devices": "gpus num_gpus n_gpu world_size nproc_per_node",
    "launch.nnodes": "num_nodes nodes num_machines",
}
_BY_WORD = {word: key for key, words in _KEYS.items() for word in words.split()}


def key_for(word: str, known: Iterable[str]) -> str | None:
    """Return the known setting that other programs call ``word``, or None."""
    key = setting_called(word)
    return key if key in set(known) else None


def setting_called(word: str) -> str | None:
    """Return the setting of `train` that other programs call ``word``, or None."""
    return _BY_WORD.get(word.lower().replace("-", "_"))
