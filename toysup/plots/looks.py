"""Colours and markers, and how much room a text takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib import cbook
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from toysup.checks import InputError

MARKERS = "osD^vP*Xhd"
LINES = ("-", "--", ":", "-.")
GREY = "0.35"


def category_colours(names: Iterable[Any]) -> dict[Any, tuple[float, float, float]]:
    """One colour-blind-safe colour for each distinct name, in the order of appearance; at most 10."""
    distinct = list(dict.fromkeys(names))
    import seaborn as sns  # which loads much

    palette = sns.color_palette("colorblind", 10)
    if len(distinct) > len(palette):
        raise InputError(f"category_colours: expected at most {len(palette)} names, got {len(distinct)}")
    return dict(zip(distinct, palette, strict=False))


def shown(name: Any) -> str:
    """What a legend calls it: matplotlib leaves out labels that are empty or begin with _, unless something invisible
    comes first."""
    text = str(name)
    return f"\u200b{text}" if not text or text.startswith("_") else text


def chosen(word: str, names: Iterable[Any], given: Mapping[Any, Any] | None, default: Mapping[Any, Any]) -> dict:
    """A look for each name: the given one, which must have them all, or the default."""
    names = list(dict.fromkeys(names))
    if given is None:
        return {name: default[name] for name in names}
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"{word}: no look for {missing[0]!r}, only for {list(given)}")
    return {name: given[name] for name in names}


def room(where: Axes | Figure | SubFigure) -> tuple[float, float]:
    """Width and height in points; of a panel, before the layout has moved it."""
    figure = where.figure if isinstance(where, Axes) else where
    return where.bbox.width * 72 / figure.dpi, where.bbox.height * 72 / figure.dpi


def width_of(text: str, size: float) -> float:
    """How wide the longest line is, in points."""
    font = FontProperties(size=size)
    widths = [0.0]
    for line in text.split("\n"):
        try:
            widths.append(TextToPath().get_text_width_height_descent(line, font, bool(cbook.is_math_text(line)))[0])
        except (TypeError, ValueError):  # cannot be drawn, which `report.write` says better
            widths.append(0.6 * size * len(line))
    return max(widths)


def wrapped(text: str, size: float, width: float) -> str:
    """The text in as few lines of at most `width` points as it takes, of about one length; line breaks and math are
    kept, and a word that is too long stands alone."""
    return "\n".join(_paragraph(part, size, width) for part in text.split("\n"))


def _paragraph(text: str, size: float, width: float) -> str:
    words = re.findall(r"(?:\$[^$]*\$|\S)+" if cbook.is_math_text(text) else r"\S+", text)
    lengths, space = [width_of(word, size) for word in words], width_of("a a", size) - width_of("aa", size)

    def filled(width: float) -> list[str]:
        lines: list[list[str]] = []
        at = 0.0
        for word, length in zip(words, lengths, strict=True):
            if lines and at + space + length <= width:
                lines[-1].append(word)
                at += space + length
            else:
                lines.append([word])
                at = length
        return [" ".join(line) for line in lines]

    fewest = filled(width)
    for share in (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        if len(even := filled(share * width)) == len(fewest):
            return "\n".join(even)
    return "\n".join(fewest)
