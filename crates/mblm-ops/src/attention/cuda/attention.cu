// Attention: the parts that all forms share (rotation, sums), the form for float and for any head
// size up to 128 channels, and the form for one query after many keys.
//
// Everywhere queries keep log2 Σ_j 2^(scale · score_j), `logs` (n, h, t), with
// scale = log2(e)/√d_h, and keys are the rotated rows of the past and of the present.
//
// Longer than 450 lines: one file becomes one module for the driver, and its kernels share rotation
// and sums.

#include "rows.cuh"

// ---- rotation ----

// Cosine and sine of position · 10000^(-2 pair / d), in double precision because positions may be
// large.
__device__ __forceinline__ void angle(int position, int pair, int dh, float& cos_out, float& sin_out) {
    double sine, cosine;
    sincos((double)position * pow(10000.0, -2.0 * pair / dh), &sine, &cosine);
    cos_out = (float)cosine;
    sin_out = (float)sine;
}

// table (t, 2, d_h/2): cosines, then sines, of positions from `start`.
extern "C" __global__ void angles(float* table, int start, int t, int dh) {
    const int half = dh / 2, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t * half) return;
    const int row = i / half, pair = i % half;
    angle(start + row, pair, dh, table[row * dh + pair], table[row * dh + half + pair]);
}

// y (n, t, w) = x with the first `heads` heads of each row rotated and the others copied. Without a
// table, the angles of positions from `start` on are computed. One block per row, V pairs per
// thread.
template <typename T, int V>
__device__ __forceinline__ void rotate(RowsOf<T> x, const float* __restrict__ table, T* __restrict__ y, int t, int start, int width,
                                       int heads, int dh) {
    const int sequence = blockIdx.x / t, row = blockIdx.x % t, half = dh / 2, pieces = half / V;
    const T* from = x.at(sequence, 0) + row * x.row;
    T* to = y + (long long)blockIdx.x * width;
    for (int i = threadIdx.x; i < width / dh * pieces; i += blockDim.x) {
        const int head = i / pieces, pair = i % pieces * V, at = head * dh + pair;
        float a[V], b[V];
        load_v<V>(from + at, a);
        load_v<V>(from + at + half, b);
        if (head < heads) {
            float cos[V], sin[V];
            if (table) {
                load_v<V>(table + row * dh + pair, cos);
                load_v<V>(table + row * dh + half + pair, sin);
            } else {
#pragma unroll
                for (int j = 0; j < V; ++j) angle(start + row, pair + j, dh, cos[j], sin[j]);
            }
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float turned = a[j] * cos[j] - b[j] * sin[j];
                b[j] = b[j] * cos[j] + a[j] * sin[j];
                a[j] = turned;
            }
        }
        store_v<V>(to + at, a);
        store_v<V>(to + at + half, b);
    }
}

EXPORT_WIDTHS(rotate, LIST(ROWS(float, x), const float* table, float* y, int t, int start, int width, int heads, int dh),
              LIST(ROWS(bf16, x), const float* table, bf16* y, int t, int start, int width, int heads, int dh),
              ({x, x_sequence, x_row}, table, y, t, start, width, heads, dh))

// ---- sums ----

// dots (n, h, t): Σ over the channels of a head of x (n, t, h·d_h) times y; one warp per dot
// product.
template <typename T>
__device__ __forceinline__ void dots(const T* x, RowsOf<T> y, float* sums, int n, int t, int heads, int dh) {
    const long long item = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (item >= (long long)n * t * heads) return;
    const int head = item % heads, lane = threadIdx.x % 32;
    const long long line = item / heads;
    const int sequence = line / t, row = line % t;
    x += (line * heads + head) * dh;
    const T* other = y.at(sequence, head * dh) + row * y.row;
    float sum = 0.0f;
    for (int c = lane; c < dh; c += 32) sum += load(x + c) * load(other + c);
    sum = warp_sum(sum);
    if (lane == 0) sums[((long long)sequence * heads + head) * t + row] = sum;
}

