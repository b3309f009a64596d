"""The pack in a real browser: a newcomer opens a template, presses Run and sees the film."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from comfyui import PACK, Server
from loud import skip_loudly
from repository import ROOT

TEMPLATES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
RUN_ALWAYS = ("EMO talking portrait", "EMO head speed and face region")
"""The others are opened; all run with -m soak."""
PHOTOGRAPH, HALLO = "EMO photograph to film", "EMO talking photo (Hallo weights)"
NEEDS_WEIGHTS = {
    PHOTOGRAPH: ("v1-5-pruned",),
    HALLO: ("net.pth", "diffusion_pytorch_model"),
}
"""Templates that need more than the pack brings, and files that the page then misses."""
FILMS = {"EMO continue a film": 1.04}
"""Seconds of the films that are not as long as each sound that is taken."""
WIDTHS = {PHOTOGRAPH: 256}
"""Pixels of those that the template enlarges; the others have emo-tiny's 128."""
OF_THE_PAGE = (
    "/api/userdata/comfy.templates.json",  # the user's own templates, of which there are none
    "Error fetching file size", "https://huggingface.co/",  # asked for files that are missing
    "/api/prompt)", "PromptExecutionError",  # the server said no, which the test then reads
)  # fmt: skip
"""What of the console's errors is no fault of the pack."""
SKIPPED = "THE TESTS OF THE PAGE (tests/host/test_browser.py) WERE SKIPPED"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGE_SECONDS, FILM_SECONDS = 240, 300
"""How long a slow machine with other work to do may take for the page, and for a short film."""

READY = """() => {
  const types = window.LiteGraph && window.LiteGraph.registered_node_types;
  return !!(types && types.EMODecodeVideo && types.SaveVideo && window.app
            && window.app.extensionManager && window.app.graph);
}"""
BROWSE = """async () => {
  await window.app.extensionManager.command.execute('Comfy.BrowseTemplates');
  return true;
}"""
LOADED = "() => window.app.graph.nodes.some(node => node.type === 'SaveVideo')"
EMPTY = """() => !window.app.graph.nodes.length
  && !document.querySelector('[role=dialog], [role=alertdialog]')"""
UNKNOWN = """() => JSON.stringify(window.app.graph.nodes.map(node => node.type).filter(
  type => !window.LiteGraph.registered_node_types[type]))"""
DIALOGS = """() => {
  const dialogs = [...document.querySelectorAll('[role=dialog], [role=alertdialog]')];
  return JSON.stringify(dialogs.map(dialog => dialog.innerText.trim()).filter(text => text));
}"""
SHORTEN = """seconds => {
  for (const node of window.app.graph.nodes.filter(node => node.type === 'LoadAudioEmbedding'))
    node.widgets.find(widget => widget.name === 'duration').value = seconds;
  return true;
}"""
OWN_INSTEAD = """types => {
  const graph = window.app.graph, of = type => graph.nodes.find(node => node.type === type);
  const source = input => graph.getNodeById(graph.links.get(input.link)?.origin_id);
  const gone = graph.nodes.filter(node => types.includes(node.type));
  gone.push(...graph.nodes.filter(
    node => node.type === 'VAEDecode' && gone.includes(source(node.inputs[0]))));
  const own = {IMAGE: [of('EMOExampleInputs'), 0], VAE: [of('EMOModelLoader'), 1]};
  for (const link of [...graph.links.values()]) {
    const target = graph.getNodeById(link.target_id);
    if (gone.includes(graph.getNodeById(link.origin_id)) && !gone.includes(target))
      own[link.type][0].connect(own[link.type][1], target, link.target_slot);
  }
  gone.forEach(node => graph.remove(node));
  return gone.length;
}"""
"""Takes nodes out that need weights; the pack's own portrait and VAE go where theirs went."""
FILM_OR_TROUBLE = """() => {
  const errors = document.querySelectorAll(
    '[role=dialog], [role=alertdialog], .p-toast-message-error, .p-toast-message-warn');
  const trouble = [...errors].map(error => error.innerText.trim()).filter(text => text);
  const film = [...document.querySelectorAll('video')].find(
    video => video.readyState >= 2 && video.videoWidth > 0);
  if (!trouble.length && !film) return null;
  const shown = film ? [film.src, film.videoWidth, film.duration] : ['', 0, 0];
  return JSON.stringify({trouble: trouble, src: shown[0], width: shown[1], seconds: shown[2]});
}"""
PREVIEWS = """() => window.app.graph.nodes
  .filter(node => ['FaceLocatorMask', 'SpeedBuckets'].includes(node.type) && node.mode === 0)
  .every(node => node.imgs && node.imgs.length && node.imgs[0].naturalWidth > 0)"""


