/* Triangular systems, and the factors LU and L L' of a matrix, in one precision: factors.pyx includes this file once
 * for each, with MG_NAME(x) giving each name its own ending and MG_REAL the type of an element.
 *
 * All matrices lie in C order; of a triangular one both strides are given, so that its transpose is no copy. A
 * matrix is taken in blocks of MG_WIDTH columns (Golub & Van Loan, Matrix Computations, 2013, sections 3.2 and 4.2):
 * the block is factorised in a compact copy whose rows have a constant length, which unrolls, and what is left of
 * the matrix is updated by a product, which does nearly all of the work. */

/* x -= t y */
MG_CLONED static void MG_NAME(eliminate)(MG_REAL* restrict x, MG_REAL t, const MG_REAL* restrict y, ptrdiff_t n)
{
    for (ptrdiff_t k = 0; k < n; k++) x[k] -= t * y[k];
}

MG_CLONED static MG_REAL MG_NAME(dot)(const MG_REAL* x, const MG_REAL* y, ptrdiff_t n)
{
    MG_REAL sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (ptrdiff_t k = 0; k < n; k++) sum += x[k] * y[k];
    return sum;
}

/* The vector b becomes the solution of T x = b; see `triangular`. */
static void MG_NAME(triangular_vector)(const MG_REAL* t, ptrdiff_t row, ptrdiff_t column, int upper, int unit,
                                       MG_REAL* b, ptrdiff_t n)
{
    for (ptrdiff_t s = 0; n < MG_NARROW && s < n; s++) {        /* calls would take longer */
        const ptrdiff_t i = upper ? n - 1 - s : s, first = upper ? i + 1 : 0;
        MG_REAL x = b[i];
        for (ptrdiff_t j = first; j < first + s; j++) x -= t[i * row + j * column] * b[j];
        b[i] = unit ? x : x / t[i * (row + column)];
    }
    for (ptrdiff_t s = 0; n >= MG_NARROW && s < n; s++) {
        const ptrdiff_t i = upper ? n - 1 - s : s, rest = upper ? 0 : i + 1;
        if (column == 1) b[i] -= upper ? MG_NAME(dot)(t + i * row + i + 1, b + i + 1, s) : MG_NAME(dot)(t + i * row, b, s);
        if (!unit) b[i] /= t[i * (row + column)];
        if (column != 1) MG_NAME(eliminate)(b + rest, b[i], t + i * column + rest, n - 1 - s);
    }
}

/* `triangular` of a block that stays in the first cache. */
MG_CLONED static void MG_NAME(triangular_block)(const MG_REAL* t, ptrdiff_t row, ptrdiff_t column, int upper,
                                                int unit, MG_REAL* b, ptrdiff_t b_row, ptrdiff_t n, ptrdiff_t columns)
{
    for (ptrdiff_t from = 0; from < columns; from += MG_TILE) {
        const ptrdiff_t width = columns - from < MG_TILE ? columns - from : MG_TILE;
        for (ptrdiff_t s = 0; s < n; s++) {
            const ptrdiff_t i = upper ? n - 1 - s : s, first = upper ? i + 1 : 0;
            const MG_REAL* const factors = t + i * row;
            MG_REAL* restrict const x = b + i * b_row + from;
            ptrdiff_t j = first;
            for (; j + 4 <= first + s; j += 4) {
                const MG_REAL* restrict const y = b + j * b_row + from;
                const MG_REAL t0 = factors[j * column], t1 = factors[(j + 1) * column];
                const MG_REAL t2 = factors[(j + 2) * column], t3 = factors[(j + 3) * column];
                for (ptrdiff_t k = 0; k < width; k++)
                    x[k] -= t0 * y[k] + t1 * y[b_row + k] + t2 * y[2 * b_row + k] + t3 * y[3 * b_row + k];
            }
            for (; j < first + s; j++) {
                const MG_REAL* restrict const y = b + j * b_row + from;
                const MG_REAL factor = factors[j * column];
                for (ptrdiff_t k = 0; k < width; k++) x[k] -= factor * y[k];
            }
            if (!unit) {
                const MG_REAL pivot = factors[i * column];
                for (ptrdiff_t k = 0; k < width; k++) x[k] /= pivot;
            }
        }
    }
}

/* The matrix b (n, columns), whose rows are b_row apart, becomes the solution of T X = b. Of T, with element (i, j) at
 * t[i row + j column], one stride of which is 1, only the upper or the lower triangle is read; `unit`: nor is the
 * diagonal, which counts as ones. */