extern "C" __global__ void dots_f32(const float* x, ROWS(float, y), float* sums, int n, int t, int heads, int dh) {
    dots(x, ROWS_OF(float, y), sums, n, t, heads, dh);
}
extern "C" __global__ void dots_bf16(const bf16* x, ROWS(bf16, y), float* sums, int n, int t, int heads, int dh) {
    dots(x, ROWS_OF(bf16, y), sums, n, t, heads, dh);
}

// out[j] = Σ_i parts[i][j] for parts (count, d): one block per 32 columns, whose warps take parts
// in turns.
template <typename T>
__device__ __forceinline__ void sum_parts(const float* parts, T* out, int count, int d) {
    __shared__ float shared[32][33];
    const int lane = threadIdx.x, warp = threadIdx.y, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < d)
        for (int i = warp; i < count; i += blockDim.y) sum += parts[(long long)i * d + column];
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < d) {
        for (int i = 1; i < blockDim.y; ++i) sum += shared[i][lane];
        store(out + column, sum);
    }
}

extern "C" __global__ void sum_parts_f32(const float* parts, float* out, int count, int d) { sum_parts(parts, out, count, d); }
extern "C" __global__ void sum_parts_bf16(const float* parts, bf16* out, int count, int d) { sum_parts(parts, out, count, d); }

// ---- any head size, float arithmetic throughout ----
//
// 128 threads hold a tile of 8·R rows and go through tiles of 32 rows of the other kind (columns).
// A thread computes the scores of R rows with columns x and x + 16, and for its R rows the sums of
// channels 4x … 4x + 3 and of the channels 64 further. Rows lie in shared memory in float, padded
// with zeros to a multiple of four channels.

constexpr int PLAIN_THREADS = 128, PLAIN_COLUMNS = 32, PLAIN_LINE = PLAIN_COLUMNS + 1;

// A thread's place in the tile, and the row stride.
struct Place {
    int x, y, dh, padded, line;
    __device__ __forceinline__ Place(int dh)
        : x(threadIdx.x % 16), y(threadIdx.x / 16), dh(dh), padded((dh + 3) / 4 * 4), line((dh + 3) / 4 * 4 + 4) {}
};

// Copies `count` rows to `tile`; `from(row)` is the start of a row, null for zeros.
template <typename F>
__device__ __forceinline__ void plain_load(const Place& place, float* tile, int count, F from) {
    for (int row = threadIdx.x / 32; row < count; row += PLAIN_THREADS / 32) {
        const auto* x = from(row);
        for (int c = threadIdx.x % 32; c < place.padded; c += 32)
            tile[row * place.line + c] = x && c < place.dh ? load(x + c) : 0.0f;
    }
}

template <int R>
__device__ __forceinline__ void plain_scores(const Place& place, float (&c)[R][2], const float* rows, const float* columns) {
#pragma unroll
    for (int r = 0; r < R; ++r) c[r][0] = c[r][1] = 0.0f;
    for (int k = 0; k < place.padded; k += 4) {
        const float4 u = load4(columns + place.x * place.line + k), v = load4(columns + (place.x + 16) * place.line + k);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const float4 a = load4(rows + (place.y * R + r) * place.line + k);
            c[r][0] += a.x * u.x + a.y * u.y + a.z * u.z + a.w * u.w;
            c[r][1] += a.x * v.x + a.y * v.y + a.z * v.z + a.w * v.w;
        }
    }
}

// sums += weights (rows, columns) times the first `count` columns.
template <int R>
__device__ __forceinline__ void plain_mix(const Place& place, float (&sums)[R][8], const float* weights, const float* columns,
                                          int count) {
    for (int k = 0; k < count; ++k) {
#pragma unroll
        for (int piece = 0; piece < 2; ++piece) {
            const int c = 4 * place.x + 64 * piece;
            if (c >= place.padded) continue;
            const float4 v = load4(columns + k * place.line + c);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const float w = weights[(place.y * R + r) * PLAIN_LINE + k];
                sums[r][4 * piece] += w * v.x;
                sums[r][4 * piece + 1] += w * v.y;
                sums[r][4 * piece + 2] += w * v.z;
                sums[r][4 * piece + 3] += w * v.w;
            }
        }
    }
}

