"""Which slots are ordered and coupled, from what rollouts say goes together."""

import pytest

from edgectl_server.domain.coupling import DesiredVersion, couple

D2 = DesiredVersion("2", ("classifier@5",))
C5 = DesiredVersion("5", ("detector@2",))
C4 = DesiredVersion("4")
DONE = DesiredVersion("2", ("classifier@5",), committed=True)


@pytest.mark.parametrize(
    ("desired", "kept", "coupled"),
    [
        ({}, "", ()),
        ({"a": C4}, "a", ()),
        ({"detector": D2}, "", ()),
        ({"detector": D2, "classifier": C4}, "classifier", ()),
        ({"detector": D2, "classifier": C5}, "classifier detector", (("classifier", "detector"),)),
        ({"detector": D2, "classifier": DesiredVersion("5")}, "classifier detector",
         (("classifier", "detector"),)),
        ({"detector": DONE, "classifier": C4}, "classifier detector", ()),
        ({"detector": DONE}, "detector", ()),
        (
            {
                "a": DesiredVersion("1", ("b@1",)),
                "b": DesiredVersion("1", ("c@1",)),
                "c": DesiredVersion("1"),
                "d": DesiredVersion("1"),
            },
            "a b c d",
            (("a", "b", "c"),),
        ),
        (
            {"a": DesiredVersion("1", ("b@1",)), "b": DesiredVersion("1", ("c@1",))},
            "",
            (),
        ),
    ],
)  # fmt: skip
def test_couple(desired, kept, coupled):
    assert couple(desired) == (frozenset(kept.split()), coupled)
