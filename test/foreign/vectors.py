"""The codecs of docs/protocol.md, section 6, and a check of the vectors in docs/vectors/, with Python's standard library.

The messages are checked with a reader and a writer of protobuf that know no message but what galore.proto says.
"""
import base64
import json
import math
import pathlib
import re
import struct

MASK = 0xFFFFFFFF
LARGEST_F32 = (2 - 2**-23) * 2.0**127
BLOCKS = {"int8": (256, 127, 4), "int4": (64, 7, 2)}  # numbers of a block, largest code, bytes of a scale


# ---- random numbers (section 7) ----


def mix32(x):
    x = (x ^ x >> 16) * 0x21F0AAAD & MASK
    x = (x ^ x >> 15) * 0xD35A2D97 & MASK
    return x ^ x >> 15


def uniform(key, index):
    return mix32(mix32(index ^ key["low"]) + key["high"] & MASK) / 2**32


# ---- codecs ----


def bits_of(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def of_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def unpack(kind, data):
    return list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data))


def bf16_bits(x):
    magnitude = bits_of(x) & 0x7FFFFFFF
    rounded = magnitude + 0x7FFF + (magnitude >> 16 & 1) >> 16
    return min(rounded, 0x7F7F) | bits_of(x) >> 31 << 15


def largest_scale(codec):
    # Of int4 the greatest bf16 whose code 7 is finite, of int8 the greatest f32 whose code 128 would be.
    return of_bits(bits_of(LARGEST_F32 / 7) & 0xFFFF0000) if codec == "int4" else f32(LARGEST_F32 / 128)


def scale_of(codec, block):
    scale = f32(max(map(abs, block)) / BLOCKS[codec][1])
    if codec == "int4":
        scale = of_bits(bits_of(scale) + 0xFFFF & 0xFFFF0000)
    return 0.0 if scale < 2**-126 else min(scale, largest_scale(codec))