// Writes the sums, each row times a factor, to a tile.
template <int R>
__device__ __forceinline__ void plain_stage(const Place& place, float* tile, const float (&sums)[R][8], const float (&factors)[R]) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int piece = 0; piece < 2; ++piece) {
            const int c = 4 * place.x + 64 * piece;
            if (c < place.padded)
                store4(tile + (place.y * R + r) * place.line + c,
                       make_float4(sums[r][4 * piece] * factors[r], sums[r][4 * piece + 1] * factors[r],
                                   sums[r][4 * piece + 2] * factors[r], sums[r][4 * piece + 3] * factors[r]));
        }
}

// Writes row `row` of a tile to `to`, by one warp, after adding `more` and rotating back by
// `angles`, unless they are null.
template <typename T, typename U>
__device__ __forceinline__ void plain_write(const Place& place, U* to, const float* tile, int row, const T* more,
                                            const float* angles) {
    const float* from = tile + row * place.line;
    const int half = place.dh / 2;
    auto value = [&](int c) { return from[c] + (more ? load(more + c) : 0.0f); };
    if (angles) {
        for (int c = threadIdx.x % 32; c < half; c += 32) {
            const float x = value(c), y = value(c + half), cos = angles[c], sin = angles[c + half];
            store(to + c, x * cos + y * sin);
            store(to + c + half, y * cos - x * sin);
        }
    } else {
        for (int c = threadIdx.x % 32; c < place.dh; c += 32) store(to + c, value(c));
    }
}

