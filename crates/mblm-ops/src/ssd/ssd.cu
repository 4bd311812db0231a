// Mamba-2's scan in chunks of Q positions, forward and backward.
//
//   ssd_steps      Δ and its running sums c within each chunk, (n, chunks, H, Q); zeros and the
//                  last sum beyond the end
//   ssd_states     the recurrence over the chunks: the state before each chunk and after the last;
//                  in reverse, the gradient of the state after each chunk and of the state before
//                  the first
//   ssd_outputs    y of a chunk from the state before it
//   ssd_gradients  all gradients of a chunk, from the state before it and the gradient of the state
//                  after it
//   ssd_few        the recurrence itself, for a few positions
//
// Matrix products work on tiles in shared memory, by tensor cores for bf16 and by multiply-adds for
// f32, with sums in f32. A warp computes 16 rows; a thread owns the same elements for both types.
// Tiles are padded with zeros to Q positions, P channels of a head and NT state entries.
//
// Longer than 450 lines: one file becomes one module for the driver, and its kernels share tiles
// and products.

#include "common.cuh"

constexpr int Q = 64, P = 64;

// The sums of a product of 16 rows, in tiles of 8 columns. Of each tile a thread owns columns 2q
// and 2q + 1, q = lane % 4, of rows lane / 4 and lane / 4 + 8.
template <int TILES>
using Sums = float[TILES][4];

// Elements from one row of a tile in shared memory to the next: rows are padded by 16 bytes, so
// that they spread over the banks.
template <typename T>
constexpr int pitch(int width) {
    return width + 16 / (int)sizeof(T);
}

template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const bf16* p) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two bf16 numbers, each times a factor.
__device__ __forceinline__ uint32_t scaled(uint32_t pair, float2 factors) {
    const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
    const __nv_bfloat162 product = __floats2bfloat162_rn(low * factors.x, high * factors.y);
    return *reinterpret_cast<const uint32_t*>(&product);
}

// sums (16, 8 TILES) += A B for A (16, k) at `a`, stored as (k, 16) if A_T, and B (k, 8 TILES) at
// `b`, stored as (8 TILES, k) if B_T. If SCALED, the columns of A are first multiplied by the k
// numbers at `factors`, in shared memory.
template <bool A_T, bool B_T, int TILES, bool SCALED = false>
__device__ __forceinline__ void multiply(Sums<TILES>& sums, const bf16* a, int a_pitch, const bf16* b, int b_pitch, int k,
                                         const float* factors = nullptr) {
    static_assert(TILES % 2 == 0, "tiles in pairs");
    const int lane = threadIdx.x & 31, row = lane & 7, odd = (lane >> 3) & 1, high = lane >> 4;
    a += A_T ? (row + high * 8) * a_pitch + odd * 8 : (row + odd * 8) * a_pitch + high * 8;
    b += B_T ? (row + high * 8) * b_pitch + odd * 8 : (row + odd * 8) * b_pitch + high * 8;
#pragma unroll
    for (int at = 0; at < k; at += 16) {
        uint32_t left[4];
        load_matrices<A_T>(left, a + (A_T ? at * a_pitch : at));
        if constexpr (SCALED) {
            const float* own = factors + at + (lane & 3) * 2;
            const float2 first = *reinterpret_cast<const float2*>(own), second = *reinterpret_cast<const float2*>(own + 8);
#pragma unroll
            for (int i = 0; i < 4; ++i) left[i] = scaled(left[i], i < 2 ? first : second);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile += 2) {
            uint32_t right[4];
            load_matrices<!B_T>(right, b + (B_T ? tile * 8 * b_pitch + at : at * b_pitch + tile * 8));
            multiply_add(sums[tile], left, right[0], right[1]);
            multiply_add(sums[tile + 1], left, right[2], right[3]);
        }
    }
}

template <bool A_T, bool B_T, int TILES, bool SCALED = false>
__device__ __forceinline__ void multiply(Sums<TILES>& sums, const float* a, int a_pitch, const float* b, int b_pitch, int k,
                                         const float* factors = nullptr) {
    const int lane = threadIdx.x & 31, row = lane >> 2, column = (lane & 3) * 2;
    a += A_T ? row : row * a_pitch;
    b += B_T ? column * b_pitch : column;
#pragma unroll 4
    for (int at = 0; at < k; ++at) {
        float upper = a[A_T ? at * a_pitch : at], lower = a[A_T ? at * a_pitch + 8 : 8 * a_pitch + at];
        if constexpr (SCALED) {
            upper *= factors[at];
            lower *= factors[at];
        }
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            const float left = b[B_T ? tile * 8 * b_pitch + at : at * b_pitch + tile * 8];
            const float right = b[B_T ? (tile * 8 + 1) * b_pitch + at : at * b_pitch + tile * 8 + 1];
            sums[tile][0] = fmaf(upper, left, sums[tile][0]);
            sums[tile][1] = fmaf(upper, right, sums[tile][1]);
            sums[tile][2] = fmaf(lower, left, sums[tile][2]);
            sums[tile][3] = fmaf(lower, right, sums[tile][3]);
        }
    }
}

template <int TILES>
__device__ __forceinline__ void clear(Sums<TILES>& sums) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[tile][i] = 0.0f;
}

// Multiplies the rows of a thread's elements by one number each.
template <int TILES>
__device__ __forceinline__ void scale(Sums<TILES>& sums, float upper, float lower) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        sums[tile][0] *= upper;
        sums[tile][1] *= upper;
        sums[tile][2] *= lower;
        sums[tile][3] *= lower;
    }
}

// Sum over the four threads that own a row.
__device__ __forceinline__ float row_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// Sum over the eight threads that own a column.
__device__ __forceinline__ float column_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 4);
    v += __shfl_xor_sync(0xffffffffu, v, 8);
    return v + __shfl_xor_sync(0xffffffffu, v, 16);
}