def encode(codec, numbers, key):
    if codec == "f32":
        return struct.pack(f"<{len(numbers)}f", *numbers)
    if codec == "bf16":
        return struct.pack(f"<{len(numbers)}H", *map(bf16_bits, numbers))
    size, largest, _ = BLOCKS[codec]
    scales = [scale_of(codec, numbers[at : at + size]) for at in range(0, len(numbers), size)]
    codes = []
    for index, x in enumerate(numbers):
        scale = scales[index // size]
        code = math.floor(x / scale + uniform(key, index)) if scale else 0
        codes.append(max(-largest, min(largest, code)))
    if codec == "int8":
        return struct.pack(f"<{len(scales)}f{len(codes)}b", *scales, *codes)
    halves = [code & 15 for code in codes] + [0] * (len(codes) % 2)
    pairs = bytes(low | high << 4 for low, high in zip(halves[::2], halves[1::2]))
    return struct.pack(f"<{len(scales)}H", *(bits_of(scale) >> 16 for scale in scales)) + pairs


def decode(codec, data, count):
    """The numbers; ValueError for bytes that are malformed."""
    if codec in ("f32", "bf16"):
        require(len(data) == count * (4 if codec == "f32" else 2), "wrong length")
        numbers = unpack("f", data) if codec == "f32" else [of_bits(bits << 16) for bits in unpack("H", data)]
        require(all(map(math.isfinite, numbers)), "not finite")
        return numbers
    size, largest, scale_bytes = BLOCKS[codec]
    codes_at = scale_bytes * -(-count // size)
    require(len(data) == codes_at + (count if codec == "int8" else -(-count // 2)), "wrong length")
    scales = data[:codes_at]
    scales = unpack("f", scales) if codec == "int8" else [of_bits(bits << 16) for bits in unpack("H", scales)]
    require(all(0 <= scale <= largest_scale(codec) for scale in scales), "an impossible scale")
    if codec == "int8":
        codes = unpack("b", data[codes_at:])
    else:
        halves = [half for byte in data[codes_at:] for half in (byte & 15, byte >> 4)]
        require(not any(halves[count:]), "something in the half byte left over")
        codes = [half - 16 if half > 7 else half for half in halves[:count]]
        require(-8 not in codes, "code -8")
    return [f32(code * scales[index // size]) for index, code in enumerate(codes)]


def encoded_bytes(codec, count):
    return len(encode(codec, [0.0] * count, {"low": 0, "high": 0}))


def decode_rows(codec, data, matrix_rows, columns, most):
    """Numbers of rows and the numbers in them; ValueError for bytes that are malformed."""
    require(len(data) >= 4, "no number of rows")
    (count,) = unpack("I", data[:4])
    require(count <= most, "too many rows")
    start = 4 + 4 * count
    require(len(data) == start + encoded_bytes(codec, count * columns), "wrong length")
    rows = unpack("I", data[4:start])
    require(all(row < matrix_rows for row in rows), "a row that is not there")
    require(all(a < b for a, b in zip(rows, rows[1:])), "rows that do not ascend")
    return rows, decode(codec, data[start:], count * columns)


def require(holds, what):
    if not holds:
        raise ValueError(what)


# ---- protobuf by galore.proto ----


class Schema:
    def __init__(self, text):
        text = re.sub(r"//.*", "", text)
        self.messages, self.enums = {}, {}
        for kind, name, content in re.findall(r"(message|enum) (\w+) \{(.*?)\n\}", text, re.S):
            if kind == "enum":
                self.enums[name] = {value: int(number) for value, number in re.findall(r"(\w+) = (\d+);", content)}
                continue
            fields = re.findall(r"(repeated )?(\w+) (\w+) = (\d+);", content)
            self.messages[name] = {int(number): (camel(field), type, bool(many)) for many, type, field, number in fields}

    def read(self, name, data):
        """A message as protobuf's JSON mapping has it."""
        result, at = {}, 0
        while at < len(data):
            tag, at = read_varint(data, at)
            field, type, many = self.messages[name][tag >> 3]
            if tag & 7 == 2:
                length, at = read_varint(data, at)
                value, at = data[at : at + length], at + length
            else:
                value, at = self.read_scalar(type, data, at)
            if not many:
                result[field] = self.open(type, value) if tag & 7 == 2 else value
                continue
            values = result.setdefault(field, [])
            if tag & 7 == 2 and self.is_scalar(type):
                inside = 0
                while inside < len(value):
                    element, inside = self.read_scalar(type, value, inside)
                    values.append(element)
            else:
                values.append(self.open(type, value))
        return result

    def write(self, name, fields):
        """The bytes of such a message, in the order of the field numbers."""
        out = b""
        for number, (field, type, many) in sorted(self.messages[name].items()):
            value = fields.get(field)
            if value is None:
                continue
            if many and self.is_scalar(type):
                out += delimited(number, b"".join(self.scalar(type, each) for each in value))
            elif self.is_scalar(type):
                out += varint(number << 3 | (1 if type == "double" else 0)) + self.scalar(type, value)
            else:
                out += b"".join(delimited(number, self.close(type, each)) for each in (value if many else [value]))
        return out

    def is_scalar(self, type):
        return type in ("uint32", "double", "bool") or type in self.enums

    def read_scalar(self, type, data, at):
        if type == "double":
            return struct.unpack_from("<d", data, at)[0], at + 8
        value, at = read_varint(data, at)
        if type in self.enums:
            return next(name for name, number in self.enums[type].items() if number == value), at
        return bool(value) if type == "bool" else value, at

    def scalar(self, type, value):
        if type == "double":
            return struct.pack("<d", value)
        return varint(self.enums[type][value] if type in self.enums else int(value))

    def open(self, type, data):
        if type == "bytes":
            return base64.b64encode(data).decode()
        return data.decode() if type == "string" else self.read(type, data)

    def close(self, type, value):
        if type == "bytes":
            return base64.b64decode(value)
        return value.encode() if type == "string" else self.write(type, value)


def camel(name):
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def delimited(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


# ---- the check ----


def check(folder):
    """Prints what agrees; AssertionError names the first vector that does not."""
    folder = pathlib.Path(folder)
    codecs = json.loads((folder / "codecs.json").read_text())
    for vector in codecs["encoded"]:
        what = f"{vector['codec']}, {vector['name']}"
        numbers = unpack("f", bytes.fromhex(vector["numbers"]))
        encoded = bytes.fromhex(vector["encoded"])
        assert encode(vector["codec"], numbers, vector["key"]) == encoded, f"{what}: other bytes"
        decoded = decode(vector["codec"], encoded, vector["count"])
        assert decoded == unpack("f", bytes.fromhex(vector["decoded"])), f"{what}: other numbers"
    for vector in codecs["refused"]:
        try:
            decode(vector["codec"], bytes.fromhex(vector["encoded"]), vector["count"])
        except ValueError:
            continue
        raise AssertionError(f"{vector['codec']}: {vector['why']} is not refused")
    for vector in codecs["rows"]:
        shape = [vector[field] for field in ("matrixRows", "columns", "most")]
        rows, numbers = decode_rows(vector["codec"], bytes.fromhex(vector["encoded"]), *shape)
        what = f"{vector['codec']}, rows {vector['rows']}"
        assert rows == vector["rows"], f"{what}: other rows"
        assert numbers == unpack("f", bytes.fromhex(vector["decoded"])), f"{what}: other numbers"
    for vector in codecs["refusedRows"]:
        shape = [vector[field] for field in ("matrixRows", "columns", "most")]
        try:
            decode_rows(vector["codec"], bytes.fromhex(vector["encoded"]), *shape)
        except ValueError:
            continue
        raise AssertionError(f"rows: {vector['why']} is not refused")
    schema = Schema((folder / "../../proto/galore.proto").read_text())
    messages = json.loads((folder / "messages.json").read_text())
    for vector in messages:
        envelope = bytes.fromhex(vector["envelope"])
        (what,) = vector["fields"]
        assert schema.read("Envelope", envelope) == vector["fields"], f"{what}: other fields"
        assert schema.write("Envelope", vector["fields"]) == envelope, f"{what}: other bytes"
    counts = [len(codecs["encoded"] + codecs["rows"]), len(codecs["refused"] + codecs["refusedRows"]), len(messages)]
    print("{} encodings, {} refusals and {} messages agree".format(*counts))
    return 0
