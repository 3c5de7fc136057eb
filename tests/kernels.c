/* A test of the headers that do not need Python: products (matmul.h), functions (vecmath.h), the
 * thread pool (threads.h). tests/test_kernels.py builds it with the available compilers, and
 * `make test-aarch64` for another processor, emulated by qemu. It prints what it did; the exit
 * status is nonzero if it failed.
 *
 *     cc -O3 -fno-math-errno -fno-trapping-math -pthread -Iminigrad/_core/fast tests/kernels.c -lm && ./a.out */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int no_memory = 0;      /* for a panel */
static void* panel_memory(size_t size) { return no_memory ? NULL : malloc(size); }
#define malloc panel_memory
#include "matmul.h"
#undef malloc
#include "threads.h"
#include "vecmath.h"

static int failures = 0;

static void check(int right, const char* what, double value)
{
    if (right) return;
    if (failures++ < 20) printf("WRONG: %s (%g)\n", what, value);
}

static double uniform(void)     /* in [-1, 1), the same everywhere */
{
    static unsigned long long state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double) (state >> 11) / (1ull << 52) - 1.0;
}

/* ---------------------------------------------------------------------------------------- products */
static double get(const void* data, ptrdiff_t i, int size)
{
    return size == 4 ? ((const float*) data)[i] : ((const double*) data)[i];
}

static void set(void* data, ptrdiff_t i, int size, double value)
{
    if (size == 4) ((float*) data)[i] = (float) value;
    else ((double*) data)[i] = value;
}

static void* filled(ptrdiff_t n, int size)
{
    void* data = malloc((n + 1) * size);
    for (ptrdiff_t i = 0; i <= n; i++) set(data, i, size, uniform());
    return data;
}

static const char* const LAYOUTS = "nt";    /* rows contiguous, or columns */

/* One product in every way: all must be close to the exact sums, and chains of one kind bitwise equal. */
static void check_product(const mg_kernel* kernel, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, int layout,
                          int begun)
{
    const int size = (int) kernel->size;
    const int a_turned = layout & 1, b_turned = layout >> 1;
    void *x = filled(rows * inner, size), *y = filled(inner * columns, size), *bias = filled(rows * columns, size);
    void *exact = malloc(rows * columns * sizeof(double)), *out[5];
    const mg_matrix a = {x, a_turned ? 1 : inner, a_turned ? rows : 1};
    const mg_matrix b = {y, b_turned ? 1 : columns, b_turned ? inner : 1};
    const mg_matrix start = {begun ? bias : NULL, begun == 2 ? columns : 0, 1};
    const double near = (size == 4 ? 1e-6 : 1e-15) * (8 + sqrt((double) inner)) * 4;
    char text[200];
    snprintf(text, sizeof text, "product %td x %td x %td, layout %c%c, start %d, %d bytes", rows, inner, columns,
             LAYOUTS[a_turned], LAYOUTS[b_turned], begun, size);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) {
            double sum = begun ? get(bias, (begun == 2) * i * columns + j, size) : 0;
            for (ptrdiff_t k = 0; k < inner; k++)
                sum += get(x, i * a.row + k * a.column, size) * get(y, k * b.row + j * b.column, size);
            ((double*) exact)[i * columns + j] = sum;
        }
    void* panels = malloc(inner * mg_times(columns, kernel->lanes) * kernel->lanes * size + size);
    kernel->pack_panels(b, inner, columns, panels);
    for (int way = 0; way < 5; way++) {
        out[way] = calloc(rows * columns + 1, size);
        set(out[way], rows * columns, size, 7);      /* nothing may be written past the end */
        no_memory = way == 2;
        if (way < 3 && inner <= MG_CHAIN)
            kernel->matmul(a, b, way == 1 ? panels : NULL, start, out[way], rows, inner, columns);
        else {
            const ptrdiff_t threads = way == 4 ? 3 : 1;
            void* room = malloc(mg_room(kernel, inner, columns, 0, threads));
            mg_threads = (int) threads;
            mg_multiply_large(kernel, a, b, NULL, start, out[way], rows, inner, columns, threads, mg_in_parts, room);
            free(room);
        }
        for (ptrdiff_t i = 0; i < rows * columns; i++) {
            const double error = fabs(get(out[way], i, size) - ((double*) exact)[i]);
            check(error <= near, text, error);
        }
        check(get(out[way], rows * columns, size) == 7, "written behind the end", way);
        check(!memcmp(out[way], out[0], rows * columns * size), "bits depend on the way", way);
    }
    if (!b_turned && begun == 0) {                   /* b as short rows: x @ y as dot products needs y turned */
        void* turned = malloc(inner * columns * size + size);
        for (ptrdiff_t k = 0; k < inner; k++)
            for (ptrdiff_t j = 0; j < columns; j++) set(turned, j * inner + k, size, get(y, k * columns + j, size));
        const mg_matrix shorts = {turned, inner, 1};
        if (!a_turned) {
            kernel->dots(a, shorts, start, out[0], columns, 1, rows, inner, columns);
            for (ptrdiff_t i = 0; i < rows * columns; i++) {
                const double error = fabs(get(out[0], i, size) - ((double*) exact)[i]);
                check(error <= near, "dot products", error);
            }
        }
        free(turned);
    }
    for (int way = 0; way < 5; way++) free(out[way]);
    free(x), free(y), free(bias), free(exact), free(panels);
}

