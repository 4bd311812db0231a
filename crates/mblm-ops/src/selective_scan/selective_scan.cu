// Mamba-1's selective scan, forward and backward, position by position.
//
// G neighboring threads share a channel's state, OWN entries each. A block has CHANNELS channels
// and takes sequences in turns. It works on segments of SEGMENT positions and fetches their rows
// into shared memory while it computes the previous segment. The forward pass saves the state
// before every segment but the first; the backward pass recomputes the states between and keeps
// them in shared memory. Each block writes its sums over channels, the gradients of B and C, to
// `partial`.

#include "common.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32, OWN = 4, SEGMENT = 16;

__device__ __forceinline__ float softplus(float v) { return fmaxf(v, 0.0f) + log1pf(expf(-fabsf(v))); }

// (n, t, ·) with contiguous rows.
template <typename T>
struct Rows {
    const T* p;
    long long sequence, row;

    __device__ __forceinline__ T get(int s, int position, int column) const {
        return p[s * sequence + position * row + column];
    }
};

// The inputs with positions: widths d, d, d, N and N.
template <typename T>
struct Inputs {
    Rows<T> u, delta, z, b, c;
};

struct Sizes {
    int n, t, d, state;
};

// A thread's share of the rows of a segment: CELLS of each tensor of d channels, PAIRS of B and of
// C. Rows are fetched unconverted, so that nothing waits for them. Reads beyond an end repeat the
// last element.
template <int G>
struct Segment {
    static constexpr int CHANNELS = THREADS / G, STATES = OWN * G, CELLS = SEGMENT * CHANNELS / THREADS,
                         PAIRS = SEGMENT * STATES / THREADS;

    template <typename T>
    static __device__ __forceinline__ void fetch(const Rows<T>& from, int sequence, int first, const Sizes& s,
                                                 T (&cells)[CELLS]) {
        const int channel = min(blockIdx.x * CHANNELS + threadIdx.x % CHANNELS, s.d - 1);
#pragma unroll
        for (int i = 0; i < CELLS; ++i) {
            const int position = first + threadIdx.x / CHANNELS + i * (THREADS / CHANNELS);
            cells[i] = from.get(sequence, min(position, s.t - 1), channel);
        }
    }

    template <typename T>
    static __device__ __forceinline__ void fetch_entries(const Rows<T>& from, int sequence, int first, const Sizes& s,
                                                         T (&entries)[PAIRS]) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const int at = threadIdx.x + i * THREADS, position = first + at / STATES, n = at % STATES;
            entries[i] = from.get(sequence, min(position, s.t - 1), min(n, s.state - 1));
        }
    }

    // Sets the entries beyond N to zero.
    template <typename T>
    static __device__ __forceinline__ void put_entries(const T (&entries)[PAIRS], float (*to)[STATES], const Sizes& s) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const int at = threadIdx.x + i * THREADS, n = at % STATES;
            to[at / STATES][n] = n < s.state ? load(&entries[i]) : 0.0f;
        }
    }
};

// Loads a thread's entries of a state (d, N); the second function stores them.
__device__ __forceinline__ void load_state(const float* state, int channel, int first, const Sizes& s, float (&h)[OWN]) {
#pragma unroll
    for (int i = 0; i < OWN; ++i)
        h[i] = channel < s.d && first + i < s.state ? state[(size_t)channel * s.state + first + i] : 0.0f;
}
__device__ __forceinline__ void store_state(float* state, int channel, int first, const Sizes& s, const float (&h)[OWN]) {
    if (channel >= s.d) return;
    float* to = state + (size_t)channel * s.state + first;
    if (s.state % OWN == 0) {
        if (first < s.state) store_v<OWN>(to, h);
        return;
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i)
        if (first + i < s.state) to[i] = h[i];
}

// The sum over the G threads of a channel, from their numbers in `parts`.
template <int G>
__device__ __forceinline__ float channel_sum(const float* parts, int channel) {
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < G; i += 4) {
        const float4 four = load4(parts + channel * G + i);
        total += (four.x + four.y) + (four.z + four.w);
    }
    return total;
}

constexpr float LOG2_E = 1.4426950408889634f;

// 2^v, 0 below the normal numbers.
__device__ __forceinline__ float power_of_two(float v) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
    return power;
}

