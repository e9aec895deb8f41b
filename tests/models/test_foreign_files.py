"""Files and folders that hold no weights for torch are named with the remedy."""

import io
import os
import warnings
import zipfile

import pytest
import safetensors.torch
import torch
from tables import each_of
from users_files import check_refused, small, written


def scripted():
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises its successor
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), out)
    return out.getvalue()


def zipped(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return out.getvalue()


@pytest.mark.filterwarnings("error")
@each_of("name", ["w.pth", "w.safetensors", "w.bin"])
@each_of(
    ("data", "told"),
    [
        (scripted, "is a TorchScript archive; save its state_dict"),
        (lambda: b"version https://git-lfs/spec/v1\noid sha256:0", r"is a pointer of Git LFS.*run git lfs pull"),
        (lambda: b"\n<!DOCTYPE html><html>", "is a web page, not the file; fetch it by its download link"),
        (lambda: b"/annex/objects/SHA256E-s44--aa.pth\n", "is a pointer of git-annex, not the file; run git annex get"),
        (lambda: b"../.git/annex/objects/x/y/SHA256E-s44--aa.pth", "is a link of git-annex as text.*; run git"),
        (lambda: b"outs:\n- md5: aa\n  path: x.pth\n", "is a pointer of DVC, not the file; run dvc pull"),
        (lambda: b"md5: aa\r\nouts:\r\n- md5: aa\r\n", "is a pointer of DVC, not the file; run dvc pull"),
        (lambda: b"# xet version 0\nfilesize = 4\n", "is a pointer of Xet.*; download it again"),
        (lambda: b"\0GITCRYPT\0rest", "is encrypted by git-crypt.*; run git-crypt unlock"),
        (lambda: bytes(1000), "is no file of weights .its 1000 bytes are all zero.; fetch it again"),
        (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied", "is XML, as of a failed download; fetch it again"),
        (lambda: b"<Error><Code>AccessDenied", "is XML, as of a failed download; fetch it again"),
        (lambda: b'{"weight_map": {}}', "is a list of the parts of weights.*; give the weights in one file"),
        (lambda: b'{"error": "Repository not found"}', "is an error in JSON, as of a failed download; fetch it again"),
        (lambda: b'{\n "architectures": []}', "is text in JSON.*; give the file of weights"),
        (lambda: b"GGUF\3\0\0\0", r"is a file of GGUF .llama.cpp.; convert it"),
        (lambda: b"\x1c\0\0\0TFL3", "is a file of TensorFlow Lite; convert it"),
        (lambda: b"\x1f\x8b\x08rest", "is a compressed file or an archive; unpack it"),
        (lambda: b"\x89HDF\r\n\x1a\n", "is a file of HDF5"),
        (lambda: zipped("a/model_49.pth"), "is a zip archive; unpack it"),
        (lambda: zipped("params.npy"), r"is an archive of NumPy's arrays"),
        (lambda: zipped("model.weights.h5", "config.json"), "is a file of Keras"),
    ],
)  # fmt: skip
def test_file_of_another_kind_is_named(tmp_path, name, data, told):
    path = written(tmp_path, data(), name)
    check_refused(path, rf"^pretrain\.checkpoint={path}: {told}")


@pytest.mark.filterwarnings("error")
@each_of(
    ("name", "data", "told"),
    [
        ("w.pth", b"\x08\x07\x12\x07pytorch\x1a", "is a file of ONNX; convert it"),
        ("w.onnx", b"\x08\x07:", "is a file of ONNX; convert it"),
        ("saved_model.pb", b"\x08\x01\x12\xf4", "is a file of TensorFlow; convert it"),
        ("model.ckpt-9.data-00000-of-00001", b"\xff\x01", "is a file of TensorFlow; convert it"),
        ("flax_model.msgpack", b"\x84\xa6params", "is a file of Flax; convert it"),
        ("w.pth", b"\x84\xa6params\x83", "is a file of msgpack, as of Flax; convert it"),
        ("w.mlmodel", b"\x08\x01\x12", "is a file of Core ML; convert it"),
        ("w.pdparams", b"\x80\x02cbuiltins\nprint\n.", "is a file of PaddlePaddle; convert it"),
        ("w.pth", b"Entry not found", 'is text .it begins with "Entry not found"., not weights; give the file'),
        ("w.pth", bytes(600) + b"rest", "begins with zeros, as a download that was cut short; fetch it again"),
        ("w.pth", b"\x7fELF\2\1", r"is no file of safetensors or torch.save .it begins with b'\\x7fELF"),
        ("w.pth", b"\x80\x02cbuiltins\nprint\n.", "not a file of plain tensors"),
    ],
)  # fmt: skip
def test_file_that_torch_cannot_read_is_named(tmp_path, name, data, told):
    path = written(tmp_path, data, name)
    check_refused(path, rf"^pretrain\.checkpoint={path}: {told}")


@each_of(
    ("names", "told"),
    [
        (["config.json", "model.safetensors"], "is a folder; give the file in it, {}/model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "is a folder; give the file in it, {}/pytorch_model.bin"),
        (["a.pth", "b.pth"], "is a folder; give one of its files, such as {}/a.pth"),
        (
            ["model-00001-of-00002.safetensors", "model.safetensors.index.json"],
            "is a folder with weights in 1 parts .model-00001-of-00002.safetensors.; give the weights in one file",
        ),
        ([".metadata", "__0_0.distcp"], "is a checkpoint of torch.distributed; write it as one file: "),
        (["saved_model.pb"], r"is a folder of TensorFlow .saved_model\.pb.; convert it"),
        (["README.md"], r"is a folder without weights .it holds README\.md.; give a \.safetensors or \.pth file"),
        ([], "is a folder without weights .it is empty.; give a"),
    ],
)
def test_folder_of_weights_is_named(tmp_path, names, told):
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    check_refused(tmp_path, rf"^pretrain\.checkpoint={tmp_path}: {told.format(tmp_path)}")


@each_of(
    ("target", "told"),
    [
        ("../.git/annex/objects/x/SHA256E-s44--aa.pth", "is a link of git-annex whose content is not here; run git"),
        ("../../blobs/abc", "is a link to ../../blobs/abc, which does not exist; restore that"),
        ("w.pth", "is a link to w.pth, which does not exist"),
    ],
)
def test_link_to_weights_that_are_not_there_is_named(tmp_path, target, told):
    (tmp_path / "w.pth").symlink_to(target)
    check_refused(tmp_path / "w.pth", told)


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    check_refused(tmp_path / "w.pth", "is a pipe or a device; give a file")


def test_one_part_of_weights_is_named(tmp_path):
    path = str(tmp_path / "model-00001-of-00002.safetensors")
    safetensors.torch.save_file(dict(list(small().state_dict().items())[:3]), path)
    check_refused(path, "by its name it is part 1 of 2: give the weights in one file")


def test_safetensors_of_another_framework_is_named(tmp_path):
    path = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file({"params.conv.kernel": torch.zeros(3)}, path, metadata={"format": "flax"})
    check_refused(path, r"adds params\.conv.kernel.*it is of Flax: convert it to torch")
