"""The page in a real browser: live, without a mouse, in the dark, on a phone, and with nothing from outside."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.browser import Tab, browser_tab
from tests.support.faults import Fault, Silence, Status
from tests.support.images import blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

NAME = "library/app"
IMAGE = oci_image(1600, layers=1)
LARGE = blob(2_000_000, 1601)
AA_CONTRAST = 4.5
CONTRASTS = """
(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const worst = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.closest("script")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    worst[node.textContent.trim().slice(0, 40)] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return worst;
})()
"""


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        started.add(NAME, "1", IMAGE)
        started.add_blob(NAME, LARGE)
        started.fail(Fault(action=Status(status=500), path="broken"))
        yield started


@pytest.fixture(scope="module")
def mirror(registry: RegistryProcess) -> Iterator[MirrorProcess]:
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as started:
        yield started


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    async with browser_tab() as opened:
        yield opened


def complaints(tab: Tab) -> list[Any]:
    """Return what the browser has to say against the page: a policy broken, an error, a file that is missing."""
    return [
        *tab.events["Log.entryAdded"],
        *tab.events["Runtime.exceptionThrown"],
        *tab.events["Runtime.consoleAPICalled"],
    ]


async def text_of(tab: Tab, selector: str) -> str:
    return str(await tab.evaluate(f"document.querySelector({selector!r}).textContent"))


async def test_it_follows_what_happens_without_being_loaded_again(
    tab: Tab, mirror: MirrorProcess, registry: RegistryProcess
) -> None:
    await tab.open(f"{mirror.base_url}/")
    await tab.evaluate("window.stayed = true")
    assert "Nothing is being fetched." in await text_of(tab, "#downloads")
    registry.fail(Fault(action=Silence(fraction=0.5), path=LARGE.digest, times=1))
    waiting = await tab.evaluate(f"void fetch('/v2/{NAME}/blobs/{LARGE.digest}').then(it => it.blob())")
    assert waiting is None
    await tab.until("document.querySelector('progress')?.position > 0.4")
    assert f"docker.io/{NAME}" in await text_of(tab, "#downloads")
    assert "1 client" in await text_of(tab, "#downloads")
    registry.release()
    await tab.until("document.querySelector('progress') == null")
    assert mirror.request(f"/v2/{NAME}/manifests/1").status == 200
    await tab.until("document.getElementById('pulled').textContent.includes('library/app')")
    assert mirror.request(f"/v2/{NAME}/manifests/%3Cimg%3E").status in {400, 404}
    assert mirror.request("/v2/library/broken/manifests/1").status == 502
    await tab.until("document.getElementById('problems').textContent.includes('library/broken')")
    assert await tab.evaluate("window.stayed") is True
    assert complaints(tab) == []
    asked = {one["request"]["url"] for one in tab.events["Network.requestWillBeSent"]}
    assert {url for url in asked if not url.startswith((f"{mirror.base_url}/", "data:"))} == set()


async def test_a_mirror_that_is_gone_is_said_to_be_and_comes_back_by_itself(
    tab: Tab, registry: RegistryProcess
) -> None:
    with MirrorProcess({"docker.io": registry.base_url}) as mirror:
        await tab.open(f"{mirror.base_url}/")
        assert await tab.evaluate("document.getElementById('lost').hidden") is True
        mirror.stop()
        await tab.until("!document.getElementById('lost').hidden")
        mirror.start()
        await tab.until("document.getElementById('lost').hidden")


async def test_everything_is_reached_by_the_keyboard_in_the_order_in_which_it_is_read(
    tab: Tab, mirror: MirrorProcess
) -> None:
    assert mirror.request(f"/v2/{NAME}/manifests/1").status == 200
    await tab.open(f"{mirror.base_url}/")
    reached = []
    for _ in range(3):
        await tab.press("Tab")
        reached.append(await tab.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["of-minutes", "metrics", "overview"]
    await tab.evaluate("document.getElementById('of-minutes').focus()")
    await tab.press("ArrowRight")
    shown = "['minutes', 'hours'].map(id => document.getElementById(id).checkVisibility())"
    assert await tab.evaluate(shown) == [False, True]
    outline = "getComputedStyle(document.querySelector('#of-hours + label')).outlineStyle"
    assert await tab.evaluate(outline) == "solid"
    await tab.until("document.getElementById('now').textContent.includes(':')")
    assert await tab.evaluate(shown) == [False, True]


async def test_who_cannot_see_it_is_told_what_each_part_is(tab: Tab, mirror: MirrorProcess) -> None:
    assert mirror.request(f"/v2/{NAME}/manifests/1").status == 200
    await tab.open(f"{mirror.base_url}/")
    await tab.call("Accessibility.enable")
    nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
    seen = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in nodes if not one["ignored"]]
    assert ("radio", "3 hours") in seen
    assert any(role == "image" and re.search(r"% of [\d,]+ requests", name) for role, name in seen)
    headings = [name for role, name in seen if role == "heading"]
    assert headings[1:] == ["Hit rate over time", "Downloads", "Upstreams", "Most pulled", "Largest", "Recent problems"]
    regions = {name for role, name in seen if role == "region"}
    assert regions == set(headings[1:])
    assert {"columnheader", "rowheader", "main", "banner"} <= {role for role, _ in seen}
    assert [name for role, name in seen if role in {"image", "radio", "link", "progressbar"} and not name] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_it_can_be_read_in_any_light_and_on_a_phone(
    tab: Tab, mirror: MirrorProcess, width: int, scheme: str
) -> None:
    assert mirror.request(f"/v2/{NAME}/manifests/1").status == 200
    await tab.open(f"{mirror.base_url}/", width=width, scheme=scheme)
    assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    contrasts = await tab.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert {text: value for text, value in contrasts.items() if value < AA_CONTRAST} == {}
    ground = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) is (scheme == "dark")
