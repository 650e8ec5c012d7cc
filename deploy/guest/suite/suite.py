# Big integers, floats, decimals, hashing, JSON, compression, exceptions; see userland-suite.
import bz2
import decimal
import hashlib
import json
import math
import random
import re
import struct
import zlib

random.seed(42)
words = ["".join(random.choice("abcdefghij") for _ in range(random.randint(1, 9))) for _ in range(5000)]
print(hashlib.sha256(" ".join(sorted(words)).encode()).hexdigest())
print(hashlib.blake2b(json.dumps({w: i for i, w in enumerate(words)}, sort_keys=True).encode()).hexdigest())
print(pow(3, 2**12, 10**40 + 7), math.factorial(120) % (10**30 + 57), math.isqrt(10**61))
decimal.getcontext().prec = 60
print(decimal.Decimal(2).sqrt(), decimal.Decimal(1).exp())
print([repr(f(x)) for f in (math.sin, math.tan, math.log, math.gamma) for x in (0.5, 1.25, 7.75)])
print(struct.pack("<dfq", math.pi, math.e, -12345).hex())
blob = bytes(random.getrandbits(8) & 0x3F for _ in range(60000))
print(zlib.crc32(blob), zlib.adler32(blob), len(zlib.compress(blob, 9)), hashlib.md5(bz2.compress(blob)).hexdigest())
print(len(re.findall(r"(a|b)+c?(?=d)", " ".join(words))))


def ackermann(m, n):
    return n + 1 if m == 0 else ackermann(m - 1, 1 if n == 0 else ackermann(m, n - 1))


print(ackermann(2, 60))
matrix = [[random.random() for _ in range(30)] for _ in range(30)]
for _ in range(5):
    matrix = [[sum(a * b for a, b in zip(row, column)) / 15 for column in zip(*matrix)] for row in matrix]
print(repr(sum(map(sum, matrix))))
try:
    [][1]
except IndexError as error:
    print(type(error).__name__, error)
