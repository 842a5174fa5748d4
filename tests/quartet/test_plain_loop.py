"""Training through Quartet against the loop that a person would write with torch's own parts.

The weights must be the same, bit for bit, whatever is chosen.
"""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count, islice, product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import get_object
from made import SHORT, composed, labelled_table, options, pairs, project_part
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import LBFGS, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from quartet.build import Run, build
from quartet.core.files import CONF
from quartet.core.problems import ConfigError

pytestmark = pytest.mark.usefixtures("quiet")
EPOCHS = 3
TINY = (
    *("trainer=cpu", f"trainer.max_epochs={EPOCHS}", "trainer.limit_train_batches=4"),
    *("model.hidden=[16]", "metrics=none", "logger=csv"),
)
# 70 training rows: batches of 20, 20, 20 and 10.
NOISE = ("data=linear", "data.batch_size=20")


# --- What a person would write -------------------------------------------------------------------

# Arguments that are left out have torch's defaults.
OPTIMIZERS: dict[str, Callable[[Any, DictConfig], Optimizer]] = {
    "adadelta": lambda p, h: torch.optim.Adadelta(p, lr=h.lr),
    "adafactor": lambda p, h: torch.optim.Adafactor(p, lr=h.lr),
    "adagrad": lambda p, h: torch.optim.Adagrad(p, lr=h.lr),
    "adam": lambda p, h: torch.optim.Adam(p, lr=h.lr),
    "adamax": lambda p, h: torch.optim.Adamax(p, lr=h.lr),
    "adamw": lambda p, h: torch.optim.AdamW(p, lr=h.lr, weight_decay=h.weight_decay),
    "amsgrad": lambda p, h: torch.optim.Adam(p, lr=h.lr, amsgrad=True),
    "asgd": lambda p, h: torch.optim.ASGD(p, lr=h.lr),
    "lbfgs": lambda p, h: LBFGS(p, max_iter=4, history_size=3, line_search_fn="strong_wolfe"),
    "momentum": lambda p, h: torch.optim.SGD(p, lr=h.lr, momentum=0.9),
    "nadam": lambda p, h: torch.optim.NAdam(p, lr=h.lr),
    "nesterov": lambda p, h: torch.optim.SGD(p, lr=h.lr, momentum=0.9, nesterov=True),
    "radam": lambda p, h: torch.optim.RAdam(p, lr=h.lr),
    "rmsprop": lambda p, h: torch.optim.RMSprop(p, lr=h.lr),
    "rprop": lambda p, h: torch.optim.Rprop(p, lr=h.lr, etas=(0.9, 1.1), step_sizes=(1e-4, 3e-3)),
    "sgd": lambda p, h: torch.optim.SGD(p, lr=h.lr),
}
WITH_MOMENTUM = ("adam", "adamax", "adamw", "amsgrad", "momentum", "nadam", "nesterov", "radam")

SCHEDULERS: dict[str, Callable[[Optimizer, DictConfig, "Horizon"], Any]] = {
    "cosine": lambda o, h, n: lr_scheduler.CosineAnnealingLR(o, T_max=n.ticks, eta_min=0.0),
    "cosine_restarts": lambda o, h, n: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=h.T_0),
    "cyclic": lambda o, h, n: lr_scheduler.CyclicLR(
        o,
        base_lr=[0.1 * group["lr"] for group in o.param_groups],
        max_lr=[group["lr"] for group in o.param_groups],
        step_size_up=h.step_size_up,
        cycle_momentum=n.cycle_momentum,
    ),
    "exponential": lambda o, h, n: lr_scheduler.ExponentialLR(o, gamma=h.gamma),
    "linear": lambda o, h, n: lr_scheduler.LinearLR(
        o, start_factor=1.0, end_factor=h.end_factor, total_iters=n.ticks
    ),
    "multistep": lambda o, h, n: lr_scheduler.MultiStepLR(o, list(h.milestones), gamma=h.gamma),
    "none": lambda o, h, n: lr_scheduler.LambdaLR(o, lambda _: 1.0),
    "one_cycle": lambda o, h, n: lr_scheduler.OneCycleLR(
        o,
        max_lr=[group["lr"] for group in o.param_groups],
        total_steps=n.rates,
        pct_start=h.pct_start,
        cycle_momentum=n.cycle_momentum,
    ),
    "plateau": lambda o, h, n: ReduceLROnPlateau(
        o, mode="min", factor=h.factor, patience=h.patience, threshold=h.threshold
    ),
    "polynomial": lambda o, h, n: lr_scheduler.PolynomialLR(o, total_iters=n.ticks, power=h.power),
    "step": lambda o, h, n: lr_scheduler.StepLR(o, step_size=h.step_size, gamma=h.gamma),
}


