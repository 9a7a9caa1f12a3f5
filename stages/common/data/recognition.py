"""Recognizes the encoding of a text file and the delimiter of a CSV file, for `init`, whose recipe names both, and for
`predict`.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl

import charset_normalizer

from stages.common.assets.cache import resolve
from stages.common.data.config import Source
from stages.common.data.declarations import DELIMITERS, declared_delimiter
from stages.common.data.rows import (
    encoding_of_mark,
    folder_files,
    format_of,
    open_bytes,
    open_text,
)
from stages.common.errors import DataError

JAPANESE = ("shift_jis", "euc_jp")
EAST_ASIAN = (*JAPANESE, "euc_kr", "gb18030", "big5")
"""Encodings with several bytes per character, of which most texts are valid in several."""
SINGLE_BYTE = ("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256")
"""Encodings with one byte per character. cp1252 contains Latin-1."""
MIN_COMMON = 0.7
"""Minimum fraction of common characters, if the encoding is the right one."""
MIN_KANA = 0.2
"""Minimum fraction of kana in Japanese texts."""
SAMPLE_BYTES = 200_000
"""Bytes of lines that are not ASCII by which an encoding is recognized."""
SAMPLE_ROWS = 200
"""Rows by which a delimiter is recognized."""
MIN_ZEROS = 0.002
"""Minimum fraction of zero bytes in UTF-16."""
CHUNK = 2**20
FORMAT_NAMES = {
    "csv": "CSV",
    "tsv": "TSV",
    "tab": "Orange",
    "json": "JSON",
    "jsonl": "JSON lines",
    "txt": "text",
    "conll": "CoNLL",
}
DELIMITER_NAMES = {";": "semicolons", "\t": "tabs", "|": "pipes"}


def recognized_source(asset: str) -> Source:
    """Returns the source of a file, with its encoding and delimiter if they are not UTF-8 and a comma.

    Args:
        asset: Reference of the file, or of a dataset of the hub: `hf:ORG/NAME?subset=NAME&split=NAME`.

    Raises:
        DataError: the encoding is unknown, or the ending of the file is; or a dataset has an unknown setting.
        AssetError: the file is unreachable.
    """
    if asset.startswith("hf:"):
        return _hub_source(asset)
    source = Source(asset=asset)
    path = resolve(asset)
    file_format = format_of(path)
    if file_format == "parquet":
        return source
    files = folder_files(path) if file_format == "folder" else [path]
    try:
        encoding = _encoding_of_files([item for item in files if not encoding_of_mark(item)], path.name)
        delimiter = _delimiter_of_file(path, encoding) if file_format == "csv" else None
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path.name} ({error}).", "Write the file again.") from error
    return source.model_copy(update={"encoding": encoding, "delimiter": delimiter})


def _hub_source(asset: str) -> Source:
    reference, _, query = asset.partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    if not {"split", "subset"} >= settings.keys() or not all(settings.values()) or (query and not settings):
        raise DataError(
            f"{asset} has the settings {query!r}, which are not split and subset.",
            f"Write {reference}?subset=NAME&split=NAME, or one of both.",
        )
    return Source(asset=reference, **settings)


def describe(source: Source) -> str:
    """Returns format, delimiter and encoding of a recognized source, for people."""
    if source.asset.startswith("hf:"):
        return f"dataset of the hub, split {source.split}"
    path = resolve(source.asset)
    file_format = format_of(path)
    if file_format == "parquet":
        return "Parquet"
    if file_format == "folder":
        return f"folder of texts, {_name_of(source.encoding or 'utf-8')}"
    encoding = encoding_of_mark(path) or source.encoding or "utf-8"
    delimiter = source.delimiter
    if file_format == "csv":
        with open_text(path, source.encoding) as file:
            delimiter = declared_delimiter(file.readline()) or delimiter
    name = FORMAT_NAMES.get(file_format, file_format)
    return ", ".join(item for item in (name, DELIMITER_NAMES.get(delimiter or ","), _name_of(encoding)) if item)


def _name_of(encoding: str) -> str:
    if encoding == "utf-8-sig":
        return "UTF-8 with byte order mark"
    return encoding.upper().replace("CP125", "Windows-125").replace("_", "-")


def _encoding_of_files(files: Sequence[Path], name: str) -> str | None:
    """Returns the encoding of files without a byte order mark; None for UTF-8."""

    def is_valid(encoding: str) -> bool:
        return all(_decodes(file, encoding) for file in files)

    if is_valid("utf-8"):
        return None
    encoding = _likely_encoding(_start(files[0]), _sample(files), is_valid)
    if encoding is None:
        raise DataError(f"the encoding of {name} is unknown.", "Save the file as UTF-8.")
    return None if encoding == "utf-8" else encoding


def recognize_encoding(head: bytes) -> str:
    """Returns the encoding of a file by its first bytes; UTF-8 if no other one is likely."""

    def is_valid(encoding: str) -> bool:
        try:
            return "\0" not in codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            return False

    if is_valid("utf-8"):
        return "utf-8"
    lines = b"".join(line for line in head.splitlines(keepends=True) if not line.isascii()) or head
    return _likely_encoding(head, lines, is_valid) or "utf-8"


def _likely_encoding(head: bytes, sample: bytes, is_valid: Callable[[str], bool]) -> str | None:
    """Returns the encoding of a file that is not valid UTF-8; None if it is unknown.

    It is UTF-8 nevertheless if most lines are valid, because lines of other encodings rarely are.

    Args:
        head: Its first bytes.
        sample: Lines that are not ASCII.
        is_valid: Whether the file is valid in an encoding.
    """
    utf_16 = _utf_16(head)
    if utf_16 and is_valid(utf_16):
        return utf_16
    lines = [line for line in sample.splitlines() if not line.isascii()]
    if 2 * sum(map(_is_utf_8, lines)) > len(lines):
        return "utf-8"
    return next((item for item in (*_east_asian(sample), *_single_byte(sample)) if is_valid(item)), None)


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _east_asian(sample: bytes) -> list[str]:
    """Returns encodings in which most characters are common ones, the most likely first."""
    shares = {}
    for encoding in EAST_ASIAN:
        try:
            text = sample.decode(encoding)
        except UnicodeDecodeError:
            continue
        shares[encoding] = _share_of_common([item for item in text if not item.isascii() and item.isalpha()], encoding)
    likely = [encoding for encoding, share in shares.items() if share >= MIN_COMMON]
    # kana are seldom there by chance
    return sorted(likely, key=lambda encoding: (encoding not in JAPANESE, -shares[encoding]))


def _share_of_common(letters: Sequence[str], encoding: str) -> float:
    """Returns the fraction of letters that are common in texts of an encoding."""
    if not letters:
        return 0.0
    kana = sum("\u3040" <= item <= "\u30ff" for item in letters)
    if encoding in JAPANESE:
        kanji = sum("\u4e00" <= item <= "\u9fff" for item in letters)
        return (kana + kanji) / len(letters) if kana >= MIN_KANA * len(letters) else 0.0
    if encoding == "euc_kr":
        return sum("\uac00" <= item <= "\ud7a3" for item in letters) / len(letters)
    # both standards list the common characters first
    name, first, last = ("gb2312", 0xB0, 0xD7) if encoding == "gb18030" else ("big5", 0xA4, 0xC6)
    codes = [item.encode(name, "ignore") for item in letters]
    return sum(len(code) == 2 and first <= code[0] <= last for code in codes) / len(letters)


def _single_byte(sample: bytes) -> list[str]:
    """Returns likely encodings, the most likely first."""
    results = charset_normalizer.from_bytes(sample, cp_isolation=list(SINGLE_BYTE))
    likely = [name for item in results for name in item.could_be_from_charset]
    # most letters of Western languages are the same in all three
    if not likely or ("cp1252" in likely and likely[0] in ("cp1250", "cp1254")):
        likely.insert(0, "cp1252")
    return likely


def _decodes(path: Path, encoding: str) -> bool:
    """Returns True if a file is valid in an encoding. A NUL is not valid."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open_bytes(path) as file:
            while chunk := file.read(CHUNK):
                if "\0" in decoder.decode(chunk):
                    return False
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _sample(files: Sequence[Path]) -> bytes:
    """Returns lines that are not ASCII, which tell more about an encoding than others; all if there are none."""
    lines = bytearray()
    for path in files:
        with open_bytes(path) as file:
            for line in file:
                if not line.isascii():
                    lines += line
                if len(lines) >= SAMPLE_BYTES:
                    return bytes(lines)
    return bytes(lines) if lines else _start(files[0])


