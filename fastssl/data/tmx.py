"""Translation memories (TMX): units of one text in several languages."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from fastssl.data.storage import Stream, open_unpacked

SUFFIX = ".tmx"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_BLOCK = 2**20


def tmx_pairs(
    place: str, source: str | None = None, target: str | None = None
) -> tuple[list[tuple[int, str, str]], dict[str, int]]:
    """The number of a unit and its texts in two languages, and how many units lack one of them, by what they lack.

    Codes of markup within a text (``bpt``, ``ept``, ``it``, ``ph``, ``ut``) are left out. A unit with several texts in
    a language is a pair for each.

    Args:
        place: path or URL of the file.
        source, target: languages ("de", which "de-AT" is, too); None: the source is that of the heading
            (``srclang``), else the first one in the file, the target the only other one.

    Raises:
        ValueError: no XML, none of TMX, a language that is not there, or one of several that is not named.
    """
    said, units = _units(place)
    there = list(dict.fromkeys(language for unit in units for language, _ in unit))
    if not there:
        raise ValueError(f"{place}: expected units of translations (tu, tuv, seg), found none")
    for role, wanted in (("source", source), ("target", target)):
        if wanted is not None and not any(_is(language, wanted) for language in there):
            raise ValueError(f"{role}: expected a language of {place} ({', '.join(there)}), got {wanted!r}")
    said = said if any(_is(language, said) for language in there) else there[0]
    first = source or (said if target is None or not _is(said, target) else None)
    others = [language for language in there if not _is(language, first or target or "")]
    first, second = first or _only(place, "source", others), target or _only(place, "target", others)
    pairs, missing = list[tuple[int, str, str]](), 0
    for number, unit in enumerate(units, 1):
        one, other = ([text for language, text in unit if _is(language, wanted)] for wanted in (first, second))
        pairs += [(number, *both) for both in itertools.product(one, other)]
        missing += not (one and other)
    return pairs, {f"units without {first} or {second}": missing} if missing else {}


def _units(place: str) -> tuple[str, list[list[tuple[str, str]]]]:
    """The language of the heading, "" if it says none, and the languages and texts of every unit."""
    said, units, root = "", [], None
    try:
        with io.BufferedReader(Stream(open_unpacked(place)), _BLOCK) as file:
            for event, element in ElementTree.iterparse(file, ("start", "end")):
                kind = _name(element)
                if root is None:
                    root = kind
                elif event == "end" and kind == "header":
                    said = element.get("srclang", "")
                elif event == "end" and kind == "tu":
                    variants = [one for one in element if _name(one) == "tuv"]
                    texts = [(_language(one), seg) for one in variants for seg in one if _name(seg) == "seg"]
                    units.append([(language, _text(seg)) for language, seg in texts])
                    element.clear()
    except ElementTree.ParseError as error:
        raise ValueError(f"{place}: no XML ({error})") from error
    if root != "tmx":
        raise ValueError(f"{place}: expected a translation memory (tmx), got XML of {root!r}")
    return said, units


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]  # without the namespace


def _language(variant: Element) -> str:
    return _code(variant.get(_LANG) or variant.get("lang") or "")  # the second: of TMX 1.1


def _code(language: str) -> str:
    return language.lower().replace("_", "-")


def _text(element: Element) -> str:
    """The text of a segment, with that of highlighted parts and without codes of markup."""
    parts = ((_text(one) if _name(one) == "hi" else "") + (one.tail or "") for one in element)
    return (element.text or "") + "".join(parts)


def _is(language: str, wanted: str) -> bool:
    """Whether a language is the wanted one, or one of its variants."""
    asked = _code(wanted)
    return language == asked or (bool(asked) and language.startswith(f"{asked}-"))


def _only(place: str, role: str, languages: Iterable[str]) -> str:
    """The only language that there is to choose."""
    found = list(languages)
    if len(found) != 1:
        raise ValueError(
            f"{role}: expected the name of a language of {place}, which has {', '.join(found) or 'none'} to choose "
            "from; it is named #source=de:target=en"
        )
    return found[0]
