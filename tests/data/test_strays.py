"""Files next to the images that are none of the set: copies that tools made, and what begins as no image does."""

import shutil

import pytest
from image_files import folder, png, refusal, saved
from tables import each_of

from wmdd.data.decoding.faults import begins_as_image
from wmdd.data.layouts import set_files
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.storage import filesystem as files

CLASSES = ("cat", "dog")
IMAGES = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in CLASSES for i in range(2)]
COPIES = [
    "0.png_original", "0.png~", "0.png.~1~", "#0.png#", "0.png.bak", "0.png.orig", "0.png.old", "0.THM", "0.tmp",
    "thumbs/0.png", "_thumbs/0.png", "thumb/a/0.png", "Thumbnails/0.png", "backup/0.png", "Originals/0.png",
    "previews/0.jpg", "0 (Ann's conflicted copy 2024-01-31).png", "0 (conflicted copy 2024-01-31 101010).png",
    "0.sync-conflict-20240131-101010-ABCDEFG.png",
    "0_conflict-20240131-101010.png",
]  # fmt: skip
SIDECARS = [
    "0.xmp", "0.png.xmp", "0.AAE", "0.pp3", "0.torrent", ".0.png.crc", "a.rtf", "a.nfo", "a.markdown", "a.geojson",
    "0.tfw", "0.jgw", "0.prj", "a.eml", "a.kml", "_SUCCESS", "labels", "index", "dataset-metadata", "cat.dvc",
]  # fmt: skip


def counts(url):
    index = build_index(url)
    return index.class_names, len(index.train), len(index.val)


@each_of("name", COPIES)
def test_copies_of_tools_are_left_out_with_a_note(tmp_path, name):
    url = folder(tmp_path, *IMAGES)
    before = list_files(url).signature
    folder(tmp_path, f"train/cat/{name}")
    assert counts(url) == (CLASSES, 4, 4)
    listing = list_files(url)
    assert listing.notes == (f"left out: 1 copy or thumbnail that a tool made (train/cat/{name})",)
    assert listing.signature == before


def test_copies_are_counted_in_one_note(tmp_path):
    url = folder(
        tmp_path, *IMAGES, "train/cat/2.png", *(f"train/cat/{i}.png~" for i in range(3)), "val/dog/thumbs/0.png"
    )
    told = "left out: 4 copies and thumbnails that a tool made (train/cat/0.png~, train/cat/1.png~ and 2 more)"
    assert list_files(url).notes == (told,)


@each_of(
    ("paths", "classes"),
    [
        ([f"train/{name}/{i}.png" for name in ("thumbs", "palms") for i in range(4)], ("palms", "thumbs")),
        ([f"train/{name}/{i}.png" for name in ("a/thumbs", "a/palms", "b/fists") for i in range(4)], ("a", "b")),
        ([f"{name}/{i}{end}.png" for name in CLASSES for i in range(2) for end in ("", "_conflict")], CLASSES),
        (
            [f"{name}/{i}.png" for name in ("a", "a/old", "b") for i in (name[2:] + str(i) for i in range(2))],
            ("a", "b"),
        ),
        ([f"{name}/{i}.png" for name in ("backup", "original") for i in range(2)], ("backup", "original")),
        ([f"{name}/{i}.png" for name in ("thumb", "sample", "fist") for i in range(2)], ("fist", "sample", "thumb")),
        ([f"train/{name}/{i}.png" for name in ("thumb", "original") for i in range(4)], ("original", "thumb")),
        ([f"a/{i}.orig" for i in range(2)] + [f"{name}/{i}.png" for name in "ab" for i in (2, 3)], ("a", "b")),
        ([f"a/{name}" for name in ("0.bak", "1.tmp", "2~", "#3#", "4.png")] + ["b/0.png", "b/1.png"], ("a", "b")),
        ([f"a/{name}" for name in ("labels", "index", "c")] + ["b/metadata", "b/0", "b/1"], ("a", "b")),
    ],
)
def test_names_that_only_sound_like_copies_are_read(tmp_path, paths, classes):
    url = folder(tmp_path, *paths)
    index = build_index(url)
    assert (index.class_names, len(index.train) + len(index.val)) == (classes, len(paths))


def test_folder_of_thumbnails_is_left_out(tmp_path):
    url = folder(
        tmp_path, *(f"{top}/{name}/{i}.png" for top in ("images", "thumbnails") for name in CLASSES for i in "01")
    )
    assert counts(url) == (CLASSES, 2, 2)