static int check_products(const char* name)
{
    static const ptrdiff_t sizes[][3] = {{1, 1, 1}, {7, 9, 16}, {8, 16, 32}, {9, 33, 31}, {13, 64, 4}, {17, 1, 70},
                                         {40, 129, 65}, {5, 0, 6}, {6, 1500, 20}, {125, 600, 67}, {65, 200, 256}};
    const mg_kernels* const kernels = mg_find_kernels(name);
    int count = 0;
    if (!kernels || !kernels->of_float) return 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int layout = 0; layout < 4; layout++)
            for (int begun = 0; begun < 3; begun++) {
                check_product(kernels->of_float, sizes[i][0], sizes[i][1], sizes[i][2], layout, begun);
                check_product(kernels->of_double, sizes[i][0], sizes[i][1], sizes[i][2], layout, begun);
                count += 2;
            }
    printf("%d products by the kernels for %s\n", count, kernels->name);
    return count;
}

/* --------------------------------------------------------------------------------------- functions */
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }

static const struct {
    const char* name;
    float (*ours)(float);
    double (*ours64)(double), (*exact)(double);
    double least, most, ulps;
} FUNCTIONS[] = {
    {"exp", mg_exp_f32, mg_exp_f64, exp, -87, 88, 2},
    {"expm1", mg_expm1_f32, mg_expm1_f64, expm1, -20, 88, 3},
    {"log", mg_log_f32, mg_log_f64, log, 1e-30, 1e30, 2},
    {"log1p", mg_log1p_f32, mg_log1p_f64, log1p, -0.999, 1e6, 3},
    {"tanh", mg_tanh_f32, mg_tanh_f64, tanh, -10, 10, 3},
    {"sigmoid", mg_sigmoid_f32, mg_sigmoid_f64, sigmoid, -80, 80, 3},
    {"softplus", mg_softplus_f32, mg_softplus_f64, softplus, -80, 80, 3},
    {"erf", mg_erf_f32, mg_erf_f64, erf, -5, 5, 3},
};

static double error_in_ulps(double value, double exact, double next)
{
    return fabs(value - exact) / fabs(next - fabs(exact));
}

