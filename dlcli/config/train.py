"""The settings of training: data, model, loss, optimizer, augmentation, the loop, the devices."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dlcli.settings import RegisteredName, setting
from dlcli.task import Frozen, Interpolation, TaskKind

# Names of registered functions: a new file in the package is a new name.
LossName = Annotated[str, RegisteredName("loss", "dlcli.training.losses", "register_loss")]
Optimizer = Annotated[
    str, RegisteredName("optimizer", "dlcli.training.optim.optimizers", "register_optimizer")
]
Scheduler = Annotated[
    str, RegisteredName("schedule", "dlcli.training.optim.schedules", "register_schedule")
]


class DataConfig(Frozen):
    """Data"""

    data: str | None = setting(
        None, "A folder, a file, or a data set's name such as digits.", "--data", "-d"
    )
    data_dir: str | None = setting(None, "Where a named data set lies on disk.", "--data-dir")
    kind: str | None = setting(
        None, "Kind of data: image, text, tabular, series or pairs (default: detected).", "--kind"
    )
    task: TaskKind | None = setting(
        None, "What is predicted (default: found by looking at the target).", "--task"
    )
    target: str | None = setting(
        None,
        "Column to predict, or several with commas (default: one named label, or the last).",
        "--target",
    )
    text: str | None = setting(None, "Column of the text (default: the one that looks like text).")
    drop: tuple[str, ...] = setting((), "Columns to leave out.")
    split_column: str | None = setting(
        None, "Column that says train, val or test for each row.", "--split-column"
    )
    group_column: str | None = setting(
        None, "Rows of one value of this column stay in one split.", "--group-column"
    )
    time_column: str | None = setting(
        None, "Column of the time of a long series (default: found).", "--time-column"
    )
    window: int | None = setting(None, "Time steps a forecast sees.", "--window", ge=1)
    horizon: int | None = setting(None, "Time steps it predicts.", "--horizon", ge=1)
    time_splits: tuple[float, ...] | None = setting(
        None, "Train, val and test of a long series, in order: shares below 1, or rows."
    )
    tokenizer: Literal["word", "bpe"] = setting("word", "How texts are cut.", "--tokenizer")
    vocab_size: int = setting(20_000, "Largest number of tokens.", ge=8)
    min_count: int = setting(1, "Words seen less often in training count as unknown.", ge=1)
    lowercase: bool = setting(True, "Whether Cat and cat are one word.")
    max_length: int | None = setting(
        None, "Longest text or series (default: from the training split).", "--max-length", ge=1
    )
    balance: Literal["none", "weights", "sampler", "focal"] = setting(
        "none", "Against classes of unequal size: weighted loss, sampling, focal loss.", "--balance"
    )
    offline: bool = setting(False, "Never try the network.", "--offline")
    on_bad_sample: Literal["skip", "fail"] = setting(
        "skip", "Unreadable samples: skip and count them, or fail.", "--on-bad-sample"
    )
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )
    val_fraction: float = setting(0.1, "Share held out where there is no validation split.", gt=0, lt=1)
    test_fraction: float = setting(0.1, "Share held out of a source with no splits at all.", ge=0, lt=1)
    cache: Literal["auto", "ram", "none"] = setting("auto", "Keep decoded pixels in memory.")

    def meaning(self) -> dict[str, Any]:
        """The settings that say what the data means, where they are not the default."""
        names = (
            *("kind", "task", "target", "text", "drop", "split_column", "group_column"),
            *("time_column", "window", "horizon", "time_splits", "val_fraction", "test_fraction"),
        )
        default = type(self)()
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}


class ModelConfig(Frozen):
    """Model"""

    name: str | None = setting(
        None, "One of dlcli models, torchvision's or timm:NAME, or file.py:Class.", "--model", "-m"
    )
    img_size: int | None = setting(
        None, "Side of the square input in pixels (default: the model's).", "--img-size", ge=1, le=4096
    )
    pretrained: bool | None = setting(
        None,
        "Start from ImageNet weights (default: when they can be had).",
        "--pretrained/--no-pretrained",
    )
    weights: str | None = setting(
        None, "Start from this file: a dlcli artifact, .pth or .safetensors.", "--weights"
    )
    freeze: str = setting(
        "none",
        "backbone: train the head alone; or names of layers with commas, such as layer1,conv*.",
        "--freeze",
    )
    unfreeze: str | None = setting(
        None,
        "Frozen layers that train from a share of the run on: 'layer4@50%,layer3@75%'.",
        "--unfreeze",
    )
    head: Literal["linear", "mlp"] = setting("linear", "Head of a torchvision model.", "--head")
    embedding_size: int = setting(
        128, "Numbers in the answer to --task embedding.", "--embedding-size", ge=2
    )
    resize: Literal["crop", "squash"] = setting(
        "crop", "Fit images by cutting out the centre, or by squashing both sides."
    )
    crop_fraction: float = setting(1.0, "Share of the shorter side that crop keeps.", gt=0, le=1)
    interpolation: Interpolation = setting("bilinear", "How pixels are resized (antialiased).")
    args: dict[str, Any] = setting({}, "The model's own arguments, such as dropout.")


class OptimConfig(Frozen):
    """Optimizer and schedule"""

    optimizer: Optimizer = setting("adamw", "Update rule.", "--optimizer")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = setting(
        1e-3, "Peak learning rate, or auto: found by a short sweep.", "--lr"
    )
    weight_decay: float = setting(
        0.01, "Decay of weights; norms and biases are left alone.", "--weight-decay", ge=0
    )
    momentum: float = setting(
        0.9, "Of momentum, nesterov, rmsprop and muon; sgd has none.", "--momentum", ge=0, lt=1
    )
    betas: tuple[float, float] | None = setting(
        None, "Decay rates of the averages of adam's family and lion (default: the optimizer's)."
    )
    layer_decay: float = setting(
        1.0,
        "Each layer learns at this share of the rate of the one above it.",
        "--layer-decay",
        gt=0,
        le=1,
    )
    backbone_lr: float = setting(
        1.0, "Rate of everything below the head, as a share of the head's.", "--backbone-lr", gt=0
    )
    scheduler: Scheduler = setting("onecycle", "Shape of the learning rate over the run.", "--scheduler")
    warmup: float | None = setting(
        None,
        "Warm-up, as a share of all steps (default: 0.3 for onecycle, else none).",
        "--warmup",
        ge=0,
        lt=1,
    )
    lr_min: float = setting(
        0.0, "Lowest rate of the falling schedules, as a share of the peak.", ge=0, le=1
    )
    gamma: float | None = setting(
        None,
        "Factor of each drop of step, multistep and plateau (default: 0.1); for exponential, of the "
        "whole run (default: 0.01).",
        gt=0,
        le=1,
    )
    decay_every: float = setting(
        0.3, "Distance between the drops of step: a share of the run, or whole epochs.", gt=0
    )
    milestones: tuple[float, ...] = setting(
        (0.5, 0.75), "Where multistep drops: shares of the run, or whole epochs."
    )
    power: float = setting(2.0, "Exponent of polynomial.", gt=0)
    cycles: int = setting(3, "Cycles of cosine-restarts.", ge=1)
    cycle_growth: float = setting(1.0, "Length of each such cycle over that of the one before.", ge=1)
    plateau_patience: int = setting(2, "Epochs without a better metric before plateau drops.", ge=0)
    clip_grad_norm: float | None = setting(None, "Largest gradient norm.", "--clip-grad-norm", gt=0)
    clip_grad_value: float | None = setting(
        None, "Largest value in a gradient.", "--clip-grad-value", gt=0
    )
    args: dict[str, Any] = setting({}, "Arguments of the optimizer's or the schedule's own.")

    @property
    def peak_lr(self) -> float:
        """The rate of a run, where "auto" has been resolved."""
        assert self.lr != "auto", "the learning rate was not looked for yet"
        return self.lr


class LossConfig(Frozen):
    """Loss"""

    name: LossName | None = setting(None, "What is minimised (default: by task).", "--loss")
    label_smoothing: float = setting(
        0.0, "Share of the target spread over all classes.", "--label-smoothing", ge=0, lt=1
    )
    focal_gamma: float = setting(2.0, "How little what is right already counts in focal.", ge=0)
    huber_delta: float = setting(
        1.0, "Where huber and smooth_l1 turn from square to straight, in scaled units.", gt=0
    )
    margin: float = setting(
        0.2, "By how much triplet wants another class farther off than the own.", gt=0
    )
    teacher: str | None = setting(
        None, "A trained artifact whose answers are learnt too (distillation).", "--teacher"
    )
    distill_alpha: float = setting(
        0.5, "Share of the teacher's answers in the loss.", "--distill-alpha", ge=0, le=1
    )
    temperature: float = setting(2.0, "How soft the teacher's answers are.", "--temperature", gt=0)
    args: dict[str, Any] = setting({}, "Arguments of the loss's own.")


class AugmentConfig(Frozen):
    """Augmentation"""

    level: Literal["none", "light", "standard", "strong"] | None = setting(
        None,
        "How much training images are varied (default: the model's, else none). "
        "All but none also mirror them: --set augment.flip=0 for digits and letters.",
        "--augment",
    )
    crop_scale: float | None = setting(
        None, "Smallest share of the area that a random resized crop keeps; 1: off.", gt=0, le=1
    )
    flip: float | None = setting(None, "Share of images mirrored left to right.", ge=0, le=1)
    vertical_flip: float | None = setting(None, "Share of images turned upside down.", ge=0, le=1)
    rotation: float | None = setting(None, "Largest rotation in degrees.", ge=0, le=180)
    translate: float | None = setting(None, "Largest shift, as a share of each side.", ge=0, lt=1)
    jitter: float | None = setting(
        None, "Largest change of brightness, contrast and saturation, as a share.", ge=0, lt=1
    )
    randaugment: float | None = setting(None, "Magnitude of RandAugment; 0: off.", ge=0, le=10)
    randaugment_ops: int = setting(2, "Operations that RandAugment draws for an image.", ge=1, le=8)
    erasing: float | None = setting(None, "Share of images that lose a random rectangle.", ge=0, le=1)
    mixup: float | None = setting(None, "MixUp: alpha of its Beta distribution; 0: off.", ge=0, le=100)
    cutmix: float | None = setting(None, "CutMix: alpha of its Beta distribution; 0: off.", ge=0, le=100)


class FitConfig(Frozen):
    """Training"""

    epochs: int = setting(10, "Passes over the training split.", "--epochs", "-e", ge=1)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        64, "Samples one optimizer step sees, or auto: what memory holds.", "--batch-size", "-b"
    )
    grad_accum_steps: int = setting(
        1, "Parts a device's share of the batch is computed in.", "--grad-accum-steps", ge=1
    )
    max_steps: int | None = setting(None, "Most optimizer steps of the run.", "--max-steps", ge=1)
    max_time: str | None = setting(None, "Longest time of the run: 90s, 30min, 2h.", "--max-time")
    overfit_batches: int | None = setting(
        None,
        "Learn this many batches by heart, as a test of model and data.",
        "--overfit-batches",
        ge=1,
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device")
    amp: Literal["auto", "none", "bf16", "fp16"] = setting("auto", "Mixed precision.", "--amp")
    grad_checkpointing: str = setting(
        "none",
        "Compute activations again instead of keeping them: none, auto or a number of segments.",
        "--grad-checkpointing",
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = setting(
        "none", "torch.compile of the training step, in this mode.", "--compile"
    )
    deterministic: bool = setting(
        False, "Bit-identical runs on one device and version of torch.", "--deterministic"
    )
    seed: int = setting(0, "Of the split, the order and the weights.", "--seed", ge=0, lt=2**31)
    ema: float | None = setting(
        None, "Evaluate and keep a moving average of the weights with this decay.", "--ema", gt=0, lt=1
    )
    swa: float | None = setting(
        None, "Also average the epochs' weights from this share of the run on.", "--swa", ge=0, lt=1
    )
    monitor: str | None = setting(
        None, "Validation metric that picks the best epoch (default: by task).", "--monitor"
    )
    patience: int | None = setting(
        None, "Stop after this many epochs without a better metric.", "--patience", ge=1
    )
    min_delta: float = setting(0.0, "What counts as better, for patience and plateau.", ge=0)
    keep_best: int = setting(1, "How many of the best epochs' models are kept.", "--keep-best", ge=1)
    max_bad_steps: int = setting(
        25, "Steps in a row whose gradient is no finite number that end the run.", ge=1
    )
    checkpoint_every: str = setting(
        "1ep,5min", "When to save the state: N steps, Nmin or Nep.", "--checkpoint-every"
    )
    keep_states: int = setting(2, "How many training states are kept.", ge=1)
    tensorboard: bool = setting(False, "Write TensorBoard files too.", "--tensorboard")
    histograms: bool = setting(False, "Histograms of weights and gradients in TensorBoard, each epoch.")
    log_every: float = setting(0.5, "Seconds between progress events.", ge=0)

    @property
    def step_samples(self) -> int:
        """The batch size of a run, where "auto" has been resolved."""
        assert self.batch_size != "auto", "the batch size was not looked for yet"
        return self.batch_size


class LaunchConfig(Frozen):
    """Several devices"""

    devices: str = setting(
        "1", "How many devices, which ones (0,1: those two), or auto: all of them.", "--devices"
    )
    nnodes: str = setting(
        "1", "Machines: 2, or 1:4 for whatever is there; run the command on each.", "--nnodes"
    )
    rdzv_endpoint: str | None = setting(
        None, "HOST:PORT of one of the machines, where all of them meet.", "--rdzv-endpoint"
    )
    max_restarts: int = setting(
        3,
        "How often the processes start again from the last state when one dies.",
        "--max-restarts",
        ge=0,
    )
    timeout_s: float = setting(
        600.0, "Seconds after which a process that others wait for is given up.", gt=0
    )
    sync_bn: bool = setting(
        True, "Batch norms see the whole step's batch, not one device's.", "--sync-bn/--no-sync-bn"
    )


class TrainConfig(Frozen):
    """Everything `train` can be told."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    fit: FitConfig = FitConfig()
    launch: LaunchConfig = LaunchConfig()