@each_of("name", SIDECARS)
@each_of("place", [".", "train", "train/cat"])
def test_sidecars_are_notes(tmp_path, name, place):
    url = folder(tmp_path, *IMAGES)
    (tmp_path / place / name).write_text("outs:\n- md5: x\n" if name == "cat.dvc" else "0 cat\n")
    assert counts(url) == (CLASSES, 4, 4)
    assert list_files(url).notes == ()


@each_of("place", ["", "train/", "train/cat/"])
def test_file_that_begins_as_no_image_is_noted(tmp_path, place):
    url = folder(tmp_path, *IMAGES)
    for name in ("0.weird", "1.weird", "00READ", "3.pose"):
        (tmp_path / f"{place}{name}").write_bytes(b"\1\2hello" if name != "3.pose" else b"")
    assert counts(url) == (CLASSES, 4, 4)
    told = "left out: 4 files that are no images by their first bytes (by ending: 1 without one, 1 .pose, 2 .weird; "
    assert list_files(url).notes == (f"{told}{place}0.weird and 3 more)",)


def test_files_without_endings_are_judged_by_folder(tmp_path):
    """As in a set whose annotations, many times the images, have no endings either."""
    url = folder(tmp_path, *(f"images/{name}/{i}" for name in CLASSES for i in range(3)))
    for name in CLASSES:
        (tmp_path / "annotation" / name).mkdir(parents=True)
        for i in range(200):
            (tmp_path / "annotation" / name / f"{i}").write_text("<annotation>")
    assert counts(url) == (CLASSES, 4, 2)
    (note,) = (note for note in list_files(url).notes if "no images by their first bytes" in note)
    assert note.startswith("left out: 400 files that are no images by their first bytes (annotation/cat/0")


def test_listing_opens_an_archive_once(tmp_path, monkeypatch):
    folder(tmp_path / "set", *IMAGES, "train/cat/9")
    url = f"tar://::{shutil.make_archive(str(tmp_path / 'set'), 'tar', tmp_path / 'set')}"
    opened, real = [], set_files.open_fs
    monkeypatch.setattr(set_files, "open_fs", lambda url: opened.append(url) or real(url))
    assert len(list_files(url).files["train"]) == 5
    assert opened == [url]


def test_cache_of_another_tool_is_noted(tmp_path):
    url = folder(tmp_path, *IMAGES)
    (tmp_path / "train.cache").write_bytes(b"\x93NUMPY")
    assert counts(url) == (CLASSES, 4, 4)
    assert list_files(url).notes == ("left out: train.cache (the set is images in class folders)",)


@each_of("name", ["9.png", "9.jpg", "9.cr2", "9.jxl"])
def test_file_named_as_an_image_stays_refused(tmp_path, name):
    url = folder(tmp_path, *IMAGES)
    (tmp_path / "train/cat" / name).write_bytes(b"hello")
    assert f"train/cat/{name} is " in refusal(lambda: build_index(url))


@each_of("content", [png(0)[:40], b"version https://git-lfs", bytes(40), b"\xff\xd8\xff"])
def test_broken_image_of_any_name_is_refused(tmp_path, content):
    url = folder(tmp_path, *IMAGES)
    (tmp_path / "train/cat/9").write_bytes(content)
    assert "train/cat/9 " in refusal(lambda: build_index(url))


def test_broken_file_of_an_images_ending_is_refused(tmp_path):
    url = folder(
        tmp_path, *(f"{split}/{name}/left.{i}" for split in ("train", "val") for name in CLASSES for i in "12")
    )
    assert counts(url) == (CLASSES, 4, 4)
    (tmp_path / "train/cat/left.3").write_bytes(b"hello")
    assert "train/cat/left.3 is no image (it begins with b'hello')" in refusal(lambda: build_index(url))


def test_folder_of_such_files_alone_is_asked_about(tmp_path):
    url = folder(tmp_path, *(f"{name}/{i}.png" for name in CLASSES for i in "01"))
    (tmp_path / "frog").mkdir()
    (tmp_path / "frog/0.weird").write_bytes(b"hello")
    assert "frog holds no images, but frog/0.weird" in refusal(lambda: build_index(url))