__device__ __forceinline__ void store_pair(float* p, float a, float b) { *reinterpret_cast<float2*>(p) = make_float2(a, b); }
__device__ __forceinline__ void store_pair(bf16* p, float a, float b) {
    *reinterpret_cast<__nv_bfloat162*>(p) = __floats2bfloat162_rn(a, b);
}
__device__ __forceinline__ float2 load_pair(const float* p) { return *reinterpret_cast<const float2*>(p); }
__device__ __forceinline__ float2 load_pair(const bf16* p) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}

// Stores the first two, one or none of a pair; `paired` if pairs are aligned.
template <typename T>
__device__ __forceinline__ void store_some(T* p, float a, float b, int count, bool paired) {
    if (paired && count >= 2) return store_pair(p, a, b);
    if (count >= 1) store(p, a);
    if (count >= 2) store(p + 1, b);
}

// Eight neighboring elements, as stored in memory.
template <typename T>
struct Eight {
    uint4 raw[sizeof(T) / 2];

    // Loads all eight, aligned to 16 bytes, or zeros.
    __device__ __forceinline__ void load_all(const T* p, bool there) {
#pragma unroll
        for (int i = 0; i < (int)sizeof(T) / 2; ++i)
            raw[i] = there ? reinterpret_cast<const uint4*>(p)[i] : make_uint4(0, 0, 0, 0);
    }

    // Loads the first `count`, then zeros.
    __device__ __forceinline__ void load_some(const T* p, int count) {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = i < count ? load(p + i) : 0.0f;
        pack(v);
    }

    __device__ __forceinline__ void pack(const float (&v)[8]) {
        if constexpr (sizeof(T) == 2) {
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
                words[i] = *reinterpret_cast<const uint32_t*>(&pair);
            }
            raw[0] = make_uint4(words[0], words[1], words[2], words[3]);
        } else {
#pragma unroll
            for (int i = 0; i < (int)sizeof(T) / 2; ++i)
                raw[i] = make_uint4(__float_as_uint(v[4 * i]), __float_as_uint(v[4 * i + 1]), __float_as_uint(v[4 * i + 2]),
                                    __float_as_uint(v[4 * i + 3]));
        }
    }

    __device__ __forceinline__ void unpack(float (&v)[8]) const {
        if constexpr (sizeof(T) == 2) {
            const uint32_t words[4] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                v[2 * i] = __uint_as_float(words[i] << 16);
                v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
            }
        } else {
#pragma unroll
            for (int i = 0; i < (int)sizeof(T) / 2; ++i) {
                v[4 * i] = __uint_as_float(raw[i].x);
                v[4 * i + 1] = __uint_as_float(raw[i].y);
                v[4 * i + 2] = __uint_as_float(raw[i].z);
                v[4 * i + 3] = __uint_as_float(raw[i].w);
            }
        }
    }

    __device__ __forceinline__ void put(T* p) const {
#pragma unroll
        for (int i = 0; i < (int)sizeof(T) / 2; ++i) reinterpret_cast<uint4*>(p)[i] = raw[i];
    }
};

// Loads a thread's groups of eight of a tile of COLUMNS columns, of which `rows` and `columns`
// exist. All loads are issued before any is used.
template <int COLUMNS, int THREADS, typename T, int EIGHTS>
__device__ __forceinline__ void load_eights(Eight<T> (&eights)[EIGHTS], const T* from, long long stride, int rows, int columns,
                                            bool aligned) {
    if (aligned) {
#pragma unroll
        for (int e = 0; e < EIGHTS; ++e) {
            const int i = e * THREADS + threadIdx.x, row = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
            eights[e].load_all(from + row * stride + column, row < rows && column < columns);
        }
    } else {
#pragma unroll
        for (int e = 0; e < EIGHTS; ++e) {
            const int i = e * THREADS + threadIdx.x, row = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
            eights[e].load_some(from + row * stride + column, row < rows ? columns - column : 0);
        }
    }
}

// Copies 16 bytes from global to shared memory asynchronously, or writes zeros; `wait_for_copies`
// waits.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all copies except those after the last COUNT calls of end_of_copies().
template <int COUNT>
__device__ __forceinline__ void wait_for_all_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(COUNT) : "memory");
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Loads a tile of 64 rows and COLUMNS columns, of which `rows` and `columns` exist; complete after
// wait_for_copies().
template <int COLUMNS, int THREADS, typename T>
__device__ __forceinline__ void load_tile(T* tile, const T* from, long long stride, int rows, int columns, bool aligned) {
#pragma unroll
    for (int first = 0; first < 64 * COLUMNS / 8; first += THREADS) {
        const int i = first + threadIdx.x, row = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
        T* const to = tile + row * pitch<T>(COLUMNS) + column;
        const bool there = row < rows && column < columns;
        if (aligned) {
            const T* source = there ? from + row * stride + column : from;
#pragma unroll
            for (int j = 0; j < 8; j += 16 / (int)sizeof(T)) copy_async(to + j, source + j, there);
        } else {
            Eight<T> eight;
            eight.load_some(from + row * stride + column, there ? columns - column : 0);
            eight.put(to);
        }
    }
}

// Stores a thread's groups of eight in a tile of COLUMNS columns. Returns the thread's part of the
// dot product of the tile's old and new content.
template <int COLUMNS, int THREADS, typename T, int EIGHTS>
__device__ __forceinline__ float exchange_tile(T* tile, const Eight<T> (&eights)[EIGHTS]) {
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < EIGHTS; ++e) {
        const int i = e * THREADS + threadIdx.x, row = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
        T* const place = tile + row * pitch<T>(COLUMNS) + column;
        float before[8], after[8];
        load_v<8>(place, before);
        eights[e].unpack(after);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum = fmaf(before[j], after[j], sum);
        eights[e].put(place);
    }
    return sum;
}

