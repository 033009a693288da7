// The threads that all models of the process share.

#pragma once

#include <stdint.h>

typedef void part(const void *job, int64_t index);

// Call `work(job, index)` for every index below `count` on at most `threads` threads, this one among them, and wait.
// Calls from several threads take turns.
void in_parallel(part *work, const void *job, int64_t count, int64_t threads);
