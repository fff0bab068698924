"""A trainer written from docs/protocol.md with nothing but Python's standard library.

It joins a run, receives the state, answers one step with a contribution of zero tokens, checks the
record that follows against the digest chain, and leaves. It computes no gradients and factorises
nothing: it takes part in refreshes without tokens, and leaves when it is asked for a factor. Bases that
every trainer would make for itself it does not make either; their records are checked like all others.
Usage: trainer.py ws://HOST:PORT/ TRAINER_ID [TOKEN]     without TOKEN that of GALORE_TOKEN
       trainer.py --vectors FOLDER    checks the conformance vectors and ends
"""
import base64
import hashlib
import os
import socket
import ssl
import struct
import sys
import time
from urllib.parse import urlsplit

import vectors
from vectors import read_varint, varint

HELLO, WELCOME, GOODBYE, READY, HEARTBEAT, NOTICE, PART, STEP_ASSIGNMENT = range(1, 9)
SKETCH_REQUEST, SKETCH, FACTOR_ASSIGNMENT, CONTRIBUTION, COMMIT, SNAPSHOT_END = 9, 10, 11, 13, 14, 19
UPDATE_WITHDRAWN = 21
STREAM_SNAPSHOT, STREAM_UPDATE, STREAM_BASIS = 1, 6, 7
LEAVING = 4015
KNOWN_CODECS = [1, 2, 4, 5]  # f32, int8, bf16, int4: vectors.py reads and writes them
MAX_FRAME_BYTES = 1114112


# ---- protobuf: a message is a list of (field number, wire type, value) ----


def uint(field, value):
    return varint(field << 3) + varint(value) if value else b""


def data(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value if value else b""


def body(kind, fields):
    return varint(kind << 3 | 2) + varint(len(fields)) + fields


def read_fields(buffer):
    """The last value of each field; numbers as int, everything else as bytes."""
    fields, at = {}, 0
    while at < len(buffer):
        tag, at = read_varint(buffer, at)
        if tag & 7 == 0:
            value, at = read_varint(buffer, at)
        else:
            length, at = (8, at) if tag & 7 == 1 else (4, at) if tag & 7 == 5 else read_varint(buffer, at)
            value, at = buffer[at : at + length], at + length
        fields[tag >> 3] = value
    return fields


def read_envelope(frame):
    ((kind, content),) = read_fields(frame).items()
    return kind, read_fields(content)


# ---- WebSocket ----


class WebSocket:
    def __init__(self, url):
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        self.socket = socket.create_connection((parts.hostname, port))
        if parts.scheme == "wss":
            self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=parts.hostname)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {parts.hostname}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        assert head.startswith(b"HTTP/1.1 101 ") and accept in head, head.decode("latin-1")

    def receive(self):
        received = self.socket.recv(65536)
        if not received:
            raise EOFError("the coordinator has closed the connection")
        return received

    def send(self, payload, opcode=2):
        head = bytes([0x80 | opcode])
        if len(payload) < 126:
            head += bytes([0x80 | len(payload)])
        elif len(payload) < 65536:
            head += struct.pack(">BH", 0x80 | 126, len(payload))
        else:
            head += struct.pack(">BQ", 0x80 | 127, len(payload))
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
        self.socket.sendall(head + mask + masked)

    def frame(self):
        """The next whole frame in the buffer as (is_last, opcode, payload), or None."""
        if len(self.buffer) < 2:
            return None
        length, at = self.buffer[1] & 0x7F, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            if len(self.buffer) < at:
                return None
            length = int.from_bytes(self.buffer[2:at], "big")
        assert length <= MAX_FRAME_BYTES
        if len(self.buffer) < at + length:
            return None
        first, payload = self.buffer[0], self.buffer[at : at + length]
        self.buffer = self.buffer[at + length :]
        return first & 0x80 != 0, first & 0x0F, payload

    def messages(self, on_idle, interval):
        """Binary messages until the close frame; answers pings; calls on_idle every `interval()` seconds."""
        message, due = b"", time.monotonic() + interval()
        while True:
            frame = self.frame()
            due = min(due, time.monotonic() + interval())
            if time.monotonic() >= due:
                on_idle()
                due = time.monotonic() + interval()
            if frame is None:
                self.socket.settimeout(max(0.01, due - time.monotonic()))
                try:
                    self.buffer += self.receive()
                except TimeoutError:
                    pass
                continue
            is_last, opcode, payload = frame
            if opcode == 8:
                return struct.unpack(">H", payload[:2])[0] if payload else 1005
            if opcode == 9:
                self.send(payload, 10)
            if opcode in (0, 2):
                message += payload
                if is_last:
                    yield message
                    message = b""