// exp(v), to the precision of T.
template <typename T>
__device__ __forceinline__ float exponential(float v) {
    if constexpr (sizeof(T) == 2) {
        float power;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v * 1.4426950408889634f));
        return power;
    }
    return expf(v);
}

// exp(a - b) of two running sums, each stored as a pair of numbers.
template <typename T>
__device__ __forceinline__ float decay(float2 a, float2 b) {
    return exponential<T>((a.x - b.x) + (a.y - b.y));
}

// exp(a)
template <typename T>
__device__ __forceinline__ float decay(float2 a) {
    return exponential<T>(a.x + a.y);
}

__device__ __forceinline__ float softplus(float v) { return fmaxf(v, 0.0f) + log1pf(expf(-fabsf(v))); }

// The sizes known to all kernels. (n, t, H·P + 2N) = [x | B | C], states (n, chunks, H, P, N).
struct Sizes {
    int t, chunks, heads, head_dim, state;
    bool aligned;

    __device__ __forceinline__ int width() const { return heads * head_dim; }
    // Offset of a state, or of one head's rows in another tensor by chunks.
    __device__ __forceinline__ size_t states(int task, int head) const {
        return ((size_t)task * heads + head) * head_dim * state;
    }
    __device__ __forceinline__ size_t steps(int task, int head) const { return ((size_t)task * heads + head) * Q; }
    // The number of rows of chunk `chunk`.
    __device__ __forceinline__ int rows(int chunk) const { return min(Q, t - chunk * Q); }
};

// A block of (32, STEP_WARPS) threads takes 32 heads of a chunk.
constexpr int STEP_WARPS = 16;

template <typename T>
__device__ __forceinline__ void ssd_steps(const T* dt, long long sequence_stride, long long row_stride, const float* a_log,
                                          const float* dt_bias, float* delta, float2* sums, Sizes s) {
    __shared__ float tile[Q][33];
    const int sequence = blockIdx.x / s.chunks, chunk = blockIdx.x % s.chunks, first = blockIdx.y * 32, lane = threadIdx.x;
    const int column = min(first + lane, s.heads - 1), rows = s.rows(chunk);
    const T* const from = dt + sequence * sequence_stride + (long long)chunk * Q * row_stride + column;
    const float bias = dt_bias[column];
#pragma unroll
    for (int i = 0; i < Q / STEP_WARPS; ++i) {
        const int q = i * STEP_WARPS + threadIdx.y;
        const float step = softplus(load(from + min(q, rows - 1) * row_stride) + bias);
        tile[q][lane] = q < rows ? step : 0.0f;
    }
    __syncthreads();
    for (int index = threadIdx.y; index < 32 && first + index < s.heads; index += STEP_WARPS) {
        const int head = first + index;
        const double a = -exp((double)a_log[head]);
        const float upper = tile[2 * lane][index], lower = tile[2 * lane + 1][index];
        double sum = (double)upper * a + (double)lower * a;
#pragma unroll
        for (int offset = 1; offset < 32; offset <<= 1) {
            const double other = __shfl_up_sync(0xffffffffu, sum, offset);
            if (lane >= offset) sum += other;
        }
        const double before = sum - (double)lower * a;
        const float high0 = (float)before, high1 = (float)sum;
        const size_t at = s.steps(blockIdx.x, head) + 2 * lane;
        *reinterpret_cast<float2*>(delta + at) = make_float2(upper, lower);
        sums[at] = make_float2(high0, (float)(before - high0));
        sums[at + 1] = make_float2(high1, (float)(sum - high1));
    }
}

// The recurrence of one head and NS state entries of one sequence; the state is in the block's
// registers. It runs over the chunks, or from the last to the first if REVERSE. `x` is x or dy, `b`
// is B or C; `begin` and `end` may be null. The state before each chunk goes to `borders`. The
// tiles of later chunks are prefetched into a ring of STAGES places. 8 warps: 4 times 16 channels,
// and halves of the state entries.
constexpr int STATE_THREADS = 256;

template <typename T>
constexpr int STAGES = sizeof(T) == 2 ? 3 : 2;

