"""The explorer driven in a real headless Chromium, as a person would, and asked for what it must refuse."""

import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from app_cases import SIZE, alike, make_run, pixels, serving
from betadiffusion.app.runs import Run
from betadiffusion.cli.loading import load_pipeline
from betadiffusion.cli.main import main
from betadiffusion.data.decode import decode

sync = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
httpx = pytest.importorskip("httpx")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found: apt-get install chromium")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    return make_run(folder / "one"), make_run(folder / "two", steps=30, seed=1)


@pytest.fixture(scope="module")
def run(runs):
    return Run(runs[0], load_pipeline(runs[0]))


@pytest.fixture(scope="module")
def address(runs):
    with serving(*runs) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    """Opens the page with a query; at the end, nothing may have gone wrong in it or to another host."""
    wrong, contexts = [], []

    def open_(query="", **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
        page.on("request", lambda request: None if local(request.url, address) else wrong.append(request.url))
        page.goto(address + query)
        return page

    yield open_
    for context in contexts:
        for page in context.pages:
            page.wait_for_timeout(200)
    problems = list(wrong)
    for context in contexts:
        context.close()
    assert not problems


def local(url, address):
    return url.startswith((address, "data:", "blob:"))


def shown(page, place, count=1):
    """The pictures in a place, once there are so many."""
    page.locator(f"#{place} img").nth(count - 1).wait_for()
    return [pixels(image.get_attribute("src")) for image in page.locator(f"#{place} img").all()]


def result(page, place, before=None):
    """The last picture in a place, other than `before`, once its walk has ended: it can be saved then."""
    ended = f"""before => {{
        const src = [...document.querySelectorAll('#{place}:has(a[download]) img')].at(-1)?.src
        return src !== before && src
    }}"""
    return pixels(page.wait_for_function(ended, arg=before).json_value())


def changes(page, place, act):
    """Does something, and waits until a place shows something else, walked to its end."""
    before = page.locator(f"#{place} img").last.get_attribute("src")
    act()
    return result(page, place, before)


def set_slider(page, place, value):
    """Types a value into a slider's number."""
    number = page.locator(f"#{place} input[type=number]")
    number.fill(str(value))
    number.press("Enter")


# In the browser


@needs_chromium
def test_the_dial_shows_what_the_pipeline_makes(run, open_page):
    page = open_page("?image=3&level=0.3")
    original, kept = shown(page, "kept", 2)
    x = run.fit(run.held_out[3])
    assert alike(original, run.held_out[3][0])
    seed = torch.Generator().manual_seed(0)
    assert alike(kept, np.asarray(run.pipeline.reconstruct(x, 0.3, seed).images[0]))
    walked = run.pipeline.denoise(x, 0.3, generator=torch.Generator().manual_seed(0)).images[0]
    assert alike(result(page, "walked"), np.asarray(walked))
    assert "nats" in page.locator("#kept").inner_text()
    assert "error" in page.locator("#walked").inner_text()


@needs_chromium
def test_the_slider_turns_what_is_kept_into_nothing(open_page):
    page = open_page("?image=2&level=0.5")
    result(page, "walked")
    kept, points, errors = {}, set(), {}
    for level in (0, 1):
        changes(page, "walked", lambda level=level: set_slider(page, "level", level))
        original, kept[level] = shown(page, "kept", 2)
        points.add(page.locator("#chart circle.point").get_attribute("cx"))
        errors[level] = np.square(kept[level] / 255.0 - original / 255.0).mean()
    assert errors[0] < 0.2 * errors[1]  # level 0 is close to the original
    assert len(points) == 2
    assert "level=1" in page.url


@needs_chromium
def test_keys_move_the_level_and_the_address_brings_it_back(open_page):
    page = open_page("?image=2&level=0.4&seed=3&steps=2")
    first = result(page, "walked")
    slider = page.locator("#level input[type=range]")
    slider.focus()
    moved = changes(page, "walked", lambda: slider.press("ArrowRight"))
    assert not np.array_equal(first, moved)
    page.wait_for_url(lambda url: "level=0.41" in url)
    again = open_page("?" + page.url.partition("?")[2])
    assert alike(result(again, "walked"), moved)
    assert again.locator("#level input[type=number]").input_value() == "0.41"
    another = again.locator("#image input").nth(3)
    another.focus()
    changes(again, "walked", lambda: another.press("Space"))
    again.wait_for_url(lambda url: "image=3" in url)


@needs_chromium
def test_only_the_last_of_many_levels_is_walked_to_its_end(run, open_page):
    page = open_page("?steps=150&level=0.9")
    page.locator("#walked img").wait_for()
    slider = page.locator("#level input[type=range]")
    slider.focus()
    for _ in range(20):
        slider.press("ArrowLeft")
    page.wait_for_url(lambda url: "level=0.7&" in url)
    page.wait_for_timeout(500)
    expected = run.pipeline.denoise(run.fit(run.held_out[0]), 0.7, 150, generator=torch.Generator().manual_seed(0))
    assert alike(result(page, "walked"), np.asarray(expected.images[0]))


@needs_chromium
def test_a_dropped_image_is_read_as_in_training(open_page, tmp_path):
    Image.effect_noise((50, 40), 90).save(tmp_path / "noise.png")
    page = open_page()
    result(page, "walked")
    changes(page, "walked", lambda: page.set_input_files("#image-upload input[type=file]", tmp_path / "noise.png"))
    assert np.array_equal(shown(page, "kept", 2)[0], decode((tmp_path / "noise.png").read_bytes(), SIZE, 1)[0])
    changes(page, "walked", lambda: page.locator("#image label").nth(1).click())
    (tmp_path / "broken.png").write_bytes((tmp_path / "noise.png").read_bytes()[:300])
    page.set_input_files("#image-upload input[type=file]", tmp_path / "broken.png")
    page.get_by_text("this image is broken").first.wait_for()
    changes(page, "walked", lambda: set_slider(page, "level", 0.1))


@needs_chromium
def test_edits_move_the_image_and_are_reset_and_saved(run, open_page):
    page = open_page("?tab=edit&image=1")
    unmoved = result(page, "edit-walked")
    slider = page.get_by_role("spinbutton", name="pca-1")

    def move():
        slider.fill("3")
        slider.press("Enter")

    moved = changes(page, "edit-walked", move)
    along = next(direction for direction in run.directions[0.2] if direction.name == "pca-1")
    expected = run.pipeline.edit(run.fit(run.held_out[1]), along.vector, 3.0, 0.2)
    assert alike(moved, np.asarray(expected.images[0]))
    with page.expect_download() as saved:
        page.locator("#edit-walked a[download]").click()
    assert alike(np.asarray(Image.open(saved.value.path())), moved)
    assert "pca-1%400.2=3" in page.url
    assert alike(changes(page, "edit-walked", lambda: page.locator("#reset").click()), unmoved)


@needs_chromium
@pytest.mark.parametrize("tab", ["dial", "edit", "interpolate"])
def test_an_address_makes_its_pictures_once_and_so_does_opening_a_tab(tab, open_page):
    page = open_page(f"?tab={tab}")
    turns = page.locator(f"#{tab}-turns input")
    result(page, {"dial": "walked", "edit": "edit-walked", "interpolate": "strip-walked"}[tab])
    assert turns.input_value() == "1"
    page.get_by_role("tab", name="Generate").click()
    page.get_by_role("tab", name=tab.capitalize()).click()
    sync.expect(turns).to_have_value("2")


@needs_chromium
def test_a_strip_leads_from_one_image_to_the_other(run, open_page):
    page = open_page("?tab=interpolate&image=0&other=4&frames=3&strip-level=0.1")
    strip = result(page, "strip-walked")
    assert strip.shape == (SIZE, 3 * SIZE)
    ends = [run.fit(run.held_out[i]) for i in (0, 4)]
    expected = run.pipeline.interpolate(*ends, [0.0, 0.5, 1.0], 0.1).images
    assert alike(strip, np.concatenate([np.asarray(image) for image in expected], 1))
    dims = page.locator("#dims textarea")

    def name(text):
        dims.fill(text)
        dims.press("Enter")

    one = changes(page, "strip-walked", lambda: name("0-1"))
    assert alike(one[:, :SIZE], strip[:, :SIZE])  # the first image stays
    assert not np.array_equal(one[:, SIZE:], strip[:, SIZE:])
    name("0-99")
    page.get_by_text("dims must be from 0 to 3").first.wait_for()


@needs_chromium
def test_new_images_are_those_of_the_command_line(open_page, tmp_path, monkeypatch):
    page = open_page("?tab=generate&count=4&evaluations=6&method=heun&seed=2")
    first = result(page, "samples")
    page.locator("#walk button").first.click()
    command = page.locator("#command textarea").input_value()
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    assert alike(np.asarray(Image.open(tmp_path / "samples.png")), first)
    with page.expect_download() as saved:
        page.locator("#samples a[download]").click()
    assert alike(np.asarray(Image.open(saved.value.path())), first)

    def ask(seed, name=None):
        page.locator("#seed input").fill(str(seed))
        page.locator("#seed input").press("Tab")
        if name:
            page.locator("#class input").click()
            page.get_by_role("option", name=name).click()
        return changes(page, "samples", lambda: page.locator("#generate").click())

    other = ask(3)
    assert not np.array_equal(first, other)
    assert alike(first, ask(2))  # the same seed the same pictures
    heart = ask(3, "heart")
    assert not np.array_equal(other, heart)
    assert "--class=heart" in page.locator("#command textarea").input_value()


@needs_chromium
def test_two_runs_are_compared_on_one_image(runs, run, open_page):
    page = open_page("?tab=compare&image=5&compare-level=0.2")
    left, right = result(page, "left-walked"), result(page, "right-walked")
    other = Run(runs[1], load_pipeline(runs[1]))
    for each, picture in ((run, left), (other, right)):
        expected = each.pipeline.denoise(each.fit(run.held_out[5]), 0.2)
        assert alike(picture, np.asarray(expected.images[0]))
    assert page.locator("#compare-chart polyline").count() == 2


@needs_chromium
def test_a_phone_need_not_scroll_sideways(open_page):
    places = {"dial": "walked", "edit": "edit-walked", "interpolate": "strip-walked", "generate": "samples",
              "compare": "right-walked"}  # fmt: skip
    for tab, place in places.items():
        page = open_page(f"?tab={tab}", viewport={"width": 390, "height": 844})
        result(page, place)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, tab


@needs_chromium
def test_it_is_dark_where_the_system_is(open_page):
    page = open_page()
    page.locator("#walked img").wait_for()
    colours = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


@needs_chromium
def test_what_the_address_cannot_mean_is_said_and_left_out(open_page):
    page = open_page("?tab=nowhere&level=7&image=99&steps=many&method=magic")
    result(page, "walked")
    page.get_by_text("level in the address is not used").first.wait_for()
    assert page.locator("#level input[type=number]").input_value() == "0.6"