static void check_functions(void)
{
    for (size_t f = 0; f < sizeof FUNCTIONS / sizeof *FUNCTIONS; f++) {
        const double least = FUNCTIONS[f].least, most = FUNCTIONS[f].most;
        for (int i = 0; i < 20000; i++) {
            const double t = 0.5 * (uniform() + 1), x = least > 0 ? least * pow(most / least, t) : least + t * (most - least);
            const float single = (float) x;
            const double exact = FUNCTIONS[f].exact(single), exact64 = FUNCTIONS[f].exact(x);
            if (fabs(exact) > 1e-30)
                check(error_in_ulps(FUNCTIONS[f].ours(single), exact, nextafterf(fabsf((float) exact), INFINITY))
                          < FUNCTIONS[f].ulps + 1, FUNCTIONS[f].name, single);
            if (fabs(exact64) > 1e-290)
                check(error_in_ulps(FUNCTIONS[f].ours64(x), exact64, nextafter(fabs(exact64), INFINITY))
                          < FUNCTIONS[f].ulps + 2, FUNCTIONS[f].name, x);
        }
    }
    check(isnan(mg_exp_f32(NAN)) && mg_exp_f32(-INFINITY) == 0 && isinf(mg_exp_f32(INFINITY)), "exp at its ends", 0);
    check(isinf(mg_log_f32(0)) && isnan(mg_log_f32(-1)) && mg_tanh_f32(INFINITY) == 1, "log and tanh at their ends", 0);
    printf("%zu functions, 20,000 floats and doubles each\n", sizeof FUNCTIONS / sizeof *FUNCTIONS);
}

/* ----------------------------------------------------------------------------------------- threads */
static void add_part(void* job, ptrdiff_t part, ptrdiff_t parts)
{
    ptrdiff_t* const seen = job;
    __atomic_add_fetch(&seen[part], parts, __ATOMIC_RELAXED);
}

/* Brief loops that no helper joins: the pool counts a thread that does not exist, before it starts any. */
static void check_pause(void)
{
    ptrdiff_t seen[2] = {0};
    mg_threads = 2;
    mg_pool.workers = 1;
    for (int i = 0; i < MG_MISSES; i++) mg_in_parts(add_part, seen, 2);
    check(mg_pool.pause > 0, "no pause after loops that no helper joined", MG_MISSES);
    mg_pool.workers = 0;
}

/* Loops that gain and loops that lose a second when they are divided; then those that gained lose. */
static void check_trial(void)
{
    mg_threads = 2;
    mg_pool.resume = 0;
    for (int n = 0; n < 3; n++) {
        const int loses = n > 0;
        int divided = 0;
        for (int i = 0; i < MG_CYCLE; i++) {
            long long begun;
            mg_pool.last = mg_now() + MG_OFTEN * 1000000LL;     /* one of many, however long this thread waits */
            const int way = mg_gains(n % 2, &begun);
            divided += way;
            mg_compare(n % 2, way, begun && way == loses ? begun - 1000000000 : begun);
        }
        check(divided == (loses ? MG_TRIED / 2 : MG_CYCLE - MG_TRIED / 2), "loops divided after a trial", divided);
    }
    mg_pool.last = 0;
    long long begun;
    check(!mg_gains(0, &begun) && !begun, "a loop by itself is divided", 0);
    printf("%d loops tried both ways\n", 3 * MG_TRIED);
}

static void check_pool(void)
{
    ptrdiff_t seen[50] = {0};
    for (int threads = 1; threads <= 4; threads++) {
        mg_threads = threads;
        for (int i = 0; i < 500; i++) mg_in_parts(add_part, seen, 50);
    }
    for (int i = 0; i < 50; i++) check(seen[i] == 4 * 500 * 50, "parts", i);
    printf("2,000 loops on 1 to 4 threads\n");
}

int main(void)
{
    check_pause();
    check_trial();
    const int products = check_products("avx512") + check_products("avx2") + check_products("vector128");
    check(products > 0, "no kernel was there", 0);
    check_functions();
    check_pool();
    printf("%d failures\n", failures);
    return failures > 0;
}
