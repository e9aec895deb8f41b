"""What a file or folder is that was named as weights and holds none that torch reads, and the remedy."""

from __future__ import annotations

import codecs
import io
import re
import zipfile
from typing import Any

from wmdd.errors import WmddError
from wmdd.storage.filesystem import entries
from wmdd.storage.pointers import pointer

_FETCH = "fetch it again"
_CONVERT = "convert it to a state dict of torch, or give the file that torch saved"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
_BEGINNINGS = (
    (0, b"\x89HDF", "HDF5, as of Keras"),
    (0, b"GGUF", "GGUF (llama.cpp)"),
    (0, b"lmgg", "GGML (llama.cpp)"),
    (0, b"tjgg", "GGML (llama.cpp)"),
    (4, b"TFL3", "TensorFlow Lite"),
    (0, b"MATLAB 5.0", "MATLAB"),
    (0, b"PAR1", "Parquet"),
)
# Of files that torch cannot read, by how their names end.
_NAMES = (
    (r"\.onnx", "ONNX"),
    (r"\.(pb|pbtxt)|\.ckpt(-\d+)?\.(index|meta)|\.index|\.data-\d{5}-of-\d{5}|checkpoint", "TensorFlow"),
    (r"\.(tflite|lite)", "TensorFlow Lite"),
    (r"\.(h5|hdf5|keras)", "Keras"),
    (r"\.msgpack", "Flax"),
    (r"\.(mlmodel|mlpackage)", "Core ML"),
    (r"\.(caffemodel|prototxt)", "Caffe"),
    (r"\.(pdparams|pdiparams|pdmodel)", "PaddlePaddle"),
    (r"\.params", "MXNet"),
    (r"\.weights", "Darknet"),
    (r"\.(engine|plan|trt)", "TensorRT"),
    (r"\.(gguf|ggml)", "llama.cpp"),
    (r"\.mat", "MATLAB"),
)
# Files of weights in a folder, in the order in which they are preferred.
_WEIGHTS = (r"model\.safetensors", r".*\.safetensors", r"pytorch_model\.bin", r".*\.(pth|pt|ckpt|bin)(\.tar)?")
_PART = re.compile(r"-0*(\d+)-of-0*(\d+)\.\w+$")
MERGE = "give the weights in one file, such as of safetensors.torch.save_file"


def foreign(data: bytes) -> str:
    """Return what a file is by its first bytes, and the remedy; "" if torch may read it."""
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if data and not data.strip(b"\0"):
        return f"is no file of weights (its {len(data)} bytes are all zero); {_FETCH}"
    if target := pointer(data):
        return f"{target[0]}, not the file; {target[1]}"
    if head.startswith((b"<!doctype", b"<html", b"<head")):
        return "is a web page, not the file; fetch it by its download link (with /resolve/ or /raw/ in place of /blob/)"
    if re.match(rb"<(\?xml|error>)", head):
        return f"is XML, as of a failed download; {_FETCH}, with its credentials if it needs some"
    if re.match(rb"[{\[]\s*[\"{\[\]}]", head) and not is_safetensors(data):
        if re.search(rb'"weight_map"|\.safetensors|\.bin', data[:4096]):
            return f"is a list of the parts of weights, which are not read from parts; {MERGE}"
        if b'"error"' in data[:4096]:
            return f"is an error in JSON, as of a failed download; {_FETCH}, with its credentials if it needs some"
        return "is text in JSON, such as the settings of a network; give the file of weights next to it"
    if data.startswith(_COMPRESSED) or data[257:262] == b"ustar":
        return "is a compressed file or an archive; unpack it, and give the file of weights in it"
    if data.startswith(b"\x93NUMPY"):
        return "is an array of NumPy; save a state dict of torch"
    for offset, beginning, what in _BEGINNINGS:
        if data[offset:].startswith(beginning):
            return f"is a file of {what}; {_CONVERT}"
    return _foreign_zip(data) if data.startswith(b"PK") else ""


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins as those of safetensors do."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 2**27