def balanced_cross_entropy(outputs: Tensor, targets: Tensor, train_targets: Tensor) -> Tensor:
    counts = train_targets.bincount()
    weight = (len(train_targets) / (len(counts) * counts.double())).float()
    return F.cross_entropy(outputs, targets, weight=weight)


Loss = Callable[..., Tensor]
# Of outputs and targets, and for ranking the query of each row.
LOSSES: dict[str, Loss] = {
    "bce": F.binary_cross_entropy_with_logits,
    "cross_entropy": F.cross_entropy,
    "focal": project_part("loss.FocalLoss")(gamma=2.0, alpha=None),
    "huber": lambda outputs, targets, *_: F.huber_loss(outputs, targets, delta=1.0),
    "label_smoothing": lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1),
    "listnet": project_part("loss.ListNetLoss")(),
    "mae": lambda outputs, targets, *_: F.l1_loss(outputs, targets),
    "mse": lambda outputs, targets, *_: F.mse_loss(outputs, targets),
    "nll": lambda outputs, targets: F.nll_loss(F.log_softmax(outputs, dim=1), targets),
    "ranknet": project_part("loss.RankNetLoss")(sigma=1.0),
    "smooth_l1": lambda outputs, targets, *_: F.smooth_l1_loss(outputs, targets, beta=1.0),
}


def as_configured(node: DictConfig, but: Sequence[str], *arguments: Any) -> Any:
    """What a new option names that nobody has written by hand yet."""
    but = [*but, "search"]
    keywords = {k: v for k, v in OmegaConf.to_container(node, resolve=True).items() if k not in but}
    return get_object(keywords.pop("_target_"))(*arguments, **keywords)


def loss_by_hand(cfg: DictConfig, run: Run) -> Loss:
    name, train_targets = cfg.hydra.runtime.choices.loss, run.data.parts.train[:][1]
    if name == "weighted_bce":
        weight = (1 - train_targets).double().sum(0) / train_targets.double().sum(0)
        return partial(F.binary_cross_entropy_with_logits, pos_weight=weight.float())
    if name == "weighted_cross_entropy":
        return lambda outputs, targets: balanced_cross_entropy(outputs, targets, train_targets)
    return LOSSES[name] if name in LOSSES else as_configured(cfg.loss, ["tasks"])


def optimizers_by_hand(cfg: DictConfig, parameters: Sequence[Any]) -> list[Optimizer]:
    """For muon a pair, as torch's own takes matrices alone.

    `parameters` are one list, or groups of them with an own learning rate.
    """
    name, h = cfg.hydra.runtime.choices.optimizer, cfg.optimizer
    if name == "muon":
        matrices = [p for p in parameters if p.ndim == 2]
        others = [p for p in parameters if p.ndim != 2]
        keys = ("lr", "weight_decay", "momentum", "nesterov", "ns_steps", "adjust_lr_fn")
        muon = torch.optim.Muon(matrices, **{key: h[key] for key in keys})
        adamw = torch.optim.AdamW(others, lr=h.lr, weight_decay=h.weight_decay, eps=h.eps)
        return [muon, adamw]
    if name in OPTIMIZERS:
        return [OPTIMIZERS[name](parameters, h)]
    return [as_configured(h, ["freeze", "lr_factors", "decay_bias_and_norm"], parameters)]


def schedulers_by_hand(
    cfg: DictConfig, optimizers: Sequence[Optimizer], horizon: "Horizon"
) -> list[Any]:
    name, h = cfg.hydra.runtime.choices.scheduler, cfg.scheduler
    if name in SCHEDULERS:
        return [SCHEDULERS[name](optimizer, h, horizon) for optimizer in optimizers]
    driving = ("interval", "frequency", "warmup_steps", "warmup_epochs", "monitor")
    return [as_configured(h, driving, optimizer) for optimizer in optimizers]


