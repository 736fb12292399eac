"""`python -m tests.support.majors`: the values of SLAYQ_TEST_PG for every other major version than the default's."""

from __future__ import annotations

from slayq_server.dev.installation import Installation


def other_majors() -> list[str]:
    """One server of each major version that is found here, but the newest embedded one, which `make test` uses."""
    majors = {each.major: each.kind for each in Installation.all()}
    del majors[Installation.find("embedded").major]
    return [f"{kind}:{major}" for major, kind in majors.items()]


if __name__ == "__main__":
    print(*other_majors())