# ---- the trainer ----


class Trainer:
    def __init__(self, url, trainer_id, token):
        self.web_socket = WebSocket(url)
        self.trainer_id, self.token = trainer_id, token
        self.interval = 5.0
        self.sequence, self.digest = None, None
        self.step = None
        self.parts = []

    def run(self):
        versions, codecs = data(1, varint(5)), data(10, bytes(KNOWN_CODECS))
        software = data(5, "foreign trainer in Python")
        self.web_socket.send(body(HELLO, versions + data(2, self.trainer_id) + data(4, self.token) + software + codecs))
        heartbeat = body(HEARTBEAT, data(1, "answering with nothing"))
        for frame in self.web_socket.messages(lambda: self.web_socket.send(heartbeat), lambda: self.interval):
            kind, fields = read_envelope(frame)
            if kind == WELCOME:
                self.interval = fields[7] / 1000
                print("welcome", fields[3].decode(), "with a snapshot" if 9 in fields else "without a snapshot")
            elif kind == PART:
                if fields[1] in (STREAM_UPDATE, STREAM_BASIS):
                    self.parts.append(frame)
            elif kind == SNAPSHOT_END:
                self.sequence, self.digest = fields.get(2, 0), fields[3]
                print("state of record", self.sequence)
                self.ready()
            elif kind == COMMIT:
                self.check_record(fields)
                if self.step is None:
                    self.ready()
                elif 6 in fields and fields[2] == self.step:
                    return self.leave("one step was enough")
            elif kind == UPDATE_WITHDRAWN:
                self.parts = []
            elif kind == STEP_ASSIGNMENT:
                self.step = fields[1]
                print("assigned step", self.step)
                self.web_socket.send(body(CONTRIBUTION, uint(1, self.step)))
            elif kind == SKETCH_REQUEST:
                self.web_socket.send(body(SKETCH, uint(1, fields[1]) + uint(2, fields[2])))
            elif kind == FACTOR_ASSIGNMENT:
                return self.leave("it cannot factorise")
            elif kind == GOODBYE:
                print("goodbye", fields[1], fields.get(2, b"").decode())
        return 1

    def ready(self):
        self.web_socket.send(body(READY, uint(1, self.sequence) + data(2, "none")))

    def check_record(self, commit):
        sequence, step = commit[1], commit[2]
        assert sequence == self.sequence + 1 and commit[3] == self.digest, "the record does not continue the state"
        covered = self.digest + struct.pack("<II", sequence, step) + b"".join(self.parts)
        assert hashlib.sha256(covered).digest() == commit[4], "the digest is wrong"
        self.sequence, self.digest, self.parts = sequence, commit[4], []
        print("record", sequence, "of step", step, "is good")

    def leave(self, reason):
        self.web_socket.send(body(GOODBYE, uint(1, LEAVING) + data(2, reason)))
        self.web_socket.send(struct.pack(">H", LEAVING) + reason.encode(), 8)
        for _ in self.web_socket.messages(lambda: None, lambda: 1.0):
            pass
        print("left")
        return 0


if __name__ == "__main__":
    if sys.argv[1] == "--vectors":
        sys.exit(vectors.check(sys.argv[2]))
    given = sys.argv[3] if len(sys.argv) > 3 else os.environ.get("GALORE_TOKEN", "")
    sys.exit(Trainer(sys.argv[1], sys.argv[2], given).run())
