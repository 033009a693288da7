"""One folder of the user's for what can be made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference import user_cache
from inference.user_cache import cache_folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)


def test_it_is_in_the_home_directory_and_not_made_by_asking(tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / ".cache" / "native-inference"
    assert not cache_folder().exists()


def test_the_environment_names_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/native-inference")


def test_on_windows_it_is_with_the_local_data_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() != Path("/local/native-inference")
    monkeypatch.setattr(user_cache.sys, "platform", "win32")
    assert cache_folder() == Path("/local/native-inference")
