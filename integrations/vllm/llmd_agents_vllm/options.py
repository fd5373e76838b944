"""How the options of an operator are read: strictly, and refused in one line."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]


class BadOptions(ValueError):
    """Options cannot be used; says in one line where, which, what was given and which there are."""


class StrictOptions(BaseModel):
    """The options of one place, each a field."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    where: ClassVar[str]
    """What errors name them by."""

    @classmethod
    def of(cls, given: Any) -> Self:
        """Reads them.

        Raises:
            BadOptions: for the first that is wrong.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            at = ": ".join((cls.where, *map(str, first["loc"])))
            options = ", ".join(cls.model_fields)
            raise BadOptions(f"{at}: {first['msg']} (got {first['input']!r}; options: {options})") from None
