"""The type names: they exist at run time too, for tools that read annotations."""

from __future__ import annotations

import typing as typing_module

import pytest

from bridges import typing
from bridges.translate import environ, start_response


@pytest.mark.parametrize("name", typing.__all__)
def test_each_name_exists_at_run_time(name: str) -> None:
    """Every exported type is there without a type checker."""
    assert getattr(typing, name) is not None


@pytest.mark.parametrize(
    "function", [environ.environ_from_scope, start_response.ResponseState.start]
)
def test_annotations_can_be_evaluated(function: object) -> None:
    """Frameworks that read annotations at run time find types, no unknown names."""
    hints = typing_module.get_type_hints(function)
    assert "return" in hints