class Horizon:
    """How long the training is, counted by going through it.

    Attributes:
        ramp: Steps of warm-up.
        ticks: Steps of the scheduler.
        rates: Learning rates that it gives to steps of the optimizer.
    """

    def __init__(self, cfg: DictConfig, batches: int) -> None:
        s, t = cfg.scheduler, cfg.trainer
        per_epoch = math.ceil(batches / t.accumulate_grad_batches)
        self.last = per_epoch * t.max_epochs
        if t.max_steps != -1:
            self.last = min(self.last, t.max_steps)
        self.ramp = s.warmup_steps or round(s.warmup_epochs * per_epoch)
        moments = [
            update
            for update in range(self.ramp + 1, t.max_epochs * per_epoch + 1)
            if (
                s.interval == "step"
                and update <= self.last
                and (update - self.ramp) % s.frequency == 0
            )
            or (s.interval == "epoch" and update % (per_epoch * s.frequency) == 0)
        ]
        self.ticks = max(1, len(moments))
        self.rates = 1 + sum(update < self.last for update in moments)
        wanted = s.get("cycle_momentum")
        has_momentum = cfg.hydra.runtime.choices.optimizer in WITH_MOMENTUM
        self.cycle_momentum = has_momentum if wanted is None else wanted


def train_by_hand(cfg: DictConfig, run: Run, forgotten: int | None = None) -> nn.Module:
    """A copy of the run's model, trained by `plain_loop` on the batches of the run.

    Args:
        cfg: What `run` was built from.
        run: Not trained yet.
        forgotten: A step of the scheduler to leave out, from 0.
    """
    model = copy.deepcopy(run.module.model)
    run.data.load()
    train, val = run.data.train_dataloader(), run.data.val_dataloader()
    epochs = []
    for epoch in range(cfg.trainer.max_epochs):
        train.batch_sampler.set_epoch(epoch)
        epochs.append(list(islice(train, cfg.trainer.limit_train_batches)))

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not ("layers.0.*" in cfg.optimizer.freeze and "layers.0." in name))
    parameters = [p for p in model.parameters() if p.requires_grad]
    if cfg.optimizer.lr_factors:
        (factor,) = cfg.optimizer.lr_factors.values()
        first, others = [model.layers[0].weight], [model.layers[0].bias, *parameters[2:]]
        parameters = [{"params": first, "lr": factor * cfg.optimizer.lr}, {"params": others}]
    if not cfg.optimizer.decay_bias_and_norm:
        biases = {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0}
        parameters = [{"params": [p for p in parameters if p.ndim == 2]}, biases]
    optimizers = optimizers_by_hand(cfg, parameters)

    horizon = Horizon(cfg, len(epochs[0]))
    schedulers = schedulers_by_hand(cfg, optimizers, horizon)
    warmups = [
        lr_scheduler.LinearLR(o, start_factor=1 / (horizon.ramp + 1), total_iters=horizon.ramp)
        for o in optimizers
        if horizon.ramp
    ]
    if forgotten is not None:
        schedulers = [Forgetful(scheduler, forgotten) for scheduler in schedulers]
    plain_loop(
        cfg, model, loss_by_hand(cfg, run), optimizers, schedulers, warmups, horizon, epochs, val
    )
    return model


class Forgetful:
    """A scheduler of which one step is left out."""

    def __init__(self, scheduler: Any, forgotten: int) -> None:
        self.scheduler, self.forgotten, self.steps = scheduler, forgotten, 0

    def step(self) -> None:
        if self.steps != self.forgotten:
            self.scheduler.step()
        self.steps += 1


def plain_loop(
    cfg: DictConfig,
    model: nn.Module,
    loss_function: Loss,
    optimizers: list[Optimizer],
    schedulers: list[Any],
    warmups: list[Any],
    horizon: Horizon,
    epochs: list[list[list[Tensor]]],
    val: Any,
) -> None:
    """The loop of the tutorials. Two optimizers (Muon and AdamW) take every step together."""
    accumulate = cfg.trainer.accumulate_grad_batches
    clip, algorithm = cfg.trainer.gradient_clip_val, cfg.trainer.gradient_clip_algorithm
    interval, frequency = cfg.scheduler.interval, cfg.scheduler.frequency
    low = cfg.trainer.precision == "bf16-mixed"
    precision = torch.autocast("cpu", torch.bfloat16) if low else nullcontext()
    updates = 0

    def clip_gradients() -> None:
        if clip and algorithm == "norm":
            clip_grad_norm_(model.parameters(), clip)
        elif clip:
            clip_grad_value_(model.parameters(), clip)

    for epoch, batches in enumerate(epochs, 1):
        model.train()
        train_loss = 0.0
        for number, (inputs, *rest) in enumerate(batches, 1):
            if isinstance(optimizers[0], LBFGS):

                def closure(inputs: Tensor = inputs, rest: list[Tensor] = rest) -> Tensor:
                    optimizers[0].zero_grad()
                    loss = loss_function(model(inputs), *rest)
                    loss.backward()
                    clip_gradients()
                    return loss

                train_loss += optimizers[0].step(closure).item() * len(inputs)
            else:
                with precision:
                    loss = loss_function(model(inputs), *rest)
                (loss / accumulate).backward()
                train_loss += loss.item() * len(inputs)
                if number % accumulate and number < len(batches):
                    continue
                clip_gradients()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()

            updates += 1
            if updates <= horizon.ramp:
                for warmup in warmups:
                    warmup.step()
            elif interval == "step" and (updates - horizon.ramp) % frequency == 0:
                for scheduler in schedulers:
                    scheduler.step()
            if updates == horizon.last:
                break

        validates = epoch % cfg.trainer.check_val_every_n_epoch == 0
        if interval == "epoch" and updates > horizon.ramp and epoch % frequency == 0:
            for scheduler in schedulers:
                if not isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step()
                elif cfg.monitor.metric == "train/loss":
                    scheduler.step(train_loss / sum(len(inputs) for inputs, *_ in batches))
                elif validates:
                    scheduler.step(validation_loss(model, loss_function, val, precision))
        if updates == horizon.last:
            break


