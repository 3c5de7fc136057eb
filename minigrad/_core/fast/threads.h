/* A small thread pool that runs large loops on more than one processor.
 *
 * The first large loop starts the threads; between loops they wait for a moment and then sleep. A loop is
 * divided into pieces, which threads take from a counter: a thread that loses its processor delays only one
 * piece, and a late helper finds the loop closed and is not waited for. One loop has the helpers at a time;
 * a loop that starts meanwhile, in another Python thread, runs on the caller alone.
 *
 * On a busy machine helpers cost more than they gain. If the caller has to wait long for the last pieces, or
 * no helper joins a long loop or four brief ones in a row, loops run on the caller alone for 2 ms, then for
 * twice as long each time, up to half a second; each loop that goes well halves the pause.
 *
 * After a fork the child starts new threads. Signals are left to the Python threads. Without POSIX threads
 * (Windows, WebAssembly) or gcc's atomics every loop runs on the caller alone. */
#ifndef MINIGRAD_THREADS_H
#define MINIGRAD_THREADS_H

#include <stddef.h>

typedef void (*mg_part)(void* job, ptrdiff_t part, ptrdiff_t parts);    /* runs one of `parts` parts */

enum { MG_MOST_THREADS = 64 };
static int mg_threads = 1;  /* that a loop may use, the caller included */

#if defined(_WIN32) || defined(__wasm__) || !defined(__GNUC__)
static void mg_in_parts(mg_part part, void* job, ptrdiff_t parts)
{
    for (ptrdiff_t i = 0; i < parts; i++) part(job, i, parts);
}

static int mg_is_paused(void) { return 0; }
static int mg_gains(unsigned long long kind, long long* begun) { return (void) kind, *begun = 0; }
static void mg_compare(unsigned long long kind, int divided, long long begun) { (void) kind, (void) divided, (void) begun; }
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#define mg_relax() __builtin_ia32_pause()
#else
#define mg_relax() ((void) 0)
#endif

typedef struct {
    mg_part part;
    void* job;
    ptrdiff_t parts, next;
} mg_pieces;

enum { MG_MISSES = 4 };     /* loops in a row that no helper joined, until a pause */
enum { MG_KINDS = 128, MG_CYCLE = 512, MG_TRIED = 16 };     /* of each cycle of loops of a kind, the first are tried */
enum {                      /* nanoseconds */
    MG_LINGER = 100000,     /* a helper waits this long before it sleeps: waking it takes 12 us */
    MG_OFTEN = 1000000,     /* brief loops at shorter intervals are worth waking helpers */
    MG_SPIN = 20000,        /* the caller spins this long for the last pieces before it sleeps */
    MG_LATE = 100000,       /* the longest acceptable wait for them */
    MG_FIRST_PAUSE = 2000000,
    MG_LONGEST_PAUSE = 500000000,
};

static struct {
    pthread_mutex_t taken;  /* held while a loop uses the helpers */
    pthread_mutex_t lock;   /* protects what follows */
    pthread_cond_t start, done;
    int workers, invited, inside;   /* helpers: started, may still join, working, ... */
    int lingering;          /* ... awake without a loop */
    int came;               /* ... that joined this loop */
    int missed;             /* loops in a row that none joined */
    mg_pieces* open;        /* the loop to join, or NULL */
    long long pause, resume;        /* how long loops run alone, and until when */
    long long last;         /* when the last brief loop began */
} mg_pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER,
             PTHREAD_COND_INITIALIZER, 0, 0, 0, 0, 0, 0, NULL, 0, 0, 0};

static long long mg_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void mg_take_pieces(mg_pieces* pieces)
{
    ptrdiff_t i;
    while ((i = __atomic_fetch_add(&pieces->next, 1, __ATOMIC_RELAXED)) < pieces->parts)
        pieces->part(pieces->job, i, pieces->parts);
}

static void mg_linger(void)     /* called with the lock held, and returns with it */
{
    const long long end = mg_now() + MG_LINGER;
    mg_pool.lingering++;
    pthread_mutex_unlock(&mg_pool.lock);
    while (!__atomic_load_n(&mg_pool.invited, __ATOMIC_RELAXED) && mg_now() < end) sched_yield();
    pthread_mutex_lock(&mg_pool.lock);
    mg_pool.lingering--;
}

static void* mg_helper(void* unused)
{
    pthread_mutex_lock(&mg_pool.lock);
    for (;;) {
        if (!mg_pool.invited) mg_linger();
        while (!mg_pool.invited) pthread_cond_wait(&mg_pool.start, &mg_pool.lock);
        mg_pieces* const pieces = mg_pool.open;
        __atomic_sub_fetch(&mg_pool.invited, 1, __ATOMIC_RELAXED);
        mg_pool.came++;
        if (mg_pool.invited > mg_pool.lingering) pthread_cond_signal(&mg_pool.start);   /* each wakes the next */
        __atomic_add_fetch(&mg_pool.inside, 1, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&mg_pool.lock);
        mg_take_pieces(pieces);
        pthread_mutex_lock(&mg_pool.lock);
        if (!__atomic_sub_fetch(&mg_pool.inside, 1, __ATOMIC_RELEASE)) pthread_cond_signal(&mg_pool.done);
    }
    return unused;
}

static void mg_forget_threads(void)     /* in the child of a fork, where they do not exist */
{
    pthread_mutex_init(&mg_pool.taken, NULL);
    pthread_mutex_init(&mg_pool.lock, NULL);
    pthread_cond_init(&mg_pool.start, NULL);
    pthread_cond_init(&mg_pool.done, NULL);
    mg_pool.workers = mg_pool.invited = mg_pool.inside = mg_pool.lingering = 0;
    mg_pool.open = NULL;
}

