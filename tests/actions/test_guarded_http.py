"""What the guarded client calls, follows and takes; real servers, and a resolver of the test's."""

import asyncio
import gzip
import ipaddress
import ssl
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from blocks.addresses import Allowed, is_public
from blocks.guarded_http import CallFailed, CallRefused, Guard, Request
from tests.actions.conftest import replied

HERE = Allowed.of(["127.0.0.1"])


def guard(names=None, allowed=HERE, **options):
    """Returns a guard, and the addresses that it is told of each name, one answer after another."""
    told = {name: [*answers] for name, answers in (names or {}).items()}

    async def resolve(host, port):
        if host not in told:
            return [host]
        return told[host].pop(0) if len(told[host]) > 1 else told[host][0]

    return Guard(allowed, resolve, **options)


async def call(target, path="/", by=None, within=10, **fields):
    method = fields.pop("method", "GET")
    return await (by or guard()).call(Request(method, f"{target.url}{path}", **fields), within)


# -- which addresses


@pytest.mark.parametrize(
    "address",
    [
        "192.0.0.8 192.0.0.192 192.88.99.1 168.63.129.16 3fff::1 ::ffff:168.63.129.16",
        "0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1",
        "192.0.0.1 192.0.2.1 192.168.0.1 198.18.0.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255",
        ":: ::1 ::7f00:1 fe80::1 fec0::1 fc00::1 fd00:ec2::254 ff02::1 2001:db8::1 100::1",
        "::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1",
        "2002:7f00:1:: 2002:a9fe:a9fe:: 2001:0:7f00:1:: 2001:0:5ef5:79fd::1",
    ],
)
def test_no_address_but_those_of_the_internet_is_public(address):
    assert [one for one in address.split() if is_public(ipaddress.ip_address(one))] == []


@pytest.mark.parametrize(
    "address", "8.8.8.8 1.1.1.1 2606:4700::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::".split()
)
def test_addresses_of_the_internet_are_public_however_they_are_written(address):
    assert is_public(ipaddress.ip_address(address))


def test_what_is_allowed_is_a_network_an_address_or_a_name():
    allowed = Allowed.of(["10.1.0.0/16", "fd00::1", "Intranet.example.com"])
    known = ["10.1.2.3", "10.2.0.1", "::ffff:10.1.0.1", "fd00::1", "fd00::2", "8.8.8.8", "nonsense"]

    assert allowed.fitting("other", known) == [
        *("10.1.2.3", "::ffff:10.1.0.1", "fd00::1", "8.8.8.8")
    ]
    assert allowed.fitting("intranet.EXAMPLE.com.", ["10.2.0.1"]) == ["10.2.0.1"]
    assert allowed.fitting("x.intranet.example.com", ["10.2.0.1"]) == []


@pytest.mark.parametrize(
    "host",
    "127.0.0.1 localhost 127.1 2130706433 0x7f000001 0177.0.0.1 [::1] [::ffff:127.0.0.1] 0".split(),
)
async def test_this_machine_is_not_called_however_it_is_written(target, host):
    url = f"http://{host}:{target.port}/"

    with pytest.raises((CallRefused, CallFailed), match=r"no public|not known|cannot be read"):
        await Guard().call(Request("GET", url), 10)

    assert target.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "//example.com/",
        "http://",
        "http://me:w0rd@example.com/",
        "http://exa mple.com/",
        "unix:/run/docker.sock",
    ],
)
async def test_only_http_and_https_without_credentials_are_called(url):
    with pytest.raises(CallRefused) as refused:
        await guard().call(Request("GET", url), 10)

    assert "w0rd" not in str(refused.value)


async def test_a_name_that_leads_elsewhere_a_moment_later_gains_nothing(target):
    """It is public when it is first looked up, and private when it is looked up again."""
    by = guard({"cheat.example.com": [["8.8.8.8", "127.0.0.1"], ["127.0.0.1"]]}, Allowed())
    tried = []

    inner = by.resolve

    async def resolve(host, port):
        found = await inner(host, port)
        tried.append(found)
        return found

    by = Guard(Allowed(), resolve)
    url = f"http://cheat.example.com:{target.port}/"
    with pytest.raises((CallFailed, CallRefused)):
        await by.call(Request("GET", url), 0.5)
    assert tried == [["8.8.8.8", "127.0.0.1"]]  # once, and what was not public was left out

    with pytest.raises(CallRefused, match="leads to no public address"):
        await by.call(Request("GET", url), 5)
    assert target.connections == 0


async def test_a_name_is_looked_up_once_for_a_connection(target):
    by = guard({"here.example.com": [["127.0.0.1"], ["10.0.0.1"]]})

    answer = await by.call(Request("GET", f"http://here.example.com:{target.port}/a"), 10)

    assert answer.status == 200
    assert target.seen[0].headers["host"] == f"here.example.com:{target.port}"


async def test_the_next_address_of_a_name_is_tried_where_the_first_is_away(target):
    by = guard({"two.example.com": [["127.0.0.2", "127.0.0.1"]]}, Allowed.of(["127.0.0.0/8"]))

    assert (await by.call(Request("GET", f"http://two.example.com:{target.port}/"), 10)).status


