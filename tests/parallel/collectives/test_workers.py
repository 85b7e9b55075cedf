"""What the first worker decides for all."""

from support.ranks import run_ranks
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers


def decisions(workers):
    asked = []

    def decide():
        asked.append(workers.rank)
        return "bands"

    def refuse():
        raise UserError("bands must be tall enough")

    found = workers.decide_on_first(decide)
    try:
        workers.decide_on_first(refuse)
    except UserError as error:
        return found, asked, str(error)
    return found, asked, None


def test_one_decides_and_all_know_or_raise():
    expected = [("bands", [0], "bands must be tall enough"), ("bands", [], "bands must be tall enough")]
    assert run_ranks(decisions, 2) == expected
    assert decisions(Workers()) == expected[0]