static void mg_start_threads(int threads)
{
    static int once;
    sigset_t all, before;
    pthread_t thread;
    if (!once) once = !pthread_atfork(NULL, NULL, mg_forget_threads);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (mg_pool.workers < threads - 1 && !pthread_create(&thread, NULL, mg_helper, NULL)) {
        pthread_detach(thread);
        mg_pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Lengthen the pause after a loop that the helpers delayed or did not join, shorten it after any other. */
static void mg_judge(long long begin, long long finished, int came)
{
    const long long now = mg_now(), waited = now - finished, took = finished - begin;
    mg_pool.missed = came ? 0 : mg_pool.missed + 1;
    if (came ? waited > MG_LATE && waited > took / 4 : took > 2 * MG_LATE || mg_pool.missed >= MG_MISSES) {
        mg_pool.pause = mg_pool.pause ? 2 * mg_pool.pause : MG_FIRST_PAUSE;
        if (mg_pool.pause > MG_LONGEST_PAUSE) mg_pool.pause = MG_LONGEST_PAUSE;
        __atomic_store_n(&mg_pool.resume, now + mg_pool.pause, __ATOMIC_RELAXED);
    } else
        mg_pool.pause = mg_pool.pause > MG_FIRST_PAUSE ? mg_pool.pause / 2 : 0;
}

/* Whether loops run on the caller alone for now; a loop that is slower in parts need not be divided. */
static int mg_is_paused(void)
{
    const long long resume = __atomic_load_n(&mg_pool.resume, __ATOMIC_RELAXED);
    return resume && mg_now() < resume;
}

/* Whether a second thread gains for brief loops depends on the processor and its load: on an EPYC it saved a fifth of
 * a product, on a Xeon, whose two threads share a core, it cost an eighth. So loops of each kind are tried: two
 * divided, two alone, and so on. The second of each two is timed, because the first finds the helper asleep or the
 * operands in another cache. The others are divided if that was faster in three of the last four comparisons. */
static struct { unsigned calls, won; long long took; } mg_trials[MG_KINDS];

static size_t mg_place(unsigned long long kind) { return kind * 0x9E3779B97F4A7C15ull >> 57; }

/* Whether to divide a loop of this kind, which is too brief to wake a helper for: only if it is one of many, as in a
 * training step. *begun is for mg_compare, after the loop. */
static int mg_gains(unsigned long long kind, long long* begun)
{
    const size_t at = mg_place(kind);
    const long long now = mg_now(), last = __atomic_exchange_n(&mg_pool.last, now, __ATOMIC_RELAXED);
    *begun = 0;
    if (mg_threads < 2 || now - last >= MG_OFTEN || mg_is_paused()) return 0;
    const unsigned turn = __atomic_fetch_add(&mg_trials[at].calls, 1, __ATOMIC_RELAXED) % MG_CYCLE;
    if (turn >= MG_TRIED) return __builtin_popcount(__atomic_load_n(&mg_trials[at].won, __ATOMIC_RELAXED)) > 2;
    if (turn & 1) *begun = now;
    return !(turn & 2);
}

static void mg_compare(unsigned long long kind, int divided, long long begun)
{
    if (!begun) return;
    const size_t at = mg_place(kind);
    const long long took = mg_now() - begun, other = __atomic_load_n(&mg_trials[at].took, __ATOMIC_RELAXED);
    const unsigned won = __atomic_load_n(&mg_trials[at].won, __ATOMIC_RELAXED) << 1 | (other < took);
    if (divided) __atomic_store_n(&mg_trials[at].took, took, __ATOMIC_RELAXED);
    else __atomic_store_n(&mg_trials[at].won, won & 15, __ATOMIC_RELAXED);
}

/* Run part(job, i, parts) for every i < parts, in any order, on several threads; return when all are done. */
static void mg_in_parts(mg_part part, void* job, ptrdiff_t parts)
{
    mg_pieces pieces = {part, job, parts, 0};
    int threads = mg_threads;               /* read once, because another thread may set it */
    if (threads > parts) threads = (int) parts;
    const long long begin = threads < 2 ? 0 : mg_now();
    if (threads < 2 || begin < __atomic_load_n(&mg_pool.resume, __ATOMIC_RELAXED)
            || pthread_mutex_trylock(&mg_pool.taken)) {
        mg_take_pieces(&pieces);
        return;
    }
    pthread_mutex_lock(&mg_pool.lock);
    mg_start_threads(threads);
    const int invited = threads - 1 < mg_pool.workers ? threads - 1 : mg_pool.workers;
    mg_pool.open = &pieces;
    mg_pool.came = 0;
    __atomic_store_n(&mg_pool.invited, invited, __ATOMIC_RELAXED);
    if (invited > mg_pool.lingering) pthread_cond_signal(&mg_pool.start);
    pthread_mutex_unlock(&mg_pool.lock);
    mg_take_pieces(&pieces);
    const long long finished = mg_now();
    while (__atomic_load_n(&mg_pool.inside, __ATOMIC_ACQUIRE) && mg_now() - finished < MG_SPIN) mg_relax();
    pthread_mutex_lock(&mg_pool.lock);
    __atomic_store_n(&mg_pool.invited, 0, __ATOMIC_RELAXED);
    while (__atomic_load_n(&mg_pool.inside, __ATOMIC_ACQUIRE)) pthread_cond_wait(&mg_pool.done, &mg_pool.lock);
    mg_pool.open = NULL;
    mg_judge(begin, finished, mg_pool.came);
    pthread_mutex_unlock(&mg_pool.lock);
    pthread_mutex_unlock(&mg_pool.taken);
}
#endif
#endif
