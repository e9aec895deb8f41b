"""The hash of all that decides a student's score: two scores may be compared only if theirs are equal."""

from __future__ import annotations

from wmdd.config.distill import DistillConfig
from wmdd.keys import content_key


def protocol_hash(config: DistillConfig, student: str) -> str:
    """Return the hash of all that decides how a student is trained and scored, of 12 hexadecimal digits."""
    evaluate = config.evaluate.of(student)
    relabel = config.relabel if evaluate.labels == "soft" else config.relabel.drawn(evaluate.labels)
    sections = {"relabel": relabel.for_key("protocol"), "evaluate": evaluate.for_key("protocol")}
    return content_key(sections | {"data": config.data.geometry()})[:12]