// Sum over the sixteen threads that share rows.
__device__ __forceinline__ float plain_sum(float v) {
    for (int offset = 8; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}
__device__ __forceinline__ float plain_max(float v) {
    for (int offset = 8; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
    return v;
}

// A block's part of a call in a grid of (heads · blocks): sequence, first channel of the head,
// first row.
template <typename T>
struct PlainCall {
    RowsOf<T> q, kv, past, d_out, d_present;
    int t, s, heads, dh, blocks, causal;
    float scale;

    __device__ __forceinline__ int sequence() const { return blockIdx.x / blocks / heads; }
    __device__ __forceinline__ int channel() const { return blockIdx.x / blocks % heads * dh; }
    __device__ __forceinline__ int first(int size) const { return blockIdx.x % blocks * size; }
    // Offset of the block's head in logs and dots.
    __device__ __forceinline__ long long lines() const { return (long long)(blockIdx.x / blocks) * t; }
    __device__ __forceinline__ const T* key(int at) const {
        if (at >= s + t) return nullptr;
        return at < s ? past.at(sequence(), channel()) + at * past.row : kv.at(sequence(), channel()) + (at - s) * kv.row;
    }
    __device__ __forceinline__ const T* value(int at) const {
        const T* row = key(at);
        return row ? row + heads * dh : row;
    }
    __device__ __forceinline__ const T* query(int at) const { return at < t ? q.at(sequence(), channel()) + at * q.row : nullptr; }
    __device__ __forceinline__ const T* slope(int at) const {
        return at < t ? d_out.at(sequence(), channel()) + at * d_out.row : nullptr;
    }
    __device__ __forceinline__ bool sees(int query, int key) const {
        return query < t && key < s + t && (!causal || key <= s + query);
    }
    // The number of keys that the rows of a tile see.
    __device__ __forceinline__ int end(int first, int size) const { return causal ? min(s + t, s + first + size) : s + t; }
};

// Shared memory: queries (8·R rows), 32 keys, 32 values, weights (8·R, 33).
template <typename T, int R>
__device__ __forceinline__ void plain_forward(const PlainCall<T>& call, T* out, float* logs) {
    constexpr int ROWS = 8 * R;
    extern __shared__ __align__(16) float plain_memory[];
    const Place place(call.dh);
    float *queries = plain_memory, *keys = queries + ROWS * place.line, *values = keys + PLAIN_COLUMNS * place.line;
    float* weights = values + PLAIN_COLUMNS * place.line;
    const int start = call.first(ROWS), end = call.end(start, ROWS);
    plain_load(place, queries, ROWS, [&](int row) { return call.query(start + row); });
    float sums[R][8] = {}, greatest[R], total[R] = {};
#pragma unroll
    for (int r = 0; r < R; ++r) greatest[r] = -INFINITY;
    for (int first = 0; first < end; first += PLAIN_COLUMNS) {
        __syncthreads();
        plain_load(place, keys, PLAIN_COLUMNS, [&](int row) { return call.key(first + row); });
        plain_load(place, values, PLAIN_COLUMNS, [&](int row) { return call.value(first + row); });
        __syncthreads();
        float c[R][2];
        plain_scores<R>(place, c, queries, keys);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const int query = start + place.y * R + r;
            // rows beyond the last query see the same keys as the last, so that all values are
            // finite
            const int row = min(query, call.t - 1);
            for (int i = 0; i < 2; ++i)
                c[r][i] = call.sees(row, first + place.x + 16 * i) ? c[r][i] * call.scale : -INFINITY;
            const float top = fmaxf(greatest[r], plain_max(fmaxf(c[r][0], c[r][1])));
            const float shrink = exp2f(greatest[r] - top);
            greatest[r] = top;
            float sum = 0.0f;
            for (int i = 0; i < 2; ++i) {
                const float w = exp2f(c[r][i] - top);
                weights[(place.y * R + r) * PLAIN_LINE + place.x + 16 * i] = w;
                sum += w;
            }
            total[r] = total[r] * shrink + plain_sum(sum);
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[r][i] *= shrink;
        }
        __syncwarp();
        plain_mix<R>(place, sums, weights, values, min(PLAIN_COLUMNS, end - first));
    }
    __syncthreads();
    float factors[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        const int query = start + place.y * R + r;
        factors[r] = 1.0f / total[r];
        if (place.x == 0 && query < call.t) logs[call.lines() + query] = greatest[r] + log2f(total[r]);
    }
    plain_stage<R>(place, queries, sums, factors);
    __syncthreads();
    for (int row = threadIdx.x / 32; row < ROWS && start + row < call.t; row += PLAIN_THREADS / 32)
        plain_write<T>(place, out + ((long long)call.sequence() * call.t + start + row) * call.heads * call.dh + call.channel(),
                       queries, row, nullptr, nullptr);
}

// Shared memory: queries and gradients of their outputs (8·R rows each), 32 keys, 32 values,
// weights (8·R, 33).
template <typename T, int R>
__device__ __forceinline__ void plain_backward_queries(const PlainCall<T>& call, const float* logs, const float* dots,
                                                       const float* angles, T* d_q, float root) {
    constexpr int ROWS = 8 * R;
    extern __shared__ __align__(16) float plain_memory[];
    const Place place(call.dh);
    float *queries = plain_memory, *slopes = queries + ROWS * place.line, *keys = slopes + ROWS * place.line;
    float *values = keys + PLAIN_COLUMNS * place.line, *weights = values + PLAIN_COLUMNS * place.line;
    const int start = call.first(ROWS), end = call.end(start, ROWS);
    plain_load(place, queries, ROWS, [&](int row) { return call.query(start + row); });
    plain_load(place, slopes, ROWS, [&](int row) { return call.slope(start + row); });
    float sums[R][8] = {}, factors[R];
    for (int first = 0; first < end; first += PLAIN_COLUMNS) {
        __syncthreads();
        plain_load(place, keys, PLAIN_COLUMNS, [&](int row) { return call.key(first + row); });
        plain_load(place, values, PLAIN_COLUMNS, [&](int row) { return call.value(first + row); });
        __syncthreads();
        float c[R][2], d[R][2];
        plain_scores<R>(place, c, queries, keys);
        plain_scores<R>(place, d, slopes, values);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const int query = start + place.y * R + r;
            for (int i = 0; i < 2; ++i) {
                const int column = place.x + 16 * i;
                float slope = 0.0f;
                if (call.sees(query, first + column))
                    slope = exp2f(c[r][i] * call.scale - logs[call.lines() + query]) * (d[r][i] - dots[call.lines() + query]) * root;
                weights[(place.y * R + r) * PLAIN_LINE + column] = slope;
            }
        }
        __syncwarp();
        plain_mix<R>(place, sums, weights, keys, min(PLAIN_COLUMNS, end - first));
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; ++r) factors[r] = 1.0f;
    plain_stage<R>(place, queries, sums, factors);
    __syncthreads();
    for (int row = threadIdx.x / 32; row < ROWS && start + row < call.t; row += PLAIN_THREADS / 32)
        plain_write<T>(place, d_q + ((long long)call.sequence() * call.t + start + row) * call.heads * call.dh + call.channel(),
                       queries, row, nullptr, angles ? angles + (long long)(start + row) * call.dh : nullptr);
}