async def test_proxies_of_the_environment_are_not_used(target, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert (await call(target)).status == 200


# -- where it leads


def leading(to, status=302):
    return status, {"Location": to}, b""


async def test_a_redirect_to_a_private_address_is_not_followed(target):
    target.answers["/"] = leading("http://169.254.169.254/latest/meta-data/")

    with pytest.raises(CallRefused, match="leads to no public address"):
        await call(target)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://x/", "http://a:b@x/", "http://[x/"])
async def test_a_redirect_to_something_else_than_http_is_not_followed(target, to):
    target.answers["/"] = leading(to)

    with pytest.raises(CallRefused):
        await call(target)


async def test_five_redirects_are_followed_and_no_more(target):
    for number in range(9):
        target.answers[f"/{number}"] = leading(f"/{number + 1}")

    assert (await call(target, "/4")).status == 200

    target.seen.clear()
    with pytest.raises(CallFailed, match="leads on after 5 redirects"):
        await call(target, "/2")
    assert len(target.seen) == 6


@pytest.mark.parametrize(
    ("status", "expected"),
    [(301, ("GET", b"")), (303, ("GET", b"")), (307, ("POST", b"a")), (308, ("POST", b"a"))],
)
async def test_a_redirect_keeps_method_and_body_only_where_it_says_so(target, status, expected):
    target.answers["/"] = leading("/there", status)

    await call(target, method="POST", content=b"a", headers={"Content-Type": "text/plain"})

    assert (target.seen[1].method, target.seen[1].body) == expected
    assert ("content-type" in target.seen[1].headers) is (expected[0] == "POST")


async def test_secrets_are_for_one_host_only(target):
    by = guard({"other.example.com": [["127.0.0.1"]]})
    target.answers["/"] = leading(f"http://other.example.com:{target.port}/there")
    headers = {"Authorization": "Bearer s", "X-Key": "s", "X-Open": "o"}

    await call(target, by=by, headers=headers, secret=frozenset({"x-key"}))

    there = target.seen[1].headers
    assert (there.get("authorization"), there.get("x-key"), there["x-open"]) == (None, None, "o")


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding"])
async def test_headers_that_decide_what_the_request_is_are_not_the_callers(target, name):
    with pytest.raises(CallRefused, match="is set by Rota"):
        await call(target, headers={name: "x"})


# -- what comes back


async def test_a_body_beyond_the_limit_is_not_read_to_its_end(target):
    target.answers["/"] = (200, {}, b"x" * (8 << 20))

    with pytest.raises(CallFailed, match="answered with more than 1,048,576 bytes"):
        await call(target)


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
async def test_a_small_body_that_unpacks_to_a_large_one_is_stopped(target, packing):
    pack = gzip.compress if packing == "gzip" else zlib.compress
    target.answers["/"] = (200, {"Content-Encoding": packing}, pack(b"\0" * (200 << 20)))

    with pytest.raises(CallFailed, match="more than 1,048,576 bytes"):
        await call(target)


async def test_a_packed_body_that_was_not_asked_for_is_unpacked(target):
    target.answers["/"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(b"Hello"))

    assert (await call(target)).content == b"Hello"
    assert target.seen[0].headers["accept-encoding"] == "identity"


async def test_what_is_packed_in_another_way_or_broken_is_refused(target):
    target.answers["/br"] = (200, {"Content-Encoding": "br"}, b"x")
    target.answers["/gz"] = (200, {"Content-Encoding": "gzip"}, b"no gzip")

    with pytest.raises(CallFailed, match="packed as 'br', which was not asked for"):
        await call(target, "/br")
    with pytest.raises(CallFailed, match="cannot be unpacked"):
        await call(target, "/gz")


async def _serving(serve, **options):
    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.wall_clock
async def test_a_body_that_never_ends_is_left_when_the_time_is_up():
    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 -\r\nContent-Length: 100000\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)

    server, port = await _serving(drip)
    began = time.monotonic()
    with pytest.raises(CallFailed, match=r"GET http://127.0.0.1:\d+/ had no answer within 0.5 s"):
        await guard().call(Request("GET", f"http://127.0.0.1:{port}/?key=s3cret"), 0.5)
    assert time.monotonic() - began < 3
    server.close()


async def test_headers_without_end_are_refused():
    async def pour(reader, writer):
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 -\r\n")
            for number in range(100_000):
                writer.write(f"X-{number}: {'x' * 100}\r\n".encode())
                await writer.drain()

    server, port = await _serving(pour)
    with pytest.raises(CallFailed):
        await guard().call(Request("GET", f"http://127.0.0.1:{port}/"), 10)
    server.close()


async def test_errors_name_no_query_which_may_hold_secrets(unused_tcp_port):
    with pytest.raises(CallFailed) as failed:
        await guard().call(Request("GET", f"http://127.0.0.1:{unused_tcp_port}/a?key=s3cret"), 5)

    assert f"GET http://127.0.0.1:{unused_tcp_port}/a failed" in str(failed.value)
    assert "s3cret" not in str(failed.value)


# -- TLS


@pytest.fixture
def certified(tmp_path):
    """Returns the contexts of a server that is `good.example.com`, and of who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "good.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("good.example.com")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    held = tmp_path / "server.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    held.write_bytes(private + certificate.public_bytes(pem))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(held)
    return server, ssl.create_default_context(cafile=str(held))


async def test_a_certificate_is_checked_for_the_name_and_not_for_the_address(target, certified):
    serves, trusts = certified
    server, port = await _serving(target.serve, ssl=serves)
    target.answers["/"] = replied({"over": "TLS"})
    names = {name: [["127.0.0.1"]] for name in ("good.example.com", "evil.example.com")}

    def by(tls):
        return guard(names, tls=lambda: tls)

    good = Request("GET", f"https://good.example.com:{port}/")
    assert (await by(trusts).call(good, 10)).content == b'{"over": "TLS"}'
    evil = Request("GET", f"https://evil.example.com:{port}/")
    with pytest.raises(CallFailed, match="certificate"):
        await by(trusts).call(evil, 10)
    with pytest.raises(CallFailed, match="certificate"):
        await by(ssl.create_default_context()).call(good, 10)
    server.close()
