from __future__ import annotations

import pytest

from ziggurat.errors import UserError
from ziggurat.system.platform import require_linux


def test_linux_is_right() -> None:
    require_linux("Linux")


@pytest.mark.parametrize("system", ["Darwin", "Windows", "FreeBSD"])
def test_others_get_one_message_with_the_remedy(system: str) -> None:
    with pytest.raises(UserError) as raised:
        require_linux(system)
    (fault,) = raised.value.faults
    assert system in fault
    assert "WSL 2" in fault
    assert "container" in fault
