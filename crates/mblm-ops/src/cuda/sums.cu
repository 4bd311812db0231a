// Sums into buffers: of the rows of a matrix, and of two tensors.

#include "common.cuh"

// sum[j] += Σ_i x[i][j] for x (rows, d): a block takes 8 columns; its 64 lines of threads take rows
// in turns, several at once.
template <typename T>
__device__ __forceinline__ void add_columns(const T* x, float* sum, int rows, int d) {
    constexpr int LINES = 64, AT_ONCE = 8;
    __shared__ float parts[LINES][8];
    const int line = threadIdx.y, column = blockIdx.x * 8 + threadIdx.x;
    float v = 0.0f;
    if (column < d) {
        for (int first = line; first < rows; first += LINES * AT_ONCE) {
            float next[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const int row = first + i * LINES;
                next[i] = row < rows ? load(x + (size_t)row * d + column) : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) v += next[i];
        }
    }
    parts[line][threadIdx.x] = v;
    for (int half = LINES / 2; half > 0; half /= 2) {
        __syncthreads();
        if (line < half) parts[line][threadIdx.x] += parts[line + half][threadIdx.x];
    }
    if (line == 0 && column < d) sum[column] += parts[0][threadIdx.x];
}

// The same for few rows: one thread per column.
template <typename T>
__device__ __forceinline__ void add_few_rows(const T* x, float* sum, int rows, int d) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    float v = 0.0f;
    for (int row = 0; row < rows; ++row) v += load(x + (size_t)row * d + column);
    sum[column] += v;
}

// partial[y][j] = Σ x[i][j] over the rows i of block y; rows are `stride` apart.
template <typename T, int V>
__device__ __forceinline__ void column_parts(const T* x, float* partial, int rows, int d, int stride, int per_block) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (column >= d) return;
    float sum[V] = {};
    const int first = blockIdx.y * per_block, last = min(rows, first + per_block);
    for (int row = first; row < last; ++row) {
        float v[V];
        load_v<V>(x + (size_t)row * stride + column, v);
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] += v[i];
    }
    store_v<V>(partial + (size_t)blockIdx.y * d + column, sum);
}

// sum[i] += x[i]
template <typename T>
__device__ __forceinline__ void add_to(const T* x, float* sum, long long count) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x)
        sum[i] += load(x + i);
}

extern "C" __global__ void add_columns_f32(const float* x, float* sum, int rows, int d) { add_columns(x, sum, rows, d); }
extern "C" __global__ void add_columns_bf16(const bf16* x, float* sum, int rows, int d) { add_columns(x, sum, rows, d); }
extern "C" __global__ void add_few_rows_f32(const float* x, float* sum, int rows, int d) { add_few_rows(x, sum, rows, d); }
extern "C" __global__ void add_few_rows_bf16(const bf16* x, float* sum, int rows, int d) { add_few_rows(x, sum, rows, d); }
extern "C" __global__ void add_to_f32(const float* x, float* sum, long long count) { add_to(x, sum, count); }
extern "C" __global__ void add_to_bf16(const bf16* x, float* sum, long long count) { add_to(x, sum, count); }

EXPORT_WIDTHS(column_parts, LIST(const float* x, float* partial, int rows, int d, int stride, int per_block),
              LIST(const bf16* x, float* partial, int rows, int d, int stride, int per_block),
              (x, partial, rows, d, stride, per_block))
