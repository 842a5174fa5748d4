"""What `check=only` prints: the parts of a run, its data, its length."""

from typing import Any

from omegaconf import DictConfig

from quartet.records import result as record


def describe_run(cfg: DictConfig) -> str:
    """Describes the run of a configuration: parts, data, sizes, the learning rate over time.

    Raises:
        quartet.core.problems.ConfigError: it cannot train.
    """
    from quartet.build import build
    from quartet.reports.text import describe_data
    from quartet.training.schedule import preview

    run = build(cfg)
    parameters = list(run.module.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    choices = record.group_choices(cfg.hydra.runtime.choices)
    lines = [f"{group:12}{choice}" for group, choice in choices.items()]
    lines.append(f"{'parameters':12}{trained:,} trained, {frozen:,} frozen")
    if run.data.loaded:
        parts = run.data.parts._asdict()
        sizes = [f"{len(parts[name] or ()):,} {name}" for name in ("train", "val", "test")]
        lines.append(f"{'samples':12}{', '.join(sizes)}")
        lines += describe_data(run.data.parts, run.data.metadata())
    else:
        lines.append(f"{'samples':12}{run.config['data']['train_samples']:,}, not read yet")
    endless = run.total_steps == float("inf")
    end = "until trainer.max_time" if endless else f"{run.total_steps:,} in all"
    lines.append(f"{'steps':12}{run.steps_per_epoch:,} an epoch, {end}")
    optimizer = run.module.create_optimizer(run.module.model)
    schedule: Any = run.module.create_schedule(
        optimizer,
        total_steps=run.total_steps,
        steps_per_epoch=run.steps_per_epoch,
        validate_every=run.config["trainer"]["check_val_every_n_epoch"],
    )
    if run.total_steps < 1_000_000:
        rates = preview(schedule, optimizer, int(run.total_steps), run.steps_per_epoch)
        start, middle, end = (f"{rate:.3g}" for rate in rates)
        lines.append(f"{'lr':12}{start} at the start, {middle} in the middle, {end} at the end")
    monitor = run.config["monitor"]
    watched = f"{monitor['metric']} ({monitor['mode']})"
    lines.append(
        f"{'monitor':12}{watched if monitor['metric'] else 'nothing: the last epoch counts'}"
    )
    return "\n".join(["Nothing is wrong with it. It would run:", *lines])
