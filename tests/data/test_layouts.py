"""How a set's layout is recognised: splits and classes by the names of folders, and what is no image of the set."""

import shutil
import unicodedata
import zipfile

from image_files import folder, parquet, png, refusal
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.layouts.sources import list_files
from wmdd.data.layouts.split_names import split_role
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.set_notes import class_notes, describe_classes, double_notes
from wmdd.storage.store import ArtifactStore

CLASSES = ("cat", "dog")


def images(*roots, classes=CLASSES, count=2):
    return [f"{root}/{name}/{i}.png".lstrip("/") for root in roots for name in classes for i in range(count)]


def counts(index):
    return index.class_names, len(index.train), len(index.val), index.val_held_out


# Splits by name


@each_of(
    ("train", "val"),
    [
        ("Training", "Testing"),
        ("Train", "Val"),
        ("TRAIN", "TEST"),
        ("training", "validation"),
        ("train", "dev"),
        ("train", "eval"),
        ("train_images", "test_images"),
        ("TrainSet", "TestSet"),
        ("train2017", "val2017"),
        ("images/train", "images/val"),
        ("dataset/train", "dataset/valid"),
        ("archive/data/Training", "archive/data/Testing"),
        ("train/train", "test/test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
    ],
)
def test_splits_are_known_by_other_names_and_folders(tmp_path, train, val):
    index = build_index(folder(tmp_path, *images(train, val)))
    assert counts(index) == (CLASSES, 4, 4, False)
    assert all(name.startswith(f"{train}/") for name in index.train.files)
    assert all(name.startswith(f"{val}/") for name in index.val.files)


def test_split_that_is_named_otherwise_is_noted(tmp_path):
    listing = list_files(folder(tmp_path, *images("Training", "Testing"), *images("Extra", classes=("x",))))
    assert listing.notes[0] == "Training is read as the training split, Testing as the validation split"
    assert listing.notes[1] == "left out: Extra (the splits are Training and Testing)"
    assert not list_files(folder(tmp_path / "usual", *images("train", "val"))).notes


@each_of(("name", "split"), [("weight training", None), ("invalid", None), ("device", None), ("train_test", None)])
def test_names_of_classes_are_no_splits(name, split):
    role = split_role(name)
    assert role is None or role.rank == 2


def test_names_that_every_tool_uses_come_first(tmp_path):
    index = build_index(folder(tmp_path, *images("train", "train_extra", "test", "Val", classes=CLASSES)))
    assert index.train.files[0].startswith("train/")
    assert index.val.files[0].startswith("test/")


def test_two_training_folders_are_refused(tmp_path):
    told = refusal(lambda: build_index(folder(tmp_path, *images("Train_1", "Train_2", "val"))))
    assert "Train_1 and Train_2 both look like the training split; keep one" in told


@each_of(
    ("paths", "told"),
    [
        (images("train", "Train", "val"), "Train both look like the training split; keep one, or merge them"),
        (images("train", "val", "Val"), "Val both look like the validation split; keep one, or merge them"),
        (
            images("train", "train ", "test"),
            "train and 'train ' both look like the training split; keep one, or merge them",
        ),
    ],
)
def test_two_folders_for_one_split_are_refused(tmp_path, paths, told):
    assert told in refusal(lambda: build_index(folder(tmp_path, *paths)))


def test_unused_folders_of_the_same_classes_are_noted(tmp_path):
    url = folder(tmp_path, *images("train", "query", "gallery", "train_2"), "extra/x/0.png")
    assert list_files(url).notes == (
        "left out: extra (the only split with these classes is train)",
        "left out: gallery, query (train is the training split; to validate on another folder, call it val)",
        "left out: train_2 (train is the training split; to train on more, move it there)",
    )


def test_test_folder_without_the_classes_is_unlabelled(tmp_path):
    index = build_index(folder(tmp_path, *images("train"), "test/test/0.png", "test/test/1.png"))
    assert counts(index) == (CLASSES, 2, 2, True)


def test_wrapped_classes_are_found(tmp_path):
    assert build_index(folder(tmp_path, *images("archive/animals"))).class_names == CLASSES


def test_splits_inside_the_classes_are_read_as_splits(tmp_path):
    paths = [f"{name}/{split}/{i}.png" for name in CLASSES for split in ("train", "val") for i in range(3)]
    index = build_index(folder(tmp_path, *paths))
    assert counts(index) == (CLASSES, 6, 6, False)
    assert set(index.train.files) == {path for path in paths if "/train/" in path}


# What may be read in two ways


def twice(*tops, inner=("x", "y")):
    return [f"{top}/{name}/{i}.png" for top in tops for name in inner for i in range(2)]


@each_of(
    ("paths", "told"),
    [
        (twice("A", "B"), "A, B hold the same folders (x, y) and no images themselves: if they are splits"),
        ([*twice("A", "B"), "A/z/0.png"], "A, B hold the same folders (x, y) and no images themselves: if they"),
        (images("", "flowers"), "flowers holds folders named as the other classes"),
        ([*images(""), "test/0.png", "test/1.png"], "test holds images and no class folders, and looks like a split"),
        ([*images(""), "Val/0.png", "Val/1.png"], "Val holds images and no class folders, and looks like a split"),
    ],
)
def test_doubtful_classes_are_refused_unless_named(tmp_path, paths, told):
    url = folder(tmp_path, *paths)
    message = refusal(lambda: build_index(url))
    assert told in message
    assert "data.classes" in message
    store = ArtifactStore(str(tmp_path.with_name("store")))
    config = override(recipe("digits"), {"data.path": url})
    assert told in refusal(lambda: load_index(config, store, lambda done, total: None))
    names = tuple(sorted({path.partition("/")[0] for path in paths}))
    classes = tuple(name.partition("/")[0] for name in names)
    assert build_index(url, classes=classes).class_names == classes


@each_of("names", [("car", "plane", "train"), ("invalid", "valid"), ("control", "test")])
def test_classes_called_like_a_split_stay_classes(tmp_path, names):
    url = folder(tmp_path, *images("", classes=names))
    assert build_index(url).class_names == names
    (note,) = list_files(url).notes
    assert "holds images and no class folders, and is read as a class" in note


def test_many_classes_with_equal_folders_stay_classes(tmp_path):
    names = tuple(f"p{i}" for i in range(9))
    url = folder(tmp_path, *twice(*names, inner=("smile", "neutral")))
    assert build_index(url).class_names == names
    assert "9 classes hold the same folders (neutral, smile)" in list_files(url).notes[0]


def test_folders_below_the_classes_are_noted(tmp_path):
    url = folder(tmp_path, *images("train/animal", "val/animal"), *images("train/car", "val/car", classes=("a", "b")))
    assert build_index(url).class_names == ("animal", "car")
    assert "the folders in them (cat, dog, a and 1 more) are no classes" in list_files(url).notes[0]


def test_equal_folders_below_the_classes_are_noted(tmp_path):
    paths = [f"{split}/{name}/0.png" for split in ("train", "val") for name in ("red/apple", "red/plum", "green/apple")]
    url = folder(tmp_path / "1", *paths, "train/green/pear/0.png")
    told = "the classes are green, red; the folders in them (apple, pear, plum) are no classes"
    assert list_files(url).notes == (told,)
    names = [f"{name}/{inner}" for name in CLASSES for inner in ("images", "masks")]
    assert not any(
        "are no classes" in note for note in list_files(folder(tmp_path / "2", *images("train", classes=names))).notes
    )


@each_of("paths", [["train/0.png", "test/0.png"], ["train/images/0.png", "valid/images/0.png"], ["0.png"]])
def test_images_without_class_folders_are_refused(tmp_path, paths):
    assert "0.png" in refusal(lambda: build_index(folder(tmp_path, *paths)))
    assert "lies in no class folder" in refusal(lambda: build_index(str(tmp_path)))


@each_of(
    ("names", "told"),
    [
        (("cat.0", "cat.1", "dog.0"), "train/cat.0.png (and 3 more) lies in no class folder; move it into one, such as "
         "train/cat, or away"),
        (("golden retriever", "0"), "move it into one or away"),
        (("IMG_0001", "IMG_0002"), "move it into one or away"),
        (("DSC0001", "cat1"), "move it into one or away"),
        (("n01440764_1", "cat1"), "move it into one, such as train/cat, or away"),
    ],
)  # fmt: skip
def test_image_named_by_its_class_is_to_be_moved_there(tmp_path, names, told):
    url = folder(tmp_path, *(f"train/{name}.png" for name in names), "test1/0.png")
    assert told in refusal(lambda: build_index(url))


def test_splits_without_a_common_class_are_refused(tmp_path):
    url = folder(tmp_path, *images("train"), *images("val", classes=("frog", "newt")))
    told = (
        "validation class frog (and 1 more) has no training folder, and no other has one, as in few-shot sets; put all"
    )
    assert told in refusal(lambda: build_index(url))


def test_empty_class_folder_may_be_removed(tmp_path):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "train/frog").mkdir()
    told = "class frog has no train images; add images, remove its folder, or leave it out with data.classes"
    assert told in refusal(lambda: build_index(url))


