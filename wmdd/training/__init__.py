"""Supervised training of teachers and students."""

from typing import Any

from wmdd.process.exports import public

PUBLIC = {
    "accuracy": ("top1_accuracy",),
    "optim": ("student_optimizer", "teacher_optimizer"),
    "schedules": ("student_schedule", "teacher_schedule"),
    "trainer": ("Trainer",),
}


def __getattr__(name: str) -> Any:
    """Return a public name."""
    return public(__name__, PUBLIC, name)
