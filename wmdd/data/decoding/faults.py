"""Why a file of a set cannot be used as an image, with the remedy."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
from collections.abc import Callable
from typing import Any

from PIL import Image, UnidentifiedImageError

from wmdd.data.decoding.samples import describe_tiff
from wmdd.errors import DataError
from wmdd.process.home import expand_home
from wmdd.storage.filesystem import explain, is_local
from wmdd.storage.pointers import broken_link, pointer
from wmdd.text import one_line

REPLACE = "remove or replace it"
_CONVERT = "convert it to JPEG or PNG"
_SLICES = "save its slices as PNG"
_UNPACK = "unpack it, or move it away"
_DOWNLOAD = "download the image again, or remove it"
_ARRAYS, _FRAMES = "save its images as PNG", "save its frames as images"

# First bytes, what such a file is, and what to do about it.
_BEGINNINGS: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    ((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), "is a JPEG XL image, which Pillow cannot read", _CONVERT),
    (b"FUJIFILMCCD-RAW", "is a camera's raw file (Fujifilm RAF)", _CONVERT),
    ((b"IIRO", b"IIRS", b"MMOR"), "is a camera's raw file (Olympus ORF)", _CONVERT),
    (b"IIU\0", "is a camera's raw file (Panasonic RW2)", _CONVERT),
    (b"FOVb", "is a camera's raw file (Sigma X3F)", _CONVERT),
    (b"\0MRM", "is a camera's raw file (Minolta MRW)", _CONVERT),
    (b"v/1\x01", "is an OpenEXR image, which Pillow cannot read", _CONVERT),
    (b"#?", "is a Radiance HDR image, which Pillow cannot read", _CONVERT),
    (b"gimp xcf", "is a GIMP file, which Pillow cannot read", _CONVERT),
    (b"AT&TFORM", "is a DjVu file, which Pillow cannot read", _CONVERT),
    (b"%PDF", "is a PDF file", _CONVERT),
    (b"II\xbc", "is a JPEG XR image, which Pillow cannot read", _CONVERT),
    (b"P7\n", "is a PAM image, which Pillow cannot read", _CONVERT),
    (b"PF\n", "is a PFM image in colour, which Pillow cannot read", _CONVERT),
    (b"ZISRAWFILE", "is a microscope's CZI file, which Pillow cannot read", _SLICES),
    (b"NRRD000", "is a NRRD volume, which Pillow cannot read", _SLICES),
    (b"ObjectType", "is a MetaImage volume, which Pillow cannot read", _SLICES),
    ((b"\x5c\x01\0\0", b"\0\0\x01\x5c"), "is a NIfTI volume, which Pillow cannot read", _SLICES),
    (b"\x93NUMPY", "is a NumPy array", _ARRAYS),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", _ARRAYS),
    (b"\x80\4\x95", "is a Python pickle", _ARRAYS),
    (b"MATLAB 5.0", "is a MATLAB file", _ARRAYS),
    (b"PK\3\4", "is a zip archive", _UNPACK),
    (b"\x1f\x8b", "is a gzip file", _UNPACK),
    (b"Rar!", "is a RAR archive", _UNPACK),
    (b"7z\xbc\xaf", "is a 7z archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is a Zstandard file", _UNPACK),
    (b"\x1aE\xdf\xa3", "is a video", _FRAMES),
    (b"\0\5\x16\7", "is an AppleDouble file of macOS, which holds no pixels", "remove it"),
    (b"L\0\0\0\1\x14\2\0", "is a shortcut of Windows", "copy the image here in its place"),
    ((b"data:image/", b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR"), "is an image as base64 text", "decode it"),
)
# First bytes of archives that are read, the file system that reads them, and how their names end.
_ARCHIVES = (
    (b"PK\3\4", "zip", (".zip",)),
    (b"\x1f\x8b", "tar", (".tar.gz", ".tgz", ".gz")),
    (b"BZh", "tar", (".tar.bz2", ".tbz", ".tbz2", ".bz2")),
    (b"\xfd7zXZ", "tar", (".tar.xz", ".txz", ".xz")),
)
# Brands of the container that HEIC, AVIF and video share; all others are video.
_BRANDS = {
    "is a HEIC image, which Pillow cannot read": (b"hei", b"hev", b"mif", b"msf"),
    "is an AVIF image, which this Pillow cannot read": (b"avi",),
    "is a camera's raw file (Canon CR3)": (b"crx",),
}
_NO_READERS = frozenset({"BUFR", "GRIB", "HDF5", "MPEG"})  # of Pillow: it knows these files, which are no images
_RAW_NAMES = (".dng", ".nef", ".nrw", ".arw", ".sr2", ".pef", ".cr2", ".rw2", ".orf", ".raf", ".kdc", ".dcr", ".erf")
_SUBFILE, _VERSION_OF_DNG = 254, 50706


def refusal(name: str, what: str, remedy: str = REPLACE) -> DataError:
    """Return the error for a file; the remedy is what follows the last semicolon."""
    return DataError(f"{name} {what}; {remedy}")


def unopened(data: bytes, name: str, error: Exception) -> DataError:
    """Return why Pillow cannot open these bytes."""
    if not data:
        return refusal(name, "is empty (0 bytes)")
    if not data.strip(b"\0"):
        return refusal(name, f"is no image (its {len(data)} bytes are all zero)")
    if named := _named(data):
        return refusal(name, *named)
    if name.lower().endswith(_RAW_NAMES):
        return refusal(name, "is a camera's raw file", _CONVERT)
    cause = error if not isinstance(error, UnidentifiedImageError) else _hidden_cause(data)
    if cause is None:
        return refusal(name, f"is no image (it begins with {data[:16]!r})")
    words = reason(cause)
    if isinstance(cause.__cause__ or cause, (IndexError, struct.error)):
        words = "its header is cut short or damaged"
    if words.isdigit() and data[:2] in (b"II", b"MM"):
        words = f"TIFF compression {words}, which Pillow does not know"
    channels = describe_tiff(data) if data[:2] in (b"II", b"MM") else None
    if channels and ("mode" in words or "samples" in words or "planes" in channels[0]):
        return refusal(name, *channels)
    remedy = REPLACE
    if "MAX_TEXT" in words:
        remedy = "save it again without its text"
    elif isinstance(cause, Image.DecompressionBombError):
        remedy = "make it smaller, or remove it"
    elif data.startswith(b"8BPS") and data[22:24] != b"\0\x08":
        words = f"a Photoshop file of {int.from_bytes(data[22:24])} bits a channel, which Pillow cannot read"
        remedy = "convert it to 8 bits, or remove it"
    elif "mode" in words or "-bit layers" in words:
        remedy = "convert it to 8 bits, or remove it"
    return refusal(name, f"cannot be opened ({words})", remedy)


def begins_as_image(data: bytes) -> bool:
    """Whether first bytes are of an image, whole or not, or of what stands in its place, such as a pointer or zeros."""
    if not data.strip(b"\0"):
        return bool(data)
    if found := _named(data):
        return found[1] not in (_UNPACK, _DOWNLOAD, _ARRAYS, _FRAMES)
    Image.init()
    if any(_accepts(Image.OPEN[name][1], data[:16]) for name in Image.ID if name not in _NO_READERS):
        return True
    try:  # some readers look at all of a header, and not at its first bytes
        Image.open(io.BytesIO(data)).close()
    except UnidentifiedImageError:
        return False
    except Exception:  # too large, or cut short: it was recognised
        pass
    return True


def refuse_preview(image: Image.Image, data: bytes, name: str) -> None:
    """Raise DataError for a camera's raw file in the form of a TIFF, of which Pillow reads a small preview."""
    tags = getattr(image, "tag_v2", {})
    if data[8:10] == b"CR" or int(tags.get(_SUBFILE, 0)) & 1 or _VERSION_OF_DNG in tags:
        raise refusal(name, "is a camera's raw file, of which Pillow reads a preview", _CONVERT)


