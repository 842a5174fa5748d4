"""Table files, read the same way everywhere; what a column means is decided once for all of it."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import os
import re
import shlex
import warnings
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quartet.core.messages import format_value, join_or, shorten

T = TypeVar("T")
U = TypeVar("U")
Texts = NDArray[np.object_]
Floats = NDArray[np.float64]
# A column that needs no decision is read as numbers, NaN for missing ones; all others as texts.
Column = NDArray[Any]
Chunk = dict[str, Column]  # rows, by the names of the columns

PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
CHUNK = 8192  # rows that are read at once
BLOCK = 1 << 24  # bytes of a plain file that are read at once; an eighth where rows are streamed
JOINED = 4  # blocks that are kept together
THREADS = min(4, os.cpu_count() or 1)  # that read blocks of a file
# Older versions of pandas read some numbers wrong in the last digit.
IS_OLD = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
# What stands for a missing value in a column of numbers, unless a setting says otherwise.
MISSING = {"", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None"}
UTF_8 = ("utf-8", "utf-8-sig")
EXACT = 2.0**53  # beyond it 64-bit floats skip whole numbers
# Older versions of pandas warn of a column with texts among numbers, which is read again.
warnings.filterwarnings("ignore", category=pd.errors.DtypeWarning, module=re.escape(__name__))
BOOLEANS = {"true": 1.0, "True": 1.0, "TRUE": 1.0, "false": 0.0, "False": 0.0, "FALSE": 0.0}
MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( .*)?|"
    r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?|"
    rf"\d{{1,2}}\.?[- ]?{MONTH}([- ,]+\d{{2,4}}( .*)?)?|{MONTH} \d{{1,2}}(,? \d{{4}}( .*)?)?",
    re.IGNORECASE,
)
# Numbers with a currency, a percent sign, or groups of digits.
LIKE_NUMBER = re.compile(
    r"\(?[$€£¥]?\s?[-+\u2212\u2013]?[$€£¥]?\s?\d[\d.,'\u2019\s]*([eE][-+]?\d+)?\s?[%‰$€£¥]?\)?"
)


class Format(NamedTuple):
    """How the values of a table are written: settings of the data group.

    Attributes:
        separator: Text between two values of a line.
        decimal: Sign between the whole part and the decimals of a number.
        thousands: Sign between groups of three digits, or None.
        encoding: Of the file; a byte order mark counts more.
        comment: Begins lines to leave out, or None.
        header: Whether the first line has the names of the columns; None: it has, and must look so.
        missing_values: What stands for a missing value in any column, beside the empty text; None
            for `MISSING` in columns of numbers, and nothing in others.
    """

    separator: str = ","
    decimal: str | None = None
    thousands: str | None = None
    encoding: str | None = None
    comment: str | None = None
    header: bool | None = None
    missing_values: tuple[str, ...] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Format":
        """Returns the format that the data group of a configuration describes.

        Raises:
            ValueError: a setting has a value that describes none.
        """
        found = {key: settings[key] for key in cls._fields if key in settings}
        signs = {"separator": ",", "decimal": ".", "thousands": None}
        for key, usual in signs.items():
            value = found.get(key)
            text = usual if value is None else str(value)
            if text and text[0] == "\\":  # as messages write what is not seen
                text = text.encode().decode("unicode_escape")
            if text and key == "separator":
                text = text.strip(" ") or " "
            if text is not None and len(text) != 1:
                raise ValueError(f"{key} must be one character, got {value!r}; \\t is a tab.")
            signs[key] = text
        decimal, thousands = signs["decimal"], signs["thousands"]
        if decimal == thousands:
            raise ValueError(f"thousands must differ from decimal, and both are {decimal!r}.")
        words = found.get("missing_values")
        if words is not None:
            words = tuple(format_value(word) for word in words)
        try:
            codecs.lookup(found.get("encoding") or "utf-8")
        except LookupError:
            message = "encoding must be one that Python knows, such as utf-8, cp1252 or utf-16"
            raise ValueError(f"{message}; got {found['encoding']!r}.") from None
        return cls(**{**found, **signs, "missing_values": words})

    def is_missing(self, column: Column, of_numbers: bool) -> NDArray[np.bool_]:
        """Returns which values are missing in a column of numbers, or of texts."""
        if column.dtype != object:
            return np.isnan(column)
        words = {"", *(self.missing_values or ())}
        if self.missing_values is None and of_numbers:
            words = MISSING
        return is_one_of(column, words)

    def to_numbers(self, texts: Column, unit: str = "") -> Floats:
        """Returns the numbers that texts are before a unit, true and false as 1 and 0, else NaN."""
        if texts.dtype != object:
            return texts
        if not unit and self.thousands is None and self.decimal in (".", None):
            with suppress(ValueError):
                found, is_known = np.full(len(texts), np.nan), texts != ""
                found[is_known] = texts[is_known].astype(np.float64)
                # Python reads 1_000, nan, and the digits and blanks of other scripts too.
                joined = "".join(texts)
                if np.isfinite(found[is_known]).all() and joined.isascii() and "_" not in joined:
                    return found
        point, group = re.escape(self.decimal or "."), self.thousands
        digits = r"\d+" if group is None else rf"(\d{{1,3}}({re.escape(group)}\d{{3}})+|\d+)"
        number = rf"[+-]?({digits}({point}\d*)?|{point}\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?"
        pattern = re.compile(
            rf"\s*(?P<number>{number})\s*{re.escape(unit)}\s*", re.ASCII | re.IGNORECASE
        )

        def parse(text: str) -> float:
            found = pattern.fullmatch(text)
            if found is None:
                return np.nan if unit else BOOLEANS.get(text, np.nan)
            plain = found["number"].replace(group or "\0", "")
            return float(plain.replace(self.decimal or ".", "."))

        return np.fromiter(map(parse, texts), np.float64, len(texts))

    def simplify(self, texts: Texts) -> Column:
        """Returns texts as numbers, if all that are not missing are numbers in any reading."""
        gaps = self.is_missing(texts, True)
        values = texts[~gaps]
        if not len(values) or not (values[0][0].isdigit() or values[0][0] in "+-. "):
            return texts
        found = self.to_numbers(values)
        is_code = any(value[0] == "0" and value[1:].isdigit() for value in values)
        if (
            is_code
            or np.isnan(found).any()
            or not are_plain(found)
            or is_one_of(values, BOOLEANS).any()
        ):
            return texts
        column = np.full(len(texts), np.nan)
        column[~gaps] = found
        return column


class Table:
    """The rows of files that have the same columns; each column is of numbers or of texts.

    Args:
        files: The files.
        names: The columns to keep.
        texts: Those whose values stay texts, numbers or not.

    Attributes:
        chunks: The rows, in their order.
        count: Rows of the first file.
    """

    def __init__(
        self, files: Sequence["TableFile"], names: Sequence[str], texts: Collection[str]
    ) -> None:
        parts = [list(join(file.chunks(names, texts, None))) for file in files]
        self.chunks = [chunk for part in parts for chunk in part]
        self.count = sum(map(count_rows, parts[0]))
        mixed = [name for name in names if len({chunk[name].dtype for chunk in self.chunks}) > 1]
        if mixed:
            again = [chunk for file in files for chunk in file.chunks(mixed, mixed, None)]
            columns = {name: np.concatenate([chunk[name] for chunk in again]) for name in mixed}
            start = 0
            for chunk in self.chunks:
                stop = start + count_rows(chunk)
                chunk.update({name: column[start:stop] for name, column in columns.items()})
                start = stop

    def __len__(self) -> int:
        return sum(map(count_rows, self.chunks))

    def take_chunks(self) -> Iterator[tuple[int, Chunk]]:
        """Yields rows, and the number of the first of them before; they leave the table."""
        self.chunks.reverse()
        start, size = 0, 4 * CHUNK  # rows that threads encode quickly
        while self.chunks:
            chunk = self.chunks.pop()
            for first in range(0, count_rows(chunk), size):
                part = {name: column[first : first + size] for name, column in chunk.items()}
                yield start + first, part
            start += count_rows(chunk)

    def __getitem__(self, name: str) -> Any:
        return np.concatenate([chunk[name] for chunk in self.chunks])


def count_rows(chunk: Chunk) -> int:
    return len(next(iter(chunk.values())))


def join(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Joins chunks to larger ones, whose numbers are one array: its memory is freed as a whole."""

    def kinds(chunk: Chunk) -> list[bool]:
        return [column.dtype == object for column in chunk.values()]

    for _, alike in groupby(chunks, kinds):
        while parts := [*islice(alike, JOINED)]:
            names = [name for name, column in parts[0].items() if column.dtype != object]
            numbers = np.empty((len(names), sum(map(count_rows, parts))))
            rows = dict(zip(names, numbers, strict=True))
            yield {
                name: np.concatenate([part[name] for part in parts], out=rows.get(name))
                for name in parts[0]
            }


