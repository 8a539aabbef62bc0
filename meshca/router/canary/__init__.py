"""Ramps: weights that go up while what proxies report is good, and back by themselves."""
