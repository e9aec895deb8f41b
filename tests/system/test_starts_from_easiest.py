"""Recovery that starts from the images that the teacher finds easiest, which are also a baseline."""

from conftest import call, distill

from wmdd.commands.plan import plan
from wmdd.config.distill import from_yaml
from wmdd.engine.run import load_value
from wmdd.storage.store import ArtifactStore


def test_images_start_from_those_of_the_baseline(tmp_path):
    options = ("--recover.init", "easiest", "--recover.iterations", "0", "--evaluate.baselines", "easiest")
    result = distill(tmp_path, *options, "--relabel.epochs", "1", begin=call)
    assert result.returncode == 0, result.stderr
    config = from_yaml((tmp_path / "runs/digits/config.yaml").read_text())
    store = str(tmp_path / "runs/store")
    made = plan(config, run=str(tmp_path / "runs/digits"), store=store).plan
    starts, easiest = (
        [load_value(ref, ArtifactStore(store)) for ref in made.refs(name)] for name in ("recover", "select")
    )
    assert [sorted(item.sources) for item in starts] == [sorted(item.sources) for item in easiest]
    for start, real in zip(starts, easiest, strict=True):
        places = [real.sources.index(source) for source in start.sources]
        assert (start.images == real.images[places]).all()
