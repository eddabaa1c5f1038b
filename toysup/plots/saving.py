"""A figure as the bytes of its files, kept small: PNG with a palette, SVG whose dense parts are pixels.

The repository keeps every version of every picture. Letters are never turned into pixels in an SVG.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

DPI = 150
MOST = 500_000  # bytes of one file
DENSE = 60_000  # bytes of one panel's lines, marks and boxes, beyond which they become pixels


def files(figure: Figure, name: str, most: int = MOST) -> dict[str, bytes]:
    """ "png" and "svg" of the figure, the same bytes for the same figure, each below `most` bytes if that can be had.

    A PNG too large gets fewer colours, then fewer pixels; an SVG has its densest panels, then all, turned into pixels.
    """
    with mpl.rc_context({"svg.hashsalt": name}):
        return {"png": _png(figure, most), "svg": _svg(figure, most)}


def _png(figure: Figure, most: int) -> bytes:
    for dpi in (DPI, 120, 100, 72):
        held = io.BytesIO()
        figure.savefig(held, format="png", dpi=dpi)
        picture = Image.open(held).convert("RGBA")
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture.getchannel("A"))
        for colours in (256, 64):
            small = flat.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            written = io.BytesIO()  # white stays white, and rare colours keep a place: median cut drops them
            small.save(written, "png", optimize=True, dpi=(dpi, dpi))
            if written.tell() <= most:
                return written.getvalue()
    return written.getvalue()


def _svg(figure: Figure, most: int) -> bytes:
    before: dict[Artist, bool | None] = {}
    try:
        for dense, dpi in ((DENSE, DPI), (DENSE // 4, DPI), (0, DPI), (0, 100), (0, 72)):
            for artist in _dense(figure, dense):
                before.setdefault(artist, artist.get_rasterized())
                artist.set_rasterized(True)
            held = io.BytesIO()
            figure.savefig(held, format="svg", dpi=dpi, metadata={"Date": None})
            if held.tell() <= most:
                break
        return held.getvalue()
    finally:
        for artist, was in before.items():
            artist.set_rasterized(was)


def _dense(figure: Figure, most: int) -> Iterator[Artist]:
    """What to turn into pixels: the artists that matter, in panels that hold more than `most` bytes."""
    for ax in figure.findobj(Axes):
        costs = {artist: _bytes(artist) for artist in (*ax.lines, *ax.collections, *ax.patches)}
        if sum(costs.values()) > most:
            yield from (artist for artist, cost in costs.items() if cost > most / 100)


def _bytes(artist: Artist) -> int:
    """About how long an artist is in an SVG."""
    if artist.get_rasterized() or not artist.get_visible():
        return 0
    if isinstance(artist, Line2D):
        points = len(artist.get_xdata(orig=False))
        marked = artist.get_marker() not in ("None", "none", "", " ", None) and artist.get_markevery() is None
        return points * (110 * marked + 20 * (artist.get_linestyle() not in ("None", "none", "", " ")))
    if isinstance(artist, QuadMesh):
        return 250 * np.size(artist.get_array())
    if isinstance(artist, Collection):
        paths = artist.get_paths()
        return 130 * max(len(paths), len(artist.get_offsets())) + 20 * sum(len(path.vertices) for path in paths)
    if isinstance(artist, Patch):
        return 150 + 20 * len(artist.get_path().vertices)
    return 0
