"""Philox 4x32-10 as Salmon et al. (SC'11) define it, and the numbers that base/rng.h says it gives."""

WINDOW, TIMESTEP = 16, 5  # purposes
WORD = (1 << 32) - 1


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & WORD, a >> 32 ^ c[3] ^ k[1], a & WORD]
        k = [k[0] + 0x9E3779B9 & WORD, k[1] + 0xBB67AE85 & WORD]
    return c


def below(n, *, seed, purpose, epoch, sample=0):
    """The first number of the stream, in [0, n): the high word of a product (Lemire), without the draws that would be unfair."""
    for word in philox([0, sample, epoch, purpose], [seed, 0]):
        if (word * n & WORD) >= (1 << 32) % n:
            return word * n >> 32
    raise AssertionError("four unfair words in a row")
