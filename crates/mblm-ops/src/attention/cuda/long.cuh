// Attention over many keys in bf16, block by block on tensor cores: FlashAttention-2.
//
// Four warps of 16·M rows each take one block of a head: a block of queries for the output and for
// the query gradients, a block of keys for the key and value gradients. They go through tiles of N
// rows of the other kind, which are copied to shared memory one step ahead. A warp keeps its rows
// in registers as left operands and takes a tile in groups of 16 rows: the products of one group
// overlap the powers of another.
//
// Queries and new keys are already rotated; key j is row j of the past, or row j - s of `kv`. Each
// query keeps log2 Σ_j 2^(scale · score_j), `logs` (n, h, t), with scale = log2(e)/√d_h. The
// backward pass reads the dot product of each query's output and its gradient from `dots`
// (n, h, t).
//
// The backward pass computes the weights twice, once for each kind of block, so that every sum has
// one owner and one order.
//
// Source: arXiv 2307.08691, algorithms 1 and 2.
//
// Longer than 450 lines: the forward pass and both kinds of backward pass are templates over the
// same tiles.

#pragma once

#include "mma.cuh"
#include "rows.cuh"

constexpr int LONG_WARPS = 4, LONG_THREADS = 32 * LONG_WARPS;

// Heads whose blocks are launched together, longest blocks first. With enough heads no long block
// is left for the end; with few enough their rows stay in the cache.
constexpr int LONG_HEADS = 16;

// Keys and values of one head.
struct LongKeys {
    const bf16 *past, *kv;
    long long past_row, kv_row;
    int width, s, count;
};

// A block's part of a grid of (heads · blocks); in reverse order if `backwards`.
struct LongBlock {
    int sequence, head, channel, first;
    __device__ __forceinline__ LongBlock(int blocks, int size, int heads, int head_dim, bool backwards) {
        const int before = blockIdx.x / (LONG_HEADS * blocks) * LONG_HEADS, rest = blockIdx.x - before * blocks;
        const int together = min(LONG_HEADS, (int)gridDim.x / blocks - before);
        const int item = before + rest % together, block = rest / together;
        sequence = item / heads;
        head = item % heads;
        channel = head * head_dim;
        first = (backwards ? blocks - 1 - block : block) * size;
    }
};

// Calls `copy` for this thread's pieces of a tile of COUNT rows: 16 bytes of each AT_ONCE-th row,
// with the row and the offset in bytes from the start of the tile in shared memory.
template <int DH, int COUNT>
struct LongPieces {
    static constexpr int LD = DH + 8, CHUNKS = DH / 8, AT_ONCE = LONG_THREADS / CHUNKS, TIMES = (COUNT + AT_ONCE - 1) / AT_ONCE;
    static __device__ __forceinline__ int row() { return threadIdx.x / CHUNKS; }
    static __device__ __forceinline__ int channel() { return threadIdx.x % CHUNKS * 8; }
    template <typename F>
    static __device__ __forceinline__ void each(F copy) {
        if (LONG_THREADS % CHUNKS && row() >= AT_ONCE) return;
        const uint32_t at = 2 * (row() * LD + channel());
#pragma unroll
        for (int i = 0; i < TIMES; ++i)
            if (COUNT % AT_ONCE == 0 || row() + i * AT_ONCE < COUNT) copy(row() + i * AT_ONCE, at + 2 * i * AT_ONCE * LD);
    }
};

// This thread's piece of key `first`, if the key is new.
template <int DH, int COUNT>
__device__ __forceinline__ const bf16* piece_of_key(const LongKeys& keys, int first) {
    typedef LongPieces<DH, COUNT> Pieces;
    return keys.kv + (first - keys.s + Pieces::row()) * keys.kv_row + Pieces::channel();
}

