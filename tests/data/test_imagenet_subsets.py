"""Named parts of ImageNet-1K."""

import pytest
from image_files import png, refusal

from wmdd.config.distill import DistillConfig, override
from wmdd.config.recipes import recipe
from wmdd.data.imagenet_subsets import subset_classes
from wmdd.data.layouts.sources import list_files
from wmdd.data.load_index import load_index
from wmdd.errors import ConfigError
from wmdd.storage.store import ArtifactStore


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A thousand classes; all but the named ones hold what is no image."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        for split in ("train", "val"):
            folder = root / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            woof = number in (193, 182, 258, 162, 155, 167, 159, 273, 207, 229)
            (folder / "0.png").write_bytes(png(number) if woof else b"broken")
    return str(root)


def test_part_of_imagenet_reads_its_classes_in_order(imagenet, store):
    config = override(recipe("imagenette"), {"data.path": imagenet, "data.subset": "imagewoof"})
    index, _ = load_index(config, store, lambda done, total: None)
    assert index.class_names[:3] == ("n00000193", "n00000182", "n00000258")
    assert (len(index.train), len(index.val)) == (10, 10)


def test_whole_imagenet_for_the_recipe_of_a_part_is_no(imagenet, store):
    config = override(recipe("imagenette"), {"data.path": imagenet})
    told = refusal(lambda: load_index(config, store, lambda done, total: None))
    assert "has 1,000 classes" in told
    assert "--data.subset imagenette" in told


def test_part_of_another_set_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").write_bytes(png(0))
    told = refusal(lambda: subset_classes("imagenette", str(tmp_path), list_files(str(tmp_path))))
    assert "is cut out of all 1,000 classes of ImageNet-1K" in told
    assert "has 2" in told
    with pytest.raises(ConfigError, match=r"data\.subset='nosuch'.*'imagenette'"):
        DistillConfig.checked({"data": {"subset": "nosuch"}})
