"""Skipping a test so that it is noticed: nobody reads the reasons of skipped tests."""

from __future__ import annotations

from typing import NoReturn

import pytest


def skip_loudly(request: pytest.FixtureRequest, reason: str) -> NoReturn:
    """Skip, and say so on the terminal once."""
    plugins = request.config.pluginmanager
    reporter, capture = map(plugins.get_plugin, ("terminalreporter", "capturemanager"))
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\n{reason}", yellow=True, bold=True)
    pytest.skip(reason)
