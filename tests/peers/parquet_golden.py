"""Golden tests of the parquet loader: small files written by pyarrow, and the rows that pyarrow reads from them.

    python -m venv venv && venv/bin/pip install pyarrow==26.0.1
    venv/bin/python tests/peers/parquet_golden.py plugins/parquet/tests

They are the golden tests of `plugins/parquet`, which are embedded in the component, so they are kept small. Beside them
`tests/end_to_end/data/alpaca.parquet` is written, rows that a test of the binary trains on.
"""

import base64
import datetime
import decimal
import io
import json
import math
import random
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))


def media_type(data):
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "application/octet-stream"


def plain(value):
    """What pyarrow read, as the loader writes it in JSON."""
    if isinstance(value, bytes):
        return f"data:{media_type(value)};base64,{base64.b64encode(value).decode()}"
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return Number(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        if set(value) == {"bytes", "path"}:
            return plain(value["bytes"]) if value["bytes"] is not None else value["path"]
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):
            return {key if isinstance(key, str) else json.dumps(plain(key)): plain(item) for key, item in value}
        return [plain(item) for item in value]
    return value


class Number(str):
    """A number that is printed digit for digit."""


def dumps(value):
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(dumps(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def write(table, **options):
    out = io.BytesIO()
    pq.write_table(table, out, **{"compression": "none", "store_schema": False, "write_statistics": False, **options})
    return out.getvalue()


def rows(table):
    """An empty map is an empty list for pyarrow: the schema tells them apart."""
    maps = [field.name for field in table.schema if pa.types.is_map(field.type)]
    read = [plain(row) for row in table.to_pylist()]
    return [{key: {} if key in maps and value == [] else value for key, value in row.items()} for row in read]


def embedded(data):
    return {"base64": base64.b64encode(data).decode()}


def case(table, note, expect=None, **options):
    data = write(table, **options)
    return {"comment": note, "files": {"a.parquet": embedded(data)}, "location": "a.parquet", "expect": expect or rows(table)}


def scalars():
    utc = datetime.timezone.utc
    moment = datetime.datetime(2024, 2, 29, 12, 34, 56, 789012)
    columns = {
        "bool": pa.array([True, None, False]),
        "int8": pa.array([-128, None, 127], pa.int8()),
        "int16": pa.array([-32768, None, 32767], pa.int16()),
        "int32": pa.array([-(2**31), None, 2**31 - 1], pa.int32()),
        "int64": pa.array([-(2**63), None, 2**63 - 1], pa.int64()),
        "uint8": pa.array([0, None, 255], pa.uint8()),
        "uint32": pa.array([0, None, 2**32 - 1], pa.uint32()),
        "uint64": pa.array([0, None, 2**64 - 1], pa.uint64()),
        "half": pa.array([0.5, None, -1024.0], pa.float16()),
        "float": pa.array([0.1, None, float("inf")], pa.float32()),
        "double": pa.array([0.1, float("nan"), -1.5e300], pa.float64()),
        "text": pa.array(["", "größe \"x\"\n\u0001", None]),
        "large_text": pa.array(["a", None, "b" * 70], pa.large_string()),
        "binary": pa.array([b"", None, PNG], pa.binary()),
        "fixed": pa.array([b"abcd", None, b"\0\1\2\3"], pa.binary(4)),
        "uuid": pa.array([uuid.UUID(int=1).bytes, None, uuid.UUID(int=2**127).bytes], pa.uuid()),
        "decimal": pa.array([decimal.Decimal("12.34"), None, decimal.Decimal("-0.05")], pa.decimal128(9, 2)),
        "wide_decimal": pa.array([decimal.Decimal("-" + "1" * 34), None, decimal.Decimal("7" * 20 + ".125")], pa.decimal128(38, 3)),
        "date": pa.array([datetime.date(1969, 12, 31), None, datetime.date(2024, 2, 29)]),
        "time": pa.array([datetime.time(1, 2, 3), None, datetime.time(23, 59, 59, 999999)], pa.time64("us")),
        "seconds": pa.array([datetime.time(1, 2, 3), None, datetime.time(0, 0, 0)], pa.time32("ms")),
        "moment": pa.array([moment, None, datetime.datetime(1899, 1, 1)], pa.timestamp("us")),
        "moment_utc": pa.array(
            [datetime.datetime(2024, 2, 29, 1, 2, 3, 4000, tzinfo=utc), None, datetime.datetime(1970, 1, 1, tzinfo=utc)],
            pa.timestamp("ms", tz="UTC"),
        ),
        "nothing": pa.array([None, None, None], pa.null()),
        "category": pa.array(["x", "y", "x"]).dictionary_encode(),
    }
    table = pa.table(columns)
    required = pa.table(
        {"n": pa.array([1, 2], pa.int32()), "t": pa.array(["a", "b"])},
        schema=pa.schema([pa.field("n", pa.int32(), nullable=False), pa.field("t", pa.string(), nullable=False)]),
    )
    old = pa.table({"at": pa.array([moment.replace(microsecond=0), None], pa.timestamp("us"))})
    broken = pa.table({"id": pa.array([1, 2, 3]), "t": pa.array([b"a", b"\xff\xfe", b"c"], pa.binary()).view(pa.string())})
    gone = [{"id": 1, "t": "a"}, {"dropped": "column `t` is not UTF-8"}, {"id": 3, "t": "c"}]
    return [
        case(table, "every type", version="2.6"),
        case(required, "no nulls"),
        case(old, "INT96", use_deprecated_int96_timestamps=True),
        case(broken, "bytes that are no text", expect=gone),
        case(pa.table({"a": pa.array([], pa.int64())}), "no rows", expect=[]),
    ]


def nested():
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    table = pa.table(
        {
            "messages": pa.array(
                [
                    [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}],
                    None,
                    [],
                    [None, {"role": "user", "content": "x"}],
                ],
                pa.list_(message),
            ),
            "deep": pa.array([[[1, None], [], None], [], None, [[2]]], pa.list_(pa.list_(pa.int64()))),
            "struct": pa.array(
                [{"a": 1, "b": {"c": ["x"]}}, {"a": None, "b": None}, None, {"a": 2, "b": {"c": None}}],
                pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.list_(pa.string()))]))]),
            ),
            "map": pa.array([[("k", 1), ("l", None)], [], None, [("m", 3)]], pa.map_(pa.string(), pa.int64())),
            "numbered": pa.array([[(1, ["a"])], None, [], [(2, [])]], pa.map_(pa.int32(), pa.list_(pa.string()))),
            "image": pa.array(
                [{"bytes": PNG, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None, {"bytes": b"\xff\xd8\xff", "path": None}],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "images": pa.array(
                [[{"bytes": PNG, "path": None}], [], None, [{"bytes": None, "path": "c.jpg"}]],
                pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ),
        }
    )
    # Bytes that are declared as text, in the middle of a list.
    texts = pa.array([b"x", b"y", b"x", b"\xff", b"z", b"w"], pa.binary()).view(pa.string())
    pairs = pa.StructArray.from_arrays([texts, pa.array(range(1, 7))], ["a", "b"])
    broken = pa.table({"m": pa.ListArray.from_arrays([0, 2, 5, 6], pairs), "after": pa.array([[1, 2], [3, 4], [5]])})
    expect = [
        {"m": [{"a": "x", "b": 1}, {"a": "y", "b": 2}], "after": [1, 2]},
        {"dropped": "column `a` is not UTF-8"},
        {"m": [{"a": "w", "b": 6}], "after": [5]},
    ]
    return [
        case(table, "lists, structs, maps, media"),
        case(table, "lists as old writers name them", use_compliant_nested_type=False),
        case(table, "second version of pages", data_page_version="2.0", compression="snappy"),
        case(broken, "a row that is left out in the middle", expect=expect),
    ]


