"""Which column of a table holds pictures, and the bytes of a picture out of one of its values."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.sources.addresses import Unreadable
from pipeline.sources.recognise import BEGINNING, begins_like_a_picture

USUAL_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes", "data", "content")
_BASE64_NAME = re.compile(r"base_?64|b64", re.IGNORECASE)
_DATA_URL = re.compile(r"\s*data:[\w/+.-]*;base64,")
# No picture fits into less; a column of hashes does.
_LEAST_WIDTH = 65

#: How a table's first value of a column is asked for; None where all of the first values are null.
FirstValue = Callable[[str], pa.Scalar | None]


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a type is plainly one of bytes: binary of any width, Hugging Face's struct, either as a dictionary."""
    kind = _storage(kind)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
    if pa.types.is_fixed_size_binary(kind):
        return kind.byte_width >= _LEAST_WIDTH
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def may_hold_bytes(kind: pa.DataType) -> bool:
    """Whether a type can hold pictures in a roundabout way: a list of numbers, or base64 text."""
    return _is_text(kind) or _is_byte_list(kind)


def is_list_of_bytes(kind: pa.DataType) -> bool:
    """Whether a value holds several pictures."""
    kind = _storage(kind)
    return _is_list(kind) and holds_bytes(kind.value_type)


def find_image_column(schema: pa.Schema, first_value: FirstValue | None = None) -> str | None:
    """The column that holds pictures: one of a usual name, or the only one that can; None where neither is there.

    ``first_value`` decides on columns of text and of numbers; without it they are left out.
    """
    able = [field.name for field in schema if holds_bytes(field.type)]
    usual = [name for name in USUAL_NAMES if name in able]
    if usual:
        return usual[0]
    if len(able) == 1:
        return able[0]
    if able or first_value is None:
        return None
    likely = [name for name in USUAL_NAMES if name in schema.names]
    likely += [name for name in schema.names if _BASE64_NAME.search(name) and name not in likely]
    return next((name for name in likely if is_image_column(schema, name, first_value)), None)


def is_image_column(schema: pa.Schema, name: str, first_value: FirstValue) -> bool:
    """Whether a column holds pictures; of text and numbers the first value is looked at."""
    kind = schema.field(name).type
    if holds_bytes(kind):
        return True
    if not may_hold_bytes(kind):
        return False
    try:
        value = first_value(name)
        return value is not None and begins_like_a_picture((picture_bytes(value) or b"")[:BEGINNING])
    except Unreadable:
        return False


def picture_bytes(value: pa.Scalar) -> bytes | None:
    """The encoded picture in a value of a column of pictures; None for null. Unreadable where it holds none."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if isinstance(value, pa.ExtensionScalar):
        value = value.value
    if not value.is_valid:
        return None
    if _is_byte_list(value.type):
        numbers = value.values
        if numbers.null_count:
            raise Unreadable("a list of bytes with nulls in it")
        return np.asarray(numbers).astype(np.uint8).tobytes()
    if _is_text(value.type):
        try:
            text = _DATA_URL.sub("", value.as_py(), count=1)
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unreadable("a text that is no base64") from error
    data: Any = value.as_py()
    return data


def _storage(kind: pa.DataType) -> pa.DataType:
    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_byte_list(kind: pa.DataType) -> bool:
    kind = _storage(kind)
    return _is_list(kind) and (pa.types.is_uint8(kind.value_type) or pa.types.is_int8(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    kind = _storage(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
