"""The page in headless Chromium: no errors, no requests, no text that overflows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_runs import impossible, run
from results_files import deciles, results, row, tiers

from saec.report import render
from saec.report.comparison import EVERY
from saec.report.comparison_page import render_comparison

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to show pages in"),
]

WIDTHS = (1280, 390)


def chromium(page: Path, *flags: str) -> tuple[str, str]:
    """Open a page; returns the output for ``flags``, and the log."""
    assert CHROMIUM is not None
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update")
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"),
            *quiet,
            *("--allow-file-access-from-files", "--enable-logging=stderr", "--hide-scrollbars"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent / 'profile'}",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def clusters(rng: np.random.Generator, field: str) -> dict[str, Any]:
    """A picture of 200 features in 20 clusters."""
    centers = rng.normal(size=(20, 2))
    own = np.arange(200) % 20
    places = centers[own] + rng.normal(size=(200, 2)) / 4
    return {
        "field": field,
        "features": 12_345,
        "shares": [0.7, 0.2],
        "ids": list(range(200)),
        "names": [f"a name that is long, and has <signs>, number {place}" for place in range(200)],
        "frequencies": [10_000 // (place + 1) for place in range(200)],
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "clusters": own.tolist(),
        "centers": centers.tolist(),
    }


TASK = "a task with a name of some length"


def page_of_results() -> str:
    """Results with everything in them, and with long names and many methods."""
    rng = np.random.default_rng(0)
    names = ["user", "item", "a field with a long name|crossed with another", "hour"]
    rows = []
    for method, cost in {
        "saec": 4e-4,
        "saec-metric": 3e-4,
        "axes": 1e-4,
        "axes+finetune": 5e-5,
        "axes+unseen": 2e-5,
        "kmeans-weighted": 8e-4,
        "a-method-of-somebody-else": 2e-3,
    }.items():
        for ratio in (10.0, 27.0, 123.4, 1600.0):
            for seed in (0, 1):
                change = cost * ratio / 10 * (1 + 0.1 * seed)
                rows.append(
                    row(
                        seed,
                        task=TASK,
                        method=method,
                        finetuned="+" in method,
                        target_ratio=ratio,
                        ratio=ratio,
                        auc=0.8 - change,
                        logloss=0.5 + change,
                        predicted_loss_increase=None if "+" in method else change * 1.3,
                        deciles=deciles(*rng.normal(0, 1e-3, 10)),
                        field_bytes={name: 1e6 / ratio / 4**k for k, name in enumerate(names)},
                        field_original_bytes={name: 1e6 / 4**k for k, name in enumerate(names)},
                        field_tiers={name: tiers(40, 20, 9, 3, 1, 1, 0, 0) for name in names},
                    )
                )
    for entry in (rows[0], rows[16]):
        entry["pictures"] = [clusters(rng, name) for name in names]
    return render(results(*rows))


def page_of_comparison() -> str:
    """All methods at three sizes, with one of somebody else."""
    methods = ("float32", *EVERY, "a-method-of-somebody-else")
    runs = [
        run(method, seed, 0, 0.5, 0.82 - 0.001 * place * ratio, round(9e7 / ratio))
        | {"task": TASK, "target_ratio": ratio}
        for place, method in enumerate(methods)
        for ratio in ((1.0,) if method == "float32" else (7.9, 123.4, 1600.0))
        for seed in (0, 1)
    ]
    return render_comparison(
        [*runs, impossible("qr", "needs at least 12,345 bytes") | {"task": TASK}], ""
    )


@pytest.fixture(scope="module", params=[page_of_results, page_of_comparison])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(request.param(), encoding="utf-8")
    return path


def complaints(log: str) -> list[str]:
    """The messages that a page wrote to its console."""
    return [line for line in log.splitlines() if ":CONSOLE" in line]


def test_the_page_logs_no_errors(page: Path) -> None:
    shown, log = chromium(page, "--dump-dom")
    assert TASK in shown
    assert complaints(log) == []


def test_requests_and_scripts_are_blocked_and_logged(page: Path, tmp_path: Path) -> None:
    """The page's own policy blocks and logs them, so the test above would fail."""
    tried = "<script>1</script><img src='http://127.0.0.1:9/a.png'></body>"
    other = tmp_path / "other.html"
    other.write_text(page.read_text(encoding="utf-8").replace("</body>", tried), encoding="utf-8")
    _, log = chromium(other, "--dump-dom")
    found = complaints(log)
    assert len(found) == 2
    assert all("Content Security Policy" in line for line in found)


# Runs in a page whose policy was taken off, all of whose folds are open.
LAYOUT = """<script>
const out = { width: innerWidth, clipped: [], over: [] };
out.page = document.documentElement.scrollWidth;
const table = document.querySelector("table");  // of all figures
out.fits = table.scrollWidth <= table.parentElement.clientWidth;
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map((text) => text.getBoundingClientRect());
  boxes.forEach((own, k) => {
    const what = svg.getAttribute("aria-label") + ": " + texts[k].textContent;
    if (own.left < box.left - 1 || own.right > box.right + 1 ||
        own.top < box.top - 1 || own.bottom > box.bottom + 1) out.clipped.push(what);
    const slanted = (text) => /rotate\\((?!-?0[ )])/.test(text.getAttribute("transform") || "");
    for (let i = 0; i < k; i++) {
      const other = boxes[i];
      if (slanted(texts[i]) || slanted(texts[k])) continue;  // their boxes overlap, they do not
      if (Math.min(own.right, other.right) - Math.max(own.left, other.left) > 1 &&
          Math.min(own.bottom, other.bottom) - Math.max(own.top, other.top) > 3)
        out.over.push(what + " / " + texts[i].textContent);
    }
  });
}
document.body.dataset.layout = JSON.stringify(out);
</script></body>"""


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_overflows_or_overlaps(page: Path, tmp_path: Path, width: int) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("<details>", "<details open>")
    (tmp_path / "inner.html").write_text(text.replace("</body>", LAYOUT), encoding="utf-8")
    # In a frame: a window cannot be as narrow as a telephone.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe src='inner.html' style='border: 0; width: {width}px; height: 4000px'></iframe>"
        "<script>onload = () => document.body.dataset.layout ="
        " document.querySelector('iframe').contentDocument.body.dataset.layout</script>"
    )
    shown, log = chromium(frame, "--dump-dom", "--window-size=1400,4000")
    assert complaints(log) == []
    (found,) = re.findall(r'data-layout="([^"]*)"', shown)
    layout = json.loads(found.replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<"))
    assert (layout["width"], layout["page"]) == (width, width)
    assert layout["fits"] or width < 1000  # a telephone scrolls it
    assert layout["clipped"] == []
    assert layout["over"] == []


def test_both_schemes_have_their_own_colours(page: Path, tmp_path: Path) -> None:
    from PIL import Image

    papers = []
    for scheme in (0, 1):  # dark, light
        shot = tmp_path / f"{scheme}.png"
        chromium(
            page,
            f"--screenshot={shot}",
            "--window-size=800,1200",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        with Image.open(shot) as image:
            papers.append(image.convert("RGB").getpixel((2, 2)))
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # something is drawn
    assert papers == [(0x16, 0x19, 0x1D), (255, 255, 255)]
