"""Text that comes from elsewhere (a database, another program's error), made safe to print."""

import re
import unicodedata

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


def without_credentials(text: str) -> str:
    """The text with user names and passwords of the URLs in it as ***."""
    return _CREDENTIALS.sub("***@", text)
