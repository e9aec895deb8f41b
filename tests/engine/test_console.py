"""Progress of a run: a table on a terminal, lines elsewhere, and the numbers that both show."""

import functools
import io

import pytest
from rich.console import Console

from wmdd.engine import console as log
from wmdd.engine.console import ConsoleListener, progress_view, show_index
from wmdd.engine.events import Event
from wmdd.engine.progress import RunProgress, clock
from wmdd.process.terminal import Terminal

NEWS = [
    Event("stage", "statistics", done=4, total=10),
    Event("workers", "", metrics={"10.0.0.7": 3, "10.0.0.8": 2}),
    Event("begin", "statistics", "class-4", total=1, node="10.0.0.7 (process 12)"),
    Event("begin", "statistics", "class-5", total=1, node="10.0.0.8 (process 13)"),
    Event("retry", "statistics", "class-4", text="class-4: its worker died; it starts again on another worker"),
    Event("unit", "statistics", "class-5"),
    Event("done", "statistics", "class-5"),
    Event("begin", "statistics", "class-4", total=1, node="10.0.0.8 (process 13)"),
    Event("progress", "statistics", "class-4", 3, 6, "images"),
]


def shown(news, *, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    with ConsoleListener(console) as listener:
        for event in news:
            listener(event)
        table = listener._table()
    if terminal:
        console.print(table)
    return out.getvalue()


def test_terminal_shows_each_stage_and_who_works_where():
    text = shown(NEWS, terminal=True)
    (row,) = [line for line in text.splitlines() if "statistics" in line and "5/10" in line][-1:]
    for part in ("1 running", "1 retried", "step 3/6", "images"):
        assert part in row, row
    assert "5 workers: 3 on 10.0.0.7, 2 on 10.0.0.8" in text
    assert "class-4: its worker died" in text


def test_log_has_lines_and_nothing_that_moves_a_cursor():
    end = Event("end", "statistics", done=10, total=10)
    text = shown([*NEWS, end], terminal=False)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "5 workers: 3 on 10.0.0.7, 2 on 10.0.0.8\n" in text
    assert text.splitlines()[-1].startswith("statistics 10/10 done in ")
    assert text.splitlines()[-1].endswith(", 1 retried")


def test_stage_that_was_in_the_store_took_no_time():
    news = [Event("stage", "recover", done=10, total=10), Event("end", "recover", done=10, total=10)]
    assert shown(news, terminal=False) == "recover    10/10 found in the store\n"
    row = shown(news, terminal=True).splitlines()[-1]
    assert "found in the store" in row
    assert "0.0 s" not in row


def test_end_of_a_stage_says_its_outcome_and_time():
    outcomes = {(0, 10): "done in 7.0 s", (4, 10): "done in 7.0 s, 4 found in the store", (4, 9): "stopped after 7.0 s"}
    for (first, done), words in outcomes.items():
        times = iter((0.0, 7.0))
        run = RunProgress(lambda times=times: next(times))
        run(Event("stage", "recover", done=first, total=10))
        run(Event("end", "recover", done=done, total=10))
        assert run.stages["recover"].outcome(50.0) == words


WHERE = {"terminal": {"force_terminal": True}, "notebook": {"force_jupyter": True}, "pipe": {}}


@pytest.mark.parametrize(
    ("where", "progress", "listens", "is_shown"),
    [
        ("terminal", None, False, True),
        ("notebook", None, False, True),
        ("pipe", None, False, False),
        ("terminal", None, True, False),
        ("terminal", True, True, True),
        ("pipe", True, False, True),
        ("terminal", False, False, False),
        ("notebook", False, False, False),
    ],
)
def test_progress_is_shown_on_terminals_and_notebooks(monkeypatch, where, progress, listens, is_shown):
    out, displayed, heard = io.StringIO(), [], []
    console = functools.partial(Terminal, file=out, width=160, color_system=None, **WHERE[where])
    monkeypatch.setattr(log, "Terminal", console)
    monkeypatch.setattr(log, "find_spec", lambda name: None)  # a notebook without ipywidgets has lines
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: displayed.append(text))
    with progress_view(progress, heard.append if listens else None, None) as (told, counted):
        counted(1, 2)
        for event in (*NEWS, Event("end", "statistics", done=10, total=10)):
            told(event)
    text = out.getvalue() + "".join(displayed)
    assert ("statistics" in text, "class-4: its worker died" in text) == (is_shown, is_shown)
    assert bool(displayed) == (where == "notebook" and is_shown)
    assert is_shown or text == ""
    assert len(heard) == (len(NEWS) + 1 if listens else 0)


def test_index_is_counted_in_one_line_on_a_terminal(monkeypatch):
    for options, expected in (({"force_terminal": True}, "\r"), ({}, "\n")):
        now, out = [0.0], io.StringIO()
        monkeypatch.setattr(log.time, "monotonic", lambda now=now: now[0])
        show = show_index(Console(file=out, color_system=None, **options))
        for done in range(1, 5):
            now[0] += 3
            show(done, 4)
        counts = (1, 2, 3, 4) if expected == "\r" else (2, 4)
        assert out.getvalue() == "".join(f"indexing   {done}/4 images{expected}" for done in counts)


def watched(stage):
    """Return the numbers of a stage, and a function that counts an event at a time and returns the time left."""
    now = [0.0]
    run = RunProgress(lambda: now[0])

    def see(at, *event, **more):
        now[0] = at
        run(Event(event[0], stage, *event[1:], **more))
        return run.stages[stage].left_s(at)

    return run.stages, see