# Class names in two spellings


def test_unicode_forms_of_a_class_are_one_class(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café")
    url = folder(tmp_path, *images("train", classes=("bar", "café")), *images("val", classes=("bar", decomposed)))
    index = build_index(url)
    assert counts(index) == (("bar", "café"), 4, 4, False)
    assert list_files(url).notes[0].endswith("Unicode form than in training, and matched ('cafe\\u0301' to 'caf\\xe9')")
    assert build_index(url, classes=(decomposed, "bar")).class_names == ("café", "bar")


def test_classes_that_differ_in_case_are_noted(tmp_path):
    url = folder(tmp_path / "1", *images("train", "val", classes=("CAT", "cat", "dog")))
    (note,) = class_notes(build_index(url))
    assert note.startswith("classes CAT and cat are one name in another case, and are read as two classes")
    url = folder(tmp_path / "2", *images("train", "val", classes=("A", "a", "b")))
    assert not class_notes(build_index(url)), "letters are classes"


@each_of("root", ["", "train"])
@each_of("name", ["unlabeled", "Unlabelled_images", "unsorted"])
def test_class_of_images_without_a_class_is_noted(tmp_path, root, name):
    url = folder(tmp_path, *images(root, classes=("cat", "dog", name)))
    told = f"{name} is read as a class; move it away if its images are of no class"
    assert class_notes(build_index(url)) == (told,)


def test_class_in_two_unicode_forms_is_refused(tmp_path):
    names = ("bar", "café", unicodedata.normalize("NFD", "café"))
    told = refusal(lambda: build_index(folder(tmp_path, *images("train", classes=names))))
    assert "is there twice, in two Unicode forms ('cafe\\u0301', 'caf\\xe9'); merge the folders" in told


def test_case_of_a_class_is_matched_where_it_is_unique(tmp_path):
    url = folder(tmp_path / "1", *images("train", classes=("Cat", "Dog")), *images("val"))
    assert counts(build_index(url)) == (("Cat", "Dog"), 4, 4, False)
    assert (
        "2 validation classes are spelled in another case than in training, and matched (cat to Cat)"
        in list_files(url).notes
    )
    url = folder(tmp_path / "2", *images("train", classes=("Cat", "CAT")), *images("val", classes=("cat",)))
    assert "validation class cat has no training folder" in refusal(lambda: build_index(url))


@each_of(
    ("name", "told"),
    [
        ("cat ", "with other blanks at an end than in training, and matched ('cat ' to 'cat')"),
        ("\u00a0cat", "with other blanks at an end than in training, and matched ('\\xa0cat' to 'cat')"),
        ("Cat ", "otherwise than in training, and matched ('Cat ' to 'cat')"),
    ],
)
def test_what_a_matched_class_differs_in_is_seen(tmp_path, name, told):
    url = folder(tmp_path, *images("train"), *images("val", classes=(name, "dog")))
    assert f"1 validation class is spelled {told}" in list_files(url).notes
    assert build_index(url).class_names == CLASSES


def test_class_with_and_without_a_blank_is_refused(tmp_path):
    told = refusal(lambda: build_index(folder(tmp_path, *images("train", classes=("cat", "cat ", "dog")))))
    assert "class cat  is there twice, with and without blanks at an end ('cat', 'cat '); merge the folders" in told


@each_of(
    "names",
    [("images", "masks"), ("JPEGImages", "SegmentationClass"), ("img", "gt"), ("images", "annotations/trimaps")],
    ids="-".join,
)
def test_images_and_their_masks_are_no_classes(tmp_path, names):
    url = folder(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(4)))
    assert "are named as images and their masks, and not as classes" in refusal(lambda: build_index(url))
    classes = tuple(name.partition("/")[0] for name in names)
    assert build_index(url, classes=classes).class_names == classes