template <typename T, int NS, bool REVERSE>
__device__ __forceinline__ void ssd_states(const T* x, long long x_sequence, long long x_row, const T* b, long long b_sequence,
                                           long long b_row, const float* delta, const float2* sums, const float* begin,
                                           long long begin_sequence, T* borders, float* end, Sizes s) {
    extern __shared__ __align__(16) unsigned char shared[];
    T* const x_tiles = reinterpret_cast<T*>(shared);
    T* const b_tiles = x_tiles + STAGES<T> * Q * pitch<T>(P);
    __shared__ __align__(8) float factors[2][Q];
    __shared__ float totals[2];
    const int slices = (s.state + NS - 1) / NS, head = blockIdx.x % s.heads, slice = blockIdx.x / s.heads % slices;
    const int sequence = blockIdx.x / s.heads / slices, first = slice * NS;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, own = (warp & 3) * 16, half = (warp >> 2) * NS / 2;
    const int row = own + (lane >> 2), column = first + half + (lane & 3) * 2;
    x += sequence * x_sequence + head * s.head_dim;
    b += sequence * b_sequence + first;

    constexpr int TILES = NS / 16;
    Sums<TILES> h;
    clear(h);
    if (begin) {
        begin += sequence * begin_sequence + s.states(0, head);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int p = row + (i >> 1) * 8, n = column + tile * 8 + (i & 1);
                if (p < s.head_dim && n < s.state) h[tile][i] = begin[(size_t)p * s.state + n];
            }
    }
    auto place = [&](int step) { return REVERSE ? s.chunks - 1 - step : step; };
    auto copy = [&](int step) {
        if (step < s.chunks) {
            const int chunk = place(step), rows = s.rows(chunk), stage = step % STAGES<T>;
            load_tile<P, STATE_THREADS>(x_tiles + stage * Q * pitch<T>(P), x + (long long)chunk * Q * x_row, x_row, rows,
                                        s.head_dim, s.aligned);
            load_tile<NS, STATE_THREADS>(b_tiles + stage * Q * pitch<T>(NS), b + (long long)chunk * Q * b_row, b_row, rows,
                                         s.state - first, s.aligned);
        }
        end_of_copies();
    };
    // the sums from which the factors of a row follow, for the first Q threads
    float2 own_sum, last_sum;
    float own_delta;
    auto fetch = [&](int step) {
        if (step >= s.chunks || threadIdx.x >= Q) return;
        const size_t steps = s.steps(sequence * s.chunks + place(step), head);
        own_sum = sums[steps + threadIdx.x];
        last_sum = sums[steps + Q - 1];
        own_delta = delta[steps + threadIdx.x];
    };
    auto put_factors = [&](int step) {
        if (step >= s.chunks || threadIdx.x >= Q) return;
        factors[step & 1][threadIdx.x] = REVERSE ? decay<T>(own_sum) : decay<T>(last_sum, own_sum) * own_delta;
        if (threadIdx.x == 0) totals[step & 1] = decay<T>(last_sum);
    };
    const bool whole = s.aligned && s.head_dim == P && first + NS <= s.state;
    const size_t offset = (size_t)row * s.state + column;
    auto keep = [&](auto* to) {
        if (whole) {
            auto* const upper = to + offset;
            auto* const lower = upper + 8 * s.state;
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                store_pair(upper + tile * 8, h[tile][0], h[tile][1]);
                store_pair(lower + tile * 8, h[tile][2], h[tile][3]);
            }
            return;
        }
        const bool paired = s.state % 2 == 0;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int p = row + i * 8, n = column + tile * 8;
                if (p < s.head_dim)
                    store_some(to + (size_t)p * s.state + n, h[tile][2 * i], h[tile][2 * i + 1], s.state - n, paired);
            }
    };
#pragma unroll
    for (int step = 0; step + 1 < STAGES<T>; ++step) copy(step);
    fetch(0);
    put_factors(0);
    fetch(1);
    for (int step = 0; step < s.chunks; ++step) {
        wait_for_all_but<STAGES<T> - 2>();
        __syncthreads();
        copy(step + STAGES<T> - 1);
        put_factors(step + 1);
        fetch(step + 2);
        keep(borders + s.states(sequence * s.chunks + place(step), head));
        scale(h, totals[step & 1], totals[step & 1]);
        const int stage = step % STAGES<T>;
        multiply<true, false, TILES, true>(h, x_tiles + stage * Q * pitch<T>(P) + own, pitch<T>(P),
                                           b_tiles + stage * Q * pitch<T>(NS) + half, pitch<T>(NS), Q, factors[step & 1]);
    }
    if (end) keep(end + s.states(sequence, head));
}

// y of one chunk and several heads. C Bᵀ is computed once for all heads, in the registers of 4
// warps of 16 positions each.
constexpr int OUTPUT_THREADS = 128;

// Blocks that run on a multiprocessor at once.
template <typename T, int NT>
constexpr int OUTPUT_BLOCKS = sizeof(T) == 4 ? 2
                              : NT == 64     ? 4
                                             : 3;

