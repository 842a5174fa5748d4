"""Table files, read the same way everywhere: as texts, whose meaning is decided once for a column."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import shlex
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from quartet.core.messages import format_value, join_or, shorten

Texts = NDArray[np.object_]
Floats = NDArray[np.float64]
Table = dict[str, Texts]  # by the names of the columns

PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
CHUNK = 8192  # rows that are read at once
# What stands for a missing value in a column of numbers, unless a setting says otherwise.
MISSING = {"", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None"}
EXACT = 2.0**53  # beyond it 64-bit floats skip whole numbers
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

    def is_missing(self, texts: Texts, of_numbers: bool) -> NDArray[np.bool_]:
        """Returns which values are missing in a column of numbers, or of texts."""
        words = {"", *(self.missing_values or ())}
        if self.missing_values is None and of_numbers:
            words = MISSING
        return is_one_of(texts, words)

    def to_numbers(self, texts: Texts, unit: str = "") -> Floats:
        """Returns the numbers that texts are before a unit, true and false as 1 and 0, else NaN."""
        if not unit and self.thousands is None and self.decimal in (".", None):
            with suppress(ValueError):
                found, is_known = np.full(len(texts), np.nan), texts != ""
                found[is_known] = texts[is_known].astype(np.float64)
                # Python reads 1_000 and nan too.
                if np.isfinite(found[is_known]).all() and "_" not in "".join(texts):
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
        try:
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

    def chunks(self, size: int = CHUNK) -> Iterator[Table]:
        """Yields the rows, so many at once."""
        with closing(self._rows()) as rows:
            if self.form.header is not False:
                next(rows, None)
            columns: list[Any] = []
            while block := [row[self.columns] for _, row in islice(rows, size)]:
                columns = list(zip(*block, strict=True))
                yield {name: to_texts(columns[place]) for name, place in self.places.items()}
        if not columns:
            message = "has no rows; it needs a line of column names and rows below it."
            raise ValueError(f"{self.path} {message}")

    def read(self) -> Table:
        """Returns all rows."""
        blocks = list(self.chunks())
        return {name: np.concatenate([block[name] for block in blocks]) for name in self.names}

    def _rows(self) -> Generator[tuple[int, list[str]], None, None]:
        """Yields the number of each line, and its values."""
        with open_bytes(self.path) as file:
            start = file.read(4)
        if start == b"PAR1":
            yield from enumerate(read_parquet(self.path), 1)
            return
        encoding, comment = self.form.encoding or "utf-8", self.form.comment
        if start.startswith(codecs.BOM_UTF8):
            encoding = "utf-8-sig"
        elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-16"
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

    def _scan(self, rows: Iterator[tuple[int, list[str]]]) -> tuple[list[str], dict[str, int]]:
        """Reads the file once, and returns the names of its columns and their places in a line."""
        line, names = next(rows, (1, [""]))
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
        filled: set[int] = set()  # columns with a value, of those without a name
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
        self._check_widths(names, widths, trailing, counting)
        signs = [sign for sign in ";\t|, " if len(names) == 1 and sign in names[0].strip()]
        if signs:
            raise ValueError(
                f"{self.path} has one column, {names[0]!r}; {spell('separator', signs[0])} divides it."
            )
        if not named:
            names = [f"c{number}" for number in range(1, len(names) + 1)]
        names = [name.strip() for name in names]
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
        if count == 1:
            title = shlex.quote(str(self.path))
            ways_out = f"if the first line is a title, remove it, sed -i 1d {title}"
            if not names[0][0].isalnum():
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


def read_parquet(path: Path) -> Iterator[list[str]]:
    """Yields the names of the columns and the rows of a parquet file, as a csv file has them.

    Raises:
        ValueError: pyarrow is not installed, or the file is damaged.
    """
    try:
        frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError:
        raise ValueError(f'{path} needs pyarrow; pip install -e ".[parquet]".') from None
    if frame.index.name is not None:
        frame = frame.reset_index()
    yield list(map(str, frame))
    columns = (frame[name].astype(object).where(frame[name].notna(), "") for name in frame)
    yield from map(list, zip(*(map(str, column) for column in columns), strict=True))


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
    texts: Texts,
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
