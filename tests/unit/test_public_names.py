from __future__ import annotations

import subprocess
import sys

import pytest

import inference


@pytest.mark.parametrize("name", inference.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(inference, name).__module__.startswith("inference.")


def test_the_public_names_are_those_that_type_checkers_see() -> None:
    assert set(inference.__all__) <= set(dir(inference))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'load_modle'"):
        _ = inference.load_modle


@pytest.mark.parametrize("statement", ["import inference", "from inference import *"])
def test_importing_the_core_imports_the_standard_library_alone(statement: str) -> None:
    program = f"""
import sys
before = set(sys.modules)
{statement}
names = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(names - set(sys.stdlib_module_names) - {{"inference"}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