template <typename T, int NT>
__device__ __forceinline__ void ssd_outputs(const T* xbc, long long sequence_stride, long long row_stride, const float* delta,
                                            const float2* sums, const float* d, const T* borders, T* y, int per_block,
                                            Sizes s) {
    extern __shared__ __align__(16) unsigned char shared[];
    constexpr int WIDE = pitch<T>(NT), NARROW = pitch<T>(P);
    T* const c_tile = reinterpret_cast<T*>(shared);
    T* const state_tile = c_tile + Q * WIDE;
    T* const x_tile = state_tile + Q * WIDE;
    T* const w_tile = x_tile + Q * NARROW;
    __shared__ float2 c[Q];
    __shared__ float deltas[Q];
    const int task = blockIdx.x, sequence = task / s.chunks, chunk = task % s.chunks, rows = s.rows(chunk);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, own = warp * 16, row = own + (lane >> 2),
              column = (lane & 3) * 2;
    xbc += sequence * sequence_stride + (long long)chunk * Q * row_stride;
    y += ((size_t)sequence * s.t + chunk * Q) * s.width();

    load_tile<NT, OUTPUT_THREADS>(c_tile, xbc + s.width() + s.state, row_stride, rows, s.state, s.aligned);
    load_tile<NT, OUTPUT_THREADS>(state_tile, xbc + s.width(), row_stride, rows, s.state, s.aligned);
    wait_for_copies();
    __syncthreads();
    Sums<Q / 8> overlap;
    clear(overlap);
    multiply<false, true, Q / 8>(overlap, c_tile + own * WIDE, WIDE, state_tile, WIDE, NT);

    const int last_head = min(s.heads, (int)(blockIdx.y + 1) * per_block);
    for (int head = blockIdx.y * per_block; head < last_head; ++head) {
        __syncthreads();
        load_tile<NT, OUTPUT_THREADS>(state_tile, borders + s.states(task, head), s.state, s.head_dim, s.state, s.aligned);
        load_tile<P, OUTPUT_THREADS>(x_tile, xbc + head * s.head_dim, row_stride, rows, s.head_dim, s.aligned);
        if (threadIdx.x < Q) {
            c[threadIdx.x] = sums[s.steps(task, head) + threadIdx.x];
            deltas[threadIdx.x] = delta[s.steps(task, head) + threadIdx.x];
        }
        wait_for_copies();
        __syncthreads();
        const float2 upper = c[row], lower = c[row + 8];
        Sums<P / 8> out;
        clear(out);
        multiply<false, true, P / 8>(out, c_tile + own * WIDE, WIDE, state_tile, WIDE, NT);
        scale(out, decay<T>(upper), decay<T>(lower));
#pragma unroll
        for (int tile = 0; tile < Q / 8; ++tile) {
            if (tile * 8 >= own + 16) break;
            float w[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int from = tile * 8 + column + (i & 1), to = row + (i >> 1) * 8;
                w[i] = from <= to ? overlap[tile][i] * decay<T>(i < 2 ? upper : lower, c[from]) * deltas[from] : 0.0f;
            }
            store_pair(w_tile + row * NARROW + tile * 8 + column, w[0], w[1]);
            store_pair(w_tile + (row + 8) * NARROW + tile * 8 + column, w[2], w[3]);
        }
        __syncwarp();
        multiply<false, false, P / 8>(out, w_tile + own * NARROW, NARROW, x_tile, NARROW, own + 16);
        __syncwarp();
        const float skip = d[head];
#pragma unroll
        for (int tile = 0; tile < P / 8; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = (row + half * 8) * NARROW + tile * 8 + column;
                const float2 x = load_pair(x_tile + at);
                store_pair(w_tile + at, fmaf(skip, x.x, out[tile][2 * half]), fmaf(skip, x.y, out[tile][2 * half + 1]));
            }
        __syncwarp();
        // the warp's 16 rows, in groups of eight elements
        for (int i = lane; i < 16 * P / 8; i += 32) {
            const int q = own + i / (P / 8), p = i % (P / 8) * 8;
            if (q >= rows) continue;
            T* to = y + (size_t)q * s.width() + head * s.head_dim + p;
            const T* from = w_tile + q * NARROW + p;
            if (s.aligned && p + 8 <= s.head_dim) {
#pragma unroll
                for (int j = 0; j < (int)sizeof(T) / 2; ++j)
                    reinterpret_cast<uint4*>(to)[j] = reinterpret_cast<const uint4*>(from)[j];
            } else {
                for (int j = 0; j < 8 && p + j < s.head_dim; ++j) to[j] = from[j];
            }
        }
    }
}

// The gradients of one chunk through several heads, with the names of the formulas. Rows of the
// products are positions: j for the tensors that are read from (x, B), i for the tensors that are
// written to (dy, C). 16 warps: 4 times 16 rows, and COLUMNS parts of the columns of each product.
// dB and dC of the block's heads go to `partial` (groups, n t, 2N); d_a_log, d_d and d_bias
// (n chunks, H) are sums over the chunk.
constexpr int COLUMNS = 4, GRADIENT_THREADS = COLUMNS * 128;

