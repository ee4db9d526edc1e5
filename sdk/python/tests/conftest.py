"""A real server for the tests that need one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crossdock


def _binary() -> str | None:
    target = os.environ.get("CARGO_TARGET_DIR", str(Path(__file__).parents[3] / "target"))
    built = [Path(target) / profile / "crossdock" for profile in ("debug", "release")]
    given = os.environ.get("CROSSDOCK_BIN")
    return given or next((str(path) for path in built if path.exists()), None) or shutil.which("crossdock")


def _port_base() -> int:
    """The first of three ports that are free now, below those that the system gives away by itself."""
    while True:
        base = random.randrange(10_000, 32_000, 3)
        try:
            for port in range(base, base + 3):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue


class Platform:
    """A quickstart in a folder of its own, always on the same ports."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        self.base = _port_base()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # What leads to somebody's real server must not be found.
        env = {n: v for n, v in os.environ.items() if not n.startswith("CROSSDOCK_")}
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [self.binary, "quickstart", str(self.folder / "data"), "--port-base", str(self.base)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**env, "HOME": str(self.folder)},
            )  # fmt: skip
        until = time.monotonic() + 60
        while "ready in" not in (self.folder / "log").read_text():
            alive = self.process.poll() is None and time.monotonic() < until
            assert alive, (self.folder / "log").read_text()
            time.sleep(0.02)
        context = json.loads((self.folder / "data" / "context.json").read_text())
        self.url, self.user, self.password = context["broker_url"], context["user"], context["password"]
        self.gateway = context["gateway_url"]
        self.login = {"CROSSDOCK_USER": self.user, "CROSSDOCK_PASSWORD": self.password}
        self.env = {**env, **self.login, "HOME": str(self.folder), "CROSSDOCK_URL": context["url"]}

    def kill(self) -> None:
        """As a power cut would end it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def connect(self, **options: Any) -> crossdock.Client:
        return crossdock.connect(self.url, **{"user": self.user, "password": self.password, **options})

    def apply(self, **configuration: Any) -> None:
        """Makes what is described as in a configuration file."""
        path = self.folder / "apply.yaml"
        path.write_text(json.dumps(configuration))
        self.apply_file(path)

    def apply_file(self, path: Path) -> None:
        done = subprocess.run(
            [self.binary, "apply", str(path)], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def host(self, file: Path, *more: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Hosts a service from outside."""
        path = str(Path(crossdock.__file__).parent)
        return subprocess.Popen(
            [sys.executable, "-m", "crossdock", "run", str(file), "--broker", self.url, *more],
            env={**self.env, "PYTHONPATH": path, **(env or {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture(scope="session")
def binary() -> str:
    found = _binary()
    if found is None:
        if os.environ.get("CROSSDOCK_TEST_SERVER"):
            pytest.fail("there is no crossdock binary; build it, or name it in CROSSDOCK_BIN")
        pytest.skip("no crossdock binary; build it, or name it in CROSSDOCK_BIN")
    return found


@pytest.fixture(scope="session")
def platform(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A server that all tests share; it stays up."""
    platform = Platform(binary, tmp_path_factory.mktemp("platform"))
    try:
        platform.start()
        yield platform
    finally:
        platform.kill()


@pytest.fixture
def own_platform(binary: str, tmp_path: Path) -> Iterator[Platform]:
    """A server of the test's own, to be killed."""
    platform = Platform(binary, tmp_path)
    try:
        platform.start()
        yield platform
    finally:
        platform.kill()