// Copies keys from `first` on to `to`, and their values to `to` + `apart` bytes; zeros beyond the
// last. This thread's piece of the first key is at `from`.
template <int DH, int COUNT>
__device__ __forceinline__ void load_keys(uint32_t to, uint32_t apart, const LongKeys& keys, int first, const bf16* from) {
    typedef LongPieces<DH, COUNT> Pieces;
    if (first >= keys.s && first + COUNT <= keys.count) {
        Pieces::each([&](int, uint32_t at) {
            copy_later(to + at, from);
            copy_later(to + apart + at, from + keys.width);
            from += Pieces::AT_ONCE * keys.kv_row;
        });
        return;
    }
    Pieces::each([&](int row, uint32_t at) {
        const int key = first + row;
        const bool valid = key < keys.count;
        const bf16* from = key < keys.s ? keys.past + key * keys.past_row : keys.kv + (valid ? key - keys.s : 0) * keys.kv_row;
        from += Pieces::channel();
        copy_later(to + at, from, valid);
        copy_later(to + apart + at, from + keys.width, valid);
    });
}

template <int DH, int COUNT>
__device__ __forceinline__ void load_keys(uint32_t to, uint32_t apart, const LongKeys& keys, int first) {
    load_keys<DH, COUNT>(to, apart, keys, first, piece_of_key<DH, COUNT>(keys, first));
}

// Copies the rows of `from` from `first` on; zeros from row `end` on.
template <int DH, int COUNT>
__device__ __forceinline__ void load_rows(uint32_t to, const bf16* from, long long stride, int first, int end) {
    typedef LongPieces<DH, COUNT> Pieces;
    from += Pieces::channel();
    if (first + COUNT <= end) {
        from += (first + Pieces::row()) * stride;
        Pieces::each([&](int, uint32_t at) {
            copy_later(to + at, from);
            from += Pieces::AT_ONCE * stride;
        });
        return;
    }
    Pieces::each([&](int row, uint32_t at) {
        const bool valid = first + row < end;
        copy_later(to + at, from + (valid ? first + row : 0) * stride, valid);
    });
}

// Rows of `a` (16·M) as left operands of products over channels.
template <int DH, int M>
__device__ __forceinline__ void long_left(uint32_t (&x)[M][DH / 16][4], uint32_t a) {
    constexpr int LD = DH + 8;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int k = 0; k < DH / 16; ++k) load_tiles(x[m][k], a + 32 * k + 32 * m * LD);
}

// c[m] (16, 16) = rows of `x` (16·M) times 16 rows of `b`, plus `start`: c_ij = start + Σ_channel
// x_i b_j.
template <int DH, int M, typename F>
__device__ __forceinline__ void long_scores(float (&c)[M][2][4], const uint32_t (&x)[M][DH / 16][4], uint32_t b, F start) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) c[m][j][e] = start(m, j, e);
#pragma unroll
    for (int k = 0; k < DH / 16; ++k) {
        uint32_t y[4];
        load_tiles(y, b + 32 * k);
#pragma unroll
        for (int m = 0; m < M; ++m) {
            multiply(c[m][0], x[m][k], y[0], y[1]);
            multiply(c[m][1], x[m][k], y[2], y[3]);
        }
    }
}

template <int DH, int M>
__device__ __forceinline__ void long_scores(float (&c)[M][2][4], const uint32_t (&x)[M][DH / 16][4], uint32_t b) {
    long_scores<DH, M>(c, x, b, [](int, int, int) { return 0.0f; });
}

// c[m] (16, DH) += w[m] (16, 16) times 16 rows of `b`.
template <int DH, int M>
__device__ __forceinline__ void long_mix(float (&c)[M][DH / 8][4], const uint32_t (&w)[M][4], uint32_t b) {
#pragma unroll
    for (int j = 0; j < DH / 16; ++j) {
        uint32_t y[4];
        load_tiles_transposed(y, b + 32 * j);
#pragma unroll
        for (int m = 0; m < M; ++m) {
            multiply(c[m][2 * j], w[m], y[0], y[1]);
            multiply(c[m][2 * j + 1], w[m], y[2], y[3]);
        }
    }
}