def find_chromium(playwright: Any) -> str | None:
    """A Chromium of the system, else the one that Playwright has downloaded; None without."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    own = playwright.chromium.executable_path
    return found or (own if own and Path(own).is_file() else None)


@pytest.fixture(scope="module")
def browser(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Chromium without a window, with a home of its own."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_loudly(request, f"the package playwright is not installed: {SKIPPED}")
    home = tmp_path_factory.mktemp("browser")
    with sync_playwright() as playwright:
        program = find_chromium(playwright)
        if program is None:
            skip_loudly(request, f"no Chromium was found ({', '.join(CHROMIUM)}): {SKIPPED}")
        launched = playwright.chromium.launch(
            executable_path=program, headless=True, timeout=PAGE_SECONDS * 1000,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
            env={**os.environ, "CI": "true", "HOME": str(home)},
        )  # fmt: skip
        yield launched
        launched.close()


@contextmanager
def opened_page(browser: Any, server: Server) -> Iterator[Any]:
    """ComfyUI's page with the pack's nodes, nothing loaded; at the end its console is clean."""
    # Of its own storage: the page opens the workflow again that was last open.
    page = browser.new_page(locale="en-US", viewport={"width": 1600, "height": 900})
    page.set_default_timeout(PAGE_SECONDS * 1000)
    wait = waiting(page)
    page.goto(server.url, wait_until="domcontentloaded")
    wait(READY, PAGE_SECONDS, "the page of ComfyUI did not show the pack's nodes")
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda told: told.type == "error" and said.append(
        f"{told.text} ({told.location.get('url', '')})"))  # fmt: skip
    yield page
    page.close()
    faults = [error for error in said if not any(known in error for known in OF_THE_PAGE)]
    assert not faults, "\n".join(faults)


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A page of the test's own."""
    with opened_page(browser, server) as page:
        yield page


@pytest.fixture(scope="module")
def same_page(browser: Any, server: Server) -> Iterator[Any]:
    """A page for tests that only look: to open it takes longer than what they do."""
    with opened_page(browser, server) as page:
        yield page


@pytest.fixture
def emptied_page(same_page: Any) -> Any:
    """That page without nodes and dialogs, as a user leaves it who closes what it showed."""
    for _ in range(3):
        same_page.keyboard.press("Escape")
    same_page.evaluate("() => window.app.graph.clear()")
    waiting(same_page)(EMPTY, PAGE_SECONDS, "the page could not be emptied")
    return same_page


def waiting(page: Any) -> Callable[[str, float, str], Any]:
    """Waits until an expression in the page is true and gives it, or fails with a sentence."""
    from playwright.sync_api import TimeoutError as TooLate

    def wait(expression: str, seconds: float, otherwise: str) -> Any:
        try:
            return page.wait_for_function(expression, timeout=seconds * 1000).json_value()
        except TooLate:
            pytest.fail(
                f"{otherwise} within {seconds:g} s; the machine is too slow or the page is broken, "
                f"which shows these dialogs: {page.evaluate(DIALOGS)}"
            )

    return wait


