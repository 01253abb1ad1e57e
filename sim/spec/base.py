"""What every described value shares: it is frozen, it refuses unknown keys, and its names are harmless.

Names become folder names, HTML text and trace labels, so they are letters, digits and ``. _ + -`` only:
no path separators, no markup, no control characters. Free prose goes into ``about``, which is only printed.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$"),
    Field(description="letters, digits and . _ + - (at most 80)"),
]
Prose = Annotated[str, StringConstraints(max_length=4000)]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


class Spec(BaseModel):
    """A frozen value that a user or the catalogue describes; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
