// Workers look for a job for a short while, since a model's next layer follows within microseconds, and then sleep. A
// worker that comes late is not waited for: only those that have taken a part of the job are.

#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#define MOST_WORKERS 255  // of which the number's lowest bits know
#define THREADS 256
#define LOOKING_NS 100000 // how long a worker looks for a job before it sleeps
#define LOOKS 64          // between two looks at the clock

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; // held by the thread whose job is done
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake[THREADS]; // by the worker's place
static atomic_int sleepers[THREADS];
static int64_t workers;

static struct {
    part *work;
    const void *job;
    int64_t count;
} posted;
static atomic_uint_fast64_t number; // of the job that is posted, odd while it is open, and in the lowest bits its threads
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

// Whether a job is open, not `last`, and wants the worker at this place.
static bool is_wanted(uint64_t current, uint64_t last, uint64_t place) {
    return current / THREADS & 1 && current != last && place < current % THREADS;
}

// Wait for a job after `last`; gives its number. Workers at places that a job does not want sleep on.
static uint64_t job_after(uint64_t last, uint64_t place) {
    uint64_t began = 0, current;
    while (true) {
        for (int look = 0; look < LOOKS; look++) {
            current = atomic_load(&number);
            if (is_wanted(current, last, place)) return current;
            pause_briefly();
        }
        if (!has_waited_long(&began)) continue;
        pthread_mutex_lock(&sleeping);
        atomic_fetch_add(&sleepers[place], 1);
        while (!is_wanted(current = atomic_load(&number), last, place)) pthread_cond_wait(&wake[place], &sleeping);
        atomic_fetch_sub(&sleepers[place], 1);
        pthread_mutex_unlock(&sleeping);
        return current;
    }
}

static void *worker(void *place) {
    uint64_t last = 0;
    while (true) {
        last = job_after(last, (uint64_t)(intptr_t)place);
        // Once it is inside, no other job is posted; and if the same one is open still, what is posted belongs to it.
        atomic_fetch_add(&inside, 1);
        if (atomic_load(&number) == last) take_parts();
        atomic_fetch_sub(&inside, 1);
    }
    return 0;
}

// A forked child has none of the workers, and nobody who would let go of what they held.
static void begin_anew(void) {
    pthread_mutex_init(&turn, 0), pthread_mutex_init(&sleeping, 0);
    for (int place = 0; place < THREADS; place++) pthread_cond_init(&wake[place], 0), atomic_store(&sleepers[place], 0);
    atomic_store(&inside, 0), atomic_store(&number, 0);
    workers = 0;
}

__attribute__((constructor)) static void begin(void) {
    begin_anew();
    pthread_atfork(0, 0, begin_anew);
}

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
    threads = threads <= MOST_WORKERS ? threads : MOST_WORKERS;
    posted.work = work, posted.job = job, posted.count = count;
    atomic_store(&next, 0);
    uint64_t job_number = atomic_load(&number) / THREADS + 1;
    atomic_store(&number, job_number * THREADS + threads);
    for (int64_t place = 1; place < threads; place++) {
        if (!atomic_load(&sleepers[place])) continue;
        pthread_mutex_lock(&sleeping);
        pthread_cond_signal(&wake[place]);
        pthread_mutex_unlock(&sleeping);
    }
    take_parts();
    atomic_store(&number, (job_number + 1) * THREADS);
    for (int64_t looks = 1; atomic_load(&inside); looks++) {
        if (looks % 4096 == 0) sched_yield();
        else pause_briefly();
    }
    pthread_mutex_unlock(&turn);
}
