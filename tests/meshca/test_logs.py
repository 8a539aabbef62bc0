import asyncio
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca import logs
from meshca.server.requests import RequestIDs

logger = logging.getLogger("meshca.test")

KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
BODY = KEY.splitlines()[1]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def logged(stream: io.StringIO) -> dict[str, object]:
    """The only line that was logged."""
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_an_event_is_one_json_object_with_its_fields_and_a_utc_time(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    fields = {
        "n": 1,
        "on": True,
        "none": None,
        "x": float("inf"),
        "at": at,
        "path": Path("/a"),
        "raw": b"abc",
        "all": {"k": ("v", 2)},
    }
    logger.info("issued", extra=fields)
    found = logged(stream)
    age = datetime.fromisoformat(str(found.pop("time"))) - datetime.fromtimestamp(0, UTC)
    assert age > timedelta(days=365)
    assert found == {
        "level": "info", "logger": "meshca.test", "event": "issued", "n": 1, "on": True, "none": None, "x": "inf",
        "at": "2026-01-02T01:04:05.000Z", "path": "/a", "raw": "[3 bytes]", "all": {"k": ["v", 2]},
    }  # fmt: skip


def test_an_event_on_the_console_is_one_line_whatever_a_caller_sent(stream: io.StringIO) -> None:
    logs.configure("console", "info", stream)
    logger.warning(
        "refused %s", "a\nb", extra={"name_": "x y", "evil": "\x1b[2J\n2026 INFO fine", "plain": "/a", "n": [1]}
    )
    line = stream.getvalue()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning refused a\\nb name_=\"x y\" "
        r'evil="\\u001b\[2J\\n2026 INFO fine" plain=/a n=\[1\] logger=meshca\.test\n',
        line,
    )


def test_a_field_can_not_stand_for_one_of_ours(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    logger.info("refused", extra={"level": "error", "event": "issued", "request_id": "forged"})
    found = logged(stream)
    assert (found["level"], found["event"], found.get("request_id")) == ("info", "refused", None)
    assert (found["level_"], found["event_"], found["request_id_"]) == ("error", "issued", "forged")


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize(
    "key",
    [KEY, KEY.replace("PRIVATE", "EC PRIVATE"), KEY[:100], repr(KEY), f"x{KEY}{KEY}y"],
    ids=["PKCS8", "SEC1", "cut", "repr", "two"],
)
def test_nothing_that_looks_like_a_private_key_is_ever_logged(form: logs.Format, key: str, stream: io.StringIO) -> None:
    logs.configure(form, "info", stream)
    logger.error("broke: %s", key)
    logger.error(
        "broke",
        extra={"field": key, "nested": {"deep": [key], key: 1}, "bytes": key.encode(), "error": ValueError(key)},
    )
    try:
        int(key)
    except ValueError as error:
        logger.exception("broke", exc_info=ValueError(key).with_traceback(error.__traceback__))
    assert BODY[:20] not in stream.getvalue()
    assert stream.getvalue().count(logs.REMOVED) >= 6
    if form == "json":
        assert all(json.loads(line) for line in stream.getvalue().splitlines())


def test_public_keys_and_certificates_are_not_redacted() -> None:
    text = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"
    assert logs.redact(text) == text


def test_a_traceback_is_a_field_in_json_and_indented_on_the_console(stream: io.StringIO) -> None:
    for form in ("json", "console"):
        logs.configure(form, "info", stream)
        try:
            {}["why"]
        except KeyError:
            logger.exception("chore broke")
    in_json, on_console, *trace = stream.getvalue().splitlines()
    assert json.loads(in_json)["exception"].endswith("KeyError: 'why'")
    assert on_console.endswith("error   chore broke logger=meshca.test")
    assert trace[-1] == "    KeyError: 'why'"
    assert all(line.startswith("    ") for line in trace)


def test_level_and_form_change_while_it_runs_and_libraries_that_chatter_are_quiet(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    logger.debug("hidden")
    logging.getLogger("apscheduler.scheduler").info("hidden")
    logs.configure("json", "debug", stream)
    logger.debug("shown")
    logging.getLogger("apscheduler.scheduler").info("shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events[:2] == ["shown", "shown"]
    assert "UserWarning: old" in events[2]


async def test_lines_of_one_request_carry_its_id_and_no_other(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)

    async def serve(name: str) -> None:
        with logs.request(name):
            await asyncio.sleep(0)
            logger.info(name)

    await asyncio.gather(serve("a"), serve("b"))
    logger.info("outside")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {each["event"]: each.get("request_id") for each in found} == {"a": "a", "b": "b", "outside": None}


async def test_each_call_over_grpc_has_a_request_id_of_its_own(stream: io.StringIO, tmp_path: Path) -> None:
    logs.configure("json", "info", stream)

    async def unary(request: bytes, _: object) -> bytes:
        logger.info("unary")
        await asyncio.sleep(0)
        logger.info("unary")
        return request

    async def streamed(_: bytes, __: object):  # noqa: ANN202 - an async generator
        for _ in range(2):
            logger.info("streamed")
            yield b""

    server = grpc.aio.server(interceptors=(RequestIDs(),))
    methods = {"U": grpc.unary_unary_rpc_method_handler(unary), "S": grpc.unary_stream_rpc_method_handler(streamed)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", methods),))
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        await channel.unary_unary("/t/U")(b"")
        assert [each async for each in channel.unary_stream("/t/S")(b"")] == [b"", b""]
    await server.stop(None)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    ids = {event: {each["request_id"] for each in found if each["event"] == event} for event in ("unary", "streamed")}
    assert len(ids["unary"]) == len(ids["streamed"]) == 1
    assert ids["unary"] != ids["streamed"]


def test_a_list_on_the_console_is_one_and_not_a_text_of_one(stream: io.StringIO) -> None:
    logs.configure("console", "info", stream)
    logger.info("reloaded", extra={"applied": ["log.level", 'a "b"'], "none": []})
    assert r"""applied=["log.level", "a \"b\""] none=[]""" in stream.getvalue()
