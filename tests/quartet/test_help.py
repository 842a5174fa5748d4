"""The output of --help: the files of conf/, or the help of Hydra."""

import pytest
from processes import Cli

from quartet.core.files import CONF


@pytest.mark.parametrize("script", ["evaluate.py", "predict.py", "scripts/export.py"])
def test_help_is_the_file_that_says_what_each_setting_is(script: str, command: Cli) -> None:
    printed = command.ask(script, "--help")
    assert f"python {script} run=outputs/DATE/TIME" in printed.splitlines()[0]
    assert "checkpoint: best # or last" in printed


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_group_and_option(flag: str, command: Cli) -> None:
    printed = command.ask("train.py", flag)
    for file in CONF.glob("[!.]*/**/*.yaml"):
        group = str(file.parent.relative_to(CONF))
        lines = [line for line in printed.splitlines() if line.startswith(f"{group}: ")]
        (options,) = lines or [""]
        assert file.stem in options.split(": ")[-1].split(", ") or group == "hydra"
    assert "batch_size: 32 # samples (ranking: queries) a step" in printed
    assert "$schema" not in printed


def test_help_of_options_is_their_files_and_with_anything_else_hydras(command: Cli) -> None:
    printed = command.ask("train.py", "optimizer=adam", "--help", "data/task=regression")
    assert "# Adam (Kingma and Ba, 2015)." in printed
    assert "# conf/data/task/regression.yaml" in printed
    assert "sgd" not in printed
    printed = command.ask("train.py", "--help", "optimizer.lr=0.125")
    assert "== Config ==" in printed
    assert "lr: 0.125" in printed
