"""Starts the Chromium of the system through Playwright; nothing is downloaded."""

import contextlib
import shutil

PATH = shutil.which("chromium")
SIZES = {390: 844, 768: 1024, 1280: 800}  # height by width, in pixels


@contextlib.contextmanager
def started():
  """Yields a browser without a window."""
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    # Chromium has no sandbox in most containers, and the pages are our own.
    browser = playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox"])
    with contextlib.closing(browser):
      yield browser