def _start(path: Path) -> bytes:
    with open_bytes(path) as file:
        return bytes(file.read(SAMPLE_BYTES))


def _utf_16(sample: bytes) -> str | None:
    """Returns the byte order of UTF-16 without a mark; None if the text is not UTF-16. Digits and delimiters have a
    zero byte in any language.
    """
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if even + odd <= MIN_ZEROS * len(sample):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _delimiter_of_file(path: Path, encoding: str | None) -> str | None:
    """Returns the delimiter of a CSV file; None: a comma, or the one that the file declares."""
    with open_text(path, encoding, "replace") as file:
        lines = list(islice(file, SAMPLE_ROWS))
    if not lines or declared_delimiter(lines[0]):
        return None
    delimiter = recognize_delimiter(lines)
    return None if delimiter == "," else delimiter


def recognize_delimiter(lines: Sequence[str]) -> str:
    """Returns the delimiter that divides the header and most rows into the same number of columns."""
    best, best_share = ",", 0.0
    for delimiter in DELIMITERS:
        numbers = list(_numbers_of_columns(lines, delimiter))
        if numbers and numbers[0] > 1:
            share = numbers.count(numbers[0]) / len(numbers)
            if share > best_share:
                best, best_share = delimiter, share
    return best


def _numbers_of_columns(lines: Iterable[str], delimiter: str) -> Iterator[int]:
    try:
        for values in csv.reader(lines, delimiter=delimiter):
            if values:
                yield len(values)
    except csv.Error:
        return