@torch.no_grad()
def validation_loss(model: nn.Module, loss_function: Loss, val: Any, precision: Any) -> float:
    model.eval()
    total = samples = 0.0
    for inputs, *rest in val:
        with precision:
            total += loss_function(model(inputs), *rest).item() * len(inputs)
        samples += len(inputs)
    return total / samples


# --- The comparison ------------------------------------------------------------------------------


def compare(overrides: Sequence[str], directory: Path, forgotten: int | None = None) -> Run:
    """Trains both ways and asserts that the weights are the same.

    Returns:
        The trained run.

    Raises:
        ConfigError: the configuration cannot train.
    """
    cfg = composed([*TINY, *overrides])
    run = build(cfg, directory)
    torch.manual_seed(1)
    by_hand = train_by_hand(cfg, run, forgotten)
    before = copy.deepcopy(run.module.model.state_dict())
    torch.manual_seed(1)
    run.trainer.fit(run.module, run.data)
    after = run.module.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after), "nothing was trained"
    expected = by_hand.state_dict().items()
    wrong = [name for name, value in expected if not torch.equal(value, after[name])]
    assert not wrong, f"{' '.join(overrides)}: the weights differ in {', '.join(wrong)}"
    return run


@pytest.mark.parametrize(
    ("number", "optimizer", "scheduler"),
    [(n, *p) for n, p in enumerate(pairs("optimizer", "scheduler"))],
)
def test_optimizers_and_schedulers_train_as_by_hand(
    number: int, optimizer: str, scheduler: str, tmp_path: Path
) -> None:
    names = [f"optimizer={optimizer}", f"scheduler={scheduler}", *SHORT.get(scheduler, [])]
    if number % 2:
        names.append("scheduler.warmup_steps=5")
    compare([*NOISE, *names], tmp_path)


@pytest.mark.slow
def test_every_optimizer_with_every_scheduler_trains_as_by_hand(tmp_path: Path) -> None:
    """Each pair without and with a warm-up, and with momentum cycled on demand where that is said."""
    trained, refused = 0, []
    directories = (tmp_path / str(number) for number in count())
    for optimizer, scheduler in product(options("optimizer"), options("scheduler")):
        names = [f"optimizer={optimizer}", f"scheduler={scheduler}", *SHORT.get(scheduler, [])]
        variants = [[], ["scheduler.warmup_steps=5"]]
        if scheduler in ("cyclic", "one_cycle"):
            variants.append(["scheduler.cycle_momentum=true"])
        for variant in variants:
            try:
                compare([*NOISE, *names, *variant], next(directories))
                trained += 1
            except ConfigError as error:
                refused.append(f"{' '.join([*names, *variant])}: {error}")
    print(f"{trained} equal, {len(refused)} refused:", *refused, sep="\n  ")
    assert all("cycle_momentum" in reason for reason in refused)
    assert trained >= 2 * len(options("optimizer")) * len(options("scheduler"))


def test_comparison_fails_where_one_step_of_the_scheduler_is_left_out(tmp_path: Path) -> None:
    names = ["optimizer=sgd", "scheduler=step", *SHORT["step"]]
    with pytest.raises(AssertionError, match="the weights differ"):
        compare([*NOISE, *names], tmp_path, forgotten=0)


DATA: dict[str, list[str]] = {
    "multiclass": ["data=digits"],
    "binary": ["data=breast_cancer"],
    "multilabel": ["data=csv", "data/task=multilabel", "data.target=[red,round]"],
    "regression": ["data=diabetes"],
    "ranking": ["data=ranking", "data.queries=60", "data.documents=6", "data.batch_size=8"],
}


