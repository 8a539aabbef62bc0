from meshca.server.shedding import ALARM, LASTS, Shedding
from tests.support.clock import FakeClock


def test_there_is_an_alarm_from_the_first_that_is_turned_away_until_a_minute_after_the_last():
    shed, clock = [0], FakeClock()
    shedding = Shedding(count=lambda: shed[0], clock=clock)
    assert shedding.alarms() == ()
    for _ in range(3):
        shed[0] += 1
        assert shedding.alarms() == (ALARM,)
        clock.advance(LASTS / 2)
        assert shedding.alarms() == (ALARM,)
    clock.advance(LASTS / 2)
    assert shedding.alarms() == ()
