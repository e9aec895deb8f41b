"""A file that cannot be used as an image: the line says what it is, or why Pillow cannot open it, and the remedy."""

import base64
import re
import warnings

import numpy as np
from image_files import TWO_CLASSES, folder, png, refusal, retagged, saved
from PIL import Image, PngImagePlugin
from tables import each_of

from wmdd.data.decoding.decoder import read_header
from wmdd.data.decoding.faults import unread
from wmdd.data.layouts.sources import open_file_system
from wmdd.data.scan import build_index


def black(kind="PNG", **options):
    return saved(Image.new("RGB", (9, 9)), kind, **options)


def with_long_text():
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "a" * 3_000_000, zip=True)
    return black(pnginfo=text)


def float_colours():
    """Return a TIFF of three floats a pixel, which Pillow does not open."""
    return retagged(saved(Image.fromarray(np.zeros((4, 12), np.float32)), "TIFF"), {256: 4, 262: 2, 277: 3})


def refusal_of_set(root, path, put):
    """Return why a set is refused in which `put` writes one file, after the names of both."""
    url = folder(root, *TWO_CLASSES)
    put(root / path)
    names, message = f"data.path={url}: {path} ", refusal(lambda: build_index(url))
    assert message.startswith(names)
    return message.removeprefix(names)


FAULTS = {
    "empty": (b"", r"is empty \(0 bytes\); remove or replace it"),
    "zeros": (bytes(300), r"is no image \(its 300 bytes are all zero\)"),
    "text": (b"hello there", r"is no image \(it begins with b'hello there'\)"),
    "line break": (b"a\nb", r"is no image \(it begins with b'a\\nb'\)"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a pointer of Git LFS; run git lfs pull",
    ),
    "git-annex": (b"/annex/objects/SHA256E-s3--0.png\n", "is a pointer of git-annex; run git annex get"),
    "git-annex link": (b"../.git/annex/objects/ab/cd/x", "is a link of git-annex as text; run git annex get"),
    "dvc": (b"outs:\n- md5: 0\n", "is a pointer of DVC; run dvc pull"),
    "html": (b"\n<!DOCTYPE html><html>Sign in</html>", "is an HTML page, as of a failed download; download"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is XML, as of a failed download"),
    "json": (b'{"message": "Not Found"}', "is JSON, as of a failed download"),
    "svg": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing, .*; convert it"),
    "bare svg": (b"\xef\xbb\xbf<svg width='1'/>", "is an SVG drawing"),
    "heic": (
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "is a HEIC image, which Pillow cannot read; convert it to JPEG or PNG",
    ),
    "heif": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "is a HEIC image"),
    "cut avif": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF|cannot be opened"),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\0\0", "is a video; save its frames"),
    "jpeg xl": (b"\xff\x0a\xfa\x01", "is a JPEG XL image, which Pillow cannot read; convert it"),
    "boxed jpeg xl": (b"\0\0\0\x0cJXL \r\n\x87\n\0\0", "is a JPEG XL image"),
    "canon cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "is a camera's raw file|cannot be opened"),
    "canon cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1", r"is a camera's raw file \(Canon CR3\); convert it"),
    "fujifilm": (b"FUJIFILMCCD-RAW 0201", r"is a camera's raw file \(Fujifilm RAF\)"),
    "raw": (black("TIFF", tiffinfo={254: 1}), "is a camera's raw file, of which Pillow reads a preview; convert it"),
    "openexr": (b"v/1\1\2\0\0\0", "is an OpenEXR image"),
    "pdf": (b"%PDF-1.7\n", "is a PDF file"),
    "jpeg xr": (b"II\xbc\1\x20\0\0\0", "is a JPEG XR image, which Pillow cannot read; convert it"),
    "pam": (b"P7\nWIDTH 3\n", "is a PAM image, which Pillow cannot read; convert it"),
    "pfm in colour": (b"PF\n2 1\n-1.0\n", "is a PFM image in colour, which Pillow cannot read; convert it"),
    "czi": (b"ZISRAWFILE\0\0", "is a microscope's CZI file, which Pillow cannot read; save its slices as PNG"),
    "nrrd": (b"NRRD0005\n", "is a NRRD volume, .*; save its slices as PNG"),
    "metaimage": (b"ObjectType = Image\n", "is a MetaImage volume, .*; save its slices as PNG"),
    "nifti": (b"\x5c\1\0\0" + bytes(344), "is a NIfTI volume, .*; save its slices as PNG"),
    "photoshop of 16 bits": (
        b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x08\0\0\0\x08\0\x10\0\3" + bytes(200),
        r"cannot be opened \(a Photoshop file of 16 bits a channel, which Pillow cannot read\); convert it to 8 bits",
    ),
    "jpeg of 12 bits": (
        black("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        r"cannot be opened \(cannot handle 12-bit layers\); convert it to 8 bits, or remove it",
    ),
    "numpy": (b"\x93NUMPY\1\0", "is a NumPy array; save its images as PNG"),
    "zip": (b"PK\3\4\0\0", "is a zip archive; unpack it"),
    "git-crypt": (b"\0GITCRYPT\0abc", "is encrypted by git-crypt; run git-crypt unlock"),
    "appledouble": (b"\0\5\x16\7\0\2\0\0Mac OS X", "is an AppleDouble file of macOS"),
    "base64": (base64.b64encode(png(0)), "is an image as base64 text; decode it"),
    "base64 of a jpeg": (base64.b64encode(black("JPEG")), "is an image as base64 text"),
    "tiff compression": (
        retagged(black("TIFF"), {259: 9999}),
        r"cannot be opened \(TIFF compression 9999, which Pillow does not know\)",
    ),
    "dicom": (bytes(128) + b"DICM\2\0", "is a DICOM file"),
    "text of a png": (with_long_text(), r"cannot be opened \(.*MAX_TEXT_CHUNK.*\); save it again without its text"),
    "beginning of a png": (b"\x89PNG\r\n\x1a\n", r"cannot be opened \(its header is cut short or damaged\)"),
    "header of a png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", r"cannot be opened \(.+\); remove or replace it"),
    "header of a jpeg": (black("JPEG")[:40], r"cannot be opened \(.+\); remove or replace it"),
    "colours in floats": (
        float_colours(),
        "holds 32-bit floats in a form that Pillow cannot read; save it as PNG of 8 or 16 bits",
    ),
    "drawing in PostScript": (black("EPS")[:300].replace(b"%%EOF", b""), r"cannot be (decoded|opened) \("),
}


