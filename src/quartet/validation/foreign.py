"""What is checked of Lightning modules and data modules that know nothing of this engine."""

from collections.abc import Iterator, Sequence

import yaml

from quartet.config import allow, signatures
from quartet.config.configuration import Configuration
from quartet.config.groups import POLICY_KEYS, is_foreign
from quartet.config.overrides import key_of
from quartet.core.files import CONF
from quartet.core.problems import Problem


def check_unused(config: Configuration, unused: Sequence[str]) -> Iterator[Problem]:
    """Yields groups that were chosen, and that the module does not take.

    Args:
        config: The configuration.
        unused: The groups that the module does not take.
    """
    title = config.options.get("module") or config["module"]["_target_"]
    chosen = dict.fromkeys(key_of(each).split(".")[0] for each in config.overrides)
    experiment = config.options.get("experiment")
    file = CONF / "experiment" / f"{experiment}.yaml"
    if experiment and file.is_file():
        listed = yaml.safe_load(file.read_text()) or {}
        defaults = [
            key for each in listed.get("defaults") or () if isinstance(each, dict) for key in each
        ]
        chosen |= dict.fromkeys([*listed, *(key.split("/")[-1].split("@")[0] for key in defaults)])
    for group in unused:
        known = config["module"].get(group)
        typed = [each for each in config.overrides if key_of(each).startswith(f"{group}.")]
        typed = [each for each in typed if key_of(each).partition(".")[2] in (known or {})]
        for each in typed:
            message = f"module={title} sets it in module.{group}; use module.{each}."
            yield Problem(each, message)
        if group in chosen and not typed:
            message = f"module={title} has no argument {group}; leave it out."
            if group in config["module"]:
                message = f"module={title} sets it in module.{group}; change that."
            yield Problem(group, message, config.options.get(group, group))
    settings = config["trainer"]
    for key in ("compile", "channels_last") if "model" in unused else ():
        if settings[key]:
            message = "is for the model group, which the module does not take; do it in the module."
            yield Problem(f"trainer.{key}", message, settings[key])


def check_data(config: Configuration) -> Iterator[Problem]:
    """Yields settings of the engine's data that a LightningDataModule does not take."""
    target = config["data"]["_target_"]
    accepted, _ = signatures.parameters(allow.locate(target))
    usual = yaml.safe_load((CONF / "train.yaml").read_text())["data"]
    ignored = [
        key
        for key in POLICY_KEYS["data"]
        if key in usual and key not in accepted and config["data"][key] != usual[key]
    ]
    described = ("task", "input_shape", "num_classes", "num_outputs", "dir")
    for key in ignored:
        if key not in described:
            message = f"{target} has no such argument; leave it out, and change it in the class."
            yield Problem(f"data.{key}", message, config["data"][key])


def describe_unchecked(config: Configuration) -> list[str]:
    """What cannot be checked of foreign classes before the training, for ``check=only``."""
    found = []
    if is_foreign(config, "module"):
        metric = config["monitor"]["metric"]
        found.append("module: its steps, its optimizer and its schedule")
        found += [f"monitor.metric={metric}: whether the module logs it"] if metric else []
    if is_foreign(config, "data"):
        found.append("data: its batches, and the length of the training")
        found.append("a resume within an epoch: exact if a loader gives the same batches again")
    return found