template <typename T, int G>
__device__ __forceinline__ void selective_scan_forward(const Inputs<T>& in, const float* a_log, const float* d,
                                                       const float* begin, long long begin_sequence, T* y, float* borders,
                                                       float* end, const Sizes& s) {
    using Part = Segment<G>;
    constexpr int CHANNELS = Part::CHANNELS, STATES = Part::STATES, CELLS = Part::CELLS, PAIRS = Part::PAIRS;
    __shared__ float delta[SEGMENT][CHANNELS], drive[SEGMENT][CHANNELS];
    __shared__ __align__(16) float b[SEGMENT][STATES], c[SEGMENT][STATES], out[SEGMENT][THREADS];
    const int place = threadIdx.x / G, first = threadIdx.x % G * OWN, channel = blockIdx.x * CHANNELS + place;
    const int column = threadIdx.x % CHANNELS, above = threadIdx.x / CHANNELS, cell_channel = blockIdx.x * CHANNELS + column;
    const int segments = (s.t + SEGMENT - 1) / SEGMENT;
    const size_t size = (size_t)s.d * s.state;
    const float skip = cell_channel < s.d ? d[cell_channel] : 0.0f;
    float a[OWN];
    load_state(a_log, channel, first, s, a);
#pragma unroll
    for (int i = 0; i < OWN; ++i) a[i] = -expf(a[i]) * LOG2_E;

    for (int sequence = blockIdx.y; sequence < s.n; sequence += gridDim.y) {
        float h[OWN] = {};
        T next_u[CELLS], next_delta[CELLS], next_z[CELLS], next_b[PAIRS], next_c[PAIRS];
        if (begin) load_state(begin + sequence * begin_sequence, channel, first, s, h);
        auto fetch = [&](int position) {
            Part::fetch(in.u, sequence, position, s, next_u);
            Part::fetch(in.delta, sequence, position, s, next_delta);
            Part::fetch(in.z, sequence, position, s, next_z);
            Part::fetch_entries(in.b, sequence, position, s, next_b);
            Part::fetch_entries(in.c, sequence, position, s, next_c);
        };
        fetch(0);
        for (int segment = 0; segment < segments; ++segment) {
            float u[CELLS], z[CELLS];
#pragma unroll
            for (int i = 0; i < CELLS; ++i) {
                const int row = above + i * (THREADS / CHANNELS);
                const float step = segment * SEGMENT + row < s.t ? softplus(load(&next_delta[i])) : 0.0f;
                u[i] = load(&next_u[i]);
                z[i] = load(&next_z[i]);
                delta[row][column] = step;
                drive[row][column] = step * u[i];
            }
            Part::put_entries(next_b, b, s);
            Part::put_entries(next_c, c, s);
            __syncthreads();
            if (segment + 1 < segments) fetch((segment + 1) * SEGMENT);
            if (segment > 0)
                store_state(borders + ((size_t)sequence * (segments - 1) + segment - 1) * size, channel, first, s, h);
#pragma unroll 4
            for (int row = 0; row < SEGMENT; ++row) {
                const float step = delta[row][place], drives = drive[row][place];
                const float4 bs = load4(&b[row][first]), cs = load4(&c[row][first]);
                const float to[OWN] = {bs.x, bs.y, bs.z, bs.w}, from[OWN] = {cs.x, cs.y, cs.z, cs.w};
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < OWN; ++i) {
                    h[i] = fmaf(power_of_two(step * a[i]), h[i], drives * to[i]);
                    sum = fmaf(h[i], from[i], sum);
                }
                out[row][threadIdx.x] = sum;
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < CELLS; ++i) {
                const int row = above + i * (THREADS / CHANNELS), position = segment * SEGMENT + row;
                if (position < s.t && cell_channel < s.d)
                    store(y + ((size_t)sequence * s.t + position) * s.d + cell_channel,
                          fmaf(skip, u[i], channel_sum<G>(out[row], column)) * z[i] * sigmoid<T>(z[i]));
            }
        }
        store_state(end + sequence * size, channel, first, s, h);
    }
}

