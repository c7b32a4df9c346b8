"""Between the dataclasses of a run folder's files and their JSON: checked when read, plain and finite when written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydantic

from heatv2x.core.files import read_json
from heatv2x.errors import DataError

RecordT = TypeVar("RecordT")


def plain(value: Any) -> Any:
    """The value as JSON knows it: dataclasses and arrays unfolded, and every NaN or infinite number as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read(record_class: type[RecordT], path: Path, way_out: str) -> RecordT:
    """Read a JSON file as the given dataclass; keys it does not know are ignored, numbers may be null where it says so.

    Raises:
        DataError: the file is missing, not JSON, or a key is missing or of the wrong kind; the message names the key.
    """
    if not path.is_file():
        raise DataError(path, "is missing", way_out=way_out)
    try:
        return pydantic.TypeAdapter(record_class).validate_python(plain(read_json(path)))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or None
        raise DataError(path, f"is not what a report needs: {first['msg']}", key=key, way_out=way_out) from error
