"""`meshca svid`: mint, fetch, look at and verify X.509-SVIDs."""

import typer

app = typer.Typer(no_args_is_help=True)
