"""What --help prints: what stands in conf/, at once, and Hydra's own where it is asked for more."""

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
    told = asked(script, "--help", patch=monkeypatch, capsys=capsys)
    assert f"python {script} run=outputs/DATE/TIME" in told.splitlines()[0]
    assert "checkpoint: best # or last" in told


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_group_and_option(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = asked("train.py", flag, patch=monkeypatch, capsys=capsys)
    for file in CONF.glob("[!.]*/**/*.yaml"):
        group = str(file.parent.relative_to(CONF))
        (options,) = [line for line in told.splitlines() if line.startswith(f"{group}: ")] or [""]
        assert file.stem in options.split(": ")[-1].split(", ") or group == "hydra"
    assert "batch_size: 32 # samples (ranking: queries) a step" in told
    assert "$schema" not in told


def test_help_of_options_is_their_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("optimizer=adam", "--help", "data/task=regression")
    told = asked("train.py", *chosen, patch=monkeypatch, capsys=capsys)
    assert "# Adam (Kingma and Ba, 2015)." in told
    assert "# conf/data/task/regression.yaml" in told
    assert "sgd" not in told


@pytest.mark.parametrize("more", [["optimizer.lr=0.125"], ["--config-dir", str(CONF)]])
def test_help_with_anything_else_is_hydras(more: list[str]) -> None:
    arguments = [sys.executable, str(ROOT / "train.py"), "--help", *more]
    told = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert "== Config ==" in told
    assert len(more) > 1 or "lr: 0.125" in told