class TableFile:
    """A file of columns with names: csv, perhaps compressed by gzip, bz2, xz or zip, or parquet.

    Args:
        path: The file. Its content tells how it is compressed, and not its name.
        form: How values are written.

    Attributes:
        names: Names of the columns.
        note: What was left out of the file, or empty.

    Raises:
        ValueError: it cannot be read, or can be read in two ways.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, form: Format) -> None:
        self.path, self.form, self.note = path, form, ""
        self.columns = slice(None)  # of a line
        self.plain: Plain | None = None
        with open_bytes(path) as file:
            self.is_parquet = file.read(4) == b"PAR1"
        try:
            if self.is_parquet:
                _, names = next(read_parquet(path))
                self.names, self.places = self._scan(iter([(1, names)]))
            elif plain := survey(path, form):
                self.plain = plain
                self.names, self.places = self._scan(iter([(1, plain.names)]), plain.filled)
            else:
                with closing(self._rows()) as rows:
                    self.names, self.places = self._scan(rows)
        except UnicodeError as error:
            wrong = getattr(error, "object", b"")[getattr(error, "start", 0) :][:1].hex()
            raise ValueError(
                f"{path} is not text in {form.encoding or 'utf-8'} (byte 0x{wrong}); "
                "data.encoding=cp1252 reads what Windows writes in western Europe, others are gbk, "
                "shift_jis, utf-16."
            ) from None
        except (csv.Error, EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError) as error:
            message = f"cannot be read as a csv table: {error}; correct it, or set data.separator"
            raise ValueError(f"{path} {message}.") from None

    def chunks(
        self, names: Iterable[str], texts: Collection[str] = (), size: int | None = CHUNK
    ) -> Iterator[Chunk]:
        """Yields the rows.

        Args:
            names: The columns to read.
            texts: Columns whose values stay texts, numbers or not.
            size: The most rows at once; None for as many as are read at once.
        """
        places = {name: self.places[name] for name in names}
        if self.is_parquet:
            blocks = self._read_parquet(places, texts)
        elif self.plain:
            blocks = self._read_plain(places, texts, self.plain.odd, BLOCK >> 3 if size else BLOCK)
        else:
            blocks = self._read_rows(places, texts)
        count = 0
        for block in blocks:
            count = count_rows(block)
            for start in range(0, count, size or count):
                stop = start + (size or count)
                yield {name: column[start:stop] for name, column in block.items()}
        if not count:
            self._refuse_empty()

    def _refuse_empty(self) -> NoReturn:
        message = "has no rows; it needs a line of column names and rows below it."
        raise ValueError(f"{self.path} {message}")

    def _read_rows(self, places: Mapping[str, int], texts: Collection[str]) -> Iterator[Chunk]:
        """Yields the rows of any csv file."""
        with closing(self._rows()) as rows:
            if self.form.header is not False:
                next(rows, None)
            while block := [row[self.columns] for _, row in islice(rows, CHUNK)]:
                columns = list(zip(*block, strict=True))
                found = {name: to_texts(columns[place]) for name, place in places.items()}
                yield {
                    name: column if name in texts else self.form.simplify(column)
                    for name, column in found.items()
                }

    def _read_plain(
        self, places: Mapping[str, int], texts: Collection[str], odd: Collection[int], size: int
    ) -> Iterator[Chunk]:
        """Yields the rows of a csv file in which pandas finds what `_read_rows` does."""
        likely = {place for name, place in places.items() if name not in texts and place not in odd}
        mixed: set[int] = set()  # columns that some block has shown to hold texts

        def read(block: bytes) -> Chunk:
            numeric = likely - mixed
            options: Any = {"float_precision": "round_trip"} if IS_OLD else {}
            options["dtype"] = {place: object for place in places.values() if place not in numeric}
            options["na_values"] = {place: [""] for place in numeric}
            frame = pd.read_csv(
                io.BytesIO(block),
                sep=self.form.separator,
                header=None,
                usecols=[*places.values()],
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                skip_blank_lines=False,
                **options,
            )
            columns: dict[Any, Any] = dict(frame.items())
            if others := {place for place in numeric if not is_plain(columns[place])}:
                mixed.update(others)
                return read(block)
            kinds = {place: np.float64 if place in numeric else object for place in places.values()}
            return {name: columns[place].to_numpy(kinds[place]) for name, place in places.items()}

        with open_bytes(self.path) as file:
            if self.form.header is not False:
                file.readline()
            yield from in_threads(read, read_lines(file, size), ahead=THREADS)

    def _read_parquet(self, places: Mapping[str, int], texts: Collection[str]) -> Iterator[Chunk]:
        """Yields the rows of a parquet file."""

        def read(name: str, column: Any) -> Column:
            values = column.to_pandas(integer_object_nulls=True)
            if name not in texts and is_plain(values):
                numbers: Floats = values.to_numpy(np.float64)
                return numbers
            return to_texts(map(str, values.astype(object).where(values.notna(), "")))

        for batch, _ in islice(read_parquet(self.path), 1, None):
            yield {name: read(name, batch.column(place)) for name, place in places.items()}

    def _rows(self) -> Generator[tuple[int, list[str]], None, None]:
        """Yields the number of each line, and its values."""
        encoding, comment = find_encoding(self.path, self.form), self.form.comment
        with open_bytes(self.path) as file, io.TextIOWrapper(file, encoding, newline="") as text:
            lines: Iterable[str] = text
            if comment:
                # An empty line in its place keeps the numbers of the others.
                lines = ("\n" if line.startswith(comment) else line for line in lines)
            if self.form.separator == " ":  # or several
                lines = (f"{line.strip()}\n" for line in lines)
            options: Any = {"delimiter": self.form.separator, "skipinitialspace": True}
            for row in (reader := csv.reader(lines, strict=True, **options)):
                if row and (len(row) > 1 or row[0].strip()):
                    yield reader.line_num, row

    def _scan(
        self, rows: Iterator[tuple[int, list[str]]], filled: Collection[int] = ()
    ) -> tuple[list[str], dict[str, int]]:
        """Returns the names of the columns and their places in a line, of which some are filled."""
        line, names = next(rows, (0, []))
        if not line:
            self._refuse_empty()
        named = self.form.header is not False
        if any("\0" in name for name in names):
            raise ValueError(
                f"{self.path} holds zero bytes; data.encoding=utf-16-le reads text of two bytes a "
                "character."
            )
        if named and names[0].startswith("#") and not self.form.comment:
            raise ValueError(
                f"{self.path} begins with {names[0]!r}; {spell('comment', '#')} leaves such lines "
                "out, or remove the sign if the line names the columns."
            )
        widths = {} if named else {len(names): line}
        filled = set(filled)  # columns with a value
        unnamed = [place for place, name in enumerate(names) if named and not name.strip()]
        trailing = counting = True
        last: int | None = None
        for line, row in rows:
            widths.setdefault(len(row), line)
            if len(row) == len(names) + 1:
                trailing = trailing and not row[-1]
                number = int(row[0]) if row[0].isdecimal() and row[0].isascii() else -2
                counting = counting and number == (number if last is None else last + 1) >= 0
                last = number
            filled.update(place for place in unnamed if place < len(row) and row[place])
        # A title may have commas and blanks, before lines of several values.
        likely = ";\t|, " if set(widths) <= {1} else ";\t|"
        signs = [sign for sign in likely if len(names) == 1 and sign in names[0].strip()]
        if signs:
            raise ValueError(
                f"{self.path} has one column, {names[0]!r}; {spell('separator', signs[0])} divides it."
            )
        self._check_widths(names, widths, trailing, counting)
        if not named:
            names = [f"c{number}" for number in range(1, len(names) + 1)]
        names = [name.strip() for name in names]
        if all(re.fullmatch("'[^']+'", name) for name in names):  # as some programs quote them
            names = [name[1:-1] for name in names]
        places: dict[str, int] = {}
        for place, name in enumerate(names):
            if name or place in filled:
                places.setdefault(name or f"Unnamed: {place}", place)
        twice = [name for name, count in Counter(names).items() if count > 1 and name]
        if twice:
            raise ValueError(
                f"{self.path}: the header names {twice[0]!r} twice; give each column a name of its "
                "own, or set data.header=false if the first line is a row."
            )
        return list(places), places

    def _check_widths(
        self, names: list[str], widths: Mapping[int, int], trailing: bool, counting: bool
    ) -> None:
        """Raises ValueError if lines have other numbers of values than the header."""
        count, extra = len(names), set(widths) == {len(names) + 1}
        if extra and trailing and not counting:
            self.columns = slice(count)
        elif extra and counting and not trailing:
            self.columns = slice(1, None)
            self.note = "its lines begin with the number of the row, which is left out"
        elif set(widths) == {count - 1} and not names[-1].strip():
            names.pop()
        elif set(widths) - {count}:
            self._refuse_widths(names, widths)

    def _refuse_widths(self, names: list[str], widths: Mapping[int, int]) -> NoReturn:
        count, extra = len(names), set(widths) == {len(names) + 1}
        line, width = min((line, width) for width, line in widths.items() if width != count)
        ways_out = "correct the file, or set data.separator or data.comment"
        if count == 1 or (len(widths) == 1 and not extra):  # the first line alone is different
            title = shlex.quote(str(self.path))
            ways_out = f"if the first line is a title, remove it, sed -i 1d {title}"
            if count == 1 and not names[0][0].isalnum():
                ways_out = f"if such lines are comments, {spell('comment', names[0][0])} skips them"
        elif extra:
            add = f"sed -i '1s/^/row{self.form.separator}/' {shlex.quote(str(self.path))}"
            ways_out = f"if they begin with names of rows, {add} names those too, and data.drop=[row] leaves them out"
        raise ValueError(
            f"{self.path} cannot be read as a csv table: line {line} has {width} values, and the "
            f"{'first line' if self.form.header is False else 'header'} {count}; {ways_out}."
        )


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file, and decompresses it if its first bytes say that it is compressed.

    Raises:
        ValueError: it is an archive of several files.
    """
    with path.open("rb") as file:
        start = file.read(6)
    for mark, open_packed in PACKED.items():
        if start.startswith(mark):
            packed: IO[bytes] = open_packed(path)
            return packed
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        raise ValueError(f"{path} is compressed by zstd, which is not read; unzstd it.")
    if not start.startswith(b"PK\3\4"):
        return path.open("rb")
    archive = zipfile.ZipFile(path)
    members = [name for name in archive.namelist() if not name.startswith("__") and name[-1] != "/"]
    if len(members) != 1:
        raise ValueError(
            f"{path} holds {len(members)} files ({shorten(members, 3)}); name one csv file. A "
            "spreadsheet saves a sheet as csv."
        )
    return archive.open(members[0])


