"""Every observer of a run is told everything, and the record's position is the run's."""

import inspect

from ringfence.plugins.observer import Observer
from ringfence.tracking.fanout import Fanout

METHODS = sorted(name for name, _ in inspect.getmembers(Observer, inspect.isfunction))


class Noting(Observer):
    """Notes whatever is called, with what it was given."""

    def __init__(self, answer=False):
        self.calls = []
        for name in METHODS:
            setattr(self, name, lambda *given, of=name, **named: self._note(of, given, named, answer))

    def _note(self, *call):
        *told, answer = call
        self.calls.append(tuple(told))
        return answer


def call_all(observer):
    """Call each method of an observer with arguments of its own; return what each was given and returned."""
    given, returned = [], {}
    for name in METHODS:
        parameters = list(inspect.signature(getattr(Observer, name)).parameters.values())[1:]
        positional = tuple(object() for each in parameters if each.kind is not each.KEYWORD_ONLY)
        named = {each.name: object() for each in parameters if each.kind is each.KEYWORD_ONLY}
        returned[name] = getattr(observer, name)(*positional, **named)
        given.append((name, positional, named))
    return given, returned


def test_everything_is_passed_on_to_each_but_the_question_where_the_record_ends():
    keeper, others = Noting(answer=7), [Noting(), Noting()]
    given, returned = call_all(Fanout(keeper, others))
    assert keeper.calls == given
    assert (returned["position"], returned["wants_loss"]) == (7, True)
    # Whether the loss is read is known once one wants it.
    asked = [call for call in given if call[0] not in {"position", "wants_loss", "wants_predictions"}]
    assert [other.calls for other in others] == [asked, asked]


def test_the_loss_is_read_where_only_the_last_wants_it_and_nowhere_else():
    assert Fanout(Observer(), [Observer(), Noting(answer=True)]).wants_loss(None)
    assert not Fanout(Observer(), [Observer()]).wants_loss(None)


def test_an_observer_takes_no_notice_and_asks_for_nothing():
    _, returned = call_all(Observer())
    answers = {name: answer for name, answer in returned.items() if answer is not None}
    assert answers == {"wants_loss": False, "wants_predictions": False}
