"""The explorer under load: start, answers to the slider, many users at once, then bad requests.

    python benchmarks/app_load.py RUN [--users 50] [--seconds 60] [--bad 500] [--out app-load.json]

Starts `betadiffusion app RUN` as a program of its own and asks it over loopback, in two minutes with the defaults.
Each user drops an image of its own and moves the slider without a pause, every fifth time waiting for the walk; every
picture that comes back is compared with what the pipeline makes of that user's image. Prints a markdown table and
writes JSON; exits with 1 where an answer was wrong. Linux only: the server's memory is read from /proc.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from betadiffusion.app.runs import Run
from betadiffusion.cli.loading import load_pipeline

LEVELS = (0.0, 0.35, 0.7)
STEPS = 20
SLIDER = 60  # movements that are timed alone


class Explorer:
    """The server, asked as its page asks it."""

    def __init__(self, run: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        started = time.perf_counter()
        command = [sys.executable, "-m", "betadiffusion", "app", str(run), "--port", str(port)]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.server.stdout is not None
        self.server.stdout.readline()
        self.serving = time.perf_counter() - started
        self.serving_cpu = self.cpu()
        config = httpx.get(f"{self.address}/config", timeout=60).json()
        self.functions = {each["api_name"]: each["id"] for each in config["dependencies"]}

    def cpu(self) -> float:
        """Seconds of processor time that the server has taken."""
        user, system = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """The server's resident memory, MB."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    async def ask(self, http: httpx.AsyncClient, name: str, data: list[Any], session: str) -> dict[str, Any]:
        """The last message on a request; {"success": False, ...} where it was refused at once."""
        body = {"data": data, "fn_index": self.functions[name], "session_hash": session}
        joined = await http.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return {"success": False, "refused": joined.status_code, "text": joined.text}
        async with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
                if message["msg"] == "process_completed":
                    return message
        return {"success": False, "text": "the stream ended"}


def png(pixels: np.ndarray) -> bytes:
    """(C,H,W) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(html: str) -> list[bytes]:
    """The pixels of every picture in a piece of HTML."""
    found = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))).tobytes() for each in found]


def file_data(path: str, **more: Any) -> dict[str, Any]:
    """A file as the page names one."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def expectations(run: Run, images: list[np.ndarray]) -> list[dict[float, list[bytes]]]:
    """By user and level the pictures that must come: the original, what the VAE keeps, and the walk's end."""
    every = []
    for image in images:
        x = run.fit(image)
        original = x[0].numpy().transpose(1, 2, 0).squeeze().tobytes()
        levels = {}
        for level in LEVELS:
            noise = [torch.Generator().manual_seed(0) for _ in range(2)]
            kept = run.pipeline.reconstruct(x, level, noise[0]).images[0]
            walked = run.pipeline.denoise(x, level, STEPS, generator=noise[1]).images[0]
            levels[level] = [original, np.asarray(kept).tobytes(), np.asarray(walked).tobytes()]
        every.append(levels)
    return every


async def slider(explorer: Explorer) -> list[float]:
    """Seconds from a movement of the slider to the VAE's pictures, one at a time."""
    times = []
    async with httpx.AsyncClient(base_url=explorer.address, timeout=60) as http:
        for i in range(SLIDER):
            started = time.perf_counter()
            answer = await explorer.ask(http, "dial", [STEPS, 0, None, 0, round(i / SLIDER, 2)], "slider")
            assert answer["success"], answer
            times.append(time.perf_counter() - started)
    return times[5:]