// Shared memory: keys and values (8·R rows each), 32 queries, 32 gradients of their outputs,
// weights (8·R, 33) twice. The gradient of the past goes to `d_past` (n, s, 2·h·d_h), or in float
// to `partial` of the same shape.
template <typename T, int R>
__device__ __forceinline__ void plain_backward_keys(const PlainCall<T>& call, const float* logs, const float* dots,
                                                    const float* angles, T* d_kv, T* d_past, float* partial, float root) {
    constexpr int ROWS = 8 * R;
    extern __shared__ __align__(16) float plain_memory[];
    const Place place(call.dh);
    float *keys = plain_memory, *values = keys + ROWS * place.line, *queries = values + ROWS * place.line;
    float *slopes = queries + PLAIN_COLUMNS * place.line, *weights = slopes + PLAIN_COLUMNS * place.line;
    float* weight_slopes = weights + ROWS * PLAIN_LINE;
    const int start = call.first(ROWS), width = call.heads * call.dh;
    plain_load(place, keys, ROWS, [&](int row) { return call.key(start + row); });
    plain_load(place, values, ROWS, [&](int row) { return call.value(start + row); });
    float d_keys[R][8] = {}, d_values[R][8] = {}, factors[R];
    const int begin = call.causal ? max(0, start - call.s) / PLAIN_COLUMNS * PLAIN_COLUMNS : 0;
    for (int first = begin; first < call.t; first += PLAIN_COLUMNS) {
        __syncthreads();
        plain_load(place, queries, PLAIN_COLUMNS, [&](int row) { return call.query(first + row); });
        plain_load(place, slopes, PLAIN_COLUMNS, [&](int row) { return call.slope(first + row); });
        __syncthreads();
        float c[R][2], d[R][2];
        plain_scores<R>(place, c, keys, queries);
        plain_scores<R>(place, d, values, slopes);
        for (int i = 0; i < 2; ++i) {
            const int column = place.x + 16 * i, query = first + column;
            const float log = query < call.t ? logs[call.lines() + query] : 0.0f;
            const float dot = query < call.t ? dots[call.lines() + query] : 0.0f;
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const int line = place.y * R + r;
                const float weight = call.sees(query, start + line) ? exp2f(c[r][i] * call.scale - log) : 0.0f;
                weights[line * PLAIN_LINE + column] = weight;
                weight_slopes[line * PLAIN_LINE + column] = weight * (d[r][i] - dot) * root;
            }
        }
        __syncwarp();
        const int count = min(PLAIN_COLUMNS, call.t - first);
        plain_mix<R>(place, d_values, weights, slopes, count);
        plain_mix<R>(place, d_keys, weight_slopes, queries, count);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; ++r) factors[r] = 1.0f;
    plain_stage<R>(place, keys, d_keys, factors);
    plain_stage<R>(place, values, d_values, factors);
    __syncthreads();
    for (int line = threadIdx.x / 32; line < ROWS && start + line < call.s + call.t; line += PLAIN_THREADS / 32) {
        const int row = start + line - call.s;
        if (row >= 0) {
            T* to = d_kv + ((long long)call.sequence() * call.t + row) * 2 * width + call.channel();
            const T* more = nullptr;
            if (call.d_present.data) more = call.d_present.at(call.sequence(), call.channel()) + row * call.d_present.row;
            plain_write<T>(place, to, keys, line, more, angles ? angles + (long long)row * call.dh : nullptr);
            plain_write<T>(place, to + width, values, line, more ? more + width : more, nullptr);
        } else {
            const long long at = ((long long)call.sequence() * call.s + start + line) * 2 * width + call.channel();
            if (partial) {
                plain_write<T>(place, partial + at, keys, line, nullptr, nullptr);
                plain_write<T>(place, partial + at + width, values, line, nullptr, nullptr);
            } else {
                plain_write<T>(place, d_past + at, keys, line, nullptr, nullptr);
                plain_write<T>(place, d_past + at + width, values, line, nullptr, nullptr);
            }
        }
    }
}