@each_of("fault", FAULTS)
def test_file_that_is_no_image_is_named_with_remedy(fault):
    data, message = FAULTS[fault]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = refusal(lambda: read_header(data, "train/a/1.png"))
    assert found.startswith("train/a/1.png ")
    assert re.search(message, found), found


def test_decompression_bomb_is_named_with_its_size(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    message = refusal(lambda: read_header(png(0, (10, 10)), "x"))
    assert "x cannot be opened (Image size (100 pixels) exceeds limit of 60 pixels" in message
    assert message.endswith("; make it smaller, or remove it")


def test_reason_stands_in_the_line_of_the_index(tmp_path):
    message = refusal_of_set(tmp_path, "val/a/1.png", lambda path: path.write_bytes(with_long_text()))
    assert message.startswith("cannot be opened (Decompressed data too large")


@each_of(
    ("target", "message"),
    [
        ("nowhere.png", "is a link to nowhere.png, which does not exist; restore that, or remove the link"),
        ("../../.git/annex/objects/ab/x.png", "is a link of git-annex whose content is not here; run git annex get"),
    ],
)
def test_link_to_nowhere_is_named(tmp_path, target, message):
    assert refusal_of_set(tmp_path, "train/a/9.png", lambda path: path.symlink_to(target)) == message


def test_file_that_cannot_be_read_is_explained(tmp_path):
    fs, root = open_file_system(str(tmp_path))
    path = f"{root}/x.png"
    assert unread(fs, path, "x.png", FileNotFoundError(2, "No such file")) == (
        "x.png has gone since the set was listed; restore it, or run again"
    )
    assert unread(fs, path, "x.png", PermissionError(13, "Permission denied")) == (
        "x.png cannot be read (Permission denied); check its permissions"
    )
    assert unread(fs, path, "x.png", OSError(5, "Input/output error")) == (
        "x.png cannot be read (Input/output error); check the storage"
    )
