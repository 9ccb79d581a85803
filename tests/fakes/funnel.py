"""Stand-ins for what lies between the internet and the webhook: Funnel, public DNS, a CA."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.ports import keep_port, port_of

BAD_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class Funnel:
    """Ends TLS (given a context) and passes bytes on to `target`, as tailscaled does.

    Use as `async with Funnel() as funnel:`. `target` (host and port) and `stalled` may
    be changed at any time; `close` is Funnel being off, `open` is it coming back on the
    same port. A target that takes no connection is answered for with 502.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.target: tuple[str, int] = ("127.0.0.1", 1)
        self.stalled = False
        self._kept = keep_port()
        self.port = port_of(self._kept)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Funnel:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
        self._kept.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.context
        )

    async def close(self) -> None:
        """Take no connection any more, and cut those that there are."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def change(self, context: ssl.SSLContext) -> None:
        """Go on with another certificate."""
        await self.close()
        self.context = context
        await self.open()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.stalled:
            await asyncio.Event().wait()
        try:
            back, forth = await asyncio.open_connection(*self.target)
        except OSError:
            writer.write(BAD_GATEWAY)
            await writer.drain()
            await reader.read()
            return
        try:
            there = asyncio.create_task(_copy(reader, forth))
            await _copy(back, writer)
            there.cancel()
        finally:
            forth.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(1 << 16):
        sink.write(chunk)
        await sink.drain()


class PublicDns(asyncio.DatagramProtocol):
    """A DNS server on loopback that knows `addresses` (name -> addresses) and no other.

    `silent`: it takes questions and says nothing. `failing`: it answers SERVFAIL.
    """

    def __init__(self, addresses: Mapping[str, list[str]]) -> None:
        self.addresses = dict(addresses)
        self.silent = False
        self.failing = False
        self.asked: list[tuple[str, str]] = []
        self.address = ""
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> PublicDns:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        host, port = self._transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._transport is not None
        self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name, kind))
        if self.silent:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.addresses:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            wanted = [a for a in self.addresses[name] if (":" in a) is (kind == "AAAA")]
            if wanted:
                record = dns.rrset.from_text_list(f"{name}.", 0, "IN", kind, wanted)
                answer.answer.append(record)
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), addr)


class Authority:
    """A certificate authority of its own; `file` (PEM) is what makes a client trust it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("an authority of the tests")
        itself = _certificate(self._name, self._key, self._name, self._key, days=1)
        self.file = folder / "authority.pem"
        self.file.write_bytes(itself.public_bytes(serialization.Encoding.PEM))

    def context(self, name: str, *, days: int = 1) -> ssl.SSLContext:
        """For a server called `name`; its certificate ends in `days`, perhaps past."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(_name(name), key, self._name, self._key, days, name)
        file = self._folder / f"{name}.{days}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + made.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
    host: str = "",
) -> x509.Certificate:
    """One for `host`, or without one that of the authority itself."""
    now = datetime.now(UTC)
    usage = {
        name: name == ("key_cert_sign" if not host else "digital_signature")
        for name in (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not host, path_length=None), True)
        .add_extension(x509.KeyUsage(**usage), True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            False,
        )
    )
    if host:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), False
        )
    return builder.sign(signer, hashes.SHA256())
