"""Does a series of measurements grow? Statistics without assumptions about the noise.

The series is cut into equal blocks and each becomes its median, so that neighbouring samples, which are not independent,
count once. The slope is Theil and Sen's: the median of the slopes between all pairs of blocks. Its lower confidence bound
is Sen's, from the variance of Kendall's statistic. A series grows when even that bound, over the whole time that was
watched, comes to more than an allowance: noise alone makes no growth, and a growth that nobody would notice in a month
of such runs is none either. A single step early in the series moves the bound little; one that repeats does.
"""

import math
import statistics

BLOCKS = 24
CONFIDENCE = 2.58  # standard deviations, one side: one flat series in 200 has a bound above zero


class Growth:
    def __init__(self, estimate, least, allowance):
        self.estimate, self.least, self.allowance = estimate, least, allowance

    @property
    def grows(self):
        return self.least > self.allowance


def blocks(samples):
    """[(time, value)] of BLOCKS equal stretches of time: the median of each that has samples."""
    begin, end = samples[0][0], samples[-1][0]
    width = (end - begin) / BLOCKS or 1
    parts = [[] for _ in range(BLOCKS)]
    for at, value in samples:
        parts[min(BLOCKS - 1, int((at - begin) / width))].append((at, value))
    return [(statistics.median(a for a, _ in part), statistics.median(v for _, v in part)) for part in parts if part]


def growth(samples, allowance):
    """samples: [(seconds, value)] in order of time. None where they are too few to say anything."""
    if len(samples) < 8 or samples[-1][0] <= samples[0][0]:
        return None
    points = blocks(samples)
    n = len(points)
    if n < 8:
        return None
    slopes = sorted((points[j][1] - points[i][1]) / (points[j][0] - points[i][0]) for i in range(n) for j in range(i + 1, n))
    spread = CONFIDENCE * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    lowest = max(0, int((len(slopes) - spread) / 2))
    span = samples[-1][0] - samples[0][0]
    return Growth(statistics.median(slopes) * span, slopes[lowest] * span, allowance)
