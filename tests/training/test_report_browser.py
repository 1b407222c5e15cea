"""The page in a real browser: it fits a laptop and a phone, and follows light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.reports import page_of_all

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"laptop": 1280, "phone": 390}
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
      charts: [shown("wide"), shown("narrow"), shown("small")],
      pictures: ["moving", "still"].map((kind) => [...page.querySelectorAll("img." + kind)]
        .filter((one) => one.getClientRects().length).length),
    }};
  }}
  document.getElementById("out").textContent = JSON.stringify(found);
}});
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize(("scheme", "number"), [("light", 1), ("dark", 0)])
def test_it_fits_and_follows_the_scheme(scheme, number, tmp_path):
    found = rendered(page_of_all(), tmp_path, number)
    assert set(found) == set(WIDTHS)
    for name, width in WIDTHS.items():
        one = found[name]
        assert one["wide"] <= width and one["outside"] == []
        light = sum(map(int, re.findall(r"\d+", one["page"]))) > 3 * 128
        assert light == (scheme == "light")
        assert (sum(map(int, re.findall(r"\d+", one["ink"]))) < 3 * 128) == light
        assert one["dot"] == "10px" and one["picture"].startswith("url(data:image/webp")
        moving, still = one["pictures"]
        assert moving and not still  # until their reader asks for it
    assert found["laptop"]["charts"] == [1, 0, 5] and found["phone"]["charts"] == [0, 1, 5]


def rendered(page: Path, folder: Path, scheme: int) -> dict:
    """What the frames of `FRAMES` measure of the page."""
    frames = "".join(
        f'<iframe name="{name}" style="width:{width}px;height:900px;border:0" '
        f'src="{page.as_uri()}"></iframe>'
        for name, width in WIDTHS.items()
    )
    outer = folder / "frames.html"
    outer.write_text(FRAMES.format(frames=frames))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1800,1000",
        f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files",
        f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", outer.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (text,) = re.findall(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(unescape(text))
