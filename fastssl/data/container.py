"""The end of a file of one table: table, header as JSON, footer. Packed images and token files share it."""

from __future__ import annotations

import json
import struct
import zlib
from typing import IO, Any

from fastssl._files import sync

FOOTER = struct.Struct("<QQQI8s")  # offsets of table and header, length of the header, its checksum, magic


def write_end(file: IO[bytes], magic: bytes, start: int, table: bytes, header: dict[str, Any]) -> None:
    """Writes table (at offset ``start``), header with the table's checksum, and footer, and syncs the file."""
    text = json.dumps({**header, "table_crc": zlib.crc32(table)}).encode()
    file.write(table + text)
    file.write(FOOTER.pack(start, start + len(table), len(text), zlib.crc32(text), magic))
    sync(file)