// Which keys the queries see: the warp's queries start at `first`, this lane's at `query`.
struct LongSight {
    int first, rows, query, s, t;
    bool causal;
    // The number of keys from `key` on that some query of the warp sees.
    __device__ __forceinline__ int after(int key) const { return (causal ? min(s + t, s + first + rows) : s + t) - key; }
    // Whether every query of the warp sees `count` keys from `key` on.
    __device__ __forceinline__ bool all(int key, int count) const {
        return key + count <= s + t && !(causal && key + count > s + first + 1);
    }
    // Sets scores (16·M, 16), with keys from `key` on, to -∞ if the query does not see the key.
    template <int M>
    __device__ __forceinline__ void hide(float (&c)[M][2][4], int key) const {
        const int mine = key + threadIdx.x % 4 * 2;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int column = mine + 8 * j + e % 2, row = query + 16 * m + e / 2 * 8;
                    if (column >= s + t || (causal && column > s + row)) c[m][j][e] = -INFINITY;
                }
    }
};

// The sums of a warp of the forward pass: `o` = Σ_j 2^(scale · score_j - top) times value j, and
// `total` = the same times 1.
//
// `top` is the greatest scale · score of the first tile only, so that later tiles need no maximum.
// Sums have the same precision with any `top` unless they leave the range of `float`; then the
// block starts again and raises `top` tile by tile.
template <int DH, int M>
struct LongSums {
    float o[M][DH / 8][4], top[M][2], total[M][2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < M; ++m) {
            top[m][0] = top[m][1] = -INFINITY;
            total[m][0] = total[m][1] = 0.0f;
#pragma unroll
            for (int j = 0; j < DH / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) o[m][j][e] = 0.0f;
        }
    }

    // Raises `top` to the greatest of (16·M) scores; each lane gives its own greatest.
    __device__ __forceinline__ void raise(const float (&greatest)[M][2], float scale) {
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float higher = fmaxf(top[m][half], row_max(greatest[m][half]) * scale);
                const float shrink = power_of_two(top[m][half] - higher);
                top[m][half] = higher;
                total[m][half] *= shrink;
#pragma unroll
                for (int j = 0; j < DH / 8; ++j) {
                    o[m][j][2 * half] *= shrink;
                    o[m][j][2 * half + 1] *= shrink;
                }
            }
    }

    // Adds the values at `b` with scores `c`.
    __device__ __forceinline__ void add(const float (&c)[M][2][4], uint32_t b, float scale) {
        uint32_t w[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float x = power_of_two(c[m][j][2 * half] * scale - top[m][half]);
                    const float y = power_of_two(c[m][j][2 * half + 1] * scale - top[m][half]);
                    total[m][half] += x + y;
                    w[m][2 * j + half] = pack(x, y);
                }
        long_mix<DH, M>(o, w, b);
    }

    // Whether this lane's sums are near the end of the range or beyond it.
    __device__ __forceinline__ bool beyond() const {
        bool any = false;
#pragma unroll
        for (int m = 0; m < M; ++m) any |= !(total[m][0] < 1e30f) || !(total[m][1] < 1e30f);
        return any;
    }
};

