"""A figure as the bytes of its files, kept small: PNG with a palette, SVG whose dense parts are pixels.

The repository keeps every version of every picture. Letters are never turned into pixels in an SVG.
"""

from __future__ import annotations

import heapq
import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

DPI = 150
MOST = 500_000  # bytes of one file


def files(figure: Figure, name: str, most: int = MOST) -> dict[str, bytes]:
    """The figure as "png" and "svg", the same bytes for the same figure, each below `most` bytes if that can be had.

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
            written = io.BytesIO()
            _few(flat, colours).save(written, "png", optimize=True, dpi=(dpi, dpi))
            if written.tell() <= most:
                return written.getvalue()
    return written.getvalue()


def _few(picture: Image.Image, colours: int) -> Image.Image:
    """The picture with a palette: its commonest colours exactly, so that fills and lines keep theirs, and as many that
    are spread over all it has, for the shades between and at the edges of letters and lines. Each pixel gets the
    nearest of them."""
    half = colours // 2
    counts: list[tuple[int, Any]] = picture.getcolors(2**24) or []
    most = heapq.nsmallest(colours if len(counts) <= colours else half, counts, key=lambda one: (-one[0], one[1]))
    times, found = np.array([count for count, _ in counts]), np.array([colour for _, colour in counts], np.float32)
    palette = np.array([colour for _, colour in most], np.float32)
    if len(counts) > colours:
        method = Image.Quantize.MAXCOVERAGE if len(counts) < 30_000 else Image.Quantize.FASTOCTREE  # minutes, for noise
        spread = picture.quantize(half, method=method, dither=Image.Dither.NONE).getpalette() or []
        palette = np.concatenate([palette, np.reshape(spread, (-1, 3)).astype(np.float32)])
        for _ in range(2):  # steps of Lloyd's algorithm, which leave the commonest alone
            near = _nearest(found, palette)
            pixels = np.bincount(near, times, len(palette))
            means = [np.bincount(near, times * channel, len(palette)) / np.maximum(pixels, 1) for channel in found.T]
            moved = (np.arange(len(palette)) >= half) & (pixels > 0)
            palette = np.where(moved[:, None], np.round(np.stack(means, 1)), palette).astype(np.float32)
    places = np.zeros(2**24, np.uint8)
    places[_packed(found)] = _nearest(found, palette)
    small = Image.fromarray(places[_packed(np.asarray(picture))])
    small.putpalette(palette.astype(np.uint8).tobytes())
    return small


def _nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The place in the palette of the colour nearest to each, (colour,)."""
    parts = np.array_split(colours, len(colours) // 4096 + 1)
    return np.concatenate([((part[:, None] - palette) ** 2).sum(-1).argmin(1) for part in parts])


def _packed(colours: np.ndarray) -> np.ndarray:
    """(..., 3) of 0 to 255 as one number each."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def _svg(figure: Figure, most: int) -> bytes:
    costs = {ax: {artist: _bytes(artist) for artist in (*ax.lines, *ax.collections, *ax.patches, *ax.images)}
             for ax in figure.findobj(Axes)}  # fmt: skip
    before = {artist: artist.get_rasterized() for own in costs.values() for artist in own}
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")  # it has been laid out, for the PNG
    few = sum(sum(own.values()) for own in costs.values()) < most // 2
    try:
        for dense, dpi in (*((most, DPI),) * few, (most // 12, DPI), (most // 100, DPI), (0, 100), (0, 72)):
            for own in costs.values():
                if sum(own.values()) > dense:
                    for artist in own:
                        artist.set_rasterized(before[artist] or own[artist] > dense // 100)
            held = io.BytesIO()
            figure.savefig(held, format="svg", dpi=dpi, metadata={"Date": None})
            if held.tell() <= most:
                break
        return held.getvalue()
    finally:
        for artist, was in before.items():
            artist.set_rasterized(was)
        figure.set_layout_engine(engine)


def _bytes(artist: Artist) -> int:
    """About how long an artist is in an SVG; 0 where it is to stay as it is."""
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
    if isinstance(artist, AxesImage):
        return 4 * int(np.prod(artist.get_size()))
    if isinstance(artist, Patch):
        return 150 + 20 * len(artist.get_path().vertices)
    return 0
