"""The output of --help: the files of conf/, or the help of Hydra."""

import runpy
import subprocess
import sys

import pytest

from quartet.core.files import CONF

ROOT = CONF.parent


def asked(
    script: str, *arguments: str, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    patch.setattr(sys, "argv", [str(ROOT / script), *arguments])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("script", ["evaluate.py", "predict.py", "scripts/export.py"])
def test_help_is_the_file_that_says_what_each_setting_is(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = asked(script, "--help", patch=monkeypatch, capsys=capsys)
    assert f"python {script} run=outputs/DATE/TIME" in printed.splitlines()[0]
    assert "checkpoint: best # or last" in printed


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_group_and_option(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = asked("train.py", flag, patch=monkeypatch, capsys=capsys)
    for file in CONF.glob("[!.]*/**/*.yaml"):
        group = str(file.parent.relative_to(CONF))
        (options,) = [line for line in printed.splitlines() if line.startswith(f"{group}: ")] or [
            ""
        ]
        assert file.stem in options.split(": ")[-1].split(", ") or group == "hydra"
    assert "batch_size: 32 # samples (ranking: queries) a step" in printed
    assert "$schema" not in printed


def test_help_of_options_is_their_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("optimizer=adam", "--help", "data/task=regression")
    printed = asked("train.py", *chosen, patch=monkeypatch, capsys=capsys)
    assert "# Adam (Kingma and Ba, 2015)." in printed
    assert "# conf/data/task/regression.yaml" in printed
    assert "sgd" not in printed


def test_help_with_anything_else_is_hydras() -> None:
    arguments = [sys.executable, str(ROOT / "train.py"), "--help", "optimizer.lr=0.125"]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert "== Config ==" in printed
    assert "lr: 0.125" in printed