@each_of(
    ("names", "told"),
    [
        (("images", "masks"), "images, masks are named as images and their masks, and not as classes"),
        (("annotations", "imgs"), "are named as images and their masks"),
        (("HR", "LR_x4"), "HR, LR_x4 are named as two sides of the same images, and not as classes"),
        (("input", "target"), "are named as two sides of the same images"),
    ],
)
def test_sides_of_the_same_images_are_no_classes(tmp_path, names, told):
    url = folder(tmp_path, *images("train", "val", classes=names))
    message = refusal(lambda: build_index(url))
    assert told in message
    assert f"name them: data.classes {','.join(names)}" in message
    assert build_index(url, classes=names).class_names == names
    shutil.rmtree(tmp_path / "val")
    assert told in refusal(lambda: build_index(str(tmp_path / "train")))
    classes = [f"{name}/{inner}" for name in names for inner in CLASSES]
    url = folder(tmp_path / "sets", *images("", classes=classes))
    assert "give one of them as data.path" in refusal(lambda: build_index(url))


@each_of("names", [("high", "low"), ("hr", "sales"), ("mask", "no_mask"), ("label", "cat"), ("images", "photos")])
def test_classes_that_sound_like_masks_are_read(tmp_path, names):
    url = folder(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(4)))
    assert build_index(url).class_names == tuple(sorted(names))


