"""The table of paths is what the app serves, asks keys for, answers before the router, counts and traces."""

from __future__ import annotations

import asyncio

import pytest
from starlette.routing import Route

from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.http.guard import Guard
from serve_app.model.state import ServedModel, State
from serve_app.paths import HOT, PATHS, name_of
from tests.serve_app.http.test_guard import KEYS, call, scope_of


def test_the_apps_routes_are_the_table(models: dict[str, ServedModel]):
    app = create_app(State(models["transactions"]), ApiKeys())
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes)
    assert {(route.path, *(route.methods or set()) - {"HEAD"}) for route in routes} == {
        (path.path, path.method) for path in PATHS
    }
    (guard,) = [middleware for middleware in app.user_middleware if middleware.cls is Guard]
    assert set(guard.kwargs["handlers"]) == HOT


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.path)
def test_a_path_asks_for_a_key_where_the_table_says_so(models: dict[str, ServedModel], path):
    app = create_app(State(models["transactions"]), KEYS)
    status = asyncio.run(call(app, scope_of(path.path, path.method))).status
    assert (status == 401) == path.needs_key and status != 404


def test_every_path_has_its_own_name_in_counts_and_traces():
    assert {name_of(path.path) for path in PATHS} == {path.path for path in PATHS}
    assert name_of("/score/4929") == name_of("") == "other"
