"""mypy, and a ratchet: no package may have more type errors than types.txt says; one that isn't listed has none.

python .ci/ratchet.py             compares
python .ci/ratchet.py --write     makes types.txt anew, after errors were mended or code moved elsewhere
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
LISTED = HERE / "types.txt"


def main() -> str | None:
    """What is wrong, if anything is."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", "--hide-error-context"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    if done.returncode not in (0, 1) or done.stderr:
        return f"mypy did not run through:\n{done.stdout}{done.stderr}"
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    found = Counter(map(package, errors))
    if "--write" in sys.argv:
        LISTED.write_text("".join(f"{name} {number}\n" for name, number in sorted(found.items())))
    allowed = Counter({name: int(number) for name, number in map(str.split, LISTED.read_text().splitlines())})
    more, fewer = found - allowed, allowed - found
    print("\n".join(line for line in errors if package(line) in more), end="\n" if more else "")
    for name in fewer:
        print(f"types: {name} has {found[name]} errors, no longer {allowed[name]}: python .ci/ratchet.py --write")
    print(f"types: {found.total()} errors, {allowed.total()} allowed")
    if more:
        return "types: more errors than before in " + ", ".join(f"{n} ({found[n]}, not {allowed[n]})" for n in more)
    return None


def package(line: str) -> str:
    """toysup/stats of an error in toysup/stats/peaks.py, toysup/grid.py of one in toysup/grid.py."""
    return "/".join(Path(line.partition(":")[0]).parts[:2])


if __name__ == "__main__":
    sys.exit(main())