#define PLAIN(T, R, NAME)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) plain_forward##NAME(                                             \
        ROWS(T, q), ROWS(T, kv), ROWS(T, past), T* out, float* logs, int t, int s, int heads, int dh, int blocks, int causal,    \
        float scale) {                                                                                                           \
        const PlainCall<T> call = {ROWS_OF(T, q), ROWS_OF(T, kv), ROWS_OF(T, past), {}, {}, t, s, heads, dh, blocks, causal,     \
                                   scale};                                                                                       \
        plain_forward<T, R>(call, out, logs);                                                                                    \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) plain_backward_queries##NAME(                                    \
        ROWS(T, q), ROWS(T, kv), ROWS(T, past), ROWS(T, d_out), const float* logs, const float* dots, const float* angles,       \
        T* d_q, int t, int s, int heads, int dh, int blocks, int causal, float scale, float root) {                              \
        const PlainCall<T> call = {ROWS_OF(T, q), ROWS_OF(T, kv), ROWS_OF(T, past), ROWS_OF(T, d_out), {}, t, s, heads, dh,      \
                                   blocks, causal, scale};                                                                       \
        plain_backward_queries<T, R>(call, logs, dots, angles, d_q, root);                                                       \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) plain_backward_keys##NAME(                                       \
        ROWS(T, q), ROWS(T, kv), ROWS(T, past), ROWS(T, d_out), ROWS(T, d_present), const float* logs, const float* dots,        \
        const float* angles, T* d_kv, T* d_past, float* partial, int t, int s, int heads, int dh, int blocks, int causal,        \
        float scale, float root) {                                                                                               \
        const PlainCall<T> call = {ROWS_OF(T, q), ROWS_OF(T, kv), ROWS_OF(T, past), ROWS_OF(T, d_out), ROWS_OF(T, d_present),    \
                                   t, s, heads, dh, blocks, causal, scale};                                                      \
        plain_backward_keys<T, R>(call, logs, dots, angles, d_kv, d_past, partial, root);                                        \
    }

PLAIN(float, 1, 1_f32)
PLAIN(float, 4, 4_f32)
PLAIN(bf16, 1, 1_bf16)
PLAIN(bf16, 4, 4_bf16)

// ---- one query after many keys ----
//
// The keys of a head are cut into `splits` ranges of `each` keys, one block of 128 threads per
// range: G threads per key, eight channels per thread, each thread with its own running maximum and
// sums. A second kernel joins the ranges.

constexpr int DECODE_THREADS = 128, DECODE_AT_ONCE = 4;

// `parts` (n·h, splits, 2 + d_h): greatest score, sum of powers, sums of values.
template <typename T, int G>
__device__ __forceinline__ void decode(RowsOf<T> q, RowsOf<T> kv, RowsOf<T> past, float* __restrict__ parts, int s, int heads, int dh,
                                       int splits, int each, float scale) {
    constexpr int GROUPS = DECODE_THREADS / G;
    extern __shared__ float decode_memory[];
    const int item = blockIdx.x / splits, split = blockIdx.x % splits, group = threadIdx.x / G, c = threadIdx.x % G * 8;
    const int sequence = item / heads, channel = item % heads * dh + c, width = heads * dh;
    const bool active = c < dh;
    float query[8] = {}, sums[8] = {}, greatest = -INFINITY, total = 0.0f;
    if (active) load_v<8>(q.at(sequence, channel), query);
    const T *old = past.at(sequence, channel), *last = kv.at(sequence, channel);
    const int begin = split * each, end = min(s + 1, begin + each);
    for (int base = begin; base < end; base += DECODE_AT_ONCE * GROUPS) {
        float score[DECODE_AT_ONCE], values[DECODE_AT_ONCE][8];
#pragma unroll
        for (int u = 0; u < DECODE_AT_ONCE; ++u) {
            const int key = base + u * GROUPS + group;
            float k[8] = {};
#pragma unroll
            for (int i = 0; i < 8; ++i) values[u][i] = 0.0f;
            if (active && key < end) {
                const T* row = key < s ? old + key * past.row : last;
                load_v<8>(row, k);
                load_v<8>(row + width, values[u]);
            }
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; ++i) sum += query[i] * k[i];
            score[u] = sum;
        }
        float top = greatest;
#pragma unroll
        for (int u = 0; u < DECODE_AT_ONCE; ++u) {
#pragma unroll
            for (int offset = G / 2; offset > 0; offset >>= 1) score[u] += __shfl_xor_sync(0xffffffffu, score[u], offset);
            score[u] = base + u * GROUPS + group < end ? score[u] * scale : -INFINITY;
            top = fmaxf(top, score[u]);
        }
        // a group may have seen no key yet
        const float from = top == -INFINITY ? 0.0f : top, shrink = exp2f(greatest - from);
        greatest = top;
        total *= shrink;
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] *= shrink;
#pragma unroll
        for (int u = 0; u < DECODE_AT_ONCE; ++u) {
            const float w = exp2f(score[u] - from);
            total += w;
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] += w * values[u][i];
        }
    }
    float* mine = decode_memory + group * (dh + 2);
    if (c == 0) {
        mine[0] = greatest;
        mine[1] = total;
    }
    if (active)
