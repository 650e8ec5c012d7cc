#!/usr/bin/python3
"""The statistics of the soak test: what is flat is called flat, what leaks is called a leak."""

import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from flat import growth

SECONDS, EVERY, ALLOWANCE = 400, 2, 512


def series(value, noise=0, seed=1):
    dice = random.Random(seed)
    return [(t, value(t) + dice.uniform(-noise, noise)) for t in range(0, SECONDS, EVERY)]


class Flat(unittest.TestCase):
    def test_noise_is_flat(self):
        for seed in range(200):
            self.assertFalse(growth(series(lambda t: 20000, 3000, seed), ALLOWANCE).grows, seed)

    def test_constant_is_flat(self):
        found = growth(series(lambda t: 20000), ALLOWANCE)
        self.assertEqual((found.estimate, found.least, found.grows), (0, 0, False))

    def test_what_shrinks_does_not_grow(self):
        self.assertFalse(growth(series(lambda t: 20000 - 10 * t, 500), ALLOWANCE).grows)

    def test_a_slow_leak_in_noise_is_found(self):
        for seed in range(50):
            found = growth(series(lambda t: 20000 + 4 * t, 800, seed), ALLOWANCE)
            self.assertTrue(found.grows, seed)
            self.assertAlmostEqual(found.estimate, 4 * (SECONDS - EVERY), delta=600)

    def test_a_leak_in_steps_is_found(self):
        self.assertTrue(growth(series(lambda t: 20000 + t // 60 * 400, 100), ALLOWANCE).grows)

    def test_less_than_the_allowance_is_flat(self):
        self.assertFalse(growth(series(lambda t: 20000 + t), ALLOWANCE).grows)

    def test_warming_up_at_the_beginning_is_flat(self):
        self.assertFalse(growth(series(lambda t: 20000 + min(t, 40) * 100, 200), ALLOWANCE).grows)

    def test_peaks_are_flat(self):
        self.assertFalse(growth(series(lambda t: 20000 + (8000 if t % 50 == 0 else 0)), ALLOWANCE).grows)

    def test_too_little_says_nothing(self):
        self.assertIsNone(growth([(0, 1), (1, 2)], ALLOWANCE))
        self.assertIsNone(growth([(5, 1)] * 20, ALLOWANCE))


if __name__ == "__main__":
    unittest.main()
