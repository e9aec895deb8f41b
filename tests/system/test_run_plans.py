"""What `wmdd plan` says before a run, and about a finished one."""

import pytest
from conftest import STAGES, TINY, commits, to_run


def test_plan_in_an_empty_store_makes_the_index_alone(tmp_path):
    left = to_run(tmp_path, "digits", *TINY, "--executor", "local")  # the words of distill
    expected = {"pretrain": 1, "statistics": 10, "barycenter": 10, "recover": 10, "select": 30}
    assert left == expected | {"relabel": 8, "evaluate": 6}
    assert [name.partition("/")[0] for name in commits(tmp_path / "runs/store")] == ["index"]
    assert not (tmp_path / "runs/digits").exists()


CHANGES = {
    "nothing": ((), {}),
    "bn_weight": (("--recover.bn_weight", "3"), {"recover": 10, "relabel": 2, "evaluate": 2}),
    "one seed more": (("--evaluate.num_students", "3"), {"select": 10, "relabel": 2, "evaluate": 3}),
    "one student more": (("--evaluate.students", "convnet2_w16,convnet1_w8"), {"pretrain": 1, "evaluate": 6}),
    "temperature": (("--evaluate.temperature", "4"), {"evaluate": 6}),
    "barycenter weights": (("--barycenter.mass", "learned"), {"barycenter": 10, "recover": 10, "relabel": 2}),
    "teacher": (("--pretrain.lr", "0.1"), {stage: None for stage in STAGES}),
    "root seed": (("--seed", "1"), {stage: None for stage in STAGES}),
    "workers": (("--ray.actors", "7", "--runtime.threads", "3", "--statistics.batch_size", "100"), {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_plan_reruns_what_a_change_touches_and_no_more(tiny_run, change):
    words, expected = CHANGES[change]
    left = to_run(tiny_run.folder, "digits", *TINY, *words)
    assert {stage for stage, count in left.items() if count} >= set(expected)
    assert {stage for stage, count in left.items() if count} <= set(expected) | ({"evaluate"} if expected else set())
    for stage, count in expected.items():
        assert count in (None, left[stage]), stage
