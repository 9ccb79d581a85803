"""`python -m ci` is `build-server`."""

from ci.cli import main

main()
