"""Hypothesis measures no time here: the machine may be busy, and a slow example is not a wrong one."""

from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