static void MG_NAME(triangular)(const MG_REAL* t, ptrdiff_t row, ptrdiff_t column, int upper, int unit, MG_REAL* b,
                                ptrdiff_t b_row, ptrdiff_t n, ptrdiff_t columns, mg_room room)
{
    if (columns < MG_NARROW) {
        MG_REAL* const vector = room.vector;
        for (ptrdiff_t k = 0; k < columns; k++) {
            if (b_row == 1) {
                MG_NAME(triangular_vector)(t, row, column, upper, unit, b, n);
                continue;
            }
            for (ptrdiff_t i = 0; i < n; i++) vector[i] = b[i * b_row + k];
            MG_NAME(triangular_vector)(t, row, column, upper, unit, vector, n);
            for (ptrdiff_t i = 0; i < n; i++) b[i * b_row + k] = vector[i];
        }
    } else if (n <= MG_WIDTH)
        MG_NAME(triangular_block)(t, row, column, upper, unit, b, b_row, n, columns);
    else {
        const ptrdiff_t half = (n / 2 + MG_WIDTH - 1) / MG_WIDTH * MG_WIDTH;
        MG_REAL* const below = b + half * b_row;
        const MG_REAL* const last = t + half * (row + column);
        if (upper) MG_NAME(triangular)(last, row, column, upper, unit, below, b_row, n - half, columns, room);
        else MG_NAME(triangular)(t, row, column, upper, unit, b, b_row, half, columns, room);
        room.subtract(sizeof(MG_REAL) == 8, t + half * (upper ? column : row), row, column, upper ? below : b, b_row,
                      upper ? b : below, b_row, upper ? half : n - half, upper ? n - half : half, columns, room.packed);
        if (upper) MG_NAME(triangular)(t, row, column, upper, unit, b, b_row, half, columns, room);
        else MG_NAME(triangular)(last, row, column, upper, unit, below, b_row, n - half, columns, room);
    }
}

/* Gaussian elimination with partial pivoting of a block of `width` columns, whose rows are `wide` (a constant) long
 * and padded with zeros; the number of the first column without a pivot, or -1. */
static inline MG_INLINED ptrdiff_t MG_NAME(eliminated)(MG_REAL* restrict a, ptrdiff_t rows, ptrdiff_t width,
                                                       const ptrdiff_t wide, ptrdiff_t* pivots)
{
    MG_REAL pivot_row[MG_WIDTH];
    for (ptrdiff_t j = 0; j < width; j++) {
        ptrdiff_t pivot = j;
        MG_REAL largest = -1;
        for (ptrdiff_t i = j; i < rows; i++) {
            const MG_REAL size = a[i * wide + j] < 0 ? -a[i * wide + j] : a[i * wide + j];
            if (size > largest || size != size) largest = size, pivot = i;     /* a NaN stays the largest */
        }
        pivots[j] = pivot;
        if (largest == 0) return j;
        for (ptrdiff_t k = 0; k < wide; k++) {
            const MG_REAL x = a[pivot * wide + k];
            a[pivot * wide + k] = a[j * wide + k];
            a[j * wide + k] = x;
            pivot_row[k] = k > j ? x : 0;
        }
        const MG_REAL divisor = a[j * wide + j], factor = 1 / divisor;
        const int overflows = !(factor - factor == 0);
        for (ptrdiff_t i = j + 1; i < rows; i++) {
            MG_REAL* restrict const x = a + i * wide;
            const MG_REAL multiple = overflows ? x[j] / divisor : x[j] * factor;
            for (ptrdiff_t k = 0; k < wide; k++) x[k] -= multiple * pivot_row[k];
            x[j] = multiple;
        }
    }
    return -1;
}

MG_CLONED static ptrdiff_t MG_NAME(eliminate_block)(MG_REAL* a, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t wide,
                                                    ptrdiff_t* pivots)
{
    return wide == MG_NARROW ? MG_NAME(eliminated)(a, rows, width, MG_NARROW, pivots)
                             : MG_NAME(eliminated)(a, rows, width, MG_WIDTH, pivots);
}

static void MG_NAME(swap)(MG_REAL* x, MG_REAL* y, ptrdiff_t n)
{
    for (ptrdiff_t k = 0; x != y && k < n; k++) {
        const MG_REAL z = x[k];
        x[k] = y[k];
        y[k] = z;
    }
}

/* a (n, n) becomes L below its diagonal, without the ones on it, and U, of P a = L U; row i was exchanged with row
 * pivots[i], in this order. Returns as `eliminate_block`. */
static ptrdiff_t MG_NAME(lu)(MG_REAL* a, ptrdiff_t n, ptrdiff_t* pivots, mg_room room)
{
    MG_REAL* const block = room.block;
    const ptrdiff_t wide = n <= MG_NARROW ? MG_NARROW : MG_WIDTH;
    for (ptrdiff_t j = 0; j < n; j += MG_WIDTH) {
        const ptrdiff_t width = n - j < MG_WIDTH ? n - j : MG_WIDTH, rows = n - j, rest = rows - width;
        MG_REAL *const corner = a + j * (n + 1), *const right = corner + width;
        for (ptrdiff_t i = 0; i < rows; i++) {
            memcpy(block + i * wide, corner + i * n, width * sizeof(MG_REAL));
            memset(block + i * wide + width, 0, (wide - width) * sizeof(MG_REAL));
        }
        const ptrdiff_t missing = MG_NAME(eliminate_block)(block, rows, width, wide, pivots + j);
        if (missing >= 0) return j + missing;
        for (ptrdiff_t i = 0; i < rows; i++)
            memcpy(corner + i * n, block + i * wide, width * sizeof(MG_REAL));
        for (ptrdiff_t i = 0; i < width; i++) {
            MG_NAME(swap)(a + (j + i) * n, a + (j + pivots[j + i]) * n, j);
            MG_NAME(swap)(right + i * n, right + pivots[j + i] * n, rest);
        }
        for (ptrdiff_t i = 0; i < width; i++) pivots[j + i] += j;
        if (rest) {
            MG_NAME(triangular_block)(block, wide, 1, 0, 1, right, n, width, rest);
            room.subtract(sizeof(MG_REAL) == 8, block + width * wide, wide, 1, right, n, right + width * n, n,
                          rest, width, rest, room.packed);
        }
    }
    return -1;
}

