"""Write data sets as the libraries of others do."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
from PIL import Image

VALUE = {"dtype": "string", "_type": "Value"}
CLASSES = {"names": ["bad", "good"], "_type": "ClassLabel"}
REVIEWS = {
    "text": ["a b", "b c", "c d", "d e"] * 6,
    "label": [0, 1, 0, 1] * 6,
    "stars": [1.5, 2.0, 3.5, 5.0] * 6,
}
FEATURES = {"text": VALUE, "label": CLASSES, "stars": VALUE}


def save(folder, columns, features, *, files=1, rows_a_batch=5, options=None):
    """Write what the library writes, of ``columns`` in as many files."""
    folder.mkdir(parents=True)
    table = pa.table(columns)
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        begin, end = (table.num_rows * k // files for k in (i, i + 1))
        with pa.ipc.new_stream(folder / name, table.schema, options=options) as stream:
            stream.write_table(table.slice(begin, end - begin), max_chunksize=rows_a_batch)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "f", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "license": ""}))
    return folder


def save_splits(folder, **splits):
    for name, (columns, features) in splits.items():
        save(folder / name, columns, features)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def png(level, size=(6, 5)):
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), level % 256, np.uint8)).save(file, "PNG")
    return file.getvalue()


def pictures(count=12, **changed):
    cells = [{"bytes": png(20 * i), "path": None} for i in range(count)]
    columns = {"image": cells, "label": [i % 2 for i in range(count)], **changed}
    kinds = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return {**columns, "image": pa.array(columns["image"], kinds)}, {
        "image": {"_type": "Image"},
        "label": CLASSES,
    }


def shard(path, members, kind=tarfile.USTAR_FORMAT):
    """Write a tar file of names and bytes, or of ``TarInfo`` without any."""
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            # What only an extended header can say.
            info.mtime = 1.5 if kind == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(data))
    return path


def photos(begin, count, folder=""):
    """Return members of samples: a picture and a class of three each, by its number."""
    samples = range(begin, begin + count)
    return [
        (f"{folder}{i:04}.{ending}", data)
        for i in samples
        for ending, data in (("png", png(i)), ("cls", b"%d\n" % (i % 3)))
    ]