def test_start_of_a_stage_is_no_part_of_its_pace():
    stages, see = watched("pretrain")
    see(0.0, "stage", done=0, total=1)
    see(0.0, "begin", "teacher", total=1)
    assert stages["pretrain"].left_s(19.0) is None
    # 20 s until the first of 21 epochs is over, most of them imports and compilation; then one epoch takes 1 s.
    assert see(20.0, "progress", "teacher", 1, 21) is None
    assert see(21.0, "progress", "teacher", 2, 21) is None
    assert [see(20.0 + more, "progress", "teacher", 1 + more, 21) for more in (2, 3, 4)] == pytest.approx([18, 17, 16])
    assert stages["pretrain"].describe(24.0) == "1 running, 16 s left"


def test_start_of_every_worker_is_no_part_of_the_pace():
    stages, see = watched("statistics")
    see(0.0, "stage", done=0, total=32)
    for worker in range(4):
        see(0.0, "begin", f"task-{worker}", total=8)
    # The workers come up one by one: what they did until they say so was done while no time was taken.
    for worker in range(4):
        assert see(10.0 + worker / 4, "unit", f"{worker}-0", task=f"task-{worker}") is None
    assert stages["statistics"].left_s(14.0) is None
    for place in (1, 2):
        for worker in range(4):
            left = see(10.0 + 4 * place + worker / 4, "unit", f"{worker}-{place}", task=f"task-{worker}")
    assert left == pytest.approx((32 - 12) * 8.75 / 8)
    assert stages["statistics"].describe(18.75) == "4 running, 54.9/min, 22 s left"


def test_later_task_counts_from_its_first_report():
    _, see = watched("evaluate")
    see(0.0, "stage", done=0, total=3)
    see(0.0, "begin", "a", total=1)
    see(9.0, "progress", "a", 50, 100)
    see(14.0, "progress", "a", 100, 100)
    see(14.0, "unit", "a", task="a")
    see(14.0, "done", "a")
    see(14.0, "begin", "b", total=1)
    assert see(19.0, "progress", "b", 50, 100) == pytest.approx(15.0)


def test_steps_of_a_unit_are_no_steps_of_its_task():
    _, see = watched("statistics")
    see(0.0, "stage", done=0, total=10)
    see(0.0, "begin", "all", total=10)
    see(20.0, "progress", "all", 1, 4, units=1)
    assert see(40.0, "progress", "all", 3, 4, units=1) == pytest.approx((10 - 0.75) * 20 / 0.5)
    assert see(50.0, "unit", "class-0", task="all") == pytest.approx(9 * 30 / 0.75)
    assert see(70.0, "progress", "all", 1, 2, units=1) == pytest.approx(8.5 * 50 / 1.25)


def test_units_of_a_group_are_counted_once():
    _, see = watched("recover")
    see(0.0, "stage", done=0, total=20)
    see(0.0, "begin", "group", total=10)
    see(10.0, "progress", "group", 0, 10, units=10)
    assert see(30.0, "progress", "group", 10, 10, units=10) == pytest.approx(20.0)
    for unit in range(10):
        assert see(30.0, "unit", f"class-{unit}", task="group") == pytest.approx(20.0)


def test_time_left_counts_parts_of_running_units():
    stages, see = watched("statistics")
    for event in NEWS[:4]:
        see(0.0, event.kind, event.unit, event.done, event.total, event.text)
    see(10.0, "progress", "class-5", 0, 1, "images")
    for event in NEWS[4:]:
        see(70.0, event.kind, event.unit, event.done, event.total, event.text)
    stage = stages["statistics"]
    # In a minute one unit, and half of another that has just said so for the first time; of ten, four were there.
    assert stage.left_s(70.0) == pytest.approx(60 * (6 - 1.5))
    assert stage.describe(70.0) == "1 running, 1 retried, 1.0/min, 4 min 30 s left"


def test_time_left_falls_until_a_step_is_overdue():
    stages, see = watched("pretrain")
    see(0.0, "stage", done=0, total=1)
    see(0.0, "begin", "teacher", total=1)
    see(5.0, "progress", "teacher", 0, 10)
    assert see(45.0, "progress", "teacher", 1, 10) == pytest.approx(360.0)
    left = [stages["pretrain"].left_s(at) for at in (65.0, 85.0, 105.0)]
    assert left == pytest.approx([340.0, 320.0, 900.0])
    assert see(115.0, "progress", "teacher", 1, 10, "a step of the same epoch") == pytest.approx(990.0)


def test_time_left_ignores_steps_of_earlier_sessions():
    _, see = watched("recover")
    see(0.0, "stage", done=0, total=10)
    for unit in ("a", "b"):
        see(0.0, "begin", unit, total=5)
        assert see(5.0, "progress", unit, 80, 100, begun=80) is None
    # In 95 s a tenth of each of the two, of which a fifth was left.
    see(100.0, "progress", "a", 90, 100, begun=80)
    assert see(100.0, "progress", "b", 90, 100, begun=80) == pytest.approx(95.0)
    # One starts again from a snapshot of this session: its steps before that are this session's.
    see(110.0, "retry", "b")
    see(110.0, "begin", "b", total=5)
    assert see(110.0, "progress", "b", 90, 100, begun=90) == pytest.approx(105.0)
    for _ in range(5):
        see(200.0, "unit", "a-class", task="a")
    see(200.0, "done", "a")
    assert see(200.0, "progress", "b", 90, 100, begun=90) == pytest.approx(195.0 / 3)


def test_durations_read_as_people_say_them():
    durations = {0.25: "0.2 s", 59.4: "59 s", 60: "1 min 00 s", 3599.6: "1 h 00 min", 7260: "2 h 01 min"}
    assert [clock(seconds) for seconds in durations] == list(durations.values())