// Shared memory: two pairs of N keys and N values. At first the queries (64·M rows) occupy the
// second pair; at the end the output does.
template <int DH, int M, int N>
__device__ __forceinline__ void long_forward(Rows q, Rows kv, Rows past, bf16* __restrict__ out, float* __restrict__ logs, int t,
                                             int s, int heads, int blocks, int causal, float scale) {
    constexpr int LD = DH + 8, ROWS = 16 * M * LONG_WARPS, CHUNKS = DH / 8;
    constexpr uint32_t APART = 2 * N * LD;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH, column = lane % 4 * 2;
    const LongBlock block(blocks, ROWS, heads, DH, true);
    const LongKeys keys = {past.at(block.sequence, block.channel), kv.at(block.sequence, block.channel), past.row, kv.row, width, s,
                           s + t};
    const int end = causal ? min(s + t, s + block.first + ROWS) : s + t;
    const int mine = 16 * M * warp, query = block.first + mine + lane / 4;
    const LongSight sight = {block.first + mine, 16 * M, query, s, t, causal != 0};
    const uint32_t stages = shared_address(memory), own = stages + 2 * APART;
    load_rows<DH, ROWS>(own, q.at(block.sequence, block.channel), q.row, block.first, t);
    load_keys<DH, N>(stages, APART, keys, 0);
    copies_end();
    const uint32_t as_columns = stages + 2 * (row_of_b(lane) * LD + column_of_b(lane));
    const uint32_t as_rows = stages + 2 * (row_of_a(lane) * LD + column_of_a(lane)) + APART;
    wait_for_copies();
    __syncthreads();
    uint32_t x[M][DH / 16][4];
    long_left<DH, M>(x, own + 2 * ((mine + row_of_a(lane)) * LD + column_of_a(lane)));
    LongSums<DH, M> sums;
    for (bool careful = false;; careful = true) {
        sums.clear();
        if (careful) {
            load_keys<DH, N>(stages, APART, keys, 0);
            copies_end();
        }
        uint32_t stage = 0;
        // advancing a pointer takes fewer instructions than computing a new one per tile, and
        // registers suffice
        const bf16* next = piece_of_key<DH, N>(keys, 0);
        for (int first = 0; first < end; first += N) {
            wait_for_copies();
            __syncthreads();
            next += N * keys.kv_row;
            if (first + N < end) load_keys<DH, N>(stages + (2 * APART - stage), APART, keys, first + N, next);
            copies_end();
            const bool all = sight.all(first, N);
            const int groups = min(N, sight.after(first) + 15) / 16;
            if (first == 0 || careful) {
                // the first key is visible to every query, so the maximum is finite
                float greatest[M][2];
#pragma unroll
                for (int m = 0; m < M; ++m) greatest[m][0] = greatest[m][1] = -INFINITY;
                for (int g = 0; g < groups; ++g) {
                    float c[M][2][4];
                    long_scores<DH, M>(c, x, as_columns + stage + 32 * g * LD);
                    sight.hide<M>(c, first + 16 * g);
#pragma unroll
                    for (int m = 0; m < M; ++m)
#pragma unroll
                        for (int j = 0; j < 2; ++j)
#pragma unroll
                            for (int e = 0; e < 4; ++e) greatest[m][e / 2] = fmaxf(greatest[m][e / 2], c[m][j][e]);
                }
                sums.raise(greatest, scale);
            }
            if (all) {
#pragma unroll
                for (int g = 0; g < N / 16; ++g) {
                    float c[M][2][4];
                    long_scores<DH, M>(c, x, as_columns + stage + 32 * g * LD);
                    sums.add(c, as_rows + stage + 32 * g * LD, scale);
                }
            } else {
                for (int g = 0; g < groups; ++g) {
                    float c[M][2][4];
                    long_scores<DH, M>(c, x, as_columns + stage + 32 * g * LD);
                    sight.hide<M>(c, first + 16 * g);
                    sums.add(c, as_rows + stage + 32 * g * LD, scale);
                }
            }
            stage = 2 * APART - stage;
        }
        if (!__syncthreads_or(sums.beyond()) || careful) break;
    }
    bf16* rows = memory + 2 * N * LD;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = row_sum(sums.total[m][half]), factor = 1.0f / sum;
            const int row = query + 16 * m + 8 * half;
            if (lane % 4 == 0 && row < t)
                logs[((long long)block.sequence * heads + block.head) * t + row] = sums.top[m][half] + log2f(sum);
#pragma unroll
            for (int j = 0; j < DH / 8; ++j)
                *reinterpret_cast<uint32_t*>(rows + (row - block.first) * LD + 8 * j + column) =
                    pack(sums.o[m][j][2 * half] * factor, sums.o[m][j][2 * half + 1] * factor);
        }
    __syncwarp();
    out += (long long)block.sequence * t * width + block.channel;
    for (int i = lane; i < 16 * M * CHUNKS; i += 32) {
        const int row = mine + i / CHUNKS, c = i % CHUNKS * 8;
        if (block.first + row < t)
            *reinterpret_cast<uint4*>(out + (long long)(block.first + row) * width + c) =
                *reinterpret_cast<const uint4*>(rows + row * LD + c);
    }
}

