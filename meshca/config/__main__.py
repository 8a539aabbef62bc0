"""Print the reference of all settings: `python -m meshca.config > docs/configuration.md`."""

import sys

from meshca.config.writing import reference

if __name__ == "__main__":
    sys.stdout.write(reference())
