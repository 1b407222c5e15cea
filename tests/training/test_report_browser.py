"""The page in a real browser: it fits a laptop and a phone, and follows light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from itertools import product
from pathlib import Path

import pytest

from tests.reports import measured, page_of_all
from training.report.tables import tables

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"laptop": 1280, "phone": 390}
SCHEMES = ("light", "dark")
# Frames of the widths in one window, and what their pages measure, as text for --dump-dom.
FRAMES = """<!doctype html>{frames}<pre id="out"></pre><script>
addEventListener("load", () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, view = frame.contentWindow;
    const seen = [...page.querySelectorAll("svg, figure, table, h2, p, img, .map, .dot, .bars")]
      .filter((one) => one.getClientRects().length && !one.closest(".scroll"));
    const dot = page.querySelector(".dot"), shown = (kind) =>
      [...page.querySelectorAll("svg." + kind)]
        .filter((one) => one.getClientRects().length && !one.closest("details")).length;
    found[frame.name] = {{
      wide: page.documentElement.scrollWidth,
      outside: seen.filter((one) => one.getBoundingClientRect().right > view.innerWidth)
        .map((one) => one.outerHTML.slice(0, 80)),
      page: view.getComputedStyle(page.body).backgroundColor,
      ink: view.getComputedStyle(page.body).color,
      dot: view.getComputedStyle(dot).width,
      picture: view.getComputedStyle(dot).getPropertyValue("--picture").slice(0, 20),
      scrolled: [...page.querySelectorAll(".scroll:has(.results)")]
        .map((one) => one.scrollWidth - one.clientWidth),
      charts: [shown("wide"), shown("narrow"), shown("small")],
      pictures: ["moving", "still"].map((kind) => [...page.querySelectorAll("img." + kind)]
        .filter((one) => one.getClientRects().length).length),
    }};
  }}
  document.getElementById("out").textContent = JSON.stringify(found);
}});
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_it_fits_and_follows_the_scheme(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(page_of_all().read_text().replace("<footer>", table_of_five() + "<footer>"))
    found = rendered(page, tmp_path)
    for (name, width), scheme in product(WIDTHS.items(), SCHEMES):
        one = found.pop(f"{name} {scheme}")
        assert one["wide"] <= width and one["outside"] == [] and one["scrolled"] == [0, 0, 0]
        light = sum(map(int, re.findall(r"\d+", one["page"]))) > 3 * 128
        assert light == (scheme == "light")
        assert (sum(map(int, re.findall(r"\d+", one["ink"]))) < 3 * 128) == light
        assert one["dot"] == "10px" and one["picture"].startswith("url(data:image/webp")
        moving, still = one["pictures"]
        assert moving and not still  # until their reader asks for it
        assert one["charts"] == ([1, 0, 5] if name == "laptop" else [0, 1, 5])
    assert not found


def table_of_five() -> str:
    """Retrieval of a gallery that is large enough for all ranks."""
    ranks = [f"R@{k}" for k in (1, 5, 10, 20, 50)]
    figures = {"result": dict.fromkeys(ranks, 1.0), "chance": dict.fromkeys(ranks, 0.123),
               "intervals_95": {name: [0.957, 1.0] for name in ranks}}  # fmt: skip
    return tables([measured("pretrained-on-everything", 1.0, **figures)])


def rendered(page: Path, folder: Path) -> dict:
    """What the frames of `FRAMES` measure of the page. A frame has the scheme of its element."""
    frames = "".join(
        f'<iframe name="{name} {scheme}" src="{page.as_uri()}" '
        f'style="width:{width}px;height:900px;border:0;color-scheme:{scheme}"></iframe>'
        for (name, width), scheme in product(WIDTHS.items(), SCHEMES)
    )
    outer = folder / "frames.html"
    outer.write_text(FRAMES.format(frames=frames))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1800,1000",
        f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files",
        "--dump-dom", outer.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (text,) = re.findall(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(unescape(text))