def unread(fs: Any, path: str, name: str, error: Exception) -> str:
    """Return why a listed file cannot be read, and the remedy."""
    if isinstance(error, FileNotFoundError):
        if not is_local(fs) or (found := broken_link(path)) is None:
            return f"{name} has gone since the set was listed; restore it, or run again"
        return f"{name} {found[0]}; {found[1]}"
    if getattr(error, "errno", None) == errno.ELOOP:
        return f"{name} is a link that leads back to itself; remove the link"
    if isinstance(error, PermissionError) and is_local(fs):
        return f"{name} cannot be read ({reason(error.strerror or error)}); check its permissions"
    return f"{name} cannot be read {explain(error)}"


def unlisted(url: str, error: Exception) -> str:
    """Return why the files of a set cannot be listed, and the remedy."""
    folder = getattr(error, "filename", None)
    if not isinstance(error, PermissionError) or not folder or "://" in url:
        return f"cannot be listed {explain(error)}"
    inner = os.path.relpath(folder, os.path.abspath(expand_home(url)))
    name, remedy = (f"{inner} ", " or move it away") if inner != "." else ("", " or give another folder")
    return f"{name}cannot be listed ({reason(error.strerror or error)}); check its permissions,{remedy}"


def reason(error: object) -> str:
    """Return an error in one line without a semicolon, behind which the remedy of a refusal begins."""
    return one_line(error).replace(";", ",").rstrip(".") or type(error).__name__


