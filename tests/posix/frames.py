"""Random, truncated, mutated and unproven frames for one RPC port (docs/formats/wire.md).

usage: frames.py PORT SECRET_FILE CONNECTIONS SERVER_PID

Fails if a server answers what it must not, does not answer an honest request, or hangs. Ends with clients that have
proven themselves, ask for much and take no answer: what the server holds for all of them is bounded.
"""

import hashlib
import hmac
import os
import random
import select
import socket
import struct
import sys
import time

MAGIC, VERSION, RESPONSE = 0xC0F5, 1, 1
# Version of the protocol: both sides must speak the same.
PROTOCOL = 2
HELLO, PROOF, ECHO, GETATTR = 0x0301, 0x0302, 0x0313, 0x0102
OPCODES = [*range(0x0101, 0x0116), *range(0x0201, 0x0205), *range(0x0301, 0x0304), *range(0x0310, 0x0314)]
OPS = 29
CHALLENGE, WELCOME, REFUSED = 0, 1, 2
SLOW_READERS, SLOW_BYTES, SLOW_KIB_MAX = 20, 2 << 20, 96 << 10

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def frame(opcode, extension, payload=b"", flags=0, request=1, claimed=None):
    """`claimed`: the payload's length as the header says it."""
    length = len(payload) if claimed is None else claimed
    head = struct.pack("<HBBHHIII", MAGIC, VERSION, flags, opcode, len(extension), request, length, crc32c(extension + payload))
    return head + struct.pack("<I", crc32c(head)) + extension + payload


