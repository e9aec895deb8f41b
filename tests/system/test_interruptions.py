"""A run that is killed again and again, once in every stage, ends like one that was left alone."""

import signal
import time

import pytest
from conftest import STAGES, TINY, commits, contents, distill, news, start

pytestmark = pytest.mark.slow


def interrupt(folder, stage, *, after=1, how=signal.SIGKILL):
    """Start the run, strike when `stage` has told of `after` units or steps, and give what ends it."""
    told = len(news(folder / "runs/digits"))
    process = start(folder, "distill", "digits", *TINY, "--run", "runs/digits", "--executor", "local")
    try:
        while process.poll() is None:
            fresh = news(folder / "runs/digits")[told:]
            if sum(item["stage"] == stage and item["kind"] in ("unit", "progress") for item in fresh) >= after:
                break
            time.sleep(0.002)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stderr


def test_b11_killed_run_ends_like_an_undisturbed_one(tiny_run, tmp_path):
    store, run = tmp_path / "runs/store", tmp_path / "runs/digits"
    made = {}
    for stage in STAGES:
        told = len(news(run))
        # A second epoch of the teacher means that the first one's snapshot is safe.
        status, stderr = interrupt(tmp_path, stage, after=2 if stage == "pretrain" else 1)
        assert status == -signal.SIGKILL, (stage, stderr)
        assert not (run / "report.html").exists()
        if stage == "statistics":
            first = next(item for item in news(run)[told:] if item["kind"] == "progress")
            assert first["text"] == "goes on from a snapshot"
            assert first["done"] >= 1  # not the first epoch again
        assert made.items() <= commits(store).items(), stage
        made = commits(store)
    result = distill(tmp_path)
    assert result.returncode == 0, result.stderr
    assert made.items() <= commits(store).items()
    assert contents(store) == contents(tiny_run.store)
    # A writer that was killed may leave a part, which nobody reads.
    assert not [path for path in (store / "notes").glob("resume-*") if path.suffix != ".part"]
    for name in ("teacher.safetensors", "images.png", "config.yaml"):
        assert (run / name).read_bytes() == (tiny_run.run / name).read_bytes(), name


@pytest.mark.parametrize(
    ("how", "stage", "code"), [(signal.SIGINT, "statistics", 130), (signal.SIGTERM, "recover", 143)]
)
def test_interruption_is_one_line_and_its_status(tmp_path, how, stage, code):
    status, stderr = interrupt(tmp_path, stage, how=how)
    assert status == code
    assert stderr == "wmdd: interrupted. What was finished is kept: the same command goes on from there\n"
    assert [name for name in commits(tmp_path / "runs/store") if name.startswith("pretrain/")]
