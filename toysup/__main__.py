"""Lists every experiment with its question, cost and latest verdict; with --gallery writes figures/README.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from toysup.checks import InputError
from toysup.gallery import entries, listing, page
from toysup.report import say
from toysup.whole import write_whole


@dataclass(frozen=True)
class Options:
    gallery: Annotated[bool, tyro.conf.arg(help="write figures/README.md, the page of pictures")] = False
    root: Annotated[Path, tyro.conf.arg(metavar="DIR", help="the checkout; this package's own unless given")] = Path(
        __file__
    ).parent.parent


def main(argv: list[str] | None = None) -> None:
    """List the experiments or write the gallery; one line on standard error and code 2 where that can't be done."""
    options = tyro.cli(
        Options, prog="python -m toysup", description=__doc__, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        found = entries(options.root)
        if options.gallery:
            target = options.root / "figures" / "README.md"
            write_whole({target: page(found).encode()})
            say(str(target))
        else:
            say(listing(found).rstrip("\n"))
    except InputError as error:
        print(f"toysup: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
