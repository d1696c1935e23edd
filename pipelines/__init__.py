"""The application: thin stages over the library, and the command line."""

import os

# Torch's threads spin while they wait for each other. Where anything else runs on the machine, one
# of them is soon without a core and the others burn theirs: 3 times slower, measured with one busy
# core of two. Asleep they lose nothing. It must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
