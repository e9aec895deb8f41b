"""Options of the teacher: refused where they would do nothing, and in keys only when they are used."""

import pytest

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.teacher import PretrainConfig
from wmdd.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.lr_step_epochs": 5}, r"lr_step_epochs=5: does nothing with pretrain\.schedule=cosine"),
        ({"pretrain.lr_gamma": 0.5}, r"lr_gamma=0\.5: does nothing with pretrain\.schedule=cosine"),
        ({"pretrain.ema_every": 32}, r"ema_every=32: does nothing with pretrain\.ema=0\.0"),
        ({"pretrain.augment_strength": 5}, r"augment_strength=5: pretrain\.augment=none has no strength"),
        ({"pretrain.augment": "augmix", "pretrain.augment_strength": 11}, "severity of augmix ends at 10"),
        ({"pretrain.lr_min": 1.0}, r"lr_min=1\.0: is above pretrain\.lr"),
        ({"pretrain.lr_min": 0.001, "pretrain.schedule": "steps"}, "only a cosine ends at it"),
        ({"pretrain.sync_bn": True}, r"pretrain\.sync_bn=True: one worker has nobody"),
        ({"pretrain.workers": 60}, r"workers=60: .*pretrain\.batch_size=100.*raise pretrain\.batch_size"),
    ],
)
def test_option_that_cannot_work_is_refused(changes, message):
    config = override(recipe("cifar10"), {"pretrain.batch_size": 100})
    with pytest.raises(ConfigError, match=message):
        override(config, changes)


def test_statistics_are_shared_by_several_workers():
    assert override(recipe("digits"), {"pretrain.sync_bn": True, "pretrain.workers": 2}).pretrain.sync_bn


def test_options_enter_keys_only_when_they_are_used():
    assert PretrainConfig().for_key() == {}
    assert PretrainConfig(schedule="exponential").for_key() == {"schedule": "exponential"}
