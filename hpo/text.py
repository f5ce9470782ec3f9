"""Text made fit to print: safe where it comes from elsewhere (a database, another program's error), lists short."""

import re
import unicodedata
from collections.abc import Sequence

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories: control, format, surrogate, line, paragraph
_CREDENTIALS = re.compile(r"(?<=://)[^\s\"']*@")


def visible(text: str) -> str:
    r"""The text with \x1b and the like for what a terminal would obey and not show: ESC, backspace, bidi marks.

    Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _UNSEEN and character not in "\n\t"
        else character
        for character in text
    )


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: what a shell gives need not be, its bytes then are surrogates here."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def exception_of(error: str) -> str:
    """Of a traceback the line that names the exception, whose message may have more; else the last line.

    What CUDA raises ends with advice on how to compile it.
    """
    lines = [line for line in error.splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    after = lines[frames[-1] :] if frames else lines[-1:]
    named = [line for line in after if not line[0].isspace()] or lines[-1:]
    return named[0].strip() if named else ""


def without_credentials(text: str) -> str:
    """The text with user names and passwords of the URLs in it as ***."""
    return _CREDENTIALS.sub("***@", text)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names with commas between them; of more than `most` the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