// Each block writes its sums for d_a_log and d_d to `d_a` (gridDim.y, d, N) and `d_skip`
// (gridDim.y, d), and its sums for B and C to `partial` (gridDim.x, n t, 2N). `d_begin` may be
// null.
template <typename T, int G>
__device__ __forceinline__ void selective_scan_backward(const Inputs<T>& in, const Rows<T>& dy, const float* a_log,
                                                        const float* d, const float* begin, long long begin_sequence,
                                                        const float* borders, const float* d_end, T* d_u, T* d_delta, T* d_z,
                                                        float* d_begin, float* d_a, float* d_skip, float* partial,
                                                        const Sizes& s) {
    using Part = Segment<G>;
    constexpr int CHANNELS = Part::CHANNELS, STATES = Part::STATES, CELLS = Part::CELLS, PAIRS = Part::PAIRS;
    // h before each position, (SEGMENT, THREADS); the warps' sums for B and C; b, c; numbers per
    // thread; rows of channels
    extern __shared__ __align__(16) float shared[];
    using States = float[STATES];
    using Channels = float[CHANNELS];
    using Shares = float[THREADS];
    float4* const history = reinterpret_cast<float4*>(shared);
    auto* const sums = reinterpret_cast<float (*)[WARPS][2 * STATES]>(history + SEGMENT * THREADS);
    States* const b = reinterpret_cast<States*>(sums + SEGMENT);
    States* const c = b + SEGMENT;
    Shares* const out = reinterpret_cast<Shares*>(c + SEGMENT);
    Shares* const d_drive = out + SEGMENT;
    Shares* const d_step = d_drive + SEGMENT;
    Channels* const delta = reinterpret_cast<Channels*>(d_step + SEGMENT);
    Channels* const drive = delta + SEGMENT;
    Channels* const gated = drive + SEGMENT;
    const int place = threadIdx.x / G, first = threadIdx.x % G * OWN, channel = blockIdx.x * CHANNELS + place;
    const int column = threadIdx.x % CHANNELS, above = threadIdx.x / CHANNELS, cell_channel = blockIdx.x * CHANNELS + column;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int segments = (s.t + SEGMENT - 1) / SEGMENT;
    const size_t size = (size_t)s.d * s.state;
    const float skip = cell_channel < s.d ? d[cell_channel] : 0.0f;
    float a[OWN], sum_a[OWN] = {}, sum_skip = 0.0f;
    load_state(a_log, channel, first, s, a);
#pragma unroll
    for (int i = 0; i < OWN; ++i) a[i] = -expf(a[i]);

    for (int sequence = blockIdx.y; sequence < s.n; sequence += gridDim.y) {
        float dh[OWN] = {};
        T next_u[CELLS], next_delta[CELLS], next_z[CELLS], next_dy[CELLS], next_b[PAIRS], next_c[PAIRS];
        if (d_end) load_state(d_end + sequence * size, channel, first, s, dh);
        auto fetch = [&](int position) {
            Part::fetch(in.u, sequence, position, s, next_u);
            Part::fetch(in.delta, sequence, position, s, next_delta);
            Part::fetch(in.z, sequence, position, s, next_z);
            Part::fetch(dy, sequence, position, s, next_dy);
            Part::fetch_entries(in.b, sequence, position, s, next_b);
            Part::fetch_entries(in.c, sequence, position, s, next_c);
        };
        fetch((segments - 1) * SEGMENT);
        for (int segment = segments - 1; segment >= 0; --segment) {
            float u[CELLS], z[CELLS], g[CELLS];
#pragma unroll
            for (int i = 0; i < CELLS; ++i) {
                const int row = above + i * (THREADS / CHANNELS);
                const bool there = segment * SEGMENT + row < s.t && cell_channel < s.d;
                const float step = there ? softplus(load(&next_delta[i])) : 0.0f;
                u[i] = load(&next_u[i]);
                z[i] = load(&next_z[i]);
                g[i] = there ? load(&next_dy[i]) : 0.0f;
                delta[row][column] = step;
                drive[row][column] = step * u[i];
                gated[row][column] = g[i] * z[i] * sigmoid<T>(z[i]);
            }
            Part::put_entries(next_b, b, s);
            Part::put_entries(next_c, c, s);
            float h[OWN] = {};
            if (segment > 0)
                load_state(borders + ((size_t)sequence * (segments - 1) + segment - 1) * size, channel, first, s, h);
            else if (begin)
                load_state(begin + sequence * begin_sequence, channel, first, s, h);
            __syncthreads();
            if (segment > 0) fetch((segment - 1) * SEGMENT);
#pragma unroll 4
            for (int row = 0; row < SEGMENT; ++row) {
                const float step = delta[row][place], drives = drive[row][place];
                const float4 bs = load4(&b[row][first]), cs = load4(&c[row][first]);
                const float to[OWN] = {bs.x, bs.y, bs.z, bs.w}, from[OWN] = {cs.x, cs.y, cs.z, cs.w};
                float sum = 0.0f;
                history[row * THREADS + threadIdx.x] = make_float4(h[0], h[1], h[2], h[3]);
#pragma unroll
                for (int i = 0; i < OWN; ++i) {
                    h[i] = fmaf(power_of_two(step * (a[i] * LOG2_E)), h[i], drives * to[i]);
                    sum = fmaf(h[i], from[i], sum);
                }
                out[row][threadIdx.x] = sum;
            }
#pragma unroll 2
            for (int row = SEGMENT - 1; row >= 0; --row) {
                const float step = delta[row][place], drives = drive[row][place], gate = gated[row][place];
                const float4 bs = load4(&b[row][first]), cs = load4(&c[row][first]), hs = history[row * THREADS + threadIdx.x];
                const float to[OWN] = {bs.x, bs.y, bs.z, bs.w}, from[OWN] = {cs.x, cs.y, cs.z, cs.w};
                const float before[OWN] = {hs.x, hs.y, hs.z, hs.w};
                float v[2 * OWN], through_drive = 0.0f, through_step = 0.0f; // v: gradients of B, then of C
#pragma unroll
                for (int i = 0; i < OWN; ++i) {
                    const float left = power_of_two(step * (a[i] * LOG2_E)), gradient = fmaf(gate, from[i], dh[i]);
                    v[OWN + i] = gate * fmaf(left, before[i], drives * to[i]);
                    v[i] = gradient * drives;
                    through_drive = fmaf(gradient, to[i], through_drive);
                    dh[i] = gradient * left;
                    const float through_decay = dh[i] * before[i];
                    through_step = fmaf(through_decay, a[i], through_step);
                    sum_a[i] = fmaf(through_decay, step, sum_a[i]);
                }
                d_drive[row][threadIdx.x] = through_drive;
                d_step[row][threadIdx.x] = through_step;
                // sum over the warp's channels: at each step a lane passes on half of its sums and
                // keeps the other half
                int index = 0;
#pragma unroll
                for (int mask = 16, half = OWN; mask >= G; mask >>= 1, half >>= 1) {
                    const bool upper = lane & mask;
                    if (upper) index += half;
#pragma unroll
                    for (int i = 0; i < half; ++i) {
                        const float given = upper ? v[i] : v[i + half], kept = upper ? v[i + half] : v[i];
                        v[i] = kept + __shfl_xor_sync(0xffffffffu, given, mask);
                    }
                }
#pragma unroll
                for (int i = 0; i < 2 * OWN * G / 32; ++i)
                    sums[row][warp][(index + i) / OWN * STATES + first + (index + i) % OWN] = v[i];
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < CELLS; ++i) {
                const int row = above + i * (THREADS / CHANNELS), position = segment * SEGMENT + row;
                if (position >= s.t || cell_channel >= s.d) continue;
                const size_t at = ((size_t)sequence * s.t + position) * s.d + cell_channel;
                const float sg = sigmoid<T>(z[i]), step = delta[row][column], gate = gated[row][column];
                const float through_drive = channel_sum<G>(d_drive[row], column),
                            through_step = channel_sum<G>(d_step[row], column);
                const float y = fmaf(skip, u[i], channel_sum<G>(out[row], column));
                store(d_z + at, g[i] * y * sg * (1.0f + z[i] * (1.0f - sg)));
                store(d_u + at, fmaf(through_drive, step, skip * gate));
                // the derivative of softplus is 1 - exp(-Δ)
                store(d_delta + at, fmaf(through_drive, u[i], through_step) * -expm1f(-step));
                sum_skip = fmaf(gate, u[i], sum_skip);
            }
            for (int i = threadIdx.x; i < SEGMENT * 2 * STATES; i += THREADS) {
                const int row = i / (2 * STATES), entry = i % (2 * STATES), n = entry % STATES,
                          position = segment * SEGMENT + row;
                if (position >= s.t || n >= s.state) continue;
                float total = 0.0f;
#pragma unroll
                for (int w = 0; w < WARPS; ++w) total += sums[row][w][entry];
                partial[(((size_t)blockIdx.x * s.n + sequence) * s.t + position) * 2 * s.state + entry / STATES * s.state + n] =
                    total;
            }
            __syncthreads();
        }
        if (d_begin) store_state(d_begin + sequence * size, channel, first, s, dh);
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) sum_a[i] *= a[i]; // A = -exp(a_log) is its own derivative
    store_state(d_a + blockIdx.y * size, channel, first, s, sum_a);
    delta[above][column] = sum_skip;
    __syncthreads();
    if (above > 0 || cell_channel >= s.d) return;
    float total = 0.0f;
#pragma unroll
    for (int row = 0; row < THREADS / CHANNELS; ++row) total += delta[row][column];
    d_skip[(size_t)blockIdx.y * s.d + cell_channel] = total;
}

