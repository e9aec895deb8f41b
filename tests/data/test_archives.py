"""Sets in zip and tar files: read by several threads, and named for what they are if they cannot be read."""

import copy
import io
import shutil
import tarfile
import zipfile

import fsspec
import numpy as np
import pytest
from fsspec.archive import AbstractArchiveFileSystem
from image_files import TWO_CLASSES, folder, png, refusal
from tables import each_of

from wmdd.data.images import StreamedImages, load_native_uint8, read_encoded
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.errors import DataError
from wmdd.storage.filesystem import open_fs

IMAGES = {
    f"{split}/{name}/{number}.png": png(1000 * place + number, (40, 40))
    for place, (split, name) in enumerate((split, name) for split in ("train", "val") for name in "ab")
    for number in range(40)
}


FEW = dict(list(IMAGES.items())[::20])


PAGE = b"<!DOCTYPE html><html><body>too many requests</body></html>" + b" " * 600


def packed(path, images=FEW, method=zipfile.ZIP_DEFLATED):
    """Write an archive, of the kind that its name says, and return its URL."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in images.items():
                archive.writestr(name, data)
    else:
        mode = {".tgz": "gz", ".tar": ""}.get(path.suffix, path.suffix[1:])
        with tarfile.open(path, f"w:{mode}") as archive:
            for name, data in images.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return url_of(path)


def url_of(path):
    return f"{'zip' if path.suffix == '.zip' else 'tar'}://::{path}"


@each_of("name", ["x.tar", "x.tgz", "x.tar.gz", "x.zip"])
def test_threads_that_share_an_archive_read_it_whole(tmp_path, name):
    index = build_index(packed(tmp_path / name, IMAGES), workers=8)
    found = dict(read_encoded(index, "train", np.arange(len(index.train))))
    assert {index.train.files[place]: data for place, data in found.items()} == {
        path: data for path, data in IMAGES.items() if path.startswith("train/")
    }


@each_of("name", ["x.zip", "x.tar", "x.tgz", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
@each_of(
    ("data", "told"),
    [
        (PAGE, "is an HTML page, as of a failed download; download it again"),
        (b'{"error": "not found"}', "is JSON, as of a failed download; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS; run git lfs pull"),
        (b"", r"is empty \(0 bytes\); download it again"),
        (b"Not Found", r"is no (zip|tar) file \(it begins with b'Not Found'\)"),
        (b"Rar!\x1a\7\0" + b"x" * 600, "is a RAR archive; unpack it"),
    ],
    ids=["page", "JSON", "LFS", "empty", "text", "RAR"],
)
def test_file_that_is_no_archive_is_named(tmp_path, caplog, name, data, told):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"the archive {told}"):
        list_files(url_of(tmp_path / name))
    assert not caplog.records, "it is tried once"


@each_of(
    ("source", "name", "right"),
    [("a.tar", "x.zip", ".tar, and give tar"), ("a.zip", "x.tar", ".zip, and give zip"),
     ("a.tgz", "x.tar", ".tar.gz, and give tar"), ("a.tar", "x.tar.gz", ".tar, and give tar")],
)  # fmt: skip
def test_archive_of_a_wrong_name_is_to_be_renamed(tmp_path, source, name, right):
    packed(tmp_path / source)
    (tmp_path / source).rename(tmp_path / name)
    assert f"rename it so that it ends in {right}" in refusal(lambda: list_files(url_of(tmp_path / name)))


@each_of("name", ["x.zip", "x.tar", "x.tgz", "x.tar.bz2", "x.tar.xz"])
@each_of("fault", ["cut", "flipped"])
def test_damaged_archive_is_never_read_in_part(tmp_path, caplog, name, fault):
    url = packed(tmp_path / name, method=zipfile.ZIP_LZMA)
    data = bytearray((tmp_path / name).read_bytes())
    # Of a plain tar file, in the header of a member: nothing in it tells whether pixels are as they were.
    place = data.index(b"val/a/0.png") + 20 if name == "x.tar" else len(data) // 2
    (tmp_path / name).write_bytes(data[:place] if fault == "cut" else data[:place] + b"\xaa" * 40 + data[place + 40 :])
    assert "the archive is damaged" in refusal(lambda: build_index(url))
    assert not caplog.records, "it is tried once"


def test_encrypted_or_empty_archive_is_named(tmp_path):
    url = packed(tmp_path / "x.zip", method=zipfile.ZIP_STORED)
    data = (tmp_path / "x.zip").read_bytes()
    # The flag of encryption, in the header of each member and in the list at the end.
    data = data.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")
    (tmp_path / "x.zip").write_bytes(data)
    assert "(the archive is encrypted) (and 7 more like it); unpack it" in refusal(lambda: build_index(url))
    for name in ("empty.zip", "empty.tar"):
        url = packed(tmp_path / name, {})
        assert "the archive" in (told := refusal(lambda url=url: list_files(url))), told
    (tmp_path / "folder.zip").mkdir()
    assert "is a folder and no archive; give" in refusal(lambda: list_files(f"zip://::{tmp_path}/folder.zip"))


@each_of("name", ["x.tgz", "x.zip"])
@each_of("wrap", ["./", "data/set/", ""])
def test_archive_is_listed_in_one_pass(tmp_path, monkeypatch, name, wrap):
    url = packed(tmp_path / name, {f"{wrap}{path}": data for path, data in FEW.items()})

    def ls(*_, **__):
        raise AssertionError("to list each folder by itself takes minutes")

    with monkeypatch.context() as patch:
        patch.setattr(AbstractArchiveFileSystem, "ls", ls)
        assert len(list_files(url).files["train"]) == 4
    index = build_index(url)
    assert (index.class_names, len(index.train), len(index.val)) == (("a", "b"), 4, 4)
    assert sorted(data for _, data in read_encoded(index, "train", np.arange(4))) == sorted(list(FEW.values())[:4])


def test_streamed_images_open_their_archive_once(tmp_path, monkeypatch):
    index = build_index(packed(tmp_path / "x.zip"))
    opened, open_url = [], fsspec.core.url_to_fs
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **options: opened.append(url) or open_url(url, **options))
    images = StreamedImages(index, "train", np.asarray)
    assert [images[place][0].shape for place in range(4)] == [(40, 40, 3)] * 4
    assert len(opened) == 1
    assert copy.copy(images)[0][1] == images[0][1]
    assert len(opened) == 2, "a loading process opens its own"


def test_archive_is_read_like_its_folder(tmp_path):
    paths = [f"train/{c}/{i}.png" for c in "ab" for i in range(60)] + ["val/a/0.png", "val/b/0.png"]
    url = folder(tmp_path / "set", *paths)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "set")
    packed, plain = build_index(f"zip://set::{tmp_path}/packed.zip"), build_index(url)
    assert packed.train.files == plain.train.files
    everything = np.arange(120)
    images = [load_native_uint8(index, "train", everything) for index in (packed, plain)]
    assert (images[0] == images[1]).all()


def test_archive_is_listed_before_threads_share_it(tmp_path):
    folder(tmp_path / "set", *TWO_CLASSES)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "set")
    fs, root = open_fs(f"zip://set::{tmp_path}/packed.zip")
    assert root == "set"
    assert f"set/{TWO_CLASSES[0]}" in fs.dir_cache


def test_archive_that_is_a_pointer_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="the archive is a pointer of Git LFS; run git lfs pull"):
        list_files(f"zip://::{tmp_path}/x.zip")
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set/Good.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(DataError, match=f"give zip://::{tmp_path}/set/Good.zip"):
        list_files(str(tmp_path / "set"))