async def load(explorer: Explorer, images: list[np.ndarray], expected: list[Any], seconds: float) -> dict[str, Any]:
    """All users at once: numbers of right, wrong and failed answers, their times, and the memory on the way."""
    counts = {"right": 0, "wrong": 0, "failed": 0}
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def user(number: int) -> None:
        session, turn = f"user{number}", number
        async with httpx.AsyncClient(base_url=explorer.address, timeout=120) as http:
            sent = await http.post("/gradio_api/upload", files={"files": ("a.png", png(images[number]))})
            answer = await explorer.ask(http, "image-upload", [file_data(sent.json()[0])], session)
            assert answer["success"], answer
            while time.perf_counter() < end:
                turn += 1
                level = LEVELS[turn % len(LEVELS)]
                data = [STEPS, 0, None, None, level]
                started = time.perf_counter()
                answer = await explorer.ask(http, "dial", data, session)
                times.append(time.perf_counter() - started)
                judge(answer, expected[number][level][:2])
                if turn % 5 == 0 and answer["success"]:
                    judge(await explorer.ask(http, "dial-walked", data, session), expected[number][level][2:])

    def judge(answer: dict[str, Any], right: list[bytes]) -> None:
        if not answer["success"]:
            counts["failed"] += 1
        else:
            counts["right" if pictures(answer["output"]["data"][0]) == right else "wrong"] += 1

    async def watch() -> list[float]:
        memory = []
        while time.perf_counter() < end:
            memory.append(explorer.memory())
            await asyncio.sleep(1)
        return memory

    memory, *_ = await asyncio.gather(watch(), *(user(i) for i in range(len(images))))
    third = memory[len(memory) // 3 : len(memory) // 3 + 5]
    return {
        **counts, "users": len(images), "seconds": seconds, "median_s": statistics.median(times),
        "p95_s": float(np.quantile(times, 0.95)), "memory_after_warm_up_mb": statistics.median(third),
        "memory_at_the_end_mb": statistics.median(memory[-5:]),
    }  # fmt: skip


def bad_requests(count: int, good: bytes) -> list[tuple[str, Any]]:
    """Requests that must be refused: ("get", path), ("upload", bytes), or (a function, its data)."""
    random = np.random.default_rng(0)
    header = bytearray(good)
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    kinds: list[tuple[str, Any]] = [
        ("upload", good[: len(good) // 2]), ("upload", bytes(header)), ("upload", b"%PDF-1.4 nothing"),
        ("upload", b""), ("upload", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"),
        ("upload", b"\0" * 21_000_000), ("dial", [STEPS, 0, None, 0, 2]), ("dial", [STEPS, 0, None, 10**9, 0.5]),
        ("dial", [10**9, 0, None, 0, 0.5]), ("dial", ["a", {}, [], None, "b"]), ("dial", []), ("dial", None),
        ("dial", [STEPS, float(2**80), None, 0, 0.5]), ("interpolate", [STEPS, 0, None, 0, None, 1, 0.5, 10**9, ""]),
        ("interpolate", [STEPS, 0, None, 0, None, 1, 0.5, 5, "0-999999999999"]),
        ("interpolate", [STEPS, 0, None, 0, None, 1, 0.5, 5, "../../etc/passwd"]),
        ("generate", [0, 10**9, 20, "multistep", 0]), ("generate", [0, 4, 20, "/etc/passwd", 0]),
        ("image-upload", [file_data("/etc/passwd")]), ("image-upload", [file_data("../../../../etc/passwd")]),
        ("image-upload", [file_data("file:///etc/passwd")]), ("image-upload", [file_data("http://127.0.0.1:1/a.png")]),
        ("image-upload", [file_data("/proc/self/environ", url="http://127.0.0.1:1/a.png")]),
        ("image-upload", ["/etc/passwd"]), ("get", "/gradio_api/file=/etc/passwd"),
        ("get", "/gradio_api/file=../../../../etc/passwd"), ("get", "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd"),
        ("get", "/static/..%2f..%2f..%2f..%2fetc/passwd"), ("get", "/gradio_api/proxy=http://127.0.0.1:1/"),
        ("get", "/gradio_api/file=C:/Windows/win.ini"), ("get", "/" + "a" * 5_000),
    ]  # fmt: skip
    return [kinds[i] for i in random.integers(0, len(kinds), count)]


async def refusals(explorer: Explorer, requests: list[tuple[str, Any]]) -> dict[str, int]:
    """How the bad requests were answered; "leaked" counts answers with a piece of a file of the system."""
    counts = {"refused": 0, "accepted": 0, "unanswered": 0, "leaked": 0}
    gate = asyncio.Semaphore(8)

    async def one(number: int, kind: str, data: Any) -> None:
        async with gate, httpx.AsyncClient(base_url=explorer.address, timeout=60) as http:
            try:
                answer, text = await send(http, kind, data, f"bad{number}")
            except (httpx.HTTPError, json.JSONDecodeError):
                counts["unanswered"] += 1
                return
            counts["leaked"] += "root:" in text or "PATH=" in text
            counts["accepted" if answer else "refused"] += 1

    async def send(http: httpx.AsyncClient, kind: str, data: Any, session: str) -> tuple[bool, str]:
        if kind == "get":
            response = await http.get(data)
            return response.status_code < 400, response.text
        if kind == "upload":
            response = await http.post("/gradio_api/upload", files={"files": ("../../a.png", data)})
            if response.status_code >= 400:
                return False, response.text
            kind, data = "image-upload", [file_data(response.json()[0])]
        answer = await explorer.ask(http, kind, data, session)
        return bool(answer["success"]), json.dumps(answer)

    await asyncio.gather(*(one(i, *request) for i, request in enumerate(requests)))
    return counts


def in_browser(address: str) -> dict[str, float]:
    """Seconds to a usable page in Chromium, and milliseconds from the slider's event to the new picture; {} without."""
    import shutil

    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return {}
    move = """() => new Promise(done => {
      const box = document.querySelector('#kept'), slider = document.querySelector('#level input[type=range]');
      const before = box.querySelectorAll('img')[1].src;
      const seen = new MutationObserver(() => {
        const image = box.querySelectorAll('img')[1];
        if (image && image.src !== before) { seen.disconnect(); done(performance.now() - start); }
      });
      seen.observe(box, {subtree: true, childList: true, attributes: true});
      const start = performance.now();
      slider.value = slider.value > 0.5 ? slider.value - 0.37 : +slider.value + 0.35;
      slider.dispatchEvent(new Event('input', {bubbles: true}));
    })"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        started = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("#kept img")
        usable = time.perf_counter() - started
        page.wait_for_timeout(1_000)
        times = []
        for _ in range(30):
            times.append(page.evaluate(move))
            page.wait_for_timeout(300)
        browser.close()
    return {"page_s": usable, "slider_ms_median": statistics.median(times), "slider_ms_p95": np.quantile(times, 0.95)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--bad", type=int, default=500, help="bad requests")
    parser.add_argument("--out", type=Path, default=Path("app-load.json"))
    options = parser.parse_args()
    run = Run(options.run, load_pipeline(options.run))
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, run.pipeline.vae.image_shape, dtype=np.uint8) for _ in range(options.users)]
    print("what must come is computed", flush=True)
    expected = expectations(run, images)
    explorer = Explorer(options.run)
    try:
        numbers: dict[str, Any] = {"start_s": explorer.serving, "start_cpu_s": explorer.serving_cpu}
        numbers["cores"] = os.cpu_count()
        numbers["browser"] = in_browser(explorer.address)
        alone = asyncio.run(slider(explorer))
        numbers["slider_s"] = {"median": statistics.median(alone), "p95": float(np.quantile(alone, 0.95))}
        print(f"{options.users} users for {options.seconds:g} s", flush=True)
        numbers["load"] = asyncio.run(load(explorer, images, expected, options.seconds))
        print(f"{options.bad} bad requests", flush=True)
        numbers["bad"] = asyncio.run(refusals(explorer, bad_requests(options.bad, png(images[0]))))
        asyncio.run(slider(explorer))  # it serves on
        numbers["memory_after_bad_mb"] = explorer.memory()
    finally:
        explorer.server.terminate()
        explorer.server.wait(30)
    options.out.write_text(json.dumps(numbers, indent=1))
    print("| what | number |\n| --- | ---: |")
    for name, value in numbers.items():
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"| {' '.join(filter(None, (name, part)))} | {number:.4g} |")
    fine = numbers["load"]["wrong"] == numbers["bad"]["accepted"] == numbers["bad"]["leaked"] == 0
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
