"""What a failing test leaves behind is ended, so that nothing trains for ever."""

import time
from pathlib import Path

import processes
from processes import Command

ENDLESS = ("data=linear", "model=linear", "metrics=none", "trainer=cpu", "hydra.run.dir=run")


def test_a_command_that_still_runs_is_killed_and_its_output_removed(tmp_path: Path) -> None:
    process = Command(tmp_path, *ENDLESS, "trainer.max_epochs=1000000")
    for _ in range(1200):
        if (tmp_path / "run/metrics.csv").exists():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    processes.end_all()
    assert process.poll() == -9
    assert not process.output.exists()
    assert not processes.STARTED