def placeholder(data: bytes) -> tuple[str, str] | None:
    """Return what a pointer or web page in place of a file is, by its first bytes, and the remedy; None for others."""
    if found := pointer(data):
        return found
    found = _named(data)
    return (found[0], "download it again") if found and found[1] == _DOWNLOAD else None


def no_archive(data: bytes, url: str) -> tuple[str, str] | None:
    """Return what is in place of an archive that cannot be opened, by its first bytes, and the remedy."""
    protocol, name = url.partition(":")[0], url.lower()
    if not data.strip(b"\0"):
        return "is empty (0 bytes)" if not data else "holds zeros", "download it again"
    if found := placeholder(data):
        return found
    is_tar = data[257:262] == b"ustar"
    for beginning, reader, suffixes in (*_ARCHIVES, (data[:1] if is_tar else b"?", "tar", (".tar",))):
        if data.startswith(beginning):
            if reader != protocol or not name.endswith(suffixes):
                right = f"rename it so that it ends in {suffixes[0]}, and give {reader}://::FILE"
                return f"is a {suffixes[0]} file by its content", right
            return ("is damaged, or its end is missing", "download it again") if reader == "zip" else None
    if found := _named(data):
        return found[0], "unpack it" if found[1] == _UNPACK else "give the archive itself"
    return f"is no {protocol} file (it begins with {data[:16]!r})", "download it again"


def _named(data: bytes) -> tuple[str, str] | None:
    """Return what a file of another kind is, by its first bytes, and the remedy."""
    if found := pointer(data):
        return found
    for beginning, what, remedy in _BEGINNINGS:
        if data.startswith(beginning):
            return what, remedy
    if data[4:8] == b"ftyp":
        for what, brands in _BRANDS.items():
            if data[8:12].startswith(brands):
                return what, _CONVERT
        return "is a video", _FRAMES
    if data[128:132] == b"DICM":
        return "is a DICOM file, which Pillow cannot read", _CONVERT
    return _named_text(data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower())


def _named_text(head: bytes) -> tuple[str, str] | None:
    if re.match(rb"<(\?xml|!doctype svg|!--|svg)", head) and re.search(rb"<svg[\s>]", head):
        return "is an SVG drawing, which Pillow cannot read", _CONVERT
    if re.match(rb"<(!doctype html|html|head|body|script|!--)", head):
        return "is an HTML page, as of a failed download", _DOWNLOAD
    if head.startswith(b"<?xml"):
        return "is XML, as of a failed download", _DOWNLOAD
    if re.match(rb"[{\[]\s*[\"{\[]", head):
        return "is JSON, as of a failed download", _DOWNLOAD
    return None


def _hidden_cause(data: bytes) -> Exception | None:
    """Return what the reader for these first bytes raises: Pillow tries all readers, and drops their reasons."""
    for name in Image.ID:
        reader, accepts = Image.OPEN[name]
        if not _accepts(accepts, data[:16]):
            continue
        try:
            reader(io.BytesIO(data), "")
        except Exception as exc:  # readers raise any type on damaged bytes
            return exc
    return None


def _accepts(accepts: Callable[[bytes], bool | str] | None, beginning: bytes) -> bool:
    try:
        return accepts is not None and accepts(beginning) is True
    except Exception:  # some need more bytes than there are
        return False