// Writes two halves of a row of a gradient, rotated back by `angles` (cosines, then sines) unless
// null.
template <int DH>
__device__ __forceinline__ void write_turned(bf16* to, float (&c)[DH / 8][4], int half, int column, const float* angles) {
#pragma unroll
    for (int j = 0; j < DH / 16; ++j) {
        float *x = &c[j][2 * half], *y = &c[j + DH / 16][2 * half];
        if (angles) {
            const float2 cos = *reinterpret_cast<const float2*>(angles + 8 * j + column);
            const float2 sin = *reinterpret_cast<const float2*>(angles + DH / 2 + 8 * j + column);
            turn_back(x[0], y[0], cos.x, sin.x);
            turn_back(x[1], y[1], cos.y, sin.y);
        }
        uint32_t* at = reinterpret_cast<uint32_t*>(to + 8 * j + column);
        at[0] = pack(x[0], x[1]);
        at[DH / 4] = pack(y[0], y[1]);
    }
}

// Gradients of the queries. Shared memory: two pairs of N keys and N values; at first the queries
// and the gradients of their outputs (64·M rows each) occupy the space from the second pair on.
// `root` is 1/√d_h.
template <int DH, int M, int N>
__device__ __forceinline__ void long_backward_queries(Rows q, Rows kv, Rows past, Rows d_out, const float* __restrict__ logs,
                                                      const float* __restrict__ dots, const float* __restrict__ angles,
                                                      bf16* __restrict__ d_q, int t, int s, int heads, int blocks, int causal,
                                                      float scale, float root) {
    constexpr int LD = DH + 8, ROWS = 16 * M * LONG_WARPS;
    constexpr uint32_t APART = 2 * N * LD;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH, column = lane % 4 * 2;
    const LongBlock block(blocks, ROWS, heads, DH, true);
    const LongKeys keys = {past.at(block.sequence, block.channel), kv.at(block.sequence, block.channel), past.row, kv.row, width, s,
                           s + t};
    const int end = causal ? min(s + t, s + block.first + ROWS) : s + t;
    const int mine = 16 * M * warp, query = block.first + mine + lane / 4;
    const LongSight sight = {block.first + mine, 16 * M, query, s, t, causal != 0};
    const uint32_t stages = shared_address(memory), own = stages + 2 * APART;
    load_rows<DH, ROWS>(own, q.at(block.sequence, block.channel), q.row, block.first, t);
    load_rows<DH, ROWS>(own + 2 * ROWS * LD, d_out.at(block.sequence, block.channel), d_out.row, block.first, t);
    load_keys<DH, N>(stages, APART, keys, 0);
    copies_end();
    const uint32_t as_columns = stages + 2 * (row_of_b(lane) * LD + column_of_b(lane));
    const uint32_t as_rows = stages + 2 * (row_of_a(lane) * LD + column_of_a(lane));
    const long long lines = ((long long)block.sequence * heads + block.head) * t;
    float log[M][2], dot[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = query + 16 * m + 8 * half;
            log[m][half] = row < t ? logs[lines + row] : 0.0f;
            dot[m][half] = row < t ? dots[lines + row] : 0.0f;
        }
    wait_for_copies();
    __syncthreads();
    uint32_t x[M][DH / 16][4], y[M][DH / 16][4];
    const uint32_t a = own + 2 * ((mine + row_of_a(lane)) * LD + column_of_a(lane));
    long_left<DH, M>(x, a);
    long_left<DH, M>(y, a + 2 * ROWS * LD);
    float sums[M][DH / 8][4] = {};
    // 16 keys from `key` on, stored at `place`
    auto group = [&](int key, uint32_t place, bool all) {
        float c[M][2][4], d[M][2][4];
        long_scores<DH, M>(c, x, as_columns + place);
        long_scores<DH, M>(d, y, as_columns + place + APART, [&](int m, int, int e) { return -dot[m][e / 2]; });
        if (!all) sight.hide<M>(c, key);
        uint32_t w[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float u = power_of_two(c[m][j][2 * half] * scale - log[m][half]) * d[m][j][2 * half];
                    const float v = power_of_two(c[m][j][2 * half + 1] * scale - log[m][half]) * d[m][j][2 * half + 1];
                    w[m][2 * j + half] = pack(u, v);
                }
        long_mix<DH, M>(sums, w, as_rows + place);
    };
    uint32_t stage = 0;
    for (int first = 0; first < end; first += N) {
        wait_for_copies();
        __syncthreads();
        if (first + N < end) load_keys<DH, N>(stages + (2 * APART - stage), APART, keys, first + N);
        copies_end();
        if (sight.all(first, N)) {
#pragma unroll
            for (int g = 0; g < N / 16; ++g) group(first + 16 * g, stage + 32 * g * LD, true);
        } else {
            const int groups = min(N, sight.after(first) + 15) / 16;
            for (int g = 0; g < groups; ++g) group(first + 16 * g, stage + 32 * g * LD, false);
        }
        stage = 2 * APART - stage;
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = query + 16 * m + 8 * half;
#pragma unroll
            for (int j = 0; j < DH / 8; ++j) {
                sums[m][j][2 * half] *= root;
                sums[m][j][2 * half + 1] *= root;
            }
            if (row < t)
                write_turned<DH>(d_q + ((long long)block.sequence * t + row) * width + block.channel, sums[m], half, column,
                                 angles ? angles + (long long)row * DH : nullptr);
        }
}