def test_folder_of_all_images_is_no_class(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label")
    told = refusal(lambda: build_index(folder(tmp_path, *(f"images/{i}.png" for i in range(4)))))
    assert "images/0.png (and 3 more) lies in no class folder" in told


@each_of("suffix", ["crdownload", "part", "incomplete", "aria2", "!ut"])
@each_of("file", ["train-1.parquet", "train/cat/9.png"])
def test_download_that_has_not_finished_is_refused(tmp_path, file, suffix):
    folder(tmp_path, *images("train", "val")) if file.endswith("png") else parquet(tmp_path, "train-0.parquet")
    (tmp_path / f"{file}.{suffix}").write_bytes(b"\x89PNG\r\n")
    assert f"{file}.{suffix} is a download that has not finished" in refusal(lambda: list_files(str(tmp_path)))


def test_misspelled_validation_class_is_shown(tmp_path):
    url = folder(tmp_path, *images("train", "val"), "val/cats/0.png")
    assert "validation class cats has no training folder; is it cat? rename" in refusal(lambda: build_index(url))


# What is no image of the set

JUNK = ("@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir/0.jpg", "._0.png", ".ipynb_checkpoints/0.png", "Thumbs.db")
JUNK += ("0.png:Zone.Identifier", "desktop.ini", "$RECYCLE.BIN/0.png")


@each_of("junk", [f"train/cat/{name}" for name in JUNK] + ["__MACOSX/train/cat/0.png", "train/_DS_Store"])
def test_files_of_the_system_are_no_images(tmp_path, junk):
    assert counts(build_index(folder(tmp_path, *images("train", "val"), junk))) == (CLASSES, 4, 4, False)


@each_of("name", ["@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle"])
def test_folders_of_the_system_are_no_classes(tmp_path, name):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "train" / name).mkdir()
    assert build_index(url).class_names == CLASSES
    (tmp_path / "train" / name / "0.png").write_bytes(png(0))
    assert build_index(url).class_names == CLASSES


@each_of(
    "note", ["a.txt", "a.csv", "a.json", "a.jsonl", "a.xml", "a.yaml", "a.html", "a.md", "LICENSE", "README", "a.PDF"]
)
@each_of("place", ["train", "train/cat"])
def test_notes_beside_images_and_classes_are_left_out(tmp_path, note, place):
    url = folder(tmp_path, *images("train", "val"))
    before = list_files(url).signature
    (tmp_path / place / note).write_text("x")
    assert counts(build_index(url)) == (CLASSES, 4, 4, False)
    assert (list_files(url).signature, list_files(url).notes) == (before, ())


@each_of("file", ["a.npy", "a.mat", "metadata.parquet", "a.mp4"])
def test_other_data_among_images_is_noted(tmp_path, file):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "train/cat" / file).write_bytes(b"x")
    assert counts(build_index(url)) == (CLASSES, 4, 4, False)
    assert list_files(url).notes == (f"left out: train/cat/{file} (the set is images in class folders)",)


def test_folder_of_notes_is_no_class(tmp_path):
    url = folder(tmp_path, *images(""))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/0.xml").write_text("x")
    assert build_index(url).class_names == CLASSES
    assert list_files(url).notes == ("left out: annotations (no images in there)",)
    (tmp_path / "frog").mkdir()
    (tmp_path / "frog/0.npy").write_bytes(b"x")
    assert "frog holds no images, but frog/0.npy" in refusal(lambda: build_index(url))