template <typename T, int NT>
__device__ __forceinline__ void ssd_gradients(const T* xbc, long long sequence_stride, long long row_stride, const T* dy,
                                              long long dy_sequence, long long dy_row, const float* delta, const float2* sums,
                                              const float* a_log, const float* d, const T* borders, const T* d_borders,
                                              T* d_xbc, T* d_dt, float* partial, float* d_a_log, float* d_d, float* d_bias,
                                              int per_block, long long all_rows, Sizes s) {
    extern __shared__ __align__(16) unsigned char shared[];
    constexpr int WIDE = pitch<T>(NT), NARROW = pitch<T>(P), QUARTER = Q / COLUMNS, STATES = NT / COLUMNS;
    T* const b_tile = reinterpret_cast<T*>(shared);
    T* const c_tile = b_tile + Q * WIDE;
    T* const state_tile = c_tile + Q * WIDE;
    T* const x_tile = state_tile + Q * WIDE;
    T* const dy_tile = x_tile + Q * NARROW;
    T* const w_tile = dy_tile + Q * NARROW;
    __shared__ float2 c[Q];
    __shared__ float deltas[Q], diagonal[Q];
    // by rows j, columns i, rows of dC, rows of dB and rows of dX
    __shared__ float given[COLUMNS][Q], taken[4][Q], through_before[COLUMNS][Q], through_after[COLUMNS][Q], inner[COLUMNS][Q];
    __shared__ float both[GRADIENT_THREADS / 32];
    const int task = blockIdx.x, sequence = task / s.chunks, chunk = task % s.chunks, rows = s.rows(chunk);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, part = warp >> 2, own = (warp & 3) * 16;
    const int row = own + (lane >> 2), column = (lane & 3) * 2;
    const int states = part * STATES, positions = part * QUARTER;
    const long long first = (long long)sequence * s.t + chunk * Q, channels = s.width() + 2 * s.state;
    xbc += sequence * sequence_stride + (long long)chunk * Q * row_stride;
    dy += sequence * dy_sequence + (long long)chunk * Q * dy_row;

    load_tile<NT, GRADIENT_THREADS>(b_tile, xbc + s.width(), row_stride, rows, s.state, s.aligned);
    load_tile<NT, GRADIENT_THREADS>(c_tile, xbc + s.width() + s.state, row_stride, rows, s.state, s.aligned);
    wait_for_copies();
    __syncthreads();
    Sums<QUARTER / 8> overlap, d_overlap; // (j, i)
    Sums<STATES / 8> d_b, d_c;
    clear(overlap);
    clear(d_overlap);
    clear(d_b);
    clear(d_c);
    multiply<false, true, QUARTER / 8>(overlap, b_tile + own * WIDE, WIDE, c_tile + positions * WIDE, WIDE, NT);

    const int first_head = blockIdx.y * per_block, last_head = min(s.heads, first_head + per_block);
    // a warp whose rows j are all behind its columns i skips the product and writes zeros here
    if (own >= positions + QUARTER) {
        if (lane < 16) given[part][own + lane] = 0.0f;
        if (lane < QUARTER) taken[warp & 3][positions + lane] = 0.0f;
    }
    auto copy = [&](int head) {
        load_tile<NT, GRADIENT_THREADS>(state_tile, borders + s.states(task, head), s.state, s.head_dim, s.state, s.aligned);
        load_tile<P, GRADIENT_THREADS>(x_tile, xbc + head * s.head_dim, row_stride, rows, s.head_dim, s.aligned);
        load_tile<P, GRADIENT_THREADS>(dy_tile, dy + head * s.head_dim, dy_row, rows, s.head_dim, s.aligned);
        if (threadIdx.x < Q) {
            c[threadIdx.x] = sums[s.steps(task, head) + threadIdx.x];
            deltas[threadIdx.x] = delta[s.steps(task, head) + threadIdx.x];
        }
    };
    if (first_head < last_head) copy(first_head);
    for (int head = first_head; head < last_head; ++head) {
        wait_for_copies();
        __syncthreads();
        const float2 upper = c[row], lower = c[row + 8];
        const float delta_upper = deltas[row], delta_lower = deltas[row + 8];
        if (own < positions + QUARTER) {
            Sums<QUARTER / 8> v; // x_j · dy_i
            clear(v);
            multiply<false, true, QUARTER / 8>(v, x_tile + own * NARROW, NARROW, dy_tile + positions * NARROW, NARROW, P);
            float by_row[2] = {};
#pragma unroll
            for (int tile = 0; tile < QUARTER / 8; ++tile) {
                float w[4], share[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int from = row + (i >> 1) * 8, to = positions + tile * 8 + column + (i & 1);
                    const float left = from <= to ? decay<T>(c[to], i < 2 ? upper : lower) : 0.0f;
                    const float d_product = left * (i < 2 ? delta_upper : delta_lower) * v[tile][i];
                    w[i] = overlap[tile][i] * left;
                    d_overlap[tile][i] += d_product;
                    share[i] = from < to ? overlap[tile][i] * d_product : 0.0f;
                    by_row[i >> 1] += share[i];
                    if (from == to) diagonal[from] = v[tile][i];
                }
                store_pair(w_tile + row * NARROW + positions + tile * 8 + column, w[0], w[1]);
                store_pair(w_tile + (row + 8) * NARROW + positions + tile * 8 + column, w[2], w[3]);
                const float even = column_sum(share[0] + share[2]), odd = column_sum(share[1] + share[3]);
                if (lane < 4) {
                    taken[warp & 3][positions + tile * 8 + column] = even;
                    taken[warp & 3][positions + tile * 8 + column + 1] = odd;
                }
            }
            by_row[0] = row_sum(by_row[0]);
            by_row[1] = row_sum(by_row[1]);
            if ((lane & 3) == 0) {
                given[part][row] = by_row[0];
                given[part][row + 8] = by_row[1];
            }
        }
        // the gradients through one state: dy with S gives dC, x with dE gives dB
        auto through = [&](const T* rows_tile, const T* other_tile, float factor_upper, float factor_lower,
                           Sums<STATES / 8>& sum, float* shares) {
            Sums<STATES / 8> v;
            clear(v);
            multiply<false, false, STATES / 8>(v, rows_tile + own * NARROW, NARROW, state_tile + states, WIDE, P);
            scale(v, factor_upper, factor_lower);
            float by_row[2] = {};
#pragma unroll
            for (int tile = 0; tile < STATES / 8; ++tile)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float2 other = load_pair(other_tile + (row + half * 8) * WIDE + states + tile * 8 + column);
                    const float a = v[tile][2 * half], b = v[tile][2 * half + 1];
                    sum[tile][2 * half] += a;
                    sum[tile][2 * half + 1] += b;
                    by_row[half] = fmaf(other.x, a, fmaf(other.y, b, by_row[half]));
                }
            by_row[0] = row_sum(by_row[0]);
            by_row[1] = row_sum(by_row[1]);
            if ((lane & 3) == 0) {
                shares[row] = by_row[0];
                shares[row + 8] = by_row[1];
            }
        };
        Eight<T> after[Q * NT / 8 / GRADIENT_THREADS];
        load_eights<NT, GRADIENT_THREADS>(after, d_borders + s.states(task, head), s.state, s.head_dim, s.state, s.aligned);
        through(dy_tile, c_tile, decay<T>(upper), decay<T>(lower), d_c, through_before[part]);
        __syncthreads();
        const float share = warp_sum(exchange_tile<NT, GRADIENT_THREADS>(state_tile, after));
        if (lane == 0) both[warp] = share;
        __syncthreads();
        const float end_upper = decay<T>(c[Q - 1], upper), end_lower = decay<T>(c[Q - 1], lower);
        through(x_tile, b_tile, end_upper * delta_upper, end_lower * delta_lower, d_b, through_after[part]);
        {
            Sums<QUARTER / 8> v; // dX, (j, p)
            clear(v);
            multiply<false, true, QUARTER / 8>(v, b_tile + own * WIDE, WIDE, state_tile + positions * WIDE, WIDE, NT);
            scale(v, end_upper, end_lower);
            multiply<false, false, QUARTER / 8>(v, w_tile + own * NARROW + own, NARROW, dy_tile + own * NARROW + positions,
                                                NARROW, Q - own);
            const float skip = d[head];
            float by_row[2] = {};
#pragma unroll
            for (int tile = 0; tile < QUARTER / 8; ++tile)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int q = row + half * 8, p = positions + tile * 8 + column;
                    const float2 x = load_pair(x_tile + q * NARROW + p), g = load_pair(dy_tile + q * NARROW + p);
                    const float a = v[tile][2 * half], b = v[tile][2 * half + 1], step = half ? delta_lower : delta_upper;
                    by_row[half] = fmaf(x.x, a, fmaf(x.y, b, by_row[half]));
                    if (q < rows)
                        store_some(d_xbc + (first + q) * channels + head * s.head_dim + p, fmaf(step, a, skip * g.x),
                                   fmaf(step, b, skip * g.y), s.head_dim - p, s.aligned);
                }
            by_row[0] = row_sum(by_row[0]);
            by_row[1] = row_sum(by_row[1]);
            if ((lane & 3) == 0) {
                inner[part][row] = by_row[0];
                inner[part][row + 8] = by_row[1];
            }
        }
        // one warp finishes the head while the next head's tiles are copied; it first reads c and
        // deltas, which the copies overwrite
        const bool finishes = warp == (head & 7) + 8;
        float own_delta[2], whole = 0.0f;
        if (finishes) {
            own_delta[0] = deltas[2 * lane];
            own_delta[1] = deltas[2 * lane + 1];
            whole = decay<T>(c[Q - 1]);
        }
        __syncthreads();
        if (head + 1 < last_head) copy(head + 1);
        if (!finishes) continue;
        float d_sum[2], behind[2], d_delta[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int q = 2 * lane + i;
            d_sum[i] = behind[i] = d_delta[i] = 0.0f;
#pragma unroll
            for (int k = 0; k < 4; ++k) d_sum[i] += taken[k][q];
#pragma unroll
            for (int k = 0; k < COLUMNS; ++k) {
                d_sum[i] += through_before[k][q] - given[k][q];
                behind[i] += through_after[k][q];
                d_delta[i] += inner[k][q];
            }
            d_sum[i] -= behind[i];
        }
        float at_end = lane < GRADIENT_THREADS / 32 ? both[lane] * whole : 0.0f;
        at_end = warp_sum(at_end + behind[0] + behind[1]);
        if (lane == 31) d_sum[1] += at_end;
        float later = d_sum[0] + d_sum[1]; // Σ from this lane's positions on
