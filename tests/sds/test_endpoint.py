import pytest

from sds.endpoint import Endpoint, find_endpoint
from sds.errors import SDSError


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("UNIX:///run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/a-b_c.d~/x:y.sock", "unix:/run/a-b_c.d~/x:y.sock"),
        ("tcp://127.0.0.1:8000", "ipv4:127.0.0.1:8000"),
        ("tcp://[::1]:8000", "ipv6:[::1]:8000"),
        ("TCP://127.0.0.1:1", "ipv4:127.0.0.1:1"),
    ],
)
def test_a_valid_endpoint_is_read(uri: str, target: str):
    assert Endpoint.parse(uri).target == target


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/run/x.sock",
        "http://127.0.0.1:1",
        "npipe:pipe",
        "unix:x.sock",
        "unix:",
        "unix:///",
        "unix://run/x.sock",
        "unix://host:1/run/x.sock",
        "unix://user@/run/x.sock",
        "unix:///run/x.sock?a",
        "unix:///run/x.sock?",
        "unix:///run/x.sock#f",
        "unix:///run/x%20y.sock",
        "unix:///run/x.sock\n",
        " unix:///run/x.sock",
        "unix:///" + "x" * 200,
        "tcp://localhost:1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:8000/",
        "tcp://127.0.0.1:8000?",
        "tcp://127.0.0.1:8000#",
        "tcp://u@127.0.0.1:1",
        "tcp://127.0.0.256:1",
        "tcp://127.1:1",
        "tcp://[::1:1",
        "tcp://[1.2.3.4]:1",
        "tcp://[fe80::1%eth0]:1",
        "tcp://\u0661.0.0.1:1",
        "tcp:127.0.0.1:1",
    ],
)
def test_an_invalid_endpoint_is_refused_and_named(uri: str):
    with pytest.raises(SDSError) as refusal:
        Endpoint.parse(uri)
    assert uri[8:].strip() in str(refusal.value) or repr(uri) in str(refusal.value)


def test_the_configured_endpoint_wins_over_the_environment():
    environment = {"SPIFFE_ENDPOINT_SOCKET": "unix:///run/env.sock"}
    assert find_endpoint(None, environment) == Endpoint("unix:/run/env.sock")
    assert find_endpoint("unix:///run/flag.sock", environment) == Endpoint("unix:/run/flag.sock")
    with pytest.raises(SDSError, match="SPIFFE_ENDPOINT_SOCKET"):
        find_endpoint(None, {})
