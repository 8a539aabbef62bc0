"""How things are said to people. Pure."""


def counted(number: int, one: str, many: str) -> str:
    """A number and what is said of so many, as a person would: `1 leaf`, `2 leaves`; both may be more than a noun."""
    return f"{number} {one if number == 1 else many}"
