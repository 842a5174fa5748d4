"""The report as files: what the page says, and that a browser shows it without a network."""

import errno
import html
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_runs import made_run, made_search, made_sweep
from processes import SMALL, Cli, start, wait_for
from test_sweep import contents

from quartet.reports.page import report
from quartet.sweeps.directory import write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
browser = pytest.mark.skipif(not BROWSER, reason="needs Chromium or Chrome")


def show(page: Path, script: str = "") -> tuple[str, str]:
    """The page's elements after `script`, and what came on the console, offline and headless."""
    shown = page.with_name("shown.html")
    shown.write_text(page.read_text() + f"<script>{script}</script>")
    flags = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={page.parent / 'browser'}",
    ]  # fmt: skip
    done = subprocess.run(
        [str(BROWSER), *flags, "--dump-dom", shown.as_uri()],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def text_of(page: Path) -> str:
    """What is written on a page."""
    return html.unescape(" ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.S).split()))  # fmt: skip


def test_page_table_and_terminal_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"type": "Refusal", "message": "two\nlines, and a comma"}
    for number, best in enumerate((0.5, 0.2, 0.9)):
        given = ["optimizer=sgd", f"optimizer.lr={number}"]
        made_run(tmp_path / str(number), given, best, accuracy=0.75)
    made_run(tmp_path / "3", ["optimizer=sgd", "seed=4"], status="refused", error=error)
    page = report([tmp_path])
    assert page == tmp_path / "report.html"
    printed = capsys.readouterr().out
    assert printed.index("optimizer.lr=1 ") < printed.index("optimizer.lr=0 ")
    for words in (text_of(page), printed):
        assert "python train.py optimizer=sgd optimizer.lr=1" in words
        assert f"python evaluate.py run={tmp_path / '1'}" in words
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(table["status"]) == ["finished"] * 3 + ["refused"]
    assert list(table["seed"]) == [0, 0, 0, 4]
    columns = ["best", "epoch", "epochs", "seconds", "val/loss", "test/accuracy"]
    assert table.loc[0, columns].tolist() == [0.5, 3, 3, 1.5, 0.5, 0.75]
    assert table.loc[3, "reason"] == "Refusal: two\nlines, and a comma"
    assert table.loc[0, "command"] == "python train.py optimizer=sgd optimizer.lr=0"


def test_what_a_user_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    for number, name in enumerate((evil, '"><img src=x onerror=alert(1)>', "$x^{")):
        error = {"type": "Error", "message": evil} if number == 2 else None
        status = "failed" if error else "finished"
        made_run(tmp_path / str(number), [f"name={name}"], 0.1, status=status, error=error)
    page = report([tmp_path]).read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert html.escape(evil) in page


def test_sweep_under_way_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path / "0", ["optimizer=sgd"], status=None)
    page = text_of(report([tmp_path]))
    assert "1 job: 1 unfinished" in page
    assert "No job has finished with a value to rank by." in capsys.readouterr().out
    made_run(tmp_path / "1", ["optimizer=adam"], 0.5)
    page = text_of(report([tmp_path]))
    assert "1 unfinished, 1 finished" in page or "1 finished, 1 unfinished" in page
    assert "still running, or killed" in page


def test_metrics_that_differ_are_ranked_apart_and_it_is_said(tmp_path: Path) -> None:
    for number in range(4):
        metric = ("val/loss", "val/f1")[number % 2]
        given = [f"monitor.metric={metric}", f"loss={'ab'[number // 2]}"]
        made_run(tmp_path / str(number), given, 0.1 + number, metric=metric)
    page = text_of(report([tmp_path]))
    assert "They are ranked within each, not across." in page
    assert "Ranking by val/loss" in page
    assert "Ranking by val/f1" in page
    assert "loss differs between these jobs, so val/loss may not mean the same" in page


