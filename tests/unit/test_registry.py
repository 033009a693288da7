from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes import FakeBackend

from inference import registry
from inference.errors import BackendNotFoundError, BackendUnavailableError


@pytest.fixture
def only_fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry that knows no installed backend."""
    monkeypatch.setattr(registry, "_installed", dict)
    monkeypatch.setattr(registry, "_registered", {})
    yield


pytestmark = pytest.mark.usefixtures("only_fakes")


def test_metal_comes_before_rocm_before_llama_cpp_before_the_others_by_name() -> None:
    for name in ("zeta", "llama_cpp", "alpha", "rocm", "metal"):
        registry.register(FakeBackend(name))
    assert [backend.name for backend in registry.list_backends()] == ["metal", "rocm", "llama_cpp", "alpha", "zeta"]


@pytest.mark.parametrize(
    ("unavailable", "chosen"),
    [((), "metal"), (("metal",), "rocm"), (("metal", "rocm"), "llama_cpp"), (("metal", "rocm", "llama_cpp"), "torch")],
)
def test_the_default_is_the_first_available_one(unavailable: tuple[str, ...], chosen: str) -> None:
    for name in ("torch", "llama_cpp", "rocm", "metal"):
        registry.register(FakeBackend(name, available=name not in unavailable))
    assert registry.default_backend().name == chosen


def test_a_backend_that_wants_to_be_asked_for_is_never_the_default() -> None:
    registry.register(FakeBackend("metal", automatic=False))
    registry.register(FakeBackend("torch"))
    assert registry.default_backend().name == "torch"


def test_without_an_available_backend_each_reason_and_cure_is_told() -> None:
    registry.register(FakeBackend("metal", available=False))
    registry.register(FakeBackend("rocm", available=False))
    with pytest.raises(BackendUnavailableError, match=r"metal: .*Try: install metal.*rocm: .*Try: install rocm"):
        registry.default_backend()


def test_without_any_backend_the_way_to_one_is_told() -> None:
    with pytest.raises(BackendUnavailableError, match="pip install"):
        registry.default_backend()


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    registry.register(FakeBackend("torch"))
    with pytest.raises(BackendNotFoundError, match=r"'tensorrt'.*Known: torch"):
        registry.get_backend("tensorrt")


def test_registering_a_name_again_overwrites_and_unregistering_forgets() -> None:
    first, second = FakeBackend("torch"), FakeBackend("torch")
    registry.register(first)
    registry.register(second)
    assert registry.get_backend("torch") is second
    registry.unregister("torch")
    with pytest.raises(BackendNotFoundError):
        registry.get_backend("torch")


def test_a_registered_backend_takes_the_place_of_an_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed, mine = FakeBackend("llama_cpp"), FakeBackend("llama_cpp")
    monkeypatch.setattr(registry, "_installed", lambda: {"llama_cpp": installed})
    assert registry.get_backend("llama_cpp") is installed
    registry.register(mine)
    assert registry.get_backend("llama_cpp") is mine
    assert registry.list_backends() == [mine]


def test_an_installed_backend_that_cannot_be_imported_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        name, value = "broken", "nowhere:Backend"

        def load(self) -> object:
            raise ImportError("no module named nowhere")

    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Broken()])
    registry._installed.cache_clear()
    try:
        assert registry._installed() == {}
        assert "nowhere" in caplog.text
    finally:
        registry._installed.cache_clear()
