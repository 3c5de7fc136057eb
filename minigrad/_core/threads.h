/* A few threads that wait for work, so that a large loop can run on more than one processor.
 *
 * They are started by the first loop that is large enough, and sleep between loops. One loop has them at
 * a time; another that comes meanwhile, from another thread of Python, runs alone. After a fork the child
 * starts its own. Signals are left to the threads of Python. Without POSIX threads every loop runs alone. */
#ifndef MINIGRAD_THREADS_H
#define MINIGRAD_THREADS_H

#include <stddef.h>

typedef void (*mg_part)(void* job, ptrdiff_t part, ptrdiff_t parts);    /* does one of so many parts */

enum { MG_MOST_THREADS = 64 };
static int mg_threads = 1;  /* that a loop may use, the calling one included */

#if defined(_WIN32)
static void mg_in_parts(mg_part part, void* job) { part(job, 0, 1); }
#else
#include <pthread.h>
#include <signal.h>

static struct {
    pthread_mutex_t taken;  /* while a loop has the threads */
    pthread_mutex_t lock;   /* of all below */
    pthread_cond_t start, done;
    int workers, left;      /* how many there are, and how many parts are not finished */
    unsigned long loops;    /* so far */
    unsigned long seen[MG_MOST_THREADS];    /* by each worker */
    mg_part part;
    void* job;
    ptrdiff_t parts;
} mg_pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER,
             PTHREAD_COND_INITIALIZER, 0, 0, 0, {0}, NULL, NULL, 0};

static void* mg_worker(void* number)
{
    const ptrdiff_t mine = (ptrdiff_t) number;
    pthread_mutex_lock(&mg_pool.lock);
    for (;;) {
        while (mg_pool.loops == mg_pool.seen[mine]) pthread_cond_wait(&mg_pool.start, &mg_pool.lock);
        mg_pool.seen[mine] = mg_pool.loops;
        if (mine >= mg_pool.parts) continue;            /* fewer were asked for */
        const mg_part part = mg_pool.part;
        void* const job = mg_pool.job;
        const ptrdiff_t parts = mg_pool.parts;
        pthread_mutex_unlock(&mg_pool.lock);
        part(job, mine, parts);
        pthread_mutex_lock(&mg_pool.lock);
        if (--mg_pool.left == 0) pthread_cond_signal(&mg_pool.done);
    }
    return NULL;
}

static void mg_forget_threads(void)     /* in the child of a fork, which has none of them */
{
    pthread_mutex_init(&mg_pool.taken, NULL);
    pthread_mutex_init(&mg_pool.lock, NULL);
    pthread_cond_init(&mg_pool.start, NULL);
    pthread_cond_init(&mg_pool.done, NULL);
    mg_pool.workers = mg_pool.left = 0;
    mg_pool.loops = 0;
}

static void mg_start_threads(int threads)
{
    static int once;
    sigset_t all, before;
    pthread_t thread;
    if (!once) once = !pthread_atfork(NULL, NULL, mg_forget_threads);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (mg_pool.workers < threads - 1) {
        ptrdiff_t next = mg_pool.workers + 1;
        mg_pool.seen[next] = mg_pool.loops;
        if (pthread_create(&thread, NULL, mg_worker, (void*) next)) break;
        pthread_detach(thread);
        mg_pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* part(job, i, parts) for every i < parts, on as many threads; returns when all are done. */
static void mg_in_parts(mg_part part, void* job)
{
    int threads = mg_threads;               /* once, as another thread may set it */
    if (threads < 2 || pthread_mutex_trylock(&mg_pool.taken)) {
        part(job, 0, 1);
        return;
    }
    pthread_mutex_lock(&mg_pool.lock);
    mg_start_threads(threads);
    if (threads > mg_pool.workers + 1) threads = mg_pool.workers + 1;
    mg_pool.part = part;
    mg_pool.job = job;
    mg_pool.parts = threads;
    mg_pool.left = threads - 1;
    mg_pool.loops++;
    pthread_cond_broadcast(&mg_pool.start);
    pthread_mutex_unlock(&mg_pool.lock);
    part(job, 0, threads);
    pthread_mutex_lock(&mg_pool.lock);
    while (mg_pool.left) pthread_cond_wait(&mg_pool.done, &mg_pool.lock);
    pthread_mutex_unlock(&mg_pool.lock);
    pthread_mutex_unlock(&mg_pool.taken);
}
#endif
#endif