def unread(data: bytes, source: str) -> str:
    """Return what a file is that torch did not read, and the remedy; "" if it begins as torch's files do."""
    name = source.rpartition("/")[2].lower()
    for pattern, what in _NAMES:
        if re.search(f"({pattern})$", name):
            return f"is a file of {what}; {_CONVERT}"
    # The version of a model of ONNX, then the name of the program that wrote it.
    if re.match(rb"\x08[\x03-\x1f]\x12.[0-9A-Za-z]{4}", data, re.DOTALL):
        return f"is a file of ONNX; {_CONVERT}"
    if re.match(rb"[\x81-\x8f][\xa1-\xbf]|\xde..[\xa1-\xbf]", data, re.DOTALL):
        return f"is a file of msgpack, as of Flax; {_CONVERT}"
    if data.startswith((b"PK", b"\x80")):
        return ""
    if data and not data[:512].strip(b"\0"):
        return f"begins with zeros, as a download that was cut short; {_FETCH}"
    if line := _text(data[:512]):
        return f'is text (it begins with "{line}"), not weights; give the file of weights, or {_FETCH}'
    what = f"is no file of safetensors or torch.save (it begins with {data[:16]!r})"
    return f"{what}; save a state dict: torch.save(model.state_dict(), FILE)"


def part(source: str) -> str:
    """Return which part of several a file is by its name, as ``part 1 of 2``; "" for others."""
    numbers = _PART.search(source)
    return f"part {numbers[1]} of {numbers[2]}" if numbers and int(numbers[2]) > 1 else ""


def folder(fs: Any, path: str, source: str) -> str:
    """Return what a folder holds that was named as weights, and the remedy."""
    try:
        names = sorted(item["name"].rstrip("/").rpartition("/")[2] for item in entries(fs, path))
    except (OSError, WmddError):
        return "is a folder; name the file in it, such as model.safetensors"
    if any(name.endswith(".distcp") for name in names):
        how = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth"
        return f"is a checkpoint of torch.distributed; write it as one file: {how}"
    if parts := [name for name in names if part(name) and not name.endswith(".json")]:
        return f"is a folder with weights in {len(parts)} parts ({parts[0]}); {MERGE}"
    for pattern in _WEIGHTS:
        if files := [name for name in names if re.fullmatch(pattern, name)]:
            which = "one of its files, such as" if files[1:] else "the file in it,"
            return f"is a folder; give {which} {source.rstrip('/')}/{files[0]}"
    for pattern, what in _NAMES:
        if files := [name for name in names if re.search(f"({pattern})$", name.lower())]:
            return f"is a folder of {what} ({files[0]}); {_CONVERT}"
    held = f"holds {', '.join(names[:3])}{', ...' if names[3:] else ''}" if names else "is empty"
    return f"is a folder without weights (it {held}); give a .safetensors or .pth file"


def _foreign_zip(data: bytes) -> str:
    """Return what a zip archive is that torch.save did not write; "" for torch's, and for a damaged one."""
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return ""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        command = 'torch.save(torch.jit.load(FILE).state_dict(), "weights.pth")'
        return f"is a TorchScript archive; save its state_dict: {command}"
    if "data.pkl" in ends:
        return ""
    if ends & {"archive_format", "serialized_exported_program.json", "exported_program.json"}:
        command = 'torch.save(torch.export.load(FILE).state_dict, "a.pth")'
        return f"is a program of torch.export; save its state_dict: {command}"
    if any(name.endswith(".npy") for name in ends):
        return "is an archive of NumPy's arrays (.npz); save a state dict of torch"
    if "model.weights.h5" in ends:
        return f"is a file of Keras; {_CONVERT}"
    if any(name.endswith((".mlmodel", ".mlmodelc")) for name in names):
        return f"is a file of Core ML; {_CONVERT}"
    return "is a zip archive; unpack it, and give the file of weights in it"


def _text(head: bytes) -> str:
    """Return the first line of what begins as text; "" for other files."""
    try:
        words = codecs.getincrementaldecoder("utf-8-sig")().decode(head)  # the cut may be within a letter
    except UnicodeDecodeError:
        return ""
    if not all(letter.isprintable() or letter in "\t\r\n\f" for letter in words):
        return ""
    return next(iter(words.strip().splitlines()), "")[:40]
