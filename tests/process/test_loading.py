import contextlib
import gc

import pytest

from wmdd.process.loading import collector_paused


@pytest.fixture(params=[True, False], ids=["enabled", "disabled"])
def was_enabled(request):
    """Whether the collector is enabled before; it is as before afterwards."""
    enabled = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if enabled else gc.disable)()


def test_collector_is_paused_while_modules_are_imported(was_enabled):
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled() is was_enabled


def test_collector_is_as_before_after_an_import_that_fails(was_enabled):
    with contextlib.suppress(ImportError), collector_paused():
        raise ImportError
    assert gc.isenabled() is was_enabled
