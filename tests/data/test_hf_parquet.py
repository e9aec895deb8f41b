"""Columns and rows of Parquet files: other names and types are read, wrong ones refused."""

import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import HF, png, refusal, structs, table
from tables import each_of

from wmdd.data.images import load_native_uint8, read_encoded
from wmdd.data.scan import build_index
from wmdd.errors import DataError


@each_of("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@each_of("nested", [True, False])
def test_images_of_every_type_are_read(tmp_path, kind, nested):
    groups = []
    for seed in (0, 2, 4):  # pyarrow cannot cut a table of nested views into row groups itself
        images = pa.array([png(seed), png(seed + 1)], pa.binary()).cast(kind)
        if nested:
            images = pa.StructArray.from_arrays([images, pa.nulls(2, pa.string())], ["bytes", "path"])
        groups.append(pa.table({"image": images, "label": [0, 1]}))
    with pq.ParquetWriter(tmp_path / "train.parquet", groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    index = build_index(str(tmp_path), val_fraction=0.3)
    assert (len(index.train), load_native_uint8(index, "val", index.val.of_class(0)).shape[0]) == (4, 1)


@each_of("columns", [("Image", "Label"), ("jpg", "cls"), ("scan", "class"), ("image", "target"), ("img", "fine_label")])
def test_columns_are_known_by_other_names(tmp_path, columns):
    made = table(structs(*map(png, range(4))), pa.array([0, 1] * 2), names=None, columns=columns)
    pq.write_table(made, tmp_path / "train.parquet")
    assert build_index(str(tmp_path), val_fraction=0.5).class_names == ("0", "1")


def test_only_declared_class_column_is_the_label(tmp_path):
    features = {
        "breed": {"names": ["pug", "tabby"], "_type": "ClassLabel"},
        "age": {"dtype": "int64", "_type": "Value"},
    }
    made = pa.table({"image": structs(*map(png, range(4))), "age": [1, 2, 3, 4], "breed": [0, 1] * 2})
    made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, tmp_path / "train.parquet")
    assert build_index(str(tmp_path), val_fraction=0.5).class_names == ("pug", "tabby")


def test_columns_that_do_not_fit_are_shown(tmp_path):
    pq.write_table(pa.table({"image": ["a.png"], "label": [0.5]}), tmp_path / "train.parquet")
    told = refusal(lambda: build_index(str(tmp_path)))
    assert "has the columns image (string), label (double); expected image/img with bytes" in told


def test_images_outside_of_the_file_are_named(tmp_path):
    images = pa.array([{"bytes": png(0), "path": "a.png"}, {"bytes": None, "path": "b.png"}, None], HF)
    pq.write_table(table(images, pa.array([0, 1, 1])), tmp_path / "train.parquet")
    told = refusal(lambda: build_index(str(tmp_path)))
    assert "row 1 holds the name of a file (b.png), and not its bytes: the images are outside of the set" in told
    assert told.endswith("write it with their bytes, or give them in class folders")
    pq.write_table(table(pa.array([png(0), None]), pa.array([0, 1])), tmp_path / "train.parquet")
    assert "row 1 holds no image bytes; remove" in refusal(lambda: build_index(str(tmp_path)))


def test_memory_parquet_reads_every_image():
    fs = fsspec.filesystem("memory")
    with fs.open("/pq/train-0.parquet", "wb") as out:
        pq.write_table(table(structs(*(png(i) for i in range(8))), pa.array([0, 1] * 4)), out, row_group_size=3)
    index = build_index("memory://pq", val_fraction=0.25)
    assert (len(index.train), len(index.val)) == (6, 2)
    for split in ("train", "val"):
        for position, data in read_encoded(index, split, np.arange(len(getattr(index, split)))):
            assert data == png(int(getattr(index, split).row[position]))


def test_plain_binary_column_and_other_names(tmp_path):
    made = table(pa.array([png(0), png(1)] * 2, pa.binary()), pa.array([0, 1] * 2), columns=("img", "fine_label"))
    pq.write_table(made, tmp_path / "one.parquet")
    assert build_index(str(tmp_path / "one.parquet")).class_names == ("a", "b")


def test_column_of_another_type_is_refused(tmp_path):
    pq.write_table(table(structs(png(0)), pa.array([[0]])), tmp_path / "train.parquet")
    told = refusal(lambda: build_index(str(tmp_path)))
    assert "has the columns image (struct<bytes: binary, path: string>), label (list<element: int64>); expected" in told


def test_null_image_and_null_label_are_counted(tmp_path):
    images = pa.array([{"bytes": png(0), "path": None}, None, {"bytes": png(1), "path": None}], HF)
    pq.write_table(table(images, pa.array([0, 1, None])), tmp_path / "train.parquet")
    message = refusal(lambda: build_index(str(tmp_path)))
    assert "train.parquet row 1 holds no image bytes (and 1 more" in message


@each_of(
    ("data", "told"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS; run git lfs pull"),
     (b"<!DOCTYPE html><html></html>", "is an HTML page, as of a failed download; download it again"),
     (b"PAR1 and no more", "is no readable Parquet file")],
    ids=["LFS", "page", "damaged"],
)  # fmt: skip
def test_parquet_file_that_is_something_else_is_named(tmp_path, data, told):
    (tmp_path / "train-0.parquet").write_bytes(data)
    with pytest.raises(DataError, match=f"train-0.parquet {told}"):
        build_index(str(tmp_path))


def test_file_names_next_to_bytes_need_not_be_text(tmp_path):
    names = pa.array([f"caf\xe9-{number}.png".encode("latin-1") for number in range(4)], pa.binary())
    paths = pa.Array.from_buffers(pa.string(), 4, names.buffers())  # not UTF-8, as some writers leave it
    data = pa.array([png(number) for number in range(4)], pa.binary())
    images = pa.StructArray.from_arrays([data, paths], ["bytes", "path"])
    pq.write_table(table(images, pa.array([0, 1, 0, 1])), tmp_path / "train-0.parquet")
    assert len(build_index(str(tmp_path), val_fraction=0.5).train) == 2
