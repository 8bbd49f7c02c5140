"""What several tests need: where the shared material lies, small folders of drawn pictures."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """No test, nor a program that it starts, keeps photographs in its user's own cache."""
    folder = tempfile.mkdtemp(prefix="inceptcli-cache-")
    os.environ["INCEPTCLI_CACHE"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The material beside the checkout (real photographs, awkward files), or a skip."""
    folder = Path(os.environ.get("INCEPTCLI_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared material at {folder}; set INCEPTCLI_SHARED")
    return folder


def draw(path: Path, *, seed: int, label: int, size: tuple[int, int] = (40, 40)) -> Path:
    """A small noisy picture whose colour tells its class."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 80, (size[1], size[0], 3))
    pixels[..., label % 3] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of 20 drawn pictures each."""
    root = tmp_path / "photos"
    for label, name in enumerate(("cat", "dog", "eel")):
        for index in range(20):
            draw(root / name / f"{index:02d}.png", seed=100 * label + index, label=label)
    return root


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    arguments = (
        *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update"),
    )
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=arguments)
        yield running
        running.close()