class Peer:
    """A connection that gives up, never hangs."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)

    def send(self, data):
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                return None
            data += part
        return data

    def receive(self):
        """Opcode, flags, extension and payload of the next frame; None where the server hung up."""
        try:
            head = self.exactly(24)
            if head is None:
                return None
            _, _, flags, opcode, extension, _, payload, _, crc = struct.unpack("<HBBHHIIII", head)
            assert crc == crc32c(head[:20]), "the server's header"
            return opcode, flags, self.exactly(extension), self.exactly(payload)
        except ConnectionError:
            return None

    def close(self):
        self.socket.close()


def hello(nonce, version=PROTOCOL):
    return frame(HELLO, varint(version) + nonce + varint(0) + varint(random.getrandbits(63)) + b"\0")


def another_version_is_told_ours_and_let_go(port):
    for version in (PROTOCOL - 1, PROTOCOL + 1):
        peer = Peer(port)
        assert peer.send(hello(os.urandom(32), version))
        _, _, challenge, _ = peer.receive()
        assert challenge[:2] == bytes([CHALLENGE, PROTOCOL]), challenge
        assert peer.receive() is None, "the connection is over"


def proven(port, secret):
    """A connection past its handshake, and the session the server gave it."""
    peer, nonce = Peer(port), os.urandom(32)
    assert peer.send(hello(nonce))
    _, _, challenge, _ = peer.receive()
    assert challenge[0] == CHALLENGE
    theirs, proof = challenge[2:34], challenge[34:66]
    assert proof == hmac.digest(secret, b"server" + nonce + theirs, hashlib.sha256), "the server's proof"
    peer.send(frame(PROOF, hmac.digest(secret, b"client" + theirs + nonce, hashlib.sha256), request=2))
    _, _, welcome, _ = peer.receive()
    assert welcome[0] == WELCOME, welcome
    session, shift = 0, 0
    for byte in welcome[1:]:
        session |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return peer, session


def request(session, op, rest, shard=0):
    """Map epoch 1, numbers 0, a second's deadline, clock and volume 0, root's identity, no trace."""
    context = [1, session, 0, 0, 1000, 0, 0, 0, 0]
    return bytes([shard]) + b"".join(varint(v) for v in context) + b"\0" + varint(op) + rest


def honest_request_is_answered(port, secret):
    peer, session = proven(port, secret)
    op = OPS - 1
    assert peer.send(frame(ECHO, request(session, op, b""), request=3))
    answer = peer.receive()
    assert answer is not None and answer[1] & RESPONSE, answer
    peer.close()


def noise(port, rng):
    peer = Peer(port)
    peer.send(rng.randbytes(rng.choice([1, 23, 24, 25, 200, 5000])))
    peer.close()


def unproven(port, rng):
    """Whatever is asked before the proof: no answer but a challenge or a refusal."""
    peer = Peer(port)
    opcode = rng.choice(OPCODES)
    peer.send(frame(opcode, rng.randbytes(rng.randrange(200)), flags=rng.choice([0, 1, 2, 16])))
    answer = peer.receive()
    assert answer is None or (answer[0] == HELLO and answer[2][0] in (CHALLENGE, REFUSED)), answer
    peer.close()


def wrong_proof(port, rng):
    peer = Peer(port)
    peer.send(hello(rng.randbytes(32)))
    assert peer.receive()[2][0] == CHALLENGE
    peer.send(frame(PROOF, rng.randbytes(32), request=2))
    answer = peer.receive()
    assert answer is None or answer[2][0] == REFUSED, answer
    assert answer is None or peer.receive() is None, "open after a refusal"
    peer.close()


def proof_skipped(port, rng):
    peer = Peer(port)
    peer.send(hello(rng.randbytes(32)))
    assert peer.receive()[2][0] == CHALLENGE
    peer.send(frame(GETATTR, request(1, 1, varint(1)), request=2))
    assert peer.receive() is None, "served without a proof"
    peer.close()


def great_claims(port, rng):
    """Lengths that never come: nothing may be set aside for them."""
    peer = Peer(port)
    peer.send(frame(HELLO, b"", claimed=rng.choice([2_162_688, 2_162_689, 0xFFFFFFFF])))
    return peer


def mutated(peer, session, rng):
    """A request of a proven client, damaged in its body, header or both, most with checksums that hold."""
    number = rng.randrange(1 << 40, 1 << 42)
    op = rng.randrange(OPS + 2)
    body = bytearray(request(session, op, varint(number << 8) + rng.randbytes(rng.randrange(40))))
    for _ in range(rng.randrange(4)):
        body[rng.randrange(min(len(body), 30))] = rng.randrange(256)
    data = bytearray(frame(rng.choice(OPCODES[:25] + [0x0311, 0x0313, 0x0999]), bytes(body), rng.randbytes(rng.choice([0, 0, 100])), rng.choice([0, 0, 0, 2, 1, 16]), rng.randrange(1 << 32)))
    if rng.random() < 0.1:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return peer.send(bytes(data))


def slow_reader(port, secret, payload):
    """Sends long echoes until the server takes no more, and reads nothing."""
    peer, session = proven(port, secret)
    peer.socket.settimeout(0.2)
    echo = frame(ECHO, request(session, OPS - 1, b""), payload)
    for _ in range(24):
        if not peer.send(echo):
            break
    return peer


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def drain(peer):
    """Takes what has arrived; whether the connection still stands."""
    while select.select([peer.socket], [], [], 0.002)[0]:
        try:
            if not peer.socket.recv(1 << 16):
                return False
        except OSError:
            return False
    return True


def main():
    port, secret, count, pid = int(sys.argv[1]), open(sys.argv[2], "rb").read(), int(sys.argv[3]), int(sys.argv[4])
    rng = random.Random(7)
    another_version_is_told_ours_and_let_go(port)
    honest_request_is_answered(port, secret)
    held = []
    for number in range(count):
        rng.choice([noise, unproven, wrong_proof, proof_skipped])(port, rng)
        if number % 5 == 0:
            held.append(great_claims(port, rng))
        if len(held) > 100:
            held.pop(0).close()
    honest_request_is_answered(port, secret)
    sent = 0
    for _ in range(count // 20):
        peer, session = proven(port, secret)
        for _ in range(100):
            sent += 1
            if not mutated(peer, session, rng) or not drain(peer):
                break
        peer.close()
    honest_request_is_answered(port, secret)
    payload = bytes(SLOW_BYTES)
    before = resident_kib(pid)
    slow = [slow_reader(port, secret, payload) for _ in range(SLOW_READERS)]
    since = time.monotonic()
    honest_request_is_answered(port, secret)
    assert time.monotonic() - since < 2, "an honest client waits for slow ones"
    grown = resident_kib(pid) - before
    assert grown < SLOW_KIB_MAX, f"{grown} KiB for slow readers"
    print(f"{count} unproven connections, {sent} mutated requests of proven ones, {len(slow)} slow readers that hold {grown} KiB")


main()
