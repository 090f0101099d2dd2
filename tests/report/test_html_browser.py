"""The page in a real browser: nothing is wider than the screen, in light and in dark, and no text covers another."""

import json
import re
import shutil
import subprocess

import pytest
from made import MADE
from pages import copy_examples, report, selection, write_runs

from cahp_plugin.cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")

#: Run inside a copy of the page; the page itself has no script and forbids all.
PROBE = """
<script>
addEventListener("load", () => {
  const wide = document.documentElement;
  const outside = [...document.querySelectorAll("body *")].filter(node => {
    const box = node.getBoundingClientRect();
    return !node.closest(".scroll, pre, .aloud, details:not([open])")
      && (box.right > wide.clientWidth + 1 || box.left < -1) && box.width > 0;
  }).map(node => node.outerHTML.slice(0, 120));
  const cut = [], covered = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    const frame = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll("text")].map(node => [node, node.getBoundingClientRect()]);
    for (const [node, box] of texts)
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 2
          || box.bottom > frame.bottom + 2) cut.push(node.textContent);
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [texts[i][1], texts[j][1]];
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 4) covered.push(texts[i][0].textContent + " / " + texts[j][0].textContent);
    }
  }
  const sizes = [...document.querySelectorAll("svg.chart text")].map(node => {
    const chart = node.ownerSVGElement;
    return parseFloat(getComputedStyle(node).fontSize) * chart.getBoundingClientRect().width
      / chart.viewBox.baseVal.width;
  });
  const found = {
    width: innerWidth, page: wide.scrollWidth, outside, cut, covered,
    charts: document.querySelectorAll("svg.chart").length,
    smallest: Math.min(...sizes), ground: getComputedStyle(document.body).backgroundColor,
  };
  parent.document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of all kinds of pictures, with long names, and a copy of it that measures itself."""
    root = tmp_path_factory.mktemp("browser")
    (root / "selected").mkdir()
    (root / "selected" / "selection.json").write_text(json.dumps(selection(layers=24, heads=16).to_dict()))
    methods = ["cahp", "medoid", "salience", "salience-layernorm", "magnitude", "obs", "hies", "voita", "dsp",
               "label-shuffled-separation", "reconstruction", "random"]  # fmt: skip
    write_runs(root / "runs", methods, layers=24, heads=16, counts=(192, 96), seeds=2,
               recoveries=("none", "least-squares", "finetune"))  # fmt: skip
    copy_examples(root)
    MADE["text-classification"].make(root)
    train = json.loads((root / "paths.json").read_text())[0]
    command = ["prune", str(root / "model"), "--train", train, "-o", str(root / "budget"), "--macs", "0.6", "--quiet"]
    assert main([*command, "--calibration-examples", "48", "--batch-size", "8", "--multiple-of", "1"]) == 0
    long = root / ("a-very-long-name-" * 8)
    (root / "selected").rename(long)
    assert report([long, root / "budget", root / "runs", root / "deploy", root / "latency"], root / "page.html") == 0
    text = (root / "page.html").read_text(encoding="utf-8")
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text).group(0)
    (root / "probed.html").write_text(text.replace(policy, "").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    return root


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 870, 400])
def test_everything_fits_and_can_be_read(page, width, theme):
    # Chromium's window is never narrower than 500 pixels; a frame is, and its media queries go by the frame.
    (page / "frame.html").write_text(
        f'<body style="margin:0"><pre id="found"></pre><iframe src="probed.html" width="{width}" height="900" '
        'style="border:0"></iframe></body>'
    )
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--allow-file-access-from-files", "--virtual-time-budget=5000", f"--user-data-dir={page / 'profile'}",
         f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}", "--window-size=1400,1000",
         "--dump-dom", (page / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    found = json.loads(re.search(r'<pre id="found">(\{.*?\})</pre>', shown.stdout, re.DOTALL).group(1))
    assert found["width"] == width and found["page"] <= width, found["outside"]
    assert found["outside"] == [] and found["cut"] == [] and found["covered"] == []
    assert found["charts"] == 4 + 4 + 3 + 3 + 2 + 2 + 3 + 3
    assert found["smallest"] >= 9
    assert found["ground"] == ("rgb(15, 19, 24)" if theme == "dark" else "rgb(246, 247, 249)")
