"""The files below a set's root, and which may be images: neither files of the system nor notes."""

from __future__ import annotations

import functools
import os
import posixpath
from pathlib import PurePath
from typing import Any

from wmdd.data.decoding.faults import no_archive
from wmdd.errors import ConfigError, DataError
from wmdd.storage.archives import ArchiveError, read_member
from wmdd.storage.filesystem import kind, open_fs, tree


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Folders of file managers, network drives and archivers; others begin with a dot.
_JUNK_FOLDERS = {"system volume information"} | _words(
    "@eadir @tmp @recycle #recycle #snapshot @__thumb @sharebin @recently-snapshot __macosx lost+found $recycle.bin "
    "lost.dir found.000 __pycache__ recycler ~snapshot node_modules site-packages _vti_cnf"
)
_JUNK_FILES = {"icon\r"} | _words("thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini _ds_store synophoto_thumb_m.jpg")
_STREAMS = (":zone.identifier", ":encryptable")
# Notes about a set are left out silently; files that hold data, with a note.
_NOTES = _words(
    "txt csv tsv json jsonl ndjson md rst xml yaml yml toml ini cfg conf html htm css js py ipynb sh bat log lock bib "
    "md5 sha1 sha256 sig url lnk doc docx xls xlsx ods pdf names cff xmp aae dvc torrent pp3 crc sfv rtf nfo markdown "
    "geojson kml gpx tfw jgw pgw bpw prj eml ppt pptx odt dop cos vtt srt ass"
)
PACKED = _words(  # data that may be the images of a class
    "npy npz mat tar zip gz tgz bz2 xz zst 7z rar h5 hdf5 mp4 m4v avi mov mkv webm wmv flv mpg mpeg 3gp pkl pt"
)
_DATA = PACKED | _words(
    "parquet arrow feather pickle pth safetensors db sqlite sqlite3 mdb lmdb tfrecord tfrecords rec idx beton wav mp3 "
    "flac onnx cache mts lrv ogv m4a ogg ovr shp dbf shx gpkg lz4 iso ckpt joblib"
)
_NOTE_FILES = _words(
    "license licence copying notice readme citation changelog authors contributors version makefile dockerfile "
    "md5sum md5sums sha256sum sha256sums checksums _success"
)
_NO_IMAGES = _NOTES | _DATA
_IMAGES = _words("jpg jpeg jpe jfif png bmp dib gif tif tiff webp ppm pgm pbm pnm tga jp2 j2k ico psd heic heif avif")
# Formats of cameras, which Pillow does not read; the image may be there in another format too.
CAMERAS = _words("cr2 cr3 crw nef nrw arw srf sr2 dng pef rw2 orf raf kdc dcr erf 3fr x3f mrw srw heic heif")
# Such a file is refused with what to do about it.
_RARE_IMAGES = _words("apng mpo pjpeg pjp jxl jxr hdp svg svgz eps exr hdr dds pcx sgi xcf dcm dicom djvu raw")
NAMED_IMAGES = _IMAGES | CAMERAS | _RARE_IMAGES
_UNFINISHED = _words(
    "crdownload part partial incomplete download opdownload filepart aria2 !qb !ut bc! td xltd"
)  # of browsers and tools
_STAMPS = ("mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "created")


def is_junk(path: str) -> bool:
    """Whether a path is hidden, or is of the system and not of the set."""
    folder, _, file = path.rpartition("/")
    # Windows keeps metadata of a file as streams, which other systems unpack as files (0.png:Zone.Identifier).
    name = file.lower()
    return name.startswith(".") or name in _JUNK_FILES or name.endswith(_STREAMS) or _in_junk(folder)


def is_junk_folder(name: str) -> bool:
    """Whether a folder's name is hidden, or is of the system and not of the set."""
    # "." is the folder itself, as tar calls it in ./train/cat/0.png.
    return (name.startswith(".") and name != ".") or name.lower() in _JUNK_FOLDERS


@functools.lru_cache(maxsize=2**16)
def _in_junk(folder: str) -> bool:
    return any(map(is_junk_folder, folder.split("/")))


def suffix(path: str) -> str:
    """Return what follows the last point of a file's name, in small letters; nothing in a name that begins with it."""
    return posixpath.splitext(path)[1][1:].lower()


def is_data(path: str) -> bool:
    """Whether a file holds data of another kind than one image, by its name."""
    return suffix(path) in _DATA


def may_be_image(path: str) -> bool:
    """Whether a file has to be an image, by its name; many sets have images without an extension."""
    ending = suffix(path)
    return ending not in _NO_IMAGES if ending else path.rpartition("/")[2].lower() not in _NOTE_FILES


def is_unfinished(path: str) -> bool:
    """Whether a file is an image or Parquet whose download has not finished, by its name."""
    name, _, ending = path.rpartition(".")
    return ending.lower() in _UNFINISHED and (has_image_suffix(name) or name.lower().endswith(".parquet"))


def has_image_suffix(path: str) -> bool:
    """Whether a file is named as an image is."""
    return suffix(path) in _IMAGES


def open_file_system(url: str) -> tuple[Any, str]:
    """Return the file system and root path of a URL."""
    try:
        return open_fs(url)
    except ConfigError as exc:
        if isinstance(exc.__cause__, ArchiveError) and (fault := _archive_fault(url)):
            raise DataError(f"data.path={url}: the archive {fault[0]}; {fault[1]}") from exc
        raise DataError(f"data.path={exc}") from exc


def _archive_fault(url: str) -> tuple[str, str] | None:
    """Return what is in place of an archive that cannot be opened, and the remedy."""
    try:
        fs, path = open_fs(url.rpartition("::")[2])
        return no_archive(read_member(fs, path, 0, 4096), url)
    except (ConfigError, OSError, EOFError):
        return None


def find_files(fs: Any, root: str) -> tuple[dict[str, Any], bool]:
    """Return files by their path below the root, and whether the root itself is the only one."""
    what = kind(fs, root)
    if what is None:
        raise FileNotFoundError(root)
    if what != "directory" and (what == "file" or fs.isfile(root)):  # a linked folder is of a third kind
        return {posixpath.basename(root): fs.info(root)}, True
    return _find(fs, root), False


def _find(fs: Any, root: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    infos: dict[str, Any] = {}
    base = root.rstrip("/") + "/"
    # Folders of the system may be another user's alone, as lost+found is in the root of a disk.
    for path, info in tree(fs, root, is_junk_folder).items():
        inner = path.removeprefix(base)
        if not info.get("islink"):
            infos[inner] = info
            continue
        if is_junk_folder(path.rpartition("/")[2]):
            continue
        # A local listing has a linked folder as one file of another type, and a linked file with the time of the link.
        target = os.path.realpath(path)
        if not fs.isdir(target):
            infos[inner] = fs.info(target) if fs.exists(target) else info
        # To follow a link to a folder that holds it would list everything in there again.
        elif target not in above and not PurePath(os.path.realpath(os.path.dirname(path))).is_relative_to(target):
            infos |= {f"{inner}/{name}": item for name, item in _find(fs, target, (*above, target)).items()}
    return infos


def version(info: dict[str, Any]) -> tuple[Any, str]:
    """Return the size of a file, and a time or tag that changes when it is written."""
    return info.get("size"), str(next((info[key] for key in _STAMPS if info.get(key)), None))