def find_encoding(path: Path, form: Format) -> str:
    """Returns the encoding of a file: that of its byte order mark, or of the settings."""
    with open_bytes(path) as file:
        start = file.read(4)
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return form.encoding or "utf-8"


def read_lines(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yields whole lines, about so many bytes at once, each with its end."""
    while block := file.read(size):
        if not block.endswith(b"\n"):
            block += file.readline() or b"\n"
        if not block.endswith(b"\n"):
            block += b"\n"
        yield block.replace(b"\r\n", b"\n") if b"\r" in block else block


def in_threads(
    function: Callable[[T], U], blocks: Iterable[T], ahead: int = 4 * THREADS
) -> Iterator[U]:
    """Yields the value of a function for each block, in their order.

    Args:
        function: Is called in threads.
        blocks: Are read in this thread.
        ahead: Values that wait at most.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = deque[Future[U]]()
        for block in blocks:
            waiting.append(pool.submit(function, block))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Plain(NamedTuple):
    """A csv file without quotes, comments, blanks and uneven lines, which pandas reads quickly.

    Attributes:
        names: Values of the first line.
        filled: Places of the columns without a name that hold something.
        odd: Places of the columns with values such as 007 or nan, which pandas must not take for
            numbers.
    """

    names: list[str]
    filled: set[int]
    odd: set[int]


def survey(path: Path, form: Format) -> Plain | None:
    """Looks through a csv file, and returns None if it is not plain."""
    encoding, separator = find_encoding(path, form), form.separator
    is_usual = form.decimal in (".", None) and form.thousands is None and form.comment is None
    words = form.to_numbers(to_texts(form.missing_values or ()))
    if (
        not is_usual
        or separator == " "
        or not separator.isascii()
        or encoding not in UTF_8
        or not np.isnan(words).all()
    ):
        return None
    is_row = form.header is False
    with open_bytes(path) as file:
        first = next(read_lines(file, 1), b"")
        try:
            names = first.decode(encoding).removesuffix("\n").split(separator)
        except UnicodeError:
            return None
        if len(names) < 2 or has_marks(first) or (is_row and encoding != "utf-8"):
            return None
        found = Plain(names, set(), set())
        unnamed = [place for place, name in enumerate(names) if not is_row and not name.strip()]
        look = partial(
            look_through,
            encoding=encoding,
            separator=separator,
            width=len(names),
            unnamed=unnamed,
        )
        blocks = chain([first] if is_row else [], read_lines(file, max(1, BLOCK >> 5)))
        for places in in_threads(look, blocks):
            if places is None:
                return None
            found.filled.update(places[0])
            found.odd.update(places[1])
    return found


def look_through(
    block: bytes, encoding: str, separator: str, width: int, unnamed: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """Returns the places of `Plain.filled` and `Plain.odd` in lines; None if they are not plain."""
    try:
        if not block.isascii():
            block.decode(encoding)
    except UnicodeError:
        return None
    signs = np.frombuffer(b"\n" + block, dtype=np.uint8)
    is_separator, is_end = signs == ord(separator), signs == ord("\n")
    ends = np.flatnonzero(is_end)
    counts = np.add.reduceat(is_separator.view(np.uint8), ends[:-1], dtype=np.uint32)
    is_mark = is_separator | is_end
    begins, first = is_mark[:-1], signs[1:]
    has_blanks = b" " in block and bool((begins & (first == ord(" "))).any())
    if has_marks(block) or has_blanks or (counts != width - 1).any():
        return None
    is_odd = begins[:-1] & (first[:-1] == ord("0")) & (first[1:] - np.uint8(ord("0")) < 10)
    if b"n" in block or b"N" in block:
        is_letter = (first | 32) == ord("n")
        is_signed = begins[:-1] & ((first[:-1] == ord("+")) | (first[:-1] == ord("-")))
        is_odd |= (begins & is_letter)[:-1] | (is_signed & is_letter[1:])
    odd, filled = np.flatnonzero(is_odd), []
    if len(odd) or unnamed:
        marks = np.flatnonzero(is_mark)  # before each value, and at the end
        odd = np.unique(np.searchsorted(marks, odd) % width)
        sizes = np.diff(marks).reshape(-1, width)
        filled = [place for place in unnamed if sizes[:, place].max() > 1]
    return filled, odd.tolist()


def has_marks(block: bytes) -> bool:
    return any(sign in block for sign in (b'"', b"\0", b"\r"))


def read_parquet(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """Yields an empty table, then the rows of a parquet file; each with the names of its columns.

    Raises:
        ValueError: pyarrow is not installed, or the file is damaged.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f'{path} needs pyarrow; pip install -e ".[parquet]".') from None
    # So that a group of rows is read piece by piece.
    with parquet.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
        # An index without a name is none of the columns; one with a name is, where it was stored.
        named = [
            (place, name)
            for place, name in enumerate(file.schema_arrow.names)
            if not name.startswith("__index_level_")
        ]
        places, names = map(list, zip(*named, strict=True)) if named else ([], [])
        batches = file.iter_batches(max(CHUNK, (1 << 21) // max(1, len(names))))
        for batch in chain([file.schema_arrow.empty_table()], batches):
            yield batch.select(places), names


def are_plain(numbers: Floats) -> bool:
    """Whether some are numbers, and all others missing; infinite and very large ones are not plain."""
    return bool(np.fmax.reduce(np.abs(numbers), initial=np.nan) < EXACT)


def is_plain(column: Any) -> bool:
    return column.dtype.kind in "iuf" and are_plain(column.to_numpy(np.float64))


def is_one_of(texts: Texts, words: Iterable[str]) -> NDArray[np.bool_]:
    return pd.Series(texts, dtype=object).isin([*words]).to_numpy()


def to_texts(values: Iterable[str]) -> Texts:
    texts = list(values)
    made = np.empty(len(texts), dtype=object)
    made[:] = texts
    return made


def spell(key: str, *values: Any) -> str:
    """Returns a setting of the data as it is typed into a shell: ``data.decimal=','``.

    Args:
        key: In the data group.
        values: Its value; several, or one in a list for a key that takes a list.
    """

    def quote(value: Any) -> str:
        text = format_value(value, 10_000).replace("\t", "\\t")
        if re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII):
            return text
        return "'" + text.replace("'", "\\'") + "'"

    is_list = key in ("drop", "features", "categories", "numbers", "missing_values")
    joined = ",".join(map(quote, values))
    text = f"data.{key}=[{joined}]" if is_list else f"data.{key}={joined}"
    if re.fullmatch(r"[\w.=,\[\]]+", text, re.ASCII):
        return text
    return shlex.quote(text) if re.search(r'[$`"]', text) else f'"{text}"'


# What a column holds


def find_kind(
    title: str,
    name: str,
    texts: Column,
    form: Format,
    lists: Mapping[str, Sequence[str]],
    is_target: bool = False,
) -> tuple[str, str]:
    """Decides what a column holds: ``number``, ``category`` or ``nothing``; and the unit of numbers.

    Args:
        title: The column, for messages.
        name: Of the column.
        texts: Its values.
        form: How values are written.
        lists: The settings ``drop``, ``categories`` and ``numbers``, which name columns.
        is_target: Whether it is a target, which must hold numbers.

    Raises:
        ValueError: its values may be numbers or something else; the message has the ways out.
    """
    if name in lists["categories"] and not is_target:
        return "category", ""
    if texts.dtype != object:
        return "number", ""
    tally = pd.Series(texts).value_counts(sort=False)
    given = tally.index.to_numpy(dtype=object)
    is_known = ~form.is_missing(given, True)
    values, counts = given[is_known], tally.to_numpy()[is_known]
    if not len(values):
        return ("category" if len(given) > 1 else "nothing"), ""

    def refuse(what: str, *ways_out: str) -> NoReturn:
        others = [
            f"{spell('categories', *lists['categories'], name)} takes its values for categories",
            f"{spell('drop', *lists['drop'], name)} leaves the column out",
        ]
        if is_target:
            others = ["data/task=multiclass takes its values for classes"]
        raise ValueError(f"{title} {what}; {join_or([*filter(None, ways_out), *others])}.")

    found, is_sure = form.to_numbers(values), name in lists["numbers"]
    is_odd = is_one_of(values, BOOLEANS).any() and not np.isin(found, (0, 1)).all()
    if not np.isnan(found).any() and not is_odd:
        codes = [value for value in values if value[0] == "0" and value[1:].isdigit()]
        if codes and not is_sure:
            way_out = f"{spell('numbers', *lists['numbers'], name)} takes them for numbers"
            refuse(f"holds {codes[0]!r}, a code or a number", way_out)
        for value in values[np.abs(found) >= EXACT]:
            if re.fullmatch(r"[+-]?\d+", value) and int(value) != float(value):
                refuse(f"holds {value!r}, a whole number that a 64-bit float cannot hold")
        return "number", ""
    ends = {re.sub(r".*\d[.,]?\s*", "", value, flags=re.DOTALL).strip() for value in values}
    if (
        len(ends) == 1
        and (unit := ends.pop())
        and not np.isnan(form.to_numbers(values, unit)).any()
    ):
        if unit != "%" and not is_sure:
            way_out = f"{spell('numbers', *lists['numbers'], name)} takes the numbers before it"
            refuse(f"holds numbers that end in {unit!r}, such as {values[0]!r}", way_out)
        return "number", unit
    is_date = np.array([bool(DATE.fullmatch(value.strip())) for value in values])
    like = np.array([bool(LIKE_NUMBER.fullmatch(value.strip())) for value in values]) & ~is_date
    half = counts.sum() / 2
    if counts[is_date].sum() >= half:
        example = values[is_date][0]
        is_ordered = not is_target and re.match(r"\d{4}[-/]", example)
        way_out = f"{spell('order', name)} divides the rows by it" if is_ordered else ""
        refuse(f"holds dates or times, such as {example!r}", way_out)
    if counts[like].sum() < half and not is_sure:
        return "category", ""
    others = values[np.isnan(found)]
    way_out = _spell_signs(values, form)
    if not way_out and len(others) <= 8:
        old = form.missing_values or [word for word in given if word in MISSING - {""}]
        way_out = f"{spell('missing_values', *old, *others)} takes it for missing"
    shown = shorten(map(repr, others), 3)
    return refuse(
        f"is text, for it holds {shown}, and most of its values look like numbers", way_out
    )


def _spell_signs(values: Texts, form: Format) -> str:
    """Returns settings with which all values are numbers, or an empty text."""
    found = []
    signs = sorted({sign for value in values for sign in value if not sign.isalnum()} - {*"+-%"})
    for decimal in (".", ","):
        for thousands in (None, *(sign for sign in signs if sign != decimal)):
            other = form._replace(decimal=decimal, thousands=thousands)
            units = (other.to_numbers(values, unit) for unit in ("", "%"))
            if any(not np.isnan(numbers).any() for numbers in units):
                pairs = zip(form._asdict().items(), other, strict=True)
                found.append(" ".join(spell(key, new) for (key, old), new in pairs if new != old))
    fewest = min((text.count("data.") for text in found), default=0)
    found = [text for text in found if text.count("data.") == fewest]
    return f"{' or '.join(found)} reads them as numbers" if found else ""