def test_runs_and_stores_in_a_set_are_no_part_of_it(tmp_path):
    url = folder(tmp_path, *images("", count=3), "runs/x/images.png")
    for name in ("run.json", "config.yaml"):
        (tmp_path / "runs/x" / name).write_text("{}")
    (tmp_path / "runs/x/images").mkdir()
    parquet(tmp_path / "runs/x/images", "train-00000-of-00001.parquet")
    key = tmp_path / "runs/store/recover" / ("0" * 32)
    (key / "a").mkdir(parents=True)
    (key / "commit.json").write_text("{}")
    (key / "a/images.bin").write_bytes(b"x")
    index = build_index(url)
    assert (index.class_names, len(index.train) + len(index.val)) == (CLASSES, 6)
    assert list_files(url).notes == ("left out: runs/store, runs/x (written by wmdd)",)


def test_parquet_among_training_folders_is_ignored(tmp_path):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "out/images").mkdir(parents=True)
    parquet(tmp_path, "out/images/train-00000-of-00001.parquet")
    (tmp_path / "train/metadata.parquet").write_bytes(b"x")
    assert build_index(url).kind == "folder"


def test_parquet_set_with_pictures_stays_parquet(tmp_path):
    url = folder(tmp_path, "assets/a.png", "figures/b.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "dataset_infos.json").write_text("{}")
    parquet(tmp_path, "data/train-00000-of-00001.parquet")
    index = build_index(url)
    assert (index.kind, len(index.train) + len(index.val)) == ("parquet", 6)
    assert list_files(url).notes == ("left out: assets/a.png and 1 more (the set is its Parquet files)",)


# Validation images that a list sorts

NETS = ("n01440764", "n01443537")


def kaggle(root, lines):
    """Write ImageNet as Kaggle has it, with a list of validation images in the root."""
    inner = "ILSVRC/Data/CLS-LOC"
    url = folder(
        root, *images(f"{inner}/train", classes=NETS), *(f"{inner}/val/ILSVRC2012_val_{i}.JPEG" for i in range(4))
    )
    folder(root, f"{inner}/test/ILSVRC2012_test_0.JPEG")
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines, ""]))
    return url


def test_imagenet_of_kaggle_is_read_with_its_list(tmp_path):
    lines = [f"ILSVRC2012_val_{i},{NETS[i % 2]} 85 1 499 272 {NETS[i % 2]} 1 2 3 4" for i in range(4)]
    index = build_index(kaggle(tmp_path, lines))
    assert counts(index) == (NETS, 4, 4, False)
    assert index.val.label.tolist() == [0, 1, 0, 1]
    inner = tmp_path / "ILSVRC/Data/CLS-LOC"
    told = refusal(lambda: build_index(str(inner)))
    assert "val/ILSVRC2012_val_0.JPEG (and 3 more) lies in no class folder; sort these into val/CLASS, or put" in told
    assert "LOC_val_solution.csv of ImageNet next to train; or move val away, and data.val_fraction" in told
    (tmp_path / "LOC_val_solution.csv").rename(inner / "LOC_val_solution.csv")
    assert build_index(str(inner)).val.label.tolist() == [0, 1, 0, 1]


def test_validation_image_that_the_list_lacks_is_named(tmp_path):
    url = kaggle(tmp_path, [f"ILSVRC2012_val_{i},{NETS[0]} 85 1 499 272" for i in range(3)])
    assert "val/ILSVRC2012_val_3.JPEG lies in no class folder" in refusal(lambda: build_index(url))
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId\n")
    assert "LOC_val_solution.csv cannot be read as file and class" in refusal(lambda: build_index(url))


# Links and archives


def test_link_to_a_folder_above_adds_nothing(tmp_path):
    url = folder(tmp_path, *images("train", "val"))
    for place, target in (("train/cat/up", "train/cat"), ("train/cat/top", ""), ("val/dog/self", "val/dog/self")):
        (tmp_path / place).symlink_to(tmp_path / target)
    (tmp_path / "val/dog/self").unlink()
    assert counts(build_index(url)) == (CLASSES, 4, 4, False)


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(names):
            archive.writestr(name, png(seed))
    return str(path)


def test_archive_is_read_from_its_root(tmp_path):
    file = zipped(tmp_path / "a.zip", *images("set/Training", "set/Testing"), "__MACOSX/set/._x.png")
    assert f"is an archive; unpack it, or give zip://::{file}" in refusal(lambda: build_index(file))
    assert counts(build_index(f"zip://::{file}")) == (CLASSES, 4, 4, False)


