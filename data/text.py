"""The text policy: what happens to a document before it is tokenized. Nothing is silent.

Repairs keep the document and are counted by name:

- `invalid_utf8`: bytes that are no UTF-8 become U+FFFD, one for each maximal invalid run;
- `lone_surrogate`: half a surrogate pair (a JSON escape such as "\\ud800") becomes U+FFFD;
- `bom`: a leading U+FEFF is removed;
- `nul`: U+0000 is removed, wherever it stands;
- `split`: a document over the corpus' `split_bytes` becomes several of at most that many bytes.

Drops leave a document out and are counted by name: `empty` (nothing but white space), `too_short`
and `too_long` (the corpus' own filters), `malformed` (a record that is no JSON object or has no
text), `line_too_long` (a JSON line over `readers.LINE_BYTES`), `corrupt_file` (the rest of a
damaged file).
"""

from collections.abc import Iterator
from typing import IO, NamedTuple


class Document(NamedTuple):
    """Clean text: valid Unicode without NUL, its UTF-8 bytes, and the repairs that made it so."""

    text: str
    data: bytes
    repairs: tuple[str, ...]


def clean(raw: bytes | str) -> Document:
    repairs = []
    if isinstance(raw, bytes):
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode(errors="replace")
            repairs.append("invalid_utf8")
    else:
        try:
            raw.encode()
            text = raw
        except UnicodeEncodeError:
            # A high and a low half that meet are one character; what stays alone is replaced.
            text = raw.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            repairs.append("lone_surrogate")
    if text.startswith("\ufeff"):
        text = text.removeprefix("\ufeff")
        repairs.append("bom")
    if "\0" in text:
        text = text.replace("\0", "")
        repairs.append("nul")
    data = raw if isinstance(raw, bytes) and not repairs else text.encode()
    return Document(text, data, tuple(repairs))


def split(file: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield all of `file` in parts of at most `max_bytes`, holding no more than two at once.

    A part ends after a newline where it has one, else between two UTF-8 characters. An empty file
    is one empty part.
    """
    part = file.read(max_bytes + 1)
    while len(part) > max_bytes:
        cut = _cut(part, max_bytes)
        yield part[:cut]
        part = part[cut:] + file.read(max_bytes + 1 - len(part) + cut)
    yield part


def _cut(part: bytes, max_bytes: int) -> int:
    if cut := part.rfind(b"\n", 0, max_bytes) + 1:
        return cut
    for cut in range(max_bytes, max(max_bytes - 4, 0), -1):
        if part[cut] & 0xC0 != 0x80:  # not a continuation byte: a character begins here
            return cut
    return max_bytes