// Gradients of keys and values. For new keys they go to `d_kv`, with the gradients from later
// calls, `d_present`, added first; for the past to `d_past` (n, s, 2·h·d_h), or in float to
// `partial` of the same shape. Shared memory: two pairs of N logs and N dots, two pairs of N
// queries and N gradients of their outputs; at first the keys and values (64·M rows each) occupy
// the space from the second of the latter pairs on.
template <int DH, int M, int N>
__device__ __forceinline__ void long_backward_keys(Rows q, Rows kv, Rows past, Rows d_out, Rows d_present,
                                                   const float* __restrict__ logs, const float* __restrict__ dots,
                                                   const float* __restrict__ angles, bf16* __restrict__ d_kv,
                                                   bf16* __restrict__ d_past, float* __restrict__ partial, int t, int s, int heads,
                                                   int blocks, int causal, float scale, float root) {
    constexpr int LD = DH + 8, ROWS = 16 * M * LONG_WARPS;
    constexpr uint32_t APART = 2 * N * LD;
    extern __shared__ __align__(16) bf16 memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = heads * DH, column = lane % 4 * 2;
    const LongBlock block(blocks, ROWS, heads, DH, false);
    const LongKeys keys = {past.at(block.sequence, block.channel), kv.at(block.sequence, block.channel), past.row, kv.row, width, s,
                           s + t};
    const bf16 *queries = q.at(block.sequence, block.channel), *slopes = d_out.at(block.sequence, block.channel);
    const long long lines = ((long long)block.sequence * heads + block.head) * t;
    const uint32_t numbers = shared_address(memory), stages = numbers + 16 * N, own = stages + 2 * APART;
    auto load_queries = [&](int first, uint32_t stage) {
        load_rows<DH, N>(stages + stage, queries, q.row, first, t);
        load_rows<DH, N>(stages + stage + APART, slopes, d_out.row, first, t);
        // two numbers per query
#pragma unroll
        for (int turn = 0; turn < 2 * N; turn += LONG_THREADS) {
            const int i = turn + threadIdx.x, row = first + i % N;
            if (i >= 2 * N) break;
            copy_number_later(numbers + (stage ? 8 * N : 0) + 4 * i, (i < N ? logs : dots) + lines + min(row, t - 1), row < t);
        }
    };
    // queries before the first key of the block see none of its keys
    const int begin = causal ? max(0, block.first - s) / N * N : 0;
    load_keys<DH, ROWS>(own, 2 * ROWS * LD, keys, block.first);
    load_queries(begin, 0);
    copies_end();
    const int mine = 16 * M * warp, key = block.first + mine + lane / 4;
    const uint32_t as_columns = stages + 2 * (row_of_b(lane) * LD + column_of_b(lane));
    const uint32_t as_rows = stages + 2 * (row_of_a(lane) * LD + column_of_a(lane));
    wait_for_copies();
    __syncthreads();
    uint32_t x[M][DH / 16][4], y[M][DH / 16][4];
    const uint32_t a = own + 2 * ((mine + row_of_a(lane)) * LD + column_of_a(lane));
    long_left<DH, M>(x, a);
    long_left<DH, M>(y, a + 2 * ROWS * LD);
    float d_keys[M][DH / 8][4] = {}, d_values[M][DH / 8][4] = {};
    // 16 queries stored at `place`, their numbers at `line`; the first is `ahead` rows before the
    // lane's first key
    auto group = [&](uint32_t place, const float* line, int ahead, bool all) {
        float c[M][2][4], d[M][2][4];
        long_scores<DH, M>(c, x, as_columns + place);
        uint32_t w[M][4];
        float2 dot[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float2 log = *reinterpret_cast<const float2*>(line + 8 * j);
            dot[j] = *reinterpret_cast<const float2*>(line + N + 8 * j);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& u = c[m][j][2 * half];
                    float& v = c[m][j][2 * half + 1];
                    u = power_of_two(u * scale - log.x);
                    v = power_of_two(v * scale - log.y);
                    if (!all) {
                        const int hidden = ahead + 16 * m + 8 * half - 8 * j - column;
                        if (hidden > 0) u = 0.0f;
                        if (hidden > 1) v = 0.0f;
                    }
                    w[m][2 * j + half] = pack(u, v);
                }
        }
        long_scores<DH, M>(d, y, as_columns + place + APART, [&](int, int j, int e) { return e % 2 ? -dot[j].y : -dot[j].x; });
        long_mix<DH, M>(d_values, w, as_rows + place + APART);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    w[m][2 * j + half] = pack(c[m][j][2 * half] * d[m][j][2 * half],
                                              c[m][j][2 * half + 1] * d[m][j][2 * half + 1]);
        long_mix<DH, M>(d_keys, w, as_rows + place);
    };
    uint32_t stage = 0;
    for (int first = begin; first < t; first += N) {
        wait_for_copies();
        __syncthreads();
        if (first + N < t) load_queries(first + N, 2 * APART - stage);
        copies_end();
        const float* line = reinterpret_cast<const float*>(memory) + (stage ? 2 * N : 0) + column;
        if (causal && block.first + mine + 16 * M > s + first + 1) {
            // from the first group in which some query sees a key of the warp
            for (int g = max(0, block.first + mine - s - first) / 16; g < N / 16; ++g)
                group(stage + 32 * g * LD, line + 16 * g, key - s - first - 16 * g, false);
        } else {
#pragma unroll
            for (int g = 0; g < N / 16; ++g) group(stage + 32 * g * LD, line + 16 * g, 0, true);
        }
        stage = 2 * APART - stage;
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int at = key + 16 * m + 8 * half, row = at - s;
            if (at >= s + t) continue;
#pragma unroll
            for (int j = 0; j < DH / 8; ++j) {
                d_keys[m][j][2 * half] *= root;
                d_keys[m][j][2 * half + 1] *= root;
            }
            const long long place = (row >= 0 ? (long long)block.sequence * t + row : (long long)block.sequence * s + at) * 2 * width
                                    + block.channel;
            if (row < 0 && partial) {
#pragma unroll
                for (int j = 0; j < DH / 8; ++j) {
                    float* to = partial + place + 8 * j + column;
                    to[0] = d_keys[m][j][2 * half];
                    to[1] = d_keys[m][j][2 * half + 1];
                    to[width] = d_values[m][j][2 * half];
                    to[width + 1] = d_values[m][j][2 * half + 1];
                }
                continue;
            }
            if (row >= 0 && d_present.data) {
                const bf16* more = d_present.at(block.sequence, block.channel) + row * d_present.row + column;
#pragma unroll
                for (int j = 0; j < DH / 8; ++j) {
                    const float2 k = unpack(*reinterpret_cast<const uint32_t*>(more + 8 * j));
                    const float2 v = unpack(*reinterpret_cast<const uint32_t*>(more + width + 8 * j));
                    d_keys[m][j][2 * half] += k.x;
                    d_keys[m][j][2 * half + 1] += k.y;
                    d_values[m][j][2 * half] += v.x;
                    d_values[m][j][2 * half + 1] += v.y;
                }
            }
            bf16* to = (row >= 0 ? d_kv : d_past) + place;
            write_turned<DH>(to, d_keys[m], half, column, angles && row >= 0 ? angles + (long long)row * DH : nullptr);
            write_turned<DH>(to + width, d_values[m], half, column, nullptr);
        }
}
