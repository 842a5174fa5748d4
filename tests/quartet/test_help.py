"""The output of --help: the files of conf/, or the help of Hydra."""

from collections.abc import Callable

import pytest

from quartet.core.files import CONF

Asked = Callable[..., str]


@pytest.fixture
def asked(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Asked:
    """What a command prints."""

    def run(script: str, *arguments: str) -> str:
        assert command(script, *arguments) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("script", ["evaluate.py", "predict.py", "scripts/export.py"])
def test_help_is_the_file_that_says_what_each_setting_is(script: str, asked: Asked) -> None:
    printed = asked(script, "--help")
    assert f"python {script} run=outputs/DATE/TIME" in printed.splitlines()[0]
    assert "checkpoint: best # or last" in printed


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_group_and_option(flag: str, asked: Asked) -> None:
    printed = asked("train.py", flag)
    for file in CONF.glob("[!.]*/**/*.yaml"):
        group = str(file.parent.relative_to(CONF))
        (options,) = [line for line in printed.splitlines() if line.startswith(f"{group}: ")] or [
            ""
        ]
        assert file.stem in options.split(": ")[-1].split(", ") or group == "hydra"
    assert "batch_size: 32 # samples (ranking: queries) a step" in printed
    assert "$schema" not in printed


def test_help_of_options_is_their_files(asked: Asked) -> None:
    printed = asked("train.py", "optimizer=adam", "--help", "data/task=regression")
    assert "# Adam (Kingma and Ba, 2015)." in printed
    assert "# conf/data/task/regression.yaml" in printed
    assert "sgd" not in printed


def test_help_with_anything_else_is_hydras(asked: Asked) -> None:
    printed = asked("train.py", "--help", "optimizer.lr=0.125")
    assert "== Config ==" in printed
    assert "lr: 0.125" in printed