// d_b and d_c (rows, N): the sums over the blocks of `partial` (blocks, rows, 2N).
template <typename T>
__device__ __forceinline__ void selective_scan_fold(const float* partial, T* d_b, T* d_c, long long rows, int state,
                                                    int blocks) {
    const long long count = rows * 2 * state;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x) {
        float total = 0.0f;
#pragma unroll 8
        for (int block = 0; block < blocks; ++block) total += partial[block * count + i];
        const long long row = i / (2 * state);
        const int entry = i % (2 * state);
        store(entry < state ? d_b + row * state + entry : d_c + row * state + entry - state, total);
    }
}

#define ROWS(T, NAME) const T *NAME, long long NAME##_sequence, long long NAME##_row
#define AS_ROWS(NAME) {NAME, NAME##_sequence, NAME##_row}
#define INPUTS(T) ROWS(T, u), ROWS(T, delta), ROWS(T, z), ROWS(T, b), ROWS(T, c)
#define AS_INPUTS(T) \
    Inputs<T> { AS_ROWS(u), AS_ROWS(delta), AS_ROWS(z), AS_ROWS(b), AS_ROWS(c) }

#define EXPORT(T, TYPE, G) \
    extern "C" __global__ void __launch_bounds__(THREADS) selective_scan_forward##G##_##TYPE( \
        INPUTS(T), const float* a_log, const float* d, const float* begin, long long begin_sequence, T* y, float* borders, \
        float* end, int n, int t, int channels, int state) { \
        selective_scan_forward<T, G>(AS_INPUTS(T), a_log, d, begin, begin_sequence, y, borders, end, \
                                     Sizes{n, t, channels, state}); \
    } \
    extern "C" __global__ void __launch_bounds__(THREADS) selective_scan_backward##G##_##TYPE( \
        INPUTS(T), ROWS(T, dy), const float* a_log, const float* d, const float* begin, long long begin_sequence, \
        const float* borders, const float* d_end, T* d_u, T* d_delta, T* d_z, float* d_begin, float* d_a, float* d_skip, \
        float* partial, int n, int t, int channels, int state) { \
        selective_scan_backward<T, G>(AS_INPUTS(T), Rows<T> AS_ROWS(dy), a_log, d, begin, begin_sequence, borders, d_end, d_u, \
                                      d_delta, d_z, d_begin, d_a, d_skip, partial, Sizes{n, t, channels, state}); \
    }
EXPORT(float, f32, 4)
EXPORT(float, f32, 16)
EXPORT(bf16, bf16, 4)
EXPORT(bf16, bf16, 16)

extern "C" __global__ void selective_scan_fold_f32(const float* partial, float* d_b, float* d_c, long long rows, int state,
                                                   int blocks) {
    selective_scan_fold(partial, d_b, d_c, rows, state, blocks);
}
extern "C" __global__ void selective_scan_fold_bf16(const float* partial, bf16* d_b, bf16* d_c, long long rows, int state,
                                                    int blocks) {
    selective_scan_fold(partial, d_b, d_c, rows, state, blocks);
}
