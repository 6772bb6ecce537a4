"""Write Vega, which draws the plots in a browser, to where the page of `dvc plots` looks for it: .dvc/plots/page.html.

python -m ci.vega
"""

from pathlib import Path

import vl_convert

from faces.cli import run
from faces.files import write_atomically

VEGA = Path(".venv/vega.js")


def main() -> None:
    """Write Vega, Vega-Lite and Vega-Embed as one file; they come with a package that requirements.txt pins."""
    write_atomically(VEGA, vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").encode())


if __name__ == "__main__":
    run(main)
