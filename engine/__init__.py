"""visavis.engine: photo and audio in, frames out."""

import os

# The matrices of the live loop are small: BLAS threads would cost more in waking each other than they save, and on a busy
# machine ten times as much. Only a default, and only if numpy is not loaded yet.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