#pragma unroll
        for (int offset = 1; offset < 32; offset <<= 1) {
            const float other = __shfl_down_sync(0xffffffffu, later, offset);
            if (lane + offset < 32) later += other;
        }
        const float d_steps[2] = {later, later - d_sum[0]}, a = -expf(a_log[head]);
        float to_a = 0.0f, to_d = 0.0f, to_bias = 0.0f;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int q = 2 * lane + i;
            if (q >= rows) continue;
            // the derivative of softplus is 1 - exp(-Δ)
            const float d_raw = fmaf(a, d_steps[i], d_delta[i]) * -expm1f(-own_delta[i]);
            store(d_dt + (first + q) * s.heads + head, d_raw);
            to_a += a * own_delta[i] * d_steps[i];
            to_d += diagonal[q];
            to_bias += d_raw;
        }
        to_a = warp_sum(to_a);
        to_d = warp_sum(to_d);
        to_bias = warp_sum(to_bias);
        if (lane == 0) {
            const size_t at = (size_t)task * s.heads + head;
            d_a_log[at] = to_a;
            d_d[at] = to_d;
            d_bias[at] = to_bias;
        }
    }
    // multiply d_overlap by B and C
#pragma unroll
    for (int tile = 0; tile < QUARTER / 8; ++tile) {
        store_pair(w_tile + row * NARROW + positions + tile * 8 + column, d_overlap[tile][0], d_overlap[tile][1]);
        store_pair(w_tile + (row + 8) * NARROW + positions + tile * 8 + column, d_overlap[tile][2], d_overlap[tile][3]);
    }
    __syncthreads();
    multiply<true, false, STATES / 8>(d_c, w_tile + own, NARROW, b_tile + states, WIDE, Q);
    multiply<false, false, STATES / 8>(d_b, w_tile + own * NARROW, NARROW, c_tile + states, WIDE, Q);
    partial += ((size_t)blockIdx.y * all_rows + first) * 2 * s.state;
#pragma unroll
    for (int tile = 0; tile < STATES / 8; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int q = row + half * 8, n = states + tile * 8 + column;
            if (q >= rows) continue;
            float* to = partial + (size_t)q * 2 * s.state + n;
            store_some(to, d_b[tile][2 * half], d_b[tile][2 * half + 1], s.state - n, s.aligned);
            store_some(to + s.state, d_c[tile][2 * half], d_c[tile][2 * half + 1], s.state - n, s.aligned);
        }
}

// Writes the columns B and C of d_xbc (rows, H·P + 2N): the sums over the groups of `partial`
// (groups, rows, 2N).
template <typename T>
__device__ __forceinline__ void ssd_fold(const float* partial, T* d_xbc, long long rows, int width, int columns, int groups) {
    const long long count = rows * columns;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x) {
        float total = 0.0f;
        for (int group = 0; group < groups; ++group) total += partial[group * count + i];
        store(d_xbc + i / columns * (width + columns) + width + i % columns, total);
    }
}

// The recurrence itself: one warp per channel, N / 32 state entries per lane.
constexpr int MAX_STATES = 128, FEW_WARPS = 8;

