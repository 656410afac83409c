"""The explorer's server asked as a program would: sessions are apart, and what it must refuse is refused."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app_cases import SIZE, alike, make_run, pictures, serving

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    with serving(make_run(folder / "one"), make_run(folder / "two", steps=30, seed=1)) as address:
        yield address


class Client:
    """Asks the server as a program would."""

    def __init__(self, address):
        self.http = httpx.Client(base_url=address, timeout=30)
        self.functions = {each["api_name"]: each["id"] for each in self.http.get("config").json()["dependencies"]}

    def upload(self, data, name="a.png"):
        return self.http.post("gradio_api/upload", files={"files": (name, data)})

    def ask(self, name, data, session="s"):
        """The last message on a request, or the response that refuses it."""
        body = {"data": data, "fn_index": self.functions[name], "session_hash": session}
        joined = self.http.post("gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return joined.json()
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        return message
        return None


@pytest.fixture(scope="module")
def client(address):
    return Client(address)


def file_data(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_each_session_has_its_own_image(client):
    grey = {name: Image.new("L", (SIZE, SIZE), value) for name, value in (("a", 20), ("b", 220))}
    for name, image in grey.items():
        (path,) = client.upload(png(image)).json()
        assert client.ask("image-upload", [file_data(path)], name)["success"]
    for name, image in grey.items():
        answer = client.ask("dial", [20, 0, None, None, 0.2], name)
        assert alike(pictures(answer["output"]["data"][0])[0], np.asarray(image))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("dial", [20, 0, None, 0, 1.5]),
        ("dial", [20, 0, None, 99, 0.5]),
        ("dial", [10**9, 0, None, 0, 0.5]),
        ("dial", [20, -1, None, 0, 0.5]),
        ("dial", [20, 0, None, 0, "deep"]),
        ("dial", []),
        ("dial", [20, 0, None, "../../etc/passwd", 0.5]),
        ("dial-walked", [20, 0, None, None, 0.5]),
        ("interpolate", [20, 0, None, 0, None, 1, 0.5, 10**6, ""]),
        ("interpolate", [20, 0, None, 0, None, 1, 0.5, 3, "0-999999999999"]),
        ("generate", [0, 10**6, 20, "multistep", 0, "", 1]),
        ("generate", [0, 4, 20, "magic", 0, "", 1]),
        ("generate", [0, 4, 20, "multistep", 0, "", 3]),
        ("generate", [0, 4, 20, "multistep", -1, "", 1]),
        ("image-upload", [file_data("/etc/passwd")]),
        ("image-upload", [file_data("../../../../etc/passwd")]),
        ("image-upload", ["/etc/passwd"]),
        ("image-upload", [{"path": None}]),
    ],
)
def test_a_bad_request_is_an_error_and_the_next_is_answered(client, name, data):
    answer = client.ask(name, data, "bad")
    assert not answer.get("success"), answer
    assert "root:" not in json.dumps(answer)
    assert client.ask("dial", [20, 0, None, 0, 0.5], "good")["success"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.png", "https://example.org/a.png", "file:///etc/passwd"])
def test_an_address_is_not_fetched(client, url):
    answer = client.ask("image-upload", [file_data(url, url=url)], "bad")
    assert not answer["success"]
    if url.startswith("http"):
        assert answer["output"]["error"] == "an image is read from a file, not from an address"


@pytest.mark.parametrize("name", ["../../escaped.png", "/tmp/escaped.png", "a/../../escaped.png", "..%2fescaped.png"])
def test_an_uploads_name_leads_nowhere(client, name):
    response = client.upload(png(Image.new("L", (4, 4))), name)
    if response.status_code == 200:
        (path,) = response.json()
        assert Path(path).resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
        assert any(parent.name.startswith("betadiffusion-") for parent in Path(path).resolve().parents)
    assert not Path("/tmp/escaped.png").exists()


def test_files_and_bodies_are_bounded(client):
    assert client.upload(b"\0" * 21_000_000).status_code >= 400


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=../../../etc/passwd",
        "gradio_api/file=pyproject.toml",
        "gradio_api/file/etc/passwd",
        "gradio_api/proxy=https://example.org/",
        "gradio_api/run/dial",
        "gradio_api/vibe-code",
        "static/../../../../etc/passwd",
        "assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "gradio_api/openapi.json",
        "gradio_api/queue/status",
        "monitoring",
        "docs",
    ],
)
def test_nothing_else_is_served(client, path):
    response = client.http.get(path)
    assert response.status_code >= 400
    assert "root:" not in response.text


def test_the_page_names_no_other_host(client):
    text = client.http.get("/").text + client.http.get("theme.css").text
    assert not [word for word in ("googleapis", "gstatic", "cdnjs", "jsdelivr", "unpkg") if word in text]


def test_another_name_does_not_lead_here(client):
    assert client.http.get("/", headers={"Host": "rebound.example.org"}).status_code == 400