#pragma unroll
        for (int i = 0; i < 8; ++i) mine[2 + c + i] = sums[i];
    __syncthreads();
    float top = -INFINITY;
    for (int i = 0; i < GROUPS; ++i) top = fmaxf(top, decode_memory[i * (dh + 2)]);
    parts += (long long)blockIdx.x * (dh + 2);
    for (int i = threadIdx.x; i < dh + 1; i += DECODE_THREADS) {
        float sum = 0.0f;
        for (int j = 0; j < GROUPS; ++j) sum += decode_memory[j * (dh + 2) + 1 + i] * exp2f(decode_memory[j * (dh + 2)] - top);
        parts[1 + i] = sum;
    }
    if (threadIdx.x == 0) parts[0] = top;
}

// The output (n, 1, h·d_h) and `logs` over all ranges; one block of d_h threads per head.
template <typename T>
__device__ __forceinline__ void decode_join(const float* __restrict__ parts, T* out, float* logs, int dh, int splits) {
    parts += (long long)blockIdx.x * splits * (dh + 2);
    float top = -INFINITY, total = 0.0f, sum = 0.0f;
    for (int i = 0; i < splits; ++i) top = fmaxf(top, parts[i * (dh + 2)]);
    for (int i = 0; i < splits; ++i) {
        const float* part = parts + i * (dh + 2);
        const float factor = exp2f(part[0] - top);
        total += part[1] * factor;
        sum += part[2 + threadIdx.x] * factor;
    }
    store(out + (long long)blockIdx.x * dh + threadIdx.x, sum / total);
    if (threadIdx.x == 0) logs[blockIdx.x] = top + log2f(total);
}

#define DECODE(T, G, NAME)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(DECODE_THREADS) decode##NAME(                                                   \
        ROWS(T, q), ROWS(T, kv), ROWS(T, past), float* parts, int s, int heads, int dh, int splits, int each, float scale) {     \
        decode<T, G>(ROWS_OF(T, q), ROWS_OF(T, kv), ROWS_OF(T, past), parts, s, heads, dh, splits, each, scale);                 \
    }

DECODE(float, 1, 1_f32)
DECODE(float, 2, 2_f32)
DECODE(float, 4, 4_f32)
DECODE(float, 8, 8_f32)
DECODE(float, 16, 16_f32)
DECODE(bf16, 1, 1_bf16)
DECODE(bf16, 2, 2_bf16)
DECODE(bf16, 4, 4_bf16)
DECODE(bf16, 8, 8_bf16)
DECODE(bf16, 16, 16_bf16)

extern "C" __global__ void decode_join_f32(const float* parts, float* out, float* logs, int dh, int splits) {
    decode_join(parts, out, logs, dh, splits);
}
extern "C" __global__ void decode_join_bf16(const float* parts, bf16* out, float* logs, int dh, int splits) {
    decode_join(parts, out, logs, dh, splits);
}