def test_archive_with_backslashes_is_refused(tmp_path):
    file = zipped(tmp_path / "a.zip", *(name.replace("/", "\\") for name in images("train", "val")))
    told = refusal(lambda: build_index(f"zip://::{file}"))
    assert "its names have backslashes" in told
    assert "pack it again" in told


def test_archive_url_without_an_archive_is_corrected(tmp_path):
    file = zipped(tmp_path / "a.zip", *images("train", "val"))
    assert f"names no archive; give zip://::{file}" in refusal(lambda: build_index(f"zip://{file}"))
    told = refusal(lambda: build_index(f"zip://nothing::{file}"))
    assert f"zip://::{file} for all of the archive" in told
    empty = zipped(tmp_path / "empty.zip", "notes.txt")
    assert "zip://FOLDER::zip://" not in refusal(lambda: build_index(f"zip://::{empty}"))


@each_of(
    ("files", "told"),
    [
        (("dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json"), "is a folder of save_to_disk"),
        (("data_batch_1", "test_batch", "batches.meta"), "torchvision:CIFAR10?root="),
        (("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"), "torchvision:MNIST"),
        (("train-00000-of-00010",), "holds TFRecord files"),
        (("train/a.tfrecord",), "holds TFRecord files"),
        (("train-000000.tar", "train-000001.tar"), "holds tar files, as WebDataset"),
        (("mnist.npz",), "holds NumPy arrays"),
        (("train/x.npy", "train/y.npy"), "holds NumPy arrays"),
        (("train.csv", "test.csv"), "holds tables of text and no images"),
        (("a.h5",), "holds HDF5 files"),
        (("a.pkl",), "holds pickles"),
        (("a.tar.gz",), "holds an archive; unpack it"),
        (("notes.txt",), "holds tables"),
    ],
)
def test_set_of_another_format_is_told_what_to_do(tmp_path, files, told):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    message = refusal(lambda: build_index(str(tmp_path)))
    assert told in message or ("notes.txt" in files and "holds no images; expected" in message)


@each_of(
    ("files", "told"),
    [
        (("train/n01440764.tar", "train/n01443537.tar"), "holds a tar file for each class, as ImageNet is published"),
        (("cat.zip", "dog.zip"), "holds 2 archives; unpack them, if each is a class into train/CLASS"),
        (("a.tar.gz",), "holds an archive; unpack it, or give tar://::"),
        (("a.zip",), "holds an archive; unpack it, or give zip://::"),
    ],
)
def test_archives_are_told_what_to_do(tmp_path, files, told):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    message = refusal(lambda: build_index(str(tmp_path)))
    assert told in message
    if len(files) == 1:
        assert f"::{tmp_path}/{files[0]} ({files[0]})" in message
        assert told.removeprefix("holds an archive; ") in refusal(lambda: build_index(f"{tmp_path}/{files[0]}"))


# What a user sees of it


def test_images_in_both_splits_are_counted(tmp_path):
    paths = images("train", "val", count=4)
    url = folder(tmp_path, *paths)
    assert double_notes(build_index(url)) == ()
    for path in paths[8:11]:
        (tmp_path / path).write_bytes((tmp_path / path.replace("val", "train")).read_bytes())
    (note,) = double_notes(build_index(url))
    assert note.startswith("3 of 8 validation images are training images too")
    (tmp_path / "train/cat/0.png").write_bytes((tmp_path / "train/dog/0.png").read_bytes())
    assert "1 of 8 training images is a copy of another one, 1 of them in another class" in double_notes(
        build_index(url)
    )


def test_notes_reach_a_run_with_a_stored_index(tmp_path):
    url = folder(tmp_path / "set", *images("Training", "Testing"))
    store = ArtifactStore(str(tmp_path / "store"))
    config = override(recipe("digits"), {"data.path": url})
    first, again = (load_index(config, store, lambda done, total: None)[0] for _ in range(2))
    assert first.notes == again.notes == ("Training is read as the training split, Testing as the validation split",)


def test_classes_are_described_in_one_short_line(tmp_path):
    few = build_index(folder(tmp_path / "few", *images("train", "val", count=3)))
    assert describe_classes(few) == "classes (training, validation images): cat (3, 3), dog (3, 3)"
    many = build_index(folder(tmp_path / "many", *images("train", "val", classes=[f"c{i:02d}" for i in range(30)])))
    shown = describe_classes(many)
    assert shown.endswith("c03 (2, 2), c04 (2, 2), ..., c29 (2, 2)")
    assert len(shown) < 150