/* b (n, columns) becomes the solution of a X = b, or a' X = b, from what `lu` made of a. */
static void MG_NAME(solve)(const MG_REAL* lu, const ptrdiff_t* pivots, int transposed, MG_REAL* b, ptrdiff_t n,
                           ptrdiff_t columns, mg_room room)
{
    if (transposed) {
        MG_NAME(triangular)(lu, 1, n, 0, 0, b, columns, n, columns, room);
        MG_NAME(triangular)(lu, 1, n, 1, 1, b, columns, n, columns, room);
        for (ptrdiff_t i = n; i-- > 0;) MG_NAME(swap)(b + i * columns, b + pivots[i] * columns, columns);
    } else {
        for (ptrdiff_t i = 0; i < n; i++) MG_NAME(swap)(b + i * columns, b + pivots[i] * columns, columns);
        MG_NAME(triangular)(lu, n, 1, 0, 1, b, columns, n, columns, room);
        MG_NAME(triangular)(lu, n, 1, 1, 0, b, columns, n, columns, room);
    }
}

/* Cholesky's factor of a block, in its lower triangle; returns as `cholesky`. */
MG_CLONED static ptrdiff_t MG_NAME(cholesky_block)(MG_REAL* restrict a, ptrdiff_t width)
{
    MG_REAL column[MG_WIDTH];
    for (ptrdiff_t j = 0; j < width; j++) {
        const MG_REAL square = a[j * MG_WIDTH + j];
        if (!(square > 0)) return j;
        const MG_REAL root = MG_SQRT(square);
        for (ptrdiff_t k = 0; k < MG_WIDTH; k++) column[k] = k > j && k < width ? a[k * MG_WIDTH + j] / root : 0;
        a[j * MG_WIDTH + j] = root;
        for (ptrdiff_t i = j + 1; i < width; i++) {
            MG_REAL* restrict const x = a + i * MG_WIDTH;
            for (ptrdiff_t k = 0; k < MG_WIDTH; k++) x[k] -= column[i] * column[k];
            x[j] = column[i];
        }
    }
    return -1;
}

/* The lower triangle of a (n, n), symmetric and positive definite, becomes L of a = L L', and the rest zeros. Returns
 * the number of the first row that makes it not positive definite, or -1. */
static ptrdiff_t MG_NAME(cholesky)(MG_REAL* a, ptrdiff_t n, mg_room room)
{
    MG_REAL block[MG_WIDTH * MG_WIDTH];
    MG_REAL* const across = room.block;         /* the columns below the block, as rows */
    for (ptrdiff_t j = 0; j < n; j += MG_WIDTH) {
        const ptrdiff_t width = n - j < MG_WIDTH ? n - j : MG_WIDTH, rest = n - j - width;
        MG_REAL *const corner = a + j * (n + 1), *const below = corner + width * n;
        for (ptrdiff_t i = 0; i < width; i++) memcpy(block + i * MG_WIDTH, corner + i * n, width * sizeof(MG_REAL));
        const ptrdiff_t missing = MG_NAME(cholesky_block)(block, width);
        if (missing >= 0) return j + missing;
        for (ptrdiff_t i = 0; i < width; i++) {
            memcpy(corner + i * n, block + i * MG_WIDTH, (i + 1) * sizeof(MG_REAL));
            memset(corner + i * n + i + 1, 0, (n - j - i - 1) * sizeof(MG_REAL));
        }
        for (ptrdiff_t i = 0; i < rest; i++)
            for (ptrdiff_t k = 0; k < width; k++) across[k * rest + i] = below[i * n + k];
        MG_NAME(triangular_block)(block, MG_WIDTH, 1, 0, 0, across, rest, width, rest);
        for (ptrdiff_t i = 0; i < rest; i++)
            for (ptrdiff_t k = 0; k < width; k++) below[i * n + k] = across[k * rest + i];
        for (ptrdiff_t i = 0; i < rest; i += 2 * MG_WIDTH) {
            const ptrdiff_t columns = rest - i < 2 * MG_WIDTH ? rest - i : 2 * MG_WIDTH;
            room.subtract(sizeof(MG_REAL) == 8, below + i * n, n, 1, across + i, rest, below + width + i * (n + 1), n,
                          rest - i, width, columns, room.packed);
        }
    }
    return -1;
}

#undef MG_NAME
#undef MG_REAL
#undef MG_SQRT