def codecs():
    words = ["alpha", "beta", "gamma", None]
    table = pa.table({"n": list(range(300)), "t": [words[i % 4] for i in range(300)]})
    few = table.slice(0, 60)
    cases = []
    for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
        for version in ["1.0", "2.0"]:
            cases.append(case(few, f"{codec}, pages {version}", compression=codec, data_page_version=version))
    return cases


def layouts():
    random.seed(1)
    count = 150
    table = pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "text": pa.array([None if i % 7 == 0 else "w" * random.randrange(9) for i in range(count)]),
            "tags": pa.array([[f"t{j}" for j in range(i % 4)] for i in range(count)]),
            "ratio": pa.array([i / 8 for i in range(count)]),
            "flag": pa.array([i % 3 == 0 for i in range(count)]),
        }
    )
    delta = {
        "use_dictionary": False,
        "column_encoding": {
            "id": "DELTA_BINARY_PACKED",
            "text": "DELTA_BYTE_ARRAY",
            "tags.list.element": "DELTA_LENGTH_BYTE_ARRAY",
            "ratio": "BYTE_STREAM_SPLIT",
            "flag": "RLE",
        },
    }
    return [
        case(table, "row groups and small pages", row_group_size=40, data_page_size=128, write_batch_size=8),
        case(table, "no dictionaries", use_dictionary=False, row_group_size=101),
        case(table, "delta encodings", row_group_size=64, data_page_version="2.0", **delta),
        case(table, "page indexes", row_group_size=70, data_page_size=256, write_batch_size=16, write_page_index=True),
    ]


def shards():
    tables = [pa.table({"id": list(range(at, at + size))}) for at, size in [(0, 5), (5, 0), (5, 4)]]
    files = {f"data/train-{i:05}-of-00003.parquet": embedded(write(t)) for i, t in enumerate(tables)}
    expect = [row for table in tables for row in rows(table)]
    files["data/README.md"] = "# not a shard\n"
    files["data/test.parquet"] = embedded(write(pa.table({"id": [99]})))
    folder = {"files": files, "location": "data"}
    return [
        {"comment": "a folder", **folder, "expect": [{"id": 99}, *expect]},
        {"comment": "a subset", **folder, "subset": "train", "expect": expect},
    ]


def alpaca():
    """The fixture's rows in alpaca's form, two of them without an answer."""
    answers = ["xy" * (i % 3 + 1) for i in range(24)]
    table = pa.table(
        {
            "instruction": ["say" for _ in answers] + ["say nothing", "say nothing"],
            "input": ["abc" * (i % 5 + 1) for i in range(24)] + ["", None],
            "output": [*answers, "", None],
        }
    )
    return write(table, compression="zstd", row_group_size=10)


def main():
    (Path(__file__).parents[1] / "end_to_end/data/alpaca.parquet").write_bytes(alpaca())
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for cases in [scalars, nested, codecs, layouts, shards]:
        golden = {"kind": "dataset", "name": "parquet", "config": {}, "cases": cases()}
        path = folder / f"{cases.__name__}.json"
        path.write_text(dumps(golden) + "\n")
        print(path, path.stat().st_size)


main()
