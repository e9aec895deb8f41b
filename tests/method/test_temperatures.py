"""Temperatures of soft labels: the values of a schedule, and where a learned one ends."""

import math

import pytest
import torch
from builders import normal

from wmdd.config.students import EvaluateConfig
from wmdd.method.losses import soft_label_loss
from wmdd.method.temperatures import StudentTemperature, teacher_temperature


def test_temperature_falls_to_its_floor():
    section = EvaluateConfig(temperature=20.0, temperature_decay=0.7, temperature_every=30, temperature_floor=2.0)
    values = [teacher_temperature(section, epoch) for epoch in (0, 29, 30, 59, 60, 179, 180, 189, 210, 299)]
    sixth = 20 * 0.7**6
    assert values == pytest.approx([20, 20, 14, 14, 9.8, 20 * 0.7**5, sixth, sixth, 2, 2])


def test_temperature_is_constant_unless_it_decays():
    for temperature in (20.0, 0.3):
        section = EvaluateConfig(temperature=temperature, temperature_every=1, temperature_floor=5.0)
        assert {teacher_temperature(section, epoch) for epoch in range(9)} == {temperature}


def test_fitted_temperature_begins_at_the_teachers():
    assert StudentTemperature()(7.0).item() == 7.0


def test_fitted_temperature_ends_where_both_softmaxes_agree():
    """A student of a quarter of the teacher's logits has its labels at a quarter of the temperature."""
    teacher, fitted = 8 * normal(32, 5), StudentTemperature()
    optimizer = torch.optim.Adam(fitted.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = soft_label_loss(teacher / 4, teacher, torch.ones(32), 4.0, fitted(4.0))
        loss.backward()
        optimizer.step()
    assert fitted(4.0).item() == pytest.approx(1.0, rel=0.01)
    assert fitted.log_ratio.item() == pytest.approx(math.log(0.25), rel=0.01)
    assert float(loss) < 1e-5