def test_nothing_of_anyone_else_is_overwritten(tmp_path: Path) -> None:
    made_run(tmp_path / "sweep" / "0")
    (tmp_path / "results.csv").write_text("my,own\n")
    with pytest.raises(FileExistsError, match="not a report's, and was not touched; move it"):
        report([tmp_path / "sweep"], into=tmp_path)
    assert (tmp_path / "results.csv").read_text() == "my,own\n"
    before = contents(tmp_path / "sweep")
    report([tmp_path / "sweep"])
    report([tmp_path / "sweep"])  # its own are made anew
    after = contents(tmp_path / "sweep")
    assert before.items() <= after.items()
    assert {path.name for path in after.keys() - before.keys()} == {"results.csv", "report.html"}


def test_several_directories_make_one_report_where_they_meet(tmp_path: Path) -> None:
    for name, best in (("a", 0.5), ("b", 0.25)):
        made_run(tmp_path / "in" / name, [f"optimizer={name}"], best)
    page = report([tmp_path / "in" / "a", tmp_path / "in" / "b"])
    assert page == tmp_path / "in" / "report.html"
    assert list(pd.read_csv(page.with_name("results.csv"))["job"]) == ["a", "b"]


def test_a_search_has_its_history_and_its_page_points_nowhere_outside(tmp_path: Path) -> None:
    made_search(tmp_path / "search", 12)
    code = (
        "import sys, quartet.reports.page as page; page.report(sys.argv[1:]);"
        "print(sorted(sys.modules.keys() & {'torch', 'lightning', 'hydra'}))"
    )
    path = [sys.executable, "-c", code, str(tmp_path / "search")]
    done = subprocess.run(path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    page = tmp_path / "search" / "report.html"
    assert "Each finished job in turn, and the best so far." in text_of(page)
    assert "//" not in re.sub(r"  // .*", "", page.read_text())  # no address of any kind
    assert not re.search(r"<(link|script|img|iframe)[^>]*(src|href)=\"(?!data:,)", page.read_text())
    for number in range(16):  # all combinations of two knobs
        given = [f"optimizer.lr={number % 4}", f"model.dropout={number // 4}"]
        made_run(tmp_path / "grid" / str(number), given, 0.1 + number)
    assert "best so far" not in text_of(report([tmp_path / "grid"]))


def test_absent_setting_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        if number % 2:
            given = ["optimizer=sgd", f"optimizer.momentum={number / 10}"]
        else:
            given = ["optimizer=adam", f"optimizer.eps={1e-8 * 3**number}"]
        made_run(tmp_path / str(number), [*given, f"optimizer.lr={number * 0.61 % 1}"], 2 + number)
    page = text_of(report([tmp_path]))
    assert "optimizer=adam, optimizer.eps=1e-08, optimizer.lr=0" in page
    assert "1. adam, eps=1e-08, lr=0" in (tmp_path / "report.html").read_text()
    assert ">nan" not in page
    assert "nan" not in capsys.readouterr().out


# At the end of a sweep

SWEEP = ["-m", *SMALL, "hydra.sweep.dir=sweep", "callbacks.progress_bar=null"]


def test_sweep_survives_bad_jobs_and_ends_with_the_report(command: Cli, tmp_path: Path) -> None:
    jobs = ["optimizer.lr=0.1,-1,1e30,0.2", "trainer.max_epochs=1"]
    assert command("train.py", *SWEEP, *jobs) == 1
    out, err = command.capsys.readouterr()
    table = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert list(table["status"]) == ["finished", "refused", "failed", "finished"]
    for job, status in enumerate(table["status"]):
        result = json.loads((tmp_path / "sweep" / str(job) / "result.json").read_text())
        assert result["status"] == status
    assert "job 1 refused: optimizer.lr=-1: must be" in err
    assert re.search(r"job 2 failed: the (validation )?loss became", err)
    assert "Traceback" not in err
    winner = table.loc[table["best"].idxmin()]
    assert f"\n  {winner['command']}\n" in out
    assert f"\n  python evaluate.py run={tmp_path / 'sweep' / str(winner['job'])}\n" in out
    assert out.endswith("sweep/results.csv\nsweep/report.html\n")
    assert "2 of 4 jobs finished: sweep" in out


@pytest.mark.slow
def test_an_interrupted_sweep_has_its_report_too(tmp_path: Path) -> None:
    process = start(tmp_path, *SWEEP, "trainer.max_epochs=1,1000000")
    wait_for("sweep/1/metrics.csv", tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "No report" not in err
    table = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert list(table["status"]) == ["finished", "interrupted"]


def test_failed_report_fails_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(str(tmp_path))  # no job began: nothing to tell
    assert capsys.readouterr().err == ""
    made_run(tmp_path / "0")
    (tmp_path / "sweep.json").write_text("[half")
    write_report(str(tmp_path))
    error = capsys.readouterr().err
    assert error.startswith("No report, since SweepTableError: ")
    assert f"python scripts/report.py {tmp_path}" in error


def test_command_refuses_no_runs_and_a_damaged_table(tmp_path: Path, command: Cli) -> None:
    said = command.refuse("scripts/report.py", str(tmp_path))
    assert said.startswith(f"{tmp_path} holds no run; name a sweep, such as multirun/")
    assert not any(tmp_path.iterdir())
    made_run(tmp_path / "0")
    (tmp_path / "sweep.json").write_text('{"command": [], "jobs": {"0": {"overrides": 1}}}')
    said = command.refuse("scripts/report.py", str(tmp_path))
    assert said.startswith(f"{tmp_path}/sweep.json is no table of a sweep's jobs: ")


@browser
@pytest.mark.parametrize("jobs", [1, 500])
def test_a_browser_shows_it_offline_without_an_error(tmp_path: Path, jobs: int) -> None:
    page = report([made_sweep(tmp_path / "sweep", jobs)])
    elements, console = show(page)
    assert console == ""
    rows = re.search(r'<table id="all">.*?</table>', elements, flags=re.S)
    assert rows
    assert rows.group().count("<tr") == jobs + 1


@browser
def test_headings_sort_and_the_filter_narrows(tmp_path: Path) -> None:
    for number, best in enumerate((10.0, 9.0, 0.5, 100.0)):
        made_run(tmp_path / str(number), [f"optimizer={'abcd'[number]}"], best)
    made_run(tmp_path / "4", ["optimizer=e"], status="failed")
    script = """
        const heads = [...document.querySelectorAll("#all th")];
        const head = heads.find(each => each.textContent === "best");
        const shown = () => [...document.querySelectorAll("#all tbody tr")]
            .filter(row => !row.hidden).map(row => row.cells[0].textContent).join("");
        const found = [shown()];
        for (const _ of [1, 2]) {
            head.firstChild.click();
            found.push(shown(), head.getAttribute("aria-sort"));
        }
        const input = document.querySelector("[data-for=all]");
        input.value = "failed";
        input.dispatchEvent(new Event("input"));
        found.push(shown(), input.parentElement.querySelector(".shown").textContent);
        for (const copy of document.querySelectorAll(".copy")) copy.click();
        document.title = JSON.stringify(found);
    """
    elements, console = show(report([tmp_path]), script)
    assert console == ""
    found = re.search(r"<title>(.*?)</title>", elements)
    assert found
    # Empty ones come last either way.
    expected = ["01234", "21034", "ascending", "30124", "descending", "4", "1"]
    assert json.loads(html.unescape(found.group(1))) == expected


@browser
def test_an_error_on_the_console_would_be_seen(tmp_path: Path) -> None:
    made_run(tmp_path / "0")
    _, console = show(report([tmp_path]), "throw new Error('seen')")
    assert "seen" in console


@browser
def test_a_phone_scrolls_tables_and_not_the_page(tmp_path: Path) -> None:
    page = report([made_sweep(tmp_path / "sweep", 60)])
    frame = page.with_name("frame.html")
    script = """
        const inner = document.querySelector("iframe").contentDocument.documentElement;
        document.title = `${inner.scrollWidth} ${inner.clientWidth}`;
    """
    frame.write_text(
        '<iframe width="390" height="800" style="border:0" srcdoc="'
        f'{html.escape(page.read_text())}"></iframe>'
    )
    elements, _ = show(frame, f"window.onload = () => {{ {script} }}")
    found = re.search(r"<title>(\d+) (\d+)</title>", elements)
    assert found
    assert int(found.group(1)) <= int(found.group(2)) <= 390


def test_a_report_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_run(tmp_path / "0")

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        report([tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