def test_split_of_such_files_alone_is_asked_about(tmp_path):
    url = folder(tmp_path, *(f"images/train/{name}/{i}.png" for name in CLASSES for i in "01"))
    for place in ("images/val/cat", "labels/train", "labels/val"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.weird").write_bytes(b"hello")
    assert "images/val holds no images, but images/val/cat/0.weird" in refusal(lambda: build_index(url))
    shutil.rmtree(tmp_path / "images/val")
    assert counts(url) == (CLASSES, 2, 2)


def test_set_without_any_image_is_named_by_its_files(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0").write_bytes(b"hello")
    assert "cat/0 is no image (it begins with b'hello') (and 1 more like it)" in refusal(
        lambda: build_index(str(tmp_path))
    )


@each_of(
    ("data", "may_be"),
    [(b"", False), (b"plain text\n", False), (b"{\"a\": 1}", False), (b"PK\3\4", False), (b"\x93NUMPY", False),
     (b"\1\2\3", False), (bytes(9), True), (b"GIF89a", True), (b"II*\0", True), (b"\0\0\0\x18ftypheic", True),
     (b"outs:\n- md5: x", True)],
)  # fmt: skip
def test_beginnings_of_images(data, may_be):
    assert begins_as_image(data) is may_be


def test_image_known_by_its_whole_header_begins_as_one():
    from PIL import Image

    assert begins_as_image(saved(Image.new("RGB", (4, 4)), "TGA"))


# What cameras and links leave


def test_raw_file_of_another_image_is_noted(tmp_path):
    url = folder(tmp_path, *IMAGES, "train/cat/0.CR2", "train/cat/1.HEIC")
    assert counts(url) == (CLASSES, 4, 4)
    told = "left out: 2 raw or HEIC files of images that are there in another format too "
    assert list_files(url).notes == (f"{told}(train/cat/0.CR2, train/cat/1.HEIC)",)
    (tmp_path / "train/cat/7.nef").write_bytes(b"II\1\2")
    assert "train/cat/7.nef is a camera's raw file; convert it" in refusal(lambda: build_index(url))


@each_of("name", ["train/bird", "train/cat/0.weird"])
@each_of(("target", "told"), [("gone", "is a link to gone, which does not"), (None, "is a link that leads")])
def test_link_that_leads_to_nothing_is_named_as_one(tmp_path, name, target, told):
    url = folder(tmp_path, *IMAGES)
    (tmp_path / name).symlink_to(target or (tmp_path / name).name)
    assert f"{name} {told}" in refusal(lambda: list_files(url))


def test_image_that_links_to_itself_is_named_at_once(tmp_path):
    url = folder(tmp_path, *IMAGES)
    (tmp_path / "train/cat/9.png").symlink_to("9.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenacity.nap.time.sleep", lambda seconds: pytest.fail("tried again"))
        told = refusal(lambda: build_index(url))
    assert "train/cat/9.png is a link that leads back to itself; remove the link" in told


def test_class_of_videos_is_asked_about(tmp_path):
    url = folder(tmp_path, *(f"{name}/{i}.png" for name in CLASSES for i in "01"))
    (tmp_path / "frog").mkdir()
    (tmp_path / "frog/0.webm").write_bytes(b"x")
    (tmp_path / "frog/a.txt").write_bytes(b"x")
    assert "frog holds no images, but frog/0.webm" in refusal(lambda: build_index(url))


def forbid(patch, folder):
    """Let a folder be one that this user may not list; root may list all."""
    entries = files.entries

    def asked(fs, path):
        if path == str(folder):
            raise PermissionError(13, "Permission denied", path)
        return entries(fs, path)

    patch.setattr(files, "entries", asked)


@each_of("name", ["lost+found", "System Volume Information", ".cache"])
def test_folder_of_the_system_need_not_be_listed(tmp_path, monkeypatch, name):
    url = folder(tmp_path, *IMAGES, f"{name}/0.png")
    forbid(monkeypatch, tmp_path / name)
    assert counts(url) == (CLASSES, 4, 4)


@each_of(
    ("place", "told"),
    [("train/dog", ": train/dog cannot be listed (Permission denied); check its permissions, or move it away"),
     (".", ": cannot be listed (Permission denied); check its permissions, or give another folder")],
)  # fmt: skip
def test_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, place, told):
    url = folder(tmp_path, *IMAGES)
    forbid(monkeypatch, tmp_path / place)
    assert refusal(lambda: list_files(url)).endswith(told)
