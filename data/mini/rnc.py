"""Rob Northen's compression, method 1: Huffman-coded runs of plain bytes and repeats of what was written before."""

_SHORTEST = 2  # a repeat
_HEADER = 18


class _Bits:
    """Bits from the lowest on, out of 16-bit words; plain bytes stand between the words."""

    def __init__(self, data: bytes):
        self.data, self.at, self.held, self.count = data, _HEADER, 0, 0

    def take(self, count: int) -> int:
        while self.count < count:
            self.held |= int.from_bytes(self.data[self.at : self.at + 2], "little") << self.count
            self.at, self.count = self.at + 2, self.count + 16
        value = self.held & ((1 << count) - 1)
        self.held, self.count = self.held >> count, self.count - count
        return value

    def plain(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]


def unpacked(data: bytes) -> bytes:
    """Decompresses what begins with the header `RNC`, 1, and two lengths."""
    size, blocks = int.from_bytes(data[4:8], "big"), data[17]
    bits, out = _Bits(data), bytearray()
    bits.take(2)
    for _ in range(blocks):
        plain, distance, length = _codes(bits), _codes(bits), _codes(bits)
        for left in range(bits.take(16) - 1, -1, -1):
            out += bits.plain(_value(bits, plain))
            if left:
                back = _value(bits, distance) + 1
                for _ in range(_value(bits, length) + _SHORTEST):
                    out.append(out[-back])
    return bytes(out[:size])


def _codes(bits: _Bits) -> dict[tuple[int, int], int]:
    """What each code means, by its length and its bits, the first one lowest."""
    lengths = [bits.take(4) for _ in range(bits.take(5))]
    found, code = {}, 0
    for length in range(1, 17):
        code <<= 1
        for meaning, own in enumerate(lengths):
            if own == length:
                found[length, int(f"{code:0{length}b}"[::-1], 2)] = meaning
                code += 1
    return found


def _value(bits: _Bits, codes: dict[tuple[int, int], int]) -> int:
    code = 0
    for length in range(1, 17):
        code |= bits.take(1) << (length - 1)
        meaning = codes.get((length, code))
        if meaning is not None:
            # Above 1 it is how many bits follow the leading one.
            return meaning if meaning < 2 else bits.take(meaning - 1) | 1 << (meaning - 1)
    raise ValueError("no such code: the data is damaged")
