"""GET /metrics: who may read it."""

import pytest

from tests.web.conftest import Site


def test_anybody_may_scrape_where_no_key_is_set(site):
    reply = site.get("/metrics")
    assert (reply.status_code, reply.text) == (200, "up 1\n")
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4"


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic sk-metrics", "Bearer sk-admin", "Bearer sk-client"])
def test_a_key_of_its_own_is_wanted_where_one_is_set(given):
    site = Site(admin_keys=(b"sk-admin",), client_keys=(b"sk-client",), metrics_keys=(b"sk-metrics",))
    reply = site.get("/metrics", headers={"Authorization": given} if given else {})
    assert (reply.status_code, reply.json["error"]["code"]) == (401, "invalid_api_key")
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert site.get("/metrics", headers={"Authorization": "Bearer sk-metrics"}).status_code == 200


def test_keys_of_the_admin_side_do_not_close_it():
    assert Site(admin_keys=(b"sk-admin",)).get("/metrics").status_code == 200