@pytest.mark.parametrize(
    ("loss", "task"),
    [
        pytest.param(loss, task, marks=pytest.mark.slow if number else [])
        for loss in options("loss")
        for number, task in enumerate(OmegaConf.load(CONF / f"loss/{loss}.yaml").get("tasks", ()))
        if task in DATA
    ],
)
def test_losses_train_as_by_hand_on_their_tasks(loss: str, task: str, tmp_path: Path) -> None:
    labelled_table(tmp_path / "table.csv")
    path = [f"data.path={tmp_path}/table.csv"] if task == "multilabel" else []
    compare([*DATA[task], *path, f"loss={loss}"], tmp_path / "run")


SETTINGS: dict[str, list[str]] = {
    "accumulation with an incomplete last window": ["trainer.accumulate_grad_batches=3"],
    "accumulation and a warm-up": [
        *("trainer.accumulate_grad_batches=2", "scheduler=cosine", "scheduler.warmup_steps=3")
    ],
    "clipped norm of accumulated gradients": [
        *("trainer.gradient_clip_val=0.1", "trainer.accumulate_grad_batches=3", "optimizer=sgd")
    ],
    "clipped norm with lbfgs": ["trainer.gradient_clip_val=0.1", "optimizer=lbfgs"],
    # The order in which a norm is summed up must be the model's.
    "clipped norm with muon": [
        *("trainer.gradient_clip_val=0.05", "optimizer=muon", "model.hidden=[64,64,32,32]")
    ],
    "clipped norm without decay of biases": [
        *("trainer.gradient_clip_val=0.05", "optimizer=adamw", "optimizer.weight_decay=0.5"),
        *("optimizer.decay_bias_and_norm=false", "model.hidden=[64,64,32,32]"),
    ],
    "clipped values": [
        *("trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value")
    ],
    "full batch with lbfgs": ["data.batch_size=full", "optimizer=lbfgs"],
    "the last batch left out": ["data.drop_last=true"],
    "not shuffled": ["data.shuffle=false"],
    "dropout": ["model.dropout=0.5"],
    "batch normalisation": ["model.norm=batch"],
    "frozen first layer with clipping": [
        *("optimizer.freeze=['layers.0.*']", "trainer.gradient_clip_val=0.1", "optimizer=sgd")
    ],
    "a learning rate of its own, scheduled": [
        *("optimizer.lr_factors={layers.0.weight: 0.1}", "scheduler=one_cycle")
    ],
    "warm-up of half an epoch": ["scheduler=step", *SHORT["step"], "scheduler.warmup_epochs=0.5"],
    "warm-up of an epoch, by steps": [
        *("scheduler=cosine", "scheduler.interval=step", "scheduler.warmup_epochs=1")
    ],
    "schedule every second step": [
        *("scheduler=linear", "scheduler.interval=step", "scheduler.frequency=2")
    ],
    "schedule every third step after a warm-up": [
        *("scheduler=one_cycle", "scheduler.frequency=3", "scheduler.warmup_steps=2")
    ],
    "schedule every second epoch": [
        *("scheduler=exponential", "scheduler.frequency=2", "trainer.max_epochs=5")
    ],
    "cycle by epochs": ["scheduler=one_cycle", "scheduler.interval=epoch"],
    "a limit of steps": ["trainer.max_steps=7", "scheduler=polynomial", "scheduler.interval=step"],
    "16-bit numbers": ["trainer.precision=bf16-mixed"],
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_train_as_by_hand(setting: str, tmp_path: Path) -> None:
    compare([*NOISE, *SETTINGS[setting]], tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler.warmup_epochs=2"],
        ["monitor.metric=train/loss"],
        ["scheduler.frequency=2", "trainer.check_val_every_n_epoch=2"],
        ["trainer.val_check_interval=0.5"],
        ["scheduler.frequency=2", "trainer.val_check_interval=3"],
    ],
    ids=" ".join,
)
def test_plateaus_are_met_as_by_hand(overrides: list[str], tmp_path: Path) -> None:
    plateau = ["scheduler=plateau", *SHORT["plateau"], "optimizer.lr=0.05", "trainer.max_epochs=6"]
    run = compare([*NOISE, *plateau, *overrides], tmp_path)
    rate = run.trainer.optimizers[0].param_groups[0]["lr"]
    assert rate < 0.01, "there was no plateau to meet"
