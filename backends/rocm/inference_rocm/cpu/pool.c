// Workers look for a job for a short while, since a model's next layer follows within microseconds, and then sleep. A
// worker that comes late is not waited for: only those that have taken a part of the job are.

#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#define MOST_WORKERS 255
#define LOOKING_NS 100000 // how long a worker looks for a job before it sleeps
#define LOOKS 64          // between two looks at the clock

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; // held by the thread whose job is done
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static atomic_int sleepers;
static int64_t workers;

static struct {
    part *work;
    const void *job;
    int64_t count, threads;
} posted;
static atomic_uint_fast64_t number; // of the job that is posted: odd while it is open
static atomic_int_fast64_t next, inside;

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_parts(void) {
    for (int64_t index; (index = atomic_fetch_add(&next, 1)) < posted.count;) posted.work(posted.job, index);
}

static bool has_waited_long(uint64_t *began) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t time = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (*began == 0) *began = time;
    return time - *began > LOOKING_NS;
}

// Wait for a job that is open and not `last`; gives its number.
static uint64_t job_after(uint64_t last) {
    uint64_t began = 0, current;
    while (true) {
        for (int look = 0; look < LOOKS; look++) {
            current = atomic_load(&number);
            if (current & 1 && current != last) return current;
            pause_briefly();
        }
        if (!has_waited_long(&began)) continue;
        pthread_mutex_lock(&sleeping);
        atomic_fetch_add(&sleepers, 1);
        while (!((current = atomic_load(&number)) & 1 && current != last)) pthread_cond_wait(&wake, &sleeping);
        atomic_fetch_sub(&sleepers, 1);
        pthread_mutex_unlock(&sleeping);
        return current;
    }
}

static void *worker(void *place) {
    uint64_t last = 0;
    while (true) {
        last = job_after(last);
        // Once it is inside, no other job is posted; and if the same one is open still, what is posted belongs to it.
        atomic_fetch_add(&inside, 1);
        if (atomic_load(&number) == last && (int64_t)(intptr_t)place < posted.threads) take_parts();
        atomic_fetch_sub(&inside, 1);
    }
    return 0;
}

// A forked child has none of the workers, and nobody who would let go of what they held.
static void begin_anew(void) {
    pthread_mutex_init(&turn, 0), pthread_mutex_init(&sleeping, 0), pthread_cond_init(&wake, 0);
    atomic_store(&sleepers, 0), atomic_store(&inside, 0), atomic_store(&number, 0);
    workers = 0;
}

__attribute__((constructor)) static void notice_forks(void) { pthread_atfork(0, 0, begin_anew); }

// The first thread is the caller.
static void start_workers(int64_t threads) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (workers < threads - 1 && workers < MOST_WORKERS) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker, (void *)(intptr_t)(workers + 1)) != 0) break;
        workers++;
    }
    pthread_attr_destroy(&attributes);
}

void in_parallel(part *work, const void *job, int64_t count, int64_t threads) {
    if (threads <= 1 || count <= 1) {
        for (int64_t index = 0; index < count; index++) work(job, index);
        return;
    }
    pthread_mutex_lock(&turn);
    start_workers(threads);
    posted.work = work, posted.job = job, posted.count = count, posted.threads = threads;
    atomic_store(&next, 0);
    atomic_fetch_add(&number, 1);
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&sleeping);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&sleeping);
    }
    take_parts();
    atomic_fetch_add(&number, 1);
    for (int64_t looks = 1; atomic_load(&inside); looks++) {
        if (looks % 4096 == 0) sched_yield();
        else pause_briefly();
    }
    pthread_mutex_unlock(&turn);
}
