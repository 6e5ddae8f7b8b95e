"""`python -m radar_callback` is `radar-callback`."""

import sys

from radar_callback.cli import main

sys.exit(main())