template <typename T>
__device__ __forceinline__ void ssd_few(const T* xbc, long long sequence_stride, long long row_stride, const T* dt,
                                        long long dt_sequence, long long dt_row, const float* a_log, const float* dt_bias,
                                        const float* d, const float* begin, long long begin_sequence, T* y, float* end,
                                        Sizes s) {
    constexpr int OWN = MAX_STATES / 32;
    const int across = (s.width() + FEW_WARPS - 1) / FEW_WARPS, sequence = blockIdx.x / across, lane = threadIdx.x & 31;
    const int channel = blockIdx.x % across * FEW_WARPS + (threadIdx.x >> 5);
    if (channel >= s.width()) return;
    const int head = channel / s.head_dim;
    const float a = -expf(a_log[head]), bias = dt_bias[head], skip = d[head];
    const size_t at = (size_t)channel * s.state;
    float h[OWN];
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const int n = lane + 32 * i;
        h[i] = begin && n < s.state ? begin[sequence * begin_sequence + at + n] : 0.0f;
    }
    for (int position = 0; position < s.t; ++position) {
        const T* row = xbc + sequence * sequence_stride + position * row_stride;
        const float step = softplus(load(dt + sequence * dt_sequence + position * dt_row + head) + bias);
        const float left = expf(step * a), x = load(row + channel), drive = step * x;
        float out = 0.0f;
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int n = lane + 32 * i;
            if (n >= s.state) continue;
            h[i] = fmaf(left, h[i], drive * load(row + s.width() + n));
            out = fmaf(h[i], load(row + s.width() + s.state + n), out);
        }
        out = warp_sum(out);
        if (lane == 0) store(y + ((size_t)sequence * s.t + position) * s.width() + channel, fmaf(skip, x, out));
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const int n = lane + 32 * i;
        if (n < s.state) end[sequence * (size_t)s.width() * s.state + at + n] = h[i];
    }
}

#define SIZES int t, int chunks, int heads, int head_dim, int state, int aligned
#define ALL_SIZES Sizes{t, chunks, heads, head_dim, state, aligned != 0}

#define EXPORT(T, TYPE) \
    extern "C" __global__ void ssd_steps_##TYPE(const T* dt, long long sequence_stride, long long row_stride, \
                                                const float* a_log, const float* dt_bias, float* delta, float2* sums, SIZES) { \
        ssd_steps(dt, sequence_stride, row_stride, a_log, dt_bias, delta, sums, ALL_SIZES); \
    } \
    extern "C" __global__ void ssd_fold_##TYPE(const float* partial, T* d_xbc, long long rows, int width, int columns, \
                                               int groups) { \
        ssd_fold(partial, d_xbc, rows, width, columns, groups); \
    } \
    extern "C" __global__ void ssd_few_##TYPE(const T* xbc, long long sequence_stride, long long row_stride, const T* dt, \
                                              long long dt_sequence, long long dt_row, const float* a_log, \
                                              const float* dt_bias, const float* d, const float* begin, \
                                              long long begin_sequence, T* y, float* end, SIZES) { \
        ssd_few(xbc, sequence_stride, row_stride, dt, dt_sequence, dt_row, a_log, dt_bias, d, begin, begin_sequence, y, end, \
                ALL_SIZES); \
    }

#define EXPORT_STATES(T, NS, REVERSE, NAME) \
    extern "C" __global__ void __launch_bounds__(STATE_THREADS) NAME( \
        const T* x, long long x_sequence, long long x_row, const T* b, long long b_sequence, long long b_row, \
        const float* delta, const float2* sums, const float* begin, long long begin_sequence, T* borders, float* end, SIZES) { \
        ssd_states<T, NS, REVERSE>(x, x_sequence, x_row, b, b_sequence, b_row, delta, sums, begin, begin_sequence, borders, \
                                   end, ALL_SIZES); \
    }

#define EXPORT_CHUNKS(T, TYPE, NT) \
    extern "C" __global__ void __launch_bounds__(OUTPUT_THREADS, OUTPUT_BLOCKS<T, NT>) \
        ssd_outputs##NT##_##TYPE(const T* xbc, long long sequence_stride, long long row_stride, const float* delta, \
                                 const float2* sums, const float* d, const T* borders, T* y, int per_block, SIZES) { \
        ssd_outputs<T, NT>(xbc, sequence_stride, row_stride, delta, sums, d, borders, y, per_block, ALL_SIZES); \
    } \
    extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS) ssd_gradients##NT##_##TYPE( \
        const T* xbc, long long sequence_stride, long long row_stride, const T* dy, long long dy_sequence, long long dy_row, \
        const float* delta, const float2* sums, const float* a_log, const float* d, const T* borders, const T* d_borders, \
        T* d_xbc, T* d_dt, float* partial, float* d_a_log, float* d_d, float* d_bias, int per_block, long long all_rows, \
        SIZES) { \
        ssd_gradients<T, NT>(xbc, sequence_stride, row_stride, dy, dy_sequence, dy_row, delta, sums, a_log, d, borders, \
                             d_borders, d_xbc, d_dt, partial, d_a_log, d_d, d_bias, per_block, all_rows, ALL_SIZES); \
    }

EXPORT(float, f32)
EXPORT(bf16, bf16)
EXPORT_STATES(float, 32, false, ssd_states32_f32)
EXPORT_STATES(float, 64, false, ssd_states64_f32)
EXPORT_STATES(float, 32, true, ssd_states_reverse32_f32)
EXPORT_STATES(float, 64, true, ssd_states_reverse64_f32)
EXPORT_STATES(bf16, 32, false, ssd_states32_bf16)
EXPORT_STATES(bf16, 64, false, ssd_states64_bf16)
EXPORT_STATES(bf16, 32, true, ssd_states_reverse32_bf16)
EXPORT_STATES(bf16, 64, true, ssd_states_reverse64_bf16)
EXPORT_CHUNKS(float, f32, 64)
EXPORT_CHUNKS(float, f32, 128)
EXPORT_CHUNKS(bf16, bf16, 64)
EXPORT_CHUNKS(bf16, bf16, 128)
