"""`python -m meshca`, and the `meshca` command."""

from meshca.cli import main

if __name__ == "__main__":
    main()
