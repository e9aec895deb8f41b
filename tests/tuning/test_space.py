"""What a search refuses, and what its records say."""

import io
import math

import pyarrow.parquet as pq
import pytest

from tuning.config import TuneConfig, check_space, search_config
from tuning.space import parse_space
from tuning.trials import Trial, describe_final, describe_lead, noise, pareto, table
from wmdd.cli.main import _run
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method
from wmdd.errors import ConfigError


def refusal(call):
    """The one line that a call is refused with."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRONG_SPACES = {
    "recover.bn_weight": "give FIELD=loguniform",
    "recover.bn_weight=5": "give FIELD=loguniform",
    "recover.bn_weight=normal:0:1": "normal is no domain",
    "recover.bn_weight=loguniform:0:1": "finite above 0",
    "recover.bn_weight=uniform:2:1": "LOW must be smaller",
    "recover.bn_weight=uniform:nan:1": "LOW must be smaller",
    "recover.bn_weight=uniform:1": "give two numbers",
    "recover.iterations=randint:1.5:2": "give two numbers",
    "recover.bn_weight=choice:1,1": "different values",
    "recover.bn_weight=choice:1,": "different values",
    "recover.nosuch=uniform:0:1": "no such field",
    "nosuch.bn_weight=uniform:0:1": "no such field",
    "pretrain.lr=uniform:0:1": "trials share what pretrain decides",
    "barycenter.mass=choice:uniform,learned": "trials share what barycenter decides",
    "seed=randint:1:2": "trials share what seed decides",
    "recover.bn_weight_scale=choice:relative,odd": "'odd'",
    "recover.bn_weight=uniform:-1:1": "recover.bn_weight",
}


def test_wrong_space_is_one_line_with_the_word():
    for word, message in WRONG_SPACES.items():
        line = refusal(lambda word=word: check_space(recipe("digits"), TuneConfig(space=(word,))))
        assert line.startswith(f"--tune.space {word.partition('=')[0]}")
        assert message in line


def test_field_twice_is_refused():
    with pytest.raises(ConfigError, match="in the space twice"):
        parse_space(["recover.lr=uniform:0:1", "recover.lr=choice:1,2"])


WRONG_OPTIONS = [
    ({"samples": 0}, "tune.samples=0: "),
    ({"num_students": 1}, "tune.num_students=1: "),
    ({"holdout": 1.0}, "tune.holdout=1.0: "),
    ({"levels": (("1", "0.5", "1"),)}, "tune.levels=('1', '0.5', '1'): the last level must be 1:1:1"),
    ({"levels": "1:0.5:1"}, "tune.levels='1:0.5:1': the last level must be 1:1:1"),
    ({"levels": ["1:0.5"]}, "a level is three shares, CLASSES:STEPS:EPOCHS"),
    ({"levels": 1}, "tune.levels=1: "),
    ({"levels": ((1, 1, 1), (1, 0.5, 1), (1, 1, 1))}, "may not fall"),
    ({"sample": 1}, "tune.sample: no such option; the options here are samples, "),
]


def test_wrong_options_are_one_line():
    for values, message in WRONG_OPTIONS:
        assert message in refusal(lambda values=values: TuneConfig(**values))


def test_levels_may_be_texts():
    assert TuneConfig(levels="1:0.5:1 1:1:1").levels == TuneConfig(levels=("1:0.5:1", "1:1:1")).levels
    assert TuneConfig(levels=("1:0.5:1", "1:1:1")).levels == ((1.0, 0.5, 1.0), (1.0, 1.0, 1.0))


WRONG_FLAGS = [
    (("--tune.samples", "0"), "--tune.samples 0: input should be greater"),
    (("--tune.levels", "1:0.5:1"), "--tune.levels 1:0.5:1: the last level must be 1:1:1"),
    (("--tune.levels", "1:0.5:1", "--tune.levels", "1:2"), "--tune.levels 1:0.5:1 1:2: a level is three shares"),
    (("--tune.space", "recover.nosuch=uniform:0:1"), "--tune.space recover.nosuch: no such field"),
]


def test_command_names_the_option_of_a_search(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, line in WRONG_FLAGS:
        assert _run(["tune", "digits", *words]) == 2
        assert capsys.readouterr().err.startswith(f"wmdd: {line}")


WRONG_WORDS = [
    (),
    ("nosuch",),
    ("digits", "odd"),
    ("digits", "--tune.levels", "1:2"),
    ("digits", "--tune.searcher", "grid"),
    ("--resume", "/nowhere/at/all"),
    ("digits", "recover.lr=uniform:5"),
]


def test_command_refuses_before_work_with_status_2(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in WRONG_WORDS:
        assert _run(["tune", *words]) == 2, words
        captured = capsys.readouterr()
        assert captured.err.startswith("wmdd: ")
        assert captured.err.count("\n") == 1
        assert not list(tmp_path.iterdir())


def test_choices_become_the_fields_own_values():
    space = parse_space(["recover.ce_weight=choice:0,0.5,1", "relabel.bn_mode=choice:running,batch"])
    assert space["recover.ce_weight"].values == (0, 0.5, 1)
    assert space["relabel.bn_mode"].values == ("running", "batch")
    assert str(space["recover.ce_weight"]) == "choice:0,0.5,1"
    assert parse_space(["relabel.mix=choice:cutmix,none"])["relabel.mix"].values == ("cutmix", "none")
    assert parse_space(["recover.lr=choice:1e3,none,true"])["recover.lr"].values == (1000.0, None, True)


def test_values_of_several_kinds_share_a_column():
    trials = [Trial({"relabel.mix": value}, (0.5,), 0.0, 1.0, "finished", 0.0, 1) for value in ("none", 1.5)]
    assert pq.read_table(io.BytesIO(table(trials)))["relabel.mix"].to_pylist() == ["none", "1.5"]


def test_trials_share_a_set_without_the_search_split():
    given = override(recipe("cifar10"), {"evaluate.worth": (1, 5)})
    config = search_config(override(given, {"ipc": 1, "recover.tiles": 0}), TuneConfig(holdout=0.2, num_students=3))
    assert config.recover.tiles == 2  # also for trials whose options would have none, as they share the barycenters
    assert config.data.holdout == 0.2
    assert config.evaluate.worth == ()
    assert (config.evaluate.num_students, config.evaluate.baselines, config.evaluate.full_data) == (3, (), False)
    assert config.evaluate.val_every == config.relabel.epochs


def trial(score, cost, *, stop="finished", spread=0.01, levels=2, scores=None):
    return Trial({"recover.lr": score}, scores or (score,) * levels, spread, cost, stop, cost, levels)


def test_pareto_front_has_no_trial_that_another_beats():
    good, better, worse, dear = trial(0.5, 10), trial(0.6, 20), trial(0.4, 15), trial(0.6, 30)
    assert pareto([dear, worse, better, good]) == [good, better]


def test_lead_is_compared_with_the_students_noise():
    first, second = trial(0.6, 1, spread=0.03), trial(0.58, 1, spread=0.04)
    found = noise(first, [first, second, trial(0.59, 1, stop="stopped at level 1", scores=(0.59,))], students=2)
    assert found == {"lead": pytest.approx(0.02), "error": pytest.approx(math.sqrt((0.0009 + 0.0016) / 2))}
    assert noise(first, [first], students=2)["lead"] == math.inf


def test_the_terminal_says_whether_a_lead_is_noise():
    first, second = trial(0.6, 1, spread=0.03), trial(0.58, 1, spread=0.04)
    assert "2.0 points, is within the noise" in describe_lead(**noise(first, [first, second], students=2))
    assert "leads the next setting by 2.0 points" in describe_lead(**noise(first, [first, second], students=200))
    assert "no other setting reached" in describe_lead(**noise(first, [first], students=2))


FINALS = [
    ((0.50, 0.52), 0.03, 2, ("does not beat", "-2.0 points", "within the noise", "as good or better")),
    ((0.50, 0.60), 0.03, 2, ("does not beat", "-10.0 points", "beyond the noise", "as good or better")),
    ((0.60, 0.60), 0.00, 2, ("does not beat", "+0.0 points")),
    ((0.60, 0.50), 0.03, 2, ("leads", "+10.0 points", "beyond the noise")),
    ((0.60, 0.59), 0.03, 2, ("leads", "within the noise")),
    ((0.60, 0.59), None, 1, ("leads", "of one student each")),
]


def test_winner_that_loses_on_validation_is_named_so():
    for means, std, students, parts in FINALS:
        winner, recipes = ({"top1_last_mean": mean, "top1_last_std": std} for mean in means)
        text = describe_final(winner, recipes, students)
        assert all(part in text for part in parts), text
        assert ("as good or better" in text) == (means[0] <= means[1])


def test_table_has_a_row_for_each_trial():
    rows = pq.read_table(io.BytesIO(table([trial(0.5, 3), trial(0.1, 1, stop="stopped at level 1", scores=(0.1,))])))
    assert rows.column_names == [
        "trial", "recover.lr", "score", "spread", "level", "cost_s", "stop", "score_1", "score_2",
    ]  # fmt: skip
    assert rows["score_2"].to_pylist() == [0.5, None]
    assert rows["stop"].to_pylist() == ["finished", "stopped at level 1"]


@pytest.mark.parametrize("method", ["random", "herding"])
def test_selecting_method_is_not_searched(method):
    with pytest.raises(ConfigError, match=f"--method {method}: chooses real images and optimises none"):
        check_space(with_method(recipe("digits"), method), TuneConfig())