def open_template(page: Any, title: str) -> None:
    """Choose a template as a user does: Browse Templates, the pack, the picture."""
    page.evaluate(BROWSE)
    dialog = page.get_by_role("dialog").filter(has_text=PACK).first
    dialog.get_by_text(PACK, exact=True).first.click()
    for name in TEMPLATES:
        dialog.get_by_text(name, exact=True).first.wait_for()
    dialog.get_by_text(title, exact=True).first.click()
    waiting(page)(LOADED, PAGE_SECONDS, f"the template {title} was not opened")
    dialog.wait_for(state="hidden")
    assert json.loads(page.evaluate(UNKNOWN)) == []


def run_and_see(page: Any, title: str) -> dict[str, Any]:
    """Press Run, and give what the page then shows: a film, or trouble."""
    page.get_by_role("button", name="Run").first.click()
    shown = waiting(page)(FILM_OR_TROUBLE, FILM_SECONDS, f"{title} showed no film")
    return dict(json.loads(shown))


def dismiss(page: Any, files: tuple[str, ...]) -> None:
    """The page misses these files, and says nothing else; its dialog is closed."""
    page.wait_for_timeout(1000)  # what is amiss in a workflow is said in a dialog
    dialogs = " ".join(json.loads(page.evaluate(DIALOGS)))
    assert all(name in dialogs for name in files), dialogs
    assert bool(dialogs) == bool(files), dialogs
    if files:
        page.keyboard.press("Escape")
        waiting(page)(f"() => ({DIALOGS})() === '[]'", 30, "the dialog was not closed")


def shows_its_film(page: Any, title: str) -> None:
    """Run what is open, and see the film in the page."""
    page.evaluate(SHORTEN, 0.52)
    shown = run_and_see(page, title)
    assert shown["trouble"] == []
    assert f"filename={title.replace(' ', '+')}" in shown["src"], shown
    assert shown["width"] == WIDTHS.get(title, 128)
    assert shown["seconds"] == pytest.approx(FILMS.get(title, 0.52), abs=0.05)
    waiting(page)(PREVIEWS, 30, "a node that draws a preview did not show it")


@pytest.mark.parametrize(
    "title",
    [*RUN_ALWAYS, *(pytest.param(title, marks=pytest.mark.soak, id=f"{title}, with all others")
                    for title in TEMPLATES if title not in NEEDS_WEIGHTS)],
)  # fmt: skip
def test_a_template_is_opened_and_run_and_shows_its_film(page: Any, title: str) -> None:
    open_template(page, title)
    dismiss(page, ())
    shows_its_film(page, title)


@pytest.mark.soak
def test_the_photograph_template_makes_its_film_of_another_portrait(page: Any) -> None:
    open_template(page, PHOTOGRAPH)
    dismiss(page, NEEDS_WEIGHTS[PHOTOGRAPH])
    stable_diffusion = ["CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler"]
    assert page.evaluate(OWN_INSTEAD, stable_diffusion) == 6
    shows_its_film(page, PHOTOGRAPH)


@pytest.mark.soak
def test_hallos_template_says_which_files_are_missing(page: Any, server: Server) -> None:
    shutil.copyfile(ROOT / "examples" / "portrait.png", server.folder / "input" / "example.png")
    open_template(page, HALLO)
    dismiss(page, NEEDS_WEIGHTS[HALLO])
    (said,) = run_and_see(page, HALLO)["trouble"]
    assert "'diffusion_pytorch_model.safetensors' not in" in said
    page.keyboard.press("Escape")
    assert page.evaluate(OWN_INSTEAD, ["VAELoader"]) == 1
    (said,) = run_and_see(page, HALLO)["trouble"]
    assert f"there is no net.pth in {server.models / 'emo'}" in said


@pytest.mark.parametrize("title", [title for title in TEMPLATES if title not in RUN_ALWAYS])
def test_the_other_templates_are_opened_with_every_node(
    emptied_page: Any, server: Server, title: str
) -> None:
    page = emptied_page
    # Load Image shows the host's own example, which a server with folders of its own lacks.
    shutil.copyfile(ROOT / "examples" / "portrait.png", server.folder / "input" / "example.png")
    open_template(page, title)
    dismiss(page, NEEDS_WEIGHTS.get(title, ()))
